"""Prompts for self-distillation, as lines of `foreword batch`: forms of requests crossed with subjects, all our own; with
`--text` half of them ask about passages of a text instead, of which only the first `--share` is used, as in `corpus.py`."""
import argparse
import itertools
import json
import pathlib
import random

FORMS = [
    "Explain {} to a ten-year-old.", "Write a detailed article about {}.", "Tell a story in which {} matters.",
    "What are the most common misunderstandings about {}?", "Compare {} with {}.", "Give the history of {} in five paragraphs.",
    "Write a letter to a friend about {}.", "List ten facts about {} and explain each.", "How would somebody learn about {} step by step?",
    "Write a dialogue between a teacher and a student about {}.", "What is the relation between {} and {}?",
    "Summarise what everybody should know about {}.", "Describe a day in the life of somebody who works with {}.",
    "What are the advantages and disadvantages of {}?", "Write a newspaper report about {}.", "Write an encyclopedia entry on {}.",
    "Write a poem about {}, then explain it.", "Draft a lecture on {}, with examples.", "What questions about {} are still open?",
    "Write a product description and three reviews that involve {}.", "Plan a small project about {}, with steps and costs.",
]
PASSAGES = [
    "Summarize: {}", "{}\n\nSummarize the text above in three sentences.", "Read this and list the main points.\n\n{}",
    "{}\n\nWho and what is this text about? Answer in full sentences.", "Translate into German: {}", "Translate to French: {}",
    "Use the passage to write three questions and answer them.\n\nPassage: {}", "Rewrite this for children: {}",
    "Given the following paragraphs, say what happened and when.\n\n{}", "Extract all names and places from this text:\n{}",
    "Continue this text: {}", "Correct and improve the style of the following: {}",
]
SUBJECTS = """the water cycle;medieval castles;bread baking;the French Revolution;black holes;bicycle repair;the violin;coral reefs;photosynthesis
the Roman army;chess openings;the stock market;earthquakes;the human heart;tea;volcanoes;sailing ships;the printing press;honey bees
electric cars;mountain climbing;Shakespeare's plays;the Moon landing;vaccines;sorting algorithms;the Python programming language;rivers of Africa
the silk road;jazz;football;glaciers;clocks;democracy;the Industrial Revolution;dinosaurs;nutrition;architecture of bridges;railways;the Vikings
programming with loops;databases;the English Civil War;hurricanes;antibiotics;gardens;photography;ancient Egypt;the piano;television series
video games;submarines;the Second World War;film directors;horses;the Great Wall;rock bands;cathedrals;genetics;cricket;state highways;battleships
fractions;probability;the solar system;migration of birds;desert plants;cheese;the Olympic Games;lighthouses;poetry;the law of contracts
mushrooms;whales;steam engines;insurance;negotiation;sleep;maps;languages of Asia;opera;comic books;cyclones;hockey teams;island nations
optical telescopes;recipes with rice;unit testing;web pages;spreadsheets;tax;job interviews;public speaking;memory;emotions;dogs;cats;forests
wind power;nuclear energy;recycling;space probes;robots;ethics;the Renaissance;impressionism;pottery;knots;fishing;airports;the postal service""".replace("\n", ";").split(";")

def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--n", type=int, default=400)
    args.add_argument("--max-tokens", type=int, default=420)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--text", help="passages")
    args.add_argument("--share", type=float, default=0.5)
    args = args.parse_args()
    draw = random.Random(args.seed)
    text = pathlib.Path(args.text).read_text() if args.text else ""
    paragraphs = [p.strip() for p in text[: int(len(text) * args.share)].split("\n") if len(p) > 300]
    pairs = list(itertools.product(FORMS, SUBJECTS))
    draw.shuffle(pairs)
    for i, (form, subject) in enumerate(pairs[: args.n]):
        other = draw.choice(SUBJECTS)
        text = form.replace("{}", subject, 1).replace("{}", other, 1)
        if paragraphs and i % 2:
            first, n = draw.randrange(len(paragraphs)), draw.randint(1, 3)
            text = draw.choice(PASSAGES).format("\n".join(paragraphs[first : first + n]))
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": args.max_tokens,
                "temperature": draw.choice([0.3, 0.7, 1.0]), "seed": i}
        print(json.dumps({"custom_id": f"{args.seed}-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}))

if __name__ == "__main__":
    main()

"""Prompts for self-distillation, as lines of `foreword batch`: forms of requests crossed with subjects, all our own."""
import argparse
import itertools
import json
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
    args = args.parse_args()
    draw = random.Random(args.seed)
    pairs = list(itertools.product(FORMS, SUBJECTS))
    draw.shuffle(pairs)
    for i, (form, subject) in enumerate(pairs[: args.n]):
        other = draw.choice(SUBJECTS)
        text = form.replace("{}", subject, 1).replace("{}", other, 1)
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": args.max_tokens,
                "temperature": draw.choice([0.3, 0.7, 1.0]), "seed": i}
        print(json.dumps({"custom_id": f"{args.seed}-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}))

if __name__ == "__main__":
    main()

"""Texts to training tokens: `tokens.npy`, documents behind each other, in a random order of pieces.

Dialogues are the base's own answers (`prompts.py`, `foreword batch`); texts are files of `--text` (only their first `--share`,
so that the rest can be used to evaluate) and JSON lines with `question` and `answer` or `prompt` and `canonical_solution`. Give
every data set of the evaluation as `--exclude`: problems that stand there too are left out (Spec-Bench has some of GSM8K's).
"""
import argparse
import json
import pathlib
import random
import subprocess

import numpy as np

TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def dialogues(prompts, answers):
    asked = {}
    for line in map(json.loads, open(prompts)):
        asked[line["custom_id"]] = line["body"]["messages"][-1]["content"]
    for line in map(json.loads, open(answers)):
        reply = line.get("response", {}).get("body", {}).get("choices")
        if reply:
            yield SYSTEM + TURN.format(asked[line["custom_id"]], reply[0]["message"]["content"])


def plain(text):
    return " ".join(text.split())


def strings(value):
    """All strings of a JSON value, without differences in spaces."""
    if isinstance(value, str):
        yield plain(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from strings(inner)


def pieces(path, share, excluded):
    text = pathlib.Path(path).read_text()
    if path.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines()]
        asked = lambda r: plain(r.get("question") or r["prompt"])
        rows = [r for r in rows if not any(asked(r) in other or other in asked(r) for other in excluded)]
        for i in range(0, len(rows), 6):
            both = lambda r: (r.get("question") or r["prompt"]) + "\n" + (r.get("answer") or r["canonical_solution"])
            yield "\n\n".join(both(r) for r in rows[i : i + 6])
        return
    text = text[: int(len(text) * share)]
    for i in range(0, len(text), 8000):
        yield text[i : i + 8000]


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--foreword", default="foreword")
    args.add_argument("--model", default="smollm2-135m")
    args.add_argument("--dialogues", nargs=2, action="append", default=[], metavar=("PROMPTS", "ANSWERS"))
    args.add_argument("--text", action="append", default=[])
    args.add_argument("--share", type=float, default=0.5)
    args.add_argument("--exclude", action="append", default=[], help="JSON lines that are used to evaluate")
    args.add_argument("--out", default="tokens.npy")
    args = args.parse_args()
    lines = (json.loads(line) for path in args.exclude for line in open(path))
    excluded = [s for line in lines for s in strings(line) if len(s) > 40]
    documents = [d for pair in args.dialogues for d in dialogues(*pair)]
    for path in args.text:
        documents += pieces(path, args.share, excluded)
    random.Random(1).shuffle(documents)
    command = [args.foreword, "tokenize", args.model, "--parse-special", "--json"]
    out = subprocess.run(command, input="\n".join(documents), capture_output=True, text=True, check=True).stdout
    tokens = json.loads(out)
    tokens = tokens["tokens"] if isinstance(tokens, dict) else tokens
    ids = [t["id"] if isinstance(t, dict) else t for t in tokens]
    np.save(args.out, np.array(ids, dtype=np.int32))
    print(len(documents), "documents,", len(ids), "tokens")


if __name__ == "__main__":
    main()

"""Answers that go in circles, with the settings of a chat and without what they do against it.

    python3 tests/bench/circles.py smollm2-135m --dataset spec-bench.jsonl [--chats 40] [--foreword target/release/foreword]

Chats with the first turns of some lines, spread over the file, are written twice by `foreword batch`: as a chat is, and without DRY and
the end at repetition. An answer goes in circles where a run of twelve words is in it three times. Prints how many do, how many end for
that reason, and the mean log-probability of a token under the model.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import tempfile


def in_circles(text):
    words = text.split()
    return max(collections.Counter(tuple(words[i : i + 12]) for i in range(len(words) - 11)).values(), default=0) >= 3


def answers(args, prompts, fields):
    with tempfile.TemporaryDirectory() as folder:
        asked, out = pathlib.Path(folder, "asked.jsonl"), pathlib.Path(folder, "out.jsonl")
        with asked.open("w") as file:
            for i, prompt in enumerate(prompts):
                sampling = {"temperature": 0.2, "top_p": 0.9, "seed": i, "max_tokens": args.max_tokens, "logprobs": True}
                body = {"messages": [{"role": "user", "content": prompt}], **sampling, **fields}
                print(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body}), file=file)
        command = [args.foreword, "batch", args.model, asked, "-o", out, "--threads", str(args.threads)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for line in out.read_text().splitlines():
            yield json.loads(line)["response"]["body"]["choices"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--foreword", default="target/release/foreword")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--chats", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with open(args.dataset) as lines:
        prompts = [json.loads(line)["turns"][0] for line in lines]
    prompts = prompts[:: max(1, len(prompts) // args.chats)][: args.chats]
    for name, fields in (("as chats are", {}), ("without", {"dry_multiplier": 0, "stop_at_repetition": False})):
        choices = list(answers(args, prompts, fields))
        circles = sum(in_circles(choice["message"]["content"]) for choice in choices)
        ended = sum(choice.get("stop_reason") == "repetition" for choice in choices)
        tokens = [token["logprob"] for choice in choices for token in choice["logprobs"]["content"]]
        print(f"{name}: {circles} of {len(choices)} answers go in circles, {ended} ended for that; "
              f"{sum(tokens) / len(tokens):.3f} nats a token over {len(tokens)} tokens")


if __name__ == "__main__":
    main()

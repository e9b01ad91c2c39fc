"""Checks the forward of `base.py` against reference log-probabilities (a line: prompt_tokens, steps with id and top)."""
import argparse
import json

import torch

from base import Base


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("golden")
    args.add_argument("--lines", type=int, default=6)
    args = args.parse_args()
    base, worst = Base(args.model), 0.0
    for line in open(args.golden).read().splitlines()[: args.lines]:
        line = json.loads(line)
        tokens = line["prompt_tokens"] + [s["id"] for s in line["steps"]]
        x, _, _ = base.run(torch.tensor(tokens))
        logp = base.logits(x).log_softmax(-1)
        at = len(line["prompt_tokens"]) - 1
        diffs = [abs(float(logp[at + i, s["id"]]) - s["logprob"]) for i, s in enumerate(line["steps"])]
        worst = max(worst, max(diffs))
        print(f"mean {sum(diffs) / len(diffs):.4f}  worst {max(diffs):.4f}  {line['prompt'][:50]!r}")
    print("fingerprints", *(f"{f:016x}" for f in base.fingerprints()))
    assert worst < 0.5, "the forward differs from the reference"


if __name__ == "__main__":
    main()

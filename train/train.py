"""End-to-end training of the maps: the base's own distribution is the target (KL), through the predicted cache as the run time uses
it. Begins with the maps of `--maps` and keeps its state in `--out`; where that file is there it goes on from it. Runs for `--minutes`
or to the end of the schedule. Every step appends a line to `--log`. What `export.py` takes is the running mean of the weights.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch

from base import Base
from cache import TAIL, Maps, predicted

BLOCK = 96  # tail and answer of one prompt length


def step_loss(base, maps, tokens, start):
    """KL a token, over several prompt lengths of one text at once. The tail itself counts a quarter."""
    x, behind, kvs = base.run(tokens, [maps.depth])
    starts = range(start, len(tokens) - BLOCK + 1, BLOCK)
    end = starts[-1] + BLOCK
    rows, h = predicted(base, maps, behind[maps.depth], starts, end)
    asked = rows >= starts[0]
    rows, h = rows[asked], h[asked]
    with torch.no_grad():
        target = base.logits(x[rows]).float().log_softmax(-1)
    kl = (target.exp() * (target - base.logits(h).float().log_softmax(-1))).sum(-1)
    weight = torch.where((rows - start) % BLOCK < TAIL, 0.25, 1.0)
    answer = weight == 1
    consistency = kv_distance(base, maps, behind[maps.depth], kvs)
    return (kl * weight).sum() / weight.sum(), kl[answer].mean().item(), consistency


def kv_distance(base, maps, x, kvs):
    """L1 distance of predicted and true keys and values, relative to the true ones (the paper's consistency loss)."""
    guess = maps(base, x[4:])
    true = torch.stack([torch.stack(kvs[layer], 1) for layer in range(maps.depth, base.n_layers)], 1)[4:]
    size = true.abs().mean((0, 3), keepdim=True) + 1e-6
    return ((guess - true).abs() / size).mean()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("--maps", default="maps-4.pt", help="where to begin: of fit.py, or of an earlier run")
    args.add_argument("--out", default="trained-4.pt")
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--log", default="train.jsonl")
    args.add_argument("--minutes", type=float, default=4.5)
    args.add_argument("--rate", type=float, default=3e-4)
    args.add_argument("--steps", type=int, default=400, help="length of the whole schedule (warm-up, then cosine to zero)")
    args.add_argument("--texts", type=int, default=4, help="a step")
    args.add_argument("--length", type=int, default=576)
    args.add_argument("--consistency", type=float, default=0.02)
    args = args.parse_args()
    torch.set_num_threads(2)
    base = Base(args.model)
    base.to_bf16()
    tokens = torch.from_numpy(np.load(args.tokens)).long()
    state = torch.load(args.out if os.path.exists(args.out) else args.maps)
    maps = Maps(base, state["depth"])
    maps.load_state_dict(state["maps"])
    adam = torch.optim.Adam(maps.parameters(), lr=args.rate, betas=(0.9, 0.98))
    if "adam" in state:
        adam.load_state_dict(state["adam"])
    begun, step = time.time(), state["step"]
    first = state.get("first", step)
    mean = {k: v.clone() for k, v in state.get("mean", state["maps"]).items()}

    def save():
        whole = {"depth": maps.depth, "maps": maps.state_dict(), "mean": mean, "adam": adam.state_dict(), "step": step, "first": first}
        torch.save(whole, args.out + ".part")
        os.replace(args.out + ".part", args.out)

    while step < args.steps and time.time() - begun < args.minutes * 60:
        draw = np.random.default_rng(step)
        for group in adam.param_groups:
            group["lr"] = args.rate * min(1, (step - first + 1) / 5) * (0.5 + 0.5 * math.cos(math.pi * (step - first) / (args.steps - first)))
        adam.zero_grad()
        kls, distances = [], []
        for _ in range(args.texts):
            at = int(draw.integers(len(tokens) - args.length))
            text, start = base.begun(tokens[at : at + args.length]), int(draw.integers(32, BLOCK + 1))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, kl, distance = step_loss(base, maps, text, start)
            ((loss + args.consistency * distance) / args.texts).backward()
            kls.append(kl)
            distances.append(distance.item())
        torch.nn.utils.clip_grad_norm_(maps.parameters(), 1.0)
        adam.step()
        step += 1
        keep = min(0.97, (step - first) / (step - first + 5))
        for k, v in maps.state_dict().items():
            mean[k].mul_(keep).add_(v, alpha=1 - keep)
        line = {"step": step, "kl": round(float(np.mean(kls)), 5), "distance": round(float(np.mean(distances)), 5)}
        with open(args.log, "a") as log:
            log.write(json.dumps(line | {"seconds": round(time.time() - begun, 1)}) + "\n")
        if step % 20 == 0:
            save()
    save()
    print("step", step)


if __name__ == "__main__":
    main()

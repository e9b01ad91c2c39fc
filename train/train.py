"""End-to-end training of the maps: the base's own distribution is the target (KL), through the predicted cache as the run time uses
it. Begins with the maps of `--maps` and keeps its state in `--out`; where that file is there it goes on from it. Runs for `--minutes`
or to the end of the schedule. Every step appends a line to `--log`. What `export.py` takes is the running mean of the weights.
Processes of `torch.distributed.run` share the texts of a step.

Matrices are trained with Muon (README.md has the comparison with Adam). The paper's consistency loss (`--consistency`) needs the true
keys and values, so the base runs once more for it.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import processes
from base import Base
from cache import BLOCK, SINKS, TAIL, Maps, predicted
from features import features, frequent, streams
from optimizer import Optimizer


def parted(n):
    """Numbers of texts not to be learnt but checked, every twentieth and at most 12, and of the others."""
    held = np.arange(0, n, 20)[:12]
    return held, np.setdiff1d(np.arange(n), held)


def log(path, line):
    if processes.RANK == 0:
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


def divergence(base, maps, head, x, last, start):
    """KL a token of the words that follow the prompts, over `head` (rows of the base's), and how often the first choice agrees."""
    h = predicted(base, maps, x, start)
    asked = torch.arange(len(h)) % BLOCK >= TAIL - 1
    with torch.no_grad():
        target = F.linear(base.rms(last[start : start + len(h)][asked], base.norm), head).log_softmax(-1)
    guess = F.linear(base.rms(h[asked], base.norm), head).log_softmax(-1)
    kl = (target.exp() * (target - guess)).sum(-1)
    return kl.mean(), (target.argmax(-1) == guess.argmax(-1)).float().mean()


def distance(base, maps, tokens):
    """L1 distance of predicted and true keys and values, relative to the true ones (the paper's consistency loss)."""
    _, behind, kvs = base.run(tokens, [maps.depth])
    guess = maps(base, behind[maps.depth])[SINKS:]
    true = torch.stack([torch.stack(kvs[layer], 1) for layer in range(maps.depth, base.n_layers)], 1)[SINKS:]
    return ((guess - true).abs() / (true.abs().mean((0, 3), keepdim=True) + 1e-6)).mean()


class Trainer:
    """The maps, their optimizer and running mean; all of it is kept in a file."""

    def __init__(self, base, state, rate, own):
        self.own = state.get("own", 0) or own
        self.maps = Maps(base, state["depth"], len(state["maps"]["gate"]), self.own)
        # Layers that are new are not in the state.
        self.maps.load_state_dict(self.maps.state_dict() | state["maps"])
        # A matrix each for the keys and the values of every layer, in the memory of the whole.
        self.parts = [torch.nn.Parameter(w) for w in self.maps.weight.data.split(base.kv_dim)]
        others = [w for w in self.maps.parameters() if w is not self.maps.weight]
        matrices, vectors = ([w for w in others if w.dim() == d] for d in (2, 1))
        self.optimizer = Optimizer(self.parts + matrices, vectors, rate)
        if "optimizer" in state and state.get("own", 0) == self.own:
            self.optimizer.load(state["optimizer"])
        self.step = state["step"]
        self.first = state.get("first", self.step)
        self.mean = {k: v.clone() for k, v in (self.maps.state_dict() | state.get("mean", state["maps"])).items()}

    def update(self, progress):
        processes.add(w.grad for w in self.maps.parameters() if w.grad is not None)
        for part, grad in zip(self.parts, self.maps.weight.grad.split(len(self.parts[0]))):
            part.grad = grad
        self.optimizer.step(self.step - self.first, progress)
        self.maps.weight.grad = None
        keep = min(0.97, (self.step - self.first) / (self.step - self.first + 5))
        self.step += 1
        for k, v in self.maps.state_dict().items():
            self.mean[k].mul_(keep).add_(v, alpha=1 - keep)

    def save(self, path):
        if processes.RANK != 0:
            return
        state = {"depth": self.maps.depth, "own": self.own, "step": self.step, "first": self.first}
        state |= {"maps": self.maps.state_dict(), "mean": self.mean}
        torch.save(state | {"optimizer": self.optimizer.state()}, path + ".part")
        os.replace(path + ".part", path)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("--maps", default="maps-3.pt", help="where to begin: of fit.py, or of an earlier run")
    args.add_argument("--out", default="trained-3.pt")
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--features", default="features-{}.npy")
    args.add_argument("--log", default="train.jsonl")
    args.add_argument("--minutes", type=float, default=60)
    args.add_argument("--rate", type=float, default=2.5e-4)
    args.add_argument("--steps", type=int, default=400, help="length of the whole schedule (warm-up, then cosine to zero)")
    args.add_argument("--texts", type=int, default=4, help="a step")
    args.add_argument("--own", type=int, default=0, choices=(0, 1), help="layers of the sidecar's own behind the trunk")
    args.add_argument("--vocabulary", type=int, default=8192, help="most frequent tokens, over which distributions are compared")
    args.add_argument("--consistency", type=float, default=0)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    processes.begin()
    base = Base(args.model)
    tokens = np.load(args.tokens)
    trainer = Trainer(base, torch.load(args.out if os.path.exists(args.out) else args.maps), args.rate, args.own)
    maps = trainer.maps
    data = features(base, tokens, maps.depth, args.features.format(maps.depth))
    head = base.head[frequent(tokens, args.vocabulary)].clone()
    held, learnt = parted(len(data))

    @torch.no_grad()
    def check():
        now = {k: v.clone() for k, v in maps.state_dict().items()}
        maps.load_state_dict(trainer.mean)
        both = torch.zeros(2)
        for i in processes.mine(held):
            both += torch.stack(divergence(base, maps, head, *(s[0] for s in streams(data, [i])), 64)) / len(held)
        processes.add([both])
        maps.load_state_dict(now)
        return {"held": round(both[0].item(), 4), "agreement": round(both[1].item(), 4)}

    begun = time.time()
    log(args.log, {"step": trainer.step} | check())
    late = torch.zeros(1)  # processes whose time is over, so that all end with the same step
    while trainer.step < args.steps and not late:
        draw, kl = np.random.default_rng(trainer.step), torch.zeros(1)
        texts, starts = draw.choice(learnt, args.texts, replace=False), draw.integers(TAIL, BLOCK + 1, args.texts)
        for i, start in processes.mine(list(zip(texts, starts))):
            x, last = (s[0] for s in streams(data, [i]))
            loss, _ = divergence(base, maps, head, x, last, int(start))
            kl += loss.item() / args.texts
            if args.consistency:
                width = data.shape[2] - len(base.bos)
                text = torch.from_numpy(tokens[i * width : (i + 1) * width]).long()
                loss = loss + args.consistency * distance(base, maps, base.begun(text))
            (loss / args.texts).backward()
        trainer.update((trainer.step - trainer.first) / (args.steps - trainer.first))
        late.fill_(time.time() - begun >= args.minutes * 60)
        processes.add([kl, late])
        line = {"step": trainer.step, "kl": round(kl.item(), 5), "seconds": round(time.time() - begun, 1)}
        if trainer.step % 20 == 0:
            line |= check()
            trainer.save(args.out)
        log(args.log, line)
    trainer.save(args.out)
    if processes.RANK == 0:
        print("step", trainer.step)


if __name__ == "__main__":
    main()

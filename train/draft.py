"""Training of the draft block: one decoder layer of its own behind the trunk, then the base's last norm and head over the most
frequent tokens. Distils the base's distribution. The base is frozen and its streams do not depend on the block, so they are
computed once (`--features`), and the block goes over them several times. Then the acceptance head (`accept.py`), on texts that
the block has not learnt. With `--from` an earlier block is trained on; the texts must be the same ones in the same order.
"""
import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F

from accept import Accept
from base import Base
from block import Block
from features import features, frequent, streams
from optimizer import Optimizer


def losses(base, block, head, data, rows):
    x, last = streams(data, rows)
    draft = F.linear(base.rms(block(base, x[:, -1]), base.norm), head)
    with torch.no_grad():
        target = F.linear(base.rms(last, base.norm), head).softmax(-1)
    kl = (target * (target.clamp(min=1e-9).log() - draft.log_softmax(-1))).sum(-1)
    # Among these tokens.
    return kl.mean(), (target.argmax(-1) == draft.argmax(-1)).float().mean().item()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("--trunk", type=int, default=3)
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--features", default="features-{}.npy")
    args.add_argument("--out", default="draft.pt")
    args.add_argument("--log", default="draft.jsonl")
    args.add_argument("--vocabulary", type=int, default=8192)
    args.add_argument("--init", type=int, help="layer to begin from; by default the best of all")
    args.add_argument("--from", dest="earlier", help="a block to begin from")
    args.add_argument("--steps", type=int, default=600)
    args.add_argument("--texts", type=int, default=8)
    args.add_argument("--rate", type=float, default=1e-3)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    base = Base(args.model)
    tokens = np.load(args.tokens)
    data = features(base, tokens, args.trunk, args.features.format(args.trunk))
    earlier = torch.load(args.earlier, weights_only=False) if args.earlier else None
    assert not earlier or earlier["trunk"] == args.trunk, "the earlier block is one of another trunk"
    ids = torch.from_numpy(earlier["ids"]) if earlier else frequent(tokens, args.vocabulary, special=17)
    head = base.head[ids].clone()
    held, unseen = np.arange(len(data))[::20], np.arange(len(data))[10::20]
    learnt = np.setdiff1d(np.arange(len(data)), np.concatenate([held, unseen]))
    print(len(tokens), "tokens; share in the vocabulary", np.isin(tokens, ids.numpy()).mean())

    def check(block):
        with torch.no_grad():
            both = [losses(base, block, head, data, held[i : i + 4]) for i in range(0, len(held), 4)]
        return [round(float(np.mean([b[i] for b in both])), 4) for i in (0, 1)]

    if args.init is None and not earlier:
        with torch.no_grad():
            tried = {layer: float(losses(base, Block(base, layer), head, data, held[:4])[0]) for layer in range(args.trunk, base.n_layers)}
        args.init = min(tried, key=tried.get)
        print("begins as layer", args.init, tried)
    block = Block(base, args.init or 0)
    if earlier:
        block.load_state_dict(earlier["block"])
    norms = [w for w in block.parameters() if w.dim() == 1]
    optimizer = Optimizer([w for w in block.parameters() if w.dim() == 2], norms, args.rate)
    begun, draw = time.time(), np.random.default_rng(1)
    save = lambda **more: torch.save({"trunk": args.trunk, "ids": ids.numpy(), "block": block.state_dict(), **more}, args.out)
    for step in range(args.steps):
        loss, agree = losses(base, block, head, data, np.sort(draw.choice(learnt, args.texts, replace=False)))
        loss.backward()
        optimizer.step(step, step / args.steps)
        line = {"step": step + 1, "kl": round(loss.item(), 4), "agreement": round(agree, 4), "seconds": round(time.time() - begun, 1)}
        if (step + 1) % 100 == 0:
            line["held"] = check(block)
            save()
        with open(args.log, "a") as log:
            log.write(json.dumps(line) + "\n")
    save()
    accept, judge = Accept(base, block, ids, data, unseen), Accept(base, block, ids, data, held)
    save(accept=accept.fit())
    print("guesses right:", judge.right.mean().item())
    print("cross entropy, area: by the guess's probability", judge.check(accept.fit(slice(-1, None))))
    print("with what the head reads", judge.check(accept.fit()))


if __name__ == "__main__":
    main()

"""Maps in closed form: ridge regression of the deeper layers' keys and values on the normed stream behind the trunk.

Sums are streamed, so any number of tokens fits in memory; several trunk depths share one pass of the base.
"""
import argparse

import numpy as np
import torch

from base import Base
from cache import Maps


def solve(xx, xy, ridge):
    """Weights `[out, in]` and biases of the regression whose inputs end with a one, from its sums."""
    penalty = ridge * xx.diagonal()[:-1].mean() * torch.eye(len(xx), dtype=torch.float64)
    penalty[-1, -1] = 0
    w = torch.linalg.solve(xx + penalty, xy).float()
    return w[:-1].T.contiguous(), w[-1].contiguous()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--n", type=int, default=40_000)
    args.add_argument("--depths", type=int, nargs="+", default=[4])
    args.add_argument("--ridge", type=float, default=1e-3)
    args.add_argument("--length", type=int, default=512)
    args.add_argument("--out", default="maps-{}.pt")
    args = args.parse_args()
    torch.set_num_threads(2)
    base = Base(args.model)
    tokens = torch.from_numpy(np.load(args.tokens)).long()
    sums = {}
    for d in args.depths:
        width = (base.n_layers - d) * 2 * base.kv_dim
        sums[d] = (torch.zeros(base.dim + 1, base.dim + 1, dtype=torch.float64), torch.zeros(base.dim + 1, width, dtype=torch.float64))
    for at in range(0, min(args.n, len(tokens)) - args.length, args.length):
        _, behind, kvs = base.run(base.begun(tokens[at : at + args.length]), args.depths)
        for d, (xx, xy) in sums.items():
            h = base.rms(behind[d], base.layers[d]["attn_norm"])[4:]  # sinks are outliers, and exact at run time
            h = torch.cat([h, torch.ones(len(h), 1)], 1)
            y = torch.cat([part for layer in range(d, base.n_layers) for part in kvs[layer]], 1)[4:]
            xx += (h.T @ h).double()
            xy += (h.T @ y).double()
    for d, (xx, xy) in sums.items():
        maps = Maps(base, d)
        maps.weight.data, maps.bias.data = solve(xx, xy, args.ridge)
        torch.save({"depth": d, "maps": maps.state_dict(), "step": 0}, args.out.format(d))
        print("depth", d, "tokens", int(xx[-1, -1]))


if __name__ == "__main__":
    main()

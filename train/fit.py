"""Maps in closed form: ridge regression of the deeper layers' keys and values on the normed streams of the trunk, then the part of
it of the wanted rank that leaves the least squares.

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


def narrowed(xx, w, width):
    """Factors `[width, in]` and `[out, width]` of the map nearest to `w` on the inputs. Each takes half of a direction's weight: so what
    matters little is small between them, and steps of training, which are as long in all directions, disturb it little."""
    mean = xx[:-1, -1] / xx[-1, -1]
    covariance = xx[:-1, :-1] / xx[-1, -1] - mean[:, None] * mean
    lower = torch.linalg.cholesky(covariance + 1e-6 * covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64))
    seen = w.double() @ lower
    weight, main = (t[..., -width:] for t in torch.linalg.eigh(seen.T @ seen))
    half = weight**0.25
    up, down = half[:, None] * torch.linalg.solve_triangular(lower, main.T, upper=False, left=False), seen @ main / half
    size = (down.square().mean() / up.square().mean()) ** 0.25
    return (up * size).float(), (down / size).float()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--n", type=int, default=160_000)
    args.add_argument("--depths", type=int, nargs="+", default=[4])
    args.add_argument("--width", type=int, default=256)
    args.add_argument("--ridge", type=float, default=1e-3)
    args.add_argument("--length", type=int, default=512)
    args.add_argument("--out", default="maps-{}.pt")
    args = args.parse_args()
    torch.set_num_threads(2)
    base = Base(args.model)
    # The last ones: the texts that training leaves out stand in front (in its first 130,000 tokens).
    tokens = torch.from_numpy(np.load(args.tokens)[-args.n :]).long()
    sums = {}
    for d in args.depths:
        width = (base.n_layers - d) * 2 * base.kv_dim
        rows = (d + 1) * base.dim + 1
        sums[d] = (torch.zeros(rows, rows, dtype=torch.float64), torch.zeros(rows, width, dtype=torch.float64))
    for at in range(0, len(tokens) - args.length + 1, args.length):
        _, behind, kvs = base.run(base.begun(tokens[at : at + args.length]), range(max(args.depths) + 1))
        for d, (xx, xy) in sums.items():
            h = [base.rms(behind[i], base.layers[i]["attn_norm"])[4:] for i in range(d + 1)]  # sinks are outliers, and exact at run time
            h = torch.cat([*h, torch.ones(len(h[0]), 1)], 1)
            y = torch.cat([part for layer in range(d, base.n_layers) for part in kvs[layer]], 1)[4:]
            xx += (h.T @ h).double()
            xy += (h.T @ y).double()
    for d, (xx, xy) in sums.items():
        maps = Maps(base, d, args.width)
        up, maps.weight.data = narrowed(xx, solve(xx, xy, args.ridge)[0], args.width)
        for part, values in zip(maps.up, up.split(base.dim, 1)):
            part.data = values.contiguous()
        mean, target = xx[-1, :-1] / xx[-1, -1], xy[-1] / xx[-1, -1]
        maps.bias.data = (target - maps.weight.double() @ (up.double() @ mean)).float()
        torch.save({"depth": d, "maps": maps.state_dict(), "step": 0}, args.out.format(d))
        print("depth", d, "tokens", int(xx[-1, -1]))


if __name__ == "__main__":
    main()

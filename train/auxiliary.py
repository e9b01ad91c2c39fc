"""An auxiliary model of the paper's form (KVP-LP): some layers of the base as a model of its own, with embeddings, last norm and
head, and maps from the keys (before rotation) and values of its layers to those of every base layer. One GGUF file, for the
comparisons of `foreword eval kv-prediction --auxiliary`.

The maps are fitted in closed form. Then layers and maps are trained for `--minutes`, as `train.py` trains a sidecar's maps and with
the paper's other loss beside it: the base's distribution is the target, through the predicted cache and of the auxiliary alone.
"""
import argparse
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F

from base import Base
from block import Block
from cache import BLOCK, TAIL
from features import features, frequent, streams
from fit import solve
from optimizer import Optimizer
from train import divergence, log, parted

PARTS = "attn_k", "attn_v"


class Auxiliary(torch.nn.Module):
    """To `cache.predicted` these are maps behind a trunk of no layers."""

    depth = 0

    def __init__(self, base, kept):
        super().__init__()
        self.kept = kept
        # For each layer of the base, the nearest one that was kept.
        self.sources = [min(range(len(kept)), key=lambda j: abs(kept[j] - i)) for i in range(base.n_layers)]
        self.layers = torch.nn.ModuleList(Block(base, i) for i in kept)
        zeros = lambda *shape: [torch.nn.Parameter(torch.zeros(shape)) for _ in range(2 * base.n_layers)]
        # Keys, then values, of every base layer.
        self.weights = torch.nn.ParameterList(zeros(base.kv_dim, base.kv_dim))
        self.biases = torch.nn.ParameterList(zeros(base.kv_dim))

    def read(self, base, x):
        """Of embeddings `[n, dim]` the last stream, and keys and values `[n, kv_dim]` of every layer."""
        kvs = []
        for layer in self.layers:
            h = base.rms(x, layer.weights["attn_norm"])
            kvs.append([F.linear(h, layer.weights[part]) for part in PARTS])
            x = layer(base, x[None])[0]
        return x, kvs

    def predictions(self, kvs):
        """`[n, layers, 2, kv_dim]`."""
        seen = [kvs[j][p] for j in self.sources for p in range(2)]
        rows = [F.linear(x, weight, bias) for x, weight, bias in zip(seen, self.weights, self.biases)]
        return torch.stack(rows, 1).unflatten(1, (-1, 2))

    def forward(self, base, x):
        return self.predictions(self.read(base, x[-1])[1])

    @torch.no_grad()
    def fit(self, base, tokens, length, ridge):
        """The maps in closed form: ridge regression by streaming sums."""
        width = base.kv_dim + 1
        zeros = lambda cols, n: [[torch.zeros(width, cols, dtype=torch.float64) for _ in PARTS] for _ in range(n)]
        xx, xy = zeros(width, len(self.kept)), zeros(base.kv_dim, base.n_layers)
        for at in range(0, len(tokens) - length, length):
            text = base.begun(tokens[at : at + length])
            true, seen = base.run(text)[2], self.read(base, base.embed[text] * base.embed_scale)[1]
            for p in range(2):
                rows = [torch.cat([kv[p][4:], torch.ones(len(text) - 4, 1)], 1) for kv in seen]
                for j, x in enumerate(rows):
                    xx[j][p] += (x.T @ x).double()
                for i, j in enumerate(self.sources):
                    xy[i][p] += (rows[j].T @ true[i][p][4:]).double()
        for at in range(2 * base.n_layers):
            i, p = divmod(at, 2)
            weight, bias = solve(xx[self.sources[i]][p], xy[i][p], ridge)
            self.weights[at].copy_(weight)
            self.biases[at].copy_(bias)


def train(base, auxiliary, tokens, args):
    """Appends a line a step to `args.log`."""
    data = features(base, tokens, 0, args.features.format(0))
    head = base.head[frequent(tokens, args.vocabulary)].clone()
    held, learnt = parted(len(data))
    weights = list(auxiliary.parameters())
    optimizer = Optimizer([w for w in weights if w.dim() == 2], [w for w in weights if w.dim() == 1], args.rate)

    def losses(row, start):
        x, last = (s[0] for s in streams(data, [row]))
        through, agreement = divergence(base, auxiliary, head, x, last, start)
        alone = F.linear(base.rms(auxiliary.read(base, x[-1])[0], base.norm), head).log_softmax(-1)
        with torch.no_grad():
            target = F.linear(base.rms(last, base.norm), head).log_softmax(-1)
        return through, (target.exp() * (target - alone)).sum(-1).mean(), agreement

    @torch.no_grad()
    def check():
        seen = [[v.item() for v in losses(i, 64)] for i in held]
        return dict(zip(["held", "alone", "agreement"], np.mean(seen, 0).round(4).tolist()))

    begun, step, spent = time.time(), 0, 0.0
    log(args.log, {"step": 0} | check())
    while spent < 1:
        draw, seen = np.random.default_rng(step), []
        for i in draw.choice(learnt, args.texts, replace=False):
            through, alone, _ = losses(i, int(draw.integers(TAIL, BLOCK + 1)))
            ((through + alone) / args.texts).backward()
            seen.append(through.item())
        # The length of the schedule is a time: what another form of prediction was given.
        spent = (time.time() - begun) / (60 * args.minutes)
        optimizer.step(step, min(1, spent))
        step += 1
        log(args.log, {"step": step, "kl": round(float(np.mean(seen)), 5)} | (check() if step % 20 == 0 or spent >= 1 else {}))


def write(path, base, model, auxiliary):
    """The base's file with fewer layers, whose matrices are half floats, and the maps."""
    kept = auxiliary.kept
    reader = gguf.GGUFReader(model)
    out = gguf.GGUFWriter(path, base.arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = len(kept) if field.name.endswith(".block_count") else field.contents()
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        out.add_key_value(field.name, value, field.types[0], sub_type=inner)
    out.add_array("foreword-auxiliary.sources", auxiliary.sources)
    for t in reader.tensors:
        if not t.name.startswith("blk."):
            out.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    floats = lambda value, ty=np.float32: np.ascontiguousarray(value.detach().numpy().astype(ty))
    for i, layer in enumerate(auxiliary.layers):
        for part, value in layer.weights.items():
            out.add_tensor(f"blk.{i}.{part}.weight", floats(value, np.float16 if value.dim() == 2 else np.float32))
    for at, (weight, bias) in enumerate(zip(auxiliary.weights, auxiliary.biases)):
        name = f"map.{at // 2}.{PARTS[at % 2]}"
        out.add_tensor(f"{name}.weight", floats(weight))
        out.add_tensor(f"{name}.bias", floats(bias))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("out")
    args.add_argument("--layers", type=int, nargs="+", required=True, help="of the base, ascending")
    args.add_argument("--tokens", default="tokens.npy")
    args.add_argument("--n", type=int, default=40_000, help="tokens that the maps are fitted to")
    args.add_argument("--length", type=int, default=512)
    args.add_argument("--ridge", type=float, default=1e-3)
    args.add_argument("--minutes", type=float, default=0, help="of training; 0: closed form only")
    args.add_argument("--features", default="features-{}.npy")
    args.add_argument("--log", default="auxiliary.jsonl")
    args.add_argument("--rate", type=float, default=1e-3)
    args.add_argument("--texts", type=int, default=4, help="a step")
    args.add_argument("--vocabulary", type=int, default=8192, help="most frequent tokens, over which distributions are compared")
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    base, tokens = Base(args.model), np.load(args.tokens)
    auxiliary = Auxiliary(base, args.layers)
    auxiliary.fit(base, torch.from_numpy(tokens[: args.n]).long(), args.length, args.ridge)
    if args.minutes:
        train(base, auxiliary, tokens, args)
    write(args.out, base, args.model, auxiliary)
    print("auxiliary of", len(args.layers), "layers")


if __name__ == "__main__":
    main()

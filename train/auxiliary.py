"""An auxiliary model of the paper's form (KVP-LP): some layers of the base as a model of its own, with embeddings, last norm and
head, and in closed form the maps from the keys (before rotation) and values of its layers to those of every base layer. One GGUF
file, for the comparisons of `foreword eval kv-prediction --auxiliary`. The auxiliary itself is not trained."""
import argparse

import gguf
import numpy as np
import torch

from base import Base


def sources(kept, n):
    """The auxiliary's layer for each layer of the base: the nearest one that was kept."""
    return [min(range(len(kept)), key=lambda j: abs(kept[j] - i)) for i in range(n)]


def fit(base, kept, tokens, n, length, ridge):
    """`[(source, [(weight, bias) of keys, of values])]` of every base layer."""
    own = Base.__new__(Base)
    own.__dict__.update(base.__dict__, layers=[base.layers[i] for i in kept], n_layers=len(kept))
    places, width = sources(kept, base.n_layers), base.kv_dim + 1
    zeros = lambda cols: torch.zeros(width, cols, dtype=torch.float64)
    xx = [[zeros(width) for _ in range(2)] for _ in kept]
    xy = [[zeros(base.kv_dim) for _ in range(2)] for _ in range(base.n_layers)]
    for at in range(0, min(n, len(tokens)) - length, length):
        text = base.begun(tokens[at : at + length])
        true, seen = base.run(text)[2], own.run(text)[2]
        rows = [[torch.cat([seen[j][p][4:], torch.ones(len(text) - 4, 1)], 1) for p in range(2)] for j in range(len(kept))]
        for p in range(2):
            for j in range(len(kept)):
                xx[j][p] += (rows[j][p].T @ rows[j][p]).double()
            for i, j in enumerate(places):
                xy[i][p] += (rows[j][p].T @ true[i][p][4:]).double()
    out = []
    for i, j in enumerate(places):
        maps = []
        for p in range(2):
            weight = ridge * xx[j][p].diagonal()[:-1].mean() * torch.eye(width, dtype=torch.float64)
            weight[-1, -1] = 0
            w = torch.linalg.solve(xx[j][p] + weight, xy[i][p]).float()
            maps.append((w[:-1].T.contiguous().numpy(), w[-1].contiguous().numpy()))
        out.append((j, maps))
    return out


def write(path, base, model, kept, maps):
    reader = gguf.GGUFReader(model)
    out = gguf.GGUFWriter(path, base.arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = len(kept) if field.name.endswith(".block_count") else field.contents()
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        out.add_key_value(field.name, value, field.types[0], sub_type=inner)
    out.add_array("foreword-auxiliary.sources", [j for j, _ in maps])
    for t in reader.tensors:
        name = t.name
        if name.startswith("blk."):
            layer, part = name[4:].split(".", 1)
            if int(layer) not in kept:
                continue
            name = f"blk.{kept.index(int(layer))}.{part}"
        out.add_tensor(name, t.data, raw_dtype=t.tensor_type)
    for i, (_, parts) in enumerate(maps):
        for part, (weight, bias) in zip(["attn_k", "attn_v"], parts):
            out.add_tensor(f"map.{i}.{part}.weight", np.ascontiguousarray(weight))
            out.add_tensor(f"map.{i}.{part}.bias", np.ascontiguousarray(bias))
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
    args.add_argument("--n", type=int, default=40_000)
    args.add_argument("--length", type=int, default=512)
    args.add_argument("--ridge", type=float, default=1e-3)
    args = args.parse_args()
    torch.set_num_threads(2)
    base = Base(args.model)
    tokens = torch.from_numpy(np.load(args.tokens)).long()
    maps = fit(base, args.layers, tokens, args.n, args.length, args.ridge)
    write(args.out, base, args.model, args.layers, maps)
    print("auxiliary of", len(args.layers), "layers")


if __name__ == "__main__":
    main()

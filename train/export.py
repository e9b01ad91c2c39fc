"""Writes the sidecar: a GGUF file, architecture `foreword-sidecar` (format in src/sidecar.rs)."""
import argparse

import gguf
import numpy as np
import torch

from base import Base


def quantized(out, name, matrix):
    data = gguf.quants.quantize(np.ascontiguousarray(matrix), gguf.GGMLQuantizationType.Q8_0)
    out.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def layer(out, prefix, weights):
    for part, value in weights.items():
        if value.ndim == 1:
            out.add_tensor(f"{prefix}.{part}.weight", value)
        else:
            quantized(out, f"{prefix}.{part}.weight", value)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("model")
    args.add_argument("maps")
    args.add_argument("out")
    args.add_argument("--draft", help="a draft block of the same trunk, of draft.py")
    args = args.parse_args()
    base, state = Base(args.model), torch.load(args.maps)
    depth, n = state["depth"], base.n_layers - state["depth"]
    maps = state.get("mean", state["maps"])
    weight = maps["weight"].view(n, 2, base.kv_dim, -1).numpy()
    bias = maps["bias"].view(n, 2, base.kv_dim).numpy()
    norms, tensors = base.fingerprints()
    out = gguf.GGUFWriter(args.out, "foreword-sidecar")
    out.add_name(f"{base.name}: KV prediction")
    out.add_uint32("foreword-sidecar.trunk_layers", depth)
    out.add_string("foreword-sidecar.base.norms", f"{norms:016x}")
    out.add_string("foreword-sidecar.base.tensors", f"{tensors:016x}")
    out.add_uint32("foreword-sidecar.training.steps", state["step"])
    quantized(out, "maps.gate.weight", maps["gate"].numpy())
    out.add_tensor("maps.gate.bias", maps["gate_bias"].numpy())
    for i in range(depth + 1):
        quantized(out, f"maps.up.{i}.weight", maps[f"up.{i}"].numpy())
    for i in range(n):
        for j, part in enumerate(["attn_k", "attn_v"]):
            name = f"blk.{depth + i}.{part}"
            quantized(out, f"{name}.weight", weight[i, j])
            out.add_tensor(f"{name}.bias", np.ascontiguousarray(bias[i, j], dtype=np.float32))
    if state.get("own", 0):
        out.add_uint32("foreword-sidecar.own_layers", 1)
        parts = {k.removeprefix("own.0.weights."): v.numpy() for k, v in maps.items() if k.startswith("own.")}
        layer(out, "own.0", parts)
    if args.draft:
        draft = torch.load(args.draft, weights_only=False)
        assert draft["trunk"] == depth, "the draft block is one of another trunk"
        out.add_uint32("foreword-sidecar.draft_layers", 1)
        out.add_array("foreword-sidecar.draft_tokens", [int(i) for i in draft["ids"]])
        layer(out, f"blk.{base.n_layers}", {k.removeprefix("weights."): v.numpy() for k, v in draft["block"].items()})
        if "accept" in draft:
            *weights, confidence, constant = draft["accept"].tolist()
            out.add_tensor("accept.weight", np.array([weights], dtype=np.float32))
            out.add_tensor("accept.bias", np.array([constant, confidence], dtype=np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main()

"""Writes the sidecar: a GGUF file, architecture `foreword-sidecar` (format in src/sidecar.rs)."""
import argparse

import gguf
import numpy as np
import torch

from base import Base


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
    weight = maps["weight"].view(n, 2, base.kv_dim, base.dim).numpy()
    bias = maps["bias"].view(n, 2, base.kv_dim).numpy()
    norms, tensors = base.fingerprints()
    out = gguf.GGUFWriter(args.out, "foreword-sidecar")
    out.add_name(f"{base.name}: KV prediction")
    out.add_uint32("foreword-sidecar.trunk_layers", depth)
    out.add_string("foreword-sidecar.base.norms", f"{norms:016x}")
    out.add_string("foreword-sidecar.base.tensors", f"{tensors:016x}")
    out.add_uint32("foreword-sidecar.training.steps", state["step"])
    for layer in range(n):
        for i, part in enumerate(["attn_k", "attn_v"]):
            name = f"blk.{depth + layer}.{part}"
            data = gguf.quants.quantize(np.ascontiguousarray(weight[layer, i]), gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(f"{name}.bias", np.ascontiguousarray(bias[layer, i], dtype=np.float32))
    if args.draft:
        draft = torch.load(args.draft, weights_only=False)
        assert draft["trunk"] == depth, "the draft block is one of another trunk"
        out.add_uint32("foreword-sidecar.draft_layers", 1)
        out.add_array("foreword-sidecar.draft_tokens", [int(i) for i in draft["ids"]])
        for key, value in draft["block"].items():
            part, value = key.removeprefix("weights."), np.ascontiguousarray(value.numpy())
            name = f"blk.{base.n_layers}.{part}.weight"
            if part.endswith("norm"):
                out.add_tensor(name, value)
            else:
                data = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
                out.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main()

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
    args = args.parse_args()
    base, state = Base(args.model), torch.load(args.maps)
    depth, n = state["depth"], base.n_layers - state["depth"]
    weight = state["maps"]["weight"].view(n, 2, base.kv_dim, base.dim).numpy()
    bias = state["maps"]["bias"].view(n, 2, base.kv_dim).numpy()
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
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main()

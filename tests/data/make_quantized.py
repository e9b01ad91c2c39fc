"""Makes quantized.gguf: rows of floats beside what the PyPI package gguf makes of them, for each type that it can write.

Run: python make_quantized.py [quantized.gguf]   (needs numpy and gguf 0.19; seed 1)

Tensor "input" holds the rows as F32, "Q4_0" the same in that type. Some rows are strange: zeros, one value, one weight only, tiny and
large ones, negative zeros, halves between codes.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import quantize

TYPES = [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.MXFP4]


def main():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((14, 256)).astype(np.float32)
    rows[1] *= 0.02
    rows[2] = 0
    rows[3] = 0.3
    rows[4] = -0.7
    rows[5] = 0
    rows[5, 100] = -1.5
    rows[6] *= 1e-5
    rows[7] *= 300
    rows[8] = -0.0
    rows[9] = np.abs(rows[9])
    rows[10] = -np.abs(rows[10])
    rows[11] = np.arange(256) % 32 - 16
    rows[12] = (np.arange(256) % 31 - 15) / 2
    rows[13] = rows[13] ** 3
    writer = GGUFWriter(sys.argv[1] if len(sys.argv) > 1 else "quantized.gguf", "none")
    writer.add_tensor("input", rows)
    for ty in TYPES:
        data = quantize(rows, ty)
        if ty == Type.F16:
            writer.add_tensor(ty.name, data)
        else:
            writer.add_tensor(ty.name, data, raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

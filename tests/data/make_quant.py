"""Makes quant.gguf: random blocks of every tensor type beside what the PyPI package gguf decodes them to.

Run: python make_quant.py [quant.gguf]   (needs numpy and gguf; the file was made with gguf 0.19 and seed 1)

Tensor "Q4_K" holds blocks, "Q4_K.decoded" the same weights as F32. Scales are finite halves of any size, sign and
subnormality; all other bytes are random.
"""

import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import dequantize

ROWS, BLOCKS = 2, 2
# Byte offsets of the half-float scales in a block.
HALVES = {
    Type.F16: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0],
    Type.MXFP4: [],
}


def halves(rng, n):
    """n random finite half floats."""
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    return np.where(bits & 0x7C00 == 0x7C00, bits & 0xBFFF, bits).astype(np.uint16)


def blocks(rng, ty):
    """Random rows of blocks of the type."""
    block_len, block_bytes = GGML_QUANT_SIZES[ty]
    n = ROWS * BLOCKS * (64 if block_len == 1 else 1)
    data = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in HALVES.get(ty, []):
        data[:, at:at + 2] = halves(rng, n).view(np.uint8).reshape(n, 2)
    if ty == Type.MXFP4:
        data[:, 0] = [0, 1, 255, 120]
    if ty in (Type.F32, Type.BF16):
        data[:, -1] &= 0xBF
    return data.reshape(ROWS, -1)


def main():
    rng = np.random.default_rng(1)
    writer = GGUFWriter(sys.argv[1] if len(sys.argv) > 1 else "quant.gguf", "none")
    for ty in [Type.F32, Type.BF16, *HALVES]:
        data = blocks(rng, ty)
        if ty == Type.F32:
            decoded = data.view(np.float32)
        elif ty == Type.F16:
            decoded = data.view(np.float16).astype(np.float32)
        else:
            decoded = dequantize(data, ty)
        if ty in (Type.F32, Type.F16):
            data = data.view(np.float32 if ty == Type.F32 else np.float16)
            writer.add_tensor(ty.name, data)
        else:
            writer.add_tensor(ty.name, data, raw_dtype=ty)
        writer.add_tensor(ty.name + ".decoded", decoded.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()

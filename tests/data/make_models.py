#!/usr/bin/env python3
"""Makes tests/data/models/: a tiny model of random weights for every architecture, and its logits.

The logits are llama.cpp's. For the Gemma family they come from the plain f64 decoder below, because llama.cpp's GELU is a
table of half floats, good to three digits; the decoder is first checked against llama.cpp on every model.

needs: pip install gguf numpy llama-cpp-python
usage: make_models.py
"""
import json, math, pathlib
import gguf, llama_cpp as lc, numpy as np

OUT = pathlib.Path(__file__).parent / "models"
DIM, FF, HEADS, KV, CONTEXT, N = 32, 64, 4, 2, 256, 40
POSITIONS = [0, 1, 7, 20, 39]
VOCAB = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581a", "th", "the", "er", "ing"]


def write(name, arch, layers=2, head_dim=DIM // HEADS, keys=(), qkv_bias=False, qk_norm=False, post_norm=False, fused=False,
          tied=True, factors=()):
    rng = np.random.default_rng(sum(map(ord, name)))
    path = OUT / f"{name}.gguf"
    w = gguf.GGUFWriter(str(path), arch)
    w.add_name("tiny random model")  # llama.cpp treats names with phi3 in them specially
    for key, value in {"context_length": CONTEXT, "embedding_length": DIM, "block_count": layers, "feed_forward_length": FF,
                       "attention.head_count": HEADS, "attention.head_count_kv": KV, "rope.dimension_count": head_dim,
                       "attention.key_length": head_dim, "attention.value_length": head_dim, "vocab_size": len(VOCAB)}.items():
        w.add_uint32(f"{arch}.{key}", value)
    w.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    w.add_float32(f"{arch}.rope.freq_base", 10000.0)
    for key, value in keys:
        (w.add_uint32 if isinstance(value, int) else w.add_string if isinstance(value, str) else w.add_float32)(f"{arch}.{key}", value)
    w.add_tokenizer_model("llama")
    w.add_token_list(VOCAB)
    w.add_token_scores([0.0] * 259 + [-1.0 - i for i in range(5)])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5)
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_add_bos_token(True); w.add_add_space_prefix(False)

    matrix = lambda rows, cols: (rng.standard_normal((rows, cols)) * 1.5 / math.sqrt(cols)).astype(np.float32)
    norm = lambda n: (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)
    bias = lambda n: (0.3 * rng.standard_normal(n)).astype(np.float32)
    w.add_tensor("token_embd.weight", (0.2 * rng.standard_normal((len(VOCAB), DIM))).astype(np.float32))
    w.add_tensor("output_norm.weight", norm(DIM))
    if not tied:
        w.add_tensor("output.weight", matrix(len(VOCAB), DIM))
    for factor_name in factors:
        w.add_tensor(factor_name, (1 + 3 * rng.random(head_dim // 2)).astype(np.float32))
    q, kv = HEADS * head_dim, KV * head_dim
    for i in range(layers):
        t = lambda n, v: w.add_tensor(f"blk.{i}.{n}", v)
        t("attn_norm.weight", norm(DIM)); t("ffn_norm.weight", norm(DIM))
        if fused:
            t("attn_qkv.weight", matrix(q + 2 * kv, DIM)); t("ffn_up.weight", matrix(2 * FF, DIM))
        else:
            for n, rows in [("q", q), ("k", kv), ("v", kv)]:
                t(f"attn_{n}.weight", matrix(rows, DIM))
                if qkv_bias:
                    t(f"attn_{n}.bias", bias(rows))
            t("ffn_gate.weight", matrix(FF, DIM)); t("ffn_up.weight", matrix(FF, DIM))
        if qk_norm:
            t("attn_q_norm.weight", norm(head_dim)); t("attn_k_norm.weight", norm(head_dim))
        if post_norm:
            t("post_attention_norm.weight", norm(DIM)); t("post_ffw_norm.weight", norm(DIM))
        t("attn_output.weight", matrix(DIM, q)); t("ffn_down.weight", matrix(DIM, FF))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return path


def logits(path, context):
    model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
    assert model, path
    p = lc.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch, p.type_k, p.type_v = context, 64, 64, 1, 1, 0, 0
    p.flash_attn_type = 0
    ctx = lc.llama_init_from_model(model, p)
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    rows = []
    for i, token in enumerate(tokens):
        assert lc.llama_decode(ctx, lc.llama_batch_get_one((lc.llama_token * 1)(token), 1)) == 0
        if i in POSITIONS:
            rows.append([round(float(x), 5) for x in np.ctypeslib.as_array(lc.llama_get_logits_ith(ctx, -1), shape=(len(VOCAB),))])
    lc.llama_free(ctx); lc.llama_model_free(model)
    return tokens, rows


def decoder(path, tokens, options):
    """Logits at POSITIONS in f64: loops over positions and heads, no cache, no batching."""
    t = {x.name: x.data.astype(np.float64) for x in gguf.GGUFReader(str(path)).tensors}
    arch, keys = options["arch"], dict(options.get("keys", ()))
    head_dim, layers = options.get("head_dim", DIM // HEADS), options.get("layers", 2)
    gemma = arch.startswith("gemma")
    rms = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w
    half = head_dim // 2

    def angles(layer):
        base = 10000.0 ** (-np.arange(half) / half)
        scaling = keys.get("rope.scaling.type")
        if arch == "smollm3" and (layer + 1) % 4 == 0:
            return base * 0, 1.0
        for name in ("rope_freqs.weight", "rope_factors_long.weight"):
            if name in t:
                return base / t[name], keys.get("rope.scaling.attn_factor", 1.0)
        if scaling == "linear":
            return base / keys["rope.scaling.factor"], 1.0
        if scaling == "yarn":
            turns = lambda beta: head_dim * math.log(64 / (beta * 2 * math.pi)) / (2 * math.log(10000.0))
            low, high = max(0, math.floor(turns(32))), min(head_dim - 1, math.ceil(turns(1)))
            ramp = np.clip((np.arange(half) - low) / max(0.001, high - low), 0, 1)
            return base * (ramp / 4 + 1 - ramp), 1 + 0.1 * math.log(4)
        return base, 1.0

    def rope(x, layer):
        a, m = angles(layer)
        a = np.arange(len(x))[:, None, None] * a
        c, s = np.cos(a) * m, np.sin(a) * m
        adjacent = arch in ("llama", "granite", "smollm3")
        u, v = (x[..., 0::2], x[..., 1::2]) if adjacent else (x[..., :half], x[..., half:])
        r = (u * c - v * s, u * s + v * c)
        return np.stack(r, -1).reshape(x.shape) if adjacent else np.concatenate(r, -1)

    x = t["token_embd.weight"][tokens] * (math.sqrt(DIM) if gemma else keys.get("embedding_scale", 1.0))
    for i in range(layers):
        w = lambda n: t.get(f"blk.{i}.{n}")
        linear = lambda h, n: h @ w(n + ".weight").T + (w(n + ".bias") if w(n + ".bias") is not None else 0)
        h = rms(x, w("attn_norm.weight"))
        if w("attn_qkv.weight") is not None:
            q, k, v = np.split(linear(h, "attn_qkv"), [HEADS * head_dim, (HEADS + KV) * head_dim], -1)
        else:
            q, k, v = (linear(h, f"attn_{n}") for n in "qkv")
        q, k, v = (y.reshape(N, -1, head_dim) for y in (q, k, v))
        if w("attn_q_norm.weight") is not None:
            q, k = rms(q, w("attn_q_norm.weight")), rms(k, w("attn_k_norm.weight"))
        q, k = rope(q, i), rope(k, i)
        period = {"gemma2": 2, "gemma3": 6}.get(arch)
        window = keys["attention.sliding_window"] if period and (i + 1) % period else N
        out = np.zeros((N, HEADS, head_dim))
        for p in range(N):
            first = max(0, p + 1 - window)
            for head in range(HEADS):
                g = head * KV // HEADS
                s = k[first:p + 1, g] @ q[p, head] * keys.get("attention.scale", head_dim ** -0.5)
                cap = keys.get("attn_logit_softcapping")
                s = cap * np.tanh(s / cap) if cap else s
                e = np.exp(s - s.max())
                out[p, head] = e / e.sum() @ v[first:p + 1, g]
        y = linear(out.reshape(N, -1), "attn_output")
        scale = keys.get("residual_scale", 1.0)
        x = x + scale * (rms(y, w("post_attention_norm.weight")) if options.get("post_norm") else y)
        h = rms(x, w("ffn_norm.weight"))
        gate, up = np.split(linear(h, "ffn_up"), 2, -1) if options.get("fused") else (linear(h, "ffn_gate"), linear(h, "ffn_up"))
        act = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) if gemma else gate / (1 + np.exp(-gate))
        y = linear(act * up, "ffn_down")
        x = x + scale * (rms(y, w("post_ffw_norm.weight")) if options.get("post_norm") else y)
    y = rms(x, t["output_norm.weight"])[POSITIONS] @ t.get("output.weight", t["token_embd.weight"]).T / keys.get("logit_scale", 1.0)
    cap = keys.get("final_logit_softcapping")
    return cap * np.tanh(y / cap) if cap else y


MODELS = [
    ("llama", dict(arch="llama", tied=False)),
    ("llama3", dict(arch="llama", factors=["rope_freqs.weight"])),
    ("llama-yarn", dict(arch="llama", keys=[("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scaling.original_context_length", 64)])),
    ("llama-linear", dict(arch="llama", keys=[("rope.scaling.type", "linear"), ("rope.scaling.factor", 2.0)])),
    ("qwen2", dict(arch="qwen2", qkv_bias=True)),
    ("qwen3", dict(arch="qwen3", qk_norm=True, head_dim=16)),
    ("gemma", dict(arch="gemma", head_dim=16)),
    ("gemma2", dict(arch="gemma2", layers=3, head_dim=16, post_norm=True, keys=[("attention.sliding_window", 8), ("attn_logit_softcapping", 5.0), ("final_logit_softcapping", 10.0)])),
    ("gemma3", dict(arch="gemma3", layers=7, head_dim=16, post_norm=True, qk_norm=True, keys=[("attention.sliding_window", 8)])),
    ("phi3", dict(arch="phi3", fused=True, tied=False)),
    ("phi3-long", dict(arch="phi3", fused=True, tied=False, factors=["rope_factors_long.weight", "rope_factors_short.weight"],
                       keys=[("rope.scaling.type", "longrope"), ("rope.scaling.original_context_length", 64), ("rope.scaling.attn_factor", 1.19)])),
    ("granite", dict(arch="granite", keys=[("embedding_scale", 3.0), ("residual_scale", 0.3), ("attention.scale", 0.2), ("logit_scale", 4.0)])),
    ("smollm3", dict(arch="smollm3", layers=5)),
]

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    lc.llama_backend_init()
    cases = []
    for name, options in MODELS:
        path = write(name, **options)
        tokens, rows = logits(path, CONTEXT)
        plain = decoder(path, tokens, options)
        gelu = options["arch"].startswith("gemma")
        worst = np.abs(plain - np.array(rows)).max()
        assert worst < (1e-2 if gelu else 1e-4), (name, worst)
        rows = [[round(float(x), 5) for x in row] for row in plain] if gelu else rows
        cases.append({"model": name, "tokens": tokens, "positions": POSITIONS, "logits": rows})
        print(f"{name}: {path.stat().st_size} bytes, the two references differ by {worst:.1e}")
    with open(OUT / "logits.jsonl", "w") as f:
        for case in cases:
            f.write(json.dumps(case, separators=(",", ":")) + "\n")

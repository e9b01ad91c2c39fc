#!/usr/bin/env python3
"""Makes tests/data/models/: a tiny model of random weights for every architecture, and its logits.

The logits are llama.cpp's. For the Gemma family they come from the plain f64 decoder below, because llama.cpp's GELU is a
table of half floats, good to three digits; the decoder is first checked against llama.cpp on every model. Models marked
`plain` are the decoder's alone, and say why.

needs: pip install gguf numpy llama-cpp-python
usage: make_models.py
"""
import json, math, pathlib
import gguf, numpy as np

OUT = pathlib.Path(__file__).parent / "models"
DIM, FF, HEADS, KV, CONTEXT, N = 32, 64, 4, 2, 256, 40
POSITIONS = [0, 1, 7, 20, 39]
VOCAB = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581a", "th", "the", "er", "ing"]


def write(name, arch, layers=2, head_dim=DIM // HEADS, keys=(), qkv_bias=False, o_bias=False, qk_norm=None, pre_norm=True,
          post_norm=False, fused=False, tied=True, factors=(), plain=False, experts=None, sinks=False, ffn_norm="ffn_norm"):
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
    adders = {bool: w.add_bool, int: w.add_uint32, str: w.add_string, float: w.add_float32, list: w.add_array}
    experts = None if experts is None else {**EXPERTS, **experts}
    if experts:
        keys = [*keys, ("expert_count", experts["n"]), ("expert_used_count", experts["used"]), ("expert_feed_forward_length", experts["width"])]
        if experts["shared"]:
            keys.append(("expert_shared_feed_forward_length", experts["shared"]))
    for key, value in keys:
        adders[type(value)](f"{arch}.{key}", value)
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
        if pre_norm:
            t("attn_norm.weight", norm(DIM)); t(f"{ffn_norm}.weight", norm(DIM))
        if fused:
            t("attn_qkv.weight", matrix(q + 2 * kv, DIM)); t("ffn_up.weight", matrix(2 * FF, DIM))
        else:
            for n, rows in [("q", q), ("k", kv), ("v", kv)]:
                t(f"attn_{n}.weight", matrix(rows, DIM))
                if qkv_bias:
                    t(f"attn_{n}.bias", bias(rows))
            if not experts:
                t("ffn_gate.weight", matrix(FF, DIM)); t("ffn_up.weight", matrix(FF, DIM))
        if qk_norm:
            whole = qk_norm == "whole"
            t("attn_q_norm.weight", norm(q if whole else head_dim)); t("attn_k_norm.weight", norm(kv if whole else head_dim))
        if post_norm:
            t("post_attention_norm.weight", norm(DIM)); t("post_ffw_norm.weight", norm(DIM))
        t("attn_output.weight", matrix(DIM, q))
        if sinks:
            t("attn_sinks.weight", rng.standard_normal(HEADS).astype(np.float32))
        if not experts:
            t("ffn_down.weight", matrix(DIM, FF))
        else:
            n, width, shared = experts["n"], experts["width"], experts["shared"]
            t("ffn_gate_inp.weight", 3 * matrix(n, DIM))
            for part, rows, cols in [("gate", width, DIM), ("up", width, DIM), ("down", DIM, width)]:
                t(f"ffn_{part}_exps.weight", np.stack([experts["size"] * matrix(rows, cols) for _ in range(n)]))
                if experts["bias"]:
                    t(f"ffn_{part}_exps.bias", np.stack([bias(rows) for _ in range(n)]))
            if experts["bias"]:
                t("ffn_gate_inp.bias", bias(n))
            for part, rows, cols in [("gate", shared, DIM), ("up", shared, DIM), ("down", DIM, shared)] if shared else []:
                t(f"ffn_{part}_shexp.weight", matrix(rows, cols))
        if o_bias:
            t("attn_output.bias", bias(DIM))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return path


def logits(path, context, tokens):
    model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
    assert model, path
    p = lc.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch, p.type_k, p.type_v = context, 64, 64, 1, 1, 0, 0
    p.flash_attn_type = 0
    ctx = lc.llama_init_from_model(model, p)
    rows = []
    for i, token in enumerate(tokens):
        assert lc.llama_decode(ctx, lc.llama_batch_get_one((lc.llama_token * 1)(token), 1)) == 0
        if i in POSITIONS:
            rows.append(np.ctypeslib.as_array(lc.llama_get_logits_ith(ctx, -1), shape=(len(VOCAB),)).copy())
    lc.llama_free(ctx); lc.llama_model_free(model)
    return rows


def decoder(path, tokens, options):
    """Logits at POSITIONS in f64: loops over positions and heads, no cache, no batching."""
    t = options.get("tensors") or {x.name: x.data.astype(np.float64) for x in gguf.GGUFReader(str(path)).tensors}
    arch, keys = options["arch"], {**DEFAULTS.get(options["arch"], {}), **dict(options.get("keys", ()))}
    head_dim, layers = options.get("head_dim", DIM // HEADS), options.get("layers", 2)
    gemma = arch.startswith("gemma")
    rms = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w
    half = head_dim // 2
    pattern = keys.get("attention.sliding_window_pattern", {"gemma2": 2, "gemma3": 6, "olmo2": 4, "exaone4": 4, "gpt-oss": 2}.get(arch, 1))
    if isinstance(pattern, int):
        pattern = [(i + 1) % pattern != 0 for i in range(layers)]
    windowed = [w and "attention.sliding_window" in keys for w in pattern]

    def angles(layer):
        base = 10000.0 ** (-np.arange(half) / half)
        if (arch == "smollm3" and (layer + 1) % 4 == 0) or keys.get("rope.scaling.finetuned") is False:
            return base * 0, 1.0
        if arch == "exaone4" and "attention.sliding_window" in keys and not windowed[layer]:
            return base * 0, 1.0
        if arch == "olmo2" and windowed[layer]:
            return base, 1.0
        for name in ("rope_freqs.weight", "rope_factors_long.weight"):
            base = base / t.get(name, 1.0)
        factor = keys.get("rope.scaling.factor", 1.0)
        if keys.get("rope.scaling.type") == "linear":
            base = base / factor
        magnitude = keys.get("rope.scaling.attn_factor", 1.0)
        if keys.get("rope.scaling.type") == "yarn":
            original = keys["rope.scaling.original_context_length"]
            turns = lambda beta: head_dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(10000.0))
            low, high = max(0, math.floor(turns(32))), min(head_dim - 1, math.ceil(turns(1)))
            ramp = np.clip((np.arange(half) - low) / max(0.001, high - low), 0, 1)
            base = base * (ramp / factor + 1 - ramp)
            mscale = lambda m: 1 + 0.1 * m * math.log(factor)
            magnitude *= mscale(1) / mscale(keys.get("rope.scaling.yarn_log_multiplier", 0.0))
        return base, magnitude

    def rope(x, layer):
        a, m = angles(layer)
        a = np.arange(len(x))[:, None, None] * a
        c, s = np.cos(a) * m, np.sin(a) * m
        adjacent = arch in ("llama", "granite", "granitemoe", "smollm3", "mistral3", "ernie4_5", "minicpm", "nanbeige")
        u, v = (x[..., 0::2], x[..., 1::2]) if adjacent else (x[..., :half], x[..., half:])
        r = (u * c - v * s, u * s + v * c)
        return np.stack(r, -1).reshape(x.shape) if adjacent else np.concatenate(r, -1)

    x = t["token_embd.weight"][tokens] * (math.sqrt(DIM) if gemma else keys.get("embedding_scale", 1.0))
    loops = keys.get("num_loops", 1)
    for step in range(layers * loops):
        i = step % layers
        if step and i == 0 and not keys.get("skip_loop_final_norm", False):
            x = rms(x, t["output_norm.weight"])
        w = lambda n: t.get(f"blk.{i}.{n}")
        linear = lambda h, n: h @ w(n + ".weight").T + (w(n + ".bias") if w(n + ".bias") is not None else 0)
        h = rms(x, w("attn_norm.weight")) if options.get("pre_norm", True) else x
        if w("attn_qkv.weight") is not None:
            q, k, v = np.split(linear(h, "attn_qkv"), [HEADS * head_dim, (HEADS + KV) * head_dim], -1)
        else:
            q, k, v = (linear(h, f"attn_{n}") for n in "qkv")
        normed = lambda q, k: (rms(q, w("attn_q_norm.weight")), rms(k, w("attn_k_norm.weight")))
        if options.get("qk_norm") == "whole":
            q, k = normed(q, k)
        q, k, v = (y.reshape(N, -1, head_dim) for y in (q, k, v))
        if options.get("qk_norm") == "heads":
            q, k = normed(q, k)
        q, k = rope(q, i), rope(k, i)
        if options.get("qk_norm") == "rotated":
            q, k = normed(q, k)
        if temperature := keys.get("attention.temperature_scale"):
            grown = np.floor(np.arange(N) / keys["rope.scaling.original_context_length"])
            q = q * (1 + temperature * np.log(grown + 1))[:, None, None]
        window = keys["attention.sliding_window"] if windowed[i] else N
        out = np.zeros((N, HEADS, head_dim))
        for p in range(N):
            first = max(0, p + 1 - window)
            for head in range(HEADS):
                g = head * KV // HEADS
                s = k[first:p + 1, g] @ q[p, head] * keys.get("attention.scale", head_dim ** -0.5)
                cap = keys.get("attn_logit_softcapping")
                s = cap * np.tanh(s / cap) if cap else s
                sink = w("attn_sinks.weight")[head] if options.get("sinks") else -np.inf
                e = np.exp(s - max(s.max(), sink))
                out[p, head] = e / (e.sum() + np.exp(sink - max(s.max(), sink))) @ v[first:p + 1, g]
        y = linear(out.reshape(N, -1), "attn_output")
        scale = keys.get("residual_scale", 1.0)
        x = x + scale * (rms(y, w("post_attention_norm.weight")) if options.get("post_norm") else y)
        h = rms(x, w(options.get("ffn_norm", "ffn_norm") + ".weight")) if options.get("pre_norm", True) else x
        if options.get("experts") is not None:
            x = x + scale * mixture(h, w, {**EXPERTS, **options["experts"]})
            continue
        gate, up = np.split(linear(h, "ffn_up"), 2, -1) if options.get("fused") else (linear(h, "ffn_gate"), linear(h, "ffn_up"))
        act = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) if gemma else gate / (1 + np.exp(-gate))
        y = linear(act * up, "ffn_down")
        x = x + scale * (rms(y, w("post_ffw_norm.weight")) if options.get("post_norm") else y)
    y = rms(x, t["output_norm.weight"])[POSITIONS] @ t.get("output.weight", t["token_embd.weight"]).T / keys.get("logit_scale", 1.0)
    cap = keys.get("final_logit_softcapping")
    return cap * np.tanh(y / cap) if cap else y


silu = lambda x: x / (1 + np.exp(-x))


def mixture(h, w, experts):
    """What the experts make of each token; their choice must not hang on rounding."""
    logits = h @ w("ffn_gate_inp.weight").T + (w("ffn_gate_inp.bias") if experts["bias"] else 0)
    out = np.zeros_like(h)
    for row, l in enumerate(logits):
        order = np.argsort(-l, kind="stable")
        chosen = order[:experts["used"]]
        assert l[chosen[-1]] - l[order[experts["used"]]] > 1e-4, "a close choice"
        p = np.exp(l - l.max())
        p = p[chosen] / (p[chosen].sum() if experts["norm"] else p.sum())
        for e, share in zip(chosen, p):
            of = lambda part, x: w(f"ffn_{part}_exps.weight")[e] @ x + (w(f"ffn_{part}_exps.bias")[e] if experts["bias"] else 0)
            gate, up = of("gate", h[row]), of("up", h[row])
            if experts["clamp"]:
                gate = np.minimum(gate, 7)
                hidden = gate / (1 + np.exp(-1.702 * gate)) * (np.clip(up, -7, 7) + 1)
            else:
                hidden = silu(gate) * up
            out[row] += share * of("down", hidden)
    if experts["shared"]:
        of = lambda part, x: x @ w(f"ffn_{part}_shexp.weight").T
        out += of("down", silu(of("gate", h)) * of("up", h))
    return out


# Widths that do not fill a panel of 16 rows.
EXPERTS = {"n": 6, "used": 2, "width": 40, "norm": True, "bias": False, "clamp": False, "shared": 0, "size": 1.0}

# What files need not say. MiniCPM's divisor of the logits is the model's own (width over 256); llama.cpp's default is its inverse.
DEFAULTS = {
    "gemma2": {"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "minicpm": {"embedding_scale": 12.0, "residual_scale": 1.4 / math.sqrt(2), "logit_scale": DIM / 256},
}

MODELS = [
    ("llama", dict(arch="llama", tied=False)),
    ("llama3", dict(arch="llama", factors=["rope_freqs.weight"])),
    ("llama-yarn", dict(arch="llama", keys=[("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scaling.original_context_length", 64)])),
    ("llama-linear", dict(arch="llama", keys=[("rope.scaling.type", "linear"), ("rope.scaling.factor", 2.0)])),
    ("qwen2", dict(arch="qwen2", qkv_bias=True)),
    ("qwen3", dict(arch="qwen3", qk_norm="heads", head_dim=16)),
    ("gemma", dict(arch="gemma", head_dim=16)),
    ("gemma2", dict(arch="gemma2", layers=3, head_dim=16, post_norm=True, keys=[("attention.sliding_window", 8), ("attn_logit_softcapping", 5.0), ("final_logit_softcapping", 10.0)])),
    ("gemma3", dict(arch="gemma3", layers=7, head_dim=16, post_norm=True, qk_norm="heads", keys=[("attention.sliding_window", 8)])),
    ("phi3", dict(arch="phi3", fused=True, tied=False)),
    ("phi3-long", dict(arch="phi3", fused=True, tied=False, factors=["rope_factors_long.weight", "rope_factors_short.weight"],
                       keys=[("rope.scaling.type", "longrope"), ("rope.scaling.original_context_length", 64), ("rope.scaling.attn_factor", 1.19)])),
    ("granite", dict(arch="granite", keys=[("embedding_scale", 3.0), ("residual_scale", 0.3), ("attention.scale", 0.2), ("logit_scale", 4.0)])),
    ("smollm3", dict(arch="smollm3", layers=5)),
    # Keys that change a family's mathematics.
    ("llama3-linear", dict(arch="llama", factors=["rope_freqs.weight"],
                           keys=[("rope.scaling.type", "linear"), ("rope.scaling.factor", 2.0), ("rope.scaling.attn_factor", 0.8)])),
    ("mistral3", dict(arch="mistral3", tied=False, keys=[
        ("rope.scaling.type", "yarn"), ("rope.scaling.factor", 16.0), ("rope.scaling.original_context_length", 8),
        ("rope.scaling.yarn_log_multiplier", 1.0), ("attention.temperature_scale", 0.3)])),
    ("gemma2-defaults", dict(arch="gemma2", head_dim=16, post_norm=True)),
    ("gemma2-pattern", dict(arch="gemma2", layers=3, post_norm=True, keys=[("attention.sliding_window", 8), ("attention.sliding_window_pattern", 3)])),
    ("gemma3-pattern", dict(arch="gemma3", layers=3, post_norm=True, qk_norm="heads", keys=[
        ("attention.sliding_window", 8), ("attention.sliding_window_pattern", [False, True, False])])),
    ("granite-bias", dict(arch="granite", o_bias=True, keys=[("residual_scale", 0.3), ("logit_scale", 4.0)])),
    ("granite-nope", dict(arch="granite", keys=[("rope.scaling.finetuned", False), ("logit_scale", 4.0)])),
    # More families.
    ("exaone4", dict(arch="exaone4", pre_norm=False, post_norm=True, qk_norm="heads", tied=False)),
    ("exaone4-window", dict(arch="exaone4", layers=4, pre_norm=False, post_norm=True, qk_norm="heads", plain=True,  # llama.cpp: with 64 layers only
                            keys=[("attention.sliding_window", 8)])),
    ("olmo2", dict(arch="olmo2", pre_norm=False, post_norm=True, qk_norm="whole", tied=False)),
    ("olmo2-window", dict(arch="olmo2", layers=4, pre_norm=False, post_norm=True, qk_norm="whole", tied=False, keys=[
        ("attention.sliding_window", 8), ("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scaling.original_context_length", 64)])),
    ("ernie4_5", dict(arch="ernie4_5")),
    ("hunyuan-dense", dict(arch="hunyuan-dense", qk_norm="rotated", head_dim=16)),
    ("minicpm", dict(arch="minicpm", keys=[("embedding_scale", 3.0), ("residual_scale", 0.3), ("logit_scale", 4.0)])),
    ("minicpm-defaults", dict(arch="minicpm", plain=True)),
    ("nanbeige", dict(arch="nanbeige", keys=[("num_loops", 3)])),
    # Mixtures of experts.
    ("qwen3moe", dict(arch="qwen3moe", qk_norm="heads", head_dim=16, tied=False, experts={"width": 24})),
    ("olmoe", dict(arch="olmoe", qk_norm="whole", tied=False, experts={"norm": False, "n": 7, "used": 3, "width": 24})),
    ("granitemoe", dict(arch="granitemoe", experts={"shared": 24, "width": 24}, keys=[
        ("embedding_scale", 3.0), ("residual_scale", 0.3), ("attention.scale", 0.2), ("logit_scale", 4.0)])),
    ("gpt-oss", dict(arch="gpt-oss", qkv_bias=True, o_bias=True, sinks=True, tied=False, ffn_norm="post_attention_norm",
                     experts={"bias": True, "clamp": True, "size": 3.0, "n": 4, "width": 48}, keys=[
        ("attention.sliding_window", 8), ("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scaling.original_context_length", 64)])),
]

if __name__ == "__main__":
    import llama_cpp as lc
    OUT.mkdir(exist_ok=True)
    lc.llama_backend_init()
    cases = []
    for name, options in MODELS:
        path = write(name, **options)
        tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
        rows = decoder(path, tokens, options)
        if not options.get("plain"):
            others = logits(path, CONTEXT, tokens)
            gelu = options["arch"].startswith("gemma")
            worst = np.abs(rows - np.array(others)).max()
            assert worst < (1e-2 if gelu else 1e-4), (name, worst)
            rows = rows if gelu else others
            print(f"{name}: {path.stat().st_size} bytes, the two references differ by {worst:.1e}")
        rows = [[round(float(x), 5) for x in row] for row in rows]
        cases.append({"model": name, "tokens": tokens, "positions": POSITIONS, "logits": rows})
    with open(OUT / "logits.jsonl", "w") as f:
        for case in cases:
            f.write(json.dumps(case, separators=(",", ":")) + "\n")

#!/usr/bin/env python3
"""Makes the tiny models of tests/data/models/ whose layers keep states or share what they keep, and hybrids.jsonl, their logits.

The logits come from the plain f64 forward passes below, one token at a time. (With llama.cpp b11739 these passes agree to 1e-5.)

needs: pip install gguf numpy
usage: make_hybrids.py
"""
import json, math
import gguf, numpy as np
from make_models import CONTEXT, DIM, FF, HEADS, KV, N, OUT, POSITIONS, VOCAB

EPS = 1e-5


def rms(x, w=1.0): return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w
def sigmoid(x): return 1 / (1 + np.exp(-x))
def silu(x): return x * sigmoid(x)
def softplus(x): return np.log1p(np.exp(x))


def write(name, arch, keys, tensors):
    path = OUT / f"{name}.gguf"
    w = gguf.GGUFWriter(str(path), arch)
    w.add_name("tiny random model")
    base = {"context_length": CONTEXT, "embedding_length": DIM, "feed_forward_length": FF, "vocab_size": len(VOCAB),
            "attention.head_count": HEADS, "attention.layer_norm_rms_epsilon": EPS}
    adders = {bool: w.add_bool, int: w.add_uint32, str: w.add_string, float: w.add_float32, list: w.add_array}
    for key, value in {**base, **keys}.items():
        adders[type(value)](f"{arch}.{key}", value)
    w.add_tokenizer_model("llama")
    w.add_token_list(VOCAB)
    w.add_token_scores([0.0] * 259 + [-1.0 - i for i in range(5)])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5)
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_add_bos_token(True); w.add_add_space_prefix(False)
    for key, value in tensors.items():
        w.add_tensor(key, value)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


class Weights:
    """Random tensors, made where they are first named."""
    def __init__(self, name):
        self.rng, self.t = np.random.default_rng(sum(map(ord, name))), {}

    def make(self, name, values):
        if name not in self.t:
            self.t[name] = np.asarray(values(), np.float32)
        return self.t[name].astype(np.float64)

    def mat(self, name, rows, cols): return self.make(f"{name}.weight", lambda: self.rng.standard_normal((rows, cols)) * 1.5 / math.sqrt(cols))
    def norm(self, name, n): return self.make(f"{name}.weight", lambda: 1 + 0.2 * self.rng.standard_normal(n))


def rope(x, pos, base, factors=1.0):
    half = x.shape[-1] // 2
    angles = pos * base ** (-np.arange(half) / half) / factors
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)


def attend(q, keys, values, scale, window=0):
    k, v, out = np.array(keys)[-window:], np.array(values)[-window:], []
    for h in range(len(q)):
        g = h * k.shape[1] // len(q)
        s = k[:, g] @ q[h] * scale
        e = np.exp(s - s.max())
        out.append(e / e.sum() @ v[:, g])
    return np.concatenate(out)


def ffn(w, p, h):
    return w.mat(p + "ffn_down", DIM, FF) @ (silu(w.mat(p + "ffn_gate", FF, DIM) @ h) * (w.mat(p + "ffn_up", FF, DIM) @ h))


def experts(w, p, h, sigmoid_scores=False):
    """Two of six, whose scores are divided by their sum; a bias for the choice where the scores are logistic."""
    n, wide = 6, 40
    logits = w.mat(p + "ffn_gate_inp", n, DIM) @ h
    e = np.exp(logits - logits.max())
    scores = sigmoid(logits) if sigmoid_scores else e / e.sum()
    bias = w.make(p + "exp_probs_b.bias", lambda: 0.3 * w.rng.standard_normal(n)) if sigmoid_scores else 0
    stack = lambda part, rows, cols: w.make(f"{p}ffn_{part}_exps.weight", lambda: w.rng.standard_normal((n, rows, cols)) * 1.5 / math.sqrt(cols))
    gate, up, down = stack("gate", wide, DIM), stack("up", wide, DIM), stack("down", DIM, wide)
    used = np.argsort(-(scores + bias), kind="stable")[:2]
    return sum(scores[i] / scores[used].sum() * (down[i] @ (silu(gate[i] @ h) * (up[i] @ h))) for i in used)


EXPERTS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 40}


def shared_expert(w, p, h, gated):
    y = w.mat(p + "ffn_down_shexp", DIM, 48) @ (silu(w.mat(p + "ffn_gate_shexp", 48, DIM) @ h) * (w.mat(p + "ffn_up_shexp", 48, DIM) @ h))
    return sigmoid(w.make(p + "ffn_gate_inp_shexp.weight", lambda: 0.3 * w.rng.standard_normal(DIM)) @ h) * y if gated else y


def lfm2(name, taps, kvs, n_dense=None):
    """With `n_dense`, layers behind so many are mixtures of experts."""
    w, hd, out = Weights(name), DIM // HEADS, []
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    kept = [[np.zeros(DIM)] * (taps - 1) if kv == 0 else [] for kv in kvs]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    for pos, token in enumerate(tokens):
        x = embeddings[token]
        for i, kv in enumerate(kvs):
            p = f"blk.{i}."
            h = rms(x, w.norm(p + "attn_norm", DIM))
            if kv:
                q, k, v = (w.mat(f"{p}attn_{n}", heads * hd, DIM) @ h for n, heads in [("q", HEADS), ("k", kv), ("v", kv)])
                q, k = (rope(rms(y.reshape(-1, hd), w.norm(f"{p}attn_{n}_norm", hd)), pos, 1e6) for n, y in [("q", q), ("k", k)])
                kept[i].append((k, v.reshape(-1, hd)))
                y = w.mat(p + "attn_output", DIM, DIM) @ attend(q, *zip(*kept[i]), hd ** -0.5)
            else:
                b, c, u = np.split(w.mat(p + "shortconv.in_proj", 3 * DIM, DIM) @ h, 3)
                rows = kept[i][-(taps - 1):] + [b * u]
                kept[i] = rows
                z = (np.array(rows).T * w.mat(p + "shortconv.conv", DIM, taps)).sum(1)
                y = w.mat(p + "shortconv.out_proj", DIM, DIM) @ (c * z)
            x = x + y
            h = rms(x, w.norm(p + "ffn_norm", DIM))
            x = x + (ffn(w, p, h) if n_dense is None or i < n_dense else experts(w, p, h, True))
        if pos in POSITIONS:
            out.append(embeddings @ rms(x, w.norm("token_embd_norm", DIM)))
    more = {} if n_dense is None else {**EXPERTS, "leading_dense_block_count": n_dense, "expert_gating_func": 2}
    keys = {"block_count": len(kvs), "attention.head_count_kv": kvs, "rope.freq_base": 1e6, "shortconv.l_cache": taps, **more}
    write(name, "lfm2" if n_dense is None else "lfm2moe", keys, w.t)
    return tokens, out


def mamba2(w, p, h, kept, state, di, heads, groups, n):
    """Mamba-2 without its output projection; moves `kept` and `state` on."""
    taps, hd, channels = 4, di // heads, di + 2 * groups * n
    z, u, dt = np.split(w.mat(p + "ssm_in", di + channels + heads, DIM) @ h, [di, di + channels])
    kept[:] = (kept or [np.zeros(channels)] * (taps - 1))[-(taps - 1):] + [u]
    bias = w.make(p + "ssm_conv1d.bias", lambda: 0.3 * w.rng.standard_normal(channels))
    u = silu((np.array(kept).T * w.mat(p + "ssm_conv1d", channels, taps)).sum(1) + bias)
    v, b, c = u[:di].reshape(heads, hd), u[di:di + groups * n].reshape(groups, n), u[di + groups * n:].reshape(groups, n)
    dt = softplus(dt + w.make(p + "ssm_dt.bias", lambda: w.rng.standard_normal(heads)))
    rates = w.make(p + "ssm_a", lambda: -np.exp(0.5 * w.rng.standard_normal((heads, 1))))[:, 0]
    skip = w.make(p + "ssm_d", lambda: w.rng.standard_normal((heads, 1)))[:, 0]
    y = np.zeros((heads, hd))
    for j in range(heads):
        g = j * groups // heads
        state[j] = state[j] * np.exp(dt[j] * rates[j]) + np.outer(dt[j] * v[j], b[g])
        y[j] = state[j] @ c[g] + skip[j] * v[j]
    return y.reshape(-1) * silu(z)


def ssm_keys(di, heads, groups, n):
    return {"ssm.conv_kernel": 4, "ssm.inner_size": di, "ssm.state_size": n, "ssm.time_step_rank": heads, "ssm.group_count": groups}


def granitehybrid(name, kvs, di, heads, groups, n, moe=False):
    """Mamba-2 where there are no key heads; attention without rotation elsewhere."""
    w, hd, out = Weights(name), DIM // HEADS, []
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    kept = [[] for _ in kvs]
    states = [np.zeros((heads, di // heads, n)) for _ in kvs]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    for pos, token in enumerate(tokens):
        x = 3.0 * embeddings[token]
        for i, kv in enumerate(kvs):
            p = f"blk.{i}."
            h = rms(x, w.norm(p + "attn_norm", DIM))
            if kv:
                q, k, v = ((w.mat(f"{p}attn_{n}", c * hd, DIM) @ h).reshape(c, hd) for n, c in [("q", HEADS), ("k", kv), ("v", kv)])
                kept[i].append((k, v))
                y = w.mat(p + "attn_output", DIM, DIM) @ attend(q, *zip(*kept[i]), 0.2)
            else:
                y = mamba2(w, p, h, kept[i], states[i], di, heads, groups, n).reshape(groups, -1)
                weight = w.make(p + "ssm_norm.weight", lambda: 1 + 0.2 * w.rng.standard_normal((groups, di // groups)))
                y = w.mat(p + "ssm_out", DIM, di) @ rms(y, weight).reshape(-1)
            x = x + 0.3 * y
            h = rms(x, w.norm(p + "ffn_norm", DIM))
            x = x + 0.3 * (experts(w, p, h) + shared_expert(w, p, h, False) if moe else ffn(w, p, h))
        if pos in POSITIONS:
            out.append(embeddings @ rms(x, w.norm("output_norm", DIM)) / 4.0)
    more = {**EXPERTS, "expert_shared_feed_forward_length": 48} if moe else {}
    granite = {"rope.scaling.finetuned": False, "attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 4.0}
    keys = {"block_count": len(kvs), "attention.head_count_kv": kvs, **granite, **ssm_keys(di, heads, groups, n), **more}
    write(name, "granitehybrid", keys, w.t)
    return tokens, out


def falcon_h1(name, n_layers, di, heads, groups, n):
    """Attention and Mamba-2 side by side, the latter without a norm."""
    w, hd, out = Weights(name), 16, []
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    kept = [([], []) for _ in range(n_layers)]
    states = [np.zeros((heads, di // heads, n)) for _ in range(n_layers)]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    for pos, token in enumerate(tokens):
        x = embeddings[token]
        for i in range(n_layers):
            p = f"blk.{i}."
            h = rms(x, w.norm(p + "attn_norm", DIM))
            q, k, v = ((w.mat(f"{p}attn_{n}", c * hd, DIM) @ h).reshape(c, hd) for n, c in [("q", HEADS), ("k", KV), ("v", KV)])
            kept[i][0].append((rope(k, pos, 1e5), v))
            y = w.mat(p + "attn_output", DIM, HEADS * hd) @ attend(rope(q, pos, 1e5), *zip(*kept[i][0]), hd ** -0.5)
            x = x + y + w.mat(p + "ssm_out", DIM, di) @ mamba2(w, p, h, kept[i][1], states[i], di, heads, groups, n)
            x = x + ffn(w, p, rms(x, w.make(p + "ffn_norm", lambda: 1 + 0.2 * w.rng.standard_normal(DIM))))
        if pos in POSITIONS:
            out.append(w.mat("output", len(VOCAB), DIM) @ rms(x, w.norm("output_norm", DIM)))
    head = {"attention.head_count_kv": KV, "attention.key_length": hd, "attention.value_length": hd, "rope.dimension_count": hd}
    write(name, "falcon-h1", {"block_count": n_layers, "rope.freq_base": 1e5, **head, **ssm_keys(di, heads, groups, n)}, w.t)
    return tokens, out


def mamba2_alone(name, n_layers, di, heads, groups, n):
    """Every layer is a mixer alone."""
    w, out = Weights(name), []
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    kept = [[] for _ in range(n_layers)]
    states = [np.zeros((heads, di // heads, n)) for _ in range(n_layers)]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    for pos, token in enumerate(tokens):
        x = embeddings[token]
        for i in range(n_layers):
            p = f"blk.{i}."
            y = mamba2(w, p, rms(x, w.norm(p + "attn_norm", DIM)), kept[i], states[i], di, heads, groups, n).reshape(groups, -1)
            weight = w.make(p + "ssm_norm.weight", lambda: 1 + 0.2 * w.rng.standard_normal((groups, di // groups)))
            x = x + w.mat(p + "ssm_out", DIM, di) @ rms(y, weight).reshape(-1)
        if pos in POSITIONS:
            out.append(embeddings @ rms(x, w.norm("output_norm", DIM)))
    keys = {"block_count": n_layers, "feed_forward_length": 0, "attention.head_count": 0, **ssm_keys(di, heads, groups, n)}
    write(name, "mamba2", keys, w.t)
    return tokens, out


def gemma4(name, windowed, shared, width):
    """Heads of two widths, layers without keys of their own, and what each layer gets of a token besides the stream (`width`)."""
    w, out, n_layers = Weights(name), [], len(windowed)
    gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    full, narrow, window = 32, 16, 7
    factors = w.make("rope_freqs.weight", lambda: np.array([1.0] * 4 + [1e30] * (full // 2 - 4)))
    table = w.make("per_layer_token_embd.weight", lambda: 0.3 * w.rng.standard_normal((len(VOCAB), n_layers * width))) if width else None
    kept = [([], []) for _ in windowed]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    for pos, token in enumerate(tokens):
        x = math.sqrt(DIM) * embeddings[token]
        if width:
            own = (w.mat("per_layer_model_proj", n_layers * width, DIM) @ x / math.sqrt(DIM)).reshape(n_layers, width)
            own = rms(own, w.norm("per_layer_proj_norm", width)) + math.sqrt(width) * table[token].reshape(n_layers, width)
            own /= math.sqrt(2)
        for i, is_windowed in enumerate(windowed):
            p, hd = f"blk.{i}.", narrow if is_windowed else full
            turned = lambda x: rope(x, pos, *((1e4,) if is_windowed else (1e6, factors)))
            h = rms(x, w.norm(p + "attn_norm", DIM))
            q = turned(rms((w.mat(p + "attn_q", HEADS * hd, DIM) @ h).reshape(HEADS, hd), w.norm(p + "attn_q_norm", hd)))
            source = i
            if i < n_layers - shared:
                k = (w.mat(p + "attn_k", KV * hd, DIM) @ h).reshape(KV, hd)
                # The first full layer has values that are made as its keys are.
                v = k if i == windowed.index(False) else (w.mat(p + "attn_v", KV * hd, DIM) @ h).reshape(KV, hd)
                kept[i][0].append(turned(rms(k, w.norm(p + "attn_k_norm", hd))))
                kept[i][1].append(rms(v))
            else:
                source = n_layers - shared - (2 if is_windowed else 1)
            y = attend(q, *kept[source], 1.0, window if is_windowed else 0)
            x = x + rms(w.mat(p + "attn_output", DIM, HEADS * hd) @ y, w.norm(p + "post_attention_norm", DIM))
            h = rms(x, w.norm(p + "ffn_norm", DIM))
            y = w.mat(p + "ffn_down", DIM, FF) @ (gelu(w.mat(p + "ffn_gate", FF, DIM) @ h) * (w.mat(p + "ffn_up", FF, DIM) @ h))
            x = x + rms(y, w.norm(p + "post_ffw_norm", DIM))
            if width:
                y = w.mat(p + "proj", DIM, width) @ (gelu(w.mat(p + "inp_gate", width, DIM) @ x) * own[i])
                x = x + rms(y, w.norm(p + "post_norm", DIM))
            x = x * w.make(p + "layer_output_scale.weight", lambda: np.array([0.8 + 0.1 * i]))
        if pos in POSITIONS:
            out.append(30 * np.tanh(embeddings @ rms(x, w.norm("output_norm", DIM)) / 30))
    if shared:
        # Files may have what is not used.
        w.mat(f"blk.{n_layers - 1}.attn_k", KV * full, DIM)
    of = lambda key, full, narrow: {key: full, f"{key}_swa": narrow}
    heads = {**of("attention.key_length", full, narrow), **of("attention.value_length", full, narrow),
             **of("rope.dimension_count", full, narrow), **of("rope.freq_base", 1e6, 1e4)}
    keys = {"block_count": n_layers, "attention.head_count_kv": KV, **heads, "attention.sliding_window": window,
            "attention.sliding_window_pattern": windowed, "attention.shared_kv_layers": shared,
            "embedding_length_per_layer_input": width, "final_logit_softcapping": 30.0}
    write(name, "gemma4", keys, w.t)
    return tokens, out


def qwen35(name, hk, hv, dk, dv, interval, n_layers, foretelling=0, moe=False):
    """Gated DeltaNets, and gated attention in every `interval`-th layer. `foretelling` layers more are there and not run."""
    w, hd, rot, taps, out = Weights(name), 32, 8, 4, []
    keys, values = hk * dk, hv * dv
    channels = 2 * keys + values
    embeddings = w.make("token_embd.weight", lambda: 0.2 * w.rng.standard_normal((len(VOCAB), DIM)))
    kept = [[] for _ in range(n_layers)]
    states = [np.zeros((hv, dk, dv)) for _ in range(n_layers)]
    tokens = [int(t) for t in np.random.default_rng(7).integers(3, len(VOCAB), N)]
    l2 = lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True) + EPS)
    for pos, token in enumerate(tokens):
        x = embeddings[token]
        for i in range(n_layers):
            p = f"blk.{i}."
            h = rms(x, w.norm(p + "attn_norm", DIM))
            if (i + 1) % interval == 0:
                q, gate = (w.mat(p + "attn_q", 2 * HEADS * hd, DIM) @ h).reshape(HEADS, 2, hd).transpose(1, 0, 2)
                k, v = ((w.mat(f"{p}attn_{n}", KV * hd, DIM) @ h).reshape(KV, hd) for n in "kv")
                q, k = (rms(y, w.norm(f"{p}attn_{n}_norm", hd)) for n, y in [("q", q), ("k", k)])
                q, k = (np.concatenate([rope(y[:, :rot], pos, 1e7), y[:, rot:]], -1) for y in (q, k))
                kept[i].append((k, v))
                y = attend(q, *zip(*kept[i]), hd ** -0.5) * sigmoid(gate.reshape(-1))
                y = w.mat(p + "attn_output", DIM, HEADS * hd) @ y
            else:
                kept[i] = (kept[i] or [np.zeros(channels)] * (taps - 1))[-(taps - 1):] + [w.mat(p + "attn_qkv", channels, DIM) @ h]
                u = silu((np.array(kept[i]).T * w.mat(p + "ssm_conv1d", channels, taps)).sum(1))
                q, k, v = u[:keys].reshape(hk, dk), u[keys:2 * keys].reshape(hk, dk), u[2 * keys:].reshape(hv, dv)
                q, k = l2(q) * dk ** -0.5, l2(k)
                rates = w.make(p + "ssm_a", lambda: -np.exp(0.5 * w.rng.standard_normal(hv)))
                bias = w.make(p + "ssm_dt.bias", lambda: w.rng.standard_normal(hv))
                decay = np.exp(rates * softplus(w.mat(p + "ssm_alpha", hv, DIM) @ h + bias))
                beta, y = sigmoid(w.mat(p + "ssm_beta", hv, DIM) @ h), np.zeros((hv, dv))
                for j in range(hv):
                    kj, s = k[j % hk], states[i][j] * decay[j]
                    states[i][j] = s + np.outer(kj, beta[j] * (v[j] - kj @ s))
                    y[j] = q[j % hk] @ states[i][j]
                z = (w.mat(p + "attn_gate", values, DIM) @ h).reshape(hv, dv)
                y = w.mat(p + "ssm_out", DIM, values) @ (rms(y, w.norm(p + "ssm_norm", dv)) * silu(z)).reshape(-1)
            x = x + y
            h = rms(x, w.norm(p + "post_attention_norm", DIM))
            x = x + (experts(w, p, h) + shared_expert(w, p, h, True) if moe else ffn(w, p, h))
        if pos in POSITIONS:
            out.append(embeddings @ rms(x, w.norm("output_norm", DIM)))
    for i in range(n_layers, n_layers + foretelling):
        w.mat(f"blk.{i}.nextn.eh_proj", DIM, 2 * DIM)
        w.norm(f"blk.{i}.attn_norm", DIM)
    head = {"attention.head_count_kv": KV, "attention.key_length": hd, "attention.value_length": hd, "rope.dimension_count": rot,
            "rope.freq_base": 1e7, "rope.dimension_sections": [2, 1, 1, 0]}
    ssm = {"ssm.conv_kernel": taps, "ssm.inner_size": values, "ssm.state_size": dk, "ssm.time_step_rank": hv, "ssm.group_count": hk}
    more = {"nextn_predict_layers": foretelling} if foretelling else {}
    if moe:
        more |= {**EXPERTS, "expert_shared_feed_forward_length": 48}
    keys = {"block_count": n_layers + foretelling, "full_attention_interval": interval, **head, **ssm, **more}
    write(name, "qwen35moe" if moe else "qwen35", keys, w.t)
    return tokens, out


MODELS = {
    "lfm2": lambda name: lfm2(name, 3, [0, 0, KV, 0]),
    # A layer that attends first, and a convolution of another length.
    "lfm2-long": lambda name: lfm2(name, 5, [KV, 0]),
    "qwen35": lambda name: qwen35(name, 2, 4, 16, 16, 4, 4),
    # Other heads, every second layer attends, and a layer that foretells the next token but one.
    "qwen35-foretelling": lambda name: qwen35(name, 1, 3, 24, 8, 2, 3, 1),
    "lfm2moe": lambda name: lfm2(name, 3, [0, KV, 0], 1),
    "qwen35moe": lambda name: qwen35(name, 1, 2, 16, 16, 2, 2, moe=True),
    "granitehybrid": lambda name: granitehybrid(name, [0, KV, 0], 64, 8, 1, 16),
    # Two groups of heads, experts, and a layer that attends first.
    "granitehybrid-moe": lambda name: granitehybrid(name, [KV, 0], 48, 4, 2, 8, True),
    "mamba2": lambda name: mamba2_alone(name, 2, 64, 4, 2, 16),
    "gemma4": lambda name: gemma4(name, [True, False, True, False], 2, 16),
    # As the large ones are: all layers have keys, and nothing besides the stream.
    "gemma4-large": lambda name: gemma4(name, [True, False], 0, 0),
    "falcon-h1": lambda name: falcon_h1(name, 2, 48, 6, 1, 16),
}

if __name__ == "__main__":
    with open(OUT / "hybrids.jsonl", "w") as f:
        for name, make in MODELS.items():
            tokens, rows = make(name)
            rows = [[round(float(x), 5) for x in row] for row in rows]
            f.write(json.dumps({"model": name, "tokens": tokens, "positions": POSITIONS, "logits": rows}, separators=(",", ":")) + "\n")

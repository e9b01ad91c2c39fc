#!/usr/bin/env python3
"""Makes tests/data/encoders/: a tiny model of random weights for every architecture that makes embeddings, and what it makes
of a few texts.

The vectors come from the plain f64 forward passes below, one text at a time, as the makers of the models compute them: GELU
is the exact one where their configuration says "gelu". (llama.cpp takes the tanh approximation there; with it, these passes
agree with llama.cpp to 1e-5.)

needs: pip install gguf numpy
usage: make_encoders.py
"""
import json, math, pathlib
import gguf, numpy as np

OUT = pathlib.Path(__file__).parent / "encoders"
DIM, HEADS, FF, CONTEXT, EPS = 32, 2, 64, 128, 1e-5
HEAD = DIM // HEADS
# WordPiece as files have it: a word begins with U+2581, what goes on has nothing.
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + ["\u2581" + c for c in LETTERS] + list(LETTERS[:36]) + [
    "\u2581the", "\u2581un", "aff", "able", "\u2581run", "ning", "\u2581dog", "s", "\u2581cat"]
PIECES = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581a", "th", "the", "er", "ing"]


def words(w):
    w.add_tokenizer_model("bert"); w.add_token_list(WORDS)
    w.add_token_types([3] * 5 + [1] * (len(WORDS) - 5))
    w.add_uint32("tokenizer.ggml.token_type_count", 2)
    w.add_bos_token_id(2); w.add_eos_token_id(3); w.add_unk_token_id(1); w.add_sep_token_id(3); w.add_pad_token_id(0)
    return len(WORDS)


def pieces(w):
    w.add_tokenizer_model("llama"); w.add_token_list(PIECES)
    w.add_token_scores([0.0] * 259 + [-1.0 - i for i in range(5)]); w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5)
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_add_bos_token(True); w.add_add_space_prefix(False)
    return len(PIECES)


def rms(x, w): return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w
def ln(x, w, b=0.0): return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS) * w + b
def softmax(s): e = np.exp(s - s.max(-1, keepdims=True)); return e / e.sum(-1, keepdims=True)
def silu(x): return x / (1 + np.exp(-x))
def gelu(x): return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
def gelu_tanh(x): return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rope(x, base):
    n = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None, None] * base ** (-np.arange(n) / n)
    a, b = x[..., :n], x[..., n:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)


def attend(q, k, v, mask):
    out = []
    for h in range(q.shape[1]):
        g = h * k.shape[1] // q.shape[1]
        out.append(softmax(np.where(mask, q[:, h] @ k[:, g].T / math.sqrt(q.shape[-1]), -1e30)) @ v[:, g])
    return np.concatenate(out, 1)


def around(n, window=None):
    i = np.arange(n)
    return np.abs(i[:, None] - i[None]) <= (window // 2 if window else n)


def heads(x, n): return x.reshape(len(x), n, -1)


def bert_layers(t, tokens, n_heads, eps):
    """BERT as its makers have it, on tensors by the names of GGUF; for one text."""
    norm = lambda x, name: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * t[name + ".weight"] + t[name + ".bias"]
    linear = lambda x, name: x @ t[name + ".weight"].T + t[name + ".bias"]
    n = len(tokens)
    x = norm(t["token_embd.weight"][tokens] + t["position_embd.weight"][:n] + t["token_types.weight"][0], "token_embd_norm")
    for i in range(sum(name.endswith("attn_q.weight") for name in t)):
        p = f"blk.{i}."
        q, k, v = (heads(linear(x, p + f"attn_{c}"), n_heads) for c in "qkv")
        x = norm(x + linear(attend(q, k, v, around(n)), p + "attn_output"), p + "attn_output_norm")
        x = norm(x + linear(gelu(linear(x, p + "ffn_up")), p + "ffn_down"), p + "layer_output_norm")
    return x


class Weights:
    """Random tensors by name; what is asked for first is made."""
    def __init__(self, seed): self.rng, self.t = np.random.default_rng(seed), {}
    def matrix(self, name, rows, cols): return self._get(name, lambda: self.rng.standard_normal((rows, cols)) * 1.5 / math.sqrt(cols))
    def norm(self, name, n=DIM): return self._get(name, lambda: 1 + 0.2 * self.rng.standard_normal(n))
    def bias(self, name, n=DIM): return self._get(name, lambda: 0.1 * self.rng.standard_normal(n))
    def table(self, name, rows, size): return self._get(name, lambda: size * self.rng.standard_normal((rows, DIM)))
    def _get(self, name, make):
        if name not in self.t:
            self.t[name] = make().astype(np.float32)
        return self.t[name].astype(np.float64)
    def linear(self, x, name, rows, bias=True):
        y = x @ self.matrix(name + ".weight", rows, x.shape[-1]).T
        return y + self.bias(name + ".bias", rows) if bias else y
    def ln(self, x, name): return ln(x, self.norm(name + ".weight"), self.bias(name + ".bias"))


def bert(w, tokens, second, n_vocab, positions=True, gated=False):
    n = len(tokens)
    x = w.table("token_embd.weight", n_vocab, 0.3)[tokens] + w.table("token_types.weight", 2, 0.2)[(np.arange(n) >= second) * 1]
    if positions:
        x = x + w.table("position_embd.weight", CONTEXT, 0.2)[:n]
    x = w.ln(x, "token_embd_norm")
    for i in range(2):
        p = f"blk.{i}."
        if positions:
            q, k, v = (heads(w.linear(x, p + f"attn_{c}", DIM), HEADS) for c in "qkv")
        else:
            q, k, v = (heads(y, HEADS) for y in np.split(w.linear(x, p + "attn_qkv", 3 * DIM, False), 3, 1))
            q, k = rope(q, 1000.0), rope(k, 1000.0)
        x = w.ln(x + w.linear(attend(q, k, v, around(n)), p + "attn_output", DIM, positions), p + "attn_output_norm")
        up = w.linear(x, p + "ffn_up", FF, not gated)
        up = silu(w.linear(x, p + "ffn_gate", FF, False)) * up if gated else gelu(up)
        x = w.ln(x + w.linear(up, p + "ffn_down", DIM, not gated), p + "layer_output_norm")
    return x


def modern_bert(w, tokens, _, n_vocab):
    n, window = len(tokens), 6
    x = ln(w.table("token_embd.weight", n_vocab, 0.3)[tokens], w.norm("token_embd_norm.weight"))
    for i in range(4):
        p, local = f"blk.{i}.", i % 3 != 0
        h = ln(x, w.norm(p + "attn_norm.weight")) if i else x
        q, k, v = (heads(y, HEADS) for y in np.split(w.linear(h, p + "attn_qkv", 3 * DIM, False), 3, 1))
        base = 10000.0 if local else 160000.0
        o = attend(rope(q, base), rope(k, base), v, around(n, window if local else None))
        x = x + w.linear(o, p + "attn_output", DIM, False)
        gate, up = np.split(w.linear(ln(x, w.norm(p + "ffn_norm.weight")), p + "ffn_up", 2 * FF, False), 2, 1)
        x = x + w.linear(gelu(gate) * up, p + "ffn_down", DIM, False)
    return ln(x, w.norm("output_norm.weight"))


def block(w, x, p, base, mask, act, post):
    h = rms(x, w.norm(p + "attn_norm.weight"))
    q, k, v = (heads(w.linear(h, p + f"attn_{c}", m * HEAD, False), m) for c, m in (("q", HEADS), ("k", 1), ("v", 1)))
    q, k = rms(q, w.norm(p + "attn_q_norm.weight", HEAD)), rms(k, w.norm(p + "attn_k_norm.weight", HEAD))
    o = w.linear(attend(rope(q, base), rope(k, base), v, mask), p + "attn_output", DIM, False)
    x = x + (rms(o, w.norm(p + "post_attention_norm.weight")) if post else o)
    h = rms(x, w.norm(p + "ffn_norm.weight"))
    y = w.linear(act(w.linear(h, p + "ffn_gate", FF, False)) * w.linear(h, p + "ffn_up", FF, False), p + "ffn_down", DIM, False)
    return x + (rms(y, w.norm(p + "post_ffw_norm.weight")) if post else y)


def gemma(w, tokens, _, n_vocab):
    x = w.table("token_embd.weight", n_vocab, 0.3)[tokens] * math.sqrt(DIM)
    for i in range(6):
        full = (i + 1) % 6 == 0
        x = block(w, x, f"blk.{i}.", 1e6 if full else 1e4, around(len(tokens), None if full else 6), gelu_tanh, True)
    return rms(x, w.norm("output_norm.weight"))


def qwen3(w, tokens, _, n_vocab):
    x = w.table("token_embd.weight", n_vocab, 0.3)[tokens]
    for i in range(2):
        x = block(w, x, f"blk.{i}.", 1e6, np.tril(np.ones((len(tokens),) * 2, bool)), silu, False)
    return rms(x, w.norm("output_norm.weight"))


LN, GROUPED = {"attention.layer_norm_epsilon": EPS, "attention.causal": False}, {
    "attention.layer_norm_rms_epsilon": EPS, "attention.head_count_kv": 1, "attention.key_length": HEAD, "attention.value_length": HEAD}
MEAN, FIRST, LAST, RANK = 1, 2, 3, 4
# name, architecture, layers, pooling, tokenizer, forward, keys, projections of the pooled vector
MODELS = [
    ("bert", "bert", 2, MEAN, words, bert, LN, []),
    ("bert-rank", "bert", 2, RANK, words, bert, LN, [("cls", DIM, np.tanh), ("cls.output", 1, None)]),
    ("nomic-bert", "nomic-bert", 2, MEAN, words, lambda *a: bert(*a, positions=False, gated=True), {**LN, "rope.freq_base": 1e3}, []),
    ("modern-bert", "modern-bert", 4, FIRST, pieces, modern_bert,
     {**LN, "rope.freq_base": 16e4, "rope.freq_base_swa": 1e4, "attention.sliding_window": 6}, []),
    ("gemma-embedding", "gemma-embedding", 6, MEAN, pieces, gemma,
     {**GROUPED, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "attention.sliding_window": 6}, [("dense_2", 96, None), ("dense_3", DIM, None)]),
    ("qwen3-embedding", "qwen3", 2, LAST, pieces, qwen3, {**GROUPED, "rope.freq_base": 1e6}, []),
    ("qwen3-reranker", "qwen3", 2, RANK, pieces, qwen3, {**GROUPED, "rope.freq_base": 1e6}, [("cls.output", 2, None)]),
]
# Lengths of texts, and where the second text of a pair begins: shorter and longer than a window, a block and a batch.
TEXTS = [(1, 1), (40, 17), (5, 3), (33, 33), (100, 60), (7, 7)]


def pool(x, pooling, causal):
    kind = {RANK: LAST if causal else FIRST}.get(pooling, pooling)
    return {MEAN: x.mean(0), FIRST: x[0], LAST: x[-1]}[kind]


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    cases = []
    for name, arch, layers, pooling, tokenizer, forward, keys, projections in MODELS:
        weights = Weights(sum(map(ord, name)))
        w = gguf.GGUFWriter(str(OUT / f"{name}.gguf"), arch)
        w.add_name("tiny random model")
        n_vocab = tokenizer(w)
        base = {"context_length": CONTEXT, "embedding_length": DIM, "block_count": layers, "feed_forward_length": FF,
                "attention.head_count": HEADS, "vocab_size": n_vocab, "pooling_type": pooling}
        for key, value in {**base, **keys}.items():
            add = w.add_bool if isinstance(value, bool) else w.add_uint32 if isinstance(value, int) else w.add_float32
            add(f"{arch}.{key}", value)
        rng, texts = np.random.default_rng(11), []
        for n, second in TEXTS:
            tokens = [int(t) for t in rng.integers(3, n_vocab, n)]
            v = pool(forward(weights, tokens, second, n_vocab), pooling, arch == "qwen3")
            for projection, rows, act in projections:
                v = weights.linear(v, projection, rows, projection.startswith("cls"))
                v = act(v) if act else v
            texts.append({"tokens": tokens, "second": second, "vector": [round(float(x), 6) for x in v]})
        for tensor, values in weights.t.items():
            w.add_tensor(tensor, values)
        w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
        cases.append({"model": name, "texts": texts})
    with open(OUT / "vectors.jsonl", "w") as f:
        for case in cases:
            f.write(json.dumps(case, separators=(",", ":")) + "\n")

"""The base model in PyTorch, dequantized from its GGUF: the model that really runs, up to the rounding of activations.

One decoder for both families (llama, gemma3). `Base.block` takes a function `attend(layer, q, k, v)`, so that the same code runs
the plain model and the model on a predicted cache (`cache.py`).
"""
import functools

import gguf
import numpy as np
import torch
import torch.nn.functional as F


def fnv1a(data, h=0xCBF29CE484222325):
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


class Base:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in reader.tensors}
        field = lambda key: reader.fields[key].contents()
        self.arch = arch = field("general.architecture")
        self.name = field("general.name")
        get = lambda key: field(f"{arch}.{key}")
        self.n_layers, self.dim = get("block_count"), get("embedding_length")
        self.n_heads, self.n_kv = get("attention.head_count"), get("attention.head_count_kv")
        self.head_dim = get("attention.key_length") if arch == "gemma3" else self.dim // self.n_heads
        self.kv_dim = self.n_kv * self.head_dim
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.gemma = arch == "gemma3"
        self.embed_scale = self.dim**0.5 if self.gemma else 1.0
        self.rope_base = get("rope.freq_base")
        self.window = get("attention.sliding_window") if self.gemma else None
        # A text begins with this token where the model was trained so; without it gemma's attention has no sink.
        first = "tokenizer.ggml.add_bos_token"
        self.bos = [field("tokenizer.ggml.bos_token_id")] if first in reader.fields and field(first) else []
        self.embed = self.load("token_embd.weight")
        self.head = self.load("output.weight") if "output.weight" in self.tensors else self.embed
        self.norm = self.load("output_norm.weight")
        parts = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
        if self.gemma:
            parts += ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"]
        self.layers = [{p: self.load(f"blk.{i}.{p}.weight") for p in parts} for i in range(self.n_layers)]

    def load(self, name):
        t = self.tensors[name]
        values = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        return torch.from_numpy(values.reshape(tuple(int(d) for d in reversed(t.shape))).copy())

    def fingerprints(self):
        """(base, quantization): the norms, which every quantization keeps as they are; the list of tensors with their types."""
        base = quantization = 0
        for name, t in self.tensors.items():
            if name.endswith("norm.weight"):
                base += fnv1a(t.data.tobytes(), fnv1a(name.encode()))
            quantization += fnv1a(f"{name}:{int(t.tensor_type)}".encode())
        return base % 2**64, quantization % 2**64

    def begun(self, tokens):
        """A piece out of the middle of a text as one that begins a sequence."""
        return torch.cat([torch.tensor(self.bos, dtype=torch.long), tokens])

    def is_local(self, layer):
        return self.gemma and (layer + 1) % 6 != 0

    def rms(self, x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def rope(self, x, positions, layer):
        """Rotates `[n, heads, head_dim]`: adjacent pairs (llama files are permuted for that), halves for gemma."""
        cos, sin = (table[positions, None] for table in self.angles(self.is_local(layer)))
        half = self.head_dim // 2
        a, b = (x[..., :half], x[..., half:]) if self.gemma else (x[..., 0::2], x[..., 1::2])
        c, d = a * cos - b * sin, a * sin + b * cos
        return torch.cat([c, d], -1) if self.gemma else torch.stack([c, d], -1).flatten(-2)

    @functools.cache
    def angles(self, local):
        """Cosines and sines `[positions, head_dim / 2]`."""
        half = self.head_dim // 2
        freqs = (10000.0 if local else self.rope_base) ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = (torch.arange(8192, dtype=torch.float64)[:, None] * freqs).float()
        return angles.cos(), angles.sin()

    def key(self, layer, k, positions):
        """Keys as attention sees them, of keys before norm and rotation `[n, kv_dim]`."""
        k = k.view(-1, self.n_kv, self.head_dim)
        if self.gemma:
            k = self.rms(k, self.layers[layer]["attn_k_norm"])
        return self.rope(k, positions, layer)

    def block(self, layer, x, positions, attend):
        """One layer. `attend` gets queries `[n, heads, head_dim]` and keys and values before norm and rotation `[n, kv_dim]`."""
        w = self.layers[layer]
        h = self.rms(x, w["attn_norm"])
        q = F.linear(h, w["attn_q"]).view(-1, self.n_heads, self.head_dim)
        if self.gemma:
            q = self.rms(q, w["attn_q_norm"])
        k, v = F.linear(h, w["attn_k"]), F.linear(h, w["attn_v"])
        a = F.linear(attend(layer, self.rope(q, positions, layer), k, v), w["attn_output"])
        x = x + (self.rms(a, w["post_attention_norm"]) if self.gemma else a)
        h = self.rms(x, w["ffn_norm"])
        act = F.gelu(F.linear(h, w["ffn_gate"]), approximate="tanh") if self.gemma else F.silu(F.linear(h, w["ffn_gate"]))
        f = F.linear(act * F.linear(h, w["ffn_up"]), w["ffn_down"])
        return x + (self.rms(f, w["post_ffw_norm"]) if self.gemma else f)

    def attention(self, q, k, v, mask):
        """`[n, heads, d]` over `[m, kv heads, d]`; `mask` `[n, m]` is true where a key is seen. Returns `[n, heads * d]`."""
        q, k, v = q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)

    def logits(self, x):
        return F.linear(self.rms(x, self.norm), self.head)

    @torch.no_grad()
    def run(self, tokens, trunks=()):
        """The plain model. Returns the last residual stream, the streams behind each trunk depth, and the deeper layers' keys
        before norm and rotation and values: `{layer: (k, v)}`."""
        n = len(tokens)
        positions = torch.arange(n)
        ahead = positions[:, None] - positions[None, :]
        full = ahead >= 0
        local = full & (ahead < self.window) if self.window else full
        behind, kvs = {}, {}

        def attend(layer, q, k, v):
            kvs[layer] = (k, v)
            mask = local if self.is_local(layer) else full
            return self.attention(q, self.key(layer, k, positions), v.view(n, self.n_kv, -1), mask)

        x = self.embed[tokens] * self.embed_scale
        for layer in range(self.n_layers):
            if layer in trunks:
                behind[layer] = x
            x = self.block(layer, x, positions, attend)
        return x, behind, kvs

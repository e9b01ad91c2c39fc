"""Layers of a sidecar's own: of the base's form, trained."""
import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    """A layer of the base as a module, beginning as a copy of one."""

    def __init__(self, base, layer):
        super().__init__()
        assert not base.gemma, "only the llama form"
        self.weights = torch.nn.ParameterDict({k: torch.nn.Parameter(v.float().clone()) for k, v in base.layers[layer].items()})

    def forward(self, base, x):
        """`[texts, LENGTH, dim]` behind the trunk to what the last norm reads."""
        w, (b, n, _) = self.weights, x.shape
        at = torch.arange(n).repeat(b)
        heads = lambda t, k: t.view(b, n, k, base.head_dim).transpose(1, 2)
        h = base.rms(x, w["attn_norm"])
        q = base.rope(F.linear(h, w["attn_q"]).float().view(b * n, base.n_heads, -1), at, 0).view(b, n, -1)
        k = base.rope(F.linear(h, w["attn_k"]).float().view(b * n, base.n_kv, -1), at, 0).view(b, n, -1)
        v = F.linear(h, w["attn_v"])
        a = F.scaled_dot_product_attention(heads(q, base.n_heads), heads(k, base.n_kv), heads(v, base.n_kv), is_causal=True, enable_gqa=True)
        x = x + F.linear(a.transpose(1, 2).flatten(2), w["attn_output"])
        h = base.rms(x, w["ffn_norm"])
        return x + F.linear(F.silu(F.linear(h, w["ffn_gate"])) * F.linear(h, w["ffn_up"]), w["ffn_down"])

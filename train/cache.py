"""The maps, and the base on a predicted cache exactly as the run time uses it: the first tokens (sinks) and the last ones (tail, and
the answer behind it) go through all layers, everything between is predicted."""
import torch
import torch.nn.functional as F

from block import Block

SINKS = 4
TAIL = 32
BLOCK = 96  # the tail of a prompt and the answer behind it


OPEN = 1.2784645  # where silu is one


class Maps(torch.nn.Module):
    """From the streams of the trunk to the deeper layers' keys (before norm and rotation) and values: a gated feed-forward layer of
    `width`, whose input are the normed streams before every layer of the trunk and behind it, and whose output are all keys and
    values. It begins with open gates, so linear. `own` layers of the base's form may stand between trunk and maps; these begin as
    the base's, without effect."""

    def __init__(self, base, depth, width, own=0):
        super().__init__()
        self.depth, self.n = depth, base.n_layers - depth
        self.own = torch.nn.ModuleList(Block(base, depth + i) for i in range(own))
        for layer in self.own:
            for part in "attn_output", "ffn_down":
                layer.weights[part].data.zero_()
        zeros = lambda *shape: torch.nn.Parameter(torch.zeros(shape))
        self.up = torch.nn.ParameterList(zeros(width, base.dim) for _ in range(depth + 1))
        # The gates read the stream behind the trunk.
        self.gate, self.gate_bias = zeros(width, base.dim), torch.nn.Parameter(torch.full((width,), OPEN))
        self.weight, self.bias = zeros(self.n * 2 * base.kv_dim, width), zeros(self.n * 2 * base.kv_dim)

    def forward(self, base, x):
        """Streams `[depth + 1, n, dim]` of a text from its beginning to `[n, layers, 2, kv_dim]`."""
        *within, behind = x
        for layer in self.own:
            behind = layer(base, behind[None])[0]
        h = [base.rms(s, base.layers[i]["attn_norm"]) for i, s in enumerate([*within, behind])]
        up = sum(F.linear(s, w) for s, w in zip(h, self.up))
        hidden = F.silu(F.linear(h[-1], self.gate, self.gate_bias)) * up
        return F.linear(hidden, self.weight, self.bias).view(len(behind), self.n, 2, base.kv_dim)


def predicted(base, maps, x, start):
    """Runs the deeper layers for the rows that are exact, on predicted entries for the rest, for several prompt lengths at once.

    `x` are the streams of a text, `[depth + 1, n, dim]`. From `start` on the text is cut into blocks; each is the tail of a prompt and
    what follows it: it sees the sinks, predictions of all before its start, and itself. Returns the last streams of the blocks.
    """
    n_blocks = (x.shape[1] - start) // BLOCK
    last = start + (n_blocks - 1) * BLOCK  # where the last block begins
    rows = torch.cat([torch.arange(SINKS), torch.arange(start, last + BLOCK)])
    middle = torch.arange(SINKS, last)
    # Gradients of pieces that are cut off one by one would fill and add the whole each time.
    guess = [layer.unbind(1) for layer in maps(base, x[:, :last])[SINKS:].unbind(1)]
    own, ahead = [SINKS] + [BLOCK] * n_blocks, [start - SINKS] + [BLOCK] * (n_blocks - 1)
    seen = [torch.arange(end) for end in range(start + BLOCK, last + BLOCK + 1, BLOCK)]

    def mask(layer, queries, keys):
        distance = queries[:, None] - keys[None, :]
        return (distance >= 0) & (distance < base.window) if base.is_local(layer) else distance >= 0

    def attend(layer, q, k, v):
        heads = lambda t: t.view(-1, base.n_kv, base.head_dim)
        k, v, q = base.key(layer, k, rows).split(own), heads(v).split(own), q.split(own)
        key, value = guess[layer - maps.depth]
        key, value = base.key(layer, key, middle).split(ahead), heads(value).split(ahead)
        out = [base.attention(q[0], k[0], v[0], mask(layer, rows[:SINKS], rows[:SINKS]))]
        for i, (queries, own_k, own_v) in enumerate(zip(q[1:], k[1:], v[1:])):
            keys, values = torch.cat([k[0], *key[: i + 1], own_k]), torch.cat([v[0], *value[: i + 1], own_v])
            out.append(base.attention(queries, keys, values, mask(layer, seen[i][-BLOCK:], seen[i])))
        return torch.cat(out)

    h = x[-1][rows]
    for layer in range(maps.depth, base.n_layers):
        h = base.block(layer, h, rows, attend)
    return h[SINKS:]

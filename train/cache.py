"""The maps, with a layer of their own in front if there is one, and the base on a predicted cache exactly as the run time uses it:
the first tokens (sinks) and the last ones (tail, and the answer behind it) go through all layers, everything between is
predicted."""
import torch
import torch.nn.functional as F

from block import Block

SINKS = 4
TAIL = 32
BLOCK = 96  # the tail of a prompt and the answer behind it


class Maps(torch.nn.Module):
    """Linear maps from the normed stream to the deeper layers' keys (before norm and rotation) and values; the stream is that behind
    the trunk, or behind `own` layers that follow it. These begin as the base's, without effect."""

    def __init__(self, base, depth, own=0):
        super().__init__()
        self.depth, self.n = depth, base.n_layers - depth
        self.own = torch.nn.ModuleList(Block(base, depth + i) for i in range(own))
        for layer in self.own:
            for part in "attn_output", "ffn_down":
                layer.weights[part].data.zero_()
        self.weight = torch.nn.Parameter(torch.zeros(self.n * 2 * base.kv_dim, base.dim))
        self.bias = torch.nn.Parameter(torch.zeros(self.n * 2 * base.kv_dim))

    def forward(self, base, x):
        """`[n, dim]` behind the trunk, of a text from its beginning, to `[n, layers, 2, kv_dim]`."""
        for layer in self.own:
            x = layer(base, x[None])[0]
        h = base.rms(x, base.layers[self.depth]["attn_norm"])
        return F.linear(h, self.weight, self.bias).view(len(x), self.n, 2, base.kv_dim)


def predicted(base, maps, x, start):
    """Runs the deeper layers for the rows that are exact, on predicted entries for the rest, for several prompt lengths at once.

    `x` is the stream behind the trunk of a text. From `start` on the text is cut into blocks; each is the tail of a prompt and
    what follows it: it sees the sinks, predictions of all before its start, and itself. Returns the last streams of the blocks.
    """
    n_blocks = (len(x) - start) // BLOCK
    last = start + (n_blocks - 1) * BLOCK  # where the last block begins
    rows = torch.cat([torch.arange(SINKS), torch.arange(start, last + BLOCK)])
    middle = torch.arange(SINKS, last)
    # Gradients of pieces that are cut off one by one would fill and add the whole each time.
    guess = [layer.unbind(1) for layer in maps(base, x[:last])[SINKS:].unbind(1)]
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

    h = x[rows]
    for layer in range(maps.depth, base.n_layers):
        h = base.block(layer, h, rows, attend)
    return h[SINKS:]

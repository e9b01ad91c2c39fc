"""The maps, and the base on a predicted cache exactly as the run time uses it: the first tokens (sinks) and the last ones (tail, and
the answer behind it) go through all layers, everything between is predicted."""
import torch
import torch.nn.functional as F

SINKS = 4
TAIL = 32


class Maps(torch.nn.Module):
    """Linear maps from the normed stream behind the trunk to the deeper layers' keys (before norm and rotation) and values."""

    def __init__(self, base, depth):
        super().__init__()
        self.depth, self.n = depth, base.n_layers - depth
        self.weight = torch.nn.Parameter(torch.zeros(self.n * 2 * base.kv_dim, base.dim))
        self.bias = torch.nn.Parameter(torch.zeros(self.n * 2 * base.kv_dim))

    def forward(self, base, x):
        """`[n, dim]` behind the trunk to `[n, layers, 2, kv_dim]`."""
        h = base.rms(x, base.layers[self.depth]["attn_norm"])
        return F.linear(h, self.weight, self.bias).view(len(x), self.n, 2, base.kv_dim)


def predicted(base, maps, x, starts, end):
    """Runs the deeper layers for the rows that are exact, on predicted entries for the rest, for several prompt lengths at once.

    `x` is the stream behind the trunk of a text. The text is cut into blocks at `starts`; each block is the tail of a prompt and
    what follows it: it sees the sinks, predictions of all before its start, and itself. Returns the rows and their last streams.
    """
    n = end
    depth = maps.depth
    rows = torch.cat([torch.arange(SINKS), torch.arange(starts[0], n)])
    block = torch.full((len(rows),), -1)
    for i, s in enumerate(starts):
        block[rows >= s] = i
    own = (block[:, None] == block[None, :]) | (block[None, :] == -1)
    own &= rows[:, None] >= rows[None, :]
    begin = torch.tensor(list(starts))[block.clamp(min=0)]
    begin[block < 0] = 0
    middle = torch.arange(SINKS, starts[-1])
    seen = middle[None, :] < begin[:, None]
    mask = torch.cat([seen, own], 1)
    guess = maps(base, x[SINKS : starts[-1]])

    def attend(layer, q, k, v):
        pk, pv = guess[:, layer - depth, 0], guess[:, layer - depth, 1]
        keys = torch.cat([base.key(layer, pk, middle), base.key(layer, k, rows)])
        values = torch.cat([pv, v]).view(-1, base.n_kv, base.head_dim)
        m = mask
        if base.is_local(layer):
            at = torch.cat([middle, rows])
            m = mask & (rows[:, None] - at[None, :] < base.window)
        return base.attention(q, keys, values, m)

    h = x[rows]
    for layer in range(depth, base.n_layers):
        h = base.block(layer, h, rows, attend)
    return rows, h

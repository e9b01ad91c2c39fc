"""What training reads of the frozen base, computed once: of texts of `LENGTH` tokens the streams before every layer of
the trunk, behind it, and behind the last layer. None depends on what is trained, and all together are small (a trunk of 3: 5.8 KB
a token)."""
import os

import numpy as np
import torch

import processes

LENGTH = 576  # tokens of a text
SHRINK = 8  # of the last stream, which half floats hold then


def features(base, tokens, trunk, path):
    """`[texts, trunk + 2, LENGTH, dim]` in half floats, from the file at `path`, which is made where it is missing."""
    if not os.path.exists(path):
        width = LENGTH - len(base.bos)
        n = len(tokens) // width
        if processes.RANK == 0:
            np.lib.format.open_memmap(path + ".part", "w+", np.float16, (n, trunk + 2, LENGTH, base.dim))
        processes.wait()
        out = np.load(path + ".part", mmap_mode="r+")
        for i in processes.mine(range(n)):
            text = torch.from_numpy(tokens[i * width : (i + 1) * width]).long()
            last, behind, _ = base.run(base.begun(text), range(trunk + 1))
            out[i, :-1], out[i, -1] = torch.stack([behind[layer] for layer in range(trunk + 1)]), last / SHRINK
        out.flush()
        processes.wait()
        if processes.RANK == 0:
            os.rename(path + ".part", path)
        processes.wait()
    return np.load(path, mmap_mode="r")


def streams(data, rows):
    """Of some texts the streams `[texts, trunk + 1, LENGTH, dim]`, the last one that behind the trunk, and `[texts, LENGTH, dim]`
    behind the last layer."""
    x = torch.from_numpy(data[rows].astype(np.float32))
    return x[:, :-1], x[:, -1] * SHRINK


def frequent(tokens, n, special=0):
    """Ids of the `n` most frequent tokens, ascending; the first `special` ones always."""
    counts = np.bincount(tokens, minlength=int(tokens.max()) + 1).astype(np.int64)
    counts[:special] += counts.max() + 1
    return torch.from_numpy(np.sort(np.argsort(-counts, kind="stable")[:n]))

"""Makes src/quant/grids.bin: the grids of the IQ types, as `src/quant/grids.rs` reads them.

Run: python make_grids.py   (needs numpy and gguf; made with gguf 0.19)

An entry of a grid is 8 magnitudes of 2 bits, or 4 of 4 bits, the first lowest, as numbers into the grid's list of magnitudes.
Entries ascend within each grid and compress best as differences, which run on across the grids, modulo 2^16.
"""

from pathlib import Path

import numpy as np
from gguf import quants

GRIDS = [(quants.IQ2_XXS, 2), (quants.IQ2_XS, 2), (quants.IQ2_S, 2), (quants.IQ3_XXS, 4), (quants.IQ3_S, 4), (quants.IQ1_S, 2)]

entries = []
for grid, bits in GRIDS:
    grid.init_grid()
    fields = np.searchsorted(np.array(grid.grid_map, np.float32), grid.grid.reshape(grid.grid_shape))
    entries.append((fields << (bits * np.arange(fields.shape[1]))).sum(-1))
differences = np.diff(np.concatenate(entries), prepend=0).astype(np.uint16)
(Path(__file__).parent / "../../src/quant/grids.bin").write_bytes(differences.astype("<u2").tobytes())

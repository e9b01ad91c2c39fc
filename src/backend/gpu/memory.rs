//! What memory of a GPU holds.

use super::super::{BLOCK, CacheType, CellShape, MemoryUse, Scope};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::quant::panels::{Layout, PANEL, repack_panel};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Purpose {
    Weights,
    Cache,
    /// Activations and scratch.
    Work,
}

/// What a piece of memory is for, whose it is, and its size.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Allocation {
    pub(in crate::backend) purpose: Purpose,
    pub(in crate::backend) scope: Scope,
    pub(in crate::backend) bytes: usize,
}

/// Adds up what is held.
pub(in crate::backend) fn memory_use(held: impl Iterator<Item = Allocation>) -> MemoryUse {
    let mut sum = MemoryUse::default();
    for Allocation { purpose, bytes, .. } in held {
        match purpose {
            Purpose::Weights => sum.weights += bytes,
            Purpose::Cache => sum.cache += bytes,
            Purpose::Work => sum.buffers += bytes,
        }
    }
    sum
}

/// A KV cache.
pub(in crate::backend) struct CacheData<P> {
    /// The paged layers.
    pub(in crate::backend) layers: Vec<LayerData<P>>,
    /// Which of these each layer attends to.
    pub(in crate::backend) index: Vec<usize>,
    /// States of each layer that keeps some, `[n_slots, floats]`, and the bytes of one.
    pub(in crate::backend) states: Vec<Option<(P, usize)>>,
}

/// Keys and values of a layer: `[cell][keys, then values of each head][words of an entry]`.
#[derive(Clone, Copy)]
pub(in crate::backend) struct LayerData<P> {
    pub(in crate::backend) shape: CellShape,
    pub(in crate::backend) place: P,
}

impl<P: Copy> CacheData<P> {
    /// What a layer attends to.
    pub(in crate::backend) fn layer(&self, layer: usize) -> LayerData<P> {
        self.layers[self.index[layer]]
    }

    /// The states of a layer, which must keep some.
    pub(in crate::backend) fn states(&self, layer: usize) -> P {
        self.states[layer].expect("a layer with states").0
    }
}

/// Words of so many blocks of a layer.
pub(in crate::backend) fn layer_words(n_blocks: usize, shape: &CellShape) -> usize {
    n_blocks.saturating_mul(BLOCK * cell_words(shape))
}

/// Words of a cell in one layer: keys, then values of each head.
pub(in crate::backend) fn cell_words(shape: &CellShape) -> usize {
    let entry = match shape.ty {
        CacheType::F32 => shape.head_dim,
        CacheType::F16 => shape.head_dim / 2,
        CacheType::Q8_0 => shape.head_dim / 4 + shape.head_dim / 32,
    };
    2 * shape.n_kv_heads * entry
}

/// Whether the attention kernels take heads of this size: words of four values, up to a number that their memory allows.
pub(in crate::backend) fn check_heads(shape: &CellShape, most: usize) -> Result<()> {
    if shape.head_dim <= most && shape.head_dim.is_multiple_of(4) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "heads of {} values do not run on the GPU (multiples of 4 up to {most}); use the CPU",
        shape.head_dim
    )))
}

/// How many rows of a weight `[rows, cols]` `bytes` are, which are to be loaded from `first_row` on; see
/// [`load_rows`](super::super::Backend::load_rows).
pub(in crate::backend) fn check_rows(
    ty: TensorType,
    (rows, cols): (usize, usize),
    first_row: usize,
    bytes: &[u8],
) -> Result<usize> {
    let row_bytes = ty.row_bytes(cols).unwrap_or(0);
    let n_rows = bytes.len() / row_bytes.max(1);
    if !first_row.is_multiple_of(PANEL) || n_rows * row_bytes != bytes.len() || first_row + n_rows > rows {
        return Err(Error::invalid_request(format!(
            "rows from {first_row} in {} bytes do not fit a weight of {rows} rows",
            bytes.len()
        )));
    }
    Ok(n_rows)
}

/// Fills `panels` with whole rows in file form.
pub(in crate::backend) fn repack(ty: TensorType, cols: usize, bytes: &[u8], panels: &mut Vec<u32>) {
    let (row_bytes, words) = (ty.row_bytes(cols).unwrap_or(0), Layout::of(ty).panel_words(cols));
    panels.resize((bytes.len() / row_bytes.max(1)).div_ceil(PANEL) * words, 0);
    for (rows, panel) in bytes.chunks((PANEL * row_bytes).max(1)).zip(panels.chunks_exact_mut(words.max(1))) {
        repack_panel(ty, cols, rows, panel);
    }
}

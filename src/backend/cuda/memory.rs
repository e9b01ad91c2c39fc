//! What lies in GPU memory.

use super::super::{BLOCK, CacheShape, CacheType, MemoryUse, Weight};
use super::device::{Address, Device};
use super::link::{MAX_HEAD_DIM, is_float};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL, repack_panel};

/// An f32 matrix.
pub(super) struct Matrix {
    pub(super) address: Address,
    pub(super) cols: usize,
}

/// An operand in the forms that its readers need; `Operand` of `shaders/cuda/operand.cuh`. 0 where a form is not needed.
pub(super) struct OperandData {
    pub(super) floats: Address,
    pub(super) codes: Address,
    pub(super) scales: Address,
    /// Groups of [`GROUP_COLS`] columns.
    pub(super) groups: usize,
}

/// A weight matrix in panels.
pub(super) struct WeightData {
    pub(super) ty: TensorType,
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) address: Address,
}

/// A KV cache: `[layer][cell][keys, then values of each head][words of an entry]`.
pub(super) struct CacheData {
    pub(super) shape: CacheShape,
    pub(super) address: Address,
}

impl CacheData {
    /// Words of a cell in one layer; `ENTRY` in `shaders/cuda/cells` for each head.
    pub(super) fn cell_words(shape: &CacheShape) -> usize {
        let entry = match shape.ty {
            CacheType::F32 => shape.head_dim,
            CacheType::F16 => shape.head_dim / 2,
            CacheType::Q8_0 => shape.head_dim / 4 + shape.head_dim / 32,
        };
        2 * shape.n_kv_heads * entry
    }

    /// Words of a layer.
    pub(super) fn layer_words(&self) -> usize {
        self.shape.n_blocks * BLOCK * Self::cell_words(&self.shape)
    }

    /// Where a layer starts.
    pub(super) fn layer(&self, layer: usize) -> Address {
        self.address + (layer * self.layer_words() * 4) as u64
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) bufs: Vec<Matrix>,
    pub(super) operands: Vec<OperandData>,
    pub(super) weights: Vec<WeightData>,
    pub(super) caches: Vec<CacheData>,
    pub(super) used: MemoryUse,
    panels: Vec<u32>,
}

impl Memory {
    pub(super) fn new_buf(&mut self, device: &mut Device, rows: usize, cols: usize) -> Result<u32> {
        let bytes = rows.saturating_mul(cols).saturating_mul(4);
        let address = device.alloc(bytes)?;
        self.used.buffers += bytes;
        self.bufs.push(Matrix { address, cols });
        Ok(self.bufs.len() as u32 - 1)
    }

    pub(super) fn new_operand(
        &mut self,
        device: &mut Device,
        rows: usize,
        cols: usize,
        readers: &[Weight],
    ) -> Result<u32> {
        let groups = cols.div_ceil(GROUP_COLS);
        let n = rows.saturating_mul(groups);
        let mut form = |wanted: bool, bytes: usize| -> Result<Address> {
            if !wanted {
                return Ok(0);
            }
            let bytes = n.saturating_mul(bytes);
            self.used.buffers += bytes;
            device.alloc(bytes)
        };
        let floats = |w: &Weight| is_float(self.weights[w.0 as usize].layout);
        let (some_floats, some_codes) = (readers.iter().any(floats), readers.iter().any(|w| !floats(w)));
        let data = OperandData {
            floats: form(some_floats, 4 * GROUP_COLS)?,
            codes: form(some_codes, GROUP_COLS)?,
            scales: form(some_codes, 8)?,
            groups,
        };
        self.operands.push(data);
        Ok(self.operands.len() as u32 - 1)
    }

    pub(super) fn new_cache(&mut self, device: &mut Device, shape: CacheShape) -> Result<u32> {
        if shape.head_dim > MAX_HEAD_DIM || !shape.head_dim.is_multiple_of(4) {
            return Err(Error::unsupported(format!(
                "heads of {} values do not run on CUDA (multiples of 4 up to {MAX_HEAD_DIM}); use the CPU",
                shape.head_dim
            )));
        }
        let layer = shape.n_blocks.saturating_mul(BLOCK * CacheData::cell_words(&shape) * 4);
        let bytes = layer.saturating_mul(shape.n_layers);
        let address = device.alloc(bytes)?;
        self.used.cache += bytes;
        self.caches.push(CacheData { shape, address });
        Ok(self.caches.len() as u32 - 1)
    }

    pub(super) fn new_weight(&mut self, device: &mut Device, ty: TensorType, rows: usize, cols: usize) -> Result<u32> {
        let layout = Layout::of(ty);
        let bytes = rows.div_ceil(PANEL).saturating_mul(layout.panel_words(cols)).saturating_mul(4);
        let address = device.alloc(bytes)?;
        self.used.weights += bytes;
        self.weights.push(WeightData { ty, layout, rows, cols, address });
        Ok(self.weights.len() as u32 - 1)
    }

    /// Repacks rows and sends them.
    pub(super) fn load_rows(&mut self, device: &Device, weight: u32, first_row: usize, bytes: &[u8]) -> Result<()> {
        let weight = &self.weights[weight as usize];
        let (ty, cols) = (weight.ty, weight.cols);
        let row_bytes = ty.row_bytes(cols).unwrap_or(0);
        let n_rows = bytes.len() / row_bytes.max(1);
        if !first_row.is_multiple_of(PANEL) || n_rows * row_bytes != bytes.len() || first_row + n_rows > weight.rows {
            return Err(Error::invalid_request(format!(
                "rows from {first_row} in {} bytes do not fit a weight of {} rows",
                bytes.len(),
                weight.rows
            )));
        }
        let words = weight.layout.panel_words(cols);
        self.panels.resize(n_rows.div_ceil(PANEL) * words, 0);
        for (rows, panel) in bytes.chunks(PANEL * row_bytes).zip(self.panels.chunks_exact_mut(words)) {
            repack_panel(ty, cols, rows, panel);
        }
        device.upload(weight.address + (first_row / PANEL * words * 4) as u64, &self.panels)
    }
}

//! GPU memory: weights side by side in a few large buffers, one buffer for everything else.
//!
//! No binding may exceed what the device allows (128 MiB on phones), so a large weight is cut into parts of whole panels.
//! Weights share buffers, so that one dispatch can read several.

use super::super::{BLOCK, CacheShape, CacheType, MemoryUse};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::quant::panels::{Layout, PANEL, repack_panel};
use std::ops::Range;

/// Index of a buffer.
pub(super) type BufferId = u32;

/// Size of a buffer that several weights share.
const CHUNK: usize = 16 << 20;

/// Bytes handed to the queue before it is made to send them: what the driver holds besides the weights while loading.
const STAGING: usize = 8 << 20;

/// An f32 matrix.
pub(super) struct Matrix {
    pub(super) buffer: BufferId,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// What was last written, for single rows (rotary angles are made on the host).
    pub(super) host: Vec<f32>,
}

/// An operand: floats, rows padded to whole groups of 32 columns.
pub(super) struct OperandData {
    pub(super) buffer: BufferId,
    pub(super) stride: usize,
}

/// A weight matrix.
pub(super) struct WeightData {
    pub(super) ty: TensorType,
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) parts: Vec<Part>,
}

/// Rows of a weight that lie in one buffer.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) buffer: BufferId,
    /// Place in the buffer, in vectors of 16 bytes.
    pub(super) at: usize,
}

/// A KV cache, one buffer a layer: `[cell][keys, then values of each head][words of an entry]`.
pub(super) struct CacheData {
    pub(super) shape: CacheShape,
    pub(super) layers: Vec<BufferId>,
}

impl CacheData {
    /// Words of one head's key or value; `entry_words` in the shaders.
    fn entry_words(shape: &CacheShape) -> usize {
        match shape.ty {
            CacheType::F32 => shape.head_dim,
            CacheType::F16 => shape.head_dim / 2,
            CacheType::Q8_0 => shape.head_dim / 4 + shape.head_dim / 32,
        }
    }

    /// Words of a cell in one layer.
    pub(super) fn cell_words(&self) -> usize {
        2 * self.shape.n_kv_heads * Self::entry_words(&self.shape)
    }
}

/// A buffer that grows with what steps need of it, and its bytes.
#[derive(Default)]
pub(super) struct Scratch(Option<(BufferId, usize)>);

/// See the module text.
pub(super) struct Memory {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    buffers: Vec<wgpu::Buffer>,
    pub(super) bufs: Vec<Matrix>,
    pub(super) operands: Vec<OperandData>,
    pub(super) weights: Vec<WeightData>,
    pub(super) caches: Vec<CacheData>,
    /// The shared buffer that is being filled, its size and what is used of it.
    chunk: Option<(BufferId, usize, usize)>,
    /// Largest binding.
    max_bytes: usize,
    staged: usize,
    panel: Vec<u32>,
    pub(super) used: MemoryUse,
}

impl Memory {
    pub(super) fn new(device: wgpu::Device, queue: wgpu::Queue, max_binding: u64) -> Self {
        let limits = device.limits();
        let max_bytes = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(max_binding);
        Memory {
            device,
            queue,
            buffers: Vec::new(),
            bufs: Vec::new(),
            operands: Vec::new(),
            weights: Vec::new(),
            caches: Vec::new(),
            chunk: None,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX) & !255,
            staged: 0,
            panel: Vec::new(),
            used: MemoryUse::default(),
        }
    }

    pub(super) fn buffer(&self, id: BufferId) -> &wgpu::Buffer {
        &self.buffers[id as usize]
    }

    /// Whether a buffer can be as large as that.
    pub(super) fn check_size(&self, what: &str, bytes: usize) -> Result<()> {
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(Error::out_of_memory(format!(
            "the GPU allows buffers of {} bytes, but {what} takes {bytes}; use a shorter context or smaller batches",
            self.max_bytes
        )))
    }

    /// A zeroed storage buffer.
    pub(super) fn storage(&mut self, what: &'static str, bytes: usize) -> Result<BufferId> {
        self.check_size(what, bytes)?;
        self.buffers.push(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes.max(16).next_multiple_of(16) as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }));
        Ok(self.buffers.len() as u32 - 1)
    }

    /// The buffer of `scratch`, at least `bytes` long.
    pub(super) fn scratch(&mut self, scratch: &mut Scratch, what: &'static str, bytes: usize) -> Result<BufferId> {
        match scratch.0 {
            Some((id, size)) if size >= bytes => Ok(id),
            _ => {
                let size = bytes.next_power_of_two().max(1024);
                let id = self.storage(what, size)?;
                scratch.0 = Some((id, size));
                Ok(id)
            }
        }
    }

    /// Buffers of `bytes` in all, which nobody uses.
    pub(super) fn probe(&self, bytes: u64) -> Vec<wgpu::Buffer> {
        let most = self.max_bytes as u64;
        let sizes = (0..bytes).step_by(self.max_bytes.max(1)).map(|at| most.min(bytes - at).next_multiple_of(4));
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let label = Some("a question for room");
        let buffer = |size| wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
        sizes.map(|size| self.device.create_buffer(&buffer(size))).collect()
    }

    pub(super) fn new_buf(&mut self, rows: usize, cols: usize) -> Result<u32> {
        let bytes = rows.saturating_mul(cols).saturating_mul(4);
        let buffer = self.storage("a work buffer", bytes)?;
        self.used.buffers += bytes;
        self.bufs.push(Matrix { buffer, rows, cols, host: Vec::new() });
        Ok(self.bufs.len() as u32 - 1)
    }

    pub(super) fn write(&mut self, buf: u32, first_row: usize, data: &[f32]) {
        let matrix = &mut self.bufs[buf as usize];
        if matrix.rows == 1 {
            matrix.host = data.to_vec();
        }
        let at = (first_row * matrix.cols * 4) as u64;
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.queue.write_buffer(&self.buffers[matrix.buffer as usize], at, &bytes);
    }

    pub(super) fn new_operand(&mut self, rows: usize, cols: usize) -> Result<u32> {
        let stride = cols.next_multiple_of(crate::quant::panels::GROUP_COLS);
        let bytes = rows.saturating_mul(stride).saturating_mul(4);
        let buffer = self.storage("a work buffer", bytes)?;
        self.used.buffers += bytes;
        self.operands.push(OperandData { buffer, stride });
        Ok(self.operands.len() as u32 - 1)
    }

    pub(super) fn new_cache(&mut self, shape: CacheShape) -> Result<u32> {
        if shape.head_dim > super::link::MAX_HEAD_DIM || !shape.head_dim.is_multiple_of(4) {
            return Err(Error::unsupported(format!(
                "heads of {} values do not run on the GPU (multiples of 4 up to {}); use the CPU",
                shape.head_dim,
                super::link::MAX_HEAD_DIM
            )));
        }
        let words = 2 * shape.n_kv_heads * CacheData::entry_words(&shape);
        let bytes = shape.n_blocks.saturating_mul(BLOCK * words * 4);
        let mut layers = Vec::with_capacity(shape.n_layers);
        for _ in 0..shape.n_layers {
            layers.push(self.storage("a layer of the KV cache", bytes)?);
        }
        self.used.cache += bytes * shape.n_layers;
        self.caches.push(CacheData { shape, layers });
        Ok(self.caches.len() as u32 - 1)
    }

    pub(super) fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<u32> {
        let layout = Layout::of(ty);
        let panel_bytes = layout.panel_words(cols) * 4;
        let max_panels = self.max_bytes / panel_bytes.max(1);
        if max_panels == 0 {
            return Err(Error::out_of_memory(format!(
                "the GPU allows buffers of {} bytes, too few for 16 rows of {cols} weights",
                self.max_bytes
            )));
        }
        let mut parts = Vec::new();
        for first in (0..rows).step_by(max_panels * PANEL) {
            let rows = first..(first + max_panels * PANEL).min(rows);
            let (buffer, at) = self.place(rows.len().div_ceil(PANEL) * panel_bytes)?;
            parts.push(Part { rows, buffer, at: at / 16 });
        }
        self.weights.push(WeightData { ty, layout, rows, cols, parts });
        Ok(self.weights.len() as u32 - 1)
    }

    /// Memory for `bytes` of weights: the buffer and the first byte in it.
    fn place(&mut self, bytes: usize) -> Result<(BufferId, usize)> {
        let chunk = CHUNK.min(self.max_bytes);
        if bytes > chunk / 2 {
            self.used.weights += bytes;
            return Ok((self.storage("weights", bytes)?, 0));
        }
        let (buffer, used) = match self.chunk {
            Some((buffer, size, used)) if used + bytes <= size => (buffer, used),
            _ => {
                self.used.weights += chunk;
                (self.storage("weights", chunk)?, 0)
            }
        };
        self.chunk = Some((buffer, chunk, used + bytes));
        Ok((buffer, used))
    }

    /// Repacks rows and hands them to the queue, a few megabytes at a time.
    pub(super) fn load_rows(&mut self, weight: u32, first_row: usize, bytes: &[u8]) -> Result<()> {
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
        for part in weight.parts.clone() {
            let rows = part.rows.start.max(first_row)..part.rows.end.min(first_row + n_rows);
            if rows.is_empty() {
                continue;
            }
            let data = &bytes[(rows.start - first_row) * row_bytes..(rows.end - first_row) * row_bytes];
            self.panel.resize(rows.len().div_ceil(PANEL) * words, 0);
            for (rows, panel) in data.chunks(PANEL * row_bytes).zip(self.panel.chunks_exact_mut(words)) {
                repack_panel(ty, cols, rows, panel);
            }
            let at = part.at * 16 + (rows.start - part.rows.start) / PANEL * words * 4;
            let packed: Vec<u8> = self.panel.iter().flat_map(|w| w.to_le_bytes()).collect();
            self.queue.write_buffer(self.buffer(part.buffer), at as u64, &packed);
            self.staged += packed.len();
        }
        if self.staged > STAGING {
            self.send();
        }
        Ok(())
    }

    /// Makes the queue send what was written, and gives its staging memory back.
    pub(super) fn send(&mut self) {
        self.queue.submit([]);
        // Fails only when the device is lost, which the next read reports.
        _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.staged = 0;
    }
}

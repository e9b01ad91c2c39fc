//! GPU memory: weights side by side in a few large buffers, one buffer for everything else.
//!
//! No binding may exceed what the device allows (128 MiB on phones), so a large weight is cut into parts of whole panels.
//! Weights share buffers, so that one dispatch can read several.

use super::super::gpu::{
    Allocation, CacheData, LayerData, Purpose, check_heads, check_rows, layer_words, memory_use, repack,
};
use super::super::handles::{Scopes, Table};
use super::super::{Buf, Cache, CacheSpec, MemoryUse, Operand, Scope, Weight};
use super::link::MAX_HEAD_DIM;
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::quant::panels::{Layout, PANEL};
use slotmap::{SlotMap, new_key_type};
use std::ops::Range;

new_key_type! {
    /// A buffer of the device.
    pub(in crate::backend) struct BufferId;
}

/// Size of a buffer that several weights share.
const CHUNK: usize = 16 << 20;

/// Bytes handed to the queue before it is made to send them: what the driver holds besides the weights while loading.
const STAGING: usize = 8 << 20;

/// An f32 matrix.
pub(super) struct Matrix {
    pub(super) buffer: BufferId,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// A copy of a matrix of one row: rotary angles are made from their frequencies on the host.
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

/// A buffer that weights of one scope share.
struct Chunk {
    buffer: BufferId,
    scope: Scope,
    /// Bytes that weights have.
    used: usize,
}

/// See the module text.
pub(super) struct Memory {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    buffers: SlotMap<BufferId, (Allocation, wgpu::Buffer)>,
    pub(super) scopes: Scopes,
    pub(super) bufs: Table<Buf, Matrix>,
    pub(super) operands: Table<Operand, OperandData>,
    pub(super) weights: Table<Weight, WeightData>,
    pub(super) caches: Table<Cache, CacheData<BufferId>>,
    /// The one that is being filled.
    chunk: Option<Chunk>,
    /// Largest binding.
    max_bytes: usize,
    staged: usize,
    panels: Vec<u32>,
}

impl Memory {
    pub(super) fn new(device: wgpu::Device, queue: wgpu::Queue, max_binding: u64) -> Self {
        let limits = device.limits();
        let max_bytes = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(max_binding);
        Memory {
            device,
            queue,
            buffers: SlotMap::with_key(),
            scopes: Scopes::default(),
            bufs: Table::default(),
            operands: Table::default(),
            weights: Table::default(),
            caches: Table::default(),
            chunk: None,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX) & !255,
            staged: 0,
            panels: Vec::new(),
        }
    }

    pub(super) fn buffer(&self, id: BufferId) -> &wgpu::Buffer {
        &self.buffers[id].1
    }

    /// Whether a buffer has not been freed.
    pub(super) fn holds(&self, id: BufferId) -> bool {
        self.buffers.contains_key(id)
    }

    /// What all buffers take.
    pub(super) fn used(&self) -> MemoryUse {
        memory_use(self.buffers.values().map(|(allocation, _)| *allocation))
    }

    /// Frees a buffer, which must not stand in commands that were not sent.
    pub(super) fn free(&mut self, id: BufferId) {
        if let Some((_, buffer)) = self.buffers.remove(id) {
            buffer.destroy();
        }
    }

    /// Frees all that belongs to a scope; see [`Memory::free`].
    pub(super) fn release(&mut self, scope: Scope) {
        self.bufs.release(scope);
        self.operands.release(scope);
        self.weights.release(scope);
        self.caches.release(scope);
        self.buffers.retain(|_, (allocation, buffer)| {
            let stays = allocation.scope != scope;
            if !stays {
                buffer.destroy();
            }
            stays
        });
        self.chunk.take_if(|chunk| chunk.scope == scope);
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

    /// A zeroed storage buffer of a scope.
    fn storage(&mut self, scope: Scope, purpose: Purpose, bytes: usize) -> Result<BufferId> {
        let what = match purpose {
            Purpose::Weights => "weights",
            Purpose::Cache => "a layer of the KV cache",
            Purpose::Work => "a work buffer",
        };
        self.check_size(what, bytes)?;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes.max(16).next_multiple_of(16) as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Ok(self.buffers.insert((Allocation { purpose, scope, bytes }, buffer)))
    }

    /// A zeroed storage buffer that belongs to no file.
    pub(super) fn work(&mut self, bytes: usize) -> Result<BufferId> {
        self.storage(Scope::default(), Purpose::Work, bytes)
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

    pub(super) fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        let scope = self.scopes.current();
        let buffer = self.storage(scope, Purpose::Work, rows.saturating_mul(cols).saturating_mul(4))?;
        Ok(self.bufs.insert(scope, Matrix { buffer, rows, cols, host: Vec::new() }))
    }

    pub(super) fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) {
        let matrix = &mut self.bufs[buf];
        if matrix.rows == 1 {
            matrix.host = data.to_vec();
        }
        let at = (first_row * matrix.cols * 4) as u64;
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.queue.write_buffer(&self.buffers[matrix.buffer].1, at, &bytes);
    }

    pub(super) fn new_operand(&mut self, rows: usize, cols: usize) -> Result<Operand> {
        let (scope, stride) = (self.scopes.current(), cols.next_multiple_of(crate::quant::panels::GROUP_COLS));
        let buffer = self.storage(scope, Purpose::Work, rows.saturating_mul(stride).saturating_mul(4))?;
        Ok(self.operands.insert(scope, OperandData { buffer, stride }))
    }

    pub(super) fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        let (shapes, index) = spec.paged_layers()?;
        let (scope, mut layers) = (self.scopes.current(), Vec::with_capacity(shapes.len()));
        for shape in shapes {
            check_heads(&shape, MAX_HEAD_DIM)?;
            let bytes = layer_words(spec.n_blocks, &shape).saturating_mul(4);
            layers.push(LayerData { shape, place: self.storage(scope, Purpose::Cache, bytes)? });
        }
        let one = CacheSpec { n_slots: 1, ..spec.clone() };
        let mut state = |floats: usize| match floats {
            0 => Ok(None),
            n => {
                let place = self.storage(scope, Purpose::Cache, spec.n_slots.saturating_mul(n * 4));
                place.map(|place| Some((place, n * 4)))
            }
        };
        let states = one.state_floats().map(&mut state).collect::<Result<Vec<_>>>()?;
        Ok(self.caches.insert(scope, CacheData { layers, index, states }))
    }

    /// Gives each paged layer so many blocks, one layer after the other; see [`Memory::free`].
    pub(super) fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        for i in 0..self.caches[cache].layers.len() {
            let LayerData { shape, place: old } = self.caches[cache].layers[i];
            self.caches[cache].layers[i].place = self.resized(old, layer_words(n_blocks, &shape).saturating_mul(4))?;
            self.free(old);
        }
        Ok(())
    }

    /// The same for slots of the layers that keep states.
    pub(super) fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()> {
        for i in 0..self.caches[cache].states.len() {
            let Some((old, bytes)) = self.caches[cache].states[i] else { continue };
            self.caches[cache].states[i] = Some((self.resized(old, n_slots.saturating_mul(bytes))?, bytes));
            self.free(old);
        }
        Ok(())
    }

    /// A buffer of so many bytes that begins as an old one does.
    fn resized(&mut self, old: BufferId, bytes: usize) -> Result<BufferId> {
        let held = self.buffers[old].0;
        let new = self.storage(held.scope, Purpose::Cache, bytes)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(self.buffer(old), 0, self.buffer(new), 0, bytes.min(held.bytes) as u64);
        self.queue.submit([encoder.finish()]);
        Ok(new)
    }

    pub(super) fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
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
        Ok(self.weights.insert(self.scopes.current(), WeightData { ty, layout, rows, cols, parts }))
    }

    /// Memory for `bytes` of weights: the buffer and the first byte in it.
    fn place(&mut self, bytes: usize) -> Result<(BufferId, usize)> {
        let (size, scope) = (CHUNK.min(self.max_bytes), self.scopes.current());
        if bytes > size / 2 {
            return Ok((self.storage(scope, Purpose::Weights, bytes)?, 0));
        }
        let (buffer, at) = match &self.chunk {
            Some(chunk) if chunk.scope == scope && chunk.used + bytes <= size => (chunk.buffer, chunk.used),
            _ => (self.storage(scope, Purpose::Weights, size)?, 0),
        };
        self.chunk = Some(Chunk { buffer, scope, used: at + bytes });
        Ok((buffer, at))
    }

    /// Repacks rows and hands them to the queue, a few megabytes at a time.
    pub(super) fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        let weight = &self.weights[weight];
        let (ty, cols) = (weight.ty, weight.cols);
        let n_rows = check_rows(ty, (weight.rows, cols), first_row, bytes)?;
        let row_bytes = ty.row_bytes(cols).unwrap_or(0);
        let words = weight.layout.panel_words(cols);
        for part in weight.parts.clone() {
            let rows = part.rows.start.max(first_row)..part.rows.end.min(first_row + n_rows);
            if rows.is_empty() {
                continue;
            }
            let data = &bytes[(rows.start - first_row) * row_bytes..(rows.end - first_row) * row_bytes];
            repack(ty, cols, data, &mut self.panels);
            let at = part.at * 16 + (rows.start - part.rows.start) / PANEL * words * 4;
            let packed: Vec<u8> = self.panels.iter().flat_map(|w| w.to_le_bytes()).collect();
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

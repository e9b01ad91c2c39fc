//! Paged keys and values in memory.
//!
//! A block of 32 cells holds, for each head, keys `[head_dim][32 cells]` and values `[32 cells][head_dim]`: both
//! attention products then run along registers without sums across lanes. With 8-bit entries, half-float scales follow the
//! codes: `[head_dim / 32][32]` for keys, `[32][head_dim / 32]` for values. Where attention computes with integers of 16 bits,
//! entries of 16 bits are such integers ([`super::words`]).

use super::super::{BLOCK, CacheSpec, CacheType, CellShape};
use super::memory::AlignedBytes;
use super::pool::Pool;
use super::simd::{Level, Simd};
use super::words;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// A cache of all layers.
pub(super) struct CacheData {
    /// The paged ones.
    layers: Vec<LayerData>,
    /// Which of these each layer attends to.
    index: Vec<usize>,
    /// States of each layer, `[n_slots, floats]`, and the floats of one.
    states: Vec<(Vec<f32>, usize)>,
}

/// Keys and values of a layer.
pub(super) struct LayerData {
    shape: CellShape,
    /// Whether entries are integers of 16 bits.
    words: bool,
    /// `[n_blocks][keys then values][n_kv_heads][head_bytes]`.
    bytes: AlignedBytes,
}

/// Whether an entry is a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl CacheData {
    pub(super) fn new(spec: &CacheSpec, level: Level) -> Result<Self> {
        let (shapes, index) = spec.paged_layers()?;
        let words = |shape: &CellShape| words::fit(shape, level);
        let mut layers = Vec::new();
        for shape in shapes {
            let words = words(&shape);
            layers.push(LayerData { shape, words, bytes: blocks(spec.n_blocks, block_bytes(&shape, words))? });
        }
        let floats = CacheSpec { n_slots: 1, ..spec.clone() };
        let mut cache = CacheData { layers, index, states: floats.state_floats().map(|n| (Vec::new(), n)).collect() };
        cache.resize_states(spec.n_slots)?;
        Ok(cache)
    }

    pub(super) fn bytes(&self) -> usize {
        let states = self.states.iter().map(|(states, _)| size_of_val(&states[..]));
        self.layers.iter().map(|layer| layer.bytes.get().len()).chain(states).sum()
    }

    /// Gives each layer so many blocks, one layer after the other: memory never holds more than one of them twice.
    pub(super) fn resize(&mut self, n_blocks: usize) -> Result<()> {
        for layer in &mut self.layers {
            let mut bytes = blocks(n_blocks, layer.block_bytes())?;
            let kept = bytes.get().len().min(layer.bytes.get().len());
            bytes.get_mut()[..kept].copy_from_slice(&layer.bytes.get()[..kept]);
            layer.bytes = bytes;
        }
        Ok(())
    }

    /// Gives each layer that keeps states so many slots.
    pub(super) fn resize_states(&mut self, n_slots: usize) -> Result<()> {
        for (states, floats) in &mut self.states {
            let n = n_slots.saturating_mul(*floats);
            states.try_reserve_exact(n.saturating_sub(states.len())).map_err(|e| {
                let bytes = n.saturating_mul(size_of::<f32>());
                Error::out_of_memory(format!("no memory for {bytes} bytes of a layer's states")).caused_by(e)
            })?;
            states.resize(n, 0.0);
            states.shrink_to_fit();
        }
        Ok(())
    }

    /// The states of a layer.
    pub(super) fn states(&mut self, layer: usize) -> &mut [f32] {
        &mut self.states[layer].0
    }

    /// What a layer attends to.
    #[inline]
    pub(super) fn layer(&self, layer: usize) -> &LayerData {
        &self.layers[self.index[layer]]
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> &mut LayerData {
        &mut self.layers[self.index[layer]]
    }

    /// Copies cells of all layers, in order.
    pub(super) fn move_cells(&mut self, moves: &[(u32, u32)]) {
        self.layers.iter_mut().for_each(|layer| layer.move_cells(moves));
    }
}

/// Memory of a layer.
fn blocks(n: usize, block_bytes: usize) -> Result<AlignedBytes> {
    let bytes = n.saturating_mul(block_bytes);
    AlignedBytes::new(bytes).ok_or_else(|| {
        Error::out_of_memory(format!(
            "no memory for {bytes} bytes of a layer's KV cache; use a shorter context or a q8_0 cache"
        ))
    })
}

#[inline]
fn head_bytes(shape: &CellShape, words: bool) -> usize {
    if words { words::head_bytes(shape.head_dim) } else { shape.ty.bytes(shape.head_dim * BLOCK) }
}

#[inline]
fn block_bytes(shape: &CellShape, words: bool) -> usize {
    2 * shape.n_kv_heads * head_bytes(shape, words)
}

impl LayerData {
    #[inline]
    pub(super) fn shape(&self) -> &CellShape {
        &self.shape
    }

    /// Whether entries are integers of 16 bits.
    #[inline]
    pub(super) fn words(&self) -> bool {
        words::BUILT && self.words
    }

    #[inline]
    fn block_bytes(&self) -> usize {
        block_bytes(&self.shape, self.words())
    }

    /// One head's keys or values in a block.
    #[inline(always)]
    pub(super) fn head(&self, block: usize, part: Part, head: usize) -> &[u8] {
        let at = self.head_at(part, head);
        &self.bytes.get()[block * self.block_bytes()..][at]
    }

    /// Where a head lies in its block.
    #[inline]
    fn head_at(&self, part: Part, head: usize) -> std::ops::Range<usize> {
        let bytes = head_bytes(&self.shape, self.words());
        let index = if part == Part::Key { head } else { self.shape.n_kv_heads + head };
        index * bytes..(index + 1) * bytes
    }

    /// Expands one head of a block to floats: keys `[head_dim][32]`, values `[32][head_dim]`.
    #[inline(always)]
    pub(super) fn expand<S: Simd>(&self, s: S, block: usize, part: Part, head: usize, out: &mut [f32]) {
        let bytes = self.head(block, part, head);
        let n = self.shape.head_dim * BLOCK;
        let out = &mut out[..n];
        match self.shape.ty {
            CacheType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            CacheType::F16 => {
                for (o, b) in out.chunks_exact_mut(S::LANES).zip(bytes.chunks_exact(2 * S::LANES)) {
                    s.store_f(s.load_f16(b), o);
                }
            }
            CacheType::Q8_0 => {
                let (codes, scales) = bytes.split_at(n);
                for (i, (o, b)) in out.chunks_exact_mut(S::LANES).zip(codes.chunks_exact(S::LANES)).enumerate() {
                    let at = i * S::LANES;
                    let scale = match part {
                        // Neighbours are cells of one dimension, each with its own scale.
                        Part::Key => s.load_f16(&scales[(at / (32 * BLOCK) * BLOCK + at % BLOCK) * 2..]),
                        Part::Value => s.splat(get_half(scales, at / 32)),
                    };
                    s.store_f(s.mul(s.load_i8(b), scale), o);
                }
            }
        }
    }

    /// Writes keys and values `[n, n_kv_heads * head_dim]` to cells; `writes` is `(cell, row)`, ascending, and `blocks` are
    /// the blocks of these cells, each once, ascending.
    pub(super) fn append(
        &mut self,
        (pool, level): (&Pool, Level),
        blocks: &[u32],
        writes: &[(u32, u32)],
        kv: [&[f32]; 2],
    ) {
        let shape = self.shape;
        let (dim, words, block_bytes) = (shape.head_dim, self.words(), self.block_bytes());
        let ranges: [_; 2] = [Part::Key, Part::Value].map(|part| self.head_at(part, 0));
        pool.chunks(self.bytes.get_mut(), block_bytes, blocks, &|i, bytes| {
            let first = blocks[i] * BLOCK as u32;
            let start = writes.partition_point(|&(cell, _)| cell < first);
            for &(cell, row) in writes[start..].iter().take_while(|(cell, _)| *cell < first + BLOCK as u32) {
                let slot = (cell - first) as usize;
                for (range, (part, rows)) in ranges.iter().zip([(Part::Key, kv[0]), (Part::Value, kv[1])]) {
                    for head in 0..shape.n_kv_heads {
                        let values = &rows[(row as usize * shape.n_kv_heads + head) * dim..][..dim];
                        let out = &mut bytes[range.start + head * range.len()..][..range.len()];
                        match words {
                            true => level.run(words::Store { part, slot, values, out }),
                            false => store(shape.ty, part, slot, values, out),
                        }
                    }
                }
            }
        });
    }

    /// Copies a cell to row `row` of keys and values `[n, n_kv_heads * head_dim]`.
    pub(super) fn read(&self, cell: u32, row: usize, kv: [&mut [f32]; 2]) {
        let CellShape { n_kv_heads, head_dim, ty } = self.shape;
        let (block, slot) = (cell as usize / BLOCK, cell as usize % BLOCK);
        for (part, out) in [Part::Key, Part::Value].into_iter().zip(kv) {
            for (head, out) in out.chunks_exact_mut(head_dim).skip(row * n_kv_heads).take(n_kv_heads).enumerate() {
                let bytes = self.head(block, part, head);
                match self.words() {
                    true => words::load(part, slot, bytes, out),
                    false => load(ty, part, slot, bytes, out),
                }
            }
        }
    }

    fn move_cells(&mut self, moves: &[(u32, u32)]) {
        let (shape, words, block_bytes) = (self.shape, self.words(), self.block_bytes());
        let keys = self.head_at(Part::Key, 0).len();
        for &(from, to) in moves {
            let at = |cell: u32| (cell as usize / BLOCK * block_bytes, cell as usize % BLOCK);
            let ((from, from_slot), (to, to_slot)) = (at(from), at(to));
            for head in 0..2 * shape.n_kv_heads {
                let part = if head < shape.n_kv_heads { Part::Key } else { Part::Value };
                let (from, to) = (from + head * keys, to + head * keys);
                if words {
                    words::elements(part, shape.head_dim, |at, width| {
                        let (from, to) = (from + at(from_slot), to + at(to_slot));
                        self.bytes.get_mut().copy_within(from..from + width, to);
                    });
                    continue;
                }
                elements(shape.ty, part, shape.head_dim, |offset, stride, width| {
                    let (from, to) = (from + offset + from_slot * stride, to + offset + to_slot * stride);
                    self.bytes.get_mut().copy_within(from..from + width, to);
                });
            }
        }
    }
}

/// Calls `f(offset, stride, width)` for every run of `width` bytes that a cell has at `offset + slot * stride`.
fn elements(ty: CacheType, part: Part, dim: usize, mut f: impl FnMut(usize, usize, usize)) {
    // Bytes of a value, and whether scales follow the values.
    let (size, has_scales) = match ty {
        CacheType::F32 => (4, false),
        CacheType::F16 => (2, false),
        CacheType::Q8_0 => (1, true),
    };
    match part {
        Part::Key => (0..dim).for_each(|d| f(d * BLOCK * size, size, size)),
        Part::Value => f(0, dim * size, dim * size),
    }
    if has_scales {
        let scales = dim * BLOCK;
        match part {
            Part::Key => (0..dim / 32).for_each(|g| f(scales + g * BLOCK * 2, 2, 2)),
            Part::Value => f(scales, dim / 32 * 2, dim / 32 * 2),
        }
    }
}

/// Writes one head of a cell.
fn store(ty: CacheType, part: Part, slot: usize, values: &[f32], out: &mut [u8]) {
    let dim = values.len();
    let at = |d: usize| if part == Part::Key { d * BLOCK + slot } else { slot * dim + d };
    match ty {
        CacheType::F32 => {
            for (d, v) in values.iter().enumerate() {
                out[at(d) * 4..][..4].copy_from_slice(&v.to_le_bytes());
            }
        }
        CacheType::F16 => {
            // In pieces: converting a slice takes one instruction for eight values.
            for (piece, values) in values.chunks(64).enumerate() {
                let mut halves = [f16::ZERO; 64];
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (i, v) in halves.iter().enumerate() {
                    out[at(piece * 64 + i) * 2..][..2].copy_from_slice(&v.to_le_bytes());
                }
            }
        }
        CacheType::Q8_0 => {
            let (codes, scales) = out.split_at_mut(dim * BLOCK);
            for (g, group) in values.chunks_exact(32).enumerate() {
                let scale = f16::from_f32(group.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0);
                let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
                for (i, v) in group.iter().enumerate() {
                    codes[at(g * 32 + i)] = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
                }
                let index = if part == Part::Key { g * BLOCK + slot } else { slot * (dim / 32) + g };
                scales[index * 2..][..2].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}

/// Reads one head of a cell.
fn load(ty: CacheType, part: Part, slot: usize, bytes: &[u8], out: &mut [f32]) {
    let dim = out.len();
    let at = |d: usize| if part == Part::Key { d * BLOCK + slot } else { slot * dim + d };
    for (d, out) in out.iter_mut().enumerate() {
        *out = match ty {
            CacheType::F32 => bytes[at(d) * 4..].first_chunk().map_or(0.0, |&bytes| f32::from_le_bytes(bytes)),
            CacheType::F16 => get_half(bytes, at(d)),
            CacheType::Q8_0 => {
                let (codes, scales) = bytes.split_at(dim * BLOCK);
                let scale = if part == Part::Key { d / 32 * BLOCK + slot } else { slot * (dim / 32) + d / 32 };
                f32::from(codes[at(d)] as i8) * get_half(scales, scale)
            }
        };
    }
}

fn get_half(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]]).to_f32()
}

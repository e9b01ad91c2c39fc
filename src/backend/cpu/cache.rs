//! Paged keys and values in memory.
//!
//! A block of 32 cells holds, for each head, keys `[head_dim][32 cells]` and values `[32 cells][head_dim]`: both
//! attention products then run along registers without sums across lanes. With 8-bit entries, half-float scales follow the
//! codes: `[head_dim / 32][32]` for keys, `[32][head_dim / 32]` for values.

use super::super::{BLOCK, CacheShape, CacheType};
use super::pool::Pool;
use super::simd::Simd;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// A cache of all layers.
pub(super) struct CacheData {
    shape: CacheShape,
    /// `[n_blocks][keys then values][n_kv_heads][head_bytes]` a layer.
    layers: Vec<Vec<u8>>,
}

/// Whether an entry is a key or a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl CacheData {
    pub(super) fn new(shape: CacheShape) -> Result<Self> {
        let len = shape.n_blocks.saturating_mul(Self::block_bytes(&shape));
        let mut layers = Vec::new();
        for _ in 0..shape.n_layers {
            let mut layer = Vec::new();
            layer.try_reserve_exact(len).map_err(|e| {
                let total = len.saturating_mul(shape.n_layers);
                Error::out_of_memory(format!("no memory for a KV cache of {total} bytes; use a shorter context"))
                    .caused_by(e)
            })?;
            layer.resize(len, 0);
            layers.push(layer);
        }
        Ok(CacheData { shape, layers })
    }

    fn block_bytes(shape: &CacheShape) -> usize {
        2 * shape.n_kv_heads * shape.ty.bytes(shape.head_dim * BLOCK)
    }

    pub(super) fn shape(&self) -> &CacheShape {
        &self.shape
    }

    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().map(Vec::len).sum()
    }

    /// One head's keys or values in a block.
    fn head(&self, layer: usize, block: usize, part: Part, head: usize) -> &[u8] {
        let at = self.head_at(part, head);
        &self.layers[layer][block * Self::block_bytes(&self.shape)..][at]
    }

    /// Where a head lies in its block.
    fn head_at(&self, part: Part, head: usize) -> std::ops::Range<usize> {
        let bytes = self.shape.ty.bytes(self.shape.head_dim * BLOCK);
        let index = if part == Part::Key { head } else { self.shape.n_kv_heads + head };
        index * bytes..(index + 1) * bytes
    }

    /// Expands one head of a block to floats: keys `[head_dim][32]`, values `[32][head_dim]`.
    #[inline(always)]
    pub(super) fn expand<S: Simd>(&self, s: S, layer: usize, block: usize, part: Part, head: usize, out: &mut [f32]) {
        let bytes = self.head(layer, block, part, head);
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
    pub(super) fn append(&mut self, pool: &Pool, layer: usize, blocks: &[u32], writes: &[(u32, u32)], kv: [&[f32]; 2]) {
        let shape = self.shape;
        let dim = shape.head_dim;
        let ranges: [_; 2] = [Part::Key, Part::Value].map(|part| self.head_at(part, 0));
        pool.chunks(&mut self.layers[layer], Self::block_bytes(&shape), blocks, &|i, bytes| {
            let first = blocks[i] * BLOCK as u32;
            let start = writes.partition_point(|&(cell, _)| cell < first);
            for &(cell, row) in writes[start..].iter().take_while(|(cell, _)| *cell < first + BLOCK as u32) {
                let slot = (cell - first) as usize;
                for (range, (part, rows)) in ranges.iter().zip([(Part::Key, kv[0]), (Part::Value, kv[1])]) {
                    for head in 0..shape.n_kv_heads {
                        let values = &rows[(row as usize * shape.n_kv_heads + head) * dim..][..dim];
                        let out = &mut bytes[range.start + head * range.len()..][..range.len()];
                        store(shape.ty, part, slot, values, out);
                    }
                }
            }
        });
    }

    /// Copies cells of all layers, in order.
    pub(super) fn move_cells(&mut self, moves: &[(u32, u32)]) {
        let (shape, block_bytes) = (self.shape, Self::block_bytes(&self.shape));
        let keys = self.head_at(Part::Key, 0).len();
        for layer in &mut self.layers {
            for &(from, to) in moves {
                let at = |cell: u32| (cell as usize / BLOCK * block_bytes, cell as usize % BLOCK);
                let ((from, from_slot), (to, to_slot)) = (at(from), at(to));
                for head in 0..2 * shape.n_kv_heads {
                    let part = if head < shape.n_kv_heads { Part::Key } else { Part::Value };
                    let (from, to) = (from + head * keys, to + head * keys);
                    elements(shape.ty, part, shape.head_dim, |offset, stride, width| {
                        let (from, to) = (from + offset + from_slot * stride, to + offset + to_slot * stride);
                        layer.copy_within(from..from + width, to);
                    });
                }
            }
        }
    }
}

/// Calls `f(offset, stride, width)` for every run of `width` bytes that a cell has at `offset + slot * stride`.
fn elements(ty: CacheType, part: Part, dim: usize, mut f: impl FnMut(usize, usize, usize)) {
    let size = ty.bytes(32) / 32;
    match part {
        Part::Key => (0..dim).for_each(|d| f(d * BLOCK * size, size, size)),
        Part::Value => f(0, dim * size, dim * size),
    }
    if ty == CacheType::Q8_0 {
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

fn get_half(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]]).to_f32()
}

//! Left sides of matrix products: rows of floats, and the same rows as 8-bit integers.

use super::filled;
use super::simd::Simd;
use crate::error::Result;

/// 32 values `scale * codes`, with the sums that offsets and minima of weights are multiplied with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Group {
    pub(super) codes: [i8; 32],
    pub(super) scale: f32,
    /// `scale * Σ codes`.
    pub(super) sum: f32,
    /// The same for each half.
    pub(super) half_sums: [f32; 2],
}

const ZERO: Group = Group { codes: [0; 32], scale: 0.0, sum: 0.0, half_sums: [0.0; 2] };

/// An operand `[rows, cols]`; see the module text. Floats are always kept, since the ops that make operands work on them.
#[derive(Default)]
pub(super) struct OperandData {
    cols: usize,
    n_groups: usize,
    floats: Vec<f32>,
    /// Empty when all readers have float weights.
    groups: Vec<Group>,
}

impl OperandData {
    pub(super) fn new(rows: usize, cols: usize, quantized: bool) -> Result<Self> {
        let n_groups = if quantized { cols / 32 } else { 0 };
        let floats = filled(0.0, rows.saturating_mul(cols))?;
        let groups = filled(ZERO, rows.saturating_mul(n_groups))?;
        Ok(OperandData { cols, n_groups, floats, groups })
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.floats[..]) + size_of_val(&self.groups[..])
    }

    #[inline]
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    #[inline]
    pub(super) fn n_groups(&self) -> usize {
        self.n_groups
    }

    /// Bytes that a product reads of each row.
    #[inline]
    pub(super) fn row_bytes(&self) -> usize {
        if self.n_groups > 0 { self.n_groups * size_of::<Group>() } else { (self.cols * 4).max(1) }
    }

    #[inline]
    pub(super) fn floats(&self, row: usize) -> &[f32] {
        &self.floats[row * self.cols..][..self.cols]
    }

    /// The floats of some rows.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn all_floats(&self, rows: std::ops::Range<usize>) -> &[f32] {
        &self.floats[rows.start * self.cols..rows.end * self.cols]
    }

    #[inline]
    pub(super) fn groups(&self, row: usize) -> &[Group] {
        &self.groups[row * self.n_groups..][..self.n_groups]
    }

    /// The floats `[rows, cols]` and the groups `[rows, n_groups]`, for ops that fill them.
    pub(super) fn parts(&mut self) -> (&mut [f32], &mut [Group]) {
        (&mut self.floats, &mut self.groups)
    }
}

/// Makes the integers of a row from its floats: 8 bits with one scale for every 32 values, nearest.
#[inline(always)]
pub(super) fn quantize<S: Simd>(s: S, floats: &[f32], groups: &mut [Group]) {
    for (values, group) in floats.as_chunks::<32>().0.iter().zip(groups) {
        let mut largest = s.splat(0.0);
        for v in values.chunks_exact(S::LANES) {
            largest = s.max(largest, s.abs(s.load_f(v)));
        }
        let largest = s.max_lane(largest);
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (v, out) in values.chunks_exact(S::LANES).zip(group.codes.chunks_exact_mut(S::LANES)) {
            s.store_i8(s.mul(s.load_f(v), s.splat(inverse)), out);
        }
        group.scale = largest / 127.0;
        let (a, b) = group.codes.split_at(16);
        let sums = [a, b].map(|half| half.iter().map(|&c| i32::from(c)).sum::<i32>());
        group.sum = (sums[0] + sums[1]) as f32 * group.scale;
        group.half_sums = sums.map(|sum| sum as f32 * group.scale);
    }
}

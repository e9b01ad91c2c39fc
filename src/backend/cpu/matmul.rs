//! Matrix products on quantized weights: one kernel for decode, drafts and prefill.
//!
//! A task takes a few panels of 16 rows and multiplies each with every token, [`Simd::TOKENS`] at a time, so that codes
//! are unpacked once for that many tokens. A token's sums run over the columns in the same order whatever the number of
//! tokens: results do not depend, not by a bit, on what else is in the batch.

use super::layouts::{Codes, Floats, with_layout};
use super::operand::{Group, OperandData};
use super::pool::{Columns, ColumnsPart, Pool};
use super::simd::{Kernel, Level, Simd};
use super::weight::WeightData;
use crate::quant::layout::PANEL;
use std::ops::Range;

/// [`super::super::Epilogue`] with its bias looked up.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) scale: f32,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) softcap: f32,
    pub(super) accumulate: bool,
}

/// One product: `out [n, rows] = finish(x · weightᵀ)`.
pub(super) struct Job<'a> {
    pub(super) weight: &'a WeightData,
    pub(super) finish: Finish<'a>,
}

/// Bytes of activations that a task goes through before it turns to its next panel: half of a usual L2 cache.
const TOKENS_BYTES: usize = 256 << 10;

/// How far ahead of its use memory is asked for, in bytes.
const PREFETCH: usize = 4096;

/// Computes products of the first `n` rows of `x`; `outs[i]` belongs to `jobs[i]`.
pub(super) fn matmul(pool: &Pool, level: Level, x: &OperandData, n: usize, jobs: &[Job<'_>], outs: &mut [Columns<'_>]) {
    let n_panels: usize = jobs.iter().map(|j| j.weight.n_panels()).sum();
    // Some eight tasks a thread even out differences in speed; a claim costs well under a microsecond.
    let grain = (n_panels / (pool.len() * 8)).clamp(1, 32);
    pool.columns(outs, PANEL, grain, &|which, panels, part| {
        level.run(Task { job: &jobs[which], x, n, panels, part });
    });
}

/// The panels of one task.
struct Task<'a, 'b> {
    job: &'a Job<'a>,
    x: &'a OperandData,
    n: usize,
    panels: Range<usize>,
    part: &'a mut ColumnsPart<'b>,
}

impl Kernel for Task<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_layout!(self.job.weight.layout(), codes L => self.panels::<S, Ints<L>>(s), floats L => self.panels::<S, Plain<L>>(s))
    }
}

impl Task<'_, '_> {
    #[inline(always)]
    fn panels<S: Simd, P: Tile>(mut self, s: S) {
        let block = (TOKENS_BYTES / self.x.row_bytes()).next_multiple_of(S::TOKENS).max(S::TOKENS);
        for first in (0..self.n).step_by(block) {
            let end = (first + block).min(self.n);
            for panel in self.panels.clone() {
                let mut t = first;
                while t < end {
                    t += match end - t {
                        4.. if S::TOKENS >= 4 => self.tile::<S, P, 4>(s, panel, t),
                        3 if S::TOKENS >= 4 => self.tile::<S, P, 3>(s, panel, t),
                        2.. => self.tile::<S, P, 2>(s, panel, t),
                        _ => self.tile::<S, P, 1>(s, panel, t),
                    };
                }
            }
        }
    }

    /// `T` tokens times one panel; returns `T`.
    #[inline(always)]
    fn tile<S: Simd, P: Tile, const T: usize>(&mut self, s: S, panel: usize, t: usize) -> usize {
        let bytes = self.job.weight.panel(panel);
        let col = (panel - self.panels.start) * PANEL;
        for h in 0..PANEL / S::LANES {
            let sums = P::tile::<S, T>(s, bytes, self.x, t, h);
            for (i, &sum) in sums.iter().enumerate() {
                let first_row = panel * PANEL + h * S::LANES;
                let out = self.part.row(t + i).get_mut(col + h * S::LANES..).unwrap_or(&mut []);
                self.job.finish.store(s, sum, first_row, out);
            }
        }
        T
    }
}

impl Finish<'_> {
    /// Stores one register of results for rows `row..` of the weight; `out` may be shorter at the matrix's end.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, sum: S::F, row: usize, out: &mut [f32]) {
        let mut y = s.mul(sum, s.splat(self.scale));
        if let Some(bias) = self.bias {
            y = s.add(y, load_up_to(s, bias.get(row..).unwrap_or(&[])));
        }
        if self.softcap != 0.0 {
            let cap = s.splat(self.softcap);
            y = s.mul(cap, s.tanh(s.div(y, cap)));
        }
        if self.accumulate {
            y = s.add(y, load_up_to(s, out));
        }
        if out.len() >= S::LANES {
            return s.store_f(y, out);
        }
        let mut lanes = [0.0; PANEL];
        s.store_f(y, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// Loads a register from a slice that may be too short.
#[inline(always)]
fn load_up_to<S: Simd>(s: S, values: &[f32]) -> S::F {
    if values.len() >= S::LANES {
        return s.load_f(values);
    }
    let mut lanes = [0.0; PANEL];
    lanes[..values.len()].copy_from_slice(values);
    s.load_f(&lanes)
}

/// The inner loops: rows `h * LANES..` of a panel times tokens `t..t + T`.
trait Tile {
    fn tile<S: Simd, const T: usize>(s: S, panel: &[u8], x: &OperandData, t: usize, h: usize) -> [S::F; T];
}

/// On integer codes and activations of 8 bits.
struct Ints<L>(std::marker::PhantomData<L>);

impl<L: Codes> Tile for Ints<L> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, panel: &[u8], x: &OperandData, t: usize, h: usize) -> [S::F; T] {
        let n_groups = x.n_groups();
        let rows: [&[Group]; T] = std::array::from_fn(
            #[inline(always)]
            |i| &x.groups(t + i)[..n_groups],
        );
        let mut sums = [s.splat(0.0); T];
        let mut k = 0;
        for group in panel.chunks_exact(L::BYTES) {
            // With few tokens a product waits for memory. Panels lie one behind the other, so what comes next is known.
            if T <= 4 && h == 0 {
                for line in 0..L::BYTES / 64 {
                    s.prefetch(group, PREFETCH + line * 64);
                }
            }
            for part in 0..L::COLS / 32 {
                if k >= n_groups {
                    return sums;
                }
                let codes = L::codes(s, group, part, h);
                for sub in 0..L::SUBS {
                    let scale = L::scale(s, group, part, sub, h);
                    let min = L::min(s, group, part, sub, h, scale);
                    for i in 0..T {
                        let x = &rows[i][k];
                        let acc = dots::<S, L>(s, &codes, x, sub);
                        sums[i] = s.mul_add(s.to_f(acc), s.mul(scale, s.splat(x.scale)), sums[i]);
                        if L::HAS_MIN || s.signed_offset() != 0.0 {
                            let x_sum = if L::SUBS == 1 { x.sum } else { x.half_sums[sub] };
                            sums[i] = s.mul_add(min, s.splat(x_sum), sums[i]);
                        }
                    }
                }
                k += 1;
            }
        }
        sums
    }
}

/// Dot products over the quads of scale group `sub`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the index is that of two arrays, and the loop unrolls")]
fn dots<S: Simd, L: Codes>(s: S, codes: &[S::I; 8], x: &Group, sub: usize) -> S::I {
    let n = 8 / L::SUBS;
    let mut acc = s.zero();
    for j in sub * n..sub * n + n {
        let quad = s.splat4(&x.codes[j * 4..j * 4 + 4]);
        acc = if L::SIGNED { s.dot_signed(acc, codes[j], quad) } else { s.dot(acc, codes[j], quad) };
    }
    acc
}

/// On floats.
struct Plain<L>(std::marker::PhantomData<L>);

impl<L: Floats> Tile for Plain<L> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(s: S, panel: &[u8], x: &OperandData, t: usize, h: usize) -> [S::F; T] {
        let cols = x.cols();
        let rows: [&[f32]; T] = std::array::from_fn(
            #[inline(always)]
            |i| &x.floats(t + i)[..cols],
        );
        // Even and odd columns apart: two chains hide the latency of the additions.
        let mut sums = [[s.splat(0.0); T]; 2];
        for (k, column) in panel.chunks_exact(L::BYTES).enumerate().take(cols) {
            let w = L::load(s, column, h);
            for i in 0..T {
                sums[k % 2][i] = s.mul_add(w, s.splat(rows[i][k]), sums[k % 2][i]);
            }
        }
        let [mut even, odd] = sums;
        for i in 0..T {
            even[i] = s.add(even[i], odd[i]);
        }
        even
    }
}

//! Matrix products on quantized weights: one kernel for decode, drafts and prefill.
//!
//! A task takes a few panels of 16 rows and multiplies each with every token, [`Simd::TOKENS`] at a time, so that codes
//! are unpacked once for that many tokens. A token's sums run over the columns in the same order whatever the number of
//! tokens: results do not depend, not by a bit, on what else is in the batch.

use super::layouts::{Codes, Floats, with_layout};
use super::operand::{Group, OperandData};
use super::pool::{Columns, ColumnsPart, Pool};
use super::simd::{Kernel, Level, Simd, unrolled};
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

/// One product: `out [n, rows] = finish(x · weightᵀ)` of some panels of a weight and some rows of an operand.
pub(super) struct Job<'a> {
    pub(super) weight: &'a WeightData,
    pub(super) panels: Range<usize>,
    /// Rows of the operand, or places in `pick`.
    pub(super) rows: Range<usize>,
    /// The rows, where they do not lie one behind the other.
    pub(super) pick: Option<&'a [u32]>,
    pub(super) finish: Finish<'a>,
}

impl Job<'_> {
    /// Row `i` of the operand.
    #[inline(always)]
    fn row(&self, i: usize) -> usize {
        let place = self.rows.start + i;
        self.pick.map_or(place, |rows| rows[place] as usize)
    }

    /// Rows `i..i + T`. One function for all layouts, since a tile is long and its code is not.
    #[inline(never)]
    fn tile_rows<const T: usize>(&self, i: usize) -> [usize; T] {
        std::array::from_fn(|k| self.row(i + k))
    }
}

/// Bytes of activations that a task goes through before it turns to its next panel: half of a usual L2 cache.
const TOKENS_BYTES: usize = 256 << 10;

/// How far ahead of its use memory is asked for where a panel is read once, in bytes.
const PREFETCH: usize = 4096;

/// Computes products of `x`; `outs[i]` belongs to `jobs[i]` and has its rows only.
pub(super) fn matmul(pool: &Pool, level: Level, x: &OperandData, jobs: &[Job<'_>], outs: &mut [Columns<'_>]) {
    let n_panels: usize = jobs.iter().map(|j| j.panels.len()).sum();
    // Some eight tasks a thread even out differences in speed; a claim costs well under a microsecond.
    let grain = (n_panels / (pool.len() * 8)).clamp(1, 32);
    pool.columns(outs, PANEL, grain, &|which, panels, part| {
        let job = &jobs[which];
        with_layout!(job.weight.layout(),
            codes l => level.run(Task { job, product: Ints(l), x, panels, part }),
            floats l => level.run(Task { job, product: Plain(l), x, panels, part }))
    });
}

/// The panels of one task. One kernel a layout: a build without optimization gives a function a place on the stack for each value
/// in it, and with all layouts in one that was 1.8 of a thread's 2 MB.
struct Task<'a, 'b, P> {
    job: &'a Job<'a>,
    product: P,
    x: &'a OperandData,
    /// Of those of the job.
    panels: Range<usize>,
    part: &'a mut ColumnsPart<'b>,
}

impl<P: Tile> Kernel for Task<'_, '_, P> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let block = (TOKENS_BYTES / self.x.row_bytes()).next_multiple_of(S::TOKENS).max(S::TOKENS);
        let n = self.job.rows.len();
        for first in (0..n).step_by(block) {
            let tokens = first..(first + block).min(n);
            for panel in self.panels.clone() {
                let mut t = first;
                while t < tokens.end {
                    t += match tokens.end - t {
                        8.. if S::TOKENS >= 8 => self.tile::<S, 8>(s, panel, t, &tokens),
                        4.. if S::TOKENS >= 4 => self.tile::<S, 4>(s, panel, t, &tokens),
                        // Where code is downloaded, three are two and one.
                        3 if S::TOKENS >= 4 && !cfg!(target_arch = "wasm32") => self.tile::<S, 3>(s, panel, t, &tokens),
                        2.. => self.tile::<S, 2>(s, panel, t, &tokens),
                        _ => self.tile::<S, 1>(s, panel, t, &tokens),
                    };
                }
            }
        }
    }
}

impl<P: Tile> Task<'_, '_, P> {
    /// Tokens `t..t + T` of `tokens` times one panel; returns `T`.
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&mut self, s: S, panel: usize, t: usize, tokens: &Range<usize>) -> usize {
        let bytes = self.job.weight.panel(self.job.panels.start + panel);
        let at = self.job.tile_rows::<T>(t);
        let col = (panel - self.panels.start) * PANEL;
        let ahead = Ahead::of::<T>(t, tokens, bytes.len());
        for h in 0..PANEL / S::LANES {
            let sums = self.product.tile::<S, T>(s, bytes, self.x, at, h, if h == 0 { ahead } else { NOTHING });
            for (i, &sum) in sums.iter().enumerate() {
                let first_row = panel * PANEL + h * S::LANES;
                let out = self.part.row(t + i).get_mut(col + h * S::LANES..).unwrap_or(&mut []);
                self.job.finish.store(s, sum, first_row, out);
            }
        }
        T
    }
}

/// What a tile asks memory for while it computes. Panels lie one behind the other, so what comes next is known. A panel
/// that one tile reads is streamed; where several read it, each asks for its share of the next panel, so that memory
/// is as busy during the last tile as during the first.
#[derive(Clone, Copy)]
struct Ahead {
    /// How far ahead.
    bytes: usize,
    /// The share of every group, in parts of `of`.
    start: usize,
    end: usize,
    of: usize,
}

const NOTHING: Ahead = Ahead { bytes: 0, start: 0, end: 0, of: 1 };

impl Ahead {
    #[inline(always)]
    fn of<const T: usize>(t: usize, tokens: &Range<usize>, panel_bytes: usize) -> Self {
        // WASM cannot ask.
        if cfg!(target_arch = "wasm32") {
            return NOTHING;
        }
        let bytes = if tokens.len() == T { PREFETCH } else { panel_bytes };
        Ahead { bytes, start: t - tokens.start, end: t - tokens.start + T, of: tokens.len() }
    }

    /// The share of `n` cache lines.
    #[inline(always)]
    fn lines(self, n: usize) -> Range<usize> {
        n * self.start / self.of..n * self.end / self.of
    }

    /// Asks for `lines` of the `n` that are ahead of a group.
    #[inline(always)]
    fn ask<S: Simd>(self, s: S, group: &[u8], n: usize, lines: &Range<usize>) {
        // All of them are so many that a loop would cost more than they do; it unrolls where their number is known.
        if lines.len() == n {
            (0..n).for_each(
                #[inline(always)]
                |line| s.prefetch(group, self.bytes + line * 64),
            );
        } else {
            for line in lines.clone() {
                s.prefetch(group, self.bytes + line * 64);
            }
        }
    }
}

impl Finish<'_> {
    /// Stores one register of results for rows `row..` of the weight; `out` may be shorter at the matrix's end.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, sum: S::F, row: usize, out: &mut [f32]) {
        let mut y = sum;
        if let Some(bias) = self.bias {
            y = s.add(y, load_up_to(s, bias.get(row..).unwrap_or(&[])));
        }
        y = s.mul(y, s.splat(self.scale));
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

/// The inner loops: rows `h * LANES..` of a panel times rows `at` of the operand.
trait Tile: Copy {
    fn tile<S: Simd, const T: usize>(
        self,
        s: S,
        panel: &[u8],
        x: &OperandData,
        at: [usize; T],
        h: usize,
        ahead: Ahead,
    ) -> [S::F; T];
}

/// On integer codes and activations of 8 bits.
#[derive(Clone, Copy)]
struct Ints<L>(L);

impl<L: Codes> Tile for Ints<L> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        self,
        s: S,
        panel: &[u8],
        x: &OperandData,
        at: [usize; T],
        h: usize,
        ahead: Ahead,
    ) -> [S::F; T] {
        let n_groups = x.n_groups();
        let mut rows: [&[Group]; T] = [&[]; T];
        unrolled!(T, I => rows[I] = &x.groups(at[I])[..n_groups]);
        let lines = ahead.lines(L::BYTES / 64);
        let mut sums = [s.splat(0.0); T];
        let mut k = 0;
        for group in panel.chunks_exact(L::BYTES) {
            ahead.ask::<S>(s, group, L::BYTES / 64, &lines);
            for part in 0..L::COLS / 32 {
                if k >= n_groups {
                    return sums;
                }
                let codes = self.0.codes(s, group, part, h);
                for sub in 0..L::SUBS {
                    let scale = self.0.scale(s, group, part, sub, h);
                    let min = self.0.min(s, group, part, sub, h, scale);
                    unrolled!(T, I => {
                        let x = &rows[I][k];
                        let acc = dots::<S, L>(s, &codes, x, sub);
                        sums[I] = s.mul_add(s.to_f(acc), s.mul(scale, s.splat(x.scale)), sums[I]);
                        if !L::SIGNED || s.signed_offset() != 0.0 {
                            let x_sum = if L::SUBS == 1 { x.sum } else { x.half_sums[sub] };
                            sums[I] = s.mul_add(min, s.splat(x_sum), sums[I]);
                        }
                    });
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
    if L::SIGNED {
        let mut acc = s.zero();
        for j in sub * n..sub * n + n {
            acc = s.dot_signed(acc, codes[j], s.splat4(&x.codes[j * 4..j * 4 + 4]));
        }
        return acc;
    }
    match (L::SUBS, sub) {
        (1, _) => s.dots(codes, &x.codes, L::BITS),
        (_, 0) => s.dots(&[codes[0], codes[1], codes[2], codes[3]], &x.codes[..16], L::BITS),
        _ => s.dots(&[codes[4], codes[5], codes[6], codes[7]], &x.codes[16..], L::BITS),
    }
}

/// On floats.
#[derive(Clone, Copy)]
struct Plain<L>(L);

impl<L: Floats> Tile for Plain<L> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        self,
        s: S,
        panel: &[u8],
        x: &OperandData,
        at: [usize; T],
        h: usize,
        ahead: Ahead,
    ) -> [S::F; T] {
        let n = x.cols() / 2;
        let mut rows: [&[[f32; 2]]; T] = [&[]; T];
        unrolled!(T, I => rows[I] = &x.floats(at[I]).as_chunks().0[..n]);
        let lines = ahead.lines(2 * L::BYTES / 64);
        // Even and odd columns apart: two chains hide the latency of the additions.
        let (mut even, mut odd) = ([s.splat(0.0); T], [s.splat(0.0); T]);
        let (pairs, last) = panel.split_at(n * 2 * L::BYTES);
        for (k, pair) in pairs.chunks_exact(2 * L::BYTES).enumerate().take(n) {
            ahead.ask::<S>(s, pair, 2 * L::BYTES / 64, &lines);
            let (a, b) = (self.0.load(s, pair, h), self.0.load(s, &pair[L::BYTES..], h));
            unrolled!(T, I => {
                let [x, y] = rows[I][k];
                even[I] = s.mul_add(a, s.splat(x), even[I]);
                odd[I] = s.mul_add(b, s.splat(y), odd[I]);
            });
        }
        if !last.is_empty() {
            let w = self.0.load(s, last, h);
            unrolled!(T, I => even[I] = s.mul_add(w, s.splat(x.floats(at[I])[2 * n]), even[I]));
        }
        unrolled!(T, I => even[I] = s.add(even[I], odd[I]));
        even
    }
}

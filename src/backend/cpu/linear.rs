//! Linear attention: what a state learns of each row is made ready, then every strip of columns of the states goes through the
//! step's list by itself.

use super::super::scan::Scan;
use super::super::{LinearAttend, MAX_KEY_DIM, Rule};
use super::pool::{Columns, ColumnsPart, Pool, none};
use super::simd::{Kernel, Level, Simd};
use std::ops::Range;

/// Most columns of a strip.
const WIDTH: usize = 32;

/// What rows bring with them, and what heads have; names as in [`LinearAttend`].
#[derive(Clone, Copy)]
pub(super) struct OfRows<'a> {
    pub(super) x: &'a [f32],
    pub(super) steps: &'a [f32],
    pub(super) rates: &'a [f32],
    pub(super) gains: Option<&'a [f32]>,
    pub(super) skip: Option<&'a [f32]>,
}

/// Runs the list, whose first part moves states on and whose second part runs the `n` rows; `[kept, states, out]` are written.
pub(super) fn linear_attend(
    (pool, level): (&Pool, Level),
    op: &LinearAttend,
    ((moves, rows), n): ((&[Scan], &[Scan]), usize),
    of_rows: OfRows<'_>,
    [kept, states, out]: [&mut [f32]; 3],
) {
    let width = LinearAttend::kept_width(op.n_key_heads, op.key_dim, op.n_heads, op.head_dim);
    // Strips of one head.
    let strip = 1 << op.head_dim.trailing_zeros().min(WIDTH.trailing_zeros());
    let mut written = [states, out].map(|data| Columns::new(data, op.n_heads * op.head_dim));
    let mut run = |scan: &[Scan], kept: &[f32]| {
        pool.strips(&mut written, strip, &|columns, parts| {
            let strip = Strip { op, kept, width, skip: of_rows.skip, columns, scan, parts };
            level.run(strip);
        });
    };
    if !moves.is_empty() {
        run(moves, kept);
    }
    pool.rows(n, (kept, width, None), none(), none(), &|row, kept, _, _| prepare(op, &of_rows, row, kept));
    run(rows, kept);
}

/// Makes what is kept of a row.
fn prepare(op: &LinearAttend, of_rows: &OfRows<'_>, row: usize, kept: &mut [f32]) {
    let (keys, values) = (op.n_key_heads * op.key_dim, op.n_heads * op.head_dim);
    let (x, rest) = kept.split_at_mut(2 * keys + values);
    let from = &of_rows.x[row * x.len()..][..x.len()];
    let heads = row * op.n_heads..(row + 1) * op.n_heads;
    let (decays, gains) = rest.split_at_mut(op.n_heads);
    for ((dt, rate), (decay, gain)) in
        of_rows.steps[heads.clone()].iter().zip(of_rows.rates).zip(decays.iter_mut().zip(&mut *gains))
    {
        // The logarithm of 1 + e^x, where e^x may be infinite.
        *gain = dt.max(0.0) + (1.0 + (-dt.abs()).exp()).ln();
        *decay = (rate * *gain).exp();
    }
    match op.rule {
        Rule::Delta { eps, .. } => {
            x.copy_from_slice(from);
            for (i, head) in x[..2 * keys].chunks_exact_mut(op.key_dim).enumerate() {
                let mut divisor = (head.iter().map(|v| v * v).sum::<f32>() + eps).sqrt();
                if i < op.n_key_heads {
                    divisor *= (op.key_dim as f32).sqrt();
                }
                head.iter_mut().for_each(|v| *v /= divisor);
            }
            for (gain, x) in gains.iter_mut().zip(of_rows.gains.iter().flat_map(|gains| &gains[heads.clone()])) {
                *gain = 1.0 / (1.0 + (-x).exp());
            }
        }
        Rule::Mamba { .. } => {
            let (v, qk) = from.split_at(values);
            x[..keys].copy_from_slice(&qk[keys..]);
            x[keys..2 * keys].copy_from_slice(&qk[..keys]);
            x[2 * keys..].copy_from_slice(v);
        }
    }
}

/// Some columns of a head's states.
struct Strip<'a, 'b> {
    op: &'a LinearAttend,
    kept: &'a [f32],
    /// Columns of `kept`.
    width: usize,
    skip: Option<&'a [f32]>,
    columns: Range<usize>,
    scan: &'a [Scan],
    /// States and results.
    parts: &'a mut [ColumnsPart<'b>; 2],
}

impl Kernel for Strip<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (key_dim, n) = (self.op.key_dim, self.columns.len());
        let [states, out] = self.parts;
        let mut carried = [[0.0; WIDTH]; MAX_KEY_DIM];
        let state = &mut carried[..key_dim];
        for step in self.scan {
            match *step {
                Scan::Clear => state.fill([0.0; WIDTH]),
                Scan::Load(slot) => {
                    for (i, row) in state.iter_mut().enumerate() {
                        row[..n].copy_from_slice(states.row(slot as usize * key_dim + i));
                    }
                }
                Scan::Store(slot) => {
                    for (i, row) in state.iter().enumerate() {
                        states.row(slot as usize * key_dim + i).copy_from_slice(&row[..n]);
                    }
                }
                Scan::Kept(row) | Scan::Row(row) => {
                    let y =
                        advance(self.op, state, &self.kept[row as usize * self.width..][..self.width], &self.columns);
                    if let Scan::Row(row) = *step {
                        let out = out.row(row as usize);
                        out.copy_from_slice(&y[..n]);
                        if let Some(skip) = self.skip {
                            let v = &self.kept[row as usize * self.width..][2 * self.op.n_key_heads * key_dim..];
                            let skip = skip[self.columns.start / self.op.head_dim];
                            out.iter_mut().zip(&v[self.columns.clone()]).for_each(|(out, v)| *out += skip * v);
                        }
                    }
                }
            }
        }
    }
}

/// Moves a strip on by a row; returns what its queries find.
#[inline(always)]
fn advance(op: &LinearAttend, state: &mut [[f32; WIDTH]], row: &[f32], columns: &Range<usize>) -> [f32; WIDTH] {
    let keys = op.n_key_heads * op.key_dim;
    let head = columns.start / op.head_dim;
    let (delta, key_head) = match op.rule {
        Rule::Delta { .. } => (true, head % op.n_key_heads),
        Rule::Mamba { .. } => (false, head / (op.n_heads / op.n_key_heads)),
    };
    let (x, rest) = row.split_at(2 * keys + op.n_heads * op.head_dim);
    let (decay, gain) = (rest[head], rest[op.n_heads + head]);
    let [q, k] = [0, keys].map(|part| &x[part + key_head * op.key_dim..][..op.key_dim]);
    let mut learnt = [0.0; WIDTH];
    learnt[..columns.len()].copy_from_slice(&x[2 * keys..][columns.clone()]);
    if delta {
        let mut known = [0.0; WIDTH];
        for (row, k) in state.iter().zip(k) {
            known.iter_mut().zip(row).for_each(|(known, s)| *known += k * s);
        }
        learnt.iter_mut().zip(&known).for_each(|(learnt, known)| *learnt -= decay * known);
    }
    learnt.iter_mut().for_each(|learnt| *learnt *= gain);
    let mut y = [0.0; WIDTH];
    for ((row, k), q) in state.iter_mut().zip(k).zip(q) {
        for ((s, u), y) in row.iter_mut().zip(&learnt).zip(&mut y) {
            *s = decay * *s + k * u;
            *y += q * *s;
        }
    }
    y
}

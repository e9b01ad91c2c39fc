//! Codes that make up for each other's errors (GPTQ), under the scales of [`encode`](super::encode).
//!
//! What an error `e` of a row of weights costs, over inputs `x`, is `e H eᵀ` with `H = Σ x xᵀ`. With `H = R Rᵀ`, `R` upper triangular,
//! that is `|e R|²`, and column k of `R` has entries in its first k + 1 rows only. So where columns are rounded one after the other, the weight
//! `w_k + Σ_{j<k} e_j R_jk / R_kk` is the one that leaves nothing of the k-th square, and its nearest code leaves the least. This is GPTQ
//! without the inverse of `H`, and with scales that stay: columns can go in any order, those with the largest inputs first.

use super::super::{TensorType, Unpacked, group_len, unpack, weight};
use super::{codes, search};
use crate::error::{Error, Result};

/// Rows that are rounded side by side, so that a column of factors is read once for all of them.
const ROWS: usize = 16;

/// Sums of products of inputs.
#[derive(Clone, Debug)]
pub struct Hessian {
    n: usize,
    rows: usize,
    /// `[n, n]`, of which the lower triangle is used.
    sums: Vec<f32>,
}

impl Hessian {
    /// For inputs of `n` values.
    pub fn new(n: usize) -> Self {
        Hessian { n, rows: 0, sums: vec![0.0; n * n] }
    }

    /// Adds rows of inputs `[rows, n]`, by so many threads.
    pub fn add(&mut self, x: &[f32], threads: usize) {
        let n = self.n;
        self.rows += x.len() / n;
        // The same work for all: row i of the triangle has i + 1 entries.
        let end = |t: usize| ((t as f64 / threads as f64).sqrt() * n as f64).round() as usize;
        let mut rest = &mut self.sums[..];
        std::thread::scope(|scope| {
            for t in 0..threads {
                let rows = end(t)..end(t + 1);
                let (mine, behind) = std::mem::take(&mut rest).split_at_mut(rows.len() * n);
                rest = behind;
                let run = move || rows.zip(mine.chunks_exact_mut(n)).for_each(|(i, sums)| add_row(i, sums, x, n));
                if t + 1 < threads {
                    scope.spawn(run);
                } else {
                    run();
                }
            }
        });
    }

    /// How much each column matters: the mean square of its inputs.
    pub fn importance(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.sums[i * self.n + i] / self.rows.max(1) as f32).collect()
    }

    /// What rounding needs. `damping`, a share of the mean square, is added to all squares, as texts are never long enough to say
    /// what inputs there are.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when inputs were no numbers.
    pub fn factors(&self, damping: f32) -> Result<Factors> {
        let (n, importance) = (self.n, self.importance());
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
        let mean = (0..n).map(|i| f64::from(self.sums[i * n + i])).sum::<f64>() / n.max(1) as f64;
        let damping = (f64::from(damping) * mean).max(f64::MIN_POSITIVE);
        let at = |i: usize, j: usize| f64::from(self.sums[i.max(j) * n + i.min(j)]);
        // Row j of `r` from its diagonal on; from the last column to the first.
        let mut r = vec![0.0_f64; n * n];
        for k in (0..n).rev() {
            let (above, row_k) = r.split_at_mut(k * n);
            let row_k = &mut row_k[..n];
            let square = at(order[k], order[k]) + damping - dot64(&row_k[k + 1..], &row_k[k + 1..]);
            if !(square > 0.0 && square.is_finite()) {
                return Err(Error::invalid_request("inputs of a product are no numbers, or nothing but zeros"));
            }
            row_k[k] = square.sqrt();
            for (j, row_j) in above.chunks_exact_mut(n).enumerate() {
                row_j[k] = (at(order[j], order[k]) - dot64(&row_j[k + 1..], &row_k[k + 1..])) / row_k[k];
            }
        }
        let mut columns = vec![0.0; n * n];
        for (j, row) in r.chunks_exact(n).enumerate() {
            (j + 1..n).for_each(|k| columns[k * n + j] = (row[k] / r[k * n + k]) as f32);
        }
        Ok(Factors { order, columns, importance })
    }
}

/// Adds the products of value `i` with those before it and itself, over all rows of `x`.
fn add_row(i: usize, sums: &mut [f32], x: &[f32], n: usize) {
    let sums = &mut sums[..=i];
    let mut rows = x.chunks_exact(8 * n);
    for rows in &mut rows {
        let row = |r: usize| &rows[r * n..][..sums.len()];
        let (factors, [a, b, c, d, e, f, g, h]) =
            ([0, 1, 2, 3, 4, 5, 6, 7].map(|r| rows[r * n + i]), [0, 1, 2, 3, 4, 5, 6, 7].map(row));
        for j in 0..sums.len() {
            let low = factors[0] * a[j] + factors[1] * b[j] + factors[2] * c[j] + factors[3] * d[j];
            sums[j] += low + factors[4] * e[j] + factors[5] * f[j] + factors[6] * g[j] + factors[7] * h[j];
        }
    }
    for row in rows.remainder().chunks_exact(n) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += row[i] * x);
    }
}

fn dot64(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.0.iter().zip(b.0) {
        (0..8).for_each(|l| sums[l] += a[l] * b[l]);
    }
    sums.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>()
}

fn dot32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (a, b) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.0.iter().zip(b.0) {
        (0..16).for_each(|l| sums[l] += a[l] * b[l]);
    }
    sums.iter().sum::<f32>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>()
}

/// How errors of columns make up for each other.
#[derive(Clone, Debug)]
pub struct Factors {
    /// Columns in the order in which they are rounded.
    order: Vec<usize>,
    /// `[n, n]`: what the k-th weight in this order takes over of the errors of those before it.
    columns: Vec<f32>,
    importance: Vec<f32>,
}

impl Factors {
    /// Appends rows, whole blocks, to `out`.
    ///
    /// # Errors
    /// Those of [`encode`](super::encode); [`crate::Kind::InvalidRequest`] when rows are not of the inputs' length.
    pub fn encode(&self, ty: TensorType, rows: &[f32], out: &mut Vec<u8>) -> Result<()> {
        let n = self.order.len();
        if !rows.len().is_multiple_of(n) {
            return Err(Error::invalid_request(format!("rows of {n} weights are needed, as inputs have {n} values")));
        }
        for rows in rows.chunks(ROWS * n) {
            let start = out.len();
            rows.chunks_exact(n).try_for_each(|row| super::encode(ty, row, Some(&self.importance), out))?;
            if !ty.is_float() {
                self.round(ty, rows, &mut out[start..]);
            }
        }
        Ok(())
    }

    /// Chooses codes anew.
    fn round(&self, ty: TensorType, rows: &[f32], bytes: &mut [u8]) {
        let (n, group) = (self.order.len(), group_len(ty));
        let unpacked = |block: &[u8]| {
            let mut unpacked = Unpacked::default();
            unpack(ty, block, &mut unpacked);
            unpacked
        };
        let mut blocks: Vec<Unpacked> = bytes.chunks_exact(ty.block_bytes()).map(unpacked).collect();
        let mut errors = vec![0.0; rows.len()];
        let per_row = n / ty.block_len();
        for (k, &column) in self.order.iter().enumerate() {
            let (factors, i) = (&self.columns[k * n..][..k], column % ty.block_len());
            for (row, errors) in errors.chunks_exact_mut(n).enumerate() {
                let (block, w) = (&mut blocks[row * per_row + column / ty.block_len()], rows[row * n + column]);
                let (scale, min) = (block.scales[i / group], block.mins[i / group]);
                let code = search::nearest(ty, w + dot32(&errors[..k], factors), scale, min);
                block.codes[i] = code;
                errors[k] = w - weight(ty, code, scale, min);
            }
        }
        for (block, bytes) in blocks.iter().zip(bytes.chunks_exact_mut(ty.block_bytes())) {
            codes::put(ty, &block.codes, bytes);
        }
    }
}

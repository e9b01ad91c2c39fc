//! The short convolution: every strip of columns goes through the step's list by itself.

use super::super::MAX_TAPS;
use super::super::scan::Scan;
use super::pool::{Columns, ColumnsPart, Pool};
use std::ops::Range;

/// Columns of a strip.
const WIDTH: usize = 64;

/// Runs the list; see [`ShortConv`](super::super::ShortConv). `[kept, states, out]` have `dim` columns, states a row for each
/// row that they hold.
pub(super) fn short_conv(
    pool: &Pool,
    scan: &[Scan],
    (x, weight): (&[f32], &[f32]),
    form: Form<'_>,
    written: [&mut [f32]; 3],
    dim: usize,
) {
    let mut written = written.map(|data| Columns::new(data, dim));
    pool.strips(&mut written, WIDTH, &|columns, parts| {
        let mut strip = Strip { x, weight, form, dim, columns, window: [[0.0; WIDTH]; MAX_TAPS] };
        scan.iter().for_each(|step| strip.step(*step, parts));
    });
}

/// [`ConvForm`](super::super::ConvForm) with what it names.
#[derive(Clone, Copy)]
pub(super) enum Form<'a> {
    Gated,
    Silu { bias: Option<&'a [f32]> },
}

struct Strip<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    form: Form<'a>,
    dim: usize,
    columns: Range<usize>,
    /// The rows that a row reads, the oldest first; the one behind the state's is the row itself.
    window: [[f32; WIDTH]; MAX_TAPS],
}

impl Strip<'_> {
    fn step(&mut self, step: Scan, [kept, states, out]: &mut [ColumnsPart<'_>; 3]) {
        let (n, n_state) = (self.columns.len(), self.weight.len() / self.dim - 1);
        match step {
            Scan::Clear => self.window = [[0.0; WIDTH]; MAX_TAPS],
            Scan::Load(slot) => {
                for (i, row) in self.window[..n_state].iter_mut().enumerate() {
                    row[..n].copy_from_slice(states.row(slot as usize * n_state + i));
                }
            }
            Scan::Store(slot) => {
                for (i, row) in self.window[..n_state].iter().enumerate() {
                    states.row(slot as usize * n_state + i).copy_from_slice(&row[..n]);
                }
            }
            Scan::Kept(row) => {
                self.window[n_state][..n].copy_from_slice(kept.row(row as usize));
                self.window.copy_within(1..=n_state, 0);
            }
            Scan::Row(row) => {
                self.run(row as usize, n_state, kept.row(row as usize), out.row(row as usize));
                self.window.copy_within(1..=n_state, 0);
            }
        }
    }

    /// A row: what is kept of it, and what comes of it.
    fn run(&mut self, row: usize, n_state: usize, kept: &mut [f32], out: &mut [f32]) {
        let (columns, dim) = (&self.columns, self.dim);
        let part = |part: usize, parts: usize| &self.x[(row * parts + part) * dim..][columns.clone()];
        match self.form {
            Form::Gated => {
                for ((z, b), u) in kept.iter_mut().zip(part(0, 3)).zip(part(2, 3)) {
                    *z = b * u;
                }
            }
            Form::Silu { .. } => kept.copy_from_slice(part(0, 1)),
        }
        self.window[n_state][..kept.len()].copy_from_slice(kept);
        out.fill(0.0);
        for (z, weight) in self.window.iter().zip(self.weight.chunks_exact(dim)) {
            for ((out, z), w) in out.iter_mut().zip(z).zip(&weight[columns.clone()]) {
                *out += w * z;
            }
        }
        match self.form {
            Form::Gated => out.iter_mut().zip(part(1, 3)).for_each(|(out, c)| *out *= c),
            Form::Silu { bias } => {
                let bias = bias.iter().flat_map(|bias| &bias[columns.clone()]);
                out.iter_mut().zip(bias).for_each(|(out, b)| *out += b);
                out.iter_mut().for_each(|y| *y /= 1.0 + (-*y).exp());
            }
        }
    }
}

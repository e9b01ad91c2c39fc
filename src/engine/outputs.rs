//! What was read of a forward's logits: all of each row, or the largest ones.

use crate::sample::{Logits, Top};

/// Rows of logits, or of the largest of them.
#[derive(Clone, Copy)]
pub(super) struct Outputs<'a> {
    values: &'a [f32],
    /// Values of a row.
    width: usize,
    is_top: bool,
}

impl<'a> Outputs<'a> {
    /// A row, from 0.
    pub(super) fn row(self, i: usize) -> Logits<'a> {
        let row = &self.values[i * self.width..][..self.width];
        if !self.is_top {
            return Logits::All(row);
        }
        // As `backend::Select` lays it out.
        let (logits, rest) = row.split_at(self.width / 2);
        Logits::Top(Top { logits, tokens: &rest[..logits.len()], sum: rest[logits.len()] })
    }

    /// Some of the rows.
    pub(super) fn rows(self, first: usize, n: usize) -> Outputs<'a> {
        Outputs { values: &self.values[first * self.width..][..n * self.width], ..self }
    }
}

/// How rows of logits lie in memory.
#[derive(Clone, Copy)]
pub(super) struct Form {
    width: usize,
    is_top: bool,
}

impl Form {
    /// All logits of each row.
    pub(super) fn all(n_vocab: usize) -> Self {
        Form { width: n_vocab, is_top: false }
    }

    /// The `k` largest of each row, as [`crate::backend::Select`] lays them out.
    pub(super) fn top(k: usize) -> Self {
        Form { width: 2 * k + 1, is_top: true }
    }

    pub(super) fn of(self, values: &[f32]) -> Outputs<'_> {
        Outputs { values, width: self.width, is_top: self.is_top }
    }
}

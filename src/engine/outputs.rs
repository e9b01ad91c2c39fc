//! What is read of a forward's logits: the largest ones where they decide, else all.

use super::Engine;
use super::running::Running;
use crate::backend::MAX_SELECTED;
use crate::error::Result;
use crate::sample::{Logits, Top, Wish};

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

    fn rows(self, first: usize, n: usize) -> Outputs<'a> {
        Outputs { values: &self.values[first * self.width..][..n * self.width], ..self }
    }
}

/// How the rows in [`Engine::logits`] lie.
#[derive(Clone, Copy)]
pub(super) struct Form {
    width: usize,
    is_top: bool,
}

impl Form {
    /// The `k` largest of each row, as [`crate::backend::Select`] lays them out.
    pub(super) fn top(k: usize) -> Self {
        Form { width: 2 * k + 1, is_top: true }
    }

    pub(super) fn of(self, values: &[f32]) -> Outputs<'_> {
        Outputs { values, width: self.width, is_top: self.is_top }
    }
}

/// Requests of the batch, and their rows of `outputs`.
pub(super) fn shares<'a, 'b>(
    running: &'a mut [Running],
    outputs: Outputs<'b>,
) -> impl Iterator<Item = (&'a mut Running, Outputs<'b>)> {
    let mut at = 0;
    running.iter_mut().filter(|r| r.offer.rows > 0).map(move |r| {
        let (first, n) = (at, r.offer.outputs);
        at += n;
        (r, outputs.rows(first, n))
    })
}

impl Engine {
    /// Runs the batch; `self.logits` holds what the requests need of its outputs.
    pub(super) async fn forward(&mut self) -> Result<Form> {
        let n_vocab = self.model.config().n_vocab;
        let all = Form { width: n_vocab, is_top: false };
        let Some(wish) = self.wish() else {
            self.model.forward(&self.batch, &mut self.logits).await?;
            return Ok(all);
        };
        let k = self.model.forward_top(&self.batch, wish.n, wish.sum, &mut self.logits).await?;
        let top = Form::top(k);
        if wish.sure || shares(&mut self.running, top.of(&self.logits)).all(|(r, outputs)| r.suffices(outputs)) {
            return Ok(top);
        }
        let n = self.running.iter().map(|r| r.offer.outputs).sum();
        self.model.read_logits(n, &mut self.logits).await?;
        Ok(all)
    }

    /// What all requests of the batch need of the logits; `None`: all of them.
    fn wish(&self) -> Option<Wish> {
        let n_vocab = self.model.config().n_vocab;
        let mut all = Wish { n: 0, sum: false, sure: true };
        let mut n_outputs = 0;
        for running in self.running.iter().filter(|r| r.offer.outputs > 0) {
            let wish = running.wish(MAX_SELECTED)?;
            n_outputs += running.offer.outputs;
            all = Wish { n: all.n.max(wish.n), sum: all.sum || wish.sum, sure: all.sure && wish.sure };
        }
        // More would be as many as there are; and what is more than the head makes at a time cannot be read afterwards.
        let usable = n_outputs > 0 && n_vocab > MAX_SELECTED && (all.sure || n_outputs <= self.model.head_rows());
        usable.then_some(all)
    }
}

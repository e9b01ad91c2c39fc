//! The forward of a step's batch: the largest logits are read where they decide, else all.

use super::Engine;
use super::outputs::{Form, Outputs};
use super::running::Running;
use crate::backend::MAX_SELECTED;
use crate::error::Result;
use crate::sample::Wish;

/// Requests of the batch, and their rows of `outputs`.
pub(super) fn shares<'a, 'b>(
    running: &'a mut [Running],
    outputs: Outputs<'b>,
) -> impl Iterator<Item = (&'a mut Running, Outputs<'b>)> {
    let mut at = 0;
    running.iter_mut().filter(|r| r.share.rows > 0).map(move |r| {
        let (first, n) = (at, r.share.outputs);
        at += n;
        (r, outputs.rows(first, n))
    })
}

impl Engine {
    /// Runs the batch; `self.logits` holds what the requests need of its outputs.
    pub(super) async fn forward(&mut self) -> Result<Form> {
        let all = Form::all(self.model.config().n_vocab);
        let Some(wish) = self.wish() else {
            self.model.forward(&self.batch, &mut self.logits).await?;
            return Ok(all);
        };
        let k = self.model.forward_top(&self.batch, wish.n, wish.sum, &mut self.logits).await?;
        let top = Form::top(k);
        if wish.sure || shares(&mut self.running, top.of(&self.logits)).all(|(r, outputs)| r.suffices(outputs)) {
            return Ok(top);
        }
        let n = self.running.iter().map(|r| r.share.outputs).sum();
        self.model.read_logits(n, &mut self.logits).await?;
        Ok(all)
    }

    /// What all requests of the batch need of the logits; `None`: all of them.
    fn wish(&self) -> Option<Wish> {
        let n_vocab = self.model.config().n_vocab;
        let mut all = Wish { n: 0, sum: false, sure: true };
        let mut n_outputs = 0;
        for running in self.running.iter().filter(|r| r.share.outputs > 0) {
            let wish = running.wish(MAX_SELECTED)?;
            n_outputs += running.share.outputs;
            all = Wish { n: all.n.max(wish.n), sum: all.sum || wish.sum, sure: all.sure && wish.sure };
        }
        // More would be as many as there are; and what is more than the head makes at a time cannot be read afterwards.
        let usable = n_outputs > 0 && n_vocab > MAX_SELECTED && (all.sure || n_outputs <= self.model.head_rows());
        usable.then_some(all)
    }
}

//! Drafting with the model's own first layers, and the forward that goes on behind them: what a drafter has computed of a
//! guess is the first part of its verification.

use super::Model;
use super::forward::Wanted;
use crate::backend::{Norm, Plan, Rows, read};
use crate::batch::{Batch, Streams};
use crate::error::Result;

impl Model {
    /// Runs the rows of a batch from `first` on, those before having been run by this function already, through the first
    /// `n_layers` layers, the last norm and the head: a draft. `streams` gets the residual streams `[rows, dim]` behind these
    /// layers, `logits` becomes `[n_outputs, n_vocab]`. Deeper layers' cache entries are not written, so the tokens must not be
    /// committed; a forward of the same rows may go on from the streams ([`Batch::resume`]).
    ///
    /// # Errors
    /// As for [`Model::forward`]; `streams` is as before then.
    pub async fn draft(
        &mut self,
        (batch, first): (&Batch, usize),
        n_layers: usize,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.check(batch)?;
        let (mut plan, mut part) = (std::mem::take(&mut self.plan), std::mem::take(&mut self.part));
        let mut result = self.kv.plan(&mut *self.backend, batch, &mut plan);
        if result.is_ok() {
            set_rows(&mut part, &plan, |row| row >= first);
            result = self.draft_rows(&mut part, n_layers, streams, logits).await;
        }
        (self.plan, self.part) = (plan, part);
        result
    }

    async fn draft_rows(
        &mut self,
        plan: &mut Plan,
        n_layers: usize,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let known = streams.len();
        let mut result = self.first_layers(plan, n_layers, streams).await;
        if result.is_ok() {
            self.backend.begin(plan)?;
            result = self.end(plan, None, Wanted::All, logits).await;
        }
        if result.is_err() {
            streams.truncate(known);
        }
        result
    }

    /// Runs a plan through the first layers and appends the streams behind them.
    async fn first_layers(&mut self, plan: &Plan, n_layers: usize, streams: &mut Vec<f32>) -> Result<()> {
        self.backend.begin(plan)?;
        let delta = self.through(0..n_layers);
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        if delta.is_some() {
            // A norm completes the stream; what it makes is not used.
            self.backend.norm(&Norm { x: b.x, delta, weight: w.norm, eps: c.norm_eps, out: b.normed, rows: Rows::All });
        }
        let (n, known) = (plan.tokens.len(), streams.len());
        streams.resize(known + n * c.dim, 0.0);
        read(&mut *self.backend, b.x, n, &mut streams[known..]).await
    }

    /// Puts the streams behind the first layers into `x` for all rows of a plan: those that the batch knows, and those that the
    /// layers make of the other rows.
    pub(super) async fn resume(&mut self, plan: &Plan, batch: &Batch) -> Result<()> {
        let (known, Streams { layers, values }) = batch.known();
        let (dim, n) = (self.config.dim, plan.tokens.len());
        let is_known = |row: usize| known.binary_search(&(row as u32)).is_ok();
        let mut others = Vec::new();
        if known.len() < n {
            let mut part = std::mem::take(&mut self.part);
            set_rows(&mut part, plan, |row| !is_known(row));
            let result = self.first_layers(&part, *layers, &mut others).await;
            self.part = part;
            result?;
        }
        let (mut values, mut others) = (values.chunks_exact(dim), others.chunks_exact(dim));
        let rows = (0..n).filter_map(|row| if is_known(row) { values.next() } else { others.next() });
        let x: Vec<f32> = rows.flatten().copied().collect();
        self.backend.write(self.buffers.x, 0, &x)
    }
}

/// Makes `part` some rows of a plan. They are written where they were to be written, and see what they saw.
fn set_rows(part: &mut Plan, whole: &Plan, wanted: impl Fn(usize) -> bool) {
    part.clear();
    part.blocks.extend_from_slice(&whole.blocks);
    part.extras.extend_from_slice(&whole.extras);
    for row in (0..whole.tokens.len()).filter(|&row| wanted(row)) {
        if whole.outputs.binary_search(&(row as u32)).is_ok() {
            part.outputs.push(part.tokens.len() as u32);
        }
        part.tokens.push(whole.tokens[row]);
        part.positions.push(whole.positions[row]);
        part.cells.push(whole.cells[row]);
        part.spans.push(whole.spans[row]);
    }
}

//! The target's own first layers as drafter (layer skip): its final norm and head on an early hidden state.

use super::{Context, Drafter, Proposals, from_logits};
use crate::batch::{Batch, BatchToken, SeqId, Streams};
use crate::error::{Error, Result};
use crate::model::Model;

/// Drafts with the first layers of the target. Each guess goes through them once: its verification begins behind them.
#[derive(Debug)]
pub struct Layers {
    n: usize,
    rows: Run,
    logits: Vec<f32>,
}

impl Layers {
    /// The first `n` layers of `target`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when that is none or all of them.
    pub fn new(target: &Model, n: usize) -> Result<Self> {
        let all = target.config().layers.len();
        if n == 0 || n >= all {
            return Err(Error::invalid_request(format!("drafting with {n} layers; 1 to {} are possible", all - 1)));
        }
        Ok(Layers { n, rows: Run::default(), logits: Vec::new() })
    }
}

impl Drafter for Layers {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        Box::pin(async move {
            let dim = context.target.config().dim;
            let Some(first) = self.rows.extend(context.seq, &context, slots, dim) else { return Ok(Vec::new()) };
            let rows = (&self.rows.batch, first);
            context.target.draft(rows, self.n, &mut self.rows.streams, &mut self.logits).await?;
            Ok(from_logits(&context, &self.logits, context.target.config().n_vocab, slots))
        })
    }

    fn take_streams(&mut self) -> Streams {
        Streams { layers: self.n, values: std::mem::take(&mut self.rows.streams) }
    }

    fn end(&mut self, _: u64) {}

    fn is_model(&self) -> bool {
        true
    }
}

/// A tree that goes through layers as it grows, each row once.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The root and all nodes, in the order of slots.
    pub(super) batch: Batch,
    /// Of the rows that have been run `[rows, dim]`.
    pub(super) streams: Vec<f32>,
    /// Request and length of the text that the tree hangs on.
    root: (u64, usize),
}

impl Run {
    /// Sets the batch to the tree so far, as tokens of `seq` with outputs at `slots`; returns the first row that has not
    /// been run, or whose logits are wanted. `None` where there is no text.
    pub(super) fn extend(&mut self, seq: SeqId, context: &Context<'_>, slots: &[usize], dim: usize) -> Option<usize> {
        let &token = context.text.last()?;
        let root = (context.request, context.text.len());
        if self.root != root || context.tree.is_empty() {
            self.streams.clear();
            self.root = root;
        }
        self.batch.clear();
        self.batch.push(BatchToken { token, seq, parent: None, output: slots.contains(&0) });
        for (i, node) in context.tree.nodes().iter().enumerate() {
            let (token, parent) = (node.token, Some(node.slot as u32));
            self.batch.push(BatchToken { token, seq, parent, output: slots.contains(&(i + 1)) });
        }
        let first = slots.first().copied().unwrap_or(0).min(self.streams.len() / dim);
        self.streams.truncate(first * dim);
        Some(first)
    }
}

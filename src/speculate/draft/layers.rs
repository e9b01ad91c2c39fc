//! The target's own first layers as drafter: its final norm and head on an early hidden state (layer skip), or a sidecar's draft
//! block between.

use super::{Context, Drafter, Proposals, class_of, from_logits};
use crate::batch::{Batch, BatchToken, SeqId, Streams};
use crate::error::{Error, Result};
use crate::model::{DraftPath, Model};

/// Drafts with the first layers of the target. Each guess goes through them once: its verification begins behind them.
#[derive(Debug)]
pub struct Layers {
    path: DraftPath,
    /// Layers of the target that the guesses went through; another sidecar may have another trunk.
    n: usize,
    rows: Run,
    logits: Vec<f32>,
}

impl Layers {
    /// The first `n` layers of `target`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when that is none or all of them, [`crate::Kind::Unsupported`] where layers keep states.
    pub fn new(target: &Model, n: usize) -> Result<Self> {
        let all = target.config().layers.len();
        if n == 0 || n >= all {
            return Err(Error::invalid_request(format!("drafting with {n} layers; 1 to {} are possible", all - 1)));
        }
        let path = DraftPath::Layers(n);
        Ok(Self::with(path, target.draft_layers(path)?))
    }

    /// The trunk and the draft block of `target`'s sidecar.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when it has none.
    pub fn of_sidecar(target: &Model) -> Result<Self> {
        Ok(Self::with(DraftPath::Sidecar, target.draft_layers(DraftPath::Sidecar)?))
    }

    fn with(path: DraftPath, n: usize) -> Self {
        Layers { path, n, rows: Run::default(), logits: Vec::new() }
    }
}

impl Drafter for Layers {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        Box::pin(async move {
            self.n = context.target.draft_layers(self.path)?;
            let dim = context.target.config().dim;
            let Some(first) = self.rows.extend(context.seq, &context, slots, dim) else { return Ok(Vec::new()) };
            let rows = (&self.rows.batch, first);
            context.target.draft(rows, self.path, &mut self.rows.streams, &mut self.logits).await?;
            let n_vocab = context.target.config().n_vocab;
            let Some(tokens) = context.target.draft_tokens(self.path) else {
                return Ok(from_logits(&context, &self.logits, n_vocab, slots));
            };
            let acceptance = context.target.acceptance(self.path);
            let mut whole = vec![f32::NEG_INFINITY; slots.len() * n_vocab];
            let rows = self.logits.chunks_exact(tokens.len() + usize::from(acceptance.is_some()));
            for (whole, row) in whole.chunks_exact_mut(n_vocab).zip(rows.clone()) {
                tokens.iter().zip(row).for_each(|(&t, &logit)| whole[t as usize] = logit);
            }
            let mut proposals = from_logits(&context, &whole, n_vocab, slots);
            if let Some(acceptance) = acceptance {
                for (proposal, row) in proposals.iter_mut().zip(rows) {
                    proposal.class = class_of(acceptance.probability(row));
                }
            }
            Ok(proposals)
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

//! The one form in which tokens reach the model.
//!
//! A [`Batch`] is a flat list of tokens. Each token belongs to a sequence and has a parent: either the sequence's
//! committed cache or an earlier token of the same batch. A token sees the committed cache of its sequence and its chain
//! of ancestors, nothing else. Decode steps, prefill chunks, packed prompts, draft trees and any mixture of them are
//! batches of this form; no padding exists. The position of a token follows from its chain: committed length + depth.

/// Names a sequence of the KV cache; see [`crate::kv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// One token of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchToken {
    /// Vocabulary id.
    pub token: u32,
    /// The sequence that the token extends.
    pub seq: SeqId,
    /// Index in the batch of the token before this one, or `None` when that is the last committed token of the sequence.
    pub parent: Option<u32>,
    /// Whether the logits of this row are wanted.
    pub output: bool,
}

/// Residual streams of tokens that went through the first layers of the model before, as guesses of a drafter do.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Layers that are behind them.
    pub layers: usize,
    /// `[n, dim]`.
    pub values: Vec<f32>,
}

/// A flat list of tokens for one forward; parents come before their children.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    tokens: Vec<BatchToken>,
    /// Rows whose streams are known, ascending.
    known: Vec<u32>,
    streams: Streams,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one token and returns its row.
    pub fn push(&mut self, token: BatchToken) -> u32 {
        let row = self.tokens.len() as u32;
        debug_assert!(token.parent.is_none_or(|p| p < row), "a parent comes before its children");
        self.tokens.push(token);
        row
    }

    /// Appends a run of tokens of one sequence, each the child of the one before; asks for the logits of the last one
    /// when `output` is set. Returns the rows.
    pub fn push_run(&mut self, seq: SeqId, tokens: &[u32], output: bool) -> std::ops::Range<u32> {
        let first = self.tokens.len() as u32;
        for (i, &token) in tokens.iter().enumerate() {
            let parent = (i > 0).then(|| first + i as u32 - 1);
            self.push(BatchToken { token, seq, parent, output: output && i + 1 == tokens.len() });
        }
        first..self.tokens.len() as u32
    }

    /// Has the forward begin behind the first layers for rows from `first` on, `dim` values each. Their cache entries in those
    /// layers must have been written by [`crate::model::Model::draft`] for rows at the same places of their sequence. All
    /// streams of a batch come from behind the same layer.
    pub fn resume(&mut self, first: u32, streams: &Streams, dim: usize) {
        debug_assert!(self.known.is_empty() || self.streams.layers == streams.layers, "one drafter a batch");
        self.known.extend((first..).take(streams.values.len() / dim));
        self.streams.layers = streams.layers;
        self.streams.values.extend_from_slice(&streams.values);
    }

    /// Rows whose streams are known, ascending, and these streams.
    pub fn known(&self) -> (&[u32], &Streams) {
        (&self.known, &self.streams)
    }

    /// The tokens, in row order.
    pub fn tokens(&self) -> &[BatchToken] {
        &self.tokens
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.known.clear();
        self.streams.values.clear();
    }
}

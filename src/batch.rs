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

/// A flat list of tokens for one forward; parents come before their children.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    tokens: Vec<BatchToken>,
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
    }
}

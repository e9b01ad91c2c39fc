//! The second text of a contrasted request: another prompt with the same answer. It has a sequence of its own in the cache, forked
//! from the request's where their prompts part, and its rows are in the same forwards.

use super::request::Against;
use crate::backend::{BLOCK, CacheSpec};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};
use crate::kv::KvCache;
use crate::prefill::common;
use crate::sample::{Contrast, Logits};

/// The text, whether the request waits or runs.
pub(super) struct Other {
    /// The other prompt, and the answer.
    pub(super) tokens: Vec<u32>,
    /// How many tokens both texts begin with, but for the last of each prompt.
    pub(super) common: usize,
    contrast: Contrast,
}

impl Other {
    /// That of a request with `prompt`.
    pub(super) fn new(prompt: &[u32], Against { prompt: tokens, contrast }: Against) -> Self {
        let most = prompt.len().min(tokens.len()).saturating_sub(1);
        Other { common: common(prompt, &tokens).min(most), tokens, contrast }
    }

    /// What a cache may already hold of the text, as [`super::task::Task::beginning`].
    pub(super) fn beginning(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }
}

/// How many tokens of prompt and answer there is room for beside another prompt, `room` being what
/// the context holds.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] for an empty prompt, [`crate::Kind::PromptTooLong`].
pub(super) fn room(prompt: &[u32], against: &Against, room: usize, spec: &CacheSpec) -> Result<usize> {
    let other = against.prompt.len();
    if other == 0 {
        return Err(Error::invalid_request("contrast: the prompt is empty").in_field("contrast"));
    }
    if spec.has_states() && spec.n_slots < 2 {
        let message = "contrast: the model keeps the state of one text only, and a contrasted answer has two";
        return Err(Error::invalid_request(message).in_field("contrast"));
    }
    // The last block of either text may be full but for one token.
    let both = ((spec.n_blocks * BLOCK + 2).saturating_sub(2 * BLOCK + prompt.len() + other)) / 2;
    match both.min(room.saturating_sub(prompt.len().max(other))) {
        0 => Err(Error::prompt_too_long(format!(
            "prompt and contrast have {} and {other} tokens, but the context holds {room} with both answers; shorten them, or load the model \
             with a longer context",
            prompt.len()
        ))),
        answer => Ok(prompt.len() + answer),
    }
}

/// Its sequence.
pub(super) struct Beside {
    pub(super) seq: SeqId,
    /// Tokens in the cache.
    pub(super) done: usize,
    /// Those behind all of the text, once it is read.
    logits: Vec<f32>,
}

impl Beside {
    /// Starts in `seq`, which holds the beginning of the text.
    pub(super) fn new(kv: &KvCache, seq: SeqId) -> Self {
        Beside { seq, done: kv.len(seq), logits: Vec::new() }
    }

    /// Puts `n` rows into a batch; whether they ask for logits, as they are all that is left of the text.
    pub(super) fn put(&self, other: &Other, n: usize, batch: &mut Batch) -> bool {
        let whole = n > 0 && self.done + n == other.tokens.len();
        batch.push_run(self.seq, &other.tokens[self.done..][..n], whole);
        whole
    }

    /// Keeps the logits behind the text.
    pub(super) fn keep(&mut self, logits: Logits<'_>) {
        if let Logits::All(logits) = logits {
            self.logits.clear();
            self.logits.extend_from_slice(logits);
        }
    }

    /// The logits that the answer's next token is chosen from; `own` are those behind the request's own text.
    pub(super) fn pair<'a>(&'a self, other: &Other, own: Logits<'a>) -> Logits<'a> {
        match own {
            Logits::All(own) => Logits::Pair { own, other: &self.logits, contrast: other.contrast },
            others => others,
        }
    }
}

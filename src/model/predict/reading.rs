//! How a prompt is read by prediction: which of its tokens, when, and how exactly.

use crate::error::{Error, Result};
use std::ops::{Range, RangeInclusive};

/// First tokens of a text that go through all layers.
pub const SINKS: usize = 4;

/// Last tokens of a prompt that go through all layers at once: an eighth of those to read, between these.
const TAIL: RangeInclusive<usize> = 32..=64;

/// Length of the tail of `n` tokens.
pub fn tail(n: usize) -> usize {
    (n / 8).clamp(*TAIL.start(), *TAIL.end())
}

/// Tokens to read from which on predicting is worth its parts: with fewer, tail and sinks are most of it.
const LEAST: usize = 128;

/// Tokens to read, and milliseconds saved, from which on [`Prefill::Auto`] predicts.
const AUTO: (usize, f64) = (256, 250.0);

/// Tokens of the exact reading between two steps of an answer, at least and at most: fewer read all weights for little,
/// more keep the reader waiting without being faster.
pub(crate) const CHUNK: Range<usize> = 16..256;

/// How a prompt is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefill {
    /// By the whole model.
    #[default]
    Exact,
    /// Predicted; the answer begins early and goes on from the prediction.
    Fast,
    /// Predicted at first; the answer begins early, and the exact reading goes on behind it.
    Progressive,
    /// [`Prefill::Progressive`] where much time is saved, otherwise exact.
    Auto,
}

impl std::str::FromStr for Prefill {
    type Err = Error;

    fn from_str(text: &str) -> Result<Prefill> {
        match text {
            "exact" => Ok(Prefill::Exact),
            "fast" => Ok(Prefill::Fast),
            "progressive" => Ok(Prefill::Progressive),
            "auto" => Ok(Prefill::Auto),
            _ => {
                Err(Error::invalid_request(format!("prefill is {text:?}; it may be exact, fast, progressive or auto")))
            }
        }
    }
}

impl Prefill {
    /// What is done for `n` tokens to read: whether to predict, and whether to read exactly afterwards. `saved` estimates
    /// the milliseconds that predicting saves, where speeds are known.
    pub fn of(self, n: usize, saved: Option<f64>) -> Option<bool> {
        match self {
            Prefill::Exact => None,
            Prefill::Fast => (n >= LEAST).then_some(false),
            Prefill::Progressive => (n >= LEAST).then_some(true),
            Prefill::Auto => (n >= AUTO.0 && saved.is_none_or(|ms| ms >= AUTO.1)).then_some(true),
        }
    }
}

/// A prompt that is being read by prediction.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Whether the exact reading follows.
    pub(crate) progressive: bool,
    /// The tokens that the trunk reads; everything before is exact.
    pub(crate) tokens: Range<usize>,
    /// Streams behind the trunk `[tokens read, dim]`.
    pub(crate) streams: Vec<f32>,
    /// Leading tokens of the text whose entries are exact in all layers.
    pub(crate) exact: usize,
    /// Tokens of the ends that have gone through all layers.
    ends_read: usize,
    /// Whether the tail has been read.
    pub(crate) begun: bool,
}

impl Reading {
    /// Begins to read `tokens`.
    pub(crate) fn new(progressive: bool, tokens: Range<usize>) -> Self {
        Reading { progressive, exact: tokens.start, tokens, streams: Vec::new(), ends_read: 0, begun: false }
    }

    /// The sinks and the tail, which are to go through all layers once the trunk is through.
    pub(crate) fn ends(&self) -> [Range<usize>; 2] {
        let Range { start, end } = self.tokens;
        let sinks = start..SINKS.clamp(start, end);
        let tail = end.saturating_sub(tail(end - start)).max(sinks.end)..end;
        [sinks, tail]
    }

    /// Number of tokens of the ends.
    pub(crate) fn ends_len(&self) -> usize {
        self.ends().map(|end| end.len()).iter().sum()
    }

    /// The next at most `n` tokens of the ends, and whether they are the last ones.
    pub(crate) fn next_ends(&self, n: usize) -> ([Range<usize>; 2], bool) {
        let [sinks, tail] = self.ends();
        let start = (sinks.start + self.ends_read).min(sinks.end);
        let first = start..(start + n).min(sinks.end);
        let start = tail.start + self.ends_read.saturating_sub(sinks.len());
        let second = start..(start + n - first.len()).min(tail.end);
        let last = second.end == tail.end;
        ([first, second], last)
    }

    /// Notes that the next `n` tokens of the ends have been read.
    pub(crate) fn read_ends(&mut self, n: usize) {
        self.ends_read += n;
    }

    /// Notes that all of the ends have been read.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
        self.exact = self.ends()[0].end;
    }

    /// The next at most `n` tokens of the prompt to make exact.
    pub(crate) fn next(&self, n: usize) -> Range<usize> {
        let n = if self.begun && self.progressive { n } else { 0 };
        self.exact..(self.exact + n).min(self.tokens.end).max(self.exact)
    }

    /// Streams of some of the tokens.
    pub(crate) fn streams(&self, tokens: Range<usize>, dim: usize) -> &[f32] {
        &self.streams[(tokens.start - self.tokens.start) * dim..(tokens.end - self.tokens.start) * dim]
    }
}

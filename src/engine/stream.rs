//! Tokens to text that may be shown: whole characters, and nothing that may turn out to be a stop text.

use crate::tokenizer::{Detokenizer, Tokenizer};
use std::ops::Range;

/// The text of one answer.
pub(super) struct TextStream {
    detokenizer: Detokenizer,
    stop: Vec<String>,
    held: String,
    /// Stretches of the held text that accepted guesses wrote, in bytes.
    accepted: Vec<Range<usize>>,
}

/// Text, and its stretches that accepted guesses wrote.
pub(super) type Piece = (String, Vec<Range<usize>>);

impl TextStream {
    /// Ends at a text of `stop`; `shown` are control tokens that are text all the same.
    pub(super) fn new(stop: Vec<String>, shown: Vec<u32>) -> Self {
        let mut detokenizer = Detokenizer::new(true);
        detokenizer.show(shown);
        TextStream { detokenizer, stop, held: String::new(), accepted: Vec::new() }
    }

    /// Adds a token, which a drafter may have guessed; returns the text that is certain, and whether a stop text was met.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32, guessed: bool) -> (Piece, bool) {
        let from = self.held.len();
        self.held.push_str(&self.detokenizer.push(tokenizer, token));
        if guessed && self.held.len() > from {
            self.accepted.push(from..self.held.len());
        }
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            let piece = self.release(at);
            self.held.clear();
            self.accepted.clear();
            return (piece, true);
        }
        (self.release(self.held.len() - self.unfinished_stop()), false)
    }

    /// Gives the first `n` bytes of the held text away.
    fn release(&mut self, n: usize) -> Piece {
        let rest = self.held.split_off(n);
        let all = std::mem::take(&mut self.accepted);
        self.accepted = all.iter().filter(|r| r.end > n).map(|r| r.start.saturating_sub(n)..r.end - n).collect();
        let accepted = all.into_iter().filter(|r| r.start < n).map(|r| r.start..r.end.min(n)).collect();
        (std::mem::replace(&mut self.held, rest), accepted)
    }

    /// Longest end of the held text, in bytes, that a stop text begins with.
    fn unfinished_stop(&self) -> usize {
        let begins = |stop: &String| {
            let longest = stop.len().saturating_sub(1).min(self.held.len());
            (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        // A match may begin inside a character only if the stop text does, which it cannot; so the border is one of
        // characters.
        self.stop.iter().map(begins).max().unwrap_or(0)
    }

    /// Text still held back when the answer ends. The beginning of a character is no text, and left out.
    pub(super) fn finish(&mut self) -> Piece {
        self.release(self.held.len())
    }
}

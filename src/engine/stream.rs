//! Tokens to text that may be shown: whole characters, and nothing that may turn out to be a stop text.

use crate::tokenizer::{Detokenizer, Tokenizer};

/// The text of one answer.
pub(super) struct TextStream {
    detokenizer: Detokenizer,
    stop: Vec<String>,
    held: String,
}

impl TextStream {
    pub(super) fn new(stop: Vec<String>) -> Self {
        TextStream { detokenizer: Detokenizer::new(true), stop, held: String::new() }
    }

    /// Adds a token; returns the text that is certain, and whether a stop text was met.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> (String, bool) {
        self.held.push_str(&self.detokenizer.push(tokenizer, token));
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.detokenizer.finish();
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.held.len() - self.unfinished_stop();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
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

    /// Text still held back when the answer ends.
    pub(super) fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&self.detokenizer.finish());
        text
    }
}

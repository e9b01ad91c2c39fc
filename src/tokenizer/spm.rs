//! SentencePiece's BPE (llama, gemma; llama.cpp's SPM): characters are merged to the known pieces with the highest scores; what
//! has no piece falls back to bytes.

use super::vocab::Vocab;
use crate::error::{Error, Result};
use crate::gguf::Metadata;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Scores of the pieces.
pub(super) struct Spm {
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// A space is put in front of text.
    space_prefix: bool,
}

/// Stands for a space in pieces.
pub(super) const SPACE: &str = "\u{2581}";

impl Spm {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Self> {
        let scores = metadata.floats("tokenizer.ggml.scores")?.to_vec();
        if scores.len() != vocab.len() {
            return Err(Error::bad_file(format!("{} tokens, but {} scores", vocab.len(), scores.len())));
        }
        let unknown = metadata.opt_u32("tokenizer.ggml.unknown_token_id")?.filter(|&id| (id as usize) < vocab.len());
        let space_prefix = metadata.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Spm { scores, bytes: vocab.byte_tokens(), unknown, space_prefix })
    }

    /// Appends the tokens of `text`, before which there is nothing or a special token.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let prefix = if self.space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', SPACE);
        let mut merger = Merger { spm: self, vocab, text: &text, symbols: Vec::new(), queue: BinaryHeap::new() };
        merger.run();
        for symbol in merger.symbols.iter().filter(|s| s.len > 0) {
            let bytes = &text.as_bytes()[symbol.start..symbol.start + symbol.len];
            match vocab.id(bytes) {
                Some(id) => out.push(id),
                None => {
                    let fallback = bytes.iter().map(|&b| self.bytes[usize::from(b)].or(self.unknown));
                    out.extend(fallback.flatten());
                }
            }
        }
    }
}

/// A piece of the text in a linked list; empty once merged into the one before.
struct Symbol {
    start: usize,
    len: usize,
    before: usize,
    after: usize,
}

const END: usize = usize::MAX;

/// A possible merge: of the symbol at `left` and the one behind it, to a piece of `len` bytes.
#[derive(PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    len: usize,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    /// The best score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

struct Merger<'a> {
    spm: &'a Spm,
    vocab: &'a Vocab,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Merger<'_> {
    fn run(&mut self) {
        for (start, c) in self.text.char_indices() {
            let index = self.symbols.len();
            self.symbols.push(Symbol { start, len: c.len_utf8(), before: index.wrapping_sub(1), after: index + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.after = END;
        }
        for left in 0..self.symbols.len() {
            self.propose(left);
        }
        while let Some(candidate) = self.queue.pop() {
            self.merge(&candidate);
        }
    }

    fn propose(&mut self, left: usize) {
        let Some(symbol) = self.symbols.get(left) else { return };
        let Some(next) = self.symbols.get(symbol.after) else { return };
        let len = symbol.len + next.len;
        let piece = &self.text.as_bytes()[symbol.start..symbol.start + len];
        if let Some(id) = self.vocab.id(piece) {
            self.queue.push(Candidate { score: self.spm.scores[id as usize], left, len });
        }
    }

    fn merge(&mut self, candidate: &Candidate) {
        let Symbol { len, before, after, .. } = self.symbols[candidate.left];
        let Some(next) = self.symbols.get_mut(after) else { return };
        // One of the two may have been merged with another symbol since.
        if len == 0 || next.len == 0 || len + next.len != candidate.len {
            return;
        }
        next.len = 0;
        let behind = next.after;
        let symbol = &mut self.symbols[candidate.left];
        (symbol.len, symbol.after) = (candidate.len, behind);
        if let Some(behind) = self.symbols.get_mut(behind) {
            behind.before = candidate.left;
        }
        self.propose(candidate.left);
        self.propose(before);
    }
}

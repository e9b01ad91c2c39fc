//! SentencePiece's unigram model (T5, XLM-RoBERTa; llama.cpp's UGM): of all ways to cut a text into pieces, the one with the
//! largest sum of scores, by Viterbi's algorithm.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::spm::SPACE;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, Result};
use crate::gguf::Metadata;

/// How much worse than the worst piece an unknown character is; SentencePiece's number.
const UNKNOWN_PENALTY: f64 = 10.0;

/// See the module text.
pub(super) struct Unigram {
    scores: Vec<f32>,
    unknown: u32,
    unknown_score: f64,
    /// Bytes of the longest piece.
    longest: usize,
    normalizer: Normalizer,
    /// A space is put in front of text.
    space_prefix: bool,
    /// Runs of spaces are one, and none stands at the ends.
    merges_spaces: bool,
}

impl Unigram {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Self> {
        let scores = metadata.floats("tokenizer.ggml.scores")?.to_vec();
        if scores.len() != vocab.len() {
            return Err(Error::bad_file(format!("{} tokens, but {} scores", vocab.len(), scores.len())));
        }
        let pieces = || (0..).zip(&scores).filter(|&(id, _)| is_piece(vocab.kind(id)));
        let worst = pieces().fold(0.0, |worst: f64, (_, &score)| worst.min(f64::from(score)));
        let longest = pieces().map(|(id, _)| vocab.bytes(id).len()).max().unwrap_or(0);
        let unknown = metadata.opt_u32("tokenizer.ggml.unknown_token_id")?.filter(|&id| (id as usize) < vocab.len());
        let unknown =
            unknown.ok_or_else(|| Error::bad_file("a unigram vocabulary without a token for what is unknown"))?;
        let flag = |key: &str| metadata.opt_bool(&format!("tokenizer.ggml.{key}"));
        Ok(Unigram {
            unknown,
            unknown_score: worst - UNKNOWN_PENALTY,
            longest,
            normalizer: Normalizer::new(metadata)?,
            space_prefix: flag("add_space_prefix")?.unwrap_or(true),
            merges_spaces: flag("remove_extra_whitespaces")?.unwrap_or(true),
            scores,
        })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let text = self.spaced(&self.normalizer.normalize(text));
        let first = out.len();
        // Backwards from the end; unknown characters beside each other are one token.
        for token in self.cut(vocab, &text) {
            if token != self.unknown || out.len() == first || out.last() != Some(&self.unknown) {
                out.push(token);
            }
        }
        if let Some(tokens) = out.get_mut(first..) {
            tokens.reverse();
        }
    }

    /// The text with marks for spaces, as pieces have them.
    fn spaced(&self, text: &str) -> String {
        let mut spaced = String::with_capacity(text.len() + 8);
        if self.merges_spaces {
            for (i, word) in text.split(' ').filter(|word| !word.is_empty()).enumerate() {
                if i > 0 || self.space_prefix {
                    spaced.push_str(SPACE);
                }
                spaced.push_str(word);
            }
            return spaced;
        }
        if self.space_prefix && !text.is_empty() {
            spaced.push_str(SPACE);
        }
        spaced.push_str(&text.replace(' ', SPACE));
        spaced
    }

    /// The pieces of the best cut, the last one first.
    fn cut(&self, vocab: &Vocab, text: &str) -> Vec<u32> {
        // For every end of a character: the best sum up to there, and the last piece and its beginning.
        let mut best = vec![(f64::NEG_INFINITY, self.unknown, 0usize); text.len() + 1];
        if let Some(start) = best.first_mut() {
            start.0 = 0.0;
        }
        for (at, c) in text.char_indices() {
            let (Some(&(sum, ..)), Some(rest)) = (best.get(at), text.as_bytes().get(at..)) else { continue };
            let mut offer = |len: usize, token: u32, score: f64| {
                if let Some(end) = best.get_mut(at + len).filter(|end| sum + score > end.0) {
                    *end = (sum + score, token, at);
                }
            };
            for len in (1..=rest.len().min(self.longest)).filter(|&len| text.is_char_boundary(at + len)) {
                let Some(id) = rest.get(..len).and_then(|piece| vocab.id(piece)).filter(|&id| is_piece(vocab.kind(id)))
                else {
                    continue;
                };
                // What a file's maker wants whole is never cut.
                let own = self.scores.get(id as usize).map_or(0.0, |&score| f64::from(score));
                offer(len, id, if vocab.kind(id) == TokenKind::UserDefined { 0.0 } else { own });
            }
            offer(c.len_utf8(), self.unknown, self.unknown_score);
        }
        let (mut pieces, mut end) = (Vec::new(), text.len());
        while let Some(&(_, token, start)) = best.get(end).filter(|_| end > 0) {
            pieces.push(token);
            end = start;
        }
        pieces
    }
}

fn is_piece(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
}

/// SentencePiece's normalization: what `precompiled_charsmap` says, a trie of strings that are replaced and their replacements.
#[derive(Default)]
struct Normalizer {
    /// Units of a double-array trie (darts-clone).
    units: Vec<u32>,
    /// Ended by NUL each.
    replacements: Vec<u8>,
}

impl Normalizer {
    fn new(metadata: &Metadata) -> Result<Self> {
        let Some(map) = metadata.opt_integers("tokenizer.ggml.precompiled_charsmap")?.filter(|map| !map.is_empty())
        else {
            return Ok(Normalizer::default());
        };
        let bytes: Vec<u8> = map.iter().map(|&byte| byte as u8).collect();
        let wrong = || Error::bad_file("tokenizer.ggml.precompiled_charsmap is damaged");
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
        let (units, replacements) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(wrong)?;
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Normalizer { units, replacements: replacements.to_vec() })
    }

    fn normalize(&self, text: &str) -> String {
        let (mut normalized, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(c) = rest.chars().next() {
            let replaced = self.longest(rest.as_bytes()).and_then(|(len, at)| {
                let to = self.replacements.get(at..)?.split(|&byte| byte == 0).next()?;
                Some((rest.get(len..)?, std::str::from_utf8(to).ok()?))
            });
            match replaced {
                Some((behind, to)) => {
                    normalized.push_str(to);
                    rest = behind;
                }
                None => {
                    normalized.push(c);
                    rest = rest.get(c.len_utf8()..).unwrap_or_default();
                }
            }
        }
        normalized
    }

    /// The longest string of the trie that `text` begins with: its length, and where its replacement is.
    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        let unit = |at: u32| self.units.get(at as usize).copied();
        // Bits of a unit: a label, whether a string ends there, and the distance of the children.
        let children = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let (mut found, mut at) = (None, children(unit(0)?));
        for (&byte, len) in text.iter().zip(1..) {
            at ^= u32::from(byte);
            let Some(node) = unit(at).filter(|node| byte != 0 && node & (1 << 31 | 0xff) == u32::from(byte)) else {
                break;
            };
            at ^= children(node);
            if node >> 8 & 1 == 1 {
                found = Some((len, (unit(at)? & !(1 << 31)) as usize));
            }
        }
        found
    }
}

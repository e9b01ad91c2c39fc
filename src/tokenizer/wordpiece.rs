//! WordPiece (BERT): text is lowered and loses its accents, words are cut greedily into the longest known pieces.
//!
//! In a file, a piece that begins a word carries U+2581, and one that goes on has nothing where BERT's own has `##`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::spm::SPACE;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, Result};
use crate::gguf::Metadata;
use std::collections::HashMap;
use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Longest word that is cut into pieces; longer ones are unknown, as BERT has it.
const MAX_WORD: usize = 100;

/// See the module text.
pub(super) struct WordPiece {
    unknown: u32,
    /// Whether text is lowered and loses its accents: not where the vocabulary has capitals.
    lowers: bool,
    /// What is left of a character without its accents, where that is not the character.
    bare: HashMap<char, &'static str>,
    /// Bytes of the longest piece.
    longest: usize,
}

impl WordPiece {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Self> {
        let unknown = metadata.opt_u32("tokenizer.ggml.unknown_token_id")?.or(vocab.id(b"[UNK]"));
        let unknown = unknown.filter(|&id| (id as usize) < vocab.len());
        let unknown =
            unknown.ok_or_else(|| Error::bad_file("a WordPiece vocabulary without a token for unknown words"))?;
        let pieces =
            || (0..vocab.len() as u32).filter(|&id| vocab.kind(id) == TokenKind::Normal).map(|id| vocab.bytes(id));
        // Besides tokens like [unused0] and [MASK], which some files do not mark.
        let has_capitals = |piece: &[u8]| piece.first() != Some(&b'[') && piece.iter().any(u8::is_ascii_uppercase);
        let lowers = !pieces().any(has_capitals);
        let longest = pieces().map(<[u8]>::len).max().unwrap_or(0);
        Ok(WordPiece { unknown, lowers, bare: if lowers { bare() } else { HashMap::new() }, longest })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut word = Word { wordpiece: self, vocab, text: SPACE.to_string(), out };
        for c in text.chars() {
            let category = get_general_category(c);
            if c.is_whitespace() {
                word.end();
            } else if c == '\u{fffd}' || is_control(category) {
                // Is no text.
            } else if is_ideograph(c) {
                word.end();
                word.push_bare(c);
                word.end();
            } else {
                word.push_bare(c);
            }
        }
        word.end();
    }
}

/// A word that is being read.
struct Word<'a> {
    wordpiece: &'a WordPiece,
    vocab: &'a Vocab,
    /// It, behind [`SPACE`].
    text: String,
    out: &'a mut Vec<u32>,
}

impl Word<'_> {
    /// Takes a character, lowered and without accents where the vocabulary has only such.
    fn push_bare(&mut self, c: char) {
        if !self.wordpiece.lowers {
            return self.push(c);
        }
        let bare = self.wordpiece.bare.get(&c);
        let mut push = |c: char| {
            if get_general_category(c) != Category::NonspacingMark {
                c.to_lowercase().for_each(|c| self.push(c));
            }
        };
        match bare {
            Some(bare) => bare.chars().for_each(push),
            None => jamos(c).into_iter().flatten().for_each(&mut push),
        }
    }

    /// Takes a character of the word; punctuation is a word of its own.
    fn push(&mut self, c: char) {
        if !is_punctuation(c) {
            return self.text.push(c);
        }
        self.end();
        self.text.push(c);
        self.end();
    }

    /// Cuts the word into pieces; one that cannot be cut is unknown as a whole.
    fn end(&mut self) {
        let (known, mut rest) = (self.out.len(), self.text.as_str());
        if rest == SPACE {
            return;
        }
        let mut is_known = rest.chars().count() <= MAX_WORD + 1;
        while is_known && !rest.is_empty() {
            let longest = (1..=rest.len().min(self.wordpiece.longest)).rev();
            let found = longest.filter_map(|n| rest.split_at_checked(n)).find_map(|(piece, behind)| {
                // The mark of a beginning is no piece of a word.
                let id = self.vocab.id(piece.as_bytes()).filter(|_| piece != SPACE)?;
                (self.vocab.kind(id) == TokenKind::Normal).then_some((id, behind))
            });
            match found {
                Some((id, behind)) => {
                    self.out.push(id);
                    rest = behind;
                }
                None => is_known = false,
            }
        }
        if !is_known {
            self.out.truncate(known);
            self.out.push(self.wordpiece.unknown);
        }
        self.text.truncate(SPACE.len());
    }
}

/// What `accents.txt` says; see `tests/data/make_accents.py`.
fn bare() -> HashMap<char, &'static str> {
    let mut bare = HashMap::new();
    for line in include_str!("accents.txt").lines() {
        let mut chars = line.char_indices();
        match chars.next() {
            Some((_, ' ')) => {
                if let (Some((_, c)), Some((at, _))) = (chars.next(), chars.next()) {
                    bare.extend(line.get(at..).map(|left| (c, left)));
                }
            }
            Some((_, first)) => {
                let left = chars.filter_map(|(at, c)| line.get(at..at + c.len_utf8()));
                bare.extend((first..).zip(left));
            }
            None => {}
        }
    }
    bare
}

/// The parts of a syllable of Hangul, or the character (Unicode, section 3.12).
fn jamos(c: char) -> [Option<char>; 3] {
    let Some(index) = u32::from(c).checked_sub(0xac00).filter(|&index| index < 11172) else {
        return [Some(c), None, None];
    };
    let last = (index % 28 > 0).then(|| char::from_u32(0x11a7 + index % 28)).flatten();
    [char::from_u32(0x1100 + index / 588), char::from_u32(0x1161 + index % 588 / 28), last]
}

fn is_control(category: Category) -> bool {
    use Category::{Control, Format, PrivateUse, Surrogate, Unassigned};
    matches!(category, Control | Format | Unassigned | PrivateUse | Surrogate)
}

fn is_punctuation(c: char) -> bool {
    use Category::*;
    c.is_ascii_punctuation()
        || matches!(
            get_general_category(c),
            ConnectorPunctuation
                | DashPunctuation
                | OpenPunctuation
                | ClosePunctuation
                | InitialPunctuation
                | FinalPunctuation
                | OtherPunctuation
        )
}

/// Whether BERT sees a Chinese character, which is a word of its own.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c), 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b81f | 0x2b820..=0x2ceaf
        | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

//! Byte-pair encoding: a word's bytes (GPT-2), or its characters (Gemma 4), are merged pair by pair, the earliest rule first.

use super::split::Split;
use super::spm::SPACE;
use super::vocab::Vocab;
use crate::error::{Error, Result};
use crate::gguf::Metadata;
use foldhash::fast::FixedState;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Merge rules over token ids, and the pre-tokenizer.
pub(super) struct Bpe {
    /// (left, right) → (rank, merged).
    merges: HashMap<(u32, u32), (u32, u32), FixedState>,
    /// The token of each single byte.
    bytes: [Option<u32>; 256],
    split: Split,
    units: Units,
}

/// What merges begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Units {
    /// Bytes, for which characters stand in the vocabulary.
    Bytes,
    /// Characters, with U+2581 for a space; those without a token are bytes.
    Characters,
}

impl Units {
    /// Turns the text of a token into what it stands for.
    pub(super) fn decode(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Units::Bytes => decode_token(text, out),
            Units::Characters => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable ones for themselves, the others moved behind
/// U+0100 (GPT-2's `bytes_to_unicode`).
fn char_to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        v @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(v as u8),
        v @ 0x100..=0x120 => Some((v - 0x100) as u8),
        v @ 0x121..=0x142 => Some((v - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Turns the text of a byte-level token into bytes; characters outside the alphabet stand for themselves.
fn decode_token(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match char_to_byte(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

impl Bpe {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab, units: Units) -> Result<Self> {
        let rules = metadata.strings("tokenizer.ggml.merges")?;
        let mut merges = HashMap::with_capacity_and_hasher(rules.len(), FixedState::default());
        let (mut left, mut right, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (rank, rule) in rules.iter().enumerate() {
            // A space never is part of a token's text, so the first one behind a character divides.
            let at = rule.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(i, _)| i);
            let Some(at) = at else { return Err(Error::bad_file(format!("merge rule {rank} ({rule}) is no pair"))) };
            left.clear();
            right.clear();
            units.decode(&rule[..at], &mut left);
            units.decode(&rule[at + 1..], &mut right);
            both.clear();
            both.extend_from_slice(&left);
            both.extend_from_slice(&right);
            if let (Some(l), Some(r), Some(merged)) = (vocab.id(&left), vocab.id(&right), vocab.id(&both)) {
                merges.entry((l, r)).or_insert((rank as u32, merged));
            }
        }
        let mut bytes = vocab.byte_tokens();
        for (byte, token) in bytes.iter_mut().enumerate() {
            *token = vocab.id(&[byte as u8]).or(*token);
        }
        let split = match units {
            Units::Bytes => metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or("default"),
            // Files may name another one, which llama.cpp does not ask for either.
            Units::Characters => "gemma4",
        };
        Ok(Bpe { merges, bytes, split: Split::new(split)?, units })
    }

    /// What merges begin with.
    pub(super) fn units(&self) -> Units {
        self.units
    }

    /// Whether prompts begin with BOS unless the file says otherwise.
    pub(super) fn add_bos(&self) -> bool {
        self.split.add_bos
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut word = Word::default();
        let text = match self.units {
            Units::Bytes => Cow::Borrowed(text),
            Units::Characters => Cow::Owned(text.replace(' ', SPACE)),
        };
        self.split.words(&text, |piece| {
            // Gemma 4 takes a run of line ends as one token where it has one, as SentencePiece would.
            let is_whole = self.split.whole_words || (self.units == Units::Characters && piece.starts_with('\n'));
            let whole = if is_whole { vocab.id(piece.as_bytes()) } else { None };
            match whole {
                Some(id) => out.push(id),
                None => word.encode(self, vocab, piece, out),
            }
        });
    }
}

/// The symbols of a word as a linked list, and the merges that are possible.
#[derive(Default)]
struct Word {
    symbols: Vec<Symbol>,
    /// (rank, index of the left symbol, left, right), smallest first.
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    /// `None` once merged into the one before.
    id: Option<u32>,
    before: u32,
    after: u32,
}

const END: u32 = u32::MAX;

impl Word {
    fn encode(&mut self, bpe: &Bpe, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        self.symbols.clear();
        self.queue.clear();
        match bpe.units {
            Units::Bytes => self.push_bytes(bpe, text.as_bytes()),
            Units::Characters => {
                for c in text.chars() {
                    let mut bytes = [0; 4];
                    let bytes = c.encode_utf8(&mut bytes).as_bytes();
                    match vocab.id(bytes) {
                        Some(id) => self.push(id),
                        None => self.push_bytes(bpe, bytes),
                    }
                }
            }
        }
        if let Some(last) = self.symbols.last_mut() {
            last.after = END;
        }
        for left in 0..self.symbols.len() as u32 {
            self.propose(bpe, left);
        }
        while let Some(Reverse((_, left, l, r))) = self.queue.pop() {
            self.merge(bpe, left, (l, r));
        }
        out.extend(self.symbols.iter().filter_map(|s| s.id));
    }

    /// Bytes without a token of their own cannot be expressed and are dropped, as llama.cpp does.
    fn push_bytes(&mut self, bpe: &Bpe, bytes: &[u8]) {
        bytes.iter().filter_map(|&b| bpe.bytes[usize::from(b)]).for_each(|id| self.push(id));
    }

    fn push(&mut self, id: u32) {
        let index = self.symbols.len() as u32;
        self.symbols.push(Symbol { id: Some(id), before: index.wrapping_sub(1), after: index + 1 });
    }

    /// Queues the merge of a symbol with the one behind it, where there is a rule.
    fn propose(&mut self, bpe: &Bpe, left: u32) {
        let Some(&Symbol { id: Some(l), after, .. }) = self.symbols.get(left as usize) else { return };
        let Some(&Symbol { id: Some(r), .. }) = self.symbols.get(after as usize) else { return };
        if let Some(&(rank, _)) = bpe.merges.get(&(l, r)) {
            self.queue.push(Reverse((rank, left, l, r)));
        }
    }

    fn merge(&mut self, bpe: &Bpe, left: u32, pair: (u32, u32)) {
        let Symbol { id, before, after } = self.symbols[left as usize];
        let right = self.symbols.get(after as usize).copied();
        // The pair may be gone by now.
        let Some(Symbol { id: right_id, after: next, .. }) = right else { return };
        if (id, right_id) != (Some(pair.0), Some(pair.1)) {
            return;
        }
        let Some(&(_, merged)) = bpe.merges.get(&pair) else { return };
        self.symbols[after as usize].id = None;
        self.symbols[left as usize] = Symbol { id: Some(merged), before, after: next };
        if let Some(next) = self.symbols.get_mut(next as usize) {
            next.before = left;
        }
        self.propose(bpe, left);
        self.propose(bpe, before);
    }
}

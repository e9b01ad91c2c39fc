//! The vocabulary: every token's bytes, and the way back from bytes to ids.

use crate::error::{Error, Result};
use crate::gguf::{Metadata, Strings};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    /// Never text: `<|im_end|>`.
    Control,
    /// Matched in text before everything else.
    UserDefined,
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

/// Tokens by id and by bytes.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    ids: HashTable<u32>,
    hasher: FixedState,
}

impl Vocab {
    /// Reads the tokens; `to_bytes` turns the text of a normal token into the bytes that it stands for.
    pub(super) fn new(metadata: &Metadata, to_bytes: impl Fn(&str, &mut Vec<u8>)) -> Result<Self> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.len() > 1 << 24 {
            return Err(Error::bad_file(format!("a vocabulary of {} tokens", tokens.len())));
        }
        let kinds = kinds(metadata, tokens)?;
        let mut vocab = Vocab {
            bytes: Vec::new(),
            ends: Vec::with_capacity(tokens.len()),
            kinds,
            ids: HashTable::with_capacity(tokens.len()),
            hasher: FixedState::default(),
        };
        for (id, text) in tokens.iter().enumerate() {
            match vocab.kinds[id] {
                TokenKind::Normal | TokenKind::Unused => to_bytes(text, &mut vocab.bytes),
                TokenKind::Byte => match parse_byte(text) {
                    Some(byte) => vocab.bytes.push(byte),
                    None => return Err(Error::bad_file(format!("token {id} ({text}) should be a byte like <0x0A>"))),
                },
                _ => vocab.bytes.extend_from_slice(text.as_bytes()),
            }
            let end = u32::try_from(vocab.bytes.len()).map_err(|_| Error::bad_file("a vocabulary of 4 GiB"))?;
            vocab.ends.push(end);
            vocab.index(id as u32);
        }
        Ok(vocab)
    }

    /// Makes a token findable by its bytes; the first of equal ones wins, and bytes are found by [`Vocab::byte`] only.
    fn index(&mut self, id: u32) {
        if self.kinds[id as usize] == TokenKind::Byte {
            return;
        }
        let Vocab { bytes, ends, ids, hasher, .. } = self;
        let get = |id: u32| slice(bytes, ends, id);
        let entry = ids.entry(hasher.hash_one(get(id)), |&o| get(o) == get(id), |&o| hasher.hash_one(get(o)));
        entry.or_insert(id);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of a token; empty for one that does not exist.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        if (id as usize) < self.len() { slice(&self.bytes, &self.ends, id) } else { &[] }
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unknown)
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// The token with these bytes.
    pub(super) fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(bytes), |&id| self.bytes(id) == bytes).copied()
    }

    /// Ids of the byte tokens.
    pub(super) fn byte_tokens(&self) -> [Option<u32>; 256] {
        let mut tokens = [None; 256];
        for id in (0..self.len() as u32).filter(|&id| self.kind(id) == TokenKind::Byte) {
            if let [byte] = self.bytes(id) {
                tokens[usize::from(*byte)].get_or_insert(id);
            }
        }
        tokens
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let end = ends[id as usize] as usize;
    let start = if id == 0 { 0 } else { ends[id as usize - 1] as usize };
    &bytes[start..end]
}

fn kinds(metadata: &Metadata, tokens: &Strings) -> Result<Vec<TokenKind>> {
    let Some(types) = metadata.opt_integers("tokenizer.ggml.token_type")? else {
        return Ok(vec![TokenKind::Normal; tokens.len()]);
    };
    if types.len() != tokens.len() {
        return Err(Error::bad_file(format!("{} tokens, but {} token types", tokens.len(), types.len())));
    }
    Ok(types
        .iter()
        .map(|t| match t {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        })
        .collect())
}

fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

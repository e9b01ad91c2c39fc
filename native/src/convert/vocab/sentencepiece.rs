//! `tokenizer.model`: SentencePiece's own file, of which pieces and the kind of model are read.
//!
//! It is a message of protocol buffers: numbered fields, each with a number or with bytes. What is needed of them is a page, and a
//! library for all of them would be larger than the converter.

use super::{Files, Type, Words, added};
use crate::convert::json::Object;
use foreword::{Error, Result};
use std::path::Path;

/// Reads the vocabulary, of `n` tokens.
pub(super) fn words(bytes: &[u8], files: &Files, folder: &Path, n: usize) -> Result<Words> {
    let mut words = Words::absent("llama", n)?;
    let mut scores = vec![-10000.0; n];
    let mut id = 0;
    for field in Fields(bytes) {
        match field? {
            (1, Content::Bytes(piece)) => {
                let (text, score, ty) = read_piece(piece)?;
                words.put(id, text, ty)?;
                scores[id as usize] = score;
                id += 1;
            }
            (2, Content::Bytes(trainer)) if model_type(trainer)? != BPE => {
                let what = "SentencePiece's unigram model is not converted, only its byte-pair encoding";
                return Err(Error::unsupported(what));
            }
            _ => {}
        }
    }
    if id == 0 {
        return Err(Error::bad_file("there are no pieces in it: it is no file of SentencePiece's"));
    }
    if let Some(tokens) = Object::read(folder, "added_tokens.json")? {
        for (text, id) in tokens.iter() {
            let id = id.as_u64().ok_or_else(|| tokens.wrong(&format!("token {text:?} has the id {id}")))?;
            replace(&mut words, &mut scores, id, (text, Type::UserDefined));
        }
    }
    if let Some(decoder) = files.config.as_ref().map(|c| c.object("added_tokens_decoder")).transpose()?.flatten() {
        for (id, token) in decoder.iter() {
            let (Ok(id), Some(text)) = (id.parse(), token["content"].as_str()) else {
                return Err(decoder.wrong(&format!("added_tokens_decoder: {token} is no token")));
            };
            let (ty, text) = added(text, token["special"].as_bool() == Some(true));
            replace(&mut words, &mut scores, id, (&text, ty));
        }
    }
    words.scores = Some(scores);
    Ok(words)
}

/// Puts an added token in the place of a piece; one behind the vocabulary has no row of embeddings.
fn replace(words: &mut Words, scores: &mut [f32], id: u64, (text, ty): (&str, Type)) {
    if words.put(id, text, ty).is_ok() {
        scores[id as usize] = -1000.0;
    }
}

/// Text, score and type.
fn read_piece(bytes: &[u8]) -> Result<(&str, f32, Type)> {
    let (mut text, mut score, mut ty) = ("", 0.0, Type::Normal);
    for field in Fields(bytes) {
        match field? {
            (1, Content::Bytes(bytes)) => {
                text = std::str::from_utf8(bytes).map_err(|_| Error::bad_file("a piece that is not UTF-8"))?;
            }
            (2, Content::Number(bits)) => score = f32::from_bits(bits as u32),
            (3, Content::Number(number)) => {
                ty = match number {
                    2 => Type::Unknown,
                    3 => Type::Control,
                    5 => Type::Unused,
                    6 => Type::Byte,
                    // User-defined ones, too, as the reference has it: those that matter are added tokens.
                    _ => Type::Normal,
                }
            }
            _ => {}
        }
    }
    Ok((text, score, ty))
}

const BPE: u64 = 2;

/// Which algorithm the trainer was told to use.
fn model_type(trainer: &[u8]) -> Result<u64> {
    let mut found = 1;
    for field in Fields(trainer) {
        if let (3, Content::Number(number)) = field? {
            found = number;
        }
    }
    Ok(found)
}

/// The fields of a message, with their numbers.
struct Fields<'a>(&'a [u8]);

enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| Error::bad_file("it is no file of SentencePiece's, or it is damaged")))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let len = self.varint()?;
                Content::Bytes(self.take(usize::try_from(len).ok()?)?)
            }
            5 => Content::Number(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((tag >> 3, content))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

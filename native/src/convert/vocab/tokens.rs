//! `tokenizer.json`, the format of the library tokenizers: byte-pair encoding, SentencePiece's in its clothes, and WordPiece.

use super::{Files, Type, Words, added};
use crate::convert::json::Object;
use foreword::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;

/// Reads the vocabulary, of `n` tokens, from what the file says of its `model`.
pub(super) fn words(mut model: Object, files: &Files, n: usize) -> Result<Words> {
    let is_sentencepiece = model.get(&["byte_fallback"]).and_then(Value::as_bool) == Some(true);
    let mut words = match model.text("type")?.unwrap_or(if model.get(&["merges"]).is_some() { "BPE" } else { "" }) {
        "BPE" => Words::absent(if is_sentencepiece { "llama" } else { "gpt2" }, n)?,
        "WordPiece" => Words::absent("bert", n)?,
        other => {
            let message = format!("a vocabulary of the type {other:?} is not converted; BPE and WordPiece are");
            return Err(Error::unsupported(message).at("tokenizer.json"));
        }
    };
    let vocab = vocab(&mut model)?;
    let added_tokens = added_tokens(files, &vocab)?;
    let placed = place(&mut words, &vocab, &added_tokens);
    placed.map_err(|e| e.at("tokenizer.json"))?;
    match words.model {
        "gpt2" => {
            words.merges =
                Some(merges(&model)?.into_iter().map(|(l, r)| format!("{} {}", shown(&l), shown(&r))).collect())
        }
        "llama" => words.scores = Some(scores(&words, &merges(&model)?)),
        _ => phantom_spaces(&mut words),
    }
    Ok(words)
}

/// A token that was added to the vocabulary.
struct Added {
    id: u64,
    is_special: bool,
}

fn vocab(model: &mut Object) -> Result<HashMap<String, u64>> {
    let vocab = model.take("vocab")?.ok_or_else(|| model.wrong("the vocabulary is missing"))?;
    let id = |(text, id): (&str, &Value)| {
        let id = id.as_u64().ok_or_else(|| model.wrong(&format!("token {text:?} has the id {id}")))?;
        Ok((text.to_string(), id))
    };
    vocab.iter().map(id).collect()
}

/// Those that `tokenizer.json` adds, those of `tokenizer_config.json`, and those that it names as special.
fn added_tokens(files: &Files, vocab: &HashMap<String, u64>) -> Result<HashMap<String, Added>> {
    let mut all = HashMap::new();
    let mut add = |token: &Value, id: Option<u64>| {
        let (Some(text), Some(id)) = (token["content"].as_str(), id) else {
            return Err(Error::bad_file(format!("added tokens: {token} is no token")));
        };
        let is_special = token["special"].as_bool() == Some(true);
        all.insert(text.to_string(), Added { id, is_special });
        Ok(())
    };
    if let Some(json) = &files.tokenizer {
        for token in json.list("added_tokens")?.into_iter().flatten() {
            add(token, token["id"].as_u64())?;
        }
    }
    let Some(config) = &files.config else { return Ok(all) };
    if let Some(decoder) = config.object("added_tokens_decoder")? {
        for (id, token) in decoder.iter() {
            add(token, id.parse().ok())?;
        }
    }
    for name in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
        let Some(text) = config.get(&[name]).and_then(content) else { continue };
        if let Some(&id) = vocab.get(text) {
            all.entry(text.to_string()).or_insert(Added { id, is_special: true });
        }
    }
    Ok(all)
}

/// The text of a token, which is given by itself or with its properties.
pub(super) fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn place(words: &mut Words, vocab: &HashMap<String, u64>, added_tokens: &HashMap<String, Added>) -> Result<()> {
    let mut taken: HashMap<u64, &str> = HashMap::new();
    let ids =
        vocab.iter().map(|(text, &id)| (text, id)).chain(added_tokens.iter().map(|(text, added)| (text, added.id)));
    for (text, id) in ids {
        if let Some(other) = taken.insert(id, text).filter(|other| *other != text) {
            return Err(Error::bad_file(format!("{other:?} and {text:?} have the same id, {id}")));
        }
        match added_tokens.get(text) {
            // An added one behind the vocabulary has no row of embeddings, so no text can have it (Gemma 3 without pictures).
            Some(_) if id >= words.tokens.len() as u64 && !vocab.contains_key(text) => {}
            Some(token) => {
                let (ty, text) = added(text, token.is_special);
                words.put(id, &text, ty)?;
            }
            None if words.model == "llama" && is_byte(text) => words.put(id, text, Type::Byte)?,
            None => words.put(id, text, Type::Normal)?,
        }
    }
    Ok(())
}

/// Whether a token of SentencePiece's stands for one byte: `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Pairs that become one token, the earliest first; older files write them as one string.
fn merges(model: &Object) -> Result<Vec<(String, String)>> {
    let wrong = |rule: &Value| model.wrong(&format!("merges: {rule} is no pair"));
    let pair = |rule: &Value| match rule {
        Value::String(rule) => rule.split_once(' ').map(|(l, r)| (l.to_string(), r.to_string())),
        Value::Array(pair) => match &pair[..] {
            [Value::String(l), Value::String(r)] => Some((l.clone(), r.clone())),
            _ => None,
        },
        _ => None,
    };
    let rules = model.list("merges")?.ok_or_else(|| model.wrong("merges are missing"))?;
    rules.iter().map(|rule| pair(rule).ok_or_else(|| wrong(rule))).collect()
}

/// A space would end the first half of a rule, so it is written as byte-level vocabularies write it.
fn shown(part: &str) -> String {
    part.replace(' ', "\u{120}")
}

/// Scores that have SentencePiece's algorithm merge in the order of the rules.
///
/// llama.cpp's converter gives all tokens the same score here, and such files split words wrongly.
fn scores(words: &Words, merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |(text, ty): (&String, &Type)| match (ty, ranks.get(text)) {
        (Type::Normal, Some(&rank)) => -(rank as f32),
        (Type::Normal, None) => -(merges.len() as f32),
        _ => -1000.0,
    };
    words.tokens.iter().zip(&words.types).map(score).collect()
}

/// A piece that begins a word is marked, where WordPiece marks those that go on.
fn phantom_spaces(words: &mut Words) {
    for (text, ty) in words.tokens.iter_mut().zip(&words.types) {
        if *ty != Type::Control {
            *text = match text.strip_prefix("##") {
                Some(rest) => rest.to_string(),
                None => format!("\u{2581}{text}"),
            };
        }
    }
}

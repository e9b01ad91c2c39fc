//! The vocabulary: from the files that transformers reads to the metadata that GGUF's readers want.

mod pre;
mod sentencepiece;
mod special;
mod tokens;

use super::json::Object;
use super::model::Model;
use foreword::gguf::{Metadata, Strings, Value};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use std::path::Path;

/// What a token is for, as numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Tokens by id.
struct Words {
    /// `tokenizer.ggml.model`.
    model: &'static str,
    tokens: Vec<String>,
    types: Vec<Type>,
    /// SentencePiece's.
    scores: Option<Vec<f32>>,
    /// Rules of byte-pair encoding, `LEFT RIGHT`.
    merges: Option<Vec<String>>,
}

/// The files of a folder.
struct Files {
    /// `tokenizer.json`.
    tokenizer: Option<Object>,
    /// `tokenizer_config.json`.
    config: Option<Object>,
}

/// All keys that begin with `tokenizer.`.
pub(super) fn metadata(model: &Model, folder: &Path) -> Result<Vec<(String, Value)>> {
    let mut files = Files {
        tokenizer: Object::read(folder, "tokenizer.json")?,
        config: Object::read(folder, "tokenizer_config.json")?,
    };
    let n = usize::try_from(model.vocab_size()?).unwrap_or(usize::MAX);
    let pieces = super::json::read_bytes(&folder.join("tokenizer.model"))?;
    let inner = files.tokenizer.as_mut().map(|tokenizer| tokenizer.take("model")).transpose()?;
    let words = match (&pieces, inner) {
        (Some(bytes), _) if !model.family.is_encoder => {
            let words = sentencepiece::words(bytes, &files, folder, n);
            words.map_err(|e| e.at(folder.join("tokenizer.model").display()))?
        }
        (_, Some(Some(inner))) => tokens::words(inner, &files, n)?,
        (_, Some(None)) => return Err(Error::bad_file("tokenizer.json: there is no model")),
        (_, None) => {
            let message = format!("{} has neither tokenizer.json nor tokenizer.model", folder.display());
            return Err(Error::storage(message));
        }
    };
    let special = special::Special::read(folder, &files, words.tokens.len())?;
    let mut pairs = words.pairs();
    pairs.extend(special.pairs());
    let prefix = files.config.as_ref().and_then(|c| c.get(&["add_prefix_space"])).and_then(serde_json::Value::as_bool);
    match (words.model, model.family.name) {
        // Gemma's texts begin as they are.
        ("llama", "gemma3" | "gemma-embedding") => set(&mut pairs, "add_space_prefix", Value::Bool(false)),
        (_, "llama") => {
            if let Some(prefix) = prefix {
                set(&mut pairs, "add_space_prefix", Value::Bool(prefix));
            }
            // SmolLM and small Granites, whose own files deny or forget it.
            if n == 49152 {
                set(&mut pairs, "add_bos_token", Value::Bool(false));
            }
        }
        _ => {}
    }
    let pre = match (words.model, &files.tokenizer) {
        ("llama", _) | (_, None) => "default".to_string(),
        (_, Some(json)) => pre::name(json, &words, &pairs)?,
    };
    pairs.insert(1, ("tokenizer.ggml.pre".into(), Value::String(pre)));
    // What cannot be read again is not written.
    Tokenizer::from_gguf(&collect(&pairs))?;
    Ok(pairs)
}

fn set(pairs: &mut Vec<(String, Value)>, key: &str, value: Value) {
    let key = format!("tokenizer.ggml.{key}");
    pairs.retain(|(k, _)| *k != key);
    pairs.push((key, value));
}

fn collect(pairs: &[(String, Value)]) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in pairs {
        metadata.insert(key.clone(), value.clone());
    }
    metadata
}

impl Words {
    /// Tokens that are not there: a vocabulary may be larger than what its file names.
    fn absent(model: &'static str, n: usize) -> Result<Words> {
        if n > 1 << 24 {
            return Err(Error::bad_file(format!("a vocabulary of {n} tokens")));
        }
        let tokens = (0..n).map(|i| format!("[PAD{i}]")).collect();
        Ok(Words { model, tokens, types: vec![Type::Unused; n], scores: None, merges: None })
    }

    /// Places a token.
    fn put(&mut self, id: u64, text: &str, ty: Type) -> Result<()> {
        let n = self.tokens.len();
        let at = usize::try_from(id).ok().filter(|&at| at < n);
        let at = at.ok_or_else(|| Error::bad_file(format!("token {text:?} has the id {id}, but vocab_size is {n}")))?;
        self.tokens[at] = text.to_string();
        self.types[at] = ty;
        Ok(())
    }

    fn pairs(&self) -> Vec<(String, Value)> {
        let strings = |all: &[String]| Value::Strings(all.iter().map(String::as_str).collect::<Strings>());
        let mut pairs = vec![
            ("model", Value::String(self.model.into())),
            ("tokens", strings(&self.tokens)),
            ("token_type", Value::Integers(self.types.iter().map(|&ty| ty as i64).collect())),
        ];
        pairs.extend(self.scores.as_ref().map(|scores| ("scores", Value::Floats(scores.clone()))));
        pairs.extend(self.merges.as_ref().map(|merges| ("merges", strings(merges))));
        pairs.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
    }
}

/// The type of a token that was added to a vocabulary, and its text. Some files forget to mark what is never text.
fn added(text: &str, is_special: bool) -> (Type, String) {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    let looks_special = ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">");
    match is_special || looks_special {
        true => (Type::Control, text.to_string()),
        false => (Type::UserDefined, text.replace('\u{2581}', " ")),
    }
}

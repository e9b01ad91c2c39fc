//! Sound GGUF files with damaged tokenizers.

use crate::common;
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::{Gguf, Metadata, Strings, Value};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Kind};

/// A seed of the fuzzer and its metadata.
fn seed(name: &str) -> (Vec<u8>, Metadata) {
    let bytes = std::fs::read(common::data("../fuzz/seeds/tokenizer").join(name)).expect("a seed");
    let metadata = read(bytes.clone()).expect("a valid file");
    (bytes, metadata)
}

fn read(bytes: Vec<u8>) -> Result<Metadata, Error> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes))];
    Ok(pollster::block_on(Gguf::read(&mut sources))?.metadata)
}

/// The metadata with one value replaced, or removed.
fn with(original: &Metadata, key: &str, value: Option<Value>) -> Metadata {
    let mut metadata = Metadata::default();
    for (k, v) in original.iter().filter(|(k, _)| *k != key) {
        metadata.insert(k, v.clone());
    }
    if let Some(value) = value {
        metadata.insert(key, value);
    }
    metadata
}

fn strings(all: &[&str]) -> Option<Value> {
    Some(Value::Strings(Strings::from_iter(all.iter().copied())))
}

/// What a tokenizer must keep, however odd its vocabulary.
fn exercise(tokenizer: &Tokenizer) {
    for text in ["", " the and then\n<|im_end|>é\u{1f600}", "<s></s> \u{2581}\u{2581} 12345\r\n\t", "\0\u{fffd}"] {
        for parse_special in [false, true] {
            let ids = tokenizer.encode(text, parse_special);
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()), "an id outside the vocabulary");
            tokenizer.decode(&ids);
        }
    }
    tokenizer.decode(&[0, u32::MAX]);
}

#[test]
fn damaged_vocabularies_are_refused() {
    let (_, bpe) = seed("bpe");
    let (_, spm) = seed("spm");
    let text = |s: &str| Some(Value::String(s.to_owned()));
    let cases = [
        (&bpe, "model", None, Kind::BadFile, "tokenizer.ggml.model"),
        (&bpe, "model", text("rwkv"), Kind::Unsupported, "rwkv"),
        (&bpe, "pre", text("klingon"), Kind::Unsupported, "klingon"),
        (&bpe, "tokens", None, Kind::BadFile, "tokenizer.ggml.tokens"),
        (&bpe, "tokens", strings(&[]), Kind::BadFile, "0 tokens"),
        (&bpe, "tokens", Some(Value::Integers(vec![1])), Kind::BadFile, "tokenizer.ggml.tokens"),
        (&bpe, "token_type", Some(Value::Integers(vec![1, 2])), Kind::BadFile, "2 token types"),
        (&bpe, "merges", None, Kind::BadFile, "tokenizer.ggml.merges"),
        (&bpe, "merges", strings(&["t h", "the"]), Kind::BadFile, "merge rule 1"),
        (&spm, "scores", None, Kind::BadFile, "tokenizer.ggml.scores"),
        (&spm, "scores", Some(Value::Floats(vec![0.0; 3])), Kind::BadFile, "3 scores"),
        (&spm, "add_bos_token", Some(Value::Float(1.0)), Kind::BadFile, "add_bos_token"),
        (&spm, "eos_token_id", text("</s>"), Kind::BadFile, "eos_token_id"),
    ];
    for (metadata, key, value, kind, fragment) in cases {
        let damaged = with(metadata, &format!("tokenizer.ggml.{key}"), value);
        let error = Tokenizer::from_gguf(&damaged).err().unwrap_or_else(|| panic!("{key} was accepted"));
        assert_eq!(error.kind(), kind, "{key}: {error}");
        assert!(error.to_string().contains(fragment), "{key}: {error:?} lacks {fragment:?}");
    }
}

#[test]
fn odd_vocabularies_keep_to_their_ids() {
    let (_, bpe) = seed("bpe");
    let (_, spm) = seed("spm");
    let n = |metadata: &Metadata| metadata.strings("tokenizer.ggml.tokens").expect("tokens").len();
    for metadata in [&bpe, &spm] {
        exercise(&Tokenizer::from_gguf(metadata).expect("a sound tokenizer"));
        let mut odd = Vec::new();
        for key in ["bos", "eos", "unknown", "eot"] {
            odd.push(with(metadata, &format!("tokenizer.ggml.{key}_token_id"), Some(Value::Unsigned(1 << 31))));
        }
        for kind in 0..8 {
            odd.push(with(metadata, "tokenizer.ggml.token_type", Some(Value::Integers(vec![kind; n(metadata)]))));
        }
        // Without byte tokens, what has no piece becomes the unknown token.
        let no_bytes = with(metadata, "tokenizer.ggml.token_type", None);
        odd.push(with(&no_bytes, "tokenizer.ggml.unknown_token_id", Some(Value::Unsigned(1 << 31))));
        let scores = (0..n(metadata)).map(|i| if i % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY });
        odd.push(with(metadata, "tokenizer.ggml.scores", Some(Value::Floats(scores.collect()))));
        odd.push(with(metadata, "tokenizer.ggml.tokens", strings(&vec![""; n(metadata)])));
        odd.push(with(metadata, "tokenizer.ggml.tokens", strings(&vec!["the"; n(metadata)])));
        let nameless = with(metadata, "general.name", Some(Value::Unsigned(7)));
        exercise(&Tokenizer::from_gguf(&nameless).expect("a name is for people"));
        for metadata in &odd {
            match Tokenizer::from_gguf(metadata) {
                Ok(tokenizer) => exercise(&tokenizer),
                Err(error) => assert_eq!(error.kind(), Kind::BadFile, "{error}"),
            }
        }
    }
}

/// Every 13th bit of both files flipped.
#[test]
fn flipped_bits_are_refused_or_harmless() {
    for name in ["bpe", "spm"] {
        let (mut bytes, _) = seed(name);
        for bit in (0..bytes.len() * 8).step_by(13) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(metadata) = read(bytes.clone())
                && let Ok(tokenizer) = Tokenizer::from_gguf(&metadata)
            {
                exercise(&tokenizer);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Every finding of the fuzzer, kept as a file under `tests/data/fuzz`.
#[test]
fn fuzzer_findings_stay_fixed() {
    let folder = std::fs::read_dir(common::data("fuzz/tokenizer")).expect("the findings");
    let mut n = 0;
    for file in folder {
        n += 1;
        let bytes = std::fs::read(file.expect("a folder entry").path()).expect("a file");
        if let Ok(metadata) = read(bytes)
            && let Ok(tokenizer) = Tokenizer::from_gguf(&metadata)
        {
            exercise(&tokenizer);
        }
    }
    assert!(n > 0, "no findings");
}

//! A GGUF file with text behind it: an error, or a tokenizer that keeps to its vocabulary and streams what it decodes.
#![no_main]

use foreword::chat::{ChatTemplate, Message};
use foreword::gguf::Gguf;
use foreword::gguf::source::{BytesSource, Source};
use foreword::tokenizer::{Detokenizer, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// Bytes at the end of the file that are text too.
const TEXT: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes.to_vec()))];
    let Ok(gguf) = pollster::block_on(Gguf::read(&mut sources)) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf.metadata) else { return };
    let n_vocab = tokenizer.n_vocab() as u32;
    let special = [tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()];
    assert!(special.iter().flatten().chain(tokenizer.end_of_generation()).all(|&id| id < n_vocab));
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TEXT)..]);
    for parse_special in [false, true] {
        let ids = tokenizer.encode(&text, parse_special);
        assert!(ids.iter().all(|&id| id < n_vocab), "an id outside the vocabulary");
        let mut streamed = String::new();
        let mut detokenizer = Detokenizer::new(false);
        for &id in &ids {
            streamed.push_str(&detokenizer.push(&tokenizer, id));
        }
        streamed.push_str(&detokenizer.finish());
        assert_eq!(streamed, tokenizer.decode(&ids));
    }
    for id in (0..n_vocab.min(1000)).chain([n_vocab, u32::MAX]) {
        tokenizer.decode(&[id]);
    }
    if let Ok(template) = ChatTemplate::from_gguf(&gguf.metadata, &tokenizer) {
        let _ = template.render(&[Message::new("user", text)], None, true);
    }
});

//! Token ids of llama.cpp, and what must hold for any text.

mod common;

use common::{GEMMA3, SMOLLM2, json_lines, model_path, open};
use foreword::tokenizer::{Detokenizer, Tokenizer};

fn tokenizer(file: &str) -> Tokenizer {
    Tokenizer::from_gguf(&open(&model_path(file)).0.metadata).expect("a tokenizer")
}

fn golden(file: &str, lines: &str) {
    let tokenizer = tokenizer(file);
    for line in json_lines(lines) {
        let text = line["text"].as_str().expect("text");
        let special = line["parse_special"].as_bool().expect("a flag");
        let want: Vec<u32> =
            line["tokens"].as_array().expect("ids").iter().map(|v| v.as_u64().expect("an id") as u32).collect();
        assert_eq!(tokenizer.encode(text, special), want, "{text:?}, parse_special {special}");
    }
}

#[test]
fn smollm2_equals_llama_cpp() {
    golden(SMOLLM2, "smollm2-135m-instruct-q4_1-tokens.jsonl");
}

#[test]
fn gemma3_equals_llama_cpp() {
    golden(GEMMA3, "gemma-3-270m-q4_k_m-tokens.jsonl");
}

#[test]
fn text_survives_and_streams_in_whole_characters() {
    for (file, lines) in
        [(SMOLLM2, "smollm2-135m-instruct-q4_1-tokens.jsonl"), (GEMMA3, "gemma-3-270m-q4_k_m-tokens.jsonl")]
    {
        let tokenizer = tokenizer(file);
        for line in json_lines(lines) {
            let text = line["text"].as_str().expect("text");
            let ids = tokenizer.encode(text, false);
            let mut detokenizer = Detokenizer::new(false);
            let mut streamed: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
            streamed.push_str(&detokenizer.finish());
            assert_eq!(streamed, text, "{file}");
        }
    }
}

#[test]
fn long_runs_are_not_quadratic() {
    for file in [SMOLLM2, GEMMA3] {
        let tokenizer = tokenizer(file);
        for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), "é".repeat(1 << 18)] {
            let ids = tokenizer.encode(&text, false);
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

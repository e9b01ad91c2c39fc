//! Token ids of llama.cpp, and what must hold for any text.

use crate::common::{GEMMA3, SMOLLM2, json_lines, model_path, open};
use foreword::gguf::{Metadata, Strings, Value};
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
    golden(SMOLLM2, "smollm2-135m-instruct-q4_1-tricky-tokens.jsonl");
}

#[test]
fn gemma3_equals_llama_cpp() {
    golden(GEMMA3, "gemma-3-270m-q4_k_m-tokens.jsonl");
    golden(GEMMA3, "gemma-3-270m-q4_k_m-tricky-tokens.jsonl");
}

/// The references are PyPI tokenizers and sentencepiece (`make_pieces.py`).
#[test]
fn wordpiece_and_unigram_equal_their_makers() {
    for (file, lines) in [("encoders/bert.gguf", "wordpiece.jsonl"), ("unigram.gguf", "unigram.jsonl")] {
        let tokenizer = Tokenizer::from_gguf(&open(&crate::common::data(file)).0.metadata).expect("a tokenizer");
        for line in json_lines(lines) {
            let text = line["text"].as_str().expect("text");
            let wanted: Vec<u32> = serde_json::from_value(line["tokens"].clone()).expect("ids");
            assert_eq!(tokenizer.encode(text, false), wanted, "{file}: {text:?}");
        }
        for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), "é".repeat(1 << 18), "a\n".repeat(1 << 18)] {
            tokenizer.encode(&text, false);
        }
    }
}

/// Gemma 4's: characters are merged by rules, those without a token are bytes, a run of line ends is one token where there is one;
/// spaces are U+2581, and BOS stands in front whatever the file says.
#[test]
fn characters_are_merged() {
    let mut tokens: Vec<String> = ["<pad>", "<eos>", "<bos>", "<turn|>"].map(String::from).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "ab", "\u{2581}ab", "é", "\n", "\n\n\n", "aé"].map(String::from));
    let mut kinds = vec![3; 4];
    kinds.extend([6; 256].into_iter().chain([1; 9]));
    let rules = ["a b", "\u{2581} ab", "a é", "\n \n\n"];
    let strings = |all: &[&str]| Value::Strings(Strings::from_iter(all.iter().copied()));
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("model", Value::String("gemma4".into())),
        ("tokens", strings(&tokens.iter().map(String::as_str).collect::<Vec<_>>())),
        ("token_type", Value::Integers(kinds)),
        ("merges", strings(&rules)),
        ("bos_token_id", Value::Unsigned(2)),
        ("eos_token_id", Value::Unsigned(1)),
        ("add_bos_token", Value::Bool(false)),
    ] {
        metadata.insert(format!("tokenizer.ggml.{key}"), value);
    }
    let tokenizer = Tokenizer::from_gguf(&metadata).expect("a tokenizer");
    let id = |token: &str| tokenizer.token(token).expect("a token");
    let byte = |byte: u32| 4 + byte;
    for (text, wanted) in [
        (" ab", vec![id("\u{2581}ab")]),
        ("ab ab", vec![id("ab"), id("\u{2581}ab")]),
        ("aéb", vec![id("aé"), id("b")]),
        ("aß", vec![id("a"), byte(0xc3), byte(0x9f)]),
        ("a\n\n\nb", vec![id("a"), id("\n\n\n"), id("b")]),
        ("\n\n", vec![id("\n"), id("\n")]),
    ] {
        assert_eq!(tokenizer.encode(text, false), wanted, "{text:?}");
        assert_eq!(tokenizer.decode(&wanted), text);
    }
    assert_eq!(tokenizer.add_bos(), Some(2));
    assert_eq!(tokenizer.end_of_generation(), [1, 3]);
    assert_eq!(tokenizer.encode("ß", false).len(), 2);
}

/// Vocabularies of llama.cpp beside the texts that it tries, and what their makers' tokenizers make of these.
#[test]
#[ignore = "tests/large/vocabularies fetches them and runs this"]
fn published_vocabularies_equal_their_makers() {
    let folder =
        std::env::var("FOREWORD_VOCABULARIES").expect("FOREWORD_VOCABULARIES, as tests/large/vocabularies sets it");
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "gguf") && path.with_extension("gguf.inp").exists());
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name").to_string();
        let tokenizer = match Tokenizer::from_gguf(&open(&path).0.metadata) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let read = |end: &str| std::fs::read_to_string(path.with_extension(end)).expect("a text");
        let (texts, ids) = (read("gguf.inp"), read("gguf.out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids = ids.lines().map(|l| l.split_whitespace().map(|id| id.parse().expect("an id")).collect::<Vec<u32>>());
        let off =
            texts.iter().zip(ids).filter(|(text, ids)| tokenizer.encode(text, false) != *ids).map(|(text, _)| text);
        let off: Vec<_> = off.collect();
        println!("{name}: {} texts, {} of them differ", texts.len(), off.len());
        // Two texts with joined emojis are known to differ there.
        let known = if name == "ggml-vocab-command-r.gguf" { 2 } else { 0 };
        if off.len() > known {
            wrong.push(format!("{name}: {off:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `[CLS]` and `[SEP]` stand around a text and between two, also where a file names them by their texts only; control tokens in
/// a stranger's text are text.
#[test]
fn texts_and_pairs_are_framed() {
    let (mut gguf, _) = open(&crate::common::data("encoders/bert.gguf"));
    for named in [true, false] {
        let mut metadata = Metadata::default();
        for (key, value) in gguf.metadata.iter().filter(|(key, _)| named || !key.ends_with("_token_id")) {
            metadata.insert(key, value.clone());
        }
        gguf.metadata = metadata;
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata).expect("a tokenizer");
        let (the, dog) = (tokenizer.encode("the", false)[0], tokenizer.encode("dog", false)[0]);
        assert_eq!(tokenizer.encode_whole("the dog"), [2, the, dog, 3]);
        assert_eq!(tokenizer.encode_pair("the", "dog dog"), (vec![2, the, 3, dog, dog, 3], 3));
        assert!(!tokenizer.encode("[SEP]", false).contains(&3) && tokenizer.encode("[SEP]", true) == [3]);
    }
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
        for text in ["a".repeat(1 << 20), " ".repeat(1 << 20) + "x", "é".repeat(1 << 18), "<\n".repeat(1 << 18)] {
            let ids = tokenizer.encode(&text, false);
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

/// Metadata of a vocabulary of (text, type, score), and further keys below `tokenizer.ggml.`.
fn vocabulary(model: &str, tokens: &[(&str, i64, f32)], more: Vec<(&str, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String(model.to_string()));
    set("tokens", Value::Strings(tokens.iter().map(|t| t.0).collect::<Strings>()));
    set("token_type", Value::Integers(tokens.iter().map(|t| t.1).collect()));
    set("scores", Value::Floats(tokens.iter().map(|t| t.2).collect()));
    for (key, value) in more {
        set(key, value);
    }
    metadata
}

/// GPT-2's letter for each byte.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let moved = (0..byte).filter(|&b| !printable(b)).count() as u32;
    if printable(byte) { char::from(byte) } else { char::from_u32(0x100 + moved).expect("a letter") }
}

const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// Every byte, a few merges, and special tokens from id 260 on.
fn bytes_and_merges(more: Vec<(&str, Value)>) -> Metadata {
    let letters: Vec<String> = (0..=255).map(|b| letter(b).to_string()).collect();
    let mut tokens: Vec<(&str, i64, f32)> = letters.iter().map(|l| (l.as_str(), NORMAL, 0.0)).collect();
    tokens.extend(["aa", "aaa", "ab", "Ġa"].map(|text| (text, NORMAL, 0.0)));
    tokens.extend([("<|im_end|>", CONTROL, 0.0), ("<tag>", USER_DEFINED, 0.0), ("<tag><tag>", USER_DEFINED, 0.0)]);
    let merges = Strings::from_iter(["a b", "a a", "aa a", "Ġ a"]);
    let mut keys = vec![("merges", Value::Strings(merges)), ("pre", Value::String("gpt-2".to_string()))];
    keys.extend(more);
    vocabulary("gpt2", &tokens, keys)
}

/// Small, seeded and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn text(&mut self) -> String {
        let n = self.below(30);
        (0..n)
            .map(|_| match self.below(4) {
                0 => char::from(self.below(128) as u8),
                1 => ['a', 'b', ' ', '\n'][self.below(4) as usize],
                _ => char::from_u32(self.below(0x11_0000) as u32).unwrap_or('\u{301}'),
            })
            .collect()
    }
}

#[test]
fn any_text_survives_a_byte_level_vocabulary() {
    for pre in ["default", "gpt-2", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-llm", "deepseek-v3", "viking"] {
        let mut metadata = Metadata::default();
        for (key, value) in bytes_and_merges(Vec::new()).iter().filter(|(key, _)| *key != "tokenizer.ggml.pre") {
            metadata.insert(key, value.clone());
        }
        metadata.insert("tokenizer.ggml.pre", Value::String(pre.to_string()));
        let tokenizer = Tokenizer::from_gguf(&metadata).expect("a tokenizer");
        let mut random = Random(1);
        for _ in 0..2000 {
            let text = random.text();
            let ids = tokenizer.encode(&text, true);
            assert_eq!(tokenizer.decode(&ids), text, "{pre}");
            let mut detokenizer = Detokenizer::new(false);
            let mut streamed = String::new();
            for &id in &ids {
                // Pieces are strings, so whole characters; U+FFFD would show a character that was cut.
                let piece = detokenizer.push(&tokenizer, id);
                assert!(!piece.contains('\u{fffd}') || text.contains('\u{fffd}'));
                streamed.push_str(&piece);
            }
            assert_eq!(detokenizer.finish(), "");
            assert_eq!(streamed, text);
        }
    }
}

#[test]
fn any_ids_stream_as_they_decode() {
    let tokenizer = Tokenizer::from_gguf(&bytes_and_merges(Vec::new())).expect("a tokenizer");
    let mut random = Random(2);
    for _ in 0..5000 {
        let ids: Vec<u32> = (0..random.below(12)).map(|_| 128 + random.below(130) as u32).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).into_owned()).collect();
        let mut detokenizer = Detokenizer::new(false);
        let mut streamed: String = ids.iter().map(|&id| detokenizer.push(&tokenizer, id)).collect();
        streamed.push_str(&detokenizer.finish());
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn merges_go_by_rank_and_then_from_the_left() {
    let tokenizer = Tokenizer::from_gguf(&bytes_and_merges(Vec::new())).expect("a tokenizer");
    let texts = |text: &str| -> Vec<String> {
        tokenizer.encode(text, false).iter().map(|&id| tokenizer.decode(&[id])).collect()
    };
    assert_eq!(texts("aaaa"), ["aa", "aa"]);
    assert_eq!(texts("aaaaa"), ["aa", "aaa"]);
    assert_eq!(texts("aaab"), ["aa", "ab"]);
    assert_eq!(texts("b a"), ["b", " a"]);
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let tokenizer = Tokenizer::from_gguf(&bytes_and_merges(Vec::new())).expect("a tokenizer");
    assert_eq!(tokenizer.encode("<|im_end|>", true), [260]);
    assert_eq!(tokenizer.encode("<|im_end|>", false).len(), 10);
    assert_eq!(tokenizer.encode("x<tag><tag><tag><ta", false)[1..3], [262, 261]);
    assert_eq!(tokenizer.end_of_generation(), [260]);
    let skip = |id: u32| Detokenizer::new(true).push(&tokenizer, id);
    assert_eq!((skip(260), skip(261)), (String::new(), "<tag>".to_string()));
    assert!(tokenizer.encode("", true).is_empty());
}

#[test]
fn end_tokens_come_from_keys_and_from_texts() {
    let end = Value::Unsigned(261);
    let metadata = bytes_and_merges(vec![("eot_token_id", end.clone()), ("eos_token_id", Value::Unsigned(5))]);
    let tokenizer = Tokenizer::from_gguf(&metadata).expect("a tokenizer");
    assert_eq!(tokenizer.end_of_generation(), [5, 260, 261]);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.add_bos()), (Some(5), None, None));
    // A type that the file got wrong.
    let tokens =
        [("a", NORMAL, 0.0), ("<end_of_turn>", NORMAL, 0.0), ("</s>", USER_DEFINED, 0.0), ("<s>", CONTROL, 0.0)];
    let tokenizer = Tokenizer::from_gguf(&vocabulary("llama", &tokens, Vec::new())).expect("a tokenizer");
    assert_eq!(tokenizer.end_of_generation(), [1, 2]);
    assert!(tokenizer.is_control(1));
    assert_eq!(tokenizer.add_bos(), Some(1), "SentencePiece models begin with the token 1");
}

#[test]
fn white_space_behind_special_tokens_of_phi3_is_theirs() {
    let mut metadata = bytes_and_merges(Vec::new());
    let with =
        |metadata: &Metadata| Tokenizer::from_gguf(metadata).expect("a tokenizer").encode("<tag> \n a<tag>", true);
    assert_eq!(with(&metadata).len(), 5);
    metadata.insert("general.name", Value::String("Phi-3 mini".to_string()));
    assert_eq!(with(&metadata), [261, 97, 261]);
}

#[test]
fn sentence_pieces_fall_back_to_bytes() {
    let hex: Vec<String> = (0..=255u32).map(|b| format!("<0x{b:02X}>")).collect();
    let mut tokens = vec![("<unk>", 2, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)];
    tokens.extend(hex.iter().map(|text| (text.as_str(), BYTE, 0.0)));
    let pieces = [("▁", -1.0), ("a", -2.0), ("▁a", -3.0), ("aa", -3.0), ("b", -4.0), ("ab", -2.5)];
    tokens.extend(pieces.map(|(text, score)| (text, NORMAL, score)));
    let of = |prefix: bool| {
        let keys = vec![("add_space_prefix", Value::Bool(prefix))];
        Tokenizer::from_gguf(&vocabulary("llama", &tokens, keys)).expect("a tokenizer")
    };
    let texts = |tokenizer: &Tokenizer, text: &str| -> Vec<String> {
        tokenizer.encode(text, true).iter().map(|&id| tokenizer.decode(&[id])).collect()
    };
    assert_eq!(texts(&of(false), "a aa"), ["a", " a", "a"], "equal scores merge from the left");
    assert_eq!(texts(&of(false), "aab"), ["a", "ab"], "the better score first");
    assert_eq!(texts(&of(true), "b<s>b"), [" ", "b", "<s>", " ", "b"]);
    assert_eq!(of(false).encode("é", false), [3 + 0xc3, 3 + 0xa9]);
    let text = "é \u{1f600}\n<|x|> a";
    assert_eq!(of(false).decode(&of(false).encode(text, true)), text);
    // Without byte tokens there is the unknown token, and without that nothing.
    let few = [("<unk>", 2, 0.0), ("a", NORMAL, 0.0)];
    let keys = || vec![("add_space_prefix", Value::Bool(false)), ("unknown_token_id", Value::Unsigned(0))];
    let tokenizer = Tokenizer::from_gguf(&vocabulary("llama", &few, keys())).expect("a tokenizer");
    assert_eq!(tokenizer.encode("axa", false), [1, 0, 1]);
}

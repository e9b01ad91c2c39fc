//! How text is cut into words before byte-pair encoding, by the name that GGUF has for it.
//!
//! Files of the hub hold the patterns, GGUF's readers know names. llama.cpp's converter takes the name from what a text becomes; so
//! does this one, with words cut by the patterns. Vocabularies that nobody has listed get the name of their patterns.

use super::{Words, collect, set};
use crate::convert::json::Object;
use foreword::gguf::Value;
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// SHA-256 of the tokens of [`SAMPLE`], and the name: llama.cpp's list as far as those names are known here.
const LISTED: &str = include_str!("pretokenizers.txt");

/// The text that llama.cpp's converter encodes.
const SAMPLE: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

/// A name for each list of patterns, as files write them.
const PATTERNS: &[(&str, &[&str])] = &[
    ("gpt-2", &[GPT2]),
    ("smollm", &[DIGIT, GPT2]),
    (
        "llama-bpe",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    (
        "qwen2",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    (
        "qwen35",
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
];

/// That of `ByteLevel`, which files do not write out.
const GPT2: &str = "GPT-2's";
/// That of `Digits`.
const DIGIT: &str = "digits one by one";

/// The name for the pre-tokenizer of `tokenizer.json`; `pairs` are the vocabulary's metadata.
pub(super) fn name(json: &Object, words: &Words, pairs: &[(String, Value)]) -> Result<String> {
    let by_pattern = match words.model {
        // WordPiece cuts in one way only, so readers do not ask.
        "bert" => "default",
        _ => by_pattern(json.get(&["pre_tokenizer"]).unwrap_or(&Json::Null))?,
    };
    let mut pairs = pairs.to_vec();
    set(&mut pairs, "pre", Value::String(by_pattern.into()));
    let tokenizer = Tokenizer::from_gguf(&collect(&pairs))?;
    let (first, last) = around(json.get(&["post_processor"]).unwrap_or(&Json::Null));
    let tokens: Vec<u32> = [first, tokenizer.encode(SAMPLE, true), last].concat();
    Ok(by_tokens(&tokens).unwrap_or(by_pattern).to_string())
}

/// The name for vocabularies that make these tokens of [`SAMPLE`].
fn by_tokens(tokens: &[u32]) -> Option<&'static str> {
    let hash: String = Sha256::digest(format!("{tokens:?}")).iter().map(|b| format!("{b:02x}")).collect();
    LISTED.lines().find_map(|line| line.strip_prefix(&hash)).map(str::trim)
}

fn by_pattern(pre_tokenizer: &Json) -> Result<&'static str> {
    let mut found = Vec::new();
    let unknown = || {
        let known: Vec<&str> = PATTERNS.iter().map(|(name, _)| *name).collect();
        Error::unsupported(format!(
            "tokenizer.json: the pre-tokenizer {pre_tokenizer} is not known; those of {} are",
            known.join(", ")
        ))
    };
    patterns(pre_tokenizer, &mut found).ok_or_else(unknown)?;
    let row = PATTERNS.iter().find(|(_, patterns)| *patterns == found);
    row.map(|(name, _)| *name).ok_or_else(unknown)
}

/// Appends the patterns that cut a text, one after the other; nothing where something else is done.
fn patterns<'a>(pre_tokenizer: &'a Json, found: &mut Vec<&'a str>) -> Option<()> {
    match pre_tokenizer["type"].as_str()? {
        "Sequence" => {
            let inner = pre_tokenizer["pretokenizers"].as_array()?;
            return inner.iter().try_for_each(|inner| patterns(inner, found));
        }
        "ByteLevel" if pre_tokenizer["use_regex"] == false => {}
        "ByteLevel" => found.push(GPT2),
        "Digits" if pre_tokenizer["individual_digits"] == true => found.push(DIGIT),
        "Split" => {
            let cuts = match pre_tokenizer["behavior"].as_str()? {
                "Isolated" => pre_tokenizer["invert"] != true,
                "Removed" => pre_tokenizer["invert"] == true,
                _ => false,
            };
            found.push(pre_tokenizer["pattern"]["Regex"].as_str().filter(|_| cuts)?);
        }
        _ => return None,
    }
    Some(())
}

/// Tokens that are put in front of every text and behind it.
fn around(processor: &Json) -> (Vec<u32>, Vec<u32>) {
    let inner = processor["processors"].as_array().map_or(std::slice::from_ref(processor), Vec::as_slice);
    let pair = |token: &Json| token[1].as_u64().and_then(|id| u32::try_from(id).ok());
    let mut around = (Vec::new(), Vec::new());
    for processor in inner {
        match processor["type"].as_str() {
            Some("RobertaProcessing" | "BertProcessing") => {
                around = (pair(&processor["cls"]).into_iter().collect(), pair(&processor["sep"]).into_iter().collect());
            }
            Some("TemplateProcessing") => {
                let id = |part: &Json| {
                    let name = part["SpecialToken"]["id"].as_str()?;
                    processor["special_tokens"][name]["ids"][0].as_u64().and_then(|id| u32::try_from(id).ok())
                };
                let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
                let text = single.iter().position(|part| part.get("Sequence").is_some()).unwrap_or(0);
                let (before, behind) = single.split_at(text);
                around = (before.iter().filter_map(id).collect(), behind.iter().filter_map(id).collect());
            }
            _ => {}
        }
    }
    around
}

#[cfg(test)]
mod tests {
    use super::{by_pattern, by_tokens};
    use serde_json::json;

    /// The tokens of all-MiniLM-L6-v2, by PyPI tokenizers.
    const MINILM: &[u32] = &[
        101, 100, 1006, 3671, 1007, 100, 1006, 3674, 7861, 29147, 2483, 9530, 16280, 23854, 1007, 100, 100, 1017, 3943,
        21211, 21211, 2509, 21211, 22394, 21211, 22394, 2509, 21211, 22394, 22394, 21211, 22394, 22394, 2509, 1017,
        1012, 1017, 1017, 1012, 1012, 1017, 1017, 1012, 1012, 1012, 1017, 100, 1029, 1855, 100, 100, 6207, 100, 100,
        14677, 23632, 22203, 1811, 1995, 1011, 1011, 1011, 1011, 1011, 1011, 1027, 1027, 1027, 1027, 1027, 1027, 1027,
        1192, 15290, 29754, 14150, 1192, 10260, 1181, 29755, 29436, 29741, 10260, 16856, 29747, 23925, 10325, 1005,
        1005, 1005, 1005, 1005, 1005, 1036, 1036, 1036, 1036, 1036, 1036, 1036, 1000, 1000, 1000, 1000, 1012, 1012,
        1012, 1012, 1012, 1012, 999, 999, 999, 999, 999, 999, 1029, 1029, 1029, 1029, 1029, 1029, 1045, 1005, 2310,
        2042, 1005, 2409, 2002, 1005, 1055, 2045, 1010, 1005, 2128, 2017, 2469, 1029, 1005, 1049, 2025, 2469, 1045,
        1005, 2222, 2191, 2009, 1010, 1005, 1040, 2017, 2066, 2070, 5572, 1029, 2057, 1005, 2310, 1037, 1005, 2222,
        102,
    ];

    #[test]
    fn listed_vocabularies_are_known_by_their_tokens() {
        assert_eq!(by_tokens(MINILM), Some("jina-v2-en"));
        assert_eq!(by_tokens(&MINILM[1..]), None);
    }

    #[test]
    fn others_are_known_by_their_patterns() {
        let level = json!({"type": "ByteLevel", "use_regex": true});
        let digits = json!({"type": "Digits", "individual_digits": true});
        assert_eq!(by_pattern(&level).expect("a name"), "gpt-2");
        let both = json!({"type": "Sequence", "pretokenizers": [digits, level]});
        assert_eq!(by_pattern(&both).expect("a name"), "smollm");
        let reversed = json!({"type": "Sequence", "pretokenizers": [level, digits]});
        let groups = json!({"type": "Digits", "individual_digits": false});
        let removed = json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": false});
        for unknown in [reversed, groups, removed, json!({"type": "Metaspace"}), json!(null)] {
            assert!(by_pattern(&unknown).expect_err("not known").to_string().contains("is not known"));
        }
    }
}

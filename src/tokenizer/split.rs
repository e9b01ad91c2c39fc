//! Pre-tokenizers: how text is cut into words before byte-pair encoding, by the name in `tokenizer.ggml.pre`.
//!
//! The expressions are those of the models' own tokenizers. Several expressions apply one after the other, each to the
//! pieces that the one before left; text between matches is a piece too.

use crate::error::{Error, Result};
use fancy_regex::Regex;
use std::ops::Range;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const LATIN: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// Name in the file, its expressions, and whether a word that is a token needs no merges.
type Row = (&'static [&'static str], &'static [&'static str], bool);

const ROWS: &[Row] = &[
    (
        &[
            "default",
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[GPT2],
        false,
    ),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], &[r"\p{N}", GPT2], false),
    (
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "dbrx",
            "smaug-bpe",
        ],
        &[LLAMA3],
        true,
    ),
    (&["chatglm-bpe", "glm4"], &[LLAMA3], false),
    (
        &[
            "qwen2",
            "qwen3",
            "deepseek-r1-qwen",
            "stablelm2",
            "hunyuan",
            "megrez",
            "kormo",
            "solar-open",
            "a.x-4.0",
            "mellum",
        ],
        &[QWEN2],
        false,
    ),
    (&["gpt-4o", "llama4", "kanana2"], &[GPT4O], false),
    (&["tekken"], &[TEKKEN], true),
    (
        &["deepseek-llm"],
        &[r"[\r\n]", LATIN, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
        false,
    ),
    (&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"], false),
    (&["deepseek-v3", "hunyuan-dense"], &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3_WORDS], false),
    (&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"], false),
];

/// A pre-tokenizer.
pub(super) struct Split {
    stages: Vec<Regex>,
    /// A word that is a token is taken as it is.
    pub(super) whole_words: bool,
}

impl Split {
    /// The pre-tokenizer with this name.
    pub(super) fn new(name: &str) -> Result<Self> {
        let Some((_, stages, whole_words)) = ROWS.iter().find(|(names, ..)| names.contains(&name)) else {
            let known: Vec<_> = ROWS.iter().flat_map(|(names, ..)| names.iter().copied()).collect();
            return Err(Error::unsupported(format!(
                "pre-tokenizer {name} is not supported; Foreword knows {}",
                known.join(", ")
            )));
        };
        let compile =
            |s: &&str| Regex::new(s).map_err(|e| Error::unsupported(format!("pre-tokenizer {name}: {e}")).caused_by(e));
        Ok(Split { stages: stages.iter().map(compile).collect::<Result<_>>()?, whole_words: *whole_words })
    }

    /// Cuts `text` into words; calls `word` with each, in order.
    pub(super) fn words(&self, text: &str, mut word: impl FnMut(&str)) {
        let mut pieces = vec![0..text.len()];
        for stage in &self.stages {
            let mut finer = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                cut(stage, text, piece, &mut finer);
            }
            pieces = finer;
        }
        pieces.into_iter().for_each(|piece| word(&text[piece]));
    }
}

/// Cuts one piece into matches and what lies between them.
fn cut(regex: &Regex, text: &str, piece: Range<usize>, out: &mut Vec<Range<usize>>) {
    let (start, body) = (piece.start, &text[piece.clone()]);
    let mut end = 0;
    // An expression that gives up (its backtracking is limited) leaves the rest of the piece whole.
    for found in regex.find_iter(body).map_while(std::result::Result::ok).filter(|m| !m.as_str().is_empty()) {
        if found.start() > end {
            out.push(start + end..start + found.start());
        }
        out.push(start + found.start()..start + found.end());
        end = found.end();
    }
    if end < body.len() {
        out.push(start + end..piece.end);
    }
}

//! Pre-tokenizers: how text is cut into words before byte-pair encoding, by the name in `tokenizer.ggml.pre`.
//!
//! The patterns are those of the models' own tokenizers. Several patterns apply one after the other, each to the
//! pieces that the one before left; text between matches is a piece too.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::pattern::Pattern;
use crate::error::{Error, Result};
use std::ops::Range;

/// Contractions in any case.
macro_rules! contractions {
    () => {
        "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}

/// Words, runs of digits, other runs with the line ends behind them, white space; as GPT-4 has it, with the length of runs of digits.
macro_rules! gpt4 {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words by case, as GPT-4o has them; with what may follow a word, and the length of runs of digits.
macro_rules! gpt4o {
    ($suffix:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = gpt4!(r"\p{N}{1,3}");
const QWEN2: &str = gpt4!(r"\p{N}");
const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = gpt4o!(concat!("(?:", contractions!(), ")?"), r"\p{N}{1,3}");
const TEKKEN: &str = gpt4o!("", r"\p{N}");
const YOUTU: &str = gpt4o!(concat!("(?:", contractions!(), ")?"), r"\p{N}");
const BAILING: &str = r"'[sSdDmMtT]|'[lL][lL]|'[vV][eE]|'[rR][eE]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+");
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const CJK: &str = r"[一-龥぀-ゟ゠-ヿ]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// Letters with case; escapes stand for letters that normalization would change.
const LATIN: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// White space at the end of a piece; not a [`Pattern`], which would look for it from every space.
const TRAILING_SPACE: &str = r"\s+$";

/// What models with the same pre-tokenizer share.
struct Family {
    /// Names in files.
    names: &'static [&'static str],
    stages: &'static [&'static str],
    /// A word that is a token needs no merges.
    whole_words: bool,
    /// Prompts begin with BOS unless the file says otherwise.
    add_bos: bool,
}

const fn family(names: &'static [&'static str], stages: &'static [&'static str]) -> Family {
    Family { names, stages, whole_words: false, add_bos: false }
}

/// The rows of llama.cpp's `llama-vocab.cpp`. Where its patterns are approximations for want of character classes (tekken,
/// gpt-4o), these are the models' own.
#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    family(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    family(
        &["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "gigachat",
          "roberta-bpe", "modern-bert", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"],
        &[GPT2],
    ),
    family(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    Family {
        names: &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        stages: &[LLAMA3],
        whole_words: true,
        add_bos: true,
    },
    family(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3]),
    family(
        &["qwen2", "qwen3", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2", "solar-open", "grok-2"],
        &[QWEN2],
    ),
    family(&["qwen35"], &[QWEN35]),
    family(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    Family { names: &["tekken"], stages: &[TEKKEN], whole_words: true, add_bos: true },
    family(
        &["deepseek-llm"],
        &[r"[\r\n]", LATIN, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", TRAILING_SPACE, r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    ),
    family(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    family(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[r"\p{N}{1,3}", CJK, DEEPSEEK3]),
    family(&["spark2_5"], &[r"\p{N}{1,3}", CJK, SPARK, r"\p{N}"]),
    Family {
        names: &["youtu"],
        stages: &["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", YOUTU],
        whole_words: true,
        add_bos: false,
    },
    family(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"]),
    family(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    family(&["viking"], &[BLOOM, r"\p{N}"]),
    family(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    family(&["seed-coder"], &[SEED_CODER]),
    family(&["ufakzeka"], &[UFAKZEKA]),
    family(&["gemma4"], &[r"[^\n]+|[\n]+"]),
    family(&["laguna"], &[r"[^\n]+|[\n]+", QWEN2]),
    Family { names: &["minicpm5"], stages: &[r"\p{N}{1,3}", gpt4!(r"\p{N}+")], whole_words: true, add_bos: false },
];

/// A pre-tokenizer.
pub(super) struct Split {
    stages: Vec<Stage>,
    /// A word that is a token is taken as it is.
    pub(super) whole_words: bool,
    /// Prompts begin with BOS unless the file says otherwise.
    pub(super) add_bos: bool,
}

enum Stage {
    Matches(Pattern),
    TrailingSpace,
}

impl Split {
    /// The pre-tokenizer with this name.
    pub(super) fn new(name: &str) -> Result<Self> {
        let Some(family) = FAMILIES.iter().find(|family| family.names.contains(&name)) else {
            let known: Vec<_> = FAMILIES.iter().flat_map(|family| family.names.iter().copied()).collect();
            return Err(Error::unsupported(format!(
                "pre-tokenizer {name} is not supported; Foreword knows {}",
                known.join(", ")
            )));
        };
        let stage = |source: &&str| match *source {
            TRAILING_SPACE => Ok(Stage::TrailingSpace),
            source => Pattern::new(source)
                .map(Stage::Matches)
                .ok_or_else(|| Error::unsupported(format!("pattern {source} of pre-tokenizer {name}"))),
        };
        let stages = family.stages.iter().map(stage).collect::<Result<_>>()?;
        Ok(Split { stages, whole_words: family.whole_words, add_bos: family.add_bos })
    }

    /// Cuts `text` into words; calls `word` with each, in order.
    pub(super) fn words(&self, text: &str, mut word: impl FnMut(&str)) {
        let mut pieces: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        for stage in &self.stages {
            let mut finer = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                stage.cut(text, piece, &mut finer);
            }
            pieces = finer;
        }
        pieces.into_iter().filter_map(|piece| text.get(piece)).for_each(&mut word);
    }
}

impl Stage {
    /// Cuts one piece into matches and what lies between them.
    fn cut(&self, text: &str, piece: Range<usize>, out: &mut Vec<Range<usize>>) {
        // A pattern sees nothing of the neighbours.
        let Some(body) = text.get(piece.clone()) else { return };
        let mut push = |from: usize, to: usize| {
            if from < to {
                out.push(piece.start + from..piece.start + to);
            }
        };
        let pattern = match self {
            Stage::Matches(pattern) => pattern,
            Stage::TrailingSpace => {
                let end = body.trim_end().len();
                push(0, end);
                push(end, body.len());
                return;
            }
        };
        let (mut done, mut at) = (0, 0);
        while let Some(c) = body.get(at..).and_then(|rest| rest.chars().next()) {
            match pattern.match_at(body, at).filter(|&end| end > at) {
                Some(end) => {
                    push(done, at);
                    push(at, end);
                    (done, at) = (end, end);
                }
                None => at += c.len_utf8(),
            }
        }
        push(done, body.len());
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use super::{FAMILIES, Split};

    /// `tests/data/make_splits.py` makes the words with another engine.
    #[test]
    fn words_equal_those_of_another_engine() {
        let lines = include_str!("../../tests/data/splits.jsonl");
        let mut seen = Vec::new();
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            let (name, text) = (line["pre"].as_str().expect("a name"), line["text"].as_str().expect("a text"));
            let mut words = Vec::new();
            Split::new(name).expect("a known name").words(text, |word| words.push(word.to_string()));
            assert_eq!(serde_json::json!(words), line["words"], "{name} {text:?}");
            seen.push(name.to_string());
        }
        for family in FAMILIES {
            assert!(seen.iter().any(|name| family.names.contains(&name.as_str())), "{:?} is not tested", family.names);
        }
    }

    /// With quadratic patterns this would take minutes.
    #[test]
    fn long_runs_are_linear() {
        for family in FAMILIES {
            let split = Split::new(family.names[0]).expect("a known name");
            for part in ["a", "A", "é", "\u{301}", "漢", "1", "!", "'", " ", "\n", " \n", "\r\n!", "aA", "ǅ"] {
                let text = part.repeat(1 << 15) + "x";
                let mut len = 0;
                split.words(&text, |word| len += word.len());
                assert_eq!(len, text.len(), "{:?} {part:?}", family.names);
            }
        }
    }

    #[test]
    fn every_name_is_there_once() {
        let names: Vec<_> = FAMILIES.iter().flat_map(|family| family.names).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(names.len(), once.len());
        names.iter().for_each(|name| assert!(Split::new(name).is_ok(), "{name}"));
        assert!(Split::new("kimi-k2").err().expect("an error").to_string().contains("kimi-k2"));
    }
}

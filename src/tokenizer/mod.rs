//! Text to tokens and back, from the vocabulary in a model file.
//!
//! Two kinds of vocabularies: byte-level BPE (`tokenizer.ggml.model` = `gpt2`) and SentencePiece (`llama`).

mod bpe;
mod detokenize;
mod split;
mod unigram;
mod vocab;

pub use detokenize::Detokenizer;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use aho_corasick::{AhoCorasick, MatchKind};
use bpe::Bpe;
use std::borrow::Cow;
use unigram::{SPACE, Unigram};
use vocab::{TokenKind, Vocab};

/// A model's tokenizer.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    /// Tokens that are matched in text as a whole, and their ids.
    special: Special,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    end_of_generation: Vec<u32>,
}

enum Algorithm {
    Bpe(Bpe),
    Unigram(Unigram),
}

/// Finds special tokens in text, the longest at each place.
struct Special {
    /// All of them; control tokens count only where the caller asks for it.
    all: Option<AhoCorasick>,
    user_defined: Option<AhoCorasick>,
    all_ids: Vec<u32>,
    user_defined_ids: Vec<u32>,
}

/// Texts of tokens that end an answer, beside those that the metadata names.
const ENDS: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
];

impl Tokenizer {
    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] for other kinds of vocabularies and unknown pre-tokenizers, [`crate::Kind::BadFile`] for
    /// missing or inconsistent metadata.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let (vocab, algorithm) = match metadata.str("tokenizer.ggml.model")? {
            "gpt2" => {
                let vocab = Vocab::new(metadata, bpe::decode_token)?;
                let bpe = Bpe::new(metadata, &vocab)?;
                (vocab, Algorithm::Bpe(bpe))
            }
            "llama" => {
                let vocab = Vocab::new(metadata, |text, out| out.extend_from_slice(text.as_bytes()))?;
                let unigram = Unigram::new(metadata, &vocab)?;
                (vocab, Algorithm::Unigram(unigram))
            }
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer {other} is not supported; Foreword knows gpt2 (byte-level BPE) and llama (SentencePiece)"
                )));
            }
        };
        let id = |key: &str| -> Result<Option<u32>> {
            let id = metadata.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?;
            Ok(id.filter(|&id| (id as usize) < vocab.len()))
        };
        let (bos, eos) = (id("bos")?, id("eos")?);
        let mut end_of_generation: Vec<u32> = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
        let by_text = ENDS.iter().filter_map(|text| vocab.id(text.as_bytes()));
        end_of_generation.extend(by_text.filter(|&id| vocab.kind(id) != TokenKind::Normal));
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        // Without a word on it, SentencePiece models begin with BOS and byte-level ones do not, but for Llama 3.
        let add_bos = match metadata.opt_bool("tokenizer.ggml.add_bos_token")? {
            Some(add) => add,
            None => match &algorithm {
                Algorithm::Unigram(_) => true,
                Algorithm::Bpe(_) => {
                    matches!(metadata.opt_str("tokenizer.ggml.pre")?, Some("llama3" | "llama-v3" | "llama-bpe"))
                }
            },
        };
        let special = Special::new(&vocab)?;
        Ok(Tokenizer { vocab, algorithm, special, bos, eos, add_bos, end_of_generation })
    }

    /// Tokens of `text`, without BOS and EOS. With `parse_special`, the texts of control tokens (`<|im_end|>`) become those
    /// tokens; otherwise they are plain text, which is what text from strangers should be.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 4);
        let mut at = 0;
        let mut start = true;
        self.special.find(text, parse_special, |range, id| {
            self.encode_plain(&text[at..range.start], start, &mut out);
            out.push(id);
            at = range.end;
            start = true;
        });
        self.encode_plain(&text[at..], start, &mut out);
        out
    }

    fn encode_plain(&self, text: &str, start: bool, out: &mut Vec<u32>) {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Algorithm::Unigram(unigram) => unigram.encode(&self.vocab, text, start, out),
        }
    }

    /// Text of tokens; bytes that are no UTF-8 become U+FFFD. Control tokens are shown as their text.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new(false);
        let mut text: String = tokens.iter().map(|&id| detokenizer.push(self, id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// Bytes that a token stands for in text; empty for one that does not exist.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let bytes = self.vocab.bytes(id);
        let escaped = matches!(self.algorithm, Algorithm::Unigram(_))
            && matches!(self.vocab.kind(id), TokenKind::Normal | TokenKind::Unused);
        match std::str::from_utf8(bytes) {
            Ok(text) if escaped && text.contains(SPACE) => Cow::Owned(text.replace(SPACE, " ").into_bytes()),
            _ => Cow::Borrowed(bytes),
        }
    }

    /// Whether a token is never text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that the model wants in front of a prompt.
    pub fn add_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// Beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Tokens after which an answer is over, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }
}

impl Special {
    fn new(vocab: &Vocab) -> Result<Self> {
        let of = |wanted: &[TokenKind]| -> Vec<u32> {
            (0..vocab.len() as u32)
                .filter(|&id| wanted.contains(&vocab.kind(id)) && !vocab.bytes(id).is_empty())
                .collect()
        };
        let all_ids = of(&[TokenKind::UserDefined, TokenKind::Control, TokenKind::Unknown]);
        let user_defined_ids = of(&[TokenKind::UserDefined]);
        let build = |ids: &[u32]| -> Result<Option<AhoCorasick>> {
            if ids.is_empty() {
                return Ok(None);
            }
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(ids.iter().map(|&id| vocab.bytes(id)));
            automaton.map(Some).map_err(|e| Error::bad_file(format!("special tokens: {e}")).caused_by(e))
        };
        Ok(Special { all: build(&all_ids)?, user_defined: build(&user_defined_ids)?, all_ids, user_defined_ids })
    }

    fn find(&self, text: &str, control: bool, mut found: impl FnMut(std::ops::Range<usize>, u32)) {
        let (automaton, ids) =
            if control { (&self.all, &self.all_ids) } else { (&self.user_defined, &self.user_defined_ids) };
        let Some(automaton) = automaton else { return };
        for m in automaton.find_iter(text) {
            // A damaged vocabulary may hold pieces of characters.
            if text.is_char_boundary(m.start()) && text.is_char_boundary(m.end()) {
                found(m.range(), ids[m.pattern().as_usize()]);
            }
        }
    }
}

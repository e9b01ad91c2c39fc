//! Text to tokens and back, from the vocabulary in a model file.
//!
//! Two kinds of vocabularies: byte-level BPE (`tokenizer.ggml.model` = `gpt2`) and SentencePiece (`llama`).

mod bpe;
mod detokenize;
mod pattern;
mod special;
mod split;
mod unigram;
mod vocab;

pub use detokenize::Detokenizer;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use bpe::Bpe;
use special::Special;
use std::borrow::Cow;
use unigram::{SPACE, Unigram};
use vocab::{TokenKind, Vocab};

/// A model's tokenizer.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
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

impl Tokenizer {
    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] for other kinds of vocabularies and unknown pre-tokenizers, [`crate::Kind::BadFile`] for
    /// missing or inconsistent metadata.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let (mut vocab, algorithm) = match metadata.str("tokenizer.ggml.model")? {
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
        // Without a word on it, SentencePiece models have these and begin with BOS; byte-level ones depend on the family.
        let unigram = matches!(algorithm, Algorithm::Unigram(_));
        let id = |key: &str, default: Option<u32>| -> Result<Option<u32>> {
            let id = metadata.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?.or(default);
            Ok(id.filter(|&id| (id as usize) < vocab.len()))
        };
        let (bos, eos) = (id("bos", unigram.then_some(1))?, id("eos", unigram.then_some(2))?);
        let end_of_generation = special::ends(metadata, &mut vocab, eos)?;
        let add_bos = metadata.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(match &algorithm {
            Algorithm::Unigram(_) => true,
            Algorithm::Bpe(bpe) => bpe.add_bos(),
        });
        let special = Special::new(metadata, &vocab)?;
        Ok(Tokenizer { vocab, algorithm, special, bos, eos, add_bos, end_of_generation })
    }

    /// Tokens of `text`, without BOS and EOS. With `parse_special`, the texts of control tokens (`<|im_end|>`) become those
    /// tokens; otherwise they are plain text, which is what text from strangers should be.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 4);
        let mut at = 0;
        while let Some((range, id)) = self.special.find(&self.vocab, text, at, parse_special) {
            self.encode_plain(text.get(at..range.start).unwrap_or_default(), &mut out);
            out.push(id);
            at = range.end;
        }
        self.encode_plain(text.get(at..).unwrap_or_default(), &mut out);
        out
    }

    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Algorithm::Unigram(unigram) => unigram.encode(&self.vocab, text, out),
        }
    }

    /// Text of tokens; bytes that are no UTF-8 become U+FFFD. Control tokens are shown as their text, and the space that some
    /// SentencePiece models put in front of a prompt is shown too.
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

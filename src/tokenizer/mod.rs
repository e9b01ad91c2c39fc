//! Text to tokens and back, from the vocabulary in a model file.
//!
//! Five kinds of vocabularies: BPE of bytes (`tokenizer.ggml.model` = `gpt2`) and of characters (`gemma4`), SentencePiece's BPE
//! (`llama`) and unigram model (`t5`), and WordPiece (`bert`).

mod bpe;
mod detokenize;
mod pattern;
mod special;
mod split;
mod spm;
mod unigram;
mod vocab;
mod wordpiece;

pub use detokenize::Detokenizer;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use bpe::{Bpe, Units};
use special::Special;
use spm::{SPACE, Spm};
use std::borrow::Cow;
use unigram::Unigram;
use vocab::{TokenKind, Vocab};
use wordpiece::WordPiece;

/// A model's tokenizer.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    special: Special,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    end_of_generation: Vec<u32>,
}

enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] for other kinds of vocabularies and unknown pre-tokenizers, [`crate::Kind::BadFile`] for
    /// missing or inconsistent metadata.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let (mut vocab, algorithm) = match metadata.str("tokenizer.ggml.model")? {
            model @ ("gpt2" | "gemma4") => {
                let units = if model == "gpt2" { Units::Bytes } else { Units::Characters };
                let vocab = Vocab::new(metadata, |text, out| units.decode(text, out))?;
                let bpe = Bpe::new(metadata, &vocab, units)?;
                (vocab, Algorithm::Bpe(bpe))
            }
            "llama" => {
                let vocab = Vocab::new(metadata, |text, out| out.extend_from_slice(text.as_bytes()))?;
                let spm = Spm::new(metadata, &vocab)?;
                (vocab, Algorithm::Spm(spm))
            }
            "t5" => {
                let vocab = Vocab::new(metadata, |text, out| out.extend_from_slice(text.as_bytes()))?;
                let unigram = Unigram::new(metadata, &vocab)?;
                (vocab, Algorithm::Unigram(unigram))
            }
            "bert" => {
                let vocab = Vocab::new(metadata, |text, out| out.extend_from_slice(text.as_bytes()))?;
                let wordpiece = WordPiece::new(metadata, &vocab)?;
                (vocab, Algorithm::WordPiece(wordpiece))
            }
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer {other} is not supported; Foreword knows gpt2 and gemma4 (BPE), llama and t5 (SentencePiece) and \
                     bert (WordPiece)"
                )));
            }
        };
        let id = |key: &str, default: Option<u32>| -> Result<Option<u32>> {
            let id = metadata.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?.or(default);
            Ok(id.filter(|&id| (id as usize) < vocab.len()))
        };
        // Without a word on it, SentencePiece models have these and begin with BOS; byte-level ones depend on the family.
        let (bos, eos, add_bos, add_eos) = match &algorithm {
            Algorithm::Bpe(bpe) => (None, None, bpe.add_bos(), false),
            Algorithm::Spm(_) => (Some(1), Some(2), true, false),
            Algorithm::Unigram(_) => (None, Some(1), false, true),
            // The key is misspelt in files.
            Algorithm::WordPiece(_) => {
                (id("cls", vocab.id(b"[CLS]"))?, id("seperator", vocab.id(b"[SEP]"))?, true, true)
            }
        };
        let (bos, eos) = (id("bos", bos)?, id("eos", eos)?);
        let flag = |key: &str| metadata.opt_bool(&format!("tokenizer.ggml.{key}"));
        // Gemma 4 answers with nonsense without BOS, and there are files that deny it.
        let needs_bos = matches!(&algorithm, Algorithm::Bpe(bpe) if bpe.units() == Units::Characters);
        let add_bos = needs_bos || flag("add_bos_token")?.unwrap_or(add_bos);
        let add_eos = flag("add_eos_token")?.unwrap_or(add_eos);
        let end_of_generation = special::ends(metadata, &mut vocab, eos)?;
        let special = Special::new(metadata, &vocab)?;
        Ok(Tokenizer { vocab, algorithm, special, bos, eos, add_bos, add_eos, end_of_generation })
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

    /// Tokens of a prompt: `text` behind BOS where the model wants one. Control tokens are recognised with `parse_special`; a chat
    /// template writes some models' BOS itself, and it is not doubled then.
    pub fn prompt(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut tokens = self.encode(text, parse_special);
        if let Some(bos) = self.add_bos().filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        tokens
    }

    /// Tokens of a text that is all there is, as models for embeddings read it: between BOS and EOS, which WordPiece calls
    /// `[CLS]` and `[SEP]`, where the model wants them.
    pub fn encode_whole(&self, text: &str) -> Vec<u32> {
        let mut tokens: Vec<u32> = self.add_bos().into_iter().collect();
        tokens.extend(self.encode(text, false));
        tokens.extend(self.eos.filter(|_| self.add_eos));
        tokens
    }

    /// Tokens of two texts that are read together, as models that compare them do, and where the second one begins: with EOS
    /// behind each, and another one between them where a text ends as XLM-RoBERTa has it.
    pub fn encode_pair(&self, first: &str, second: &str) -> (Vec<u32>, usize) {
        let mut tokens = self.encode_whole(first);
        tokens.extend(self.eos.filter(|_| matches!(self.algorithm, Algorithm::Unigram(_))));
        let begins = tokens.len();
        tokens.extend(self.encode(second, false));
        tokens.extend(self.eos.filter(|_| self.add_eos));
        (tokens, begins)
    }

    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Algorithm::Spm(spm) => spm.encode(&self.vocab, text, out),
            Algorithm::Unigram(unigram) => unigram.encode(&self.vocab, text, out),
            Algorithm::WordPiece(wordpiece) => wordpiece.encode(&self.vocab, text, out),
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
        let escaped = !matches!(&self.algorithm, Algorithm::Bpe(bpe) if bpe.units() == Units::Bytes)
            && matches!(self.vocab.kind(id), TokenKind::Normal | TokenKind::Unused);
        match std::str::from_utf8(bytes) {
            Ok(text) if escaped && text.contains(SPACE) => Cow::Owned(text.replace(SPACE, " ").into_bytes()),
            _ => Cow::Borrowed(bytes),
        }
    }

    /// The token whose text this is.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.vocab.id(text.as_bytes())
    }

    /// Tokens whose texts have one of these in them, ascending; those of control tokens are no texts.
    pub(crate) fn tokens_with(&self, texts: &[String]) -> Vec<u32> {
        let has = |bytes: &[u8], text: &str| {
            !text.is_empty() && bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        let tokens = (0..self.n_vocab() as u32).filter(|&id| !self.is_control(id));
        tokens.filter(|&id| texts.iter().any(|text| has(&self.token_bytes(id), text))).collect()
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

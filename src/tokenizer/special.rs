//! Tokens that are matched in text as a whole, and those that end an answer.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::vocab::{TokenKind, Vocab};
use crate::error::Result;
use crate::gguf::Metadata;
use std::ops::Range;

/// Finds special tokens in text: the leftmost, and of those that begin there the longest.
pub(super) struct Special {
    /// Ids in the order of their bytes.
    sorted: Vec<u32>,
    /// Whether a token begins with a byte.
    first: [bool; 256],
    /// White space behind a special token goes with it (Phi-3).
    strip_behind: bool,
}

impl Special {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Self> {
        let mut special = Special { sorted: Vec::new(), first: [false; 256], strip_behind: false };
        for id in 0..vocab.len() as u32 {
            let kind = matches!(vocab.kind(id), TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown);
            if let (true, Some(&byte)) = (kind, vocab.bytes(id).first()) {
                special.sorted.push(id);
                if let Some(first) = special.first.get_mut(usize::from(byte)) {
                    *first = true;
                }
            }
        }
        special.sorted.sort_by_key(|&id| vocab.bytes(id));
        let name = metadata.opt_str("general.name").ok().flatten().unwrap_or_default().to_ascii_lowercase();
        special.strip_behind = name.contains("phi-3") || name.contains("phi3");
        Ok(special)
    }

    /// The next special token of `text` at or behind `from`, and where it is. Control tokens count only with `control`.
    pub(super) fn find(&self, vocab: &Vocab, text: &str, from: usize, control: bool) -> Option<(Range<usize>, u32)> {
        let bytes = text.as_bytes();
        let mut at = from;
        loop {
            let ahead = bytes.get(at..)?;
            at += ahead.iter().position(|&b| self.first.get(usize::from(b)) == Some(&true))?;
            if let Some(id) = self.longest(vocab, bytes.get(at..)?, control) {
                return Some((at..at + vocab.bytes(id).len() + self.stripped(vocab, text, at, id), id));
            }
            at += 1;
        }
    }

    /// Walks down the sorted tokens as if they were a tree, a byte a level.
    fn longest(&self, vocab: &Vocab, text: &[u8], control: bool) -> Option<u32> {
        let mut range = self.sorted.as_slice();
        let mut best = None;
        for (depth, &byte) in text.iter().enumerate() {
            let at_depth = |id: &u32| vocab.bytes(*id).get(depth).copied();
            range = range.get(range.partition_point(|id| at_depth(id) < Some(byte))..)?;
            range = range.get(..range.partition_point(|id| at_depth(id) == Some(byte)))?;
            // One that ends here sorts before its continuations.
            let Some(&id) = range.first() else { break };
            let counts = control || vocab.kind(id) == TokenKind::UserDefined;
            if counts && vocab.bytes(id).len() == depth + 1 {
                best = Some(id);
            }
        }
        best
    }

    fn stripped(&self, vocab: &Vocab, text: &str, at: usize, id: u32) -> usize {
        let token = vocab.bytes(id);
        if !self.strip_behind || [&b"<unk>"[..], b"<s>", b"<|endoftext|>"].contains(&token) {
            return 0;
        }
        let behind = text.as_bytes().get(at + token.len()..).unwrap_or_default();
        behind.iter().take_while(|b| b.is_ascii_whitespace() || **b == 0x0b).count()
    }
}

/// Texts of tokens that end an answer whatever the metadata says.
const ENDS: [&str; 27] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    // Behind Gemma 4's calls, where what they give is to come.
    "<|tool_response>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<｜end▁of▁sentence｜>",
    // Tokens between the files of a repository, which a completion must not run past.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<reponame>",
    "<|file_sep|>",
];

/// Ids that end an answer, ascending; those known by their text become control tokens, which some files forget.
pub(super) fn ends(metadata: &Metadata, vocab: &mut Vocab, eos: Option<u32>) -> Result<Vec<u32>> {
    let mut ends: Vec<u32> = eos.into_iter().collect();
    for key in ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
        let id = metadata.opt_u32(&format!("tokenizer.ggml.{key}_token_id"))?;
        ends.extend(id.filter(|&id| (id as usize) < vocab.len()));
    }
    for text in ENDS {
        let Some(id) = vocab.id(text.as_bytes()) else { continue };
        vocab.set_kind(id, TokenKind::Control);
        ends.push(id);
    }
    // In some vocabularies this one is just a tag of HTML (Gemma).
    ends.extend(vocab.id(b"</s>").filter(|&id| vocab.kind(id) == TokenKind::Control));
    // Where an answer has several messages (gpt-oss, solar-open), this one ends only one of them.
    let has = |text: &str| vocab.id(text.as_bytes()).is_some();
    if (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && has("<|calls|>")) {
        let end = vocab.id(b"<|end|>");
        ends.retain(|&id| Some(id) != end);
        for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>"] {
            if let Some(id) = vocab.id(text.as_bytes()) {
                vocab.set_kind(id, TokenKind::UserDefined);
            }
        }
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

//! Tokens to text as they arrive, never with half a character.

use super::Tokenizer;

/// Holds back the bytes of an unfinished character.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
    skip_control: bool,
    shown: Vec<u32>,
}

impl Detokenizer {
    /// With `skip_control`, control tokens give no text.
    pub fn new(skip_control: bool) -> Self {
        Detokenizer { pending: Vec::new(), skip_control, shown: Vec::new() }
    }

    /// These control tokens give text all the same.
    pub fn show(&mut self, tokens: Vec<u32>) {
        self.shown = tokens;
    }

    /// Adds a token; returns the characters that are whole now. Bytes that can begin no character become U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !(self.skip_control && tokenizer.is_control(id)) || self.shown.contains(&id) {
            self.pending.extend_from_slice(&tokenizer.token_bytes(id));
        }
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            // At the end of the bytes, up to three may be the beginning of a character.
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.pending.len();
            if at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            if !invalid.is_empty() {
                text.push('\u{fffd}');
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }

    /// What is left at the end: nothing, or U+FFFD for an unfinished character.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

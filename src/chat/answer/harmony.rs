//! Answers in several messages, each with a channel (gpt-oss): thoughts in `analysis`, calls with a recipient, the rest is text.

use super::thoughts::Tags;
use super::{Char, Out};

/// What encloses a thought; when it is cut, the answer follows.
pub(super) static THOUGHT: Tags = Tags {
    open: "<|channel|>analysis<|message|>",
    close: "<|end|>",
    cut: "<|end|><|start|>assistant<|channel|>final<|message|>",
};

/// Texts that end a header or a message.
const MARKERS: [&str; 5] = ["<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>"];

/// Bytes of a header; what goes on longer is text.
const LONGEST_HEADER: usize = 500;

#[derive(Clone, Debug, Default)]
pub(super) struct Harmony {
    state: State,
    /// What may become a marker.
    held: Vec<Char>,
    /// The header so far.
    header: Vec<Char>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    /// The prompt ends in the first message's header.
    #[default]
    Header,
    Thought,
    Text,
    Arguments,
    /// Between messages.
    Between,
}

impl Harmony {
    pub(super) fn is_thinking(&self) -> bool {
        self.state == State::Thought
    }

    pub(super) fn push(&mut self, c: Char, out: &mut Out) {
        self.held.push(c);
        while !MARKERS.iter().any(|marker| begins(&self.held, marker)) {
            let first = self.held.remove(0);
            self.put(first, out);
        }
        let Some(marker) = MARKERS.iter().find(|marker| self.held.iter().map(|c| c.0).eq(marker.chars())) else {
            return;
        };
        self.held.clear();
        self.state = match *marker {
            "<|message|>" if self.state == State::Header => self.begin(out),
            "<|start|>" => State::Header,
            "<|message|>" => self.state,
            _ => State::Between,
        };
    }

    /// A character of a header or a message.
    fn put(&mut self, c: Char, out: &mut Out) {
        match self.state {
            State::Header => {
                self.header.push(c);
                let header: String = self.header.iter().map(|c| c.0).collect();
                let header = header.trim_start().trim_start_matches("assistant").trim_start();
                let known = ["<|channel|>", "to="];
                // The model leaves its format and answers.
                let is_header = known.iter().any(|begin| begin.starts_with(header) || header.starts_with(begin));
                if !(is_header || "assistant".starts_with(header)) || header.len() > LONGEST_HEADER {
                    self.state = State::Text;
                    self.header.drain(..).for_each(|c| out.text(c));
                }
            }
            State::Thought => out.thought(c),
            State::Text => out.text(c),
            State::Arguments => out.arguments(c.0.encode_utf8(&mut [0; 4])),
            State::Between if c.0.is_whitespace() => {}
            State::Between => {
                self.state = State::Text;
                out.text(c);
            }
        }
    }

    /// The header is over.
    fn begin(&mut self, out: &mut Out) -> State {
        let header: String = self.header.drain(..).map(|c| c.0).collect();
        let recipient = header.split_once("to=").map(|(_, to)| to.split(|c: char| c == '<' || c.is_whitespace()));
        let recipient = recipient.and_then(|mut words| words.next()).filter(|name| !name.is_empty());
        match recipient {
            Some(name) => {
                out.call(name.strip_prefix("functions.").unwrap_or(name));
                State::Arguments
            }
            None if header.contains("<|channel|>analysis") => State::Thought,
            None => State::Text,
        }
    }

    pub(super) fn finish(&mut self, out: &mut Out) {
        for c in std::mem::take(&mut self.held) {
            self.put(c, out);
        }
        self.header.drain(..).for_each(|c| out.text(c));
    }
}

fn begins(held: &[Char], marker: &str) -> bool {
    let mut marker = marker.chars();
    held.iter().all(|c| marker.next() == Some(c.0))
}

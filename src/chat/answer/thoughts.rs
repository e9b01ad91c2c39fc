//! Thoughts in tags, in front of an answer.

use super::{Char, Out};

/// What encloses a thought.
#[derive(Debug)]
pub(super) struct Tags {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// Ends a thought that would go on.
    pub(super) cut: &'static str,
}

/// The tags that models use.
pub(super) static TAGS: [Tags; 3] = [
    Tags { open: "<think>", close: "</think>", cut: "\n</think>\n\n" },
    // Mistral.
    Tags { open: "[THINK]", close: "[/THINK]", cut: "[/THINK]" },
    // Gemma 4.
    Tags { open: "<|channel>thought\n", close: "<channel|>", cut: "\n<channel|>" },
];

/// Takes the thought at an answer's beginning out of it.
#[derive(Clone, Debug)]
pub(super) struct Thoughts {
    pub(super) tags: &'static Tags,
    state: State,
    /// White space, and what may become a tag.
    held: Vec<Char>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nothing but white space so far.
    Before,
    /// In the thought; whether it has begun to say something.
    Inside(bool),
    /// Behind the thought, in white space.
    Behind,
    Answer,
}

impl Thoughts {
    /// Some templates put the opening tag at the end of the prompt.
    pub(super) fn new(tags: &'static Tags, prompt: &str) -> Self {
        let opened = prompt.trim_end().ends_with(tags.open.trim_end());
        let state = if opened { State::Inside(false) } else { State::Before };
        Thoughts { tags, state, held: Vec::new() }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.state, State::Inside(_))
    }

    /// Returns what turned out to belong to the answer.
    pub(super) fn push(&mut self, c: Char, out: &mut Out) -> Vec<Char> {
        match self.state {
            State::Answer => return vec![c],
            State::Behind if c.0.is_whitespace() => return Vec::new(),
            State::Behind => {
                self.state = State::Answer;
                return vec![c];
            }
            State::Before => {
                self.held.push(c);
                if !may_become(&self.held, self.tags.open) {
                    self.state = State::Answer;
                    return std::mem::take(&mut self.held);
                }
                if is(&self.held, self.tags.open) {
                    self.held.clear();
                    self.state = State::Inside(false);
                }
            }
            State::Inside(begun) => {
                if begun || !c.0.is_whitespace() || !self.held.is_empty() {
                    self.held.push(c);
                }
                while !may_become(&self.held, self.tags.close) {
                    out.thought(self.held.remove(0));
                    self.state = State::Inside(true);
                }
                if is(&self.held, self.tags.close) {
                    self.held.clear();
                    self.state = State::Behind;
                }
            }
        }
        Vec::new()
    }

    /// Returns what turned out to belong to the answer.
    pub(super) fn finish(&mut self, out: &mut Out) -> Vec<Char> {
        let held = std::mem::take(&mut self.held);
        if self.is_thinking() {
            held.into_iter().for_each(|c| out.thought(c));
            return Vec::new();
        }
        held
    }
}

/// The characters behind white space.
fn solid(held: &[Char]) -> impl Iterator<Item = char> {
    held.iter().map(|c| c.0).skip_while(|c| c.is_whitespace())
}

/// Whether the characters are white space and the beginning of a marker.
pub(super) fn may_become(held: &[Char], marker: &str) -> bool {
    let mut marker = marker.chars();
    solid(held).all(|c| marker.next() == Some(c))
}

/// Whether the characters are white space and a marker.
pub(super) fn is(held: &[Char], marker: &str) -> bool {
    solid(held).eq(marker.chars())
}

//! Answers back to messages: thoughts, text and calls of tools, told apart while an answer is being written.
//!
//! A character goes through one reader after the other: `thoughts` takes what a model thinks, `calls` what it calls, the rest is
//! the answer's text. Readers go on character by character, so what comes out does not depend on how the text was cut. What
//! looked like a call and is none stays text.

mod calls;
mod forced;
mod formats;
mod harmony;
mod json;
mod python;
mod scan;
mod tags;
mod thoughts;

pub use forced::CallRules;
pub(crate) use forced::inline as inline_schema;
pub(super) use formats::{Body, Format};

use super::{ChatTemplate, RenderOptions};
use crate::tokenizer::Tokenizer;
use calls::Calls;
use harmony::Harmony;
use serde_json::Value;
use thoughts::{Tags, Thoughts};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text that is for the user.
    Text(String),
    /// What the model thinks before it answers.
    Thought(String),
    /// A call of this tool begins; its arguments follow.
    Call(String),
    /// A piece of the last call's arguments. Together the pieces are JSON, as far as the model wrote JSON.
    Arguments(String),
}

/// A part, and whether the text that it was made of was marked.
pub type Marked = (Part, bool);

/// A character, and whether it is marked.
type Char = (char, bool);

/// Parts on their way out; neighbours of one kind are joined.
#[derive(Debug, Default)]
struct Out(Vec<Marked>);

impl Out {
    fn text(&mut self, c: Char) {
        match self.0.last_mut() {
            Some((Part::Text(text), marked)) if *marked == c.1 => text.push(c.0),
            _ => self.0.push((Part::Text(c.0.into()), c.1)),
        }
    }

    fn thought(&mut self, c: Char) {
        match self.0.last_mut() {
            Some((Part::Thought(text), marked)) if *marked == c.1 => text.push(c.0),
            _ => self.0.push((Part::Thought(c.0.into()), c.1)),
        }
    }

    fn call(&mut self, name: &str) {
        self.0.push((Part::Call(name.to_owned()), false));
    }

    fn arguments(&mut self, piece: &str) {
        match self.0.last_mut() {
            Some((Part::Arguments(text), _)) => text.push_str(piece),
            _ => self.0.push((Part::Arguments(piece.to_owned()), false)),
        }
    }
}

/// Reads one answer, as it is written, into parts.
#[derive(Clone, Debug)]
pub struct AnswerReader {
    /// Of answers in several messages; the others have what follows.
    harmony: Option<Harmony>,
    thoughts: Option<Thoughts>,
    calls: Option<Calls>,
    markers: Vec<&'static str>,
    stop: Option<&'static str>,
}

impl ChatTemplate {
    /// A reader of the answer to `prompt`, by what the template writes of thoughts and calls and, where it writes neither, what
    /// tokens there are. Calls are read where there are tools: `options` are those that the prompt was made with.
    pub fn answer_reader(&self, tokenizer: &Tokenizer, options: &RenderOptions<'_>, prompt: &str) -> AnswerReader {
        let has = |text: &str| tokenizer.token(text).is_some();
        let format = self.call_format(options, &has);
        if let Some(format) = format.filter(|format| format.body == Body::Harmony) {
            return AnswerReader::new(None, Some(format), options.tools, prompt);
        }
        let tags = thoughts::TAGS.iter().find(|tags| self.source().contains(tags.close.trim()) || has(tags.close));
        AnswerReader::new(tags, format.filter(|_| options.tools.is_some()), options.tools, prompt)
    }
}

impl ChatTemplate {
    /// Whether the template has anything to do with thoughts.
    pub(super) fn thinks(&self) -> bool {
        let marks = thoughts::TAGS.iter().map(|tags| tags.close.trim()).chain(["<|channel|>analysis"]);
        marks.into_iter().any(|mark| self.source().contains(mark))
    }
}

impl AnswerReader {
    fn new(
        tags: Option<&'static Tags>,
        format: Option<&'static Format>,
        tools: Option<&Value>,
        prompt: &str,
    ) -> AnswerReader {
        let markers = tags.into_iter().flat_map(|tags| [tags.open.trim(), tags.close]);
        let markers = markers.chain(format.into_iter().flat_map(Format::markers)).collect();
        let (harmony, calls) = match format {
            Some(format) if format.body == Body::Harmony => (Some(Harmony::default()), None),
            _ => (None, format.map(|format| Calls::new(format, tools.cloned().unwrap_or_default()))),
        };
        let thoughts = tags.map(|tags| Thoughts::new(tags, prompt));
        AnswerReader { harmony, thoughts, calls, markers, stop: format.and_then(|format| format.stop) }
    }

    /// Texts that parts are told apart by. Where one of them is a token, it has to be shown to the reader, even if it is a control
    /// token.
    pub fn markers(&self) -> &[&'static str] {
        &self.markers
    }

    /// A text that ends the answer: behind its calls the model would make their results up.
    pub fn stop(&self) -> Option<&'static str> {
        self.stop
    }

    /// What a thought begins with, what it ends with, and what ends one that would go on, with the header of the answer where a
    /// grammar does not ask for it (`grammar`); nothing where the model has no thoughts that can be told apart.
    pub(crate) fn thought_marks(&self, grammar: bool) -> Option<[&'static str; 3]> {
        let tags = match &self.harmony {
            Some(_) => &harmony::THOUGHT,
            None => self.thoughts.as_ref()?.tags,
        };
        let cut = if grammar && self.harmony.is_some() { tags.close } else { tags.cut };
        Some([tags.open, tags.close, cut])
    }

    /// Whether the model is in a thought.
    pub fn is_thinking(&self) -> bool {
        let tagged = self.thoughts.as_ref().is_some_and(Thoughts::is_thinking);
        self.harmony.as_ref().map_or(tagged, Harmony::is_thinking)
    }

    /// Takes more of the answer; `marked` comes back with what is made of it. Returns what is certain.
    pub fn push(&mut self, text: &str, marked: bool) -> Vec<Marked> {
        let mut out = Out::default();
        for c in text.chars().map(|c| (c, marked)) {
            match (&mut self.harmony, &mut self.thoughts) {
                (Some(harmony), _) => harmony.push(c, &mut out),
                (None, Some(thoughts)) => {
                    thoughts.push(c, &mut out).into_iter().for_each(|c| answer(&mut self.calls, c, &mut out));
                }
                (None, None) => answer(&mut self.calls, c, &mut out),
            }
        }
        out.0
    }

    /// The answer is over: what was held back.
    pub fn finish(&mut self) -> Vec<Marked> {
        let mut out = Out::default();
        self.harmony.iter_mut().for_each(|harmony| harmony.finish(&mut out));
        let rest = self.thoughts.as_mut().map(|thoughts| thoughts.finish(&mut out));
        rest.into_iter().flatten().for_each(|c| answer(&mut self.calls, c, &mut out));
        self.calls.iter_mut().for_each(|calls| calls.finish(&mut out));
        out.0
    }
}

/// A character that is not of a thought.
fn answer(calls: &mut Option<Calls>, c: Char, out: &mut Out) {
    match calls {
        Some(calls) => calls.push(c, out),
        None => out.text(c),
    }
}

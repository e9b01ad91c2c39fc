//! One choice of an answer: its text becomes the message that OpenAI's API has for it.

use super::super::{FinishReason, TokenEvent};
use crate::chat::{AnswerPart, AnswerReader};
use foldhash::fast::FixedState;
use serde_json::{Map, Value, json};
use std::hash::BuildHasher;
use std::ops::Range;

/// A choice under way.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Tells thoughts and calls from text; a completion is all text.
    reader: Option<AnswerReader>,
    /// Whether calls behind the first are left out.
    one_call: bool,
    /// Calls so far.
    calls: usize,
    /// Makes the ids of calls differ from those of other answers.
    salt: u64,
    /// Whether there was a chunk.
    pub(super) begun: bool,
    /// Tokens of thoughts.
    pub(super) reasoning_tokens: usize,
    pub(super) logprobs: Option<Vec<Value>>,
    pub(super) finish: Option<FinishReason>,
    message: Whole,
}

/// The whole message, where no chunks are wanted.
#[derive(Debug, Default)]
struct Whole {
    text: String,
    thoughts: String,
    /// Id, name and arguments.
    calls: Vec<(String, String, String)>,
}

/// What a piece of an answer adds to its message.
#[derive(Debug)]
pub(super) enum Delta {
    Text(String),
    Thought(String),
    Call { index: usize, id: String, name: String },
    Arguments { index: usize, text: String },
}

impl Delta {
    /// As a field of a chunk's `delta`.
    pub(super) fn field(self) -> (&'static str, Value) {
        match self {
            Delta::Text(text) => ("content", text.into()),
            Delta::Thought(text) => ("reasoning_content", text.into()),
            Delta::Call { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                ("tool_calls", json!([{"index": index, "id": id, "type": "function", "function": function}]))
            }
            Delta::Arguments { index, text } => {
                ("tool_calls", json!([{"index": index, "function": {"arguments": text}}]))
            }
        }
    }
}

impl Choice {
    /// Choice `index` of answer `id`.
    pub(super) fn new(id: &str, index: usize, logprobs: bool, one_call: bool) -> Self {
        let salt = FixedState::default().hash_one((id, index));
        Choice { logprobs: logprobs.then(Vec::new), one_call, salt, ..Choice::default() }
    }

    pub(super) fn read_by(&mut self, reader: Option<AnswerReader>) {
        self.reader = reader;
    }

    /// Takes a token in; its deltas, and whether accepted guesses wrote them.
    pub(super) fn token(&mut self, token: &TokenEvent) -> Vec<(Delta, bool)> {
        let thinking = self.is_thinking();
        let deltas = self.text(&token.text, &token.accepted);
        self.reasoning_tokens += usize::from(thinking && self.is_thinking());
        deltas
    }

    fn is_thinking(&self) -> bool {
        self.reader.as_ref().is_some_and(AnswerReader::is_thinking)
    }

    /// Takes the last text in.
    pub(super) fn end(&mut self, text: &str, accepted: &[Range<usize>], finish: FinishReason) -> Vec<(Delta, bool)> {
        let mut deltas = self.text(text, accepted);
        let rest = self.reader.as_mut().map(AnswerReader::finish).unwrap_or_default();
        deltas.extend(rest.into_iter().filter_map(|(part, accepted)| Some((self.delta(part)?, accepted))));
        self.finish = Some(finish);
        deltas
    }

    fn text(&mut self, text: &str, accepted: &[Range<usize>]) -> Vec<(Delta, bool)> {
        let mut deltas = Vec::new();
        for (piece, accepted) in pieces(text, accepted) {
            let Some(reader) = &mut self.reader else {
                deltas.push((Delta::Text(piece.to_owned()), accepted));
                continue;
            };
            let parts = reader.push(piece, accepted);
            deltas.extend(parts.into_iter().filter_map(|(part, accepted)| Some((self.delta(part)?, accepted))));
        }
        deltas
    }

    fn delta(&mut self, part: AnswerPart) -> Option<Delta> {
        let wanted = |calls: usize, one: bool| !(one && calls > 1);
        match part {
            AnswerPart::Text(text) => Some(Delta::Text(text)),
            AnswerPart::Thought(text) => Some(Delta::Thought(text)),
            AnswerPart::Call(name) => {
                self.calls += 1;
                let index = self.calls - 1;
                wanted(self.calls, self.one_call).then(|| Delta::Call { index, id: self.call_id(index), name })
            }
            AnswerPart::Arguments(text) => {
                let index = self.calls.saturating_sub(1);
                wanted(self.calls, self.one_call).then_some(Delta::Arguments { index, text })
            }
        }
    }

    /// Nine letters and digits: the only ids that Mistral's templates take.
    fn call_id(&self, index: usize) -> String {
        let mut rest = FixedState::default().hash_one((self.salt, index));
        let mut letter = || {
            let digit = (rest % 36) as u32;
            rest /= 36;
            char::from_digit(digit, 36).unwrap_or('0')
        };
        (0..9).map(|_| letter()).collect()
    }

    /// Adds a delta to the whole message.
    pub(super) fn add(&mut self, delta: Delta) {
        let Whole { text, thoughts, calls } = &mut self.message;
        match delta {
            Delta::Text(piece) => text.push_str(&piece),
            Delta::Thought(piece) => thoughts.push_str(&piece),
            Delta::Call { id, name, .. } => calls.push((id, name, String::new())),
            Delta::Arguments { text, .. } => {
                if let Some((_, _, arguments)) = calls.last_mut() {
                    arguments.push_str(&text);
                }
            }
        }
    }

    /// The text of a completion.
    pub(super) fn take_text(&mut self) -> String {
        std::mem::take(&mut self.message.text)
    }

    /// The message of a chat completion.
    pub(super) fn take_message(&mut self) -> Value {
        let Whole { text, thoughts, calls } = std::mem::take(&mut self.message);
        let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.into();
        }
        if !calls.is_empty() {
            let call = |(id, name, arguments): (String, String, String)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            message["tool_calls"] = calls.into_iter().map(call).collect();
        }
        message
    }

    /// Says in a choice of a chunk or response why it ended.
    pub(super) fn say_why(&self, choice: &mut Value) {
        choice["finish_reason"] = match self.finish {
            Some(FinishReason::Stop | FinishReason::Concluded) if self.calls > 0 => "tool_calls".into(),
            Some(reason) => reason.name().into(),
            None => Value::Null,
        };
        if matches!(self.finish, Some(FinishReason::Repetition | FinishReason::Concluded)) {
            choice["stop_reason"] = "repetition".into();
        }
    }

    /// The `delta` of a chunk.
    pub(super) fn delta_object(&mut self, delta: Option<Delta>) -> Map<String, Value> {
        let mut object = Map::new();
        let begun = std::mem::replace(&mut self.begun, true);
        if !begun {
            object.insert("role".into(), "assistant".into());
        }
        match delta {
            Some(delta) => {
                let (name, value) = delta.field();
                object.insert(name.into(), value);
            }
            None if !begun => _ = object.insert("content".into(), "".into()),
            None => {}
        }
        object
    }
}

/// Cuts a text into pieces that accepted guesses wrote (`true`), and such that they did not.
fn pieces<'a>(text: &'a str, accepted: &[Range<usize>]) -> Vec<(&'a str, bool)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for stretch in accepted {
        pieces.push((&text[at..stretch.start], false));
        pieces.push((&text[stretch.clone()], true));
        at = stretch.end;
    }
    pieces.push((&text[at..], false));
    pieces.retain(|(piece, _)| !piece.is_empty());
    pieces
}

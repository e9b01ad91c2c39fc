//! Calls of tools, between texts.

use super::formats::{Body, Format};
use super::json::Json;
use super::thoughts::{is, may_become};
use super::{Char, Out, python, tags};
use serde_json::Value;

/// Takes calls out of an answer's text. White space around calls goes with them.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    format: &'static Format,
    /// As the request has them.
    tools: Value,
    state: State,
    /// White space, what may become a marker, and in calls all that no part was made of yet.
    held: Vec<Char>,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but white space since the answer's beginning, or since a call.
    Before {
        call: bool,
    },
    Text,
    /// In calls that are read as they come.
    Json(Json),
    /// In calls that are read once they are whole.
    Whole(String),
}

/// What a character was to calls that are read as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of them; it is not known yet what becomes of it.
    Held,
    /// Of them, and so was all that was held.
    Used,
    /// The last one.
    Last,
    /// Behind them.
    Behind,
    /// The sign that there is no call.
    Failed,
}

/// A call: the tool's name, and its arguments as JSON.
pub(super) type Call = (String, String);

impl Calls {
    pub(super) fn new(format: &'static Format, tools: Value) -> Self {
        Calls { format, tools, state: State::Before { call: false }, held: Vec::new() }
    }

    pub(super) fn push(&mut self, c: Char, out: &mut Out) {
        match &mut self.state {
            State::Before { .. } | State::Text => self.push_text(c, out),
            State::Whole(text) => {
                self.held.push(c);
                text.push(c.0);
                if let Some(text) = text.strip_suffix(self.format.end) {
                    let calls = whole(self.format, text, &self.tools);
                    self.over(calls, out);
                }
            }
            State::Json(json) => {
                self.held.push(c);
                let tools = (self.format.body == Body::BareJson).then_some(&self.tools);
                match json.push(c.0, tools, out) {
                    Step::Held => {}
                    Step::Used => self.held.clear(),
                    Step::Last => {
                        self.held.clear();
                        self.state = State::Before { call: true };
                    }
                    Step::Behind => {
                        self.held.clear();
                        self.state = State::Before { call: true };
                        self.push_text(c, out);
                    }
                    Step::Failed => {
                        // It may begin another marker.
                        self.held.pop();
                        self.give_back(out);
                        self.push_text(c, out);
                    }
                }
            }
        }
    }

    /// A character outside of calls.
    fn push_text(&mut self, c: Char, out: &mut Out) {
        let bare = self.format.body == Body::BareJson;
        let between = matches!(self.state, State::Before { call: true });
        self.held.push(c);
        if bare && matches!(self.state, State::Before { .. }) && is(&self.held, "{") {
            return self.begin(Some(c.0), out);
        }
        // Llama writes several calls with these between them.
        if bare && between && is(&self.held, ";") {
            return self.held.clear();
        }
        while !self.format.begin.iter().any(|marker| may_become(&self.held, marker)) {
            let first = self.held.remove(0);
            if !(between && first.0.is_whitespace()) {
                self.state = State::Text;
                out.text(first);
            }
        }
        if self.format.begin.iter().any(|marker| is(&self.held, marker)) {
            self.begin(None, out);
        }
    }

    fn begin(&mut self, first: Option<char>, out: &mut Out) {
        self.state = match self.format.body {
            Body::Json | Body::BareJson => {
                let mut json = Json::new(self.format.end);
                if let Some(c) = first {
                    json.push(c, None, out);
                }
                State::Json(json)
            }
            _ => State::Whole(String::new()),
        };
    }

    /// What was to be calls is whole: calls, or text.
    fn over(&mut self, calls: Option<Vec<Call>>, out: &mut Out) {
        let Some(calls) = calls else { return self.give_back(out) };
        self.held.clear();
        self.state = State::Before { call: true };
        for (name, arguments) in calls {
            out.call(&name);
            out.arguments(&arguments);
        }
    }

    /// What was held is text.
    fn give_back(&mut self, out: &mut Out) {
        self.state = State::Text;
        self.held.drain(..).for_each(|c| out.text(c));
    }

    pub(super) fn finish(&mut self, out: &mut Out) {
        match &mut self.state {
            State::Whole(text) => {
                let calls = whole(self.format, text, &self.tools);
                self.over(calls, out);
            }
            State::Json(json) => {
                if json.finish(out) {
                    self.held.clear();
                }
                self.give_back(out);
            }
            State::Before { call: true } if self.held.iter().all(|c| c.0.is_whitespace()) => self.held.clear(),
            _ => self.give_back(out),
        }
    }
}

/// The calls in a text of a format that is read when it is whole; `None` where it is something else.
fn whole(format: &Format, text: &str, tools: &Value) -> Option<Vec<Call>> {
    let calls = match format.body {
        Body::Tags => tags::calls(text, tools)?,
        Body::Python => python::calls(text)?,
        Body::Quoted(quote) => python::quoted_calls(text, quote)?,
        _ => return None,
    };
    (!calls.is_empty()).then_some(calls)
}

/// The function of this name in a request's tools.
pub(super) fn function<'a>(tools: &'a Value, name: &str) -> Option<&'a Value> {
    let functions = tools.as_array().into_iter().flatten().map(|tool| &tool["function"]);
    functions.into_iter().find(|function| function["name"] == name)
}

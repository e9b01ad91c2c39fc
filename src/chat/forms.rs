//! What a template reads of values that come in several forms, found out by rendering small conversations.
//!
//! Words in a template's text say little: a name may be set, passed to a macro, or mentioned in a comment. Each probe
//! renders a conversation whose words occur nowhere else and looks for them. Probes run when a conversation first needs
//! their answer, on the fuel of any rendering, and are kept.

use super::answer::Format;
use super::message::Message;
use super::{ChatTemplate, RenderOptions};
use crate::error::{Error, Result};
use serde_json::Value;
use std::sync::OnceLock;

/// A word that no template holds, and that no escaping, trimming or change of case touches.
pub(super) const MARKER: &str = "xqzvkwj";

/// The forms in which a template is given a conversation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forms {
    /// Every content is a list of parts.
    pub(super) parts: bool,
    /// A list of parts stays one, else its texts are joined.
    pub(super) keeps_parts: bool,
    /// Beside tool calls, an absent content is none, else an empty string.
    pub(super) none: bool,
    /// The arguments of tool calls.
    pub(super) arguments: Arguments,
    /// By which name the thoughts of a message are given, if they are.
    pub(super) thoughts: Option<&'static str>,
}

/// The form of a tool call's arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arguments {
    AsGiven,
    /// Strings that hold a JSON object become the object.
    Object,
    /// Objects become strings of JSON.
    Text,
}

impl Forms {
    const PLAIN: Forms = Forms {
        parts: false,
        keeps_parts: false,
        none: false,
        arguments: Arguments::Object,
        thoughts: Some(THOUGHTS[0]),
    };
}

/// What the probes of one template said so far.
#[derive(Default)]
pub(super) struct Probes {
    content: OnceLock<Contents>,
    calls: OnceLock<Forms>,
    system: OnceLock<bool>,
    tools: OnceLock<bool>,
    system_tools: OnceLock<bool>,
    switches: OnceLock<[bool; SWITCHES.len()]>,
    format: OnceLock<Option<&'static Format>>,
    thoughts: OnceLock<&'static str>,
}

/// In which forms of content the words of a user get into the prompt.
#[derive(Clone, Copy)]
struct Contents {
    text: bool,
    parts: bool,
}

/// Names that templates have for the switch between thinking and answering at once.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

/// Names that templates have for what an assistant thought.
pub(super) const THOUGHTS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// The name of OpenAI's field for how much a model thinks, which some templates know as a variable.
const EFFORT: &str = "reasoning_effort";

impl ChatTemplate {
    /// Whether the words of a user get into the prompt at all.
    pub(super) fn shows_users(&self) -> bool {
        let Contents { text, parts } = self.contents();
        text || parts
    }

    /// Whether the template shows users' words, but passes over a system message in front of them.
    pub(super) fn drops_system(&self) -> bool {
        *self.probes.system.get_or_init(|| {
            let messages = [Message::new("system", MARKER), Message::new("user", "hello")];
            let prompt = self.fill(&messages, &PROBE, self.content_forms());
            self.shows_users() && prompt.is_ok_and(|prompt| !shows(&prompt, MARKER))
        })
    }

    /// Whether the prompt depends on the tools.
    pub(super) fn knows_tools(&self) -> bool {
        *self.probes.tools.get_or_init(|| {
            let tools = tools();
            let messages = [Message::new("user", MARKER)];
            let with = |tools| self.fill(&messages, &RenderOptions { tools, ..PROBE }, self.content_forms());
            // A template that wants more of a tool than this one has says so when it is given the caller's.
            with(Some(&tools)).map_or(true, |with_tools| with(None).map_or(true, |without| with_tools != without))
        })
    }

    /// Whether the template reads tools from the system message (Phi-4-mini).
    pub(super) fn reads_tools_of_system(&self) -> bool {
        *self.probes.system_tools.get_or_init(|| {
            let mut system = Message::new("system", "xqz");
            system.more.insert("tools".into(), MARKER.into());
            let messages = [system, Message::new("user", "xqz")];
            self.fill(&messages, &PROBE, self.content_forms()).is_ok_and(|prompt| shows(&prompt, MARKER))
        })
    }

    /// The forms to give these messages in: first what the probes say, then what may be tried when that fails.
    pub(super) fn forms_of(&self, messages: &[Message]) -> Vec<Forms> {
        let calls = messages.iter().any(|m| m.calls().is_some());
        let mut first = if calls { self.call_forms() } else { self.content_forms() };
        let thoughts = messages.iter().any(|m| m.thoughts().is_some());
        if thoughts {
            first.thoughts = Some(self.thoughts());
        }
        let mut forms = vec![first];
        if calls {
            let others = [Arguments::Object, Arguments::Text].into_iter().filter(|form| *form != first.arguments);
            forms.extend(others.map(|arguments| Forms { arguments, ..first }));
            forms.push(Forms { none: !first.none, ..first });
        }
        if thoughts {
            forms.push(Forms { thoughts: None, ..first });
        }
        let Contents { text, parts } = self.contents();
        // A template that reads texts and prints lists has no other form.
        if parts || !text {
            forms.push(Forms { parts: !first.parts, keeps_parts: !first.parts, ..first });
        }
        forms
    }

    /// The caller's variables, the switch for thinking under the name that the template knows.
    pub(super) fn switched(&self, variables: &serde_json::Map<String, Value>) -> Option<(&'static str, Value)> {
        let (given, value) = SWITCHES.iter().enumerate().find_map(|(i, name)| Some((i, variables.get(*name)?)))?;
        let known = self.probes.switches.get_or_init(|| SWITCHES.map(|name| self.switches(name)));
        let (name, _) = SWITCHES.iter().zip(known).find(|(name, known)| **known && !variables.contains_key(**name))?;
        (!known.get(given)?).then(|| (*name, value.clone()))
    }

    /// The variables by which this template is told how much the model thinks, beside those that the caller has: an `effort`
    /// of OpenAI's API, of which `none` is not at all.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] where nothing about it can be told.
    pub(crate) fn with_effort(
        &self,
        effort: &str,
        mut variables: serde_json::Map<String, Value>,
    ) -> Result<serde_json::Map<String, Value>> {
        let (low, high) = (Value::from("low"), Value::from("high"));
        let known = self.differs(EFFORT, low, high);
        let switch = SWITCHES.into_iter().find(|name| self.switches(name));
        if known && !variables.contains_key(EFFORT) {
            variables.insert(EFFORT.to_owned(), effort.into());
        }
        if let Some(switch) = switch.filter(|_| !SWITCHES.iter().any(|name| variables.contains_key(*name))) {
            variables.insert(switch.to_owned(), (effort != "none").into());
        }
        // What does not think need not be kept from it.
        if !known && switch.is_none() && (effort != "none" || self.thinks()) {
            return Err(Error::invalid_request(
                "the model's chat template has no switch for thinking; how long it reasons can be limited by \
                 thinking_token_budget",
            ));
        }
        Ok(variables)
    }

    /// By which name the template reads what an assistant thought.
    fn thoughts(&self) -> &'static str {
        self.probes.thoughts.get_or_init(|| {
            let reads = |name: &'static str| {
                [THOUGHT_AND_CALL, THOUGHT_AND_ANSWER].iter().any(|conversation| {
                    let messages = conversation.replace("THOUGHTS", name);
                    let messages: Vec<Message> = serde_json::from_str(&messages).unwrap_or_default();
                    let tools = tools();
                    let options = RenderOptions { tools: Some(&tools), add_generation_prompt: false, variables: None };
                    let calls = messages.iter().any(|m| m.calls().is_some());
                    let forms = if calls { self.call_forms() } else { self.content_forms() };
                    let prompt = self.fill(&messages, &options, Forms { thoughts: Some(name), ..forms });
                    prompt.is_ok_and(|prompt| shows(&prompt, MARKER))
                })
            };
            THOUGHTS.into_iter().find(|name| reads(name)).unwrap_or(THOUGHTS[0])
        })
    }

    fn switches(&self, name: &str) -> bool {
        self.differs(name, true.into(), false.into())
    }

    /// Whether two values of a variable make two prompts.
    fn differs(&self, name: &str, one: Value, other: Value) -> bool {
        let messages = [Message::new("user", MARKER)];
        let with = |value: Value| {
            let variables = serde_json::Map::from_iter([(name.to_owned(), value)]);
            let options = RenderOptions { variables: Some(&variables), ..PROBE };
            self.fill(&messages, &options, self.content_forms()).ok()
        };
        with(one) != with(other)
    }

    fn contents(&self) -> Contents {
        *self.probes.content.get_or_init(|| {
            let messages = [Message::new("user", MARKER)];
            let shown = |forms| self.fill(&messages, &PROBE, forms).is_ok_and(|prompt| shows(&prompt, MARKER));
            let parts = self.fill(&messages, &PROBE, Forms { parts: true, ..Forms::PLAIN });
            Contents {
                text: shown(Forms::PLAIN),
                // A template that prints the list itself does not know parts.
                parts: parts.is_ok_and(|p| shows(&p, MARKER) && !p.contains("'type'") && !p.contains("\"type\"")),
            }
        })
    }

    fn content_forms(&self) -> Forms {
        let Contents { text, parts } = self.contents();
        Forms { parts: parts && !text, keeps_parts: parts, ..Forms::PLAIN }
    }

    fn call_forms(&self) -> Forms {
        *self.probes.calls.get_or_init(|| {
            let first = Forms { arguments: Arguments::AsGiven, ..self.content_forms() };
            let render = |arguments: &str, none| self.fill_call(arguments, Forms { none, ..first });
            // Printed, an object comes out as Python writes it; written as JSON once more, a string has its quotes escaped.
            let reads = |arguments: &str, is: &dyn Fn(&str) -> bool| {
                [false, true].iter().any(|none| render(arguments, *none).is_some_and(|prompt| is(&prompt)))
            };
            let reads_object = reads(OBJECT, &|prompt| prompt.contains("xqzvalue") && !prompt.contains("'xqzkey'"));
            let as_given = !reads_object && reads(TEXT, &|prompt| prompt.contains("\"xqzkey\""));
            let arguments = if as_given { Arguments::AsGiven } else { Arguments::Object };
            let nones = |prompt: &str| prompt.matches("None").count() + prompt.matches("null").count();
            let shows_call = |prompt: &str| prompt.contains("xqzname");
            let arguments_given = if as_given { TEXT } else { OBJECT };
            let none = match (render(arguments_given, true), render(arguments_given, false)) {
                (Some(none), Some(empty)) => shows_call(&none) >= shows_call(&empty) && nones(&none) <= nones(&empty),
                (none, _) => none.is_some(),
            };
            Forms { none, arguments, ..first }
        })
    }

    /// How the model writes calls of tools; `has` says whether it has a token.
    pub(super) fn call_format(
        &self,
        options: &RenderOptions<'_>,
        has: &dyn Fn(&str) -> bool,
    ) -> Option<&'static Format> {
        let find = |variables| Format::find(&self.shown_call(variables), has);
        match options.variables {
            Some(_) => find(options.variables),
            None => *self.probes.format.get_or_init(|| find(None)),
        }
    }

    /// How the template writes a conversation with tools and a call.
    fn shown_call(&self, variables: Option<&serde_json::Map<String, Value>>) -> String {
        let messages: Vec<Message> = serde_json::from_str(&CALL.replace("ARGUMENTS", OBJECT)).unwrap_or_default();
        let tools = tools();
        let options = RenderOptions { tools: Some(&tools), variables, ..PROBE };
        let forms = self.forms_of(&messages).into_iter();
        forms.filter_map(|forms| self.fill(&messages, &options, forms).ok()).next().unwrap_or_default()
    }

    /// The prompt of a call with these arguments and no content.
    fn fill_call(&self, arguments: &str, forms: Forms) -> Option<String> {
        let messages = CALL.replace("ARGUMENTS", arguments);
        let messages: Vec<Message> = serde_json::from_str(&messages).ok()?;
        let tools = tools();
        self.fill(&messages, &RenderOptions { tools: Some(&tools), ..PROBE }, forms).ok()
    }
}

const CALL: &str = r#"[{"role": "user", "content": "xqzvkwj"}, {"role": "assistant", "content": null, "tool_calls":
    [{"id": "abcdefghi", "type": "function", "function": {"name": "xqzname", "arguments": ARGUMENTS}}]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "xqzname", "content": "xqzresult"}]"#;
const THOUGHT_AND_CALL: &str = r#"[{"role": "user", "content": "xqz"}, {"role": "assistant", "content": null,
    "THOUGHTS": "xqzvkwj", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "xqzname",
    "arguments": {"xqzkey": "xqzvalue"}}}]}, {"role": "tool", "tool_call_id": "abcdefghi", "name": "xqzname",
    "content": "xqzresult"}]"#;
const THOUGHT_AND_ANSWER: &str =
    r#"[{"role": "user", "content": "xqz"}, {"role": "assistant", "content": "xqzanswer", "THOUGHTS": "xqzvkwj"}]"#;
const OBJECT: &str = r#"{"xqzkey": "xqzvalue"}"#;
const TEXT: &str = r#""{\"xqzkey\": \"xqzvalue\"}""#;
const TOOLS: &str = r#"[{"type": "function", "function": {"name": "xqzname", "description": "xqzdescription", "parameters":
    {"type": "object", "properties": {"xqzkey": {"type": "string", "description": "xqz"}}, "required": ["xqzkey"]}}}]"#;
const PROBE: RenderOptions = RenderOptions { tools: None, add_generation_prompt: true, variables: None };

fn tools() -> Value {
    serde_json::from_str(TOOLS).unwrap_or_default()
}

/// Whether the words are in the prompt, whatever their case.
pub(super) fn shows(prompt: &str, words: &str) -> bool {
    prompt.contains(words) || prompt.to_lowercase().contains(words)
}

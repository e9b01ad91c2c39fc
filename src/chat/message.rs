//! One message of a conversation, in OpenAI's form.

use super::forms::{Arguments, Forms, THOUGHTS};
use super::json::{Style, to_json};
use crate::error::{Error, Result};
use minijinja::value::{Serde, Value};
use serde::{Deserialize, Serialize};

/// A message of a conversation, in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What is said; nothing for an assistant that only calls tools.
    #[serde(default)]
    pub content: Content,
    /// Everything else, such as `tool_calls`, `tool_call_id` and `name`.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, of which only `{"type": "text", "text": …}` are understood.
    Parts(Vec<Part>),
    /// Nothing.
    None(()),
}

impl Default for Content {
    fn default() -> Self {
        Content::None(())
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `text`, `image_url`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Content {
    /// The text; parts are joined by line ends.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for parts that are no text.
    pub fn text(&self) -> Result<String> {
        match self {
            Content::Text(text) => Ok(text.clone()),
            Content::None(()) => Ok(String::new()),
            Content::Parts(parts) => Ok(parts.iter().map(Part::text).collect::<Result<Vec<&str>>>()?.join("\n")),
        }
    }

    /// The content as a template with these forms reads it; `calls`: beside tool calls.
    fn to_value(&self, calls: bool, forms: Forms) -> Result<Value> {
        let part = |text: &str| Value::from_pairs([("type", "text"), ("text", text)]);
        match self {
            Content::None(()) if calls && forms.none => Ok(Value::from(())),
            Content::Text(text) if forms.parts => Ok(Value::from(vec![part(text)])),
            Content::Parts(parts) if forms.parts || forms.keeps_parts => {
                Ok(Value::from(parts.iter().map(|p| p.text().map(part)).collect::<Result<Vec<Value>>>()?))
            }
            other => other.text().map(Value::from),
        }
    }
}

impl Part {
    fn text(&self) -> Result<&str> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            (kind, _) => {
                Err(Error::invalid_request(format!("a message has a part of type {kind}; Foreword reads text only")))
            }
        }
    }
}

impl Message {
    /// A message of plain text.
    pub fn new(role: &str, text: impl Into<String>) -> Self {
        Message { role: role.to_string(), content: Content::Text(text.into()), more: serde_json::Map::new() }
    }

    pub(super) fn is_system(&self) -> bool {
        self.role == "system"
    }

    /// The calls of tools; an empty list is none.
    pub(super) fn calls(&self) -> Option<&[serde_json::Value]> {
        self.more.get("tool_calls")?.as_array().map(Vec::as_slice).filter(|calls| !calls.is_empty())
    }

    /// What an assistant thought before it said this, whichever name it comes by.
    pub(super) fn thoughts(&self) -> Option<&serde_json::Value> {
        THOUGHTS.iter().find_map(|name| self.more.get(*name)).filter(|thoughts| !thoughts.is_null())
    }

    /// The message as templates see it: what is absent or null is undefined.
    pub(super) fn to_value(&self, forms: Forms) -> Result<Value> {
        let calls = self.calls();
        let mut fields = vec![
            ("role", Value::from(self.role.as_str())),
            ("content", self.content.to_value(calls.is_some(), forms)?),
        ];
        let as_given = |key: &str| key != "tool_calls" && !THOUGHTS.contains(&key);
        for (key, value) in self.more.iter().filter(|(key, value)| !value.is_null() && as_given(key)) {
            fields.push((key, Value::from(Serde(value))));
        }
        if let (Some(name), Some(thoughts)) = (forms.thoughts, self.thoughts()) {
            fields.push((name, Value::from(Serde(thoughts))));
        }
        if let Some(calls) = calls {
            let calls: Vec<Value> = calls.iter().map(|call| tool_call(call.clone(), forms.arguments)).collect();
            fields.push(("tool_calls", Value::from(calls)));
        }
        Ok(Value::from_pairs(fields))
    }
}

/// A call with its arguments in the form that the template reads.
fn tool_call(mut call: serde_json::Value, form: Arguments) -> Value {
    let place = if call.get("function").is_some() { "/function/arguments" } else { "/arguments" };
    if let Some(arguments) = call.pointer_mut(place) {
        match arguments {
            serde_json::Value::String(text) if form == Arguments::Object => {
                if let Ok(object @ serde_json::Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            serde_json::Value::Object(_) if form == Arguments::Text => {
                if let Ok(text) = to_json(&Value::from(Serde(&*arguments)), &Style::DENSE) {
                    *arguments = text.into();
                }
            }
            _ => {}
        }
    }
    Value::from(Serde(&call))
}

/// The conversation with tools in its system message, as JSON: their functions, without what is around them.
pub(super) fn with_tools(messages: &[Message], tools: &serde_json::Value) -> Vec<Message> {
    let mut with = messages.to_vec();
    if !messages.first().is_some_and(Message::is_system) {
        with.insert(0, Message::new("system", ""));
    }
    let functions = tools.as_array().into_iter().flatten().map(|tool| tool.get("function").unwrap_or(tool).clone());
    let functions = serde_json::Value::Array(functions.collect()).to_string();
    if let Some(system) = with.first_mut() {
        system.more.insert("tools".into(), functions.into());
    }
    with
}

/// The conversation with its system message in front of the first user message's text; `None` where it does not begin with
/// the one or has none of the other.
pub(super) fn merge_system(messages: &[Message]) -> Option<Vec<Message>> {
    let (system, rest) = messages.split_first().filter(|(first, _)| first.is_system())?;
    let system = system.content.text().ok()?;
    let mut merged = rest.to_vec();
    let user = merged.iter_mut().find(|message| message.role == "user")?;
    user.content = Content::Text(format!("{system}\n\n{}", user.content.text().ok()?));
    Some(merged)
}

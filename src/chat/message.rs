//! One message of a conversation, in OpenAI's form.

use super::Wants;
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
            Content::Parts(parts) => {
                let texts: Result<Vec<&str>> = parts
                    .iter()
                    .map(|part| match (part.kind.as_str(), &part.text) {
                        ("text", Some(text)) => Ok(text.as_str()),
                        (kind, _) => Err(Error::invalid_request(format!(
                            "a message has a part of type {kind}; Foreword reads text only"
                        ))),
                    })
                    .collect();
                Ok(texts?.join("\n"))
            }
        }
    }
}

impl Message {
    /// A message of plain text.
    pub fn new(role: &str, text: impl Into<String>) -> Self {
        Message { role: role.to_string(), content: Content::Text(text.into()), more: serde_json::Map::new() }
    }

    /// The message as templates see it: what is absent or null is undefined, and content is a string, or none beside tool
    /// calls where the template knows that.
    pub(super) fn to_value(&self, wants: Wants) -> Result<Value> {
        let calls = self.more.get("tool_calls").and_then(|calls| calls.as_array());
        let content = match &self.content {
            Content::None(()) if calls.is_some() && wants.no_content => Value::from(()),
            content => Value::from(content.text()?),
        };
        let mut fields = vec![("role", Value::from(self.role.as_str())), ("content", content)];
        for (key, value) in self.more.iter().filter(|(key, value)| !value.is_null() && key.as_str() != "tool_calls") {
            fields.push((key, Value::from(Serde(value))));
        }
        if let Some(calls) = calls {
            let calls: Vec<Value> = calls.iter().map(|call| tool_call(call.clone(), wants.object_arguments)).collect();
            fields.push(("tool_calls", Value::from(calls)));
        }
        Ok(Value::from_pairs(fields))
    }
}

/// A call with its arguments as an object or as a string of JSON, as the template wants them.
fn tool_call(mut call: serde_json::Value, object_arguments: bool) -> Value {
    if let Some(arguments) = call.pointer_mut("/function/arguments") {
        match arguments {
            serde_json::Value::String(text) if object_arguments => {
                if let Ok(object @ serde_json::Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            serde_json::Value::Object(_) if !object_arguments => *arguments = arguments.to_string().into(),
            _ => {}
        }
    }
    Value::from(Serde(&call))
}

/// The conversation with its system message in front of the first user message's text; `None` where it does not begin with
/// those two.
pub(super) fn merge_system(messages: &[Message]) -> Option<Vec<Message>> {
    let [system, user, rest @ ..] = messages else { return None };
    if system.role != "system" || user.role != "user" {
        return None;
    }
    let (system, mut first) = (system.content.text().ok()?, user.clone());
    first.content = Content::Text(format!("{system}\n\n{}", user.content.text().ok()?));
    Some(std::iter::once(first).chain(rest.iter().cloned()).collect())
}

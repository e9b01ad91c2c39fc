//! Messages and tools of a request.

use super::fields::{flag, list, object, only_if, text, wrong};
use crate::chat::{CallRules, ChatTemplate, Message};
use crate::error::Result;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// The roles of OpenAI's API.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

pub(super) fn messages(value: &Value, at: &str) -> Result<Vec<Message>> {
    list(value, at)?.map(|(one, at)| message(one, &at)).collect()
}

fn message(value: &Value, at: &str) -> Result<Message> {
    object(value, at)?;
    let role_at = format!("{at}.role");
    only_if(!value["role"].is_null(), &role_at, "is missing")?;
    text(&value["role"], &role_at)?;
    let content_at = format!("{at}.content");
    let calls = value["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
    match &value["content"] {
        Value::Null => only_if(calls, &content_at, "is missing; only a message with tool_calls may have none")?,
        Value::String(_) => {}
        Value::Array(_) => list(&value["content"], &content_at)?.try_for_each(|(part, at)| check_part(part, &at))?,
        _ => return Err(wrong(content_at, "is neither text nor a list of parts")),
    }
    for (name, what) in [("function_call", "give tool_calls instead"), ("audio", "Foreword reads text only")] {
        only_if(value[name].is_null(), &format!("{at}.{name}"), what)?;
    }
    Message::deserialize(value).map_err(|e| wrong(at, e))
}

/// Parts of a message are text.
fn check_part(part: &Value, at: &str) -> Result<()> {
    object(part, at)?;
    let (kind_at, text_at) = (format!("{at}.type"), format!("{at}.text"));
    let kind = text(&part["type"], &kind_at)?;
    only_if(kind == "text", &kind_at, &format!("{kind} is not read, only text"))?;
    text(&part["text"], &text_at).map(|_| ())
}

/// The text of OpenAI's predicted output.
pub(super) fn prediction(value: &Value) -> Result<String> {
    object(value, "prediction")?;
    let kind_at = "prediction.type";
    only_if(text(&value["type"], kind_at)? == "content", kind_at, "must be \"content\"")?;
    let content_at = "prediction.content";
    match &value["content"] {
        Value::String(text) => Ok(text.clone()),
        parts => {
            let texts = list(parts, content_at)?.map(|(part, at)| {
                check_part(part, &at)?;
                Ok(part["text"].as_str().unwrap_or_default())
            });
            texts.collect()
        }
    }
}

/// Tools in the form that templates know; an empty list is none.
pub(super) fn tools(value: &Value) -> Result<Option<Value>> {
    if value.as_array().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let mut names = HashSet::new();
    for (tool, at) in list(value, "tools")? {
        object(tool, &at)?;
        only_if(tool["type"] == "function", &format!("{at}.type"), "must be \"function\"")?;
        let (function, at) = (&tool["function"], format!("{at}.function"));
        object(function, &at)?;
        let name = text(&function["name"], format!("{at}.name"))?;
        only_if(names.insert(name), &format!("{at}.name"), &format!("another tool has the name {name:?}, too"))?;
        let strict = &function["strict"];
        let _ = strict.is_null() || flag(strict, format!("{at}.strict"))?;
    }
    Ok(Some(value.clone()))
}

/// The first tool whose arguments are to fit its schema.
pub(super) fn first_strict(tools: &Value) -> Option<usize> {
    tools.as_array()?.iter().position(|tool| tool["function"]["strict"] == true)
}

/// Which calls an answer makes; none for `"auto"`, which says nothing of them.
pub(super) fn tool_choice(value: &Value) -> Result<Option<CallRules>> {
    let required = |names: Vec<String>, one: bool| Some(CallRules { names, one, required: true });
    match (value.as_str(), value["type"].as_str()) {
        (Some("auto"), _) => Ok(None),
        (Some("required"), _) => Ok(required(Vec::new(), false)),
        (None, Some("function")) => {
            let name = text(&value["function"]["name"], "tool_choice.function.name")?;
            Ok(required(vec![name.to_owned()], true))
        }
        (None, Some("allowed_tools")) => allowed_tools(&value["allowed_tools"]).map(Some),
        _ => Err(wrong(
            "tool_choice",
            r#"must be "auto", "none", "required", {"type": "function", "function": {"name": …}} or {"type": "allowed_tools", …}"#,
        )),
    }
}

/// Calls of some of the tools only.
fn allowed_tools(value: &Value) -> Result<CallRules> {
    let at = "tool_choice.allowed_tools";
    object(value, at)?;
    let mode_at = format!("{at}.mode");
    let mode = text(&value["mode"], &mode_at)?;
    only_if(["auto", "required"].contains(&mode), &mode_at, "must be \"auto\" or \"required\"")?;
    let name =
        |(tool, at): (&Value, String)| Ok(text(&tool["function"]["name"], format!("{at}.function.name"))?.into());
    let names = list(&value["tools"], &format!("{at}.tools"))?.map(name).collect::<Result<_>>()?;
    Ok(CallRules { names, one: false, required: mode == "required" })
}

/// Refuses roles of the messages `at` a field that are neither OpenAI's nor named in the template. Where it does not know developers, they are the system.
pub(super) fn check_roles(messages: &mut [Message], at: &str, template: &ChatTemplate) -> Result<()> {
    let source = template.source();
    let named = |role: &str| ['\'', '"'].iter().any(|quote| source.contains(&format!("{quote}{role}{quote}")));
    for (i, message) in messages.iter_mut().enumerate() {
        let role = message.role.as_str();
        if role == "developer" && !named(role) {
            message.role = "system".to_string();
        } else if role.is_empty() || !(ROLES.contains(&role) || named(role)) {
            let what = format!("there is no role {role:?}; there are {}", ROLES.join(", "));
            return Err(wrong(format!("{at}[{i}].role"), what));
        }
    }
    Ok(())
}

//! A request in the JSON of OpenAI's responses becomes one for a chat completion.

use crate::serve::refusal::Refusal;
use serde_json::{Map, Value, json};

/// The body of the chat completion that a request asks for, behind the messages `before`. Fields that are not of this interface
/// are passed on: the engine's service has settings of its own, and refuses the rest.
pub(super) fn chat(fields: &Map<String, Value>, before: Vec<Value>) -> Result<Value, Refusal> {
    let mut body = json!({"stream": true});
    let mut messages = before;
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "input" => add_input(value, &mut messages)?,
            "max_output_tokens" => body["max_tokens"] = value.clone(),
            "tools" => {
                let tools = list(value, name)?.iter().enumerate().map(|(i, one)| tool(one, &format!("tools[{i}]")));
                body["tools"] = tools.collect::<Result<_, _>>()?;
            }
            "tool_choice" if value.is_object() => body["tool_choice"] = tool_choice(value)?,
            "text" => {
                if let Some(format) = response_format(&value["format"]) {
                    body["response_format"] = format;
                }
                body["verbosity"] = value["verbosity"].clone();
            }
            "reasoning" => body["reasoning_effort"] = value["effort"].clone(),
            "truncation" => match value.as_str() {
                Some("auto") => body["overflow"] = "shift".into(),
                Some("disabled") => {}
                _ => return Err(Refusal::field(name, "must be \"auto\" or \"disabled\"")),
            },
            "context_management" => {
                let none = value.as_array().is_some_and(Vec::is_empty);
                neutral(none, name, "nothing is left out of what a request says")?;
            }
            "image" => neutral(false, name, "answers are text; no image is made")?,
            "access_programs" | "background_options" => neutral(false, name, "this is OpenAI's own")?,
            "background" => neutral(value == false, name, "answers are made while their client waits")?,
            "conversation" | "prompt" => {
                neutral(false, name, "nothing is stored here but responses; give previous_response_id")?;
            }
            // The server's own business, or what changes nothing.
            "instructions"
            | "previous_response_id"
            | "store"
            | "stream"
            | "stream_options"
            | "include"
            | "max_tool_calls" => {}
            _ => body[name] = value.clone(),
        }
    }
    if let Some(instructions) = fields.get("instructions").filter(|value| !value.is_null()) {
        messages.insert(0, json!({"role": "system", "content": instructions}));
    }
    body["messages"] = messages.into();
    Ok(body)
}

fn neutral(is: bool, at: &str, what: &str) -> Result<(), Refusal> {
    if is { Ok(()) } else { Err(Refusal::field(at, what)) }
}

/// Adds a text, or items, to the conversation.
fn add_input(input: &Value, messages: &mut Vec<Value>) -> Result<(), Refusal> {
    if input.is_string() {
        messages.push(json!({"role": "user", "content": input}));
        return Ok(());
    }
    for (i, item) in list(input, "input")?.iter().enumerate() {
        let at = format!("input[{i}]");
        match item["type"].as_str().unwrap_or("message") {
            "message" => messages.push(json!({"role": item["role"], "content": text_of(&item["content"], &at)?})),
            "function_call" => {
                let function = json!({"name": item["name"], "arguments": item["arguments"]});
                add_call(json!({"id": item["call_id"], "type": "function", "function": function}), messages);
            }
            "function_call_output" => {
                let output = text_of(&item["output"], &at)?;
                messages.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": output}));
            }
            // Models read their earlier thoughts no more.
            "reasoning" => {}
            kind => return Err(Refusal::field(format!("{at}.type"), &format!("{kind} is not read"))),
        }
    }
    Ok(())
}

/// Adds a call to the assistant's last message, or to one of its own.
pub(super) fn add_call(call: Value, messages: &mut Vec<Value>) {
    let last = messages.last_mut().filter(|last| last["role"] == "assistant");
    match last.map(|last| &mut last["tool_calls"]) {
        Some(Value::Array(calls)) => calls.push(call),
        Some(calls) => *calls = json!([call]),
        None => messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
    }
}

/// A text, or those of parts.
fn text_of(value: &Value, at: &str) -> Result<String, Refusal> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let mut all = String::new();
    for (i, part) in list(value, &format!("{at}.content"))?.iter().enumerate() {
        let kind = part["type"].as_str().unwrap_or_default();
        let text = part["text"].as_str().filter(|_| matches!(kind, "input_text" | "output_text" | "text"));
        let what = format!("{kind:?} is not read, only text");
        all.push_str(text.ok_or_else(|| Refusal::field(format!("{at}.content[{i}]"), &what))?);
    }
    Ok(all)
}

/// A tool: its fields lie beside its type here.
fn tool(tool: &Value, at: &str) -> Result<Value, Refusal> {
    if tool["type"] != "function" {
        return Err(Refusal::field(format!("{at}.type"), "must be \"function\""));
    }
    let mut function = tool.as_object().cloned().unwrap_or_default();
    function.remove("type");
    function.retain(|_, value| !value.is_null());
    Ok(json!({"type": "function", "function": function}))
}

/// Which calls an answer makes: names lie beside their types here.
fn tool_choice(choice: &Value) -> Result<Value, Refusal> {
    let named = |tool: &Value| json!({"type": "function", "function": {"name": tool["name"]}});
    match choice["type"].as_str() {
        Some("function") => Ok(named(choice)),
        Some("allowed_tools") => {
            let at = "tool_choice.tools";
            let tools = list(&choice["tools"], at)?;
            if let Some(i) = tools.iter().position(|tool| tool["type"] != "function" || !tool["name"].is_string()) {
                return Err(Refusal::field(format!("{at}[{i}]"), r#"must be {"type": "function", "name": …}"#));
            }
            let tools: Vec<Value> = tools.iter().map(named).collect();
            Ok(json!({"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}}))
        }
        _ => Err(Refusal::field("tool_choice.type", "must be \"function\" or \"allowed_tools\"")),
    }
}

/// The form of an answer: its fields lie beside its type here.
fn response_format(format: &Value) -> Option<Value> {
    let mut fields = format.as_object()?.clone();
    let kind = fields.remove("type").unwrap_or_default();
    Some(if kind == "json_schema" { json!({"type": kind, "json_schema": fields}) } else { json!({"type": kind}) })
}

fn list<'a>(value: &'a Value, at: &str) -> Result<&'a Vec<Value>, Refusal> {
    value.as_array().ok_or_else(|| Refusal::field(at, "must be text or a list"))
}

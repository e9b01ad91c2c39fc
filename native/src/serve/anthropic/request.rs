//! A request in Anthropic's JSON becomes one for a chat completion.

use crate::serve::refusal::Refusal;
use serde_json::{Map, Value, json};

/// The body of the chat completion that a request asks for. Fields that are not of this interface are passed on: the engine's
/// service has settings of its own, and refuses the rest.
pub(super) fn chat(fields: &Map<String, Value>) -> Result<Value, Refusal> {
    let mut messages = Vec::new();
    let mut body = json!({"stream": true});
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let mut put = |name: &str, value: &Value| body[name] = value.clone();
        match name.as_str() {
            "model" | "max_tokens" | "temperature" | "top_p" | "top_k" => put(name, value),
            "stop_sequences" => put("stop", value),
            "system" => messages.insert(0, json!({"role": "system", "content": text_of(value, name)?})),
            "messages" => {
                for (i, message) in list(value, name)?.iter().enumerate() {
                    add_message(message, &format!("messages[{i}]"), &mut messages)?;
                }
            }
            "tools" => {
                let tools = list(value, name)?.iter().enumerate().map(|(i, one)| tool(one, &format!("tools[{i}]")));
                put("tools", &tools.collect::<Result<_, _>>()?);
            }
            "tool_choice" => {
                let choice = match value["type"].as_str() {
                    Some(kind @ ("auto" | "none")) => kind.into(),
                    Some("any") => "required".into(),
                    _ => json!({"type": "function", "function": {"name": value["name"]}}),
                };
                put("tool_choice", &choice);
                if value["disable_parallel_tool_use"] == true {
                    put("parallel_tool_calls", &false.into());
                }
            }
            "thinking" => {
                let thinks = value["type"] != "disabled";
                put("chat_template_kwargs", &json!({"enable_thinking": thinks}));
                if thinks {
                    put("thinking_token_budget", &value["budget_tokens"]);
                }
            }
            "output_config" => {
                if !value["format"].is_null() {
                    put("response_format", &response_format(&value["format"])?);
                }
            }
            // Said to Anthropic's service, or the server's business.
            "stream" | "metadata" | "service_tier" => {}
            _ => put(name, value),
        }
    }
    body["messages"] = messages.into();
    Ok(body)
}

/// Adds the messages that one of Anthropic's is: results of tools have messages of their own.
fn add_message(message: &Value, at: &str, messages: &mut Vec<Value>) -> Result<(), Refusal> {
    let role = message["role"].as_str().ok_or_else(|| Refusal::field(format!("{at}.role"), "must be text"))?;
    if !matches!(role, "user" | "assistant" | "system") {
        return Err(Refusal::field(format!("{at}.role"), "must be \"user\" or \"assistant\""));
    }
    let at = format!("{at}.content");
    if message["content"].is_string() {
        messages.push(json!({"role": role, "content": message["content"]}));
        return Ok(());
    }
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for (i, block) in list(&message["content"], &at)?.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let field =
            |name: &str| block[name].as_str().ok_or_else(|| Refusal::field(format!("{at}.{name}"), "must be text"));
        match field("type")? {
            "text" => text.push_str(field("text")?),
            "thinking" => thoughts.push_str(field("thinking")?),
            "redacted_thinking" => {}
            "tool_use" => {
                let function = json!({"name": field("name")?, "arguments": block["input"].to_string()});
                calls.push(json!({"id": field("id")?, "type": "function", "function": function}));
            }
            "tool_result" => {
                let content = if block["content"].is_null() { String::new() } else { text_of(&block["content"], &at)? };
                messages.push(json!({"role": "tool", "tool_call_id": field("tool_use_id")?, "content": content}));
            }
            kind => return Err(Refusal::field(format!("{at}.type"), &format!("{kind} is not read, only text"))),
        }
    }
    let mut own = json!({"role": role, "content": text});
    if !thoughts.is_empty() {
        own["reasoning_content"] = thoughts.into();
    }
    if !calls.is_empty() {
        own["tool_calls"] = calls.into();
    }
    // A message of results only says nothing besides.
    if own["content"] != "" || own.as_object().is_some_and(|own| own.len() > 2) || role == "assistant" {
        messages.push(own);
    }
    Ok(())
}

/// A text, or those of blocks.
fn text_of(value: &Value, at: &str) -> Result<String, Refusal> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let mut all = String::new();
    for (i, block) in list(value, at)?.iter().enumerate() {
        let text = block["text"].as_str().filter(|_| block["type"] == "text");
        all.push_str(text.ok_or_else(|| Refusal::field(format!("{at}[{i}]"), "must be text; nothing else is read"))?);
    }
    Ok(all)
}

fn tool(tool: &Value, at: &str) -> Result<Value, Refusal> {
    if !tool["type"].is_null() && tool["type"] != "custom" {
        return Err(Refusal::field(format!("{at}.type"), "only tools of the caller's own are there"));
    }
    let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
    if !tool["description"].is_null() {
        function["description"] = tool["description"].clone();
    }
    Ok(json!({"type": "function", "function": function}))
}

fn response_format(format: &Value) -> Result<Value, Refusal> {
    if format["type"] != "json_schema" {
        return Err(Refusal::field("output_config.format.type", "must be \"json_schema\""));
    }
    Ok(json!({"type": "json_schema", "json_schema": {"name": "output", "schema": format["schema"], "strict": true}}))
}

fn list<'a>(value: &'a Value, at: &str) -> Result<&'a Vec<Value>, Refusal> {
    value.as_array().ok_or_else(|| Refusal::field(at, "must be a list"))
}

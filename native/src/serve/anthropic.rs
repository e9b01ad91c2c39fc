//! Anthropic's addresses: requests become chat completions, and their chunks become a message and its events.

mod request;

use super::app::{App, Fields, model_of};
use super::dialect::{Dialect, Event, Piece, Whole, streamed, whole};
use super::host::new_id;
use super::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn messages(State(app): State<Arc<App>>, Fields(fields): Fields) -> Result<Response, Refusal> {
    let stream = fields.get("stream") == Some(&true.into());
    if fields.get("max_tokens").is_none_or(Value::is_null) {
        return Err(Refusal::field("max_tokens", "is missing"));
    }
    let mut body = request::chat(&fields)?;
    let model = model_of(&body)?.or(app.models.ids().next()).unwrap_or_default().to_string();
    let answer = match app.ask(body.clone(), false).await {
        // A model that has no thoughts keeps to every budget of them.
        Err(refusal) if refusal.param() == Some("thinking_token_budget") => {
            body["thinking_token_budget"] = Value::Null;
            app.ask(body, false).await?
        }
        outcome => outcome?,
    };
    let message = Message::new(model);
    if stream { Ok(streamed(answer, message)) } else { whole(answer, message).await }
}

pub(super) async fn count_tokens(State(app): State<Arc<App>>, Fields(fields): Fields) -> Result<Response, Refusal> {
    let mut body = request::chat(&fields)?;
    body["thinking_token_budget"] = Value::Null;
    let model = model_of(&body)?.map(str::to_owned);
    let n = app.prepare(model.as_deref(), move |preparer| preparer.count_tokens(&body)).await?;
    Ok(Json(json!({"input_tokens": n})).into_response())
}

/// A message that is being written.
struct Message {
    id: String,
    model: String,
    /// Blocks so far; the last one may be open.
    content: Vec<Value>,
    /// Whether the last block is open.
    open: bool,
    stop_reason: Value,
    usage: Value,
}

impl Message {
    fn new(model: String) -> Self {
        let usage = usage(&Value::Null);
        Message {
            id: format!("msg_{}", new_id()),
            model,
            content: Vec::new(),
            open: false,
            stop_reason: Value::Null,
            usage,
        }
    }

    /// The message as far as it is there.
    fn value(&self) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": self.content,
            "stop_reason": self.stop_reason, "stop_sequence": null, "usage": self.usage,
        })
    }

    /// Adds text to the block of a kind, which is begun where another one is open.
    fn add(&mut self, kind: &str, delta: &str, text: &str, events: &mut Vec<Event>) {
        if !self.open || self.content.last().is_none_or(|block| block["type"] != kind) {
            let mut block = json!({"type": kind});
            block[kind] = "".into();
            if kind == "thinking" {
                // Nobody vouches for thoughts here.
                block["signature"] = "".into();
            }
            self.begin_block(block, events);
        }
        let index = self.content.len() - 1;
        append(&mut self.content[index][kind], text);
        let mut change = json!({"type": delta});
        change[kind] = text.into();
        events.push(Event::new(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": index, "delta": change}),
        ));
    }

    fn begin_block(&mut self, block: Value, events: &mut Vec<Event>) {
        self.end_block(events);
        let index = self.content.len();
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        events.push(Event::new("content_block_start", &start));
        self.content.push(block);
        self.open = true;
    }

    fn end_block(&mut self, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let index = self.content.len() - 1;
        let block = &mut self.content[index];
        if block["type"] == "tool_use" {
            block["input"] = input(&block["input"]);
        }
        events.push(Event::new("content_block_stop", &json!({"type": "content_block_stop", "index": index})));
    }

    fn piece(&mut self, piece: Piece, events: &mut Vec<Event>) {
        match piece {
            Piece::Thought(text) => self.add("thinking", "thinking_delta", &text, events),
            Piece::Text(text) => self.add("text", "text_delta", &text, events),
            Piece::Call { id, name } => {
                self.begin_block(json!({"type": "tool_use", "id": id, "name": name, "input": {}}), events);
            }
            Piece::Arguments(text) => {
                let Some(index) = self.content.len().checked_sub(1) else { return };
                append(&mut self.content[index]["input"], &text);
                let delta = json!({"type": "input_json_delta", "partial_json": text});
                let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
                events.push(Event::new("content_block_delta", &delta));
            }
            Piece::Finish(reason) => {
                self.stop_reason = match reason.as_str() {
                    "length" => "max_tokens".into(),
                    "tool_calls" => "tool_use".into(),
                    _ => "end_turn".into(),
                };
            }
            Piece::Usage(of) => self.usage = usage(&of),
        }
    }
}

impl Dialect for Message {
    fn begin(&mut self) -> Vec<Event> {
        vec![Event::new("message_start", &json!({"type": "message_start", "message": self.value()}))]
    }

    fn chunk(&mut self, chunk: &Value) -> Vec<Event> {
        let mut events = Vec::new();
        Piece::of(chunk).into_iter().for_each(|piece| self.piece(piece, &mut events));
        events
    }

    fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.end_block(&mut events);
        let delta = json!({"stop_reason": self.stop_reason, "stop_sequence": null});
        let delta = json!({"type": "message_delta", "delta": delta, "usage": self.usage});
        events.push(Event::new("message_delta", &delta));
        events.push(Event::new("message_stop", &json!({"type": "message_stop"})));
        events
    }

    fn fail(&mut self, refusal: &Refusal) -> Vec<Event> {
        vec![Event::new("error", &refusal.anthropic())]
    }
}

impl Whole for Message {
    fn whole(&mut self) -> Value {
        self.value()
    }
}

/// Appends to a text; what is none yet becomes one.
fn append(to: &mut Value, text: &str) {
    match to {
        Value::String(all) => all.push_str(text),
        other => *other = text.into(),
    }
}

/// The arguments of a call as an object, which this interface demands; other texts are its `arguments`.
fn input(arguments: &Value) -> Value {
    let Some(text) = arguments.as_str() else { return json!({}) };
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields.into(),
        _ => json!({"arguments": text}),
    }
}

/// Anthropic's counts: those of the prompt that were in the cache are apart.
fn usage(of: &Value) -> Value {
    let count = |path: &str| of.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let cached = count("/prompt_tokens_details/cached_tokens");
    json!({
        "input_tokens": count("/prompt_tokens").saturating_sub(cached), "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0, "output_tokens": count("/completion_tokens"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::dialect::tests::{calling, names};

    #[test]
    fn thoughts_and_calls_are_blocks_of_their_own() {
        let mut message = Message::new("m".into());
        let mut events = message.begin();
        calling().iter().for_each(|chunk| events.extend(message.chunk(chunk)));
        events.extend(message.end());
        let (begin, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
        let blocks = [begin, delta, stop, begin, delta, stop, begin, delta, delta, stop, begin, stop];
        assert_eq!(names(&events), [&["message_start"][..], &blocks, &["message_delta", "message_stop"]].concat());
        let whole = message.whole();
        assert_eq!(whole["stop_reason"], "tool_use");
        let content = json!([
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Look:"},
            {"type": "tool_use", "id": "a1", "name": "add", "input": {"x": 1}},
            {"type": "tool_use", "id": "a2", "name": "now", "input": {}},
        ]);
        assert_eq!(whole["content"], content);
        let usage = json!({
            "input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 5,
        });
        assert_eq!(whole["usage"], usage);
    }

    #[test]
    fn a_turn_with_tools_becomes_a_chat() {
        let ask = json!({
            "model": "m", "max_tokens": 9, "system": "S", "stop_sequences": ["x"], "stream": false,
            "tools": [{"name": "add", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"},
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "T", "signature": ""},
                    {"type": "tool_use", "id": "a1", "name": "add", "input": {"x": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a1", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "And?"},
                ]},
            ],
        });
        let body = request::chat(ask.as_object().expect("fields")).expect("a chat");
        let call = json!({"id": "a1", "type": "function", "function": {"name": "add", "arguments": "{\"x\":1}"}});
        let messages = json!([
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "", "reasoning_content": "T", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a1", "content": "2"},
            {"role": "user", "content": "And?"},
        ]);
        assert_eq!(body["messages"], messages);
        let tool = json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}});
        assert_eq!((&body["tools"], &body["tool_choice"]), (&json!([tool]), &"required".into()));
        assert_eq!((&body["stop"], &body["max_tokens"]), (&json!(["x"]), &9.into()));
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (ask, at) in [
            (json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "messages[0].content[0].type"),
            (json!({"messages": [{"content": "a"}]}), "messages[0].role"),
            (json!({"messages": 1}), "messages"),
            (json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}), "tools[0].type"),
        ] {
            let refusal = request::chat(ask.as_object().expect("fields")).expect_err("a refusal");
            assert_eq!(refusal.param(), Some(at));
        }
    }
}

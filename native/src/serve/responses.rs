//! OpenAI's responses: requests become chat completions, and their chunks become a response and its events.

mod request;
mod store;

pub(super) use store::Stored;

use super::app::{App, Fields, model_of};
use super::dialect::{Dialect, Event, Piece, Whole, streamed, whole};
use super::host::new_id;
use super::refusal::Refusal;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::SystemTime;

pub(super) async fn create(State(app): State<Arc<App>>, Fields(fields): Fields) -> Result<Response, Refusal> {
    let stream = fields.get("stream") == Some(&true.into());
    let before = match fields.get("previous_response_id").filter(|id| !id.is_null()) {
        Some(id) => app.stored.get(id.as_str().unwrap_or_default()).ok_or_else(|| unknown(id))?.messages,
        None => Vec::new(),
    };
    if fields.get("input").is_none_or(Value::is_null) {
        return Err(Refusal::field("input", "is missing"));
    }
    let body = request::chat(&fields, before)?;
    let model = model_of(&body)?.or(app.models.ids().next()).unwrap_or_default().to_string();
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let answer = app.ask(body, false).await?;
    let written = Written::new(Some(Arc::clone(&app)), fields, &model, messages);
    if stream { Ok(streamed(answer, written)) } else { whole(answer, written).await }
}

pub(super) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    Ok(Json(app.stored.get(&id).ok_or_else(|| unknown(&id.into()))?.response))
}

pub(super) async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match app.stored.remove(&id) {
        true => Ok(Json(json!({"id": id, "object": "response", "deleted": true}))),
        false => Err(unknown(&id.into())),
    }
}

fn unknown(id: &Value) -> Refusal {
    let message = format!("there is no response {id} here; responses are kept in memory, the latest ones");
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// A response that is being written.
struct Written {
    /// Where it is kept.
    stored: Option<Arc<App>>,
    /// As its client sees it, but for its output.
    response: Value,
    /// The items so far.
    output: Vec<Value>,
    /// The conversation, this answer included in the end.
    messages: Vec<Value>,
    /// Numbers of events.
    sequence: u64,
    /// Whether the last item is open.
    open: bool,
}

impl Written {
    fn new(app: Option<Arc<App>>, fields: Map<String, Value>, model: &str, mut messages: Vec<Value>) -> Self {
        let instructed = fields.get("instructions").is_some_and(|value| !value.is_null());
        if instructed {
            messages.remove(0);
        }
        let given = |name: &str, otherwise: Value| {
            fields.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(otherwise)
        };
        let store = given("store", true.into()) == true;
        let created = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let response = json!({
            "id": format!("resp_{}", new_id()), "object": "response", "created_at": created, "status": "in_progress",
            "background": false, "error": null, "incomplete_details": null, "model": model,
            "instructions": given("instructions", Value::Null), "metadata": given("metadata", json!({})),
            "max_output_tokens": given("max_output_tokens", Value::Null),
            "parallel_tool_calls": given("parallel_tool_calls", true.into()),
            "previous_response_id": given("previous_response_id", Value::Null),
            "reasoning": given("reasoning", json!({"effort": null, "summary": null})), "store": store,
            "temperature": given("temperature", Value::Null), "top_p": given("top_p", Value::Null),
            "text": given("text", json!({"format": {"type": "text"}})),
            "tool_choice": given("tool_choice", "auto".into()), "tools": given("tools", json!([])),
            "truncation": given("truncation", "disabled".into()), "usage": null, "user": given("user", Value::Null),
        });
        Written { stored: app.filter(|_| store), response, output: Vec::new(), messages, sequence: 0, open: false }
    }

    fn event(&mut self, name: &'static str, mut data: Value, events: &mut Vec<Event>) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        events.push(Event::new(name, &data));
    }

    fn whole_event(&mut self, name: &'static str, events: &mut Vec<Event>) {
        let response = self.whole();
        self.event(name, json!({"response": response}), events);
    }

    /// An event about the last item.
    fn item_event(&mut self, name: &'static str, fields: Value, events: &mut Vec<Event>) {
        let (index, id) = (self.output.len() - 1, self.output.last().map(|item| item["id"].clone()));
        let mut data = json!({"item_id": id, "output_index": index});
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        self.event(name, data, events);
    }

    fn begin_item(&mut self, item: Value, events: &mut Vec<Event>) {
        self.end_item(events);
        self.output.push(item.clone());
        let index = self.output.len() - 1;
        self.event("response.output_item.added", json!({"output_index": index, "item": item}), events);
        self.open = true;
    }

    /// Adds text to the item of a kind, which is begun where another one is open.
    fn add(&mut self, kind: Kind, text: &str, events: &mut Vec<Event>) {
        if !self.open || self.output.last().is_none_or(|item| item["type"] != kind.item()) {
            self.begin_item(kind.begin(), events);
            self.output.last_mut().into_iter().for_each(|item| item["content"] = json!([kind.part("")]));
            let part = json!({"content_index": 0, "part": kind.part("")});
            self.item_event("response.content_part.added", part, events);
        }
        if let Some(Value::String(all)) = self.output.last_mut().map(|item| &mut item["content"][0]["text"]) {
            all.push_str(text);
        }
        let mut delta = json!({"content_index": 0, "delta": text});
        kind.with_logprobs(&mut delta);
        self.item_event(kind.events().0, delta, events);
    }

    fn end_item(&mut self, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Some(item) = self.output.last_mut() else { return };
        item["status"] = "completed".into();
        let item = item.clone();
        if item["type"] == "function_call" {
            let fields = json!({"arguments": item["arguments"], "name": item["name"]});
            self.item_event("response.function_call_arguments.done", fields, events);
        } else {
            let kind = if item["type"] == "message" { Kind::Text } else { Kind::Thought };
            let part = &item["content"][0];
            let mut done = json!({"content_index": 0, "text": part["text"]});
            kind.with_logprobs(&mut done);
            self.item_event(kind.events().1, done, events);
            self.item_event("response.content_part.done", json!({"content_index": 0, "part": part}), events);
        }
        let index = self.output.len() - 1;
        self.event("response.output_item.done", json!({"output_index": index, "item": item}), events);
    }

    fn piece(&mut self, piece: Piece, events: &mut Vec<Event>) {
        match piece {
            Piece::Thought(text) => self.add(Kind::Thought, &text, events),
            Piece::Text(text) => self.add(Kind::Text, &text, events),
            Piece::Call { id, name } => {
                let item = json!({
                    "id": format!("fc_{}", new_id()), "type": "function_call", "status": "in_progress",
                    "call_id": id, "name": name, "arguments": "",
                });
                self.begin_item(item, events);
            }
            Piece::Arguments(text) => {
                if let Some(Value::String(all)) = self.output.last_mut().map(|item| &mut item["arguments"]) {
                    all.push_str(&text);
                    self.item_event("response.function_call_arguments.delta", json!({"delta": text}), events);
                }
            }
            Piece::Finish(reason) if reason == "length" => {
                self.response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            Piece::Finish(_) => {}
            Piece::Usage(usage) => {
                let count = |path: &str| usage.pointer(path).cloned().unwrap_or(0.into());
                self.response["usage"] = json!({
                    "input_tokens": count("/prompt_tokens"),
                    "input_tokens_details": {"cached_tokens": count("/prompt_tokens_details/cached_tokens")},
                    "output_tokens": count("/completion_tokens"),
                    "output_tokens_details": {
                        "reasoning_tokens": count("/completion_tokens_details/reasoning_tokens"),
                    },
                    "total_tokens": count("/total_tokens"),
                });
            }
        }
    }

    /// Keeps the response, and the conversation for those who go on from it.
    fn keep(&mut self, stored: &Stored) {
        for item in &self.output {
            match item["type"].as_str() {
                Some("message") => {
                    self.messages.push(json!({"role": "assistant", "content": item["content"][0]["text"]}));
                }
                Some("function_call") => {
                    let function = json!({"name": item["name"], "arguments": item["arguments"]});
                    let call = json!({"id": item["call_id"], "type": "function", "function": function});
                    request::add_call(call, &mut self.messages);
                }
                _ => {}
            }
        }
        stored.keep(self.whole(), std::mem::take(&mut self.messages));
    }
}

impl Dialect for Written {
    fn begin(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.whole_event("response.created", &mut events);
        self.whole_event("response.in_progress", &mut events);
        events
    }

    fn chunk(&mut self, chunk: &Value) -> Vec<Event> {
        let mut events = Vec::new();
        Piece::of(chunk).into_iter().for_each(|piece| self.piece(piece, &mut events));
        events
    }

    fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.end_item(&mut events);
        let whole = self.response["incomplete_details"].is_null();
        self.response["status"] = if whole { "completed" } else { "incomplete" }.into();
        self.whole_event(if whole { "response.completed" } else { "response.incomplete" }, &mut events);
        if let Some(app) = self.stored.take() {
            self.keep(&app.stored);
        }
        events
    }

    fn fail(&mut self, refusal: &Refusal) -> Vec<Event> {
        let mut events = Vec::new();
        self.response["status"] = "failed".into();
        self.response["error"] = json!({"code": "server_error", "message": refusal.message});
        self.whole_event("response.failed", &mut events);
        events
    }
}

impl Whole for Written {
    fn whole(&mut self) -> Value {
        let mut response = self.response.clone();
        response["output"] = self.output.clone().into();
        response
    }
}

/// Items that are text.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Thought,
}

impl Kind {
    fn item(self) -> &'static str {
        match self {
            Kind::Text => "message",
            Kind::Thought => "reasoning",
        }
    }

    fn begin(self) -> Value {
        match self {
            Kind::Text => json!({
                "id": format!("msg_{}", new_id()), "type": "message", "status": "in_progress", "role": "assistant",
                "content": [],
            }),
            Kind::Thought => json!({
                "id": format!("rs_{}", new_id()), "type": "reasoning", "status": "in_progress", "summary": [],
                "content": [],
            }),
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Kind::Text => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
            Kind::Thought => json!({"type": "reasoning_text", "text": text}),
        }
    }

    /// Names of the events for a piece and for the end.
    fn events(self) -> (&'static str, &'static str) {
        match self {
            Kind::Text => ("response.output_text.delta", "response.output_text.done"),
            Kind::Thought => ("response.reasoning_text.delta", "response.reasoning_text.done"),
        }
    }

    /// Events of texts have a list of log-probabilities, which is empty.
    fn with_logprobs(self, data: &mut Value) {
        if let Kind::Text = self {
            data["logprobs"] = json!([]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::dialect::tests::{calling, names};

    #[test]
    fn thoughts_texts_and_calls_are_items_of_their_own() {
        let fields = json!({"input": "Q", "tools": []});
        let mut written = Written::new(None, fields.as_object().cloned().expect("fields"), "m", Vec::new());
        let mut events = written.begin();
        calling().iter().for_each(|chunk| events.extend(written.chunk(chunk)));
        events.extend(written.end());
        let (added, done) = ("response.output_item.added", "response.output_item.done");
        let (part, part_done) = ("response.content_part.added", "response.content_part.done");
        let text =
            |kind| [added, part, if kind { "response.reasoning_text.delta" } else { "response.output_text.delta" }];
        let end =
            |kind| [if kind { "response.reasoning_text.done" } else { "response.output_text.done" }, part_done, done];
        let (piece, whole) = ("response.function_call_arguments.delta", "response.function_call_arguments.done");
        let wanted = [
            &["response.created", "response.in_progress"][..],
            &text(true),
            &end(true),
            &text(false),
            &end(false),
            &[added, piece, piece, whole, done, added, whole, done, "response.completed"],
        ];
        assert_eq!(names(&events), wanted.concat());
        let response = written.whole();
        let output = response["output"].as_array().expect("items");
        let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().expect("a type")).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
        assert!(output.iter().all(|item| item["status"] == "completed"));
        assert_eq!(
            (&output[1]["content"][0]["text"], &output[2]["arguments"]),
            (&"Look:".into(), &"{\"x\": 1}".into())
        );
        assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], 3);
    }

    #[test]
    fn which_tools_may_be_called_is_said_as_in_chats() {
        let asked = |choice: Value| {
            let ask = json!({"input": "Q", "tool_choice": choice});
            request::chat(ask.as_object().expect("fields"), Vec::new()).map(|body| body["tool_choice"].clone())
        };
        let (add, named) =
            (json!({"type": "function", "name": "add"}), json!({"type": "function", "function": {"name": "add"}}));
        assert_eq!(asked(add.clone()).ok(), Some(named.clone()));
        let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [add, add]});
        let wanted = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named, named]}});
        assert_eq!(asked(allowed).ok(), Some(wanted));
        for (choice, field) in [
            (json!({"type": "file_search"}), "tool_choice.type"),
            (json!({"type": "allowed_tools", "mode": "auto", "tools": "add"}), "tool_choice.tools"),
            (json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}), "tool_choice.tools[0]"),
            (json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}), "tool_choice.tools[0]"),
        ] {
            assert_eq!(asked(choice).expect_err("a refusal").param(), Some(field));
        }
    }

    #[test]
    fn what_becomes_of_a_long_conversation_is_one_of_two_words() {
        let asked = |truncation: Value| {
            let ask = json!({"input": "Q", "truncation": truncation});
            request::chat(ask.as_object().expect("fields"), Vec::new()).map(|body| body["overflow"].clone())
        };
        assert_eq!(asked("auto".into()).ok(), Some("shift".into()));
        assert_eq!(asked("disabled".into()).ok(), Some(Value::Null));
        for wrong in [json!("middle"), json!(true)] {
            assert_eq!(asked(wrong).expect_err("a refusal").param(), Some("truncation"));
        }
    }

    #[test]
    fn items_become_the_messages_of_a_chat() {
        let ask = json!({
            "model": "m", "instructions": "S", "max_output_tokens": 9, "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
            "tools": [{"type": "function", "name": "add", "parameters": {}, "strict": null}],
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "a1", "name": "add", "arguments": "{}"},
                {"type": "function_call", "call_id": "a2", "name": "add", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a1", "output": "3"},
            ],
        });
        let body = request::chat(ask.as_object().expect("fields"), Vec::new()).expect("a chat");
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}});
        let messages = json!([
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": null, "tool_calls": [call("a1"), call("a2")]},
            {"role": "tool", "tool_call_id": "a1", "content": "3"},
        ]);
        assert_eq!(body["messages"], messages);
        let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}});
        assert_eq!((&body["response_format"], &body["reasoning_effort"]), (&format, &"low".into()));
        assert_eq!((&body["max_tokens"], body["tools"][0]["function"].get("strict")), (&9.into(), None));
    }
}

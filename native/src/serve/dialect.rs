//! Interfaces other than the engine's own: chunks of chat completions become their events, and their whole answers.

use super::app::Answer;
use super::refusal::Refusal;
use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;

/// A server-sent event.
pub(super) struct Event {
    name: Option<&'static str>,
    data: String,
}

impl Event {
    pub(super) fn new(name: &'static str, data: &Value) -> Self {
        Event { name: Some(name), data: data.to_string() }
    }

    /// An event without a name.
    pub(super) fn unnamed(data: String) -> Self {
        Event { name: None, data }
    }
}

/// An interface's way to say an answer.
pub(super) trait Dialect: Send + 'static {
    /// What is said before the first chunk.
    fn begin(&mut self) -> Vec<Event>;

    /// Takes a chunk of a chat completion in.
    fn chunk(&mut self, chunk: &Value) -> Vec<Event>;

    /// What is said behind the last chunk.
    fn end(&mut self) -> Vec<Event>;

    /// What is said of an answer that breaks off.
    fn fail(&mut self, refusal: &Refusal) -> Vec<Event>;
}

/// A dialect that has a whole answer, too.
pub(super) trait Whole: Dialect {
    /// The whole answer, behind the end.
    fn whole(&mut self) -> Value;
}

/// Chunks as OpenAI's API streams them.
pub(super) struct Chunks;

impl Dialect for Chunks {
    fn begin(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn chunk(&mut self, chunk: &Value) -> Vec<Event> {
        vec![Event::unnamed(chunk.to_string())]
    }

    fn end(&mut self) -> Vec<Event> {
        vec![Event::unnamed("[DONE]".into())]
    }

    fn fail(&mut self, refusal: &Refusal) -> Vec<Event> {
        vec![Event::unnamed(refusal.openai().to_string())]
    }
}

/// A piece of an answer, out of a chunk.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Thought(String),
    Text(String),
    Call {
        id: String,
        name: String,
    },
    Arguments(String),
    /// Why it ended.
    Finish(String),
    Usage(Value),
}

impl Piece {
    /// The pieces of a chunk.
    pub(super) fn of(chunk: &Value) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let (choice, delta) = (&chunk["choices"][0], &chunk["choices"][0]["delta"]);
        pieces.extend(text(&delta["reasoning_content"]).map(Piece::Thought));
        pieces.extend(text(&delta["content"]).map(Piece::Text));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if let (Some(id), Some(name)) = (text(&call["id"]), text(&call["function"]["name"])) {
                pieces.push(Piece::Call { id, name });
            }
            pieces.extend(text(&call["function"]["arguments"]).map(Piece::Arguments));
        }
        pieces.extend(text(&choice["finish_reason"]).map(Piece::Finish));
        pieces.extend(Some(&chunk["usage"]).filter(|usage| usage.is_object()).cloned().map(Piece::Usage));
        pieces
    }
}

/// An answer as server-sent events. Dropped, because the client went away, it cancels the answer.
pub(super) fn streamed(answer: Answer, dialect: impl Dialect) -> Response {
    struct Stream<D> {
        answer: Answer,
        dialect: D,
        events: VecDeque<Event>,
        over: bool,
    }
    let mut dialect = dialect;
    let events = dialect.begin().into();
    let stream = Stream { answer, dialect, events, over: false };
    let events = stream::unfold(stream, |mut stream| async move {
        while stream.events.is_empty() && !stream.over {
            let Stream { answer, dialect, events, over } = &mut stream;
            match answer.next().await {
                Some(Ok(chunk)) => events.extend(dialect.chunk(&chunk)),
                Some(Err(refusal)) => (*over, *events) = (true, dialect.fail(&refusal).into()),
                None => (*over, *events) = (true, dialect.end().into()),
            }
        }
        let Event { name, data } = stream.events.pop_front()?;
        let event = sse::Event::default().data(data);
        let event = if let Some(name) = name { event.event(name) } else { event };
        Some((Ok::<_, Infallible>(event), stream))
    });
    // The headers keep proxies from waiting for the end.
    let headers = [("cache-control", "no-cache"), ("x-accel-buffering", "no")];
    (headers, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

/// An answer as one JSON object.
pub(super) async fn whole(mut answer: Answer, mut dialect: impl Whole) -> Result<Response, Refusal> {
    dialect.begin();
    while let Some(chunk) = answer.next().await {
        dialect.chunk(&chunk?);
    }
    dialect.end();
    Ok(Json(dialect.whole()).into_response())
}

#[cfg(test)]
pub(super) mod tests {
    use super::Event;
    use serde_json::{Value, json};

    /// The chunks of an answer that thinks, speaks and calls two tools.
    pub(crate) fn calling() -> Vec<Value> {
        let call = |index: u32, id: &str, name: &str| {
            let function = json!({"name": name, "arguments": ""});
            json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
        };
        let arguments =
            |index: u32, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
        let deltas = [
            json!({"role": "assistant", "reasoning_content": "Hm."}),
            json!({"content": "Look:"}),
            call(0, "a1", "add"),
            arguments(0, "{\"x\""),
            arguments(0, ": 1}"),
            call(1, "a2", "now"),
        ];
        let mut chunks: Vec<Value> = deltas.into_iter().map(|delta| json!({"choices": [{"delta": delta}]})).collect();
        chunks.push(json!({
            "choices": [{"delta": {}, "finish_reason": "tool_calls"}],
            "usage": {
                "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
                "prompt_tokens_details": {"cached_tokens": 3},
            },
        }));
        chunks
    }

    pub(crate) fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.name.unwrap_or_default()).collect()
    }
}

//! OpenAI's addresses that the engine's service answers as they are, the list of models, and llama.cpp's tokenizer.

use super::app::{App, Fields, model_of};
use super::dialect::{Chunks, streamed};
use super::refusal::Refusal;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use foreword::engine::openai::Preparer;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most texts of a request for vectors or scores, as OpenAI's API has it.
const MOST_TEXTS: usize = 2048;

type Answered = Result<Response, Refusal>;

pub(super) async fn chat_completions(State(app): State<Arc<App>>, Fields(body): Fields) -> Answered {
    written(&app, body, "messages").await
}

pub(super) async fn completions(State(app): State<Arc<App>>, Fields(body): Fields) -> Answered {
    written(&app, body, "prompt").await
}

async fn written(app: &App, body: Map<String, Value>, needed: &str) -> Answered {
    need(&body, needed)?;
    let stream = body.get("stream") == Some(&true.into());
    let answer = app.ask(body.into(), false).await?;
    if stream { Ok(streamed(answer, Chunks)) } else { Ok(Json(answer.whole().await?).into_response()) }
}

pub(super) async fn embeddings(State(app): State<Arc<App>>, Fields(body): Fields) -> Answered {
    need(&body, "input")?;
    check_number(&body, "input")?;
    Ok(Json(app.ask(body.into(), true).await?.whole().await?).into_response())
}

pub(super) async fn rerank(State(app): State<Arc<App>>, Fields(body): Fields) -> Answered {
    need(&body, "query")?;
    need(&body, "documents")?;
    check_number(&body, "documents")?;
    Ok(Json(app.ask(body.into(), true).await?.whole().await?).into_response())
}

fn need(body: &Map<String, Value>, name: &str) -> Result<(), Refusal> {
    let there = body.get(name).is_some_and(|value| !value.is_null());
    if there { Ok(()) } else { Err(Refusal::field(name, "is missing")) }
}

/// Refuses more texts than a request may have; a list of numbers is one.
fn check_number(body: &Map<String, Value>, name: &str) -> Result<(), Refusal> {
    let texts = body.get(name).and_then(Value::as_array).filter(|all| !all.first().is_some_and(Value::is_number));
    match texts.map_or(1, Vec::len) {
        ..=MOST_TEXTS => Ok(()),
        n => Err(Refusal::field(name, &format!("there are {n} texts; a request may have {MOST_TEXTS}"))),
    }
}

/// `content` to `tokens`, as llama.cpp's server has it.
pub(super) async fn tokenize(State(app): State<Arc<App>>, Fields(body): Fields) -> Answered {
    let body = Value::from(body);
    let flag = |name: &str, otherwise: bool| match &body[name] {
        Value::Null => Ok(otherwise),
        value => value.as_bool().ok_or_else(|| Refusal::field(name, "must be true or false")),
    };
    let text = body["content"].as_str().ok_or_else(|| Refusal::field("content", "must be text"))?.to_string();
    let (special, parse) = (flag("add_special", false)?, flag("parse_special", true)?);
    let encode = move |preparer: &Preparer| match special {
        true => Ok(preparer.tokenizer().prompt(&text, parse)),
        false => Ok(preparer.tokenizer().encode(&text, parse)),
    };
    let tokens = app.prepare(model_of(&body)?, encode).await?;
    Ok(Json(json!({"tokens": tokens, "count": tokens.len()})).into_response())
}

/// The models, for clients of OpenAI's API and of Anthropic's.
pub(super) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.ids().map(model).collect();
    let id = |of: Option<&Value>| of.map_or(Value::Null, |model| model["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Json(json!({"object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last}))
}

pub(super) async fn model_named(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answered {
    Ok(Json(model(&app.models.named(Some(&id))?.id)).into_response())
}

/// When a model was made is not known.
fn model(id: &str) -> Value {
    json!({
        "id": id, "object": "model", "created": 0, "owned_by": "foreword",
        "type": "model", "display_name": id, "created_at": "1970-01-01T00:00:00Z",
    })
}

//! Requests in OpenAI's JSON: every field is honoured, passed over or refused by its name; numbers and texts come as clients
//! write them; errors name the field; answers come as clients read them.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod contrast;
mod fields;
mod overflow;

use common::data;
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::chat::ChatTemplate;
use foreword::engine::Engine;
use foreword::engine::openai::{Service, Stamp, error_body};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::{Error, Kind};
use serde_json::{Value, json};

fn service() -> Service {
    service_of(template("'model'"), 128)
}

fn service_of(template: foreword::Result<ChatTemplate>, context: usize) -> Service {
    let source = FileSource::open(&data("models/llama.gguf")).expect("a model file");
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let (context_length, cache_tokens) = (Some(context), Some(4 * context));
    let options =
        ModelOptions { context_length, cache_type: CacheType::F32, cache_tokens, max_batch: 48, kv_memory: None };
    let cpu = Box::new(Cpu::new(1));
    let engine = pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model");
    Service::new(engine, template, "llama")
}

/// Writes roles and texts, and whatever `extra` does.
fn template(extra: &str) -> foreword::Result<ChatTemplate> {
    let messages = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ tools | length if tools }}";
    ChatTemplate::new(&format!("{messages}{{% set known = {extra} %}}"), "", "")
}

/// `body` with `fields` besides.
fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

fn chat(fields: Value) -> Value {
    with(&json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}), &fields)
}

fn completion(fields: Value) -> Value {
    with(&json!({"prompt": "Hi", "max_tokens": 4, "temperature": 0}), &fields)
}

/// The last reply to a request, or why it was refused.
fn answer(service: &mut Service, body: &Value) -> Result<Value, Error> {
    service.submit(&body.to_string(), &Stamp::default())?;
    let mut last = None;
    while !service.is_idle() {
        last = pollster::block_on(service.step())?.pop().map(|reply| reply.value).or(last);
    }
    last.expect("a reply")
}

/// The field that an error names.
fn refusal(service: &mut Service, body: &Value) -> String {
    let error = answer(service, body).err().unwrap_or_else(|| panic!("{body} was answered"));
    assert_eq!(error.kind(), Kind::InvalidRequest, "{body}: {error}");
    let shape = error_body(&error)["error"].clone();
    assert_eq!((&shape["type"], &shape["code"]), (&"invalid_request_error".into(), &"invalid_request".into()));
    let param = shape["param"].as_str().unwrap_or_else(|| panic!("{body}: {error} names no field")).to_string();
    assert!(error.to_string().contains(&param), "{body}: {error} is said to be about {param}");
    param
}

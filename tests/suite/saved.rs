//! Conversations that are written to a file and read back: by another engine, with another number of threads, on another backend;
//! and files that are damaged, or of another model.

use crate::common::{SMOLLM2, data, model_path, open_source};
use foreword::backend::cpu::Cpu;
use foreword::backend::{Backend, CacheType};
use foreword::engine::{Engine, Event, Request};
use foreword::model::ModelOptions;
use foreword::sample::Params;
use foreword::{Kind, Result};
use serde_json::json;

fn engine(model: &str, cache_type: CacheType, backend: Box<dyn Backend>) -> Engine {
    let options = ModelOptions { context_length: Some(1024), cache_type, ..ModelOptions::default() };
    let path = if model == SMOLLM2 { model_path(model) } else { data(&format!("models/{model}.gguf")) };
    let sources = vec![open_source(&path)];
    let mut ignore = |_| {};
    let load = Engine::load(sources, backend, &options, || 0.0, &mut ignore);
    pollster::block_on(load).expect("a sound model")
}

fn on_cpu(cache_type: CacheType, threads: usize) -> Engine {
    engine("llama", cache_type, Box::new(Cpu::new(threads)))
}

/// Greedy tokens behind a prompt, and how many tokens of it were known.
fn answer(engine: &mut Engine, prompt: &[u32], n: usize) -> (Vec<u32>, usize) {
    let params = Params { temperature: 0.0, ..Params::default() };
    let prompt = prompt.to_vec();
    let request = Request { prompt, params, max_tokens: Some(n), ignore_eos: true, ..Request::default() };
    engine.submit(request).expect("a sound request");
    let (mut tokens, mut events) = (Vec::new(), Vec::new());
    loop {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(_, token) => tokens.push(token.token),
                Event::Done(_, done) => return (tokens, done.usage.cached_tokens),
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
    }
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + i * 7 % 90).collect()
}

/// A conversation of 150 tokens and an answer, saved; its text, what comes next in an engine that goes on, and the file.
fn saved(engine: &mut Engine) -> (Vec<u32>, Vec<u32>, Vec<u8>) {
    let mut text = prompt(300);
    text.extend(answer(engine, &prompt(300), 20).0);
    let mut file = Vec::new();
    let n = pollster::block_on(engine.save(&text, json!({ "about": "numbers" }), &mut file)).expect("a file");
    // The last token was chosen and never read.
    assert_eq!(n, text.len() - 1);
    let next = answer(engine, &text, 40).0;
    (text, next, file)
}

fn open(engine: &mut Engine, file: &[u8]) -> Result<usize> {
    let saved = engine.open(&mut &file[..])?;
    assert_eq!(saved.note, json!({ "about": "numbers" }));
    Ok(saved.tokens.len())
}

#[test]
fn another_engine_goes_on_as_the_first_would_have() {
    // The tiny model's heads are too narrow for q8_0.
    for (model, cache_type) in [("llama", CacheType::F32), ("llama", CacheType::F16), (SMOLLM2, CacheType::Q8_0)] {
        let (text, next, file) = saved(&mut engine(model, cache_type, Box::new(Cpu::new(1))));
        let mut other = engine(model, cache_type, Box::new(Cpu::new(2)));
        assert_eq!(open(&mut other, &file).expect("a sound file"), text.len() - 1);
        assert_eq!(answer(&mut other, &text, 40), (next, text.len() - 1), "{cache_type:?}");
        // What was opened can be saved, and is the same file.
        let mut again = Vec::new();
        pollster::block_on(other.save(&text[..text.len() - 1], json!({ "about": "numbers" }), &mut again))
            .expect("a file");
        assert!(again == file, "{cache_type:?}: another file");
    }
}

#[test]
fn the_cache_gives_way_to_a_conversation_that_is_opened() {
    let (text, next, file) = saved(&mut on_cpu(CacheType::F16, 1));
    let mut other = on_cpu(CacheType::F16, 1);
    answer(&mut other, &prompt(1000).into_iter().rev().collect::<Vec<_>>(), 3);
    open(&mut other, &file).expect("room");
    assert_eq!(answer(&mut other, &text, 40), (next, text.len() - 1));
}

#[cfg(feature = "wgpu")]
#[test]
fn other_backends_read_it() {
    use foreword::backend::{Choice, Options, open as open_backend};
    let gpu = || {
        let options = Options { threads: 1, level: None, profile: false, clock: || 0.0 };
        pollster::block_on(open_backend(Choice::WebGpu, &options)).ok()
    };
    let Some(device) = gpu() else { return eprintln!("skipped: there is no adapter") };
    let (text, next, file) = saved(&mut on_cpu(CacheType::F32, 1));
    let mut other = engine("llama", CacheType::F32, device);
    open(&mut other, &file).expect("a sound file");
    let (there, known) = answer(&mut other, &text, 40);
    assert_eq!((there.first(), known), (next.first(), text.len() - 1));
    // And back: the entries are those of the file, bit for bit.
    let mut again = Vec::new();
    pollster::block_on(other.save(&text[..text.len() - 1], json!({ "about": "numbers" }), &mut again)).expect("a file");
    assert!(again == file, "another file");
}

#[test]
fn damaged_files_are_refused_and_change_nothing() {
    let mut engine = on_cpu(CacheType::F16, 1);
    let (text, next, file) = saved(&mut engine);
    let free = engine.model().kv().free_blocks();
    let lengths = (0..200).chain((200..file.len()).step_by(4001)).chain([file.len() - 1]);
    for len in lengths {
        let error = open(&mut engine, &file[..len]).expect_err("a file that is cut off");
        assert_eq!(error.kind(), Kind::BadFile, "{len} bytes: {error}");
    }
    for at in (0..file.len()).step_by(997) {
        let mut flipped = file.clone();
        flipped[at] ^= 0x40;
        assert!(open(&mut engine, &flipped).is_err(), "byte {at}");
    }
    assert_eq!(engine.model().kv().free_blocks(), free);
    assert_eq!(answer(&mut engine, &text, 40), (next, text.len() - 1));
}

#[test]
fn files_of_other_models_caches_and_contexts_are_refused() {
    let file = saved(&mut on_cpu(CacheType::F16, 1)).2;
    let refused = |mut engine: Engine, what: &str| {
        let error = open(&mut engine, &file).expect_err(what);
        assert!(error.kind() == Kind::InvalidRequest && error.to_string().contains(what), "{error}");
    };
    refused(engine("qwen2", CacheType::F16, Box::new(Cpu::new(1))), "not with this file");
    refused(on_cpu(CacheType::F32, 1), "of type f32");
    let options = ModelOptions { context_length: Some(256), ..ModelOptions::default() };
    let sources = vec![open_source(&data("models/llama.gguf"))];
    let mut ignore = |_| {};
    let short = pollster::block_on(Engine::load(sources, Box::new(Cpu::new(1)), &options, || 0.0, &mut ignore));
    refused(short.expect("a sound model"), "the context holds 256");
}

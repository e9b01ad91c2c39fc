//! The WebGPU backend with whole models: the answers of the CPU, and how little a step asks of the device.
#![cfg(feature = "wgpu")]

mod common;

use common::{GEMMA3, SMOLLM2, data, model_path};
use foreword::backend::cpu::Cpu;
use foreword::backend::webgpu::{Options, WebGpu};
use foreword::backend::{Activity, Backend, CacheType};
use foreword::engine::{Engine, Event, Request, RequestId};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::Params;
use std::path::Path;

fn gpu() -> WebGpu {
    pollster::block_on(WebGpu::open(&Options::default())).expect("an adapter; ./test installs a software one")
}

fn engine(path: &Path, backend: Box<dyn Backend>, max_batch: usize) -> Engine {
    let sources: Vec<Box<dyn Source>> = vec![Box::new(FileSource::open(path).expect("a model file"))];
    let options =
        ModelOptions { context_length: Some(128), cache_type: CacheType::F16, cache_tokens: Some(20 * 64), max_batch };
    pollster::block_on(Engine::load(sources, backend, &options, || 0.0, &mut |_| {})).expect("a sound model")
}

fn step(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    pollster::block_on(engine.step(&mut events)).expect("a step");
    events
}

/// What a step in the middle of an answer asks of the device.
fn decode_step(engine: &mut Engine, params: &Params, logprobs: Option<usize>) -> Activity {
    let request = Request {
        prompt: (5..40).collect(),
        params: params.clone(),
        max_tokens: Some(20),
        logprobs,
        ignore_eos: true,
        ..Request::default()
    };
    engine.submit(request).expect("a sound request");
    for _ in 0..8 {
        step(engine);
    }
    let before = engine.model().backend().activity();
    step(engine);
    let after = engine.model().backend().activity();
    while !engine.is_idle() {
        step(engine);
    }
    assert_eq!(before.pipelines, engine.model().backend().activity().pipelines, "a step like others compiles nothing");
    Activity {
        dispatches: after.dispatches - before.dispatches,
        submits: after.submits - before.submits,
        read_bytes: after.read_bytes - before.read_bytes,
        pipelines: 0,
    }
}

/// Most dispatches of a step besides its layers: embedding (two parts of a large one), last norm, head, selection.
const BESIDES: u64 = 8;

#[test]
fn a_decode_step_is_one_submit_one_read_and_few_dispatches() {
    let tiny = ["gemma2", "gemma3", "granite", "llama", "phi3", "qwen2", "qwen3", "smollm3"];
    let paths = tiny.map(|name| data(&format!("models/{name}.gguf")));
    let greedy = Params { temperature: 0.0, ..Params::default() };
    for path in paths.into_iter().chain([SMOLLM2, GEMMA3].map(model_path)) {
        let mut engine = engine(&path, Box::new(gpu()), 64);
        let layers = engine.model().config().layers.len() as u64;
        let done = decode_step(&mut engine, &greedy, None);
        println!("{}: {layers} layers, {done:?}", path.display());
        assert!(done.dispatches <= 12 * layers + BESIDES, "{}: {done:?} for {layers} layers", path.display());
        assert_eq!((done.submits, done.read_bytes), (1, 12), "{}", path.display());
    }
}

#[test]
fn ordinary_settings_read_a_thousand_bytes() {
    let mut engine = engine(&data("models/llama.gguf"), Box::new(gpu()), 64);
    let all = engine.model().config().n_vocab as u64 * 4;
    let p = Params::default();
    let penalties = Params { temperature: 0.0, repetition_penalty: 1.1, frequency_penalty: 0.2, ..p.clone() };
    let cases = [
        (Params { temperature: 0.7, top_k: 40, top_p: 0.95, min_p: 0.05, ..p.clone() }, None, 516),
        (Params { top_k: 40, typical_p: 0.9, ..p.clone() }, Some(5), 516),
        (penalties, None, 516),
        (Params { temperature: 0.0, logit_bias: vec![(7, 5.0)], ..p.clone() }, None, all),
    ];
    for (params, logprobs, bytes) in cases {
        let done = decode_step(&mut engine, &params, logprobs);
        assert_eq!((done.submits, done.read_bytes), (1, bytes), "{params:?}");
    }
}

const PROMPTS: [&str; 20] = [
    "The capital of France is",
    "Water boils at",
    "Once upon a time, there was a",
    "The three primary colours are",
    "def fibonacci(n):",
    "In 1969, the first man",
    "A recipe for bread: take flour,",
    "Dear Sir or Madam,",
    "The opposite of hot is",
    "1, 2, 3, 4,",
    "Photosynthesis is the process by which",
    "She opened the door and",
    "The largest planet of the solar system is",
    "To be or not to be,",
    "SELECT name FROM users WHERE",
    "The weather today is",
    "He plays the piano, and she plays the",
    "Monday, Tuesday, Wednesday,",
    "An apple a day keeps",
    "Le chat est sur la",
];

/// A token, and the most probable ones with their log-probabilities.
type Choice = (u32, Vec<(u32, f32)>);

/// Tokens for every prompt.
fn answers(engine: &mut Engine) -> Vec<Vec<Choice>> {
    let ids: Vec<RequestId> = PROMPTS
        .iter()
        .map(|text| {
            let prompt = engine.prompt(text, false);
            let params = Params { temperature: 0.0, ..Params::default() };
            let max_tokens = Some(8);
            engine
                .submit(Request { prompt, params, max_tokens, logprobs: Some(4), ..Request::default() })
                .expect("a sound request")
        })
        .collect();
    let mut answers = vec![Vec::new(); ids.len()];
    while !engine.is_idle() {
        for event in step(engine) {
            if let Event::Token(id, token) = event {
                let which = ids.iter().position(|i| *i == id).expect("a request");
                answers[which].push((token.token, token.logprobs.expect("asked for").1));
            }
        }
    }
    answers
}

/// Where texts part, the CPU must have been undecided: its activations have 8 bits, which moves log-probabilities by up to 0.3
/// (`tests/golden.rs`), so two tokens closer than that may change places.
fn answers_like_the_cpu(file: &str, least: usize) {
    let path = model_path(file);
    let cpu = answers(&mut engine(&path, Box::new(Cpu::new(2)), 256));
    let gpu = answers(&mut engine(&path, Box::new(gpu()), 256));
    let mut same = 0;
    for ((prompt, cpu), gpu) in PROMPTS.iter().zip(&cpu).zip(&gpu) {
        match cpu.iter().zip(gpu).position(|(a, b)| a.0 != b.0) {
            None => {
                assert_eq!(cpu.len(), gpu.len(), "{prompt:?}");
                same += 1;
            }
            Some(i) => {
                let (best, other) = (cpu[i].1[0].1, cpu[i].1.iter().find(|t| t.0 == gpu[i].0));
                println!("{file}, {prompt:?}: at {i}, {:?} on the CPU, {:?} on the GPU", cpu[i].1, gpu[i].1);
                assert!(other.is_some_and(|t| best - t.1 < 0.3), "{prompt:?}: the CPU was not undecided");
            }
        }
    }
    println!("{file}: {same} of {} texts are the same", PROMPTS.len());
    assert!(same >= least, "{file}: only {same} texts are the same");
}

#[test]
fn smollm2_writes_what_it_writes_on_the_cpu() {
    answers_like_the_cpu(SMOLLM2, 15);
}

#[test]
fn gemma3_writes_what_it_writes_on_the_cpu() {
    answers_like_the_cpu(GEMMA3, 15);
}

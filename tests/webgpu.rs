//! The WebGPU backend with whole models: the answers of the CPU, and how little a step asks of the device.
#![cfg(feature = "wgpu")]

mod common;

use common::{GEMMA3, SMOLLM2, data, model_path};
use foreword::backend::cpu::Cpu;
use foreword::backend::webgpu::{Options, WebGpu};
use foreword::backend::{Activity, Backend, CacheSpec, CacheType, read};
use foreword::engine::{Engine, Event, Request, RequestId};
use foreword::gguf::source::{FileSource, Read, Source};
use foreword::model::{Ffn, ModelOptions};
use foreword::quant::TensorType;
use foreword::sample::Params;
use foreword::{Error, Kind};
use std::path::Path;
#[cfg(unix)]
use std::process::Command;

fn open(options: &Options) -> WebGpu {
    pollster::block_on(WebGpu::open(options)).expect("an adapter; ./test installs a software one")
}

fn gpu() -> WebGpu {
    open(&Options::default())
}

/// A GPU that allows bindings of so many bytes.
fn gpu_with_bindings(bytes: u64) -> WebGpu {
    open(&Options { max_binding: Some(bytes), ..Options::default() })
}

fn options(max_batch: usize) -> ModelOptions {
    ModelOptions {
        context_length: Some(128),
        cache_type: CacheType::F16,
        cache_tokens: Some(20 * 64),
        max_batch,
        kv_memory: None,
    }
}

fn engine(path: &Path, backend: Box<dyn Backend>, max_batch: usize) -> Engine {
    let sources: Vec<Box<dyn Source>> = vec![Box::new(FileSource::open(path).expect("a model file"))];
    pollster::block_on(Engine::load(sources, backend, &options(max_batch), || 0.0, &mut |_| {})).expect("a sound model")
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
        ..Activity::default()
    }
}

/// Most dispatches of a step besides its layers: embedding (two parts of a large one), last norm, head, selection.
const BESIDES: u64 = 8;

#[test]
fn a_decode_step_is_one_submit_one_read_and_few_dispatches() {
    let tiny = ["gemma2", "gemma3", "granite", "llama", "phi3", "qwen2", "qwen3", "smollm3"];
    let more = ["exaone4", "olmo2", "ernie4_5", "hunyuan-dense", "minicpm", "mistral3", "nanbeige"];
    let more = more.into_iter().chain(["qwen3moe", "gpt-oss", "granitemoe"]);
    let paths = tiny.into_iter().chain(more).map(|name| data(&format!("models/{name}.gguf")));
    let greedy = Params { temperature: 0.0, ..Params::default() };
    for path in paths.chain([SMOLLM2, GEMMA3].map(model_path)) {
        let mut engine = engine(&path, Box::new(gpu()), 64);
        let layers = engine.model().config().layers.len() as u64;
        let done = decode_step(&mut engine, &greedy, None);
        println!("{}: {layers} layers, {done:?}", path.display());
        // Router, choice, three stacks, gate, sum.
        let of_experts = if matches!(engine.model().config().layers[0].ffn, Ffn::Experts(_)) { 7 } else { 0 };
        assert!(
            done.dispatches <= (12 + of_experts) * layers + BESIDES,
            "{}: {done:?} for {layers} layers",
            path.display()
        );
        assert_eq!((done.submits, done.read_bytes), (1, 12), "{}", path.display());
    }
}

#[test]
fn steps_sent_ahead_write_what_steps_one_by_one_write() {
    for (name, backend) in [("llama", gpu()), ("gemma3", gpu()), ("qwen2", gpu_with_bindings(1 << 20))] {
        let mut engine = engine(&data(&format!("models/{name}.gguf")), Box::new(backend), 64);
        // Log-probabilities need the sum of the softmax, so such steps wait for each other.
        let [one_by_one, ahead] = [Some(1), None].map(|logprobs| {
            let ids: Vec<RequestId> = (0..5)
                .map(|i| {
                    let params = Params { temperature: 0.0, ..Params::default() };
                    let prompt = (3 + i..20 + 5 * i).collect();
                    let max_tokens = Some(10 + 8 * i as usize);
                    let request = Request { prompt, params, max_tokens, logprobs, ..Request::default() };
                    engine.submit(request).expect("a sound request")
                })
                .collect();
            let mut answers = vec![Vec::new(); ids.len()];
            while !engine.is_idle() {
                for event in step(&mut engine) {
                    if let Event::Token(id, token) = event {
                        answers[ids.iter().position(|i| *i == id).expect("a request")].push(token.token);
                    }
                }
            }
            answers
        });
        assert_eq!(one_by_one, ahead, "{name}");
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

#[test]
fn what_an_answer_needs_is_compiled_beside_loading() {
    for is_processor in [true, false] {
        for path in [data("models/gemma3.gguf"), data("models/llama.gguf"), model_path(SMOLLM2)] {
            let ms = || std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64() * 1e3);
            let gpu = open(&Options { is_processor: Some(is_processor), clock: ms, ..Options::default() });
            let mut engine = engine(&path, Box::new(gpu), 64);
            let loaded = engine.model().backend().activity();
            decode_step(&mut engine, &Params { temperature: 0.0, ..Params::default() }, None);
            let after = engine.model().backend().activity();
            assert!(loaded.pipelines > 8, "{loaded:?}");
            assert_eq!(loaded.pipelines, after.pipelines, "{}", path.display());
            assert!(after.compile_ms > 1.0, "{after:?}");
        }
    }
}

#[test]
fn a_model_larger_than_a_binding_is_split() {
    let write = |backend| {
        let mut engine = engine(&model_path(SMOLLM2), Box::new(backend), 64);
        let params = Params { temperature: 0.0, ..Params::default() };
        let prompt = engine.prompt("Once upon a time, there was a", false);
        let request = Request { prompt, params, max_tokens: Some(4), logprobs: Some(4), ..Request::default() };
        engine.submit(request).expect("a sound request");
        let mut text = Vec::new();
        while !engine.is_idle() {
            text.extend(step(&mut engine).into_iter().filter_map(|event| match event {
                Event::Token(_, token) => Some((token.token, token.logprobs)),
                _ => None,
            }));
        }
        (text, engine.model().backend().activity().dispatches)
    };
    let (whole, few) = write(gpu());
    // The embeddings take some 18 MB.
    let (split, many) = write(gpu_with_bindings(4 << 20));
    assert_eq!(whole, split);
    assert!(many > few, "{many} dispatches for {few}: nothing was split");
}

/// A file of which only the header may be read.
struct HeaderOnly(FileSource, u64);

impl Source for HeaderOnly {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        assert!(offset < self.1, "a tensor is read");
        self.0.read_at(offset, buf)
    }
}

/// What a GPU says to SmolLM2, of which it may see the header only.
fn refusal(backend: WebGpu, options: &ModelOptions) -> Error {
    let path = model_path(SMOLLM2);
    let (gguf, _) = common::open(&path);
    let tensors = gguf.tensors.iter().map(|t| t.offset).min().expect("tensors");
    let source = HeaderOnly(FileSource::open(&path).expect("a model file"), tensors);
    let mut ignore = |_| {};
    let loaded = Engine::load(vec![Box::new(source)], Box::new(backend), options, || 0.0, &mut ignore);
    pollster::block_on(loaded).map(|_| ()).expect_err("there is no room")
}

#[test]
fn what_has_no_room_is_refused_before_tensors_are_read() {
    let long = ModelOptions { cache_tokens: Some(1 << 13), ..options(8) };
    let error = refusal(gpu_with_bindings(1 << 20), &long);
    assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("a layer of the KV cache takes") && error.to_string().contains("shorter"));
    let error = refusal(gpu_with_bindings(1 << 20), &options(256));
    assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("a work buffer takes") && error.to_string().contains("smaller batches"));
}

#[test]
fn commands_that_are_refused_and_a_lost_device_are_errors_of_their_own_kinds() {
    let mut backend = gpu();
    // A command that no device takes: more than the buffer holds.
    let buf = backend.new_buf(1, 16).expect("a small buffer");
    let error = backend.write(buf, 0, &[0.0; 4096]).expect_err("the buffer has 16 values");
    assert_eq!(error.kind(), Kind::DeviceFault, "{error}");
    // It was refused, and that is all.
    backend.write(buf, 0, &[1.0; 16]).expect("a sound command");
    let mut values = [0.0; 16];
    pollster::block_on(read(&mut backend, buf, 1, &mut values)).expect("a result");
    assert_eq!(values, [1.0; 16]);
    backend.lose();
    let error = pollster::block_on(read(&mut backend, buf, 1, &mut values)).expect_err("the device is gone");
    assert_eq!(error.kind(), Kind::DeviceLost, "{error}");
}

/// Set where a test runs by itself, with little memory.
#[cfg(unix)]
const ALONE: &str = "FOREWORD_TEST_ALONE";

/// The memory of a software GPU is that of its process.
#[cfg(unix)]
#[test]
fn a_full_device_is_out_of_memory_and_goes_on() {
    if std::env::var_os(ALONE).is_none() {
        let me = std::env::current_exe().expect("a path");
        let script = "ulimit -v 4000000 && exec \"$0\" --exact a_full_device_is_out_of_memory_and_goes_on";
        let run = Command::new("sh").args(["-c", script]).arg(me).env(ALONE, "1").output().expect("a shell");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let mut backend = gpu();
    let no_cache = CacheSpec { layers: Vec::new(), n_blocks: 0, n_slots: 0 };
    let error = pollster::block_on(backend.room(8 << 30, &no_cache, 0)).expect_err("the process may have 4 GB");
    assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("no room for 8192 MiB"), "{error}");
    // The same while weights are being made.
    let (rows, cols) = (16 << 10, 2048);
    let made = (0..64).try_for_each(|_| backend.new_weight(TensorType::F32, rows, cols).map(|_| ()));
    let error = made.expect_err("there were 8 GiB of them");
    assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
    let buf = backend.new_buf(1, 16).expect("a small buffer");
    backend.write(buf, 0, &[1.0; 16]).expect("a sound command");
    let mut values = [0.0; 16];
    pollster::block_on(read(&mut backend, buf, 1, &mut values)).expect("a result");
    assert_eq!(values, [1.0; 16]);
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

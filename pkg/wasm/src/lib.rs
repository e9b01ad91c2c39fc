//! The core for JavaScript: one class over the engine. Runs inside a worker; everything that crosses is JSON, numbers or
//! bytes, and errors are `{code, message}`.

#![cfg(target_arch = "wasm32")]

mod source;

use foreword::backend::cpu::Cpu;
use foreword::backend::{Backend, CacheType, Choice};
use foreword::chat::ChatTemplate;
use foreword::engine::openai::{Answer, Answers, Body, Reply};
use foreword::engine::{Engine, Event, Request, RequestId};
use foreword::model::{ModelOptions, Progress};
use foreword::speculate::draft::{Drafter, Layers, Ngram};
use foreword::speculate::{Mode, Shape};
use foreword::{Error, Result};
use js_sys::{Function, Object, Reflect};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

/// What the loader is told.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoadOptions {
    backend: String,
    threads: usize,
    context_length: Option<usize>,
    kv_cache: Option<String>,
    speculate: Option<Speculate>,
    name: String,
}

/// How answers are guessed ahead.
#[derive(serde::Deserialize)]
struct Speculate {
    drafter: Option<String>,
    method: Option<String>,
    budget: Option<usize>,
}

/// A loaded model.
#[wasm_bindgen]
pub struct Session {
    engine: Engine,
    template: Result<ChatTemplate>,
    name: String,
    answers: Answers,
    events: Vec<Event>,
    replies: Vec<Reply>,
}

#[wasm_bindgen]
impl Session {
    /// Loads a model. `sources` are objects `{size, read(offset, length)}`; `start(address)` is called once for every
    /// thread beside this one; `progress(done, total)` counts bytes of tensors.
    pub async fn load(
        sources: Vec<JsValue>,
        options: String,
        start: Function,
        progress: Function,
    ) -> std::result::Result<Session, JsValue> {
        load(sources, &options, &start, &progress).await.map_err(|e| to_js(&e))
    }

    /// Goes on after a lost device (the code of `step`'s error is `device_lost` or `device_fault`): on a new one (`webgpu`), or on this thread
    /// (`cpu`). A sidecar has to be added again. After an error another backend may be tried.
    pub async fn restore(
        &mut self,
        sources: Vec<JsValue>,
        backend: String,
        progress: Function,
    ) -> std::result::Result<(), JsValue> {
        let restored = async {
            let sources = sources.into_iter().map(source::open).collect::<Result<Vec<_>>>()?;
            let backend = open_backend(&backend, 1, None).await?;
            self.engine.restore(sources, backend, &mut reporter(&progress)).await
        };
        restored.await.map_err(|e| to_js(&e))
    }

    /// Adds a sidecar, with which prompts are read by prediction, and says how they are read where a request does not.
    /// Returns whether it was made for this very quantization of the model.
    pub async fn add_sidecar(&mut self, source: JsValue, prefill: String) -> std::result::Result<bool, JsValue> {
        let source = source::open(source).map_err(|e| to_js(&e))?;
        let same = self.engine.add_sidecar(vec![source]).await.map_err(|e| to_js(&e))?;
        let prefill = prefill.parse().and_then(|prefill| self.engine.set_prefill(prefill));
        prefill.map_err(|e| to_js(&e))?;
        Ok(same)
    }

    /// Queues a request (OpenAI's JSON); returns its number. `id` is unique, `seed` is taken where the request has none.
    pub fn submit(&mut self, body: &str, id: &str, created: f64, seed: u32) -> std::result::Result<f64, JsValue> {
        let mut submit = || -> Result<f64> {
            let body = Body::parse(body)?;
            let template = self.template.as_ref().map_err(|e| Error::new(e.kind(), e.to_string()));
            let answer = Answer::new(&body, id, &self.name, created as u64);
            let id = self.answers.submit(&mut self.engine, &body, template, answer, u64::from(seed))?;
            Ok(id.0 as f64)
        };
        submit().map_err(|e| to_js(&e))
    }

    /// Queues a run of the benchmark: `prompt` tokens of noise, `gen` tokens of answer, without guesses: what
    /// follows noise says nothing about them. Its answer is its `usage`.
    pub fn submit_benchmark(&mut self, prompt: usize, generate: usize) -> std::result::Result<f64, JsValue> {
        self.engine.clear_cache();
        let n_vocab = self.engine.model().config().n_vocab as u32;
        let noise = (0..prompt as u32).map(|i| i.wrapping_mul(2_654_435_761) % n_vocab);
        let request = Request {
            prompt: noise.collect(),
            max_tokens: Some(generate),
            ignore_eos: true,
            plain: true,
            ..Request::default()
        };
        let answer = Answer::new(&Body::default(), "benchmark", &self.name, 0);
        let id = self.answers.submit_requests(&mut self.engine, vec![request], answer, false);
        id.map(|id| id.0 as f64).map_err(|e| to_js(&e))
    }

    /// Ends a request; the next step reports it.
    pub fn cancel(&mut self, id: f64) {
        self.answers.cancel(&mut self.engine, RequestId(id as u64));
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// One forward. Returns JSON: a list of `{id, value, done}` and `{id, error}`.
    pub async fn step(&mut self) -> std::result::Result<String, JsValue> {
        let outcome = self.engine.step(&mut self.events).await;
        for event in self.events.drain(..) {
            self.answers.take(&mut self.engine, event, &mut self.replies);
        }
        // What was said before an error waits for the next step.
        outcome.map_err(|e| to_js(&e))?;
        let out = self.replies.drain(..).map(|reply| match reply.value {
            Ok(value) => json!({"id": reply.id.0, "value": value, "done": reply.done}),
            Err(error) => {
                let error = json!({"code": error.kind().row().code, "message": error.to_string()});
                json!({"id": reply.id.0, "error": error})
            }
        });
        Ok(Value::Array(out.collect()).to_string())
    }

    /// Text to tokens, without BOS.
    pub fn tokenize(&self, text: &str, special: bool) -> Vec<u32> {
        self.engine.tokenizer().encode(text, special)
    }

    /// Tokens to text.
    pub fn detokenize(&self, tokens: &[u32]) -> std::result::Result<String, JsValue> {
        let n_vocab = self.engine.tokenizer().n_vocab();
        match tokens.iter().find(|t| **t as usize >= n_vocab) {
            Some(token) => {
                Err(to_js(&Error::invalid_request(format!("token {token} is not in the vocabulary of {n_vocab}"))))
            }
            None => Ok(self.engine.tokenizer().decode(tokens)),
        }
    }

    /// What the model is and what it runs on, as JSON.
    pub fn info(&self) -> String {
        let model = self.engine.model();
        let (config, device) = (model.config(), model.backend().info());
        json!({
            "name": config.name,
            "architecture": config.architecture,
            "contextLength": model.context_length(),
            "trainedContextLength": config.context_length,
            "vocabulary": config.n_vocab,
            "layers": config.layers.len(),
            "dimension": config.dim,
            "chat": self.template.is_ok(),
            "backend": device.backend,
            "device": device.device,
            "threads": device.threads,
        })
        .to_string()
    }

    /// Bytes held, as JSON.
    pub fn memory(&self) -> String {
        let memory = self.engine.model().backend().memory();
        json!({"weights": memory.weights, "cache": memory.cache, "buffers": memory.buffers}).to_string()
    }

    /// Milliseconds that a GPU's kernels took to compile so far.
    pub fn compile_ms(&self) -> f64 {
        self.engine.model().backend().activity().compile_ms
    }

    /// Times of a GPU's kernels so far, as JSON; empty where they are not measured.
    pub fn kernels(&self) -> String {
        let times = self.engine.model().backend().kernel_times().into_iter();
        let times = times.map(|t| json!({"kernel": t.kernel, "ms": t.nanoseconds / 1e6, "runs": t.runs}));
        Value::Array(times.collect()).to_string()
    }
}

/// Milliseconds that a backend takes for a short trial; to be compared with another one's. `start` as for `Session.load`.
#[wasm_bindgen]
pub async fn trial(backend: String, threads: usize, start: Function) -> std::result::Result<f64, JsValue> {
    let measured = async {
        let mut backend = open_backend(&backend, threads, Some(&start)).await?;
        foreword::backend::trial(&mut *backend, now).await
    };
    measured.await.map_err(|e| to_js(&e))
}

/// A helper thread's life; returns when the model is freed.
#[wasm_bindgen]
pub fn worker_main(address: usize) {
    foreword::backend::cpu::pool::worker_main(address);
}

/// Writes panics to the console: the trap itself says nothing.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|info| error_to_console(&info.to_string())));
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn error_to_console(text: &str);
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn now() -> f64;
}

async fn load(sources: Vec<JsValue>, options: &str, start: &Function, progress: &Function) -> Result<Session> {
    let options: LoadOptions = serde_json::from_str(options)
        .map_err(|e| Error::invalid_request(format!("the options of load do not parse: {e}")))?;
    let cache_type = match options.kv_cache.as_deref() {
        None | Some("f16") => CacheType::F16,
        Some("q8_0") => CacheType::Q8_0,
        Some(other) => return Err(Error::invalid_request(format!("kvCache is {other:?}; it may be f16 or q8_0"))),
    };
    let sources = sources.into_iter().map(source::open).collect::<Result<Vec<_>>>()?;
    let backend = open_backend(&options.backend, options.threads, Some(start)).await?;
    let model = ModelOptions { context_length: options.context_length, cache_type, ..ModelOptions::default() };
    let mut engine = Engine::load(sources, backend, &model, now, &mut reporter(progress)).await?;
    if let Some(wanted) = options.speculate {
        speculate(&mut engine, &wanted)?;
    }
    let template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer()).map(|mut template| {
        template.set_clock(js_sys::Date::now);
        template
    });
    Ok(Session {
        engine,
        template,
        name: options.name,
        answers: Answers::new(),
        events: Vec::new(),
        replies: Vec::new(),
    })
}

async fn open_backend(name: &str, threads: usize, start: Option<&Function>) -> Result<Box<dyn Backend>> {
    if name == "webgpu" {
        return foreword::backend::open(Choice::WebGpu, 1, true, now).await;
    }
    let cpu = Cpu::new(threads.clamp(1, 64));
    if let Some(start) = start {
        start_threads(&cpu, start);
    }
    Ok(Box::new(cpu))
}

fn reporter(progress: &Function) -> impl FnMut(Progress) {
    move |p| {
        let _ = progress.call2(&JsValue::NULL, &(p.done_bytes as f64).into(), &(p.total_bytes as f64).into());
    }
}

/// Sets up guessing.
fn speculate(engine: &mut Engine, wanted: &Speculate) -> Result<()> {
    let mode = match (wanted.method.as_deref().unwrap_or("auto"), wanted.budget) {
        ("auto", None) => Mode::Auto,
        ("auto", Some(_)) => return Err(Error::invalid_request("speculate.budget needs a method such as rsd-s")),
        (method, budget) => Mode::Fixed(Shape::of(method, budget.unwrap_or(6), None)?),
    };
    let drafter: Box<dyn Drafter> = match wanted.drafter.as_deref().unwrap_or("ngram") {
        "ngram" => Box::new(Ngram),
        "sidecar" => Box::new(Layers::of_sidecar(engine.model())?),
        name => match name.strip_prefix("layers:").and_then(|n| n.parse().ok()) {
            Some(n) => Box::new(Layers::new(engine.model(), n)?),
            None => {
                return Err(Error::invalid_request(format!(
                    "speculate.drafter is {name:?}; it may be ngram, sidecar or layers:K"
                )));
            }
        },
    };
    engine.speculate(drafter, mode)
}

/// Hands the pool to the workers that wait for it.
#[cfg(target_arch = "wasm32")]
fn start_threads(cpu: &Cpu, start: &Function) {
    for _ in 1..cpu.pool().len() {
        let _ = start.call1(&JsValue::NULL, &cpu.pool().address().into());
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn start_threads(_: &Cpu, _: &Function) {}

fn to_js(error: &Error) -> JsValue {
    let object = Object::new();
    for (key, value) in [("code", error.kind().row().code), ("message", &error.to_string())] {
        // Setting a property of a fresh plain object cannot fail.
        let _ = Reflect::set(&object, &key.into(), &value.into());
    }
    object.into()
}

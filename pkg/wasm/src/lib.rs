//! The core for JavaScript: one class over the engine. Runs inside a worker; everything that crosses is JSON, numbers or
//! bytes, and errors are `{code, message, param}`.

#![cfg(target_arch = "wasm32")]

mod constrain;
mod source;

use foreword::backend::cpu::{Cpu, pool};
use foreword::backend::{self, Backend, CacheType, Choice};
use foreword::chat::ChatTemplate;
use foreword::engine::openai::{Body, Service, Stamp, error_body, makers_settings};
use foreword::engine::{Engine, Request, RequestId};
use foreword::model::{ModelOptions, Progress};
use foreword::sample::Params;
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
    kv_memory: Option<usize>,
    speculate: Option<Speculate>,
    sampling: Option<Value>,
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
    service: Service,
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
            self.service.engine_mut().restore(sources, backend, &mut reporter(&progress)).await
        };
        restored.await.map_err(|e| to_js(&e))
    }

    /// Adds a sidecar, with which prompts are read by prediction, and says how they are read where a request does not.
    /// Returns whether it was made for this very quantization of the model.
    pub async fn add_sidecar(&mut self, source: JsValue, prefill: String) -> std::result::Result<bool, JsValue> {
        let source = source::open(source).map_err(|e| to_js(&e))?;
        let engine = self.service.engine_mut();
        let same = engine.add_sidecar(vec![source]).await.map_err(|e| to_js(&e))?;
        let prefill = prefill.parse().and_then(|prefill| engine.set_prefill(prefill));
        prefill.map_err(|e| to_js(&e))?;
        Ok(same)
    }

    /// Whether a request (OpenAI's JSON) says what its answer has to look like, so that [`Session::constrain`] must be called first.
    pub fn is_constrained(body: &str) -> bool {
        Body::parse(body).is_ok_and(|body| body.is_constrained())
    }

    /// Lets answers be kept to what they have to look like. `make(bytes, lengths, ends, tokenize)` makes the `Vocabulary` of
    /// `foreword-constrain`, in a `.wasm` of its own.
    pub fn constrain(&mut self, make: &Function) -> std::result::Result<(), JsValue> {
        let compiler = constrain::compiler(self.service.engine().tokenizer(), make)?;
        self.service.set_compiler(compiler);
        Ok(())
    }

    /// Queues a request (OpenAI's JSON); returns its number. `id` is unique, `seed` is taken where the request has none.
    pub fn submit(&mut self, body: &str, id: &str, created: f64, seed: u32) -> std::result::Result<f64, JsValue> {
        let stamp = Stamp { id, created: created as u64, seed: u64::from(seed) };
        self.service.submit(body, &stamp).map(|id| id.0 as f64).map_err(|e| to_js(&e))
    }

    /// How many tokens the prompts of a request have (OpenAI's JSON), as `submit` would read them.
    pub fn count_tokens(&self, body: &str) -> std::result::Result<f64, JsValue> {
        self.service.count_tokens(body).map(|n| n as f64).map_err(|e| to_js(&e))
    }

    /// Queues a run of the benchmark: `prompt` tokens of noise, `gen` tokens of answer, without guesses: what
    /// follows noise says nothing about them. Its answer is its `usage`.
    pub fn submit_benchmark(&mut self, prompt: usize, generate: usize) -> std::result::Result<f64, JsValue> {
        self.service.engine_mut().clear_cache();
        let n_vocab = self.service.engine().model().config().n_vocab as u32;
        let noise = (0..prompt as u32).map(|i| i.wrapping_mul(2_654_435_761) % n_vocab);
        let request = Request {
            prompt: noise.collect(),
            max_tokens: Some(generate),
            ignore_eos: true,
            plain: true,
            ..Request::default()
        };
        let stamp = Stamp { id: "benchmark", ..Stamp::default() };
        self.service.submit_request(request, &stamp).map(|id| id.0 as f64).map_err(|e| to_js(&e))
    }

    /// Ends a request; the next step reports it.
    pub fn cancel(&mut self, id: f64) {
        self.service.cancel(RequestId(id as u64));
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.service.is_idle()
    }

    /// One forward. Returns JSON: a list of `{id, value, done}` and `{id, error}`.
    pub async fn step(&mut self) -> std::result::Result<String, JsValue> {
        let replies = self.service.step().await.map_err(|e| to_js(&e))?;
        let out = replies.into_iter().map(|reply| match reply.value {
            Ok(value) => json!({"id": reply.id.0, "value": value, "done": reply.done}),
            Err(error) => json!({"id": reply.id.0, "error": error_body(&error)["error"]}),
        });
        Ok(Value::Array(out.collect()).to_string())
    }

    /// Writes a request (OpenAI's JSON) and what is known of its conversation by calls of `write(bytes)`. Returns how many tokens are known.
    pub async fn save(&mut self, body: String, write: Function) -> std::result::Result<f64, JsValue> {
        let saved = self.service.save(&body, &mut source::Writer(write)).await;
        saved.map(|n| n as f64).map_err(|e| to_js(&e))
    }

    /// Reads what `save` wrote from an object `{size, read(offset, length)}` that answers at once. Returns JSON: `{request, tokens}`.
    pub fn open(&mut self, bytes: JsValue) -> std::result::Result<String, JsValue> {
        let mut input = source::Reader { bytes: bytes.unchecked_into(), at: 0.0 };
        let saved = self.service.engine_mut().open(&mut input).map_err(|e| to_js(&e))?;
        Ok(json!({"request": saved.note, "tokens": saved.tokens.len()}).to_string())
    }

    /// Text to tokens, without BOS.
    pub fn tokenize(&self, text: &str, special: bool) -> Vec<u32> {
        self.service.engine().tokenizer().encode(text, special)
    }

    /// Tokens to text.
    pub fn detokenize(&self, tokens: &[u32]) -> std::result::Result<String, JsValue> {
        let n_vocab = self.service.engine().tokenizer().n_vocab();
        match tokens.iter().find(|t| **t as usize >= n_vocab) {
            Some(token) => {
                Err(to_js(&Error::invalid_request(format!("token {token} is not in the vocabulary of {n_vocab}"))))
            }
            None => Ok(self.service.engine().tokenizer().decode(tokens)),
        }
    }

    /// What the model is and what it runs on, as JSON.
    pub fn info(&self) -> String {
        let model = self.service.engine().model();
        let (config, device) = (model.config(), model.backend().info());
        json!({
            "name": config.name,
            "architecture": config.architecture,
            "contextLength": model.context_length(),
            "trainedContextLength": config.context_length,
            "vocabulary": config.n_vocab,
            "layers": config.layers.len(),
            "dimension": config.dim,
            "chat": self.service.template().is_ok(),
            "backend": device.backend,
            "device": device.device,
            "threads": device.threads,
        })
        .to_string()
    }

    /// Bytes held, as JSON.
    pub fn memory(&self) -> String {
        let memory = self.service.engine().memory();
        json!({"weights": memory.weights, "cache": memory.cache, "buffers": memory.buffers}).to_string()
    }

    /// Milliseconds that a GPU's kernels took to compile so far.
    pub fn compile_ms(&self) -> f64 {
        self.service.engine().model().backend().activity().compile_ms
    }

    /// Times of a GPU's kernels so far, as JSON; empty where they are not measured.
    pub fn kernels(&self) -> String {
        let times = self.service.engine().model().backend().kernel_times().into_iter();
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

/// A helper thread's life; returns when the model is freed. `address` is what `start` was called with, for this thread.
#[wasm_bindgen]
#[allow(unsafe_code, reason = "JavaScript starts the thread")]
pub fn worker_main(address: usize) {
    // SAFETY: `thread.ts` passes each address that `start_threads` gave out once.
    unsafe { pool::worker_main(address) }
}

/// To be called when `worker_main` trapped: the thread that waits for this one fails then, instead of waiting for ever.
#[wasm_bindgen]
#[allow(unsafe_code, reason = "JavaScript starts the thread")]
pub fn worker_failed(address: usize) {
    // SAFETY: `thread.ts` calls this only after a trap of `worker_main` with this address.
    unsafe { pool::worker_failed(address) }
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn now() -> f64;
}

/// Milliseconds from 1970-01-01 to what the clock of the user shows.
fn wall_clock() -> f64 {
    let now = js_sys::Date::new_0();
    now.get_time() - now.get_timezone_offset() * 6e4
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
    let LoadOptions { context_length, kv_memory, .. } = options;
    let model = ModelOptions { context_length, cache_type, kv_memory, ..ModelOptions::default() };
    let mut engine = Engine::load(sources, backend, &model, now, &mut reporter(progress)).await?;
    if let Some(wanted) = options.speculate {
        speculate(&mut engine, &wanted)?;
    }
    let template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer()).map(|mut template| {
        template.set_clock(wall_clock);
        template
    });
    let settings = makers_settings(&engine, options.sampling.as_ref(), &Params::default())?;
    let mut service = Service::new(engine, template, &options.name);
    service.set_defaults(settings);
    Ok(Session { service })
}

async fn open_backend(name: &str, threads: usize, start: Option<&Function>) -> Result<Box<dyn Backend>> {
    if name == "webgpu" {
        let options = backend::Options { threads: 1, level: None, profile: true, clock: now };
        return backend::open(Choice::WebGpu, &options).await;
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
fn start_threads(cpu: &Cpu, start: &Function) {
    for address in cpu.worker_addresses() {
        let _ = start.call1(&JsValue::NULL, &address.into());
    }
}

fn to_js(error: &Error) -> JsValue {
    let object = Object::new();
    let message = error.to_string();
    for (key, value) in
        [("code", Some(error.kind().row().code)), ("message", Some(&*message)), ("param", error.param())]
    {
        // Setting a property of a fresh plain object cannot fail.
        let _ = Reflect::set(&object, &key.into(), &value.into());
    }
    object.into()
}

//! What several test files share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod calls;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod expected;
pub mod random;
pub mod reference;
pub mod rounds;
pub mod rules;
pub mod sidecars;
pub mod simulated;
#[cfg(target_arch = "wasm32")]
pub mod web;

use foreword::backend::{Backend, CacheType};
use foreword::gguf::Gguf;
#[cfg(not(target_arch = "wasm32"))]
use foreword::gguf::source::FileSource;
use foreword::gguf::source::Source;
use foreword::model::{Model, ModelOptions};
use std::path::{Path, PathBuf};
#[cfg(target_arch = "wasm32")]
pub use web::{data, model_path, open_source, read};

/// The file of a model of the registry: in `$FOREWORD_MODELS` or in the command line's cache.
#[cfg(not(target_arch = "wasm32"))]
pub fn model_path(file: &str) -> PathBuf {
    let folders = [std::env::var_os("FOREWORD_MODELS"), std::env::var_os("FOREWORD_CACHE")];
    let default = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/foreword"));
    let found =
        folders.into_iter().flatten().map(PathBuf::from).chain(default).map(|f| f.join(file)).find(|f| f.exists());
    found.unwrap_or_else(|| panic!("{file} is not there; run ./test, which fetches it"))
}

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

/// Whether a script of `tests/cuda` runs the tests: backends that other runs cover are left out, and a test fails that has no
/// device.
pub fn only_cuda() -> bool {
    std::env::var_os("FOREWORD_REQUIRE_CUDA").is_some()
}

/// A file of `tests/data`.
#[cfg(not(target_arch = "wasm32"))]
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// All bytes of a file.
#[cfg(not(target_arch = "wasm32"))]
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the fixture is in the repository")
}

/// A file as a source of a model.
#[cfg(not(target_arch = "wasm32"))]
pub fn open_source(path: &Path) -> Box<dyn Source> {
    Box::new(FileSource::open(path).expect("a model file"))
}

/// The lines of a JSON-lines file of `tests/data`.
pub fn json_lines(name: &str) -> Vec<serde_json::Value> {
    let text = String::from_utf8(read(&data(name))).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// Reads the headers of a file.
pub fn open(path: &Path) -> (Gguf, Vec<Box<dyn Source>>) {
    let mut sources = vec![open_source(path)];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a sound header");
    (gguf, sources)
}

/// Loads a model.
pub fn load(path: &Path, options: &ModelOptions, backend: impl Backend + 'static) -> Model {
    let (gguf, sources) = open(path);
    pollster::block_on(Model::load(&gguf, sources, Box::new(backend), options, &mut |_| {})).expect("a sound model")
}

/// Options with an f32 cache, as the references were made.
pub fn exact_options(context: usize) -> ModelOptions {
    ModelOptions { context_length: Some(context), cache_type: CacheType::F32, ..ModelOptions::default() }
}

/// Natural log-probabilities of a row of logits.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    logits.iter().map(|&l| f64::from(l - largest) - sum.ln()).collect()
}

//! Foreword: a language-model runtime for the user's own device, obsessed with the time to the first word.

pub mod backend;
pub mod batch;
pub mod chat;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod kv;
pub mod model;
pub mod predict;
pub mod prefill;
pub mod quant;
pub mod sample;
pub mod sidecar;
pub mod speculate;
pub mod tokenizer;

pub use error::{Error, Kind, Result};

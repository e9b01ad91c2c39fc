//! A language-model runtime for the user's own device, obsessed with the time to the first word: GGUF models on processors, on
//! GPUs, and in WebAssembly.
//!
//! ```
//! use foreword::Session;
//!
//! // A model of random weights that ships with the crate; any GGUF file of a known architecture will do.
//! let mut session = Session::open("tests/data/models/llama.gguf")?;
//! for piece in session.complete("Once upon a time")?.take(8) {
//!     print!("{}", piece?);
//! }
//! # Ok::<(), foreword::Error>(())
//! ```
//!
//! A model that was trained to chat answers messages, by the template in its file. The [`Answer`] is an iterator that waits for
//! each piece of text, and a [`Stream`](futures_core::Stream) of the same pieces for async code:
//!
//! ```no_run
//! use foreword::{Session, chat::Message};
//!
//! let mut session = Session::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
//! let mut messages = vec![Message::new("user", "Why is the sky blue?")];
//! let text = session.chat(&messages)?.text()?;
//! messages.push(Message::new("assistant", text)); // The next turn reads only what is new.
//! # Ok::<(), foreword::Error>(())
//! ```
//!
//! # Where things are
//!
//! | what | where |
//! |---|---|
//! | a file, a conversation, an answer | [`Session`], [`Answer`] |
//! | many requests at once, priorities, cancelling, early first words, guesses | [`engine::Engine`] |
//! | OpenAI's JSON in, OpenAI's JSON out | [`engine::openai`] |
//! | how tokens are chosen | [`sample::Params`], and rules of one's own |
//! | who guesses what comes next | [`speculate`], and drafters of one's own: [`speculate::draft::Drafter`] |
//! | prompts that are read by prediction | [`predict`] |
//! | forwards of one's own: batches, sequences, logits | [`model::Model`], [`batch::Batch`], [`kv::KvCache`] |
//! | what is in a file | [`gguf::Gguf`], [`tokenizer::Tokenizer`], [`chat::ChatTemplate`] |
//! | devices | [`backend::open`], [`backend::Choice`] |
//!
//! The folder `examples` has a program for each of: complete, chat, batch, own_sampler, own_drafter.
//!
//! # Features
//!
//! Without features the crate runs on processors (AVX-512, AVX2, NEON, WASM's SIMD, chosen when it starts). `wgpu` adds Vulkan,
//! Metal, DirectX 12 and the browser's WebGPU; `cuda` adds NVIDIA's driver, which is looked for at run time and never linked.
//!
//! # Threads, async and WebAssembly
//!
//! [`engine::Engine`] and the futures of its methods are `Send`, except in a browser. On processors the futures are ready at
//! once; GPUs are waited for. In WebAssembly there are no files and no clock: [`Session::from_bytes`] takes a model's bytes.
//!
//! # Errors
//!
//! One type, [`Error`]: a [`Kind`] for programs, and words for people that say what was wrong, where, and what to do.

pub mod backend;
pub mod batch;
pub mod chat;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod kv;
pub mod model;
pub mod prefill;
pub mod quant;
pub mod sample;
pub mod send;
mod session;
pub mod sidecar;
pub mod speculate;
pub mod tokenizer;

pub use error::{Error, Kind, Result};
pub use model::predict;
pub use session::{Answer, Session};

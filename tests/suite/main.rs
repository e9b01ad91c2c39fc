//! Tests that need neither a GPU nor a program of their own, in one program: to link one takes as long as to run most of these.
//! `cargo test -p foreword --test suite kv` runs those of `kv.rs`.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod chat;
mod contrast;
mod cpu;
mod distribution;
mod draft_block;
mod embeddings;
mod encoders;
mod engine;
mod kv;
mod layers;
mod maps;
mod observe;
mod predict;
mod release;
mod samplers;
mod saved;
mod schedule;
mod session;
mod speculate;
mod speculate_engine;
mod states;
mod tokenizer;

//! Bad files: each a typed error that helps, no panic, no reading or memory far beyond need.

#[path = "../common/mod.rs"]
mod common;

mod header;
mod model;
mod tokenizer;

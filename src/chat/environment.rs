//! The environment of the PyPI package transformers, in minijinja.

use super::{filters, python, source};
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind};
use std::fmt;

/// Instructions, and units of 64 bytes, that one prompt may cost: 256 MiB of text, far above any context.
const FUEL: u64 = 1 << 22;

/// Levels of minijinja: a macro that calls itself takes 6 of them, 7 in a loop. Jinja2 ends at 195 calls, where Python does.
const LEVELS: usize = 1600;

/// What [`LEVELS`] take (1.2 MiB: 4.4 KB a call of a macro, `cargo test`), and room for what runs at the deepest one.
const STACK: usize = 2 << 20;

/// Runs `work` where there is stack enough for the deepest template, on whatever thread, in WASM, too.
pub(super) fn on_a_deep_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK, STACK, work)
}

/// An environment that behaves as that of transformers.
pub(super) fn new() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| Error::unsupported(format!("template syntax: {e}")))?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(python::method);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(LEVELS);
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
            if *state.auto_escape() == AutoEscape::None =>
        {
            out.write_str(&python::text(value)).map_err(minijinja::Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_function(source::LOAD, || -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::TemplateNotFound, "a model's file has no other templates"))
    });
    filters::add(&mut env);
    Ok(env)
}

/// The template called `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

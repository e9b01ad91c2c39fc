//! `foreword inspect` and `foreword tokenize`.

use crate::args::{InspectArgs, TokenizeArgs};
use crate::run::read_stdin;
use crate::{load, term};
use foreword::Result;
use foreword::gguf::{Gguf, Value};
use foreword::model::config_of;
use foreword::tokenizer::Tokenizer;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    let gguf = load::header(&args.model)?;
    if args.report.json {
        let metadata: serde_json::Map<_, _> =
            gguf.metadata.iter().map(|(k, v)| (k.to_string(), summary(v).into())).collect();
        let tensors: Vec<_> = gguf
            .tensors
            .iter()
            .map(|t| json!({"name": t.name, "type": t.ty.name(), "dims": t.dims, "bytes": t.n_bytes}))
            .collect();
        return term::print_json(&json!({"version": gguf.version, "metadata": metadata, "tensors": tensors}));
    }
    let mut out = format!("GGUF version {}\n", gguf.version);
    for (key, value) in gguf.metadata.iter() {
        let _ = writeln!(out, "{key} = {}", summary(value));
    }
    out.push_str(&tensors(&gguf, args.tensors));
    match config_of(&gguf, None) {
        Ok(c) => {
            let heads = (0..c.layers.len())
                .find_map(|layer| c.attention(layer))
                .map_or(String::new(), |a| format!(", {} heads over {} of {}", a.n_heads, a.n_kv_heads, a.head_dim));
            let (layers, dim, context) = (c.layers.len(), c.dim, c.context_length);
            let _ = writeln!(out, "Foreword runs it: {layers} layers of {dim}{heads}, context {context}");
        }
        Err(e) => {
            let _ = writeln!(out, "Foreword cannot run it: {e}");
        }
    }
    term::print(&out)
}

fn tensors(gguf: &Gguf, all: bool) -> String {
    let mut out = String::new();
    let mut types: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for t in &gguf.tensors {
        let entry = types.entry(t.ty.name()).or_default();
        *entry = (entry.0 + 1, entry.1 + t.n_bytes);
        if all {
            let _ = writeln!(out, "{:<40} {:<6} {:?}", t.name, t.ty.name(), t.dims);
        }
    }
    let _ = writeln!(out, "{} tensors:", gguf.tensors.len());
    for (name, (n, bytes)) in types {
        let _ = writeln!(out, "  {n:>5} {name:<6} {:>9.1} MiB", bytes as f64 / f64::from(1 << 20));
    }
    out
}

/// A value on one line.
fn summary(value: &Value) -> String {
    let short = |text: &str| {
        let line = text.replace('\n', "\\n");
        let cut: String = line.chars().take(100).collect();
        if cut.len() < line.len() { format!("{cut}…") } else { cut }
    };
    match value {
        Value::Unsigned(v) => v.to_string(),
        Value::Signed(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => short(v),
        Value::Integers(v) => format!("{} integers: {:?}", v.len(), v.iter().take(8).collect::<Vec<_>>()),
        Value::Floats(v) => format!("{} floats: {:?}", v.len(), v.iter().take(8).collect::<Vec<_>>()),
        Value::Bools(v) => format!("{} booleans: {:?}", v.len(), v.iter().take(8).collect::<Vec<_>>()),
        Value::Other(what) => (*what).to_string(),
        Value::Strings(v) => format!("{} strings: {:?}", v.len(), v.iter().take(8).collect::<Vec<_>>()),
    }
}

pub(crate) fn tokenize(args: &TokenizeArgs) -> Result<()> {
    let gguf = load::header(&args.model)?;
    let tokenizer = Tokenizer::from_gguf(&gguf.metadata)?;
    let text = if args.text == "-" { read_stdin()? } else { args.text.clone() };
    let tokens = tokenizer.encode(&text, args.parse_special);
    if args.report.json {
        return term::print_json(&json!({"tokens": tokens}));
    }
    let mut out = String::new();
    for &token in &tokens {
        let _ = writeln!(out, "{token:>7} {:?}", tokenizer.decode(&[token]));
    }
    term::print(&out)
}

//! `foreword embed`: the lines of a file to vectors.

use crate::args::EmbedArgs;
use crate::{load, term};
use foreword::engine::openai::{normalize, numbers};
use foreword::model::Text;
use foreword::{Error, Result};
use serde_json::{Value, json};
use std::io::Read;

pub(crate) fn embed(args: &EmbedArgs) -> Result<()> {
    let text = read(&args.file)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut engine = load::engine(&args.model, &args.load)?;
    let (pooling, all) = (engine.pooling()?, engine.model().embedding_dim());
    let dimensions = args.dimensions.unwrap_or(all);
    if !(1..=all).contains(&dimensions) {
        return Err(Error::invalid_request(format!("--dimensions is {dimensions}; it must be from 1 to {all}")));
    }
    let tokens: Vec<Vec<u32>> = lines.iter().map(|line| engine.tokenizer().encode_whole(line)).collect();
    let texts: Vec<Text<'_>> = tokens.iter().map(|tokens| Text::one(tokens)).collect();
    for (i, text) in texts.iter().enumerate() {
        engine.model().check_text(text).map_err(|e| e.at(format!("line {}", i + 1)))?;
    }
    let started = load::clock();
    let mut vectors = Vec::new();
    for texts in texts.chunks(if args.one_by_one { 1 } else { texts.len().max(1) }) {
        vectors.extend(pollster::block_on(engine.embed(texts, pooling))?);
    }
    let texts_s = texts.len() as f64 / (load::clock() - started).max(1e-3) * 1e3;
    for vector in &mut vectors {
        vector.truncate(dimensions);
        normalize(vector);
    }
    let embeddings: Vec<Value> = vectors.iter().map(|vector| numbers(vector)).collect();
    if args.report.json {
        let model = args.model.to_string();
        return term::print_json(
            &json!({"model": model, "dimensions": dimensions, "texts_s": texts_s, "embeddings": embeddings}),
        );
    }
    term::note(&format!("{} texts, {dimensions} dimensions, {texts_s:.1} texts/s", texts.len()));
    let out: String = embeddings.iter().map(|vector| format!("{vector}\n")).collect();
    term::print(&out)
}

/// The text of a file, or of standard input for `-`.
fn read(path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(|_| text),
        false => std::fs::read_to_string(path),
    };
    read.map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))
}

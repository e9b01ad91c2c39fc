//! What an answer has to look like, from the command line.

use clap::Args;
use foreword::engine::Engine;
use foreword::sample::{Constraint, Rule};
use foreword::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an answer has to look like.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct FormArgs {
    /// The answer is JSON that fits the schema in this file
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// The answer fits the Lark grammar in this file
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
}

impl FormArgs {
    /// The rules that keep an answer to it.
    pub(crate) fn rules(&self, engine: &Engine) -> Result<Vec<Box<dyn Rule>>> {
        let (from, constraint) = if let Some(path) = &self.json_schema {
            let schema = json_file(path)?;
            (format!("--json-schema {}", path.display()), Constraint::Schema { schema, strict: true })
        } else if let Some(path) = &self.grammar {
            (format!("--grammar {}", path.display()), Constraint::Lark(read(path)?))
        } else if let Some(pattern) = &self.regex {
            ("--regex".to_string(), Constraint::Regex(pattern.clone()))
        } else {
            return Ok(Vec::new());
        };
        let compiler = foreword_constrain::compiler(Arc::clone(engine.tokenizer()));
        Ok(vec![compiler.compile(&constraint).map_err(|e| e.at(from))?])
    }
}

/// The JSON in a file.
pub(crate) fn json_file(path: &Path) -> Result<Value> {
    serde_json::from_str(&read(path)?)
        .map_err(|e| Error::invalid_request(format!("{} is no JSON: {e}", path.display())).caused_by(e))
}

/// The text in a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))
}

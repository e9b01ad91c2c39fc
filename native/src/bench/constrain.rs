//! `foreword bench constrain`: how many answers fit their schemas, what a form costs, and what forced tokens save.

use crate::args::{JsonArg, LoadArgs, ModelArg};
use crate::form::json_file;
use crate::run::answer_to;
use crate::{load, term};
use clap::Args;
use foreword::engine::{Engine, FinishReason, Request};
use foreword::sample::{Compiler, Constraint, Effect, LogitsMut, Params, Rule};
use foreword::{Error, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(crate) struct ConstrainArgs {
    #[command(flatten)]
    model: ModelArg,
    /// JSON schemas: a folder with a file each, or a file with one a line
    #[arg(long, value_name = "PATH")]
    schemas: PathBuf,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 200, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    report: JsonArg,
    #[command(flatten)]
    load: LoadArgs,
}

/// Sums over all schemas.
#[derive(Default)]
struct Sums {
    n: usize,
    valid: usize,
    cut: usize,
    refused: usize,
    compile_ms: f64,
    free_ms: f64,
    unforced_ms: f64,
    forced_ms: f64,
    tokens: usize,
    forwards: usize,
}

pub(crate) fn constrain(args: &ConstrainArgs) -> Result<()> {
    let mut engine = load::engine(&args.model, &args.load)?;
    let compiler = foreword_constrain::compiler(Arc::clone(engine.tokenizer()));
    // The vocabulary is prepared once.
    compiler.compile(&Constraint::Regex("a".into()))?;
    let mut sums = Sums::default();
    for (place, schema) in schemas(&args.schemas)? {
        one(&mut engine, &*compiler, &schema, args.max_tokens, &mut sums).map_err(|e| e.at(place))?;
    }
    if sums.n == 0 {
        return Err(Error::invalid_request(format!(
            "there is no schema in {} that can be kept to",
            args.schemas.display()
        )));
    }
    let report = json!({
        "model": args.model,
        "n": sums.n,
        "valid": sums.valid,
        "cut": sums.cut,
        "refused": sums.refused,
        "compile_ms": sums.compile_ms / sums.n as f64,
        "overhead": sums.unforced_ms / sums.free_ms - 1.0,
        "speedup_forced": sums.unforced_ms / sums.forced_ms,
        "tokens": sums.tokens,
        "forwards": sums.forwards,
    });
    if args.report.json {
        return term::print_json(&report);
    }
    term::print(&format!(
        "{} of {} answers fit, {} were cut at their length, {} schemas were refused\n\
         compiling a schema takes {:.1} ms, a form {:.1} % of a token's time; with forced tokens answers take 1 / {:.2} of the time\n",
        sums.valid,
        sums.n,
        sums.cut,
        sums.refused,
        sums.compile_ms / sums.n as f64,
        100.0 * (sums.unforced_ms / sums.free_ms - 1.0),
        sums.unforced_ms / sums.forced_ms,
    ))
}

/// The schemas of a folder or of a file's lines, each with its place.
fn schemas(path: &PathBuf) -> Result<Vec<(String, Value)>> {
    let place = path.display();
    if path.is_dir() {
        return files(path)?.iter().map(|path| Ok((path.display().to_string(), json_file(path)?))).collect();
    }
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::storage(format!("cannot read {place}: {e}")).caused_by(e))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let schema = |(line, n): (&str, usize)| {
        let place = format!("line {n} of {place}");
        let schema =
            serde_json::from_str(line).map_err(|e| Error::invalid_request(format!("{place} is no JSON: {e}")))?;
        Ok((place, schema))
    };
    lines.map(schema).collect()
}

/// The JSON files of a folder, in order.
fn files(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::storage(format!("cannot read {}: {e}", folder.display())).caused_by(e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut files = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    Ok(files)
}

/// The greedy answer for a schema, with and without forced tokens, and as many tokens of an answer of any form.
fn one(engine: &mut Engine, compiler: &dyn Compiler, schema: &Value, max_tokens: usize, sums: &mut Sums) -> Result<()> {
    let started = load::clock();
    let constraint = Constraint::Schema { schema: schema.clone(), strict: true };
    let Ok(rule) = compiler.compile(&constraint) else {
        sums.refused += 1;
        return Ok(());
    };
    sums.compile_ms += load::clock() - started;
    let prompt = engine.prompt(&format!("JSON that fits this schema: {schema}\n"), false);
    let params = Params { temperature: 0.0, ..Params::default() };
    let free = Request { prompt, params, max_tokens: Some(max_tokens), ..Request::default() };
    let ask = |engine: &mut Engine, request: Request| {
        let mut text = String::new();
        let done = answer_to(engine, request, &mut || false, &mut |token| {
            text.push_str(&token.text);
            Ok(())
        })?;
        text.push_str(&done.text);
        Ok::<_, Error>((text, done))
    };
    // Reads the prompt: all three begin behind it.
    ask(engine, Request { max_tokens: Some(1), ..free.clone() })?;
    let (text, forced) = ask(engine, Request { rules: vec![rule.clone()], ..free.clone() })?;
    let (_, unforced) = ask(engine, Request { rules: vec![Box::new(Unforced(rule))], ..free.clone() })?;
    let tokens = unforced.usage.completion_tokens;
    let (_, free) = ask(engine, Request { ignore_eos: true, max_tokens: Some(tokens), ..free })?;
    let ms = |usage: foreword::engine::Usage| usage.ttft_ms + usage.decode_ms;
    sums.n += 1;
    sums.tokens += forced.usage.completion_tokens;
    sums.forwards += forced.usage.forwards;
    sums.free_ms += ms(free.usage);
    sums.unforced_ms += ms(unforced.usage);
    sums.forced_ms += ms(forced.usage);
    match forced.reason {
        FinishReason::Stop => sums.valid += usize::from(fits(schema, &text)?),
        _ => sums.cut += 1,
    }
    Ok(())
}

/// Whether a text fits; by another implementation of JSON Schema than the one that made the grammar.
fn fits(schema: &Value, text: &str) -> Result<bool> {
    let failed = |e: boon::CompileError| Error::invalid_request(format!("the schema cannot be checked: {e}"));
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.enable_format_assertions();
    compiler.add_resource("memory:schema", schema.clone()).map_err(failed)?;
    let index = compiler.compile("memory:schema", &mut schemas).map_err(failed)?;
    Ok(serde_json::from_str(text).is_ok_and(|value: Value| schemas.validate(&value, index).is_ok()))
}

/// Hides what a rule forces.
#[derive(Clone, Debug)]
struct Unforced(Box<dyn Rule>);

impl Rule for Unforced {
    fn effect(&self, ahead: usize) -> Effect {
        self.0.effect(ahead)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        self.0.adjust(ahead, logits);
    }

    fn read(&mut self, prompt: &[u32]) {
        self.0.read(prompt);
    }

    fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }

    fn conclude(&mut self) -> bool {
        self.0.conclude()
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

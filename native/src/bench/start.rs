//! `foreword bench start`: every part of the way from the command to the first word, in milliseconds.

use super::median;
use crate::args::{JsonArg, LoadArgs, ModelArg};
use crate::{load, run, store, term};
use clap::Args;
use foreword::chat::Message;
use foreword::engine::{Engine, Request};
use foreword::gguf::Gguf;
use foreword::gguf::source::{Read, Source};
use foreword::model::ModelOptions;
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// What is asked
    #[arg(long, value_name = "TEXT", default_value = "Write one sentence about the sea.")]
    pub(crate) prompt: String,
    /// Starts with a file that the system has read before; medians are reported
    #[arg(long, default_value_t = 5, value_name = "R")]
    pub(crate) reps: usize,
    #[command(flatten)]
    pub(crate) report: JsonArg,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// The parts, in their order, and what they are.
const PARTS: [(&str, &str); 9] = [
    ("process", "the program starts"),
    ("header", "metadata and list of tensors"),
    ("tokenizer", "its tables"),
    ("cache", "memory for keys and values, and all before the first tensor"),
    ("file", "bytes of tensors read"),
    ("weights", "tensors checked and repacked"),
    ("buffers", "work memory"),
    ("prompt", "template and tokens"),
    ("first word", "prefill and one choice"),
];

/// Milliseconds of each part.
type Times = [f64; PARTS.len()];

pub(crate) fn start(args: &StartArgs) -> Result<()> {
    if args.reps == 0 {
        return Err(Error::invalid_request("--reps must be at least 1"));
    }
    let path = store::find(&args.model)?;
    let cold = if forget(&path) { Some(once(args, &path)?) } else { None };
    let warm = (0..args.reps).map(|_| once(args, &path)).collect::<Result<Vec<Times>>>()?;
    let warm: Times = std::array::from_fn(|i| median(&mut warm.iter().map(|times| times[i]).collect::<Vec<_>>()));
    let rows = PARTS.iter().enumerate().map(|(i, (part, what))| {
        json!({ "part": part, "what": what, "cold_ms": cold.map(|cold| cold[i]), "warm_ms": warm[i] })
    });
    let report = json!({
        "model": args.model,
        "rows": rows.collect::<Vec<_>>(),
        "cold_ms": cold.map(|cold| cold.iter().sum::<f64>()),
        "warm_ms": warm.iter().sum::<f64>(),
    });
    if args.report.json {
        return term::print_json(&report);
    }
    let ms = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.1}"));
    let mut table = format!("{:<12}{:>10}{:>10}\n", "ms", "cold", "warm");
    for (i, (part, what)) in PARTS.iter().enumerate() {
        table += &format!("{part:<12}{:>10}{:>10}  {what}\n", ms(cold.map(|cold| cold[i])), ms(Some(warm[i])));
    }
    let sum = |times: &Times| times.iter().sum::<f64>();
    table += &format!("{:<12}{:>10}{:>10}\n", "in all", ms(cold.as_ref().map(sum)), ms(Some(sum(&warm))));
    term::print(&table)
}

/// Has the system forget what it keeps of a file; `false` where that cannot be asked for. Other programs' pages of it stay.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> bool {
    use rustix::fs::{Advice, fadvise};
    std::fs::File::open(path).is_ok_and(|file| fadvise(&file, 0, None, Advice::DontNeed).is_ok())
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &Path) -> bool {
    false
}

/// One start.
fn once(args: &StartArgs, path: &Path) -> Result<Times> {
    let process = timed(start_process)?.1;
    let (gguf, header) = timed(|| pollster::block_on(Gguf::read(&mut store::sources(path)?)))?;
    let (_, tokenizer) = timed(|| Tokenizer::from_gguf(&gguf.metadata))?;
    let reading = Arc::new(Mutex::new(0.0));
    let sources = store::sources(path)?.into_iter();
    let sources = sources.map(|inner| Box::new(Timed { inner, spent: reading.clone() }) as Box<dyn Source>).collect();
    let options = ModelOptions {
        context_length: args.load.context,
        cache_type: args.load.cache_type.into(),
        ..ModelOptions::default()
    };
    let backend = load::backend(&args.load)?;
    let (mut first, mut last) = (None, 0.0);
    let started = load::clock();
    let mut progress = |_| {
        last = load::clock();
        first.get_or_insert((last, *reading.lock().unwrap_or_else(PoisonError::into_inner)));
    };
    let mut engine = pollster::block_on(Engine::load(sources, backend, &options, load::clock, &mut progress))
        .map_err(|e| e.at(path.display()))?;
    let loaded = load::clock();
    let (first, read_before) = first.unwrap_or((loaded, 0.0));
    let file = *reading.lock().unwrap_or_else(PoisonError::into_inner);
    // The engine reads header and tokenizer itself, too.
    let cache = (first - started - read_before - header - tokenizer).max(0.0);
    let weights = (last - first - (file - read_before)).max(0.0);
    let (prompt, tokens) = timed(|| prompt_of(&engine, &args.prompt))?;
    let request = Request { prompt, max_tokens: Some(1), ignore_eos: true, ..Request::default() };
    let (_, word) = timed(|| run::answer_to(&mut engine, request, &mut || false, &mut |_| Ok(())))?;
    Ok([process, header, tokenizer, cache, file, weights, loaded - last, tokens, word])
}

/// The conversation of one message, or the text itself where the model has no chat template.
fn prompt_of(engine: &Engine, text: &str) -> Result<Vec<u32>> {
    match load::chat_template(engine) {
        Ok(template) => Ok(engine.prompt(&template.render(&[Message::new("user", text)], None, true)?, true)),
        Err(_) => Ok(engine.prompt(text, false)),
    }
}

/// Runs this program until it could begin.
fn start_process() -> Result<()> {
    let cannot = |e: std::io::Error| Error::storage(format!("cannot start this program again: {e}")).caused_by(e);
    let program = std::env::current_exe().map_err(cannot)?;
    Command::new(program).arg("--version").stdout(Stdio::null()).status().map_err(cannot)?;
    Ok(())
}

fn timed<T>(job: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let started = load::clock();
    let value = job()?;
    Ok((value, load::clock() - started))
}

/// A source that counts the milliseconds of its reads.
struct Timed {
    inner: Box<dyn Source>,
    spent: Arc<Mutex<f64>>,
}

impl Source for Timed {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        Box::pin(async move {
            let started = load::clock();
            let read = self.inner.read_at(offset, buf).await;
            *self.spent.lock().unwrap_or_else(PoisonError::into_inner) += load::clock() - started;
            read
        })
    }
}

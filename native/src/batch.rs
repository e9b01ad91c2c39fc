//! `foreword batch`: a file of requests to a file of answers, in the lines of OpenAI's batch API.
//!
//! Answers are appended as they come, whole lines at a time, and forced to the disk. So a run that was killed goes on where
//! it was: lines that are there are kept, a torn last one is dropped, and requests whose `custom_id` has a line are skipped.

mod input;
mod output;

use crate::args::BatchArgs;
use crate::{load, term};
use foreword::engine::RequestId;
use foreword::engine::openai::{Body, Reply, Service, Stamp, error_body};
use foreword::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use input::{Line, read_lines};
use output::Output;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Requests that are handed to the engine at once: enough to pack and to find common beginnings, few enough to hold.
const QUEUE: usize = 256;

/// Most choices of all of them: a request may have 128 for each of its prompts.
const MOST_CHOICES: usize = 8192;

pub(crate) fn batch(args: &BatchArgs) -> Result<()> {
    let lines = read_lines(&args.prompts)?;
    let mut out = Output::open(&args.output, &args.prompts)?;
    let n_known = lines.iter().filter(|l| out.known.contains(&l.custom_id)).count();
    let bar = progress_bar(lines.len(), n_known);
    let todo: Vec<Line> = lines.into_iter().filter(|l| !out.known.contains(&l.custom_id)).collect();
    if todo.is_empty() {
        bar.finish_and_clear();
        term::note(&format!("all {n_known} answers are in {}", args.output.display()));
        return Ok(());
    }
    let mut load_args = args.load.clone();
    load_args.cache_tokens = args.cache_tokens;
    let mut engine = load::engine(&args.model, &load_args)?;
    // Nobody watches the answers being written.
    engine.set_step_target(f64::INFINITY);
    let template = load::chat_template(&engine);
    let started = load::clock();
    let compiler = foreword_constrain::compiler(Arc::clone(engine.tokenizer()));
    let mut service = Service::new(engine, template, &args.model.to_string());
    service.set_compiler(compiler);
    service.set_limit(MOST_CHOICES);
    let mut run = Run { service, ids: HashMap::new() };
    let mut counts = Counts { known: n_known, ..Counts::default() };
    let mut todo = todo.into_iter().peekable();
    loop {
        let mut text = String::new();
        while run.service.len() < QUEUE
            && let Some(line) = todo.peek()
        {
            match run.submit(line) {
                // Its choices have room when others are done.
                Err(error) if error.kind() == Kind::Busy => break,
                Err(error) => counts.add(&mut text, &line.custom_id, Err(error)),
                Ok(()) => {}
            }
            todo.next();
        }
        // What a lost device ended is tried again by the next run.
        for Reply { id, value, .. } in pollster::block_on(run.service.step())? {
            if let Some(custom_id) = run.ids.remove(&id) {
                counts.add(&mut text, &custom_id, value);
            }
        }
        out.append(&text)?;
        bar.set_position((counts.known + counts.answers + counts.errors) as u64);
        bar.set_message(counts.speed(started));
        if run.service.is_empty() && todo.len() == 0 {
            break;
        }
    }
    bar.finish_and_clear();
    term::note(&format!(
        "{} answers and {} errors in {}, {} lines were there already; {}",
        counts.answers,
        counts.errors,
        args.output.display(),
        counts.known,
        counts.speed(started)
    ));
    Ok(())
}

/// What runs.
struct Run {
    service: Service,
    /// Of the requests under way.
    ids: HashMap<RequestId, String>,
}

impl Run {
    fn submit(&mut self, line: &Line) -> Result<()> {
        if line.method.as_deref().is_some_and(|m| m != "POST") {
            return Err(Error::invalid_request("the method must be POST"));
        }
        let mut body = Body::from_value(&line.body)?;
        let (needed, there) = match line.url.as_str() {
            "/v1/chat/completions" => ("messages", body.messages.is_some()),
            "/v1/completions" => ("a prompt", body.prompts.is_some()),
            url => {
                return Err(Error::invalid_request(format!(
                    "the url is {url:?}; it may be \"/v1/chat/completions\" or \"/v1/completions\""
                )));
            }
        };
        if !there {
            return Err(Error::invalid_request(format!("the body of a request to {} has {needed}", line.url)));
        }
        body.stream = false;
        let name = hash(&line.custom_id);
        // A run that goes on makes the choices that it would have made at once.
        let seed = u64::from_str_radix(&name[..16], 16).unwrap_or(0);
        let id = self.service.submit_body(body, &Stamp { id: &name[..24], created: now(), seed })?;
        self.ids.insert(id, line.custom_id.clone());
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    known: usize,
    answers: usize,
    errors: usize,
    tokens: u64,
}

impl Counts {
    /// Writes the line of a request that is over.
    fn add(&mut self, text: &mut String, custom_id: &str, value: Result<Value>) {
        let (status, body, error) = match value {
            Ok(body) => {
                self.answers += 1;
                self.tokens += body["usage"]["total_tokens"].as_u64().unwrap_or(0);
                (200, body, Value::Null)
            }
            Err(error) => {
                self.errors += 1;
                let body = error_body(&error);
                let short = json!({"code": body["error"]["code"], "message": body["error"]["message"]});
                (error.kind().row().http, body, short)
            }
        };
        let name = &hash(custom_id)[..24];
        let response = json!({"status_code": status, "request_id": format!("req_{name}"), "body": body});
        let line = json!({
            "id": answer_id(custom_id), "custom_id": custom_id, "response": response, "error": error,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }

    fn speed(&self, started: f64) -> String {
        format!("{:.0} tokens/s, read and written", self.tokens as f64 / (load::clock() - started).max(1.0) * 1e3)
    }
}

/// The `id` of an answer's line.
fn answer_id(custom_id: &str) -> String {
    format!("batch_req_{}", &hash(custom_id)[..24])
}

/// A name for a request, the same in every run.
fn hash(custom_id: &str) -> String {
    Sha256::digest(custom_id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// A bar on standard error; invisible when that is no terminal.
fn progress_bar(total: usize, known: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg} {eta}");
    let bar = ProgressBar::new(total as u64).with_position(known as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.reset_eta();
    bar
}

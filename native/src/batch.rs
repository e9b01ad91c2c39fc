//! `foreword batch`: a file of requests to a file of answers, in the lines of OpenAI's batch API.
//!
//! Answers are appended as they come, whole lines at a time, and forced to the disk. So a run that was killed goes on where
//! it was: lines that are there are kept, a torn last one is dropped, and requests whose `custom_id` has a line are skipped.

use crate::args::BatchArgs;
use crate::{load, term};
use foreword::chat::ChatTemplate;
use foreword::engine::openai::{Answer, Answers, Body, Reply, error_body};
use foreword::engine::{Engine, RequestId};
use foreword::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// Requests that are handed to the engine at once: enough to pack and to find common beginnings, few enough to hold.
const QUEUE: usize = 256;

/// A line of the input.
#[derive(Deserialize)]
struct Line {
    custom_id: String,
    method: Option<String>,
    url: String,
    body: Value,
}

pub(crate) fn batch(args: &BatchArgs) -> Result<()> {
    let lines = read_lines(&args.prompts)?;
    let mut out = Output::open(&args.output)?;
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
    let mut run = Run { engine, template, name: &args.model, answers: Answers::new(), ids: HashMap::new() };
    let mut counts = Counts { known: n_known, ..Counts::default() };
    let mut todo = todo.into_iter();
    let (mut events, mut replies) = (Vec::new(), Vec::new());
    loop {
        let room = QUEUE.saturating_sub(run.answers.len());
        let mut text = String::new();
        for line in todo.by_ref().take(room) {
            if let Err(error) = run.submit(&line) {
                counts.add(&mut text, &line.custom_id, Err(error));
            }
        }
        let step = pollster::block_on(run.engine.step(&mut events));
        for event in events.drain(..) {
            run.answers.take(&mut run.engine, event, &mut replies);
        }
        // What a lost device ended is tried again by the next run.
        step?;
        for Reply { id, value, .. } in replies.drain(..) {
            if let Some(custom_id) = run.ids.remove(&id) {
                counts.add(&mut text, &custom_id, value);
            }
        }
        out.append(&text)?;
        bar.set_position((counts.known + counts.answers + counts.errors) as u64);
        bar.set_message(counts.speed(started));
        if run.answers.is_empty() && todo.len() == 0 {
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
struct Run<'a> {
    engine: Engine,
    template: Result<ChatTemplate>,
    name: &'a str,
    answers: Answers,
    /// Of the requests under way.
    ids: HashMap<RequestId, String>,
}

impl Run<'_> {
    fn submit(&mut self, line: &Line) -> Result<()> {
        if line.method.as_deref().is_some_and(|m| m != "POST") {
            return Err(Error::invalid_request("the method must be POST"));
        }
        let mut body: Body = serde_json::from_value(line.body.clone())
            .map_err(|e| Error::invalid_request(format!("the body does not parse: {e}")))?;
        let (needed, there) = match line.url.as_str() {
            "/v1/chat/completions" => ("messages", body.messages.is_some()),
            "/v1/completions" => ("a prompt", body.prompt.is_some() && body.messages.is_none()),
            url => {
                return Err(Error::invalid_request(format!(
                    "the url is {url:?}; it may be \"/v1/chat/completions\" or \"/v1/completions\""
                )));
            }
        };
        if !there {
            return Err(Error::invalid_request(format!("the body of a request to {} has {needed}", line.url)));
        }
        body.stream = None;
        let answer = Answer::new(&body, &hash(&line.custom_id)[..24], self.name, now());
        // A run that goes on makes the choices that it would have made at once.
        let seed = u64::from_str_radix(&hash(&line.custom_id)[..16], 16).unwrap_or(0);
        let template = self.template.as_ref().map_err(|e| Error::new(e.kind(), e.to_string()));
        let id = self.answers.submit(&mut self.engine, &body, template, answer, seed)?;
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
                let row = error.kind().row();
                (row.http, error_body(&error), json!({"code": row.code, "message": error.to_string()}))
            }
        };
        let name = &hash(custom_id)[..24];
        let response = json!({"status_code": status, "request_id": format!("req_{name}"), "body": body});
        let line = json!({
            "id": format!("batch_req_{name}"), "custom_id": custom_id, "response": response, "error": error,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }

    fn speed(&self, started: f64) -> String {
        format!("{:.0} tokens/s, read and written", self.tokens as f64 / (load::clock() - started).max(1.0) * 1e3)
    }
}

/// A name for a request, the same in every run.
fn hash(custom_id: &str) -> String {
    Sha256::digest(custom_id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// The requests of a file; `custom_id`s occur once.
fn read_lines(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))?;
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| Error::invalid_request(format!("{} line {}: {what}", path.display(), i + 1));
        let line: Line = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        if !seen.insert(line.custom_id.clone()) {
            return Err(wrong(format!("the custom_id {:?} was there before", line.custom_id)));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The file of answers.
struct Output {
    file: File,
    /// `custom_id`s that have a line.
    known: HashSet<String>,
}

impl Output {
    /// Opens a file of answers, or begins one; drops a last line that was not written whole.
    fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::storage(format!("cannot open {}: {e}", path.display())).caused_by(e);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let mut known = HashSet::new();
        for (i, line) in bytes[..whole].split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            // Somebody else's file is not written to.
            let value: Value = serde_json::from_slice(line).unwrap_or_default();
            let id = value["custom_id"].as_str().ok_or_else(|| {
                Error::new(Kind::Storage, format!("{} line {} is no answer of a batch", path.display(), i + 1))
            })?;
            known.insert(id.to_string());
        }
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Output { file, known })
    }

    /// Writes whole lines, to the disk.
    fn append(&mut self, lines: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::storage(format!("cannot write answers: {e}")).caused_by(e))
    }
}

/// A bar on standard error; invisible when that is no terminal.
fn progress_bar(total: usize, known: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg} {eta}");
    let bar = ProgressBar::new(total as u64).with_position(known as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.reset_eta();
    bar
}

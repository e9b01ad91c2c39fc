//! `foreword bench prefill`: the ways to read many prompts, side by side on one backend.
//!
//! All prompts of a batch come at once; the time to a prompt's first token counts from there. The ways take turns batch by
//! batch, and another one begins every time, so
//! that a machine whose speed drifts treats them alike.

use crate::args::PrefillArgs;
use crate::{load, term};
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::engine::{Engine, Event, Request};
use foreword::model::Model;
use foreword::sample::Params;
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// A prompt's tokens.
type Prompt = Vec<u32>;

/// A way to read prompts.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    /// Each prompt padded to the longest of its batch; padding is computed and thrown away.
    Padded,
    /// One prompt after the other.
    OneAtATime,
    /// As [`Method::Padded`], with all prompts of the run sorted by length before they are cut into batches.
    LengthSorted,
    /// By the engine: packed into forwards without padding.
    Prepacked,
}

impl Method {
    const ALL: [Method; 4] = [Method::Padded, Method::OneAtATime, Method::LengthSorted, Method::Prepacked];

    fn name(self) -> &'static str {
        match self {
            Method::Padded => "padded",
            Method::OneAtATime => "one_at_a_time",
            Method::LengthSorted => "length_sorted",
            Method::Prepacked => "prepacked",
        }
    }
}

/// What reading batches one way took.
#[derive(Default)]
struct Tally {
    /// Tokens of the prompts.
    tokens: usize,
    /// Of these, tokens that were not read again, since an earlier prompt of the batch begins with them.
    shared: usize,
    /// Rows that were computed.
    rows: usize,
    /// Rows if every forward of a batch had been as wide as its widest one.
    slots: usize,
    ms: f64,
    schedule_ms: f64,
    ttft: Vec<f64>,
    most_blocks: usize,
}

pub(crate) fn prefill(args: &PrefillArgs) -> Result<()> {
    if args.batch == 0 || args.batches == 0 {
        return Err(Error::invalid_request("--batch and --batches must be at least 1"));
    }
    let gguf = load::header(&args.model)?;
    let prompts = prompts(args, &Tokenizer::from_gguf(&gguf.metadata)?)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut load_args = args.load.clone();
    load_args.context = Some(args.load.context.unwrap_or(longest + 1).max(longest + 1));
    // Room for a padded batch.
    load_args.cache_tokens = Some(args.batch * (longest + 1).next_multiple_of(foreword::backend::BLOCK));
    let mut engine = load::engine(&args.model, &load_args)?;
    engine.set_step_target(f64::INFINITY);
    let mut sorted = prompts.clone();
    sorted.sort_by_key(Vec::len);
    let mut tallies = Method::ALL.map(|method| (method, Tally::default()));
    // Not counted: the first run touches memory for the first time.
    one_at_a_time(engine.model_mut(), &prompts[..1], &mut Tally::default())?;
    for (turn, (batch, sorted)) in prompts.chunks(args.batch).zip(sorted.chunks(args.batch)).enumerate() {
        for i in 0..tallies.len() {
            let (method, tally) = &mut tallies[(turn + i) % Method::ALL.len()];
            engine.clear_cache();
            match method {
                Method::Padded => padded(engine.model_mut(), batch, tally)?,
                Method::OneAtATime => one_at_a_time(engine.model_mut(), batch, tally)?,
                Method::LengthSorted => padded(engine.model_mut(), sorted, tally)?,
                Method::Prepacked => prepacked(&mut engine, batch, tally)?,
            }
        }
    }
    let memory = engine.memory();
    let block_bytes = engine.model().kv().spec().bytes_per_token() * foreword::backend::BLOCK;
    let rows: Vec<Value> = tallies
        .iter_mut()
        .map(|(method, t)| t.row(*method, args.batch, memory.weights + memory.buffers, block_bytes))
        .collect();
    if args.report.json {
        return term::print_json(&json!({ "rows": rows }));
    }
    term::print(&format!(
        "{} prompts of {} to {longest} tokens, {} at a time, {} threads\n  {:<14} {:>9} {:>26} {:>10} {:>8} {:>8} {:>9}\n",
        prompts.len(),
        prompts.iter().map(Vec::len).min().unwrap_or(0),
        args.batch,
        engine.model().backend().info().threads,
        "method",
        "tokens/s",
        "first token (mean p50 p95)",
        "MiB",
        "padding",
        "packed",
        "schedule",
    ))?;
    for ((_, tally), row) in tallies.iter().zip(&rows) {
        let number = |v: &Value| v.as_f64().unwrap_or(0.0);
        let ttft = &row["ttft_ms"];
        term::print(&format!(
            "  {:<14} {:>9.0} {:>8.0} {:>8.0} {:>5.0} ms {:>10.0} {:>6.1} % {:>6.1} % {:>7.2} %\n",
            row["method"].as_str().unwrap_or(""),
            number(&row["prompt_tok_s"]),
            number(&ttft["mean"]),
            number(&ttft["p50"]),
            number(&ttft["p95"]),
            number(&row["peak_bytes"]) / f64::from(1 << 20),
            number(&row["padding_share"]) * 100.0,
            number(&row["packing_efficiency"]) * 100.0,
            tally.schedule_ms / tally.ms * 100.0,
        ))?;
    }
    let (_, packed) = &tallies[Method::ALL.iter().position(|m| *m == Method::Prepacked).unwrap_or(0)];
    term::print(&format!("  {} of {} tokens were shared between prompts\n", packed.shared, packed.tokens))
}

impl Tally {
    fn row(&mut self, method: Method, batch: usize, fixed: usize, block_bytes: usize) -> Value {
        self.ttft.sort_by(f64::total_cmp);
        let n = self.ttft.len().max(1);
        let at = |share: f64| self.ttft.get(((n as f64 * share).ceil() as usize).clamp(1, n) - 1).copied();
        let read = self.tokens - self.shared;
        json!({
            "method": method.name(),
            "batch": batch,
            "prompt_tok_s": self.tokens as f64 / self.ms * 1e3,
            "ttft_ms": {"mean": self.ttft.iter().sum::<f64>() / n as f64, "p50": at(0.5), "p95": at(0.95)},
            "peak_bytes": fixed + self.most_blocks * block_bytes,
            "padding_share": 1.0 - read as f64 / self.rows as f64,
            "packing_efficiency": read as f64 / self.slots as f64,
        })
    }

    /// Counts a batch whose forwards had these widths.
    fn count(&mut self, batch: &[Prompt], widths: &[usize], ms: f64) {
        self.tokens += batch.iter().map(Vec::len).sum::<usize>();
        self.rows += widths.iter().sum::<usize>();
        self.slots += widths.len() * widths.iter().max().unwrap_or(&0);
        self.ms += ms;
    }
}

/// Runs a batch that may give logits, keeps its rows and chooses the first tokens, as an engine would.
fn forward(model: &mut Model, batch: &Batch, seqs: &[SeqId], logits: &mut Vec<f32>) -> Result<()> {
    pollster::block_on(model.forward(batch, logits))?;
    for row in logits.chunks_exact(model.config().n_vocab) {
        std::hint::black_box(row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)));
    }
    seqs.iter().try_for_each(|&seq| model.kv_mut().commit_run(seq))
}

fn one_at_a_time(model: &mut Model, prompts: &[Prompt], tally: &mut Tally) -> Result<()> {
    let (mut batch, mut logits, mut widths) = (Batch::new(), Vec::new(), Vec::new());
    let started = load::clock();
    for prompt in prompts {
        let seq = model.kv_mut().new_seq();
        let step = model.max_batch();
        for (i, chunk) in prompt.chunks(step).enumerate() {
            batch.clear();
            batch.push_run(seq, chunk, (i + 1) * step >= prompt.len());
            forward(model, &batch, &[seq], &mut logits)?;
            widths.push(batch.len());
        }
        tally.ttft.push(load::clock() - started);
        tally.most_blocks = tally.most_blocks.max(model.kv().spec().n_blocks - model.kv().free_blocks());
        model.kv_mut().free(seq);
    }
    tally.count(prompts, &widths, load::clock() - started);
    Ok(())
}

/// A rectangle `[prompts, longest]`, read row by row in forwards as wide as the others' are. Its first tokens are there
/// together, at the end, as a padded batch has one output.
fn padded(model: &mut Model, prompts: &[Prompt], tally: &mut Tally) -> Result<()> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let (mut batch, mut logits, mut widths) = (Batch::new(), Vec::new(), Vec::new());
    let (mut all, mut open) = (Vec::new(), Vec::new());
    let started = load::clock();
    for prompt in prompts {
        let seq = model.kv_mut().new_seq();
        all.push(seq);
        let mut parent = None;
        for at in 0..longest {
            if open.last() != Some(&seq) {
                open.push(seq);
            }
            let token = prompt.get(at).copied().unwrap_or(0);
            parent = Some(batch.push(BatchToken { token, seq, parent, output: at + 1 == prompt.len() }));
            if batch.len() == model.max_batch() {
                forward(model, &batch, &open, &mut logits)?;
                widths.push(batch.len());
                batch.clear();
                open.clear();
                parent = None;
            }
        }
    }
    if !batch.is_empty() {
        forward(model, &batch, &open, &mut logits)?;
        widths.push(batch.len());
    }
    let ms = load::clock() - started;
    tally.ttft.extend(prompts.iter().map(|_| ms));
    tally.most_blocks = tally.most_blocks.max(model.kv().spec().n_blocks - model.kv().free_blocks());
    tally.count(prompts, &widths, ms);
    all.into_iter().for_each(|seq| model.kv_mut().free(seq));
    Ok(())
}

fn prepacked(engine: &mut Engine, prompts: &[Prompt], tally: &mut Tally) -> Result<()> {
    let params = Params { temperature: 0.0, ..Params::default() };
    let base = Request { params, max_tokens: Some(1), ignore_eos: true, ..Request::default() };
    engine.take_totals();
    let (mut events, mut widths) = (Vec::new(), Vec::new());
    let started = load::clock();
    for prompt in prompts {
        engine.submit(Request { prompt: prompt.clone(), ..base.clone() })?;
    }
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events))?;
        let totals = engine.take_totals();
        widths.push(totals.rows);
        tally.shared += totals.shared;
        tally.schedule_ms += totals.schedule_ms;
        tally.most_blocks = tally.most_blocks.max(totals.most_blocks);
        for event in events.drain(..) {
            match event {
                Event::Token(..) => tally.ttft.push(load::clock() - started),
                Event::Done(..) => {}
                Event::Failed(_, error) => return Err(error),
            }
        }
    }
    tally.count(prompts, &widths, load::clock() - started);
    Ok(())
}

/// Prompts of the run in a fixed random order, as they might come in.
fn prompts(args: &PrefillArgs, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
    let mut texts: Vec<String> = lines(&args.dataset)?.into_iter().map(|(_, text)| text).collect();
    // Fisher-Yates with a linear congruential generator.
    let mut state = 1u64;
    for i in (1..texts.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        texts.swap(i, ((state >> 33) % (i as u64 + 1)) as usize);
    }
    let encode =
        |text: &String| -> Prompt { tokenizer.add_bos().into_iter().chain(tokenizer.encode(text, false)).collect() };
    let fits = |prompt: &Prompt| (1..=args.longest.unwrap_or(usize::MAX)).contains(&prompt.len());
    let prompts: Vec<Prompt> = texts.iter().map(encode).filter(fits).take(args.batch * args.batches).collect();
    if prompts.is_empty() {
        return Err(Error::invalid_request(format!("{} has no prompt of that length", args.dataset.display())));
    }
    Ok(prompts)
}

/// The objects of a file of JSON lines and their texts: each a string, or an object with `prompt`, `question`, `text` or
/// `turns`.
pub(super) fn lines(path: &Path) -> Result<Vec<(Value, String)>> {
    let file = std::fs::read_to_string(path)
        .map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))?;
    let text_of = |(i, line): (usize, &str)| {
        let value: Value = serde_json::from_str(line)
            .map_err(|e| Error::invalid_request(format!("{} line {}: {e}", path.display(), i + 1)))?;
        let fields = ["prompt", "question", "text"].map(|name| value.get(name));
        let turn = value.get("turns").and_then(|turns| turns.get(0));
        let text = fields.into_iter().chain([turn, Some(&value)]).flatten().find_map(Value::as_str);
        let text = text.map(str::to_string).ok_or_else(|| {
            Error::invalid_request(format!(
                "{} line {}: no string, and no object with \"prompt\", \"question\", \"text\" or \"turns\"",
                path.display(),
                i + 1
            ))
        })?;
        Ok((value, text))
    };
    file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(text_of).collect()
}

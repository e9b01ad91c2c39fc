//! `foreword eval kv-prediction`: how good answers are behind a context that was predicted, pruned or read exactly.
//!
//! Behind each context of a text, the next tokens are scored: their negative log-likelihood, and how often the most probable
//! token is the one after exact reading. Multiple-choice questions come behind solved ones; the choice with the likeliest
//! tokens counts.

use crate::args::{EvalCommand, KvPredictionArgs};
use crate::{load, store, term};
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::engine::Engine;
use foreword::kv::Again;
use foreword::model::Model;
use foreword::predict::{Reading, SINKS, TAIL, share};
use foreword::{Error, Result};
use pollster::block_on;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn eval(command: &EvalCommand) -> Result<()> {
    match command {
        EvalCommand::KvPrediction(args) => kv_prediction(args),
    }
}

/// How a context is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Exact,
    Predicted,
    /// Only the first [`SINKS`] and so many last tokens.
    Pruned(usize),
}

/// Sums over everything scored one way.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    nll: f64,
    agreed: usize,
    first_agreed: usize,
    scored: usize,
    contexts: usize,
    right: usize,
    asked: usize,
}

/// A multiple-choice question.
#[derive(Deserialize)]
struct Question {
    question: String,
    choices: Vec<String>,
    answer: String,
}

fn kv_prediction(args: &KvPredictionArgs) -> Result<()> {
    if args.context_tokens < 2 * TAIL || args.scored == 0 || !(0.0..1.0).contains(&args.skip) {
        return Err(Error::invalid_request(format!(
            "--context-tokens must be at least {}, --scored at least 1, and --skip from 0 to 1",
            2 * TAIL
        )));
    }
    let sidecars = match &args.sidecar[..] {
        [] => vec![store::sidecar(&args.model)?.ok_or_else(|| {
            Error::invalid_request(format!("there is no sidecar of {}; name one with --sidecar", args.model))
        })?],
        named => named.to_vec(),
    };
    let mut load_args = args.load.clone();
    load_args.context = Some(args.load.context.unwrap_or(0).max(args.context_tokens + args.scored).max(1024));
    load_args.cache_tokens = Some(4096);
    let mut engine = load::engine(&args.model, &load_args)?;
    let windows = windows(&engine, args)?;
    let questions = args.trivia.as_deref().map(read_questions).transpose()?.unwrap_or_default();
    let n = args.context_tokens;
    let reference = references(engine.model_mut(), &windows, n)?;
    let mut rows = Vec::new();
    let mut ways = vec![("exact".to_string(), 1.0, Way::Exact, None)];
    for path in &sidecars {
        load::add_sidecar(&mut engine, path)?;
        let model = engine.model();
        let (trunk, layers) = (model.trunk().unwrap_or(0), model.config().layers.len());
        let ends = (SINKS + TAIL) as f64 / n as f64 * (1.0 - trunk as f64 / layers as f64);
        let cost = share(model.config(), trunk) + ends;
        let name = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        ways.push((format!("predicted, trunk of {trunk} ({name})"), cost, Way::Predicted, Some(path.clone())));
        let same = (n as f64 * cost) as usize - SINKS;
        ways.push((format!("pruned to first {SINKS}, last {same}"), cost, Way::Pruned(same), None));
    }
    let none = (SINKS + TAIL) as f64 / n as f64;
    ways.push((format!("no context but first {SINKS}, last {TAIL}"), none, Way::Pruned(TAIL), None));
    for (name, cost, way, sidecar) in ways {
        if let Some(path) = &sidecar {
            load::add_sidecar(&mut engine, path)?;
        }
        let mut tally = Tally::default();
        for (window, reference) in windows.iter().zip(&reference) {
            score(engine.model_mut(), way, window.split_at(n), reference, &mut tally)?;
        }
        ask(&mut engine, way, &questions, args.questions, &mut tally)?;
        rows.push(row(&name, cost, &sidecar, &tally));
    }
    let report = json!({"model": args.model, "context_tokens": n, "scored": args.scored, "rows": rows});
    if args.json {
        return term::print_json(&report);
    }
    term::print("share of exact    nats    agreement   first word    trivia    way\n")?;
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        term::print(&format!(
            "{:>14.2} {:>7.3} {:>12.3} {:>12.3} {:>9.3}    {}\n",
            number("operations"),
            number("nll"),
            number("agreement"),
            number("first_word"),
            number("accuracy"),
            row["way"].as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}

fn row(name: &str, cost: f64, sidecar: &Option<PathBuf>, t: &Tally) -> Value {
    let rate = |n: usize, all: usize| (all > 0).then(|| n as f64 / all as f64);
    json!({
        "way": name,
        "sidecar": sidecar,
        "operations": cost,
        "nll": (t.scored > 0).then(|| t.nll / t.scored as f64),
        "agreement": rate(t.agreed, t.scored),
        "first_word": rate(t.first_agreed, t.contexts),
        "accuracy": rate(t.right, t.asked),
    })
}

/// Windows of context and scored tokens, spread over the text.
fn windows(engine: &Engine, args: &KvPredictionArgs) -> Result<Vec<Vec<u32>>> {
    let Some(path) = &args.file else { return Ok(Vec::new()) };
    let text = read(path)?;
    let skip = text.char_indices().nth((text.chars().count() as f64 * args.skip) as usize).map_or(0, |(at, _)| at);
    let tokens = engine.prompt(&text[skip..], false);
    let (len, bos) = (args.context_tokens + args.scored, engine.tokenizer().add_bos());
    let count = args.chunks.min(tokens.len() / len);
    let stride = tokens.len() / count.max(1);
    let window = |i: usize| {
        let mut window = tokens[i * stride..][..len].to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        window
    };
    Ok((0..count).map(window).collect())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))
}

fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let parse = |line: &str| {
        serde_json::from_str(line).map_err(|e| Error::invalid_request(format!("{}: no question: {e}", path.display())))
    };
    read(path)?.lines().filter(|l| !l.trim().is_empty()).map(parse).collect()
}

/// The most probable tokens after exact reading.
fn references(model: &mut Model, windows: &[Vec<u32>], n: usize) -> Result<Vec<Vec<usize>>> {
    let mut all = Vec::new();
    for window in windows {
        let (seq, first) = read_context(model, Way::Exact, &window[..n])?;
        let n_vocab = model.config().n_vocab;
        let logits = behind(model, seq, first, &window[n..])?;
        model.kv_mut().free(seq);
        all.push(logits.chunks_exact(n_vocab).map(best).collect());
    }
    Ok(all)
}

/// Scores what follows a context.
fn score(
    model: &mut Model,
    way: Way,
    (context, next): (&[u32], &[u32]),
    reference: &[usize],
    tally: &mut Tally,
) -> Result<()> {
    let (seq, first) = read_context(model, way, context)?;
    let n_vocab = model.config().n_vocab;
    let logits = behind(model, seq, first, next)?;
    model.kv_mut().free(seq);
    tally.contexts += 1;
    for (i, (logits, &token)) in logits.chunks_exact(n_vocab).zip(next).enumerate() {
        let agrees = best(logits) == reference[i];
        tally.nll -= log_probability(logits, token);
        tally.agreed += usize::from(agrees);
        tally.first_agreed += usize::from(agrees && i == 0);
        tally.scored += 1;
    }
    Ok(())
}

/// Reads a context; returns its sequence and the logits behind its last token.
fn read_context(model: &mut Model, way: Way, context: &[u32]) -> Result<(SeqId, Vec<f32>)> {
    let seq = model.kv_mut().new_seq();
    let mut logits = Vec::new();
    match way {
        Way::Pruned(last) if context.len() > SINKS + last => {
            let kept = [&context[..SINKS], &context[context.len() - last..]].concat();
            append(model, seq, &kept, false, &mut logits)?;
        }
        Way::Exact | Way::Pruned(_) => append(model, seq, context, false, &mut logits)?,
        Way::Predicted => {
            let mut reading = Reading::new(false, 0..context.len());
            let (mut batch, mut streams) = (Batch::new(), Vec::new());
            for chunk in context.chunks(model.max_batch()) {
                batch.clear();
                batch.push_run(seq, chunk, false);
                block_on(model.forward_trunk(&batch, &mut streams))?;
                model.kv_mut().commit_run(seq)?;
                reading.streams.extend_from_slice(&streams);
            }
            let ends = reading.ends();
            let dim = model.config().dim;
            let streams = ends.clone().map(|run| reading.streams(run, dim)).concat();
            let [sinks, tail] = ends.map(|run| Again { seq, first: run.start, tokens: &context[run], output: true });
            let again = [Again { output: false, ..sinks }, tail];
            block_on(model.forward_again(&again, Some(&streams), &mut logits))?;
        }
    }
    Ok((seq, logits))
}

/// Logits `[next, n_vocab]` that each of `next` was to be chosen from; `first` are the first ones.
fn behind(model: &mut Model, seq: SeqId, mut first: Vec<f32>, next: &[u32]) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    for chunk in next[..next.len() - 1].chunks(model.max_batch()) {
        append(model, seq, chunk, true, &mut logits)?;
        first.extend_from_slice(&logits);
    }
    Ok(first)
}

/// Appends tokens; gives the logits of all, or of the last one.
fn append(model: &mut Model, seq: SeqId, tokens: &[u32], all: bool, logits: &mut Vec<f32>) -> Result<()> {
    let mut batch = Batch::new();
    let step = model.max_batch();
    for (c, chunk) in tokens.chunks(step).enumerate() {
        batch.clear();
        for (i, &token) in chunk.iter().enumerate() {
            let output = all || c * step + i + 1 == tokens.len();
            batch.push(BatchToken { token, seq, parent: i.checked_sub(1).map(|p| p as u32), output });
        }
        block_on(model.forward(&batch, logits))?;
        model.kv_mut().commit_run(seq)?;
    }
    Ok(())
}

/// Solved questions in front of each question.
const SOLVED: usize = 8;

/// Asks questions behind solved ones.
fn ask(engine: &mut Engine, way: Way, questions: &[Question], n: usize, tally: &mut Tally) -> Result<()> {
    let text = |q: &Question| format!("Question: {}\nAnswer:", q.question);
    let solved: String = questions.iter().take(SOLVED).map(|q| format!("{} {}\n\n", text(q), q.answer)).collect();
    let n_vocab = engine.model().config().n_vocab;
    for q in questions.iter().skip(SOLVED).take(n) {
        let prompt = engine.prompt(&format!("{solved}{}", text(q)), false);
        let choices: Vec<_> = q.choices.iter().map(|c| engine.tokenizer().encode(&format!(" {c}"), false)).collect();
        let model = engine.model_mut();
        let (seq, first) = read_context(model, way, &prompt)?;
        let len = model.kv().len(seq);
        let mut likeliest = (f64::NEG_INFINITY, 0);
        for (i, choice) in choices.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            let fork = model.kv_mut().fork(seq, len)?;
            let logits = behind(model, fork, first.clone(), choice)?;
            model.kv_mut().free(fork);
            let sum: f64 = logits.chunks_exact(n_vocab).zip(choice).map(|(l, &t)| log_probability(l, t)).sum();
            let mean = sum / choice.len() as f64;
            if mean > likeliest.0 {
                likeliest = (mean, i);
            }
        }
        model.kv_mut().free(seq);
        tally.right += usize::from(q.choices[likeliest.1] == q.answer);
        tally.asked += 1;
    }
    Ok(())
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

/// Natural logarithm of the softmax probability of one token.
fn log_probability(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    f64::from(logits[token as usize] - largest) - sum.ln()
}

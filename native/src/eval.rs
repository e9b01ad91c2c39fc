//! `foreword eval kv-prediction`: how good answers are behind a context that was predicted, pruned or read exactly.
//!
//! Behind each context of a text, the next tokens are scored: their negative log-likelihood, and how often the most probable
//! token is the one after exact reading. Multiple-choice questions come behind solved ones; the choice with the likeliest
//! tokens counts. Predictions are compared with prunings of the context to the same operations.

mod auxiliary;
mod code;
mod context;

use crate::args::{EvalCommand, KvPredictionArgs};
use crate::{load, store, term};
use auxiliary::Auxiliary;
use context::{Kept, Models, NEAR, Way, behind};
use foreword::engine::Engine;
use foreword::model::Model;
use foreword::predict::{SINKS, tail};
use foreword::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn eval(command: &EvalCommand) -> Result<()> {
    match command {
        EvalCommand::KvPrediction(args) => kv_prediction(args),
        EvalCommand::Code(args) => code::code(args),
    }
}

/// Shortest and longest tail of the comparisons; between them comes that of the run time.
const TAILS: [usize; 2] = [NEAR, 96];

/// What is compared.
struct Candidate {
    name: String,
    way: Way,
    /// Work of reading the context, as a share of exact reading's.
    cost: f64,
    /// Sidecar or auxiliary.
    file: Option<PathBuf>,
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
    let least = SINKS + TAILS[1];
    if args.context_tokens < least || args.scored == 0 || !(0.0..1.0).contains(&args.skip) {
        return Err(Error::invalid_request(format!(
            "--context-tokens must be at least {least}, --scored at least 1, and --skip from 0 to 1"
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
    let mut candidates = vec![Candidate { name: "exact".into(), way: Way::Exact, cost: 1.0, file: None }];
    for path in &sidecars {
        load::add_sidecar(&mut engine, path)?;
        predictions(engine.model(), path, n, &mut candidates);
    }
    let mut rows = Vec::new();
    let mut judge = |engine: &mut Engine, mut auxiliary: Option<&mut Auxiliary>, candidate: &Candidate| -> Result<()> {
        let mut tally = Tally::default();
        for (window, reference) in windows.iter().zip(&reference) {
            let models = Models { base: engine.model_mut(), auxiliary: auxiliary.as_deref_mut() };
            score(models, candidate.way, window.split_at(n), reference, &mut tally)?;
        }
        ask((engine, auxiliary), candidate.way, &questions, args.questions, &mut tally)?;
        rows.push(row(candidate, &tally));
        Ok(())
    };
    for candidate in &candidates {
        if let Some(path) = &candidate.file {
            load::add_sidecar(&mut engine, path)?;
        }
        judge(&mut engine, None, candidate)?;
    }
    for path in &args.auxiliary {
        let mut auxiliary = Auxiliary::load(path, engine.model().config(), &load_args)?;
        for candidate in with_auxiliary(engine.model(), &auxiliary, path, n) {
            judge(&mut engine, Some(&mut auxiliary), &candidate)?;
        }
    }
    let report = json!({"model": args.model, "context_tokens": n, "scored": args.scored, "rows": rows});
    if args.report.json { term::print_json(&report) } else { table(&rows) }
}

/// A sidecar's predictions with tails of several lengths, and prunings to the same operations.
fn predictions(model: &Model, path: &Path, n: usize, all: &mut Vec<Candidate>) {
    let (trunk, layers) = (model.trunk().unwrap_or(0), model.config().layers.len());
    let depth = trunk as f64 / layers as f64;
    let mut tails = vec![TAILS[0], tail(n), TAILS[1]];
    tails.dedup();
    for tail in tails {
        let cost = model.predicted_share().unwrap_or(1.0) + (SINKS + tail) as f64 / n as f64 * (1.0 - depth);
        let name = format!("predicted, trunk of {trunk}, last {tail} exactly ({})", file_name(path));
        all.push(Candidate { name, way: Way::Predicted(tail), cost, file: Some(path.to_path_buf()) });
        let mut pruned = |name: String, kept: Kept, n: usize| {
            if n >= NEAR && !all.iter().any(|c| c.name == name) {
                all.push(Candidate { name, way: Way::Pruned(kept, n), cost, file: None });
            }
        };
        let same = (n as f64 * cost) as usize - SINKS;
        pruned(format!("pruned to first {SINKS}, last {same}"), Kept::Last, same);
        pruned(format!("pruned to first {SINKS}, last {NEAR}, {} at random", same - NEAR), Kept::Random, same);
        // All tokens go through the layers that choose, the chosen ones through the rest.
        let chosen = ((cost - depth) / (1.0 - depth) * n as f64) as usize - SINKS;
        let name = format!(
            "pruned to first {SINKS}, last {NEAR}, {} by attention in {trunk} layers",
            chosen.saturating_sub(NEAR)
        );
        pruned(name, Kept::Attended(trunk), chosen);
    }
    let name = format!("no context but first {SINKS}, last {NEAR}");
    if !all.iter().any(|c| c.name == name) {
        let cost = (SINKS + NEAR) as f64 / n as f64;
        all.push(Candidate { name, way: Way::Pruned(Kept::Last, NEAR), cost, file: None });
    }
}

/// The paper's form, with and without exact ends, and its auxiliary alone.
fn with_auxiliary(model: &Model, auxiliary: &Auxiliary, path: &Path, n: usize) -> [Candidate; 3] {
    let (share, own) = (auxiliary.share(model.config()), auxiliary.model.config().layers.len());
    let ends = |tokens: usize| tokens as f64 / n as f64;
    let alone = own as f64 / model.config().layers.len() as f64;
    let of = format!("of {own} layers ({})", file_name(path));
    [
        (format!("auxiliary {of}, maps of its cache"), Way::Auxiliary(0, 1), share + ends(1)),
        (
            format!("auxiliary {of}, maps of its cache, first {SINKS} and last {NEAR} exactly"),
            Way::Auxiliary(SINKS, NEAR),
            share + ends(SINKS + NEAR),
        ),
        (format!("alone: auxiliary {of}"), Way::Alone, alone),
    ]
    .map(|(name, way, cost)| Candidate { name, way, cost, file: Some(path.to_path_buf()) })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default()
}

fn table(rows: &[Value]) -> Result<()> {
    term::print("share of exact    nats    agreement   first word    trivia    way\n")?;
    for row in rows {
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

fn row(candidate: &Candidate, t: &Tally) -> Value {
    let rate = |n: usize, all: usize| (all > 0).then(|| n as f64 / all as f64);
    json!({
        "way": candidate.name,
        "file": candidate.file,
        "operations": candidate.cost,
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
        let mut models = Models { base: &mut *model, auxiliary: None };
        let (seq, first) = models.read(Way::Exact, &window[..n])?;
        let n_vocab = model.config().n_vocab;
        let logits = behind(model, seq, first, &window[n..])?;
        model.kv_mut().free(seq);
        all.push(logits.chunks_exact(n_vocab).map(best).collect());
    }
    Ok(all)
}

/// Scores what follows a context.
fn score(
    mut models: Models<'_>,
    way: Way,
    (context, next): (&[u32], &[u32]),
    reference: &[usize],
    tally: &mut Tally,
) -> Result<()> {
    let (seq, first) = models.read(way, context)?;
    let model = models.answering(way);
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

/// Solved questions in front of each question.
const SOLVED: usize = 8;

/// Asks questions behind solved ones.
fn ask(
    (engine, mut auxiliary): (&mut Engine, Option<&mut Auxiliary>),
    way: Way,
    questions: &[Question],
    n: usize,
    tally: &mut Tally,
) -> Result<()> {
    let text = |q: &Question| format!("Question: {}\nAnswer:", q.question);
    let solved: String = questions.iter().take(SOLVED).map(|q| format!("{} {}\n\n", text(q), q.answer)).collect();
    let n_vocab = engine.model().config().n_vocab;
    for q in questions.iter().skip(SOLVED).take(n) {
        let prompt = engine.prompt(&format!("{solved}{}", text(q)), false);
        let choices: Vec<_> = q.choices.iter().map(|c| engine.tokenizer().encode(&format!(" {c}"), false)).collect();
        let mut models = Models { base: engine.model_mut(), auxiliary: auxiliary.as_deref_mut() };
        let (seq, first) = models.read(way, &prompt)?;
        let model = models.answering(way);
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

//! `foreword bench ttft`: the time to the first word, by length of the prompt and way of reading it.

use super::median;
use crate::args::TtftArgs;
use crate::{load, term};
use foreword::engine::{Engine, Event, Request};
use foreword::model::Model;
use foreword::predict::{Prefill, SINKS, tail};
use foreword::sample::Params;
use foreword::{Error, Result};
use serde_json::{Value, json};
use std::ops::Range;

const MODES: [(&str, Prefill); 3] =
    [("exact", Prefill::Exact), ("fast", Prefill::Fast), ("progressive", Prefill::Progressive)];

pub(crate) fn ttft(args: &TtftArgs) -> Result<()> {
    let longest = args.prompt_tokens.iter().copied().max().unwrap_or(0);
    if args.prompt_tokens.contains(&0) || longest == 0 || args.reps == 0 {
        return Err(Error::invalid_request("--prompt-tokens and --reps must be at least 1"));
    }
    let mut load_args = args.load.clone();
    load_args.context = Some(args.load.context.unwrap_or(0).max(longest + ANSWER + 1));
    let mut engine = load::engine(&args.model, &load_args)?;
    load::need_sidecar(&mut engine, &args.model, args.sidecar.as_deref())?;
    // The reading behind an answer in as few forwards as possible, as the exact one is.
    engine.set_step_target(f64::INFINITY);
    let mut rows = Vec::new();
    for &n in &args.prompt_tokens {
        let mut times = MODES.map(|_| (Vec::new(), Vec::new()));
        // Ways take turns, so that a machine whose speed drifts treats them alike; the first round is not counted.
        for rep in 0..=args.reps {
            for ((_, mode), (ttft, whole)) in MODES.iter().zip(&mut times) {
                let (first, all) = run(&mut engine, n, *mode)?;
                if rep > 0 {
                    ttft.push(first);
                    whole.push(all);
                }
            }
        }
        for ((name, mode), (mut ttft, mut whole)) in MODES.into_iter().zip(times) {
            rows.push(row(&engine, (name, mode), n, median(&mut ttft), median(&mut whole)));
        }
    }
    let report = json!({
        "model": args.model,
        "threads": engine.model().backend().info().threads,
        "trunk_layers": engine.model().trunk(),
        "rows": rows,
    });
    if args.report.json {
        return term::print_json(&report);
    }
    term::print(
        "prompt  mode          first word    of exact   gigaflops    of exact   exact cache after   of exact\n",
    )?;
    for rows in rows.chunks(MODES.len()) {
        let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        for row in rows {
            let share = |key: &str| number(row, key) / number(&rows[0], key);
            let whole = match row["prefill_ms"].as_f64() {
                Some(ms) => format!("{ms:>14.0} ms   {:>8.2}", share("prefill_ms")),
                None => String::new(),
            };
            term::print(&format!(
                "{:>6}  {:<12} {:>8.0} ms    {:>8.2}   {:>9.1}    {:>8.2}   {whole}\n",
                row["prompt_tokens"],
                row["mode"].as_str().unwrap_or_default(),
                number(row, "ttft_ms"),
                share("ttft_ms"),
                number(row, "flops") / 1e9,
                share("flops"),
            ))?;
        }
    }
    Ok(())
}

/// Tokens of an answer: enough for the exact reading to be done behind it.
const ANSWER: usize = 64;

/// Milliseconds to the first word, and milliseconds of reading until the whole cache is exact (decoding left out).
fn run(engine: &mut Engine, n: usize, mode: Prefill) -> Result<(f64, f64)> {
    engine.clear_cache();
    let n_vocab = engine.model().config().n_vocab as u32;
    let prompt = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) % n_vocab).collect();
    let params = Params { temperature: 0.0, ..Params::default() };
    let request = Request {
        prompt,
        params,
        max_tokens: Some(ANSWER),
        ignore_eos: true,
        prefill: Some(mode),
        ..Request::default()
    };
    let started = load::clock();
    let id = engine.submit(request)?;
    let (mut events, mut first, mut words) = (Vec::new(), None, 0);
    let (mut reading, mut plain) = (0.0, Vec::new());
    while !engine.is_idle() {
        let (begun, predicted) = (load::clock(), first.is_some() && engine.is_predicted(id));
        pollster::block_on(engine.step(&mut events))?;
        let now = load::clock();
        for event in events.drain(..) {
            match event {
                Event::Token(..) => {
                    first.get_or_insert(now - started);
                    words += 1;
                }
                Event::Done(..) => {}
                Event::Failed(_, error) => return Err(error),
            }
        }
        match (predicted, words > 1) {
            (true, _) => reading += now - begun,
            (false, true) => plain.push(now - begun),
            (false, false) => {}
        }
    }
    let first = first.unwrap_or(f64::NAN);
    if mode != Prefill::Progressive {
        return Ok((first, first));
    }
    // All words but the first one and those of plain steps came in steps that also read.
    let decoded = words - 1 - plain.len();
    let word = if plain.is_empty() { 0.0 } else { median(&mut plain) };
    Ok((first, first + reading - word * decoded as f64))
}

fn row(engine: &Engine, (name, mode): (&str, Prefill), n: usize, ttft_ms: f64, prefill_ms: f64) -> Value {
    let flops = flops(engine.model(), mode.of(n, None).is_some(), n);
    let whole = (mode != Prefill::Fast).then_some(prefill_ms);
    json!({"mode": name, "prompt_tokens": n, "ttft_ms": ttft_ms, "flops": flops, "prefill_ms": whole})
}

/// Floating-point operations to the first word: two for each multiply-add of weights, of attention and of the head.
fn flops(model: &Model, predicted: bool, n: usize) -> f64 {
    let c = model.config();
    let all = c.layers.len();
    let weights = |layers: Range<usize>| c.work(layers) as f64;
    // Of `rows` tokens at the end of `n`.
    let attention = |layers: Range<usize>, rows: usize| {
        let q_dims: usize = layers.filter_map(|layer| c.attention(layer)).map(|a| a.q_dim()).sum();
        2.0 * q_dims as f64 * rows as f64 * (n as f64 - rows as f64 / 2.0)
    };
    let macs = match (model.trunk(), model.predicted_share()) {
        (Some(trunk), Some(share)) if predicted => {
            n as f64 * weights(0..all) * share
                + attention(0..trunk, n)
                + model.own_layers() as f64 * attention(trunk..trunk + 1, n)
                + (SINKS + tail(n)) as f64 * weights(trunk..all)
                + attention(trunk..all, tail(n))
        }
        _ => n as f64 * weights(0..all) + attention(0..all, n),
    };
    2.0 * (macs + (c.dim * c.n_vocab) as f64)
}

//! `foreword bench speculate`: ways to guess ahead beside plain decoding, category by category.
//!
//! Every prompt is answered plainly and then by each way in turn, so that a machine whose speed drifts treats them alike;
//! only the time between the first token and the last counts. Answers begin from the cached prompt.

use crate::args::SpeculateArgs;
use crate::run::answer_to;
use crate::{load, term};
use foreword::chat::Message;
use foreword::engine::{Engine, Request};
use foreword::sample::Params;
use foreword::speculate::{Mode, Shape, Speculation};
use foreword::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// A way to decode.
struct Way {
    method: String,
    mode: Mode,
    /// Set in the experiment with fixed depths.
    depth: Option<usize>,
}

/// What the answers of one category came to, one way.
#[derive(Clone, Default)]
struct Tally {
    prompts: usize,
    /// Tokens behind the first ones, and their time.
    tokens: usize,
    ms: f64,
    forwards: usize,
    /// Tokens and forwards of each answer.
    answers: Vec<(f64, f64)>,
    guessed: usize,
    accepted: usize,
    guess_ms: f64,
    /// Greedy answers that were not those of plain decoding.
    different: usize,
}

pub(crate) fn speculate(args: &SpeculateArgs) -> Result<()> {
    let (prompts, ways) = (prompts(&args.dataset, args.limit)?, ways(args)?);
    let mut engine = load::engine(&args.model, &args.load)?;
    let drafter = load::drafter(&mut engine, &args.model, &args.draft, &args.load)?;
    let mut speculation = Some(Speculation::new(drafter, Mode::Auto, engine.model().max_batch(), load::clock)?);
    // By category: plain decoding, then the ways.
    let mut categories: Vec<(String, Vec<Tally>)> = Vec::new();
    let bar = indicatif::ProgressBar::new((prompts.len() * (ways.len() + 2)) as u64);
    for (i, (category, text)) in prompts.iter().enumerate() {
        let request = request(&engine, args, text, i as u64)?;
        let tallies = match categories.iter().position(|(name, _)| name == category) {
            Some(found) => &mut categories[found].1,
            None => {
                categories.push((category.clone(), vec![Tally::default(); ways.len() + 1]));
                &mut categories.last_mut().expect("one was just added").1
            }
        };
        // Plain decoding before and after the others: a machine that grows slower is no advantage to anyone.
        let wanted = run(&mut engine, &request, &mut tallies[0])?;
        bar.inc(1);
        for (way, tally) in ways.iter().zip(&mut tallies[1..]) {
            if let Some(speculation) = &mut speculation {
                speculation.set_mode(way.mode.clone())?;
            }
            std::mem::swap(engine.speculation_mut(), &mut speculation);
            let got = run(&mut engine, &request, tally);
            std::mem::swap(engine.speculation_mut(), &mut speculation);
            tally.different += usize::from(got? != wanted && args.temperature == 0.0);
            bar.inc(1);
        }
        run(&mut engine, &request, &mut tallies[0])?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let curve = speculation.map(|s| [1, 2, 4, 8, 12, 16, 24, 32].map(|n| (n, s.cost().ratio(n))));
    report(args, &ways, &categories, &curve.unwrap_or_default())
}

/// A prompt as a request, in the model's chat template where it has one.
fn request(engine: &Engine, args: &SpeculateArgs, text: &str, seed: u64) -> Result<Request> {
    let template = load::chat_template(engine).ok();
    let rendered = match &template {
        Some(template) => template.render(&[Message::new("user", text)], None, true)?,
        None => text.to_string(),
    };
    let mut prompt = engine.prompt(&rendered, template.is_some());
    // The end of a prompt that is too long says what is to be done.
    let room = engine.model().context_length().saturating_sub(args.max_tokens + 1);
    prompt.drain(..prompt.len().saturating_sub(room));
    Ok(Request {
        prompt,
        params: Params { temperature: args.temperature, seed, ..Params::default() },
        max_tokens: Some(args.max_tokens),
        ..Request::default()
    })
}

/// Answers once; returns the tokens.
fn run(engine: &mut Engine, request: &Request, tally: &mut Tally) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    let done = answer_to(engine, request.clone(), &mut || false, &mut |event| {
        tokens.push(event.token);
        Ok(())
    })?;
    let totals = engine.take_totals();
    tally.prompts += 1;
    let tokens_behind = done.usage.completion_tokens.saturating_sub(1);
    tally.tokens += tokens_behind;
    tally.ms += done.usage.decode_ms;
    // Those before the first token read the prompt.
    let reading = (request.prompt.len() - done.usage.cached_tokens).div_ceil(engine.model().max_batch());
    let forwards = totals.steps.saturating_sub(reading);
    tally.forwards += forwards;
    tally.answers.push((tokens_behind as f64, forwards as f64));
    tally.guessed += done.usage.guessed_tokens;
    tally.accepted += done.usage.accepted_tokens;
    tally.guess_ms += totals.guess_ms;
    Ok(tokens)
}

fn ways(args: &SpeculateArgs) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    let fixed = |method: &String, budget, depth| -> Result<Way> {
        let mode = Mode::Fixed(Shape::of(method, budget, depth)?);
        Ok(Way { method: method.clone(), mode, depth })
    };
    for method in &args.methods {
        if method == "auto" {
            ways.push(Way { method: method.clone(), mode: Mode::Auto, depth: None });
            continue;
        }
        for &budget in &args.budgets {
            ways.push(fixed(method, budget, None)?);
        }
        for &depth in &args.depths {
            // Trees as large as a binary one of that depth; a chain has as many nodes as levels.
            let binary = Shape::Constant(vec![2; depth]);
            ways.push(match method.as_str() {
                "chain" => fixed(method, depth, Some(depth))?,
                "rsd-c" => Way { method: method.clone(), mode: Mode::Fixed(binary), depth: Some(depth) },
                _ => fixed(method, binary.size(), Some(depth))?,
            });
        }
    }
    Ok(ways)
}

impl Tally {
    fn tok_s(&self) -> f64 {
        if self.ms > 0.0 { self.tokens as f64 / self.ms * 1e3 } else { 0.0 }
    }

    /// Standard error of tokens a forward, a ratio of sums over answers; 0 where there are fewer than two.
    fn efficiency_error(&self) -> f64 {
        let n = self.answers.len() as f64;
        let (tokens, forwards) = self.answers.iter().fold((0.0, 0.0), |(t, f), a| (t + a.0, f + a.1));
        if n < 2.0 || forwards <= 0.0 {
            return 0.0;
        }
        let off = |a: &(f64, f64)| (a.0 - tokens / forwards * a.1).powi(2);
        (self.answers.iter().map(off).sum::<f64>() * n / (n - 1.0)).sqrt() / forwards
    }

    fn row(&self, category: &str, way: &Way, plain: &Tally) -> Value {
        let share = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let budget = match &way.mode {
            Mode::Fixed(shape) => shape.size() as f64,
            Mode::Auto => share(self.guessed as f64, self.forwards as f64),
        };
        json!({
            "category": category,
            "method": way.method,
            "budget": budget,
            "depth": way.depth,
            "block_efficiency": share(self.tokens as f64, self.forwards as f64),
            "block_efficiency_error": self.efficiency_error(),
            "acceptance": share(self.accepted as f64, self.guessed as f64),
            "tok_s": self.tok_s(),
            "plain_tok_s": plain.tok_s(),
            "speedup": share(self.tok_s(), plain.tok_s()),
            "target_forwards": self.forwards,
            "drafter_share": share(self.guess_ms, self.ms),
            "tokens": self.tokens,
            "prompts": self.prompts,
            "different": self.different,
        })
    }
}

fn report(
    args: &SpeculateArgs,
    ways: &[Way],
    categories: &[(String, Vec<Tally>)],
    curve: &[(usize, f64)],
) -> Result<()> {
    let of = |(category, tallies): &(String, Vec<Tally>)| -> Vec<Value> {
        ways.iter().zip(&tallies[1..]).map(|(way, t)| t.row(category, way, &tallies[0])).collect()
    };
    let rows: Vec<Value> = categories.iter().flat_map(of).collect();
    // Of the way that users get; of all of them where that was left out.
    let auto = |row: &&Value| row["method"] == "auto" || !args.methods.iter().any(|m| m == "auto");
    let speedups: Vec<f64> = rows.iter().filter(auto).filter_map(|r| r["speedup"].as_f64()).collect();
    let mean = speedups.iter().sum::<f64>() / speedups.len().max(1) as f64;
    if args.report.json {
        let curve: Vec<Value> = curve.iter().map(|(n, cost)| json!({"rows": n, "cost": cost})).collect();
        return term::print_json(&json!({ "speedup_mean": mean, "rows": rows, "cost_curve": curve }));
    }
    term::print(&format!(
        "  {:<16} {:<12} {:>6} {:>6} {:>9} {:>9} {:>9} {:>8}\n",
        "category", "method", "budget", "depth", "tokens/fw", "accepted", "tokens/s", "speed-up"
    ))?;
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
        term::print(&format!(
            "  {:<16} {:<12} {:>6.1} {:>6} {:>9.2} {:>8.0} % {:>9.1} {:>7.2} x\n",
            row["category"].as_str().unwrap_or(""),
            row["method"].as_str().unwrap_or(""),
            number("budget"),
            row["depth"].as_u64().map_or("-".to_string(), |d| d.to_string()),
            number("block_efficiency"),
            number("acceptance") * 100.0,
            number("tok_s"),
            number("speedup"),
        ))?;
    }
    let different: u64 = rows.iter().filter_map(|r| r["different"].as_u64()).sum();
    term::print(&format!("  mean speed-up {mean:.2} x; {different} greedy answers differ from plain decoding\n"))
}

/// `(category, text)` of a file of JSON lines, the categories in turn when there is a limit.
fn prompts(path: &Path, limit: Option<usize>) -> Result<Vec<(String, String)>> {
    let values = super::prefill::lines(path)?;
    let category = |v: &Value| v["category"].as_str().unwrap_or("all").to_string();
    let all: Vec<(String, String)> = values.into_iter().map(|(value, text)| (category(&value), text)).collect();
    let mut order: Vec<(usize, usize)> =
        (0..all.len()).map(|i| (all[..i].iter().filter(|(category, _)| *category == all[i].0).count(), i)).collect();
    order.sort_unstable();
    order.truncate(limit.unwrap_or(usize::MAX));
    if order.is_empty() {
        return Err(Error::invalid_request(format!("{} has no prompts, or --limit is 0", path.display())));
    }
    Ok(order.into_iter().map(|(_, i)| all[i].clone()).collect())
}

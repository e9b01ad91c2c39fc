//! `foreword run`: one prompt, one answer.

use crate::args::RunArgs;
use crate::{load, saved, term};
use foreword::chat::Message;
use foreword::engine::{Done, Engine, Event, FinishReason, Request, TokenEvent};
use foreword::speculate::Speculation;
use foreword::{Error, Result};
use serde_json::json;

pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let text = if args.prompt == "-" { read_stdin()? } else { args.prompt.clone() };
    let started = load::clock();
    let mut engine = load::engine(&args.model, &args.load)?;
    load::prefill(&mut engine, &args.model, &args.early)?;
    load::speculate(&mut engine, &args.model, &args.guess, &args.load)?;
    let load_ms = load::clock() - started;
    let mut messages = before(&mut engine, args)?;
    let prompt_of = |text: &str| match args.raw {
        true => Ok(engine.prompt(text, false)),
        false => chat_prompt(&engine, &messages, text),
    };
    let prompt = prompt_of(&text)?;
    let against = args.contrast.against(prompt_of)?;
    let rules = args.form.rules(&engine)?;
    let has_end = !args.raw || !rules.is_empty();
    let request = Request {
        prompt: prompt.clone(),
        rules,
        against,
        logprobs: args.report.json.then_some(args.logprobs.unwrap_or(0)),
        ..load::request(&args.sample, &engine, &args.model, has_end)?
    };
    let (mut answer, mut tokens) = (String::new(), Vec::new());
    let done = answer_to(&mut engine, request, &mut || false, &mut |event| {
        answer.push_str(&event.text);
        match args.report.json {
            true => tokens.push(event.clone()),
            false => term::print(&event.text)?,
        }
        Ok(())
    })?;
    answer.push_str(&done.text);
    if args.report.json {
        term::print_json(&report(&engine, &prompt, &tokens, &answer, &done, load_ms))?;
    } else {
        term::print(&format!("{}\n", done.text))?;
        term::note(&summary(&engine, &done, load_ms));
    }
    let Some(path) = &args.session else { return Ok(()) };
    messages.extend([Message::new("user", text), Message::new("assistant", answer)]);
    saved::save(&mut engine, path, &messages, &messages)
}

/// What stands in front of the prompt: the chat of `--session`, where there is one, or the system message.
fn before(engine: &mut Engine, args: &RunArgs) -> Result<Vec<Message>> {
    if let Some(path) = &args.session
        && let Some((messages, _)) = saved::open(engine, path, args.system.as_ref())?
    {
        return Ok(messages);
    }
    Ok(args.system.iter().map(|text| Message::new("system", text)).collect())
}

/// Everything on standard input.
pub(crate) fn read_stdin() -> Result<String> {
    std::io::read_to_string(std::io::stdin()).map_err(|e| {
        if e.kind() == std::io::ErrorKind::InvalidData {
            Error::invalid_request("standard input is no UTF-8 text").caused_by(e)
        } else {
            Error::storage(format!("cannot read standard input: {e}")).caused_by(e)
        }
    })
}

fn chat_prompt(engine: &Engine, before: &[Message], text: &str) -> Result<Vec<u32>> {
    let messages = [before, &[Message::new("user", text)]].concat();
    Ok(engine.prompt(&load::chat_template(engine)?.render(&messages, None, true)?, true))
}

/// Runs one request to its end; `token` gets each token, `stop` is asked before each step.
pub(crate) fn answer_to(
    engine: &mut Engine,
    request: Request,
    stop: &mut dyn FnMut() -> bool,
    token: &mut dyn FnMut(&TokenEvent) -> Result<()>,
) -> Result<Done> {
    let id = engine.submit(request)?;
    let mut events = Vec::new();
    loop {
        if stop() {
            engine.cancel(id);
        }
        pollster::block_on(engine.step(&mut events))?;
        for event in events.drain(..) {
            match event {
                Event::Token(_, event) => token(&event)?,
                Event::Done(_, done) => return Ok(done),
                Event::Failed(_, error) => return Err(error),
            }
        }
        if engine.is_idle() {
            return Err(Error::cancelled("the request ended without an answer"));
        }
    }
}

/// Whether an answer ended as it went in circles.
pub(crate) fn circles(done: &Done) -> bool {
    matches!(done.reason, FinishReason::Repetition | FinishReason::Concluded)
}

/// Times of an answer, for people.
pub(crate) fn summary(engine: &Engine, done: &Done, load_ms: f64) -> String {
    let usage = &done.usage;
    let load = if load_ms > 0.0 { format!("loaded in {load_ms:.0} ms, ") } else { String::new() };
    let guesses = match (usage.guessed_tokens, usage.drafter_failed) {
        (_, true) => {
            let why = engine.speculation().and_then(Speculation::failure).map_or(String::new(), |e| format!(" ({e})"));
            format!(", the drafter failed{why} and plain decoding went on")
        }
        (0, _) => String::new(),
        (guessed, _) => format!(", {} of {guessed} guesses right", usage.accepted_tokens),
    };
    let predicted = match usage.predicted_tokens {
        0 => String::new(),
        n => format!(", {n} predicted"),
    };
    let ended = if circles(done) { ", ended as it went in circles" } else { "" };
    format!(
        "{load}first word after {:.0} ms ({} prompt tokens, {} cached{predicted}), then {} tokens at {:.0} a second{guesses}{ended}",
        usage.ttft_ms,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.decode_tok_s()
    )
}

fn report(
    engine: &Engine,
    prompt: &[u32],
    tokens: &[TokenEvent],
    text: &str,
    done: &Done,
    load_ms: f64,
) -> serde_json::Value {
    let tokens: Vec<_> = tokens
        .iter()
        .map(|event| {
            let (logprob, top) = event.logprobs.clone().unwrap_or_default();
            let text = engine.tokenizer().decode(&[event.token]);
            json!({"id": event.token, "text": text, "logprob": logprob, "top": top})
        })
        .collect();
    let usage = &done.usage;
    json!({
        "prompt_tokens": prompt,
        "text": text,
        "tokens": tokens,
        "finish_reason": done.reason.name(),
        "stop_reason": circles(done).then_some("repetition"),
        "timings": {
            "load_ms": load_ms,
            "ttft_ms": usage.ttft_ms,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "predicted_tokens": usage.predicted_tokens,
            "completion_tokens": usage.completion_tokens,
            "prefill_tok_s": usage.prefill_tok_s(),
            "decode_tok_s": usage.decode_tok_s(),
            "guessed_tokens": usage.guessed_tokens,
            "accepted_tokens": usage.accepted_tokens,
        },
    })
}

//! What `/metrics` shows, in Prometheus' text format.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// Counts of the whole server since it began.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    /// By address and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    guessed_tokens: u64,
    accepted_tokens: u64,
    cancelled: u64,
    first_token: Histogram,
    step: Histogram,
}

/// Upper bounds of a histogram's buckets, in seconds.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Debug, Default)]
struct Histogram {
    /// One bucket a bound.
    counts: [u64; BOUNDS.len()],
    n: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.counts[bucket] += 1;
        }
        self.n += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (bound, n) in BOUNDS.iter().zip(self.counts) {
            below += n;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_sum {1}\n{name}_count {0}", self.n, self.sum);
    }
}

/// What a model does at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gauges {
    pub(super) loaded: bool,
    /// Bytes held, or reserved while it is being loaded.
    pub(super) bytes: u64,
    /// Requests under way.
    pub(super) open: usize,
    /// Blocks of the KV cache in use, known beginnings included, and all.
    pub(super) kv_used: usize,
    pub(super) kv_total: usize,
}

impl Metrics {
    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn request(&self, address: &'static str, status: u16) {
        *self.numbers().requests.entry((address, status)).or_default() += 1;
    }

    pub(super) fn step(&self, time: Duration) {
        self.numbers().step.add(time.as_secs_f64());
    }

    pub(super) fn cancelled(&self) {
        self.numbers().cancelled += 1;
    }

    /// Takes the `usage` of an answer that is over in.
    pub(super) fn usage(&self, usage: &Value) {
        let count = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let mut numbers = self.numbers();
        numbers.prompt_tokens += count("/prompt_tokens");
        numbers.cached_tokens += count("/prompt_tokens_details/cached_tokens");
        numbers.completion_tokens += count("/completion_tokens");
        let accepted = count("/completion_tokens_details/accepted_prediction_tokens");
        numbers.guessed_tokens += accepted + count("/completion_tokens_details/rejected_prediction_tokens");
        numbers.accepted_tokens += accepted;
        if let Some(ms) = usage.pointer("/timings/ttft_ms").and_then(Value::as_f64) {
            numbers.first_token.add(ms / 1e3);
        }
    }

    /// Everything as text. `under_way` counts requests that hold a place in the queue.
    pub(super) fn text(&self, under_way: usize, queue: usize, models: &[(&str, Gauges)]) -> String {
        let numbers = self.numbers();
        let mut out = String::new();
        head(&mut out, "foreword_requests_total", "counter", "Requests that were answered, by address and status.");
        for ((address, status), n) in &numbers.requests {
            let _ = writeln!(out, "foreword_requests_total{{address=\"{address}\",status=\"{status}\"}} {n}");
        }
        for (name, kind, help, n) in [
            ("queue_requests", "gauge", "Requests that are under way or wait.", under_way as u64),
            ("queue_limit", "gauge", "Requests that may be under way or wait.", queue as u64),
            (
                "cancelled_total",
                "counter",
                "Requests whose client went away or whose time was over.",
                numbers.cancelled,
            ),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", numbers.prompt_tokens),
            ("cached_tokens_total", "counter", "Tokens of prompts that were in the cache.", numbers.cached_tokens),
            ("completion_tokens_total", "counter", "Tokens of answers.", numbers.completion_tokens),
            ("guessed_tokens_total", "counter", "Tokens that drafters guessed.", numbers.guessed_tokens),
            ("accepted_tokens_total", "counter", "Guesses that became part of answers.", numbers.accepted_tokens),
        ] {
            let name = format!("foreword_{name}");
            head(&mut out, &name, kind, help);
            let _ = writeln!(out, "{name} {n}");
        }
        let help = "Time from a request to its first token, in the engine.";
        numbers.first_token.write(&mut out, "foreword_first_token_seconds", help);
        numbers.step.write(&mut out, "foreword_step_seconds", "Time of a step of an engine.");
        for (name, help, of) in MODELS {
            let name = format!("foreword_model_{name}");
            head(&mut out, &name, "gauge", help);
            for (model, gauges) in models {
                let _ = writeln!(out, "{name}{{model={model:?}}} {}", of(gauges));
            }
        }
        out
    }
}

type Row = (&'static str, &'static str, fn(&Gauges) -> u64);

/// What is shown of each model.
const MODELS: [Row; 5] = [
    ("loaded", "Whether a model is loaded.", |g| g.loaded.into()),
    ("bytes", "Memory that a model holds.", |g| g.bytes),
    ("requests", "Requests that a model is answering.", |g| g.open as u64),
    ("kv_blocks_used", "Blocks of the KV cache that are in use, known beginnings included.", |g| g.kv_used as u64),
    ("kv_blocks", "Blocks of the KV cache.", |g| g.kv_total as u64),
];

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

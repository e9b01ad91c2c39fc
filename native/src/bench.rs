//! `foreword bench`.

mod constrain;
mod prefill;
mod speculate;
mod start;
mod ttft;

pub(crate) use constrain::ConstrainArgs;
pub(crate) use start::StartArgs;

use crate::args::{BenchArgs, BenchCommand};
use crate::{load, term};
use foreword::backend::{Activity, KernelTime};
use foreword::batch::{Batch, SeqId};
use foreword::engine::Engine;
use foreword::model::Model;
use foreword::{Error, Result};
use serde_json::{Value, json};

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    match &args.command {
        Some(BenchCommand::Constrain(args)) => return constrain::constrain(args),
        Some(BenchCommand::Prefill(args)) => return prefill::prefill(args),
        Some(BenchCommand::Speculate(args)) => return speculate::speculate(args),
        Some(BenchCommand::Start(args)) => return start::start(args),
        Some(BenchCommand::Ttft(args)) => return ttft::ttft(args),
        None => {}
    }
    let (prompt, generate) = (args.prompt_tokens, args.gen_tokens);
    if prompt == 0 || generate == 0 || args.reps == 0 {
        return Err(Error::invalid_request("--prompt-tokens, --gen-tokens and --reps must be at least 1"));
    }
    let mut load_args = args.load.clone();
    let least = prompt.max(args.depth + generate);
    load_args.context = Some(load_args.context.unwrap_or(least + 64).max(least));
    load_args.profile = args.profile;
    let started = load::clock();
    let mut engine = load::engine(&args.model, &load_args)?;
    let load_ms = load::clock() - started;
    let mut runs = Runs { model: engine.model_mut(), batch: Batch::new(), logits: Vec::new(), state: 1 };
    runs.prefill(prompt)?;
    runs.decode(args.depth, generate.min(16))?;
    let (mut ttft, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..args.reps {
        ttft.push(runs.prefill(prompt)?);
        decode.push(runs.decode(args.depth, generate)?);
    }
    let before = runs.model.backend().activity();
    runs.decode(0, 1)?;
    let step = between(before, runs.model.backend().activity());
    let measured = Measured { load_ms, ttft_ms: median(&mut ttft), decode_ms: median(&mut decode), step };
    if args.report.json {
        return term::print_json(&measured.report(args, &engine));
    }
    measured.print(args, &engine)
}

/// What the runs have shown.
struct Measured {
    load_ms: f64,
    ttft_ms: f64,
    decode_ms: f64,
    /// What the device does for a token.
    step: Activity,
}

impl Measured {
    fn prefill_tok_s(&self, args: &BenchArgs) -> f64 {
        args.prompt_tokens as f64 / self.ttft_ms * 1e3
    }

    fn decode_tok_s(&self, args: &BenchArgs) -> f64 {
        args.gen_tokens as f64 / self.decode_ms * 1e3
    }

    /// As JSON.
    fn report(&self, args: &BenchArgs, engine: &Engine) -> Value {
        let (backend, step) = (engine.model().backend(), self.step);
        let info = backend.info();
        let mut report = json!({
            "model": args.model,
            "backend": info.backend,
            "device": info.device,
            "threads": info.threads,
            "prompt_tokens": args.prompt_tokens,
            "gen_tokens": args.gen_tokens,
            "depth": args.depth,
            "prefill_tok_s": self.prefill_tok_s(args),
            "decode_tok_s": self.decode_tok_s(args),
            "ttft_ms": self.ttft_ms,
            "load_ms": self.load_ms,
            "peak_rss_bytes": peak_rss(),
            "kv_bytes_per_token": engine.model().kv().spec().bytes_per_token(),
        });
        if args.profile {
            let row = |k: &KernelTime| json!({ "kernel": k.kernel, "ms": k.nanoseconds / 1e6, "runs": k.runs });
            report["kernels"] = backend.kernel_times().iter().map(row).collect();
            report["compile_ms"] = json!(backend.activity().compile_ms);
            report["decode_step"] = json!({
                "dispatches": step.dispatches, "submits": step.submits, "read_bytes": step.read_bytes,
            });
        }
        report
    }

    /// For people.
    fn print(&self, args: &BenchArgs, engine: &Engine) -> Result<()> {
        let (backend, memory) = (engine.model().backend(), engine.memory());
        let info = backend.info();
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        term::print(&format!(
            "{} on {} ({}, {} threads)\n  load     {:>9.0} ms\n  prefill  {:>9.1} tokens/s  ({} tokens, first word after {:.0} ms)\n  \
             decode   {:>9.1} tokens/s  ({} tokens{})\n  memory   {:>9.1} MiB weights, {:.1} MiB cache, {:.1} MiB work\n",
            args.model,
            info.backend,
            info.device,
            info.threads,
            self.load_ms,
            self.prefill_tok_s(args),
            args.prompt_tokens,
            self.ttft_ms,
            self.decode_tok_s(args),
            args.gen_tokens,
            if args.depth > 0 { format!(" behind {}", args.depth) } else { String::new() },
            mib(memory.weights),
            mib(memory.cache),
            mib(memory.buffers),
        ))?;
        if self.step.dispatches > 0 {
            term::print(&format!(
                "  a token  {:>9} dispatches, {} submit, {} bytes read back\n",
                self.step.dispatches, self.step.submits, self.step.read_bytes
            ))?;
            let done = backend.activity();
            if done.compile_ms > 0.0 {
                term::print(&format!("  kernels  {:>9} compiled in {:.0} ms\n", done.pipelines, done.compile_ms))?;
            }
        }
        // Of warm-up and all repetitions together.
        let kernels = backend.kernel_times();
        let total: f64 = kernels.iter().map(|k| k.nanoseconds).sum();
        for k in &kernels {
            let (ms, share) = (k.nanoseconds / 1e6, k.nanoseconds / total * 100.0);
            term::print(&format!("  {:<12} {ms:>9.1} ms  {share:>5.1} %  {:>8} runs\n", k.kernel, k.runs))?;
        }
        Ok(())
    }
}

fn between(a: Activity, b: Activity) -> Activity {
    Activity {
        dispatches: b.dispatches - a.dispatches,
        submits: b.submits - a.submits,
        read_bytes: b.read_bytes - a.read_bytes,
        pipelines: b.pipelines - a.pipelines,
        compile_ms: b.compile_ms - a.compile_ms,
    }
}

/// Timed runs on one model; each begins with an empty cache.
struct Runs<'a> {
    model: &'a mut Model,
    batch: Batch,
    logits: Vec<f32>,
    state: u32,
}

impl Runs<'_> {
    /// A pseudo-random token; what it is does not matter to the time.
    fn token(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) % self.model.config().n_vocab as u32
    }

    fn forward(&mut self, seq: SeqId, tokens: &[u32], output: bool) -> Result<()> {
        self.batch.clear();
        self.batch.push_run(seq, tokens, output);
        // As a greedy answer reads it.
        pollster::block_on(self.model.forward_top(&self.batch, 1, false, &mut self.logits))?;
        self.model.kv_mut().commit_run(seq)
    }

    fn read(&mut self, seq: SeqId, n: usize) -> Result<()> {
        let tokens: Vec<u32> = (0..n).map(|_| self.token()).collect();
        let step = self.model.max_batch();
        for (i, chunk) in tokens.chunks(step).enumerate() {
            self.forward(seq, chunk, (i + 1) * step >= n)?;
        }
        Ok(())
    }

    /// Milliseconds from a prompt of `n` tokens to the first token.
    fn prefill(&mut self, n: usize) -> Result<f64> {
        let seq = self.model.kv_mut().new_seq();
        let started = load::clock();
        self.read(seq, n)?;
        let elapsed = load::clock() - started;
        self.model.kv_mut().free(seq);
        Ok(elapsed)
    }

    /// Milliseconds for `n` tokens behind `depth` others, one at a time.
    fn decode(&mut self, depth: usize, n: usize) -> Result<f64> {
        let seq = self.model.kv_mut().new_seq();
        self.read(seq, depth)?;
        let started = load::clock();
        for _ in 0..n {
            let token = self.token();
            self.forward(seq, &[token], true)?;
        }
        let elapsed = load::clock() - started;
        self.model.kv_mut().free(seq);
        Ok(elapsed)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Most memory that the process ever held; `None` where the system does not tell.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

//! How long running streams wait while a long prompt is read: mixed by the engine, and with the prompt read in one go.
//!
//! `cargo bench -p foreword --bench stall -- MODEL.gguf docs/stall.svg` writes the plot and prints what it shows.

use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, SeqId};
use foreword::engine::{Engine, Event, Request};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::Params;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Instant;

const STREAMS: usize = 4;
const PROMPT: usize = 1500;
/// Tokens of each stream before the prompt comes, and after its first token.
const AROUND: usize = 12;
const TARGET_MS: f64 = 50.0;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn clock() -> f64 {
    START.elapsed().as_secs_f64() * 1e3
}

/// When the streams' tokens came, and when the prompt's first token did, in milliseconds from the prompt's arrival.
struct Run {
    tokens: Vec<f64>,
    first: f64,
}

impl Run {
    /// `(time, gap before it)` of each token of the streams.
    fn gaps(&self) -> impl Iterator<Item = (f64, f64)> {
        self.tokens.windows(2).map(|w| (w[1], w[1] - w[0]))
    }

    fn largest(&self) -> f64 {
        self.gaps().map(|(_, gap)| gap).fold(0.0, f64::max)
    }
}

fn noise(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| 1000 + (seed.wrapping_mul(977).wrapping_add(i).wrapping_mul(2_654_435_761) >> 8) % 20_000)
        .collect()
}

fn mixed(engine: &mut Engine) -> Run {
    engine.set_step_target(TARGET_MS);
    let request = |prompt, max_tokens| Request {
        prompt,
        params: Params { temperature: 0.0, ..Params::default() },
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..Request::default()
    };
    for i in 0..STREAMS {
        engine.submit(request(noise(i as u32, 40), 400)).expect("a request");
    }
    let (mut events, mut tokens, mut long, mut first) = (Vec::new(), Vec::new(), None, None);
    let mut came = 0.0;
    loop {
        if tokens.len() == AROUND && long.is_none() {
            came = clock();
            long = Some(engine.submit(request(noise(9, PROMPT), 1)).expect("a request"));
        }
        pollster::block_on(engine.step(&mut events)).expect("a step");
        let now = clock();
        if events.iter().any(|e| matches!(e, Event::Token(id, _) if Some(*id) == long)) {
            first = Some(now - came);
        }
        if events.drain(..).any(|e| matches!(e, Event::Token(id, _) if Some(id) != long)) {
            tokens.push(now);
        }
        if let Some(first) = first
            && tokens.iter().filter(|&&t| t - came > first).count() > AROUND
        {
            engine.clear_cache();
            return Run { tokens: tokens.into_iter().map(|t| t - came).collect(), first };
        }
    }
}

fn forward(engine: &mut Engine, batch: &Batch, seqs: &[SeqId]) {
    let model = engine.model_mut();
    pollster::block_on(model.forward(batch, &mut Vec::new())).expect("a forward");
    seqs.iter().for_each(|&seq| model.kv_mut().commit_run(seq).expect("a commit"));
}

fn in_one_go(engine: &mut Engine) -> Run {
    let seqs: Vec<SeqId> = (0..STREAMS).map(|_| engine.model_mut().kv_mut().new_seq()).collect();
    let mut batch = Batch::new();
    let mut tokens = Vec::new();
    for (i, &seq) in seqs.iter().enumerate() {
        batch.push_run(seq, &noise(i as u32, 40), true);
    }
    forward(engine, &batch, &seqs);
    let mut decode = |engine: &mut Engine| {
        let mut batch = Batch::new();
        seqs.iter().for_each(|&seq| _ = batch.push_run(seq, &[5], true));
        forward(engine, &batch, &seqs);
        tokens.push(clock());
    };
    (0..AROUND).for_each(|_| decode(engine));
    let came = clock();
    let long = engine.model_mut().kv_mut().new_seq();
    let step = engine.model().max_batch();
    for (i, chunk) in noise(9, PROMPT).chunks(step).enumerate() {
        let mut batch = Batch::new();
        batch.push_run(long, chunk, (i + 1) * step >= PROMPT);
        forward(engine, &batch, &[long]);
    }
    let first = clock() - came;
    (0..=AROUND).for_each(|_| decode(engine));
    seqs.iter().chain([&long]).for_each(|&seq| engine.model_mut().kv_mut().free(seq));
    Run { tokens: tokens.into_iter().map(|t| t - came).collect(), first }
}

/// Two panels, one below the other, on the same axes: a bar for each token of the streams, as high as the wait for it.
fn plot(runs: &[(&str, Run)]) -> String {
    let (width, height, left, top) = (720.0, 150.0, 56.0, 34.0);
    let runs_of = |f: fn(&Run) -> f64| runs.iter().map(|(_, r)| f(r)).fold(0.0, f64::max);
    let start = -runs_of(|r| -r.tokens[0]) - 10.0;
    let end = runs_of(|r| r.tokens.last().copied().unwrap_or(0.0));
    let most = runs_of(Run::largest);
    let x = |t: f64| left + (t - start) / (end - start) * (width - left - 16.0);
    let total = runs.len() as f64 * (height + 46.0) + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {total}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{total}\" fill=\"white\"/>\n"
    );
    for (i, (name, run)) in runs.iter().enumerate() {
        let base = top + i as f64 * (height + 46.0) + height;
        let y = |gap: f64| base - gap / most * height;
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{:.0}\">{name}: longest wait {:.0} ms, the prompt's first token after {:.0} ms</text>",
            base - height - 8.0,
            run.largest(),
            run.first
        );
        let _ = writeln!(svg, "<path d=\"M{left} {base}H{}\" stroke=\"#888\"/>", width - 16.0);
        let (a, b) = (x(0.0), x(run.first));
        let _ = writeln!(
            svg,
            "<rect x=\"{a:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height}\" fill=\"#f3e9d2\"/>",
            base - height,
            b - a
        );
        for (t, gap) in run.gaps() {
            let _ =
                writeln!(svg, "<path d=\"M{:.1} {base}V{:.1}\" stroke=\"#1f5fa8\" stroke-width=\"2\"/>", x(t), y(gap));
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {0:.1}H{1}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/><text x=\"4\" y=\"{2:.1}\" fill=\"#c33\">{TARGET_MS} ms</text><text x=\"4\" y=\"{3:.1}\">{most:.0} ms</text>",
            y(TARGET_MS),
            width - 16.0,
            y(TARGET_MS) + 4.0,
            base - height + 10.0
        );
    }
    for tick in (0..).map(|i| f64::from(i) * 200.0).take_while(|t| *t < end) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{tick} ms</text>",
            x(tick),
            total - 10.0
        );
    }
    svg + "</svg>\n"
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    // `cargo test --benches` runs this without arguments.
    let [model, out] = &args[..] else { return println!("usage: stall MODEL.gguf OUT.svg") };
    let source: Box<dyn Source> = Box::new(FileSource::open(model.as_ref()).expect("a model file"));
    let options = ModelOptions { cache_tokens: Some(8192), ..ModelOptions::default() };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut engine =
        pollster::block_on(Engine::load(vec![source], Box::new(Cpu::new(threads)), &options, clock, &mut |_| {}))
            .expect("a sound model");
    in_one_go(&mut engine);
    let runs = [("Mixed", mixed(&mut engine)), ("In one go", in_one_go(&mut engine))];
    for (name, run) in &runs {
        println!("{name}: longest wait {:.0} ms, first token after {:.0} ms", run.largest(), run.first);
    }
    std::fs::write(out, plot(&runs)).expect("a file");
}

//! The batch form: whatever is packed, chunked, drafted, forked or rolled back, a token's logits are those that it has when
//! its path is read alone, token by token. On the CPU they are equal bit for bit; on GPUs, where other kernels read one token
//! than many, up to rounding.

mod common;

use common::random::Random;
use common::{SMOLLM2, data, load, model_path};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken, SeqId, Streams};
use foreword::model::{DraftPath, Model, ModelOptions};
use std::collections::HashMap;
use std::path::Path;

const N_VOCAB: u64 = 264;

/// Where a model runs, and how far its logits may be apart, relative to the largest.
#[derive(Clone, Copy)]
struct On {
    load: fn(&Path, &ModelOptions) -> Model,
    bound: f32,
}

const CPU: On = On { load: |path, options| load(path, options, Cpu::new(2)), bound: 0.0 };

impl On {
    /// Whether logits are those of the other schedule.
    fn same(self, got: &[f32], wanted: &[f32]) -> bool {
        if self.bound == 0.0 {
            return got == wanted;
        }
        let largest = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
        got.len() == wanted.len() && got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= self.bound * largest)
    }
}

fn path_of(name: &str) -> std::path::PathBuf {
    if name == SMOLLM2 { model_path(name) } else { data(&format!("models/{name}.gguf")) }
}

fn options(cache_type: CacheType, tokens: usize) -> ModelOptions {
    ModelOptions { context_length: Some(256), cache_type, cache_tokens: Some(tokens), max_batch: 128, kv_memory: None }
}

fn model(name: &str, cache_type: CacheType, tokens: usize) -> Model {
    load(&path_of(name), &options(cache_type, tokens), Cpu::new(2))
}

/// Logits behind every prefix, read token by token in sequences that nothing is forked from or rolled back in.
struct Alone {
    model: Model,
    known: HashMap<Vec<u32>, Vec<f32>>,
    /// Sequences and what they hold, the oldest first: a longer path goes on where one ends.
    read: Vec<(Vec<u32>, SeqId)>,
}

/// Sequences that are kept, and what they may hold in all.
const KEPT: usize = 8;
const KEPT_TOKENS: usize = KEPT * 256;

impl Alone {
    fn new(model: Model) -> Self {
        Alone { model, known: HashMap::new(), read: Vec::new() }
    }

    fn logits(&mut self, path: &[u32]) -> Vec<f32> {
        if let Some(found) = self.known.get(path) {
            return found.clone();
        }
        let beginnings = self.read.iter().enumerate().filter(|(_, (text, _))| path.starts_with(text));
        let longest = beginnings.max_by_key(|(_, (text, _))| text.len()).map(|(i, _)| i);
        let (mut text, seq) = match longest {
            Some(i) => self.read.remove(i),
            None => (Vec::new(), self.model.kv_mut().new_seq()),
        };
        for &token in &path[text.len()..] {
            let logits = forward(&mut self.model, &[(token, seq, None, true)]);
            self.model.kv_mut().commit_run(seq).expect("a commit");
            text.push(token);
            self.known.insert(text.clone(), logits.into_iter().next().expect("a row"));
        }
        self.read.push((text, seq));
        if self.read.len() > KEPT {
            let (_, oldest) = self.read.remove(0);
            self.model.kv_mut().free(oldest);
        }
        self.known[path].clone()
    }
}

/// A model that plays schedules, and the same one beside it that reads each path alone. To load a model on a software GPU takes
/// seconds, so these two serve several schedules.
struct Pair {
    on: On,
    /// For messages.
    name: String,
    alone: Alone,
    model: Model,
}

impl Pair {
    fn new(on: On, name: &str, cache_type: CacheType) -> Self {
        let load = |tokens| (on.load)(&path_of(name), &options(cache_type, tokens));
        let alone = Alone::new(load(KEPT_TOKENS));
        Pair { on, name: format!("{name} {cache_type:?}"), alone, model: load(2048) }
    }
}

/// Rows of logits of a batch of `(token, sequence, parent, output)`.
fn forward(model: &mut Model, tokens: &[(u32, SeqId, Option<u32>, bool)]) -> Vec<Vec<f32>> {
    let mut batch = Batch::new();
    for &(token, seq, parent, output) in tokens {
        batch.push(BatchToken { token, seq, parent, output });
    }
    let mut logits = Vec::new();
    pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
    logits.chunks_exact(model.config().n_vocab).map(<[f32]>::to_vec).collect()
}

/// A sequence under way and the tokens that it must hold.
struct Live {
    seq: SeqId,
    text: Vec<u32>,
}

/// Random schedules over a few sequences: runs, trees, forks, rollbacks, commits of random paths.
fn play(Pair { on, name, alone, model }: &mut Pair, seed: u64, rounds: usize) {
    let mut r = Random::new(seed);
    let mut below = move |n: u64| r.below(n as usize) as u64;
    let blocks = model.kv().free_blocks();
    let mut live: Vec<Live> = (0..3).map(|_| Live { seq: model.kv_mut().new_seq(), text: Vec::new() }).collect();
    for _ in 0..rounds {
        // A batch: for some sequences a run or a tree.
        let mut tokens = Vec::new();
        let mut expected = Vec::new();
        let mut commits = Vec::new();
        for (which, l) in live.iter().enumerate().filter(|(_, l)| l.text.len() < 90) {
            let kind = below(4);
            if kind == 0 {
                continue;
            }
            let first = tokens.len() as u32;
            let n = 1 + below(if kind == 1 { 20 } else { 9 }) as u32;
            let mut paths: Vec<Vec<u32>> = Vec::new();
            let mut parents: Vec<Option<u32>> = Vec::new();
            for i in 0..n {
                // Runs hang on the token before, trees on any earlier one or on the committed text.
                let parent = if kind == 1 { i.checked_sub(1) } else { (below(u64::from(i) + 1) as u32).checked_sub(1) };
                let token = 3 + below(N_VOCAB - 3) as u32;
                let mut path = parent.map_or_else(|| l.text.clone(), |p| paths[p as usize].clone());
                path.push(token);
                let output = below(2) == 0;
                tokens.push((token, l.seq, parent.map(|p| first + p), output));
                if output {
                    expected.push(path.clone());
                }
                paths.push(path);
                parents.push(parent);
            }
            // Keep the path to a random node, or nothing.
            let mut keep = Vec::new();
            let mut at = (below(u64::from(n) + 1) as u32).checked_sub(1);
            let text = at.map_or_else(|| l.text.clone(), |node| paths[node as usize].clone());
            while let Some(node) = at {
                keep.insert(0, first + node);
                at = parents[node as usize];
            }
            commits.push((which, keep, text));
        }
        if tokens.is_empty() {
            continue;
        }
        let rows = forward(model, &tokens);
        assert_eq!(rows.len(), expected.len());
        for (row, path) in rows.iter().zip(&expected) {
            assert!(on.same(row, &alone.logits(path)), "{name} seed {seed}: a row of {} tokens differs", path.len());
        }
        for (which, keep, text) in commits {
            model.commit(live[which].seq, &keep).expect("a commit");
            live[which].text = text;
            if below(3) == 0 {
                let len = live[which].text.len() - below(2) as usize * keep.len().min(1);
                model.kv_mut().checkpoint(live[which].seq, len).expect("a sequence");
            }
        }
        // Fork, roll back, or begin again.
        let which = below(live.len() as u64) as usize;
        let len = below(live[which].text.len() as u64 + 1) as usize;
        // Where layers keep states, as far as one was kept.
        let len = model.kv().forkable(live[which].seq, len);
        match below(4) {
            0 => {
                let seq = model.kv_mut().fork(live[which].seq, len).expect("a fork");
                let text = live[which].text[..len].to_vec();
                live.push(Live { seq, text });
            }
            1 => {
                model.kv_mut().truncate(live[which].seq, len).expect("a rollback");
                live[which].text.truncate(len);
            }
            2 if live.len() > 5 => {
                let gone = live.swap_remove(which);
                model.kv_mut().free(gone.seq);
            }
            _ => {}
        }
    }
    for l in live {
        assert_eq!(model.kv().len(l.seq), l.text.len());
        model.kv_mut().free(l.seq);
    }
    assert_eq!(model.kv().free_blocks(), blocks, "blocks leaked");
}

#[test]
fn schedules_do_not_change_logits() {
    // Windows and two rotary bases; adjacent pairs; soft-caps; norms of whole rows, and only behind blocks; norms behind the
    // rotation; queries that grow; layers that run twice; experts, with sinks and with one that all tokens use.
    let experts = [("qwen3moe", 9), ("gpt-oss", 10), ("granitemoe", 11)];
    let others = [("olmo2-window", 5), ("hunyuan-dense", 6), ("mistral3", 7), ("nanbeige", 8)];
    let hybrids = [("lfm2", 9), ("lfm2", 10), ("lfm2-long", 11), ("qwen35", 12), ("qwen35-foretelling", 13)];
    let hybrids =
        hybrids.into_iter().chain([("granitehybrid-moe", 14), ("falcon-h1", 15), ("gemma4", 16), ("mamba2", 17)]);
    let others = others.into_iter().chain(experts).chain(hybrids);
    for (name, seed) in [("gemma3", 1), ("llama", 2), ("gemma2", 3)].into_iter().chain(others) {
        for cache_type in [CacheType::F32, CacheType::F16] {
            play(&mut Pair::new(CPU, name, cache_type), seed, 30);
        }
    }
    // Heads wide enough for 8-bit entries, and quantized weights.
    play(&mut Pair::new(CPU, SMOLLM2, CacheType::Q8_0), 4, 4);
}

/// A tree of a sequence that a drafter runs level by level, then, beside other sequences' rows, one forward that goes on behind
/// the drafter's layers. `off` shifts the streams by so many rows, which must not go unnoticed.
fn resume(name: &str, cache_type: CacheType, layers: usize, seed: u64, off: usize) -> bool {
    let mut r = Random::new(seed);
    let mut alone = Alone::new(model(name, cache_type, KEPT_TOKENS));
    let mut model = model(name, cache_type, 2048);
    let dim = model.config().dim;
    let texts: Vec<Vec<u32>> =
        (0..3).map(|_| (0..20 + r.below(30)).map(|_| 3 + r.below(250) as u32).collect()).collect();
    let seqs: Vec<SeqId> = texts.iter().map(|_| model.kv_mut().new_seq()).collect();
    let mut batch = Batch::new();
    for (&seq, text) in seqs.iter().zip(&texts) {
        batch.push_run(seq, text, false);
    }
    pollster::block_on(model.forward(&batch, &mut Vec::new())).expect("a forward");
    seqs.iter().for_each(|&seq| model.kv_mut().commit_run(seq).expect("a commit"));

    let (mut tree, mut streams, mut logits) = (Batch::new(), Vec::new(), Vec::new());
    for level in [1, 2, 3, 2] {
        let first = tree.len();
        for _ in 0..level {
            let parent = (first > 0).then(|| r.below(first) as u32);
            tree.push(BatchToken { token: 3 + r.below(250) as u32, seq: seqs[1], parent, output: true });
        }
        pollster::block_on(model.draft((&tree, first), DraftPath::Layers(layers), &mut streams, &mut logits))
            .expect("a draft");
    }
    // The last level was never run by the drafter.
    let run = tree.len();
    for _ in 0..3 {
        let parent = Some(r.below(run) as u32);
        tree.push(BatchToken { token: 3 + r.below(250) as u32, seq: seqs[1], parent, output: true });
    }
    streams.rotate_left(off * dim);
    batch.clear();
    batch.push_run(seqs[0], &[5, 6, 7], true);
    for t in tree.tokens() {
        batch.push(BatchToken { parent: t.parent.map(|p| p + 3), ..*t });
    }
    batch.resume(3, &Streams { layers, values: streams }, dim);
    batch.push_run(seqs[2], &[8], true);
    pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
    let path = |mut at: u32| {
        let mut rows = vec![at];
        while let Some(parent) = batch.tokens()[at as usize].parent {
            at = parent;
            rows.insert(0, at);
        }
        rows
    };
    let text = |row: u32| -> Vec<u32> {
        let which = seqs.iter().position(|&s| s == batch.tokens()[row as usize].seq).expect("a sequence");
        texts[which].iter().copied().chain(path(row).iter().map(|&r| batch.tokens()[r as usize].token)).collect()
    };
    let outputs = (0..batch.len() as u32).filter(|&row| batch.tokens()[row as usize].output);
    let same = outputs.zip(logits.chunks_exact(N_VOCAB as usize)).all(|(row, got)| got == alone.logits(&text(row)));
    // Behind a leaf, so that the cells of its path are seen in all layers.
    let leaf = 3 + tree.len() as u32 - 1;
    model.commit(seqs[1], &path(leaf)).expect("a commit");
    let mut longer = text(leaf);
    longer.push(9);
    let behind = forward(&mut model, &[(9, seqs[1], None, true)]);
    same && behind[0] == alone.logits(&longer)
}

#[test]
fn a_forward_that_begins_behind_the_drafter_s_layers_is_the_whole_forward() {
    for name in ["gemma3", "llama", "gemma2", "olmo2", "nanbeige", "olmoe", "gpt-oss"] {
        for cache_type in [CacheType::F32, CacheType::F16] {
            for seed in 0..4 {
                assert!(resume(name, cache_type, 1, seed, 0), "{name} {cache_type:?} seed {seed}");
                assert!(!resume(name, cache_type, 1, seed, 1), "{name} {cache_type:?} seed {seed}: streams off by one");
            }
        }
    }
}

#[test]
fn a_long_prompt_in_chunks_is_the_prompt_at_once() {
    let mut whole = model("gemma3", CacheType::F16, 256);
    let text: Vec<u32> = (0..120).map(|i| 3 + i * 7 % 250).collect();
    let seq = whole.kv_mut().new_seq();
    let run = |text: &[u32]| -> Vec<(u32, SeqId, Option<u32>, bool)> {
        text.iter()
            .enumerate()
            .map(|(i, &t)| (t, seq, i.checked_sub(1).map(|p| p as u32), i + 1 == text.len()))
            .collect()
    };
    let want = forward(&mut whole, &run(&text));
    for chunk in [1, 2, 31, 32, 33, 64, 119] {
        let mut model = model("gemma3", CacheType::F16, 256);
        assert_eq!(model.kv_mut().new_seq(), seq);
        let mut last = Vec::new();
        for part in text.chunks(chunk) {
            last = forward(&mut model, &run(part));
            model.kv_mut().commit_run(seq).expect("a commit");
        }
        assert!(last == want, "chunks of {chunk}");
    }
}

/// Whoever would run some layers only, or a row's first layers without what came before, would lose states.
#[test]
fn what_runs_some_layers_only_is_refused_where_layers_keep_states() {
    let mut model = model("lfm2", CacheType::F16, 256);
    let (seq, dim) = (model.kv_mut().new_seq(), model.config().dim);
    let mut batch = Batch::new();
    batch.push_run(seq, &[5, 6, 7], true);
    let (mut streams, mut logits) = (Vec::new(), Vec::new());
    let refused = |result: foreword::Result<()>| {
        assert_eq!(result.expect_err("states").kind(), foreword::Kind::Unsupported);
    };
    refused(pollster::block_on(model.draft((&batch, 0), DraftPath::Layers(1), &mut streams, &mut logits)));
    refused(foreword::speculate::draft::Layers::new(&model, 1).map(|_| ()));
    refused(pollster::block_on(model.observe(&batch, 1, false)).map(|_| ()));
    batch.resume(0, &Streams { layers: 1, values: vec![0.0; 3 * dim] }, dim);
    refused(pollster::block_on(model.forward(&batch, &mut logits)));
}

#[test]
fn a_full_cache_refuses_and_loses_nothing() {
    let mut model = model("llama", CacheType::F16, 64);
    let (a, b) = (model.kv_mut().new_seq(), model.kv_mut().new_seq());
    let run = |seq, n: u32| -> Vec<_> { (0..n).map(|i| (3 + i, seq, i.checked_sub(1), i + 1 == n)).collect() };
    forward(&mut model, &run(a, 40));
    model.kv_mut().commit_run(a).expect("a commit");
    let mut batch = Batch::new();
    batch.push_run(b, &[5; 10], true);
    let error = pollster::block_on(model.forward(&batch, &mut Vec::new())).expect_err("a full cache");
    assert_eq!(error.kind(), foreword::Kind::OutOfMemory);
    assert_eq!((model.kv().len(a), model.kv().len(b), model.kv().free_blocks()), (40, 0, 0));
    model.kv_mut().truncate(a, 32).expect("a rollback");
    forward(&mut model, &run(b, 10));
}

/// Prompts packed into forwards, cut wherever these end, against each prompt alone: the logits of its last token, and, to
/// see that every cell of the caches is equal, the logits of tokens behind it.
fn pack(Pair { on, name, alone, model }: &mut Pair, seed: u64, longest: usize) {
    let mut r = Random::new(seed);
    let mut prompts: Vec<Vec<u32>> = (0..2 + r.below(7))
        .map(|_| (0..1 + r.below(longest)).map(|_| 3 + r.below(N_VOCAB as usize - 3) as u32).collect())
        .collect();
    prompts.sort_by_key(Vec::len);
    let seqs: Vec<SeqId> = prompts.iter().map(|_| model.kv_mut().new_seq()).collect();
    let total = prompts.iter().map(Vec::len).sum();
    let width = foreword::prefill::width(total, 1 + r.below(128));
    let mut done = vec![0; prompts.len()];
    let mut last: Vec<Vec<f32>> = vec![Vec::new(); prompts.len()];
    while done.iter().sum::<usize>() < total {
        let (mut batch, mut ends, mut run) = (Batch::new(), Vec::new(), Vec::new());
        for (i, prompt) in prompts.iter().enumerate() {
            let n = (prompt.len() - done[i]).min(width - batch.len());
            if n == 0 {
                continue;
            }
            let whole = done[i] + n == prompt.len();
            batch.push_run(seqs[i], &prompt[done[i]..done[i] + n], whole);
            done[i] += n;
            run.push(seqs[i]);
            ends.extend(whole.then_some(i));
        }
        let mut logits = Vec::new();
        pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
        run.into_iter().for_each(|seq| model.kv_mut().commit_run(seq).expect("a commit"));
        for (row, i) in logits.chunks_exact(model.config().n_vocab).zip(ends) {
            last[i] = row.to_vec();
        }
    }
    for ((prompt, &seq), last) in prompts.iter().zip(&seqs).zip(last) {
        let what = format!("{name} seed {seed}: a prompt of {} tokens", prompt.len());
        assert!(on.same(&last, &alone.logits(prompt)), "{what}");
        let mut path = prompt.clone();
        for token in [7, 100] {
            path.push(token);
            let rows = forward(model, &[(token, seq, None, true)]);
            model.kv_mut().commit_run(seq).expect("a commit");
            assert!(on.same(&rows[0], &alone.logits(&path)), "{what}, behind it");
        }
        model.kv_mut().free(seq);
    }
}

#[test]
fn packed_prompts_are_each_alone() {
    for name in ["gemma3", "llama", "gemma2", "lfm2", "qwen35", "falcon-h1", "gemma4", "qwen3moe", "gpt-oss"] {
        for cache_type in [CacheType::F32, CacheType::F16] {
            let mut pair = Pair::new(CPU, name, cache_type);
            (0..6).for_each(|seed| pack(&mut pair, seed, 90));
        }
    }
    pack(&mut Pair::new(CPU, SMOLLM2, CacheType::Q8_0), 1, 30);
}

/// Trees, forks, rollbacks and packed prompts on the GPU. The tiny models are floats; quantized activations on the border of
/// two codes fall to either side, and what they change goes through all layers.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    const FLOATS: On = On {
        load: |path, options| load(path, options, common::cuda::open(&Default::default()).expect("the caller asked")),
        bound: 2e-4,
    };

    #[test]
    fn cuda_schedules_do_not_change_logits() {
        if common::cuda::open(&Default::default()).is_none() {
            return;
        }
        // An emulated device takes half a minute for each; the tests of ops have every shape with every type.
        let floats = ["gemma3", "gemma2", "olmo2", "gpt-oss"].map(|name| (name, CacheType::F32));
        let halves = ["gemma3", "llama", "hunyuan-dense", "lfm2", "granitemoe", "qwen35-foretelling"]
            .map(|name| (name, CacheType::F16));
        for (seed, (name, cache_type)) in (1..).zip(floats.into_iter().chain(halves)) {
            let mut pair = Pair::new(FLOATS, name, cache_type);
            play(&mut pair, seed, 12);
            pack(&mut pair, seed, 90);
        }
    }

    /// Decoding is replayed as a graph from the third step on; what it reads must be the step's own plan.
    #[test]
    fn cuda_graphs_change_nothing() {
        let Some(gpu) = common::cuda::open(&Default::default()) else { return };
        let mut gpu = load(&path_of("llama"), &options(CacheType::F32, 256), gpu);
        let mut cpu = model("llama", CacheType::F32, 256);
        let seqs = [gpu.kv_mut().new_seq(), cpu.kv_mut().new_seq()];
        for i in 0..40 {
            let token = 3 + i * 7 % 250;
            let [got, wanted] =
                [(&mut gpu, seqs[0]), (&mut cpu, seqs[1])].map(|(m, seq)| forward(m, &[(token, seq, None, true)]));
            gpu.kv_mut().commit_run(seqs[0]).expect("a commit");
            cpu.kv_mut().commit_run(seqs[1]).expect("a commit");
            assert!(FLOATS.same(&got[0], &wanted[0]), "step {i}");
        }
    }
}

/// The same on WebGPU, with all that the adapter offers and as the WebGPU defaults guarantee it.
#[cfg(feature = "wgpu")]
mod webgpu {
    use super::*;
    use foreword::backend::webgpu::{Options, WebGpu};

    fn open(path: &Path, model: &ModelOptions, gpu: &Options) -> Model {
        load(path, model, pollster::block_on(WebGpu::open(gpu)).expect("an adapter; ./test installs a software one"))
    }

    fn full(path: &Path, model: &ModelOptions) -> Model {
        open(path, model, &Options::default())
    }

    fn plain(path: &Path, model: &ModelOptions) -> Model {
        let plain = Options {
            subgroups: false,
            half_floats: false,
            max_binding: Some(128 << 20),
            is_processor: Some(false),
            ..Options::default()
        };
        open(path, model, &plain)
    }

    /// Schedules of the models on the GPU with all that it has, and on one that has what WebGPU promises.
    fn schedules(cache_type: CacheType, bound: f32, fulls: &[&'static str], plains: &[&'static str]) {
        let (full, plain) = (On { load: full, bound }, On { load: plain, bound });
        let both = fulls.iter().map(|name| (full, name)).chain(plains.iter().map(|name| (plain, name)));
        for (seed, (on, name)) in (1..).zip(both) {
            let mut pair = Pair::new(on, name, cache_type);
            play(&mut pair, seed, 12);
            pack(&mut pair, seed, 90);
        }
    }

    #[test]
    fn webgpu_schedules_do_not_change_logits() {
        let fulls = ["gemma3", "llama", "olmo2", "mistral3", "lfm2", "gpt-oss", "granitehybrid", "qwen35-foretelling"];
        let plains = ["gemma2", "llama", "hunyuan-dense", "granitemoe", "gemma4"];
        schedules(CacheType::F32, 2e-4, &fulls, &plains);
    }

    /// Only attention reads the cache: with windows, without, with sinks, and behind a gate. A key that lies between two half
    /// floats falls to either side, 2^-11 of it apart.
    #[test]
    fn webgpu_schedules_over_half_floats_do_not_change_logits() {
        schedules(CacheType::F16, 1e-3, &["gemma3", "gpt-oss", "qwen35-foretelling"], &["gemma2", "llama"]);
    }
}

//! The batch form: whatever is packed, chunked, drafted, forked or rolled back, a token's logits are those that it has when
//! its path is read alone, token by token. On the CPU they are equal bit for bit; on GPUs, where other kernels read one token
//! than many, up to rounding.

mod common;

use common::random::Random;
use common::{SMOLLM2, data, load, model_path};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken, SeqId, Streams};
use foreword::model::{Guesser, Model, ModelOptions};
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

fn model_on(on: On, name: &str, cache_type: CacheType, tokens: usize) -> Model {
    (on.load)(&path_of(name), &options(cache_type, tokens))
}

fn path_of(name: &str) -> std::path::PathBuf {
    if name == SMOLLM2 { model_path(name) } else { data(&format!("models/{name}.gguf")) }
}

fn options(cache_type: CacheType, tokens: usize) -> ModelOptions {
    ModelOptions { context_length: Some(256), cache_type, cache_tokens: Some(tokens), max_batch: 128 }
}

fn model(name: &str, cache_type: CacheType, tokens: usize) -> Model {
    load(&path_of(name), &options(cache_type, tokens), Cpu::new(2))
}

/// Logits behind every prefix, read token by token in a sequence of its own.
struct Alone {
    model: Model,
    known: HashMap<Vec<u32>, Vec<f32>>,
}

impl Alone {
    fn logits(&mut self, path: &[u32]) -> Vec<f32> {
        if let Some(found) = self.known.get(path) {
            return found.clone();
        }
        let seq = self.model.kv_mut().new_seq();
        for i in 0..path.len() {
            let logits = forward(&mut self.model, &[(path[i], seq, None, true)]);
            self.model.kv_mut().commit_run(seq).expect("a commit");
            self.known.insert(path[..=i].to_vec(), logits.into_iter().next().expect("a row"));
        }
        self.model.kv_mut().free(seq);
        self.known[path].clone()
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
fn play(on: On, name: &str, cache_type: CacheType, seed: u64, rounds: usize) {
    let mut r = Random::new(seed);
    let mut below = move |n: u64| r.below(n as usize) as u64;
    let mut alone = Alone { model: model_on(on, name, cache_type, 256), known: HashMap::new() };
    let mut model = model_on(on, name, cache_type, 2048);
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
        let rows = forward(&mut model, &tokens);
        assert_eq!(rows.len(), expected.len());
        for (row, path) in rows.iter().zip(&expected) {
            assert!(
                on.same(row, &alone.logits(path)),
                "{name} {cache_type:?} seed {seed}: a row of {} tokens differs",
                path.len()
            );
        }
        for (which, keep, text) in commits {
            model.commit(live[which].seq, &keep).expect("a commit");
            live[which].text = text;
        }
        // Fork, roll back, or begin again.
        let which = below(live.len() as u64) as usize;
        let len = below(live[which].text.len() as u64 + 1) as usize;
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
    // Windows and two rotary bases; adjacent pairs; soft-caps.
    for (name, seed) in [("gemma3", 1), ("llama", 2), ("gemma2", 3)] {
        for cache_type in [CacheType::F32, CacheType::F16] {
            play(CPU, name, cache_type, seed, 30);
        }
    }
    // Heads wide enough for 8-bit entries, and quantized weights.
    play(CPU, SMOLLM2, CacheType::Q8_0, 4, 4);
}

/// A tree of a sequence that a drafter runs level by level, then, beside other sequences' rows, one forward that goes on behind
/// the drafter's layers. `off` shifts the streams by so many rows, which must not go unnoticed.
fn resume(name: &str, cache_type: CacheType, layers: usize, seed: u64, off: usize) -> bool {
    let mut r = Random::new(seed);
    let mut alone = Alone { model: model(name, cache_type, 256), known: HashMap::new() };
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
        pollster::block_on(model.draft((&tree, first), Guesser::Layers(layers), &mut streams, &mut logits))
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
    for name in ["gemma3", "llama", "gemma2"] {
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
fn pack(on: On, name: &str, cache_type: CacheType, seed: u64, longest: usize) {
    let mut r = Random::new(seed);
    let mut alone = Alone { model: model_on(on, name, cache_type, 256), known: HashMap::new() };
    let mut model = model_on(on, name, cache_type, 2048);
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
        let what = format!("{name} {cache_type:?} seed {seed}: a prompt of {} tokens", prompt.len());
        assert!(on.same(&last, &alone.logits(prompt)), "{what}");
        let mut path = prompt.clone();
        for token in [7, 100] {
            path.push(token);
            let rows = forward(&mut model, &[(token, seq, None, true)]);
            model.kv_mut().commit_run(seq).expect("a commit");
            assert!(on.same(&rows[0], &alone.logits(&path)), "{what}, behind it");
        }
    }
}

#[test]
fn packed_prompts_are_each_alone() {
    for seed in 0..6 {
        for name in ["gemma3", "llama", "gemma2"] {
            for cache_type in [CacheType::F32, CacheType::F16] {
                pack(CPU, name, cache_type, seed, 90);
            }
        }
    }
    pack(CPU, SMOLLM2, CacheType::Q8_0, 1, 30);
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
        for (name, seed) in [("gemma3", 1), ("llama", 2), ("gemma2", 3)] {
            for cache_type in [CacheType::F32, CacheType::F16] {
                play(FLOATS, name, cache_type, seed, 12);
                pack(FLOATS, name, cache_type, seed, 90);
            }
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

    #[test]
    fn webgpu_schedules_do_not_change_logits() {
        // A key that lies between two half floats falls to either side, 2^-11 of it apart.
        for (cache_type, bound) in [(CacheType::F32, 2e-4), (CacheType::F16, 1e-3)] {
            let (full, plain) = (On { load: full, bound }, On { load: plain, bound });
            for (on, name, seed) in [(full, "gemma3", 1), (full, "llama", 2), (plain, "gemma2", 3), (plain, "llama", 4)]
            {
                play(on, name, cache_type, seed, 12);
                pack(on, name, cache_type, seed, 90);
            }
        }
    }
}

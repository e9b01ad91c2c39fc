//! KV prediction: after the hand-over, a progressive answer is the base's own continuation bit for bit; predicted entries
//! reach nobody else; a sidecar that does not fit is refused.

use crate::common::random::Random;
use crate::common::simulated::{Simulated, clock, stall_one_in};
use crate::common::{data, open, open_source, read};
use foreword::Kind;
use foreword::backend::cpu::Cpu;
use foreword::backend::{BLOCK, CacheType};
use foreword::batch::Batch;
use foreword::engine::{Engine, Event, Request, RequestId};
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::write::{Tensor, to_bytes};
use foreword::gguf::{Metadata, Value};
use foreword::model::{Model, ModelOptions, config_of};
use foreword::predict::Prefill;
use foreword::quant::TensorType;
use foreword::sample::{Logits, Params, log_probabilities};
use foreword::sidecar::{ARCHITECTURE, Fingerprint};
use foreword::speculate::Mode;
use foreword::speculate::draft::{Layers, Ngram};
use std::collections::HashMap;

const VOCAB: usize = 264;

fn options(cache_type: CacheType) -> ModelOptions {
    ModelOptions { context_length: Some(512), cache_type, cache_tokens: Some(4096), max_batch: 48, kv_memory: None }
}

/// Fingerprint of a model, from its file.
fn fingerprint(model: &str) -> Fingerprint {
    let (gguf, mut sources) = open(&data(&format!("models/{model}.gguf")));
    let mut found = Fingerprint::default();
    found.set_types(&gguf);
    for t in &gguf.tensors {
        let mut bytes = vec![0; t.n_bytes as usize];
        pollster::block_on(sources[t.part].read_at(t.offset, &mut bytes)).expect("bytes");
        found.add(&t.name, &bytes);
    }
    found
}

/// A sidecar with a trunk of one layer and maps of noise, for a model with this fingerprint.
fn sidecar(model: &str, base: Fingerprint) -> Vec<u8> {
    let (gguf, _) = open(&data(&format!("models/{model}.gguf")));
    let config = config_of(&gguf, None).expect("a config");
    let (rows, width, dim) = (config.attention(0).expect("attention").kv_dim(), 32, config.dim);
    let mut r = Random::new(5);
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", Value::String(ARCHITECTURE.into()));
    metadata.insert("foreword-sidecar.trunk_layers", Value::Unsigned(1));
    metadata.insert("foreword-sidecar.base.norms", Value::String(format!("{:016x}", base.norms)));
    metadata.insert("foreword-sidecar.base.tensors", Value::String(format!("{:016x}", base.tensors)));
    let read = ["gate", "up.0", "up.1"].map(|part| (format!("maps.{part}.weight"), [dim as u64, width as u64]));
    let written = (1..config.layers.len())
        .flat_map(|l| ["attn_k", "attn_v"].map(|part| (format!("blk.{l}.{part}.weight"), [width as u64, rows as u64])));
    let noise: Vec<(String, [u64; 2], Vec<u8>)> = read
        .into_iter()
        .chain(written)
        .map(|(name, dims)| {
            let values = (0..dims[0] * dims[1]).flat_map(|_| (r.below(1000) as f32 / 2000.0 - 0.25).to_le_bytes());
            (name, dims, values.collect())
        })
        .collect();
    let tensors: Vec<Tensor> =
        noise.iter().map(|(name, dims, data)| Tensor { name, ty: TensorType::F32, dims, data }).collect();
    to_bytes(&metadata, &tensors).expect("a file")
}

fn engine(model: &str, cache_type: CacheType) -> Engine {
    let sources = vec![open_source(&data(&format!("models/{model}.gguf")))];
    let cpu = Box::new(Cpu::new(2));
    pollster::block_on(Engine::load(sources, cpu, &options(cache_type), || 0.0, &mut |_| {})).expect("a sound model")
}

fn add(engine: &mut Engine, bytes: Vec<u8>) -> foreword::Result<bool> {
    let sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes))];
    pollster::block_on(engine.add_sidecar(sources))
}

fn early(model: &str, cache_type: CacheType) -> Engine {
    let mut engine = engine(model, cache_type);
    assert!(add(&mut engine, sidecar(model, fingerprint(model))).expect("a sidecar"), "the very quantization");
    engine
}

/// With a sidecar, on a device of simulated time, with `blocks` of cache.
fn simulated(blocks: usize, max_batch: usize) -> Engine {
    let options = ModelOptions {
        context_length: Some(2048),
        cache_type: CacheType::F16,
        cache_tokens: Some(blocks * BLOCK),
        max_batch,
        kv_memory: None,
    };
    let (sources, backend) = (vec![open_source(&data("models/llama.gguf"))], Box::new(Simulated::new(1.0, 0.1, 0.0)));
    let mut engine =
        pollster::block_on(Engine::load(sources, backend, &options, clock, &mut |_| {})).expect("a sound model");
    add(&mut engine, sidecar("llama", fingerprint("llama"))).expect("a sidecar");
    engine
}

fn prompt(seed: u64, n: usize) -> Vec<u32> {
    let mut r = Random::new(seed);
    (0..n).map(|_| 3 + r.below(260) as u32).collect()
}

fn request(prompt: &[u32], prefill: Prefill, n: usize) -> Request {
    let params = Params { temperature: 0.0, ..Params::default() };
    Request {
        prompt: prompt.to_vec(),
        params,
        max_tokens: Some(n),
        logprobs: Some(VOCAB),
        ignore_eos: true,
        prefill: Some(prefill),
        ..Request::default()
    }
}

/// What came of a request: tokens, their log-probabilities, and from which token on the cache was exact.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<Vec<(u32, f32)>>,
    exact_from: Option<usize>,
    cached: usize,
    predicted: usize,
}

fn run(engine: &mut Engine, requests: Vec<Request>) -> Vec<Answer> {
    let ids: Vec<RequestId> = requests.into_iter().map(|r| engine.submit(r).expect("a request")).collect();
    let mut answers: HashMap<RequestId, Answer> = HashMap::new();
    let mut events = Vec::new();
    for step in 0.. {
        if engine.is_idle() {
            break;
        }
        assert!(step < 20_000, "no end");
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(id, t) => {
                    let answer = answers.entry(id).or_default();
                    answer.tokens.push(t.token);
                    answer.logprobs.push(t.logprobs.expect("asked for").1);
                }
                Event::Done(id, done) => {
                    let answer = answers.entry(id).or_default();
                    answer.cached = done.usage.cached_tokens;
                    answer.predicted = done.usage.predicted_tokens;
                }
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
        for id in &ids {
            let answer = answers.entry(*id).or_default();
            if answer.exact_from.is_none() && !answer.tokens.is_empty() && !engine.is_predicted(*id) {
                answer.exact_from = Some(answer.tokens.len());
            }
        }
    }
    ids.iter().map(|id| answers.remove(id).expect("an answer")).collect()
}

/// Checks an answer's tokens from `from` on against a fresh model that reads prompt and words exactly, in one go.
fn check_exact(model: &str, cache_type: CacheType, prompt: &[u32], answer: &Answer, from: usize) {
    let path = data(&format!("models/{model}.gguf"));
    let options = ModelOptions { max_batch: 512, ..options(cache_type) };
    let mut fresh: Model = crate::common::load(&path, &options, Cpu::new(1));
    let seq = fresh.kv_mut().new_seq();
    let text: Vec<u32> = prompt.iter().chain(&answer.tokens).copied().collect();
    let mut logits = Vec::new();
    for i in 0..answer.tokens.len() {
        let n = fresh.kv().len(seq);
        let mut batch = Batch::new();
        batch.push_run(seq, &text[n..prompt.len() + i], true);
        pollster::block_on(fresh.forward(&batch, &mut logits)).expect("a forward");
        fresh.kv_mut().commit_run(seq).expect("a commit");
        if i >= from {
            let (_, expected) = log_probabilities(Logits::All(&logits), answer.tokens[i], VOCAB);
            assert_eq!(answer.logprobs[i], expected, "{model}: token {i} of the answer");
        }
    }
}

#[test]
fn after_the_hand_over_answers_are_the_base_own_bit_for_bit() {
    for (model, cache_type) in
        [("llama", CacheType::F32), ("llama", CacheType::F16), ("gemma3", CacheType::F16), ("qwen3", CacheType::F16)]
    {
        let mut engine = early(model, cache_type);
        let prompt = prompt(1, 300);
        let answer = run(&mut engine, vec![request(&prompt, Prefill::Progressive, 60)]).remove(0);
        assert!(answer.predicted > 200, "{} predicted", answer.predicted);
        let from = answer.exact_from.expect("a hand-over");
        assert!((2..50).contains(&from), "{model}: exact from token {from} on");
        check_exact(model, cache_type, &prompt, &answer, from);
        // Prediction by noise is no good, so words before are others than the base's.
        let exact = run(&mut engine, vec![request(&prompt, Prefill::Exact, 4)]).remove(0);
        assert_ne!(exact.logprobs[0], answer.logprobs[0], "{model}: the first word came of the prediction");
    }
}

#[test]
fn the_hand_over_comes_whatever_room_the_last_chunk_leaves() {
    let mut engine = early("llama", CacheType::F16);
    // The last chunk has room for none to all of the words so far.
    for n in 200..330 {
        let prompt = prompt(n as u64, n);
        let answer = run(&mut engine, vec![request(&prompt, Prefill::Progressive, 12)]).remove(0);
        let from = answer.exact_from.expect("a hand-over");
        assert!(from < 12, "{n} tokens: no hand-over");
        check_exact("llama", CacheType::F16, &prompt, &answer, from);
    }
}

#[test]
fn predicted_entries_reach_nobody_else() {
    let mut engine = early("llama", CacheType::F16);
    let text = prompt(2, 200);
    let exact = run(&mut engine, vec![request(&text, Prefill::Exact, 8)]).remove(0);
    engine.clear_cache();
    let fast = run(&mut engine, vec![request(&text, Prefill::Fast, 8)]).remove(0);
    assert_eq!(fast.exact_from, Some(8), "only when it is over");
    // Behind it, and beside one that is under way.
    let again = run(&mut engine, vec![request(&text, Prefill::Exact, 8)]).remove(0);
    assert!(again.cached <= foreword::predict::SINKS, "{} cached", again.cached);
    assert_eq!(again.logprobs, exact.logprobs);
    engine.clear_cache();
    let both = run(&mut engine, vec![request(&text, Prefill::Fast, 30), request(&text, Prefill::Exact, 8)]);
    assert_eq!(both[1].logprobs, exact.logprobs);
    assert_eq!(both[0].logprobs[..8], fast.logprobs);
    // What a progressive answer has made exact is reused.
    engine.clear_cache();
    run(&mut engine, vec![request(&text, Prefill::Progressive, 60)]);
    let again = run(&mut engine, vec![request(&text, Prefill::Exact, 8)]).remove(0);
    assert_eq!((again.cached, again.logprobs), (199, exact.logprobs));
}

#[test]
fn packed_with_others_everything_is_as_alone() {
    let modes = [Prefill::Progressive, Prefill::Exact, Prefill::Fast, Prefill::Progressive, Prefill::Exact];
    let requests: Vec<Request> =
        modes.iter().enumerate().map(|(i, &mode)| request(&prompt(10 + i as u64, 130 + 40 * i), mode, 40)).collect();
    for speculate in [false, true] {
        let mut engine = early("llama", CacheType::F16);
        if speculate {
            let mode: Mode = "rsd-s:6".parse().expect("a form");
            engine.speculate(Box::new(Ngram), mode).expect("a drafter");
        }
        let together = run(&mut engine, requests.clone());
        for (request, answer) in requests.iter().zip(&together) {
            match request.prefill {
                Some(Prefill::Progressive) => {
                    let from = answer.exact_from.expect("a hand-over");
                    assert!(from < 40, "no hand-over in {from} tokens");
                    check_exact("llama", CacheType::F16, &request.prompt, answer, from);
                }
                _ => {
                    let alone = run(&mut early("llama", CacheType::F16), vec![request.clone()]).remove(0);
                    assert_eq!(answer.logprobs, alone.logprobs);
                }
            }
        }
    }
}

#[test]
fn little_memory_and_cancelling_end_well() {
    let sources = vec![open_source(&data("models/llama.gguf"))];
    let options = ModelOptions { cache_tokens: Some(512), ..options(CacheType::F16) };
    let cpu = Box::new(Cpu::new(1));
    let mut engine =
        pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model");
    add(&mut engine, sidecar("llama", fingerprint("llama"))).expect("a sidecar");
    let free = engine.model().kv().free_blocks();
    let mut r = Random::new(3);
    for round in 0..6 {
        let mut ids = Vec::new();
        for i in 0..6 {
            let mode = [Prefill::Progressive, Prefill::Fast, Prefill::Exact][r.below(3)];
            let request = request(&prompt(round * 10 + i, 100 + r.below(200)), mode, 1 + r.below(120));
            ids.push(engine.submit(request).expect("a request"));
        }
        let mut events = Vec::new();
        let mut steps = 0;
        while !engine.is_idle() {
            pollster::block_on(engine.step(&mut events)).expect("a step");
            steps += 1;
            assert!(steps < 5000, "no end");
            if r.below(20) == 0 {
                engine.cancel(ids[r.below(ids.len())]);
            }
        }
        let done = events.iter().filter(|e| matches!(e, Event::Done(..))).count();
        assert_eq!(done, ids.len());
    }
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), free, "blocks were lost");
}

#[test]
fn a_sidecar_that_comes_during_an_answer_changes_nothing_of_it() {
    let requests = || (0..3).map(|i| request(&prompt(i, 40 + 60 * i as usize), Prefill::Exact, 30)).collect::<Vec<_>>();
    let wanted = run(&mut engine("llama", CacheType::F32), requests());
    let mut engine = engine("llama", CacheType::F32);
    let ids: Vec<RequestId> = requests().into_iter().map(|r| engine.submit(r).expect("a request")).collect();
    let mut events = Vec::new();
    for _ in 0..12 {
        pollster::block_on(engine.step(&mut events)).expect("a step");
    }
    let early = events.len();
    add(&mut engine, sidecar("llama", fingerprint("llama"))).expect("a sidecar");
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
    }
    assert!(early > 10 && events.len() > early + 10, "{early} of {} events came before", events.len());
    for (id, wanted) in ids.into_iter().zip(wanted) {
        let tokens = events.iter().filter_map(|e| match e {
            Event::Token(of, token) if *of == id => Some(token.token),
            _ => None,
        });
        assert_eq!(tokens.collect::<Vec<_>>(), wanted.tokens);
    }
}

#[test]
fn sidecars_that_do_not_fit_are_refused() {
    let mut engine = engine("llama", CacheType::F16);
    let text = prompt(4, 150);
    let refused = engine.submit(request(&text, Prefill::Fast, 4)).expect_err("no sidecar yet");
    assert_eq!(refused.kind(), Kind::InvalidRequest);
    let mine = fingerprint("llama");
    let other = Fingerprint { norms: mine.norms ^ 1, ..mine };
    assert_eq!(add(&mut engine, sidecar("llama", other)).expect_err("another base").kind(), Kind::InvalidRequest);
    let quantization = Fingerprint { tensors: mine.tensors ^ 1, ..mine };
    assert!(!add(&mut engine, sidecar("llama", quantization)).expect("another quantization is allowed"));
    let good = sidecar("llama", mine);
    for n in [0, 3, 100, good.len() / 2, good.len() - 1] {
        let error = add(&mut engine, good[..n].to_vec()).expect_err("truncated");
        assert_eq!(error.kind(), Kind::BadFile, "{error}");
    }
    let model = read(&data("models/llama.gguf"));
    assert_eq!(add(&mut engine, model).expect_err("no sidecar").kind(), Kind::InvalidRequest);
    // The sidecar from before is still there.
    assert_eq!(run(&mut engine, vec![request(&text, Prefill::Fast, 4)])[0].tokens.len(), 4);
}

#[test]
fn a_batch_smaller_than_sinks_and_tail_reads_them_in_parts() {
    let text = prompt(5, 450);
    let answers = |max_batch: usize, modes: &[Prefill]| {
        let mut engine = simulated(64, max_batch);
        run(&mut engine, modes.iter().map(|&mode| request(&text, mode, 20)).collect())
    };
    let wanted = answers(256, &[Prefill::Fast]).remove(0);
    for max_batch in [1, 2, 3, 30, 48, 60] {
        let got = answers(max_batch, &[Prefill::Fast, Prefill::Progressive, Prefill::Progressive, Prefill::Exact]);
        assert_eq!(got[0].logprobs, wanted.logprobs, "{max_batch} rows");
        assert!(got.iter().all(|answer| answer.tokens.len() == 20));
    }
}

#[test]
fn a_prompt_that_is_predicted_finds_room_in_a_cache_of_finished_answers() {
    for blocks in [52, 53, 60] {
        let mut engine = simulated(blocks, 128);
        // Out of reach, so that the prompt is read a few tokens at a time and the answer beside it ends first.
        engine.set_step_target(0.0);
        let both = [request(&prompt(6, 20), Prefill::Exact, 180), request(&prompt(7, 1500), Prefill::Progressive, 4)];
        let ids = both.map(|r| engine.submit(r).expect("a request"));
        let (mut events, mut steps) = (Vec::new(), 0);
        while !engine.is_idle() {
            pollster::block_on(engine.step(&mut events)).expect("a step");
            steps += 1;
            assert!(steps < 2000, "{blocks} blocks: no end");
        }
        for id in ids {
            assert!(events.iter().any(|e| matches!(e, Event::Done(done, _) if *done == id)));
        }
    }
}

#[test]
fn steps_may_be_dropped_in_the_middle_of_the_exact_reading_and_of_guesses() {
    let (text, n) = (prompt(8, 300), 60);
    let mut dropped = 0;
    for guess in [false, true] {
        let mut engine = simulated(128, 48);
        if guess {
            let drafter = Layers::new(engine.model(), 1).expect("a drafter");
            engine.speculate(Box::new(drafter), "rsd-s:6".parse().expect("a form")).expect("a drafter");
        }
        let requests = [request(&text, Prefill::Progressive, n), request(&text[100..], Prefill::Exact, n)];
        let ids = requests.clone().map(|r| engine.submit(r).expect("a request"));
        let (mut r, mut answers, mut exact_from) = (Random::new(9), [Answer::default(), Answer::default()], None);
        stall_one_in(2);
        while !engine.is_idle() {
            let mut events = Vec::new();
            {
                let mut step = std::pin::pin!(engine.step(&mut events));
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let mut left = 1 + r.below(6);
                while step.as_mut().poll(&mut context).is_pending() && left > 0 {
                    left -= 1;
                    dropped += usize::from(left == 0);
                }
            }
            for event in events {
                let Event::Token(id, token) = event else { continue };
                let answer = &mut answers[usize::from(id == ids[1])];
                answer.tokens.push(token.token);
                answer.logprobs.push(token.logprobs.expect("asked for").1);
            }
            if exact_from.is_none() && !answers[0].tokens.is_empty() && !engine.is_predicted(ids[0]) {
                exact_from = Some(answers[0].tokens.len());
            }
        }
        stall_one_in(0);
        let from = exact_from.filter(|&from| from < n).expect("a hand-over");
        check_exact("llama", CacheType::F16, &text, &answers[0], from);
        check_exact("llama", CacheType::F16, &text[100..], &answers[1], 0);
    }
    assert!(dropped > 50, "only {dropped} steps were dropped");
}

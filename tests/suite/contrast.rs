//! Contrasted answers: what another prompt makes probable is taken off. The reference reads both texts by themselves, one token at a
//! time, and computes the two distributions and what comes of them plainly in f64.

use crate::common::rules::{ByPath, Forcing};
use crate::common::{data, exact_options, load, open_source};
use foreword::Kind;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, SeqId};
use foreword::engine::{Against, Engine, Event, FinishReason, Request, TokenEvent};
use foreword::model::{Model, ModelOptions};
use foreword::sample::{Contrast, ContrastMode, Logits, Params, Rule, Sampler};
use foreword::speculate::Mode;
use foreword::speculate::draft::Ngram;

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn wide(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&l| f64::from(l)).collect()
}

/// The distribution that comes of two, by the definition.
fn contrasted(own: &[f64], other: &[f64], contrast: Contrast) -> Vec<f64> {
    let (p, q, w) = (softmax(own), softmax(other), f64::from(contrast.weight));
    let unsure = p.iter().map(|p| p * p).sum::<f64>() < f64::from(contrast.when);
    if !unsure || w == 0.0 {
        return p;
    }
    let best = p.iter().copied().fold(0.0, f64::max);
    let score = |i: usize| match contrast.mode {
        _ if p[i] < 0.1 * best => 0.0,
        ContrastMode::Prob => (p[i] - w * q[i]).max(0.0),
        ContrastMode::Logit => p[i] * (p[i] / q[i]).powf(w),
    };
    let scores: Vec<f64> = (0..p.len()).map(score).collect();
    let sum: f64 = scores.iter().sum();
    if sum > 0.0 { scores.iter().map(|s| s / sum).collect() } else { p }
}

fn contrasts() -> impl Iterator<Item = Contrast> {
    let modes = [ContrastMode::Prob, ContrastMode::Logit];
    modes.into_iter().flat_map(|mode| {
        let of = move |(weight, when)| Contrast { weight, when, mode };
        [(0.7, 0.8), (0.5, 1.0), (1.0, 1.0), (3.0, 1.0), (0.7, 0.0), (0.0, 1.0)].into_iter().map(of)
    })
}

#[test]
fn two_distributions_become_what_the_definition_says() {
    let mut r = crate::common::random::Random::new(5);
    for round in 0..200 {
        let scale = [0.5, 2.0, 6.0][round % 3];
        let mut logits = || -> Vec<f32> { r.floats(40).iter().map(|v| v * scale).collect() };
        let (own, mut other) = (logits(), logits());
        if round % 5 == 0 {
            other.clone_from(&own);
        }
        for contrast in contrasts() {
            let want = contrasted(&wide(&own), &wide(&other), contrast);
            let mut sampler = Sampler::new(Params::default());
            let got = sampler.distribution(Logits::Pair { own: &own, other: &other, contrast });
            for (id, want) in (0..).zip(&want) {
                assert!((got.p(id) - want).abs() < 1e-5, "{contrast:?}: {id} has {}, not {want}", got.p(id));
            }
        }
    }
}

#[test]
fn rules_count_in_both_distributions() {
    let contrast = Contrast { weight: 1.0, when: 1.0, mode: ContrastMode::Prob };
    let (own, other) = ([3.0, 2.0, 1.0, 0.5], [3.0, -2.0, 0.0, 0.5]);
    // The best token is forbidden: what is left is contrasted by itself, and always something is.
    let params = Params { logit_bias: vec![(0, f32::NEG_INFINITY), (2, 1.5)], ..Params::default() };
    let forbidden = f64::NEG_INFINITY;
    let want = contrasted(&[forbidden, 2.0, 2.5, 0.5], &[forbidden, -2.0, 1.5, 0.5], contrast);
    let mut sampler = Sampler::new(params);
    let got = sampler.distribution(Logits::Pair { own: &own, other: &other, contrast });
    assert!((0..4).all(|id| (got.p(id) - want[id as usize]).abs() < 1e-6), "{got:?}, not {want:?}");
    // A token that is all there may be is chosen, however probable the other prompt makes it.
    let only = Params { logit_bias: (0..3).map(|id| (id, f32::NEG_INFINITY)).collect(), ..Params::default() };
    assert_eq!(Sampler::new(only).sample(Logits::Pair { own: &own, other: &[0.0, 0.0, 0.0, 9.0], contrast }), 3);
    let forced = Params { logit_bias: vec![(1, f32::INFINITY)], ..Params::default() };
    assert_eq!(Sampler::new(forced).sample(Logits::Pair { own: &own, other: &other, contrast }), 1);
}

fn engine(model: &str, cache_tokens: usize) -> Engine {
    let sources = vec![open_source(&data(&format!("models/{model}.gguf")))];
    let options = ModelOptions { cache_tokens: Some(cache_tokens), max_batch: 48, ..exact_options(256) };
    let cpu = Box::new(Cpu::new(1));
    pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model")
}

fn text(seed: u64, n: usize) -> Vec<u32> {
    let mut r = crate::common::random::Random::new(seed);
    (0..n).map(|_| 3 + r.below(260) as u32).collect()
}

/// Prompts with a common beginning, without one, equal ones, and such of which one begins with the other.
fn pairs() -> Vec<(Vec<u32>, Vec<u32>)> {
    let with = |seed, n| [text(1, 40), text(seed, n)].concat();
    vec![
        (with(2, 30), with(3, 5)),
        (text(4, 20), text(5, 70)),
        (with(6, 3), with(6, 3)),
        (with(7, 50), text(1, 40)),
        (text(1, 1), with(8, 60)),
    ]
}

fn request((prompt, other): &(Vec<u32>, Vec<u32>), contrast: Contrast, temperature: f32) -> Request {
    let against = Some(Against { prompt: other.clone(), contrast });
    let params = Params { temperature, seed: 3, ..Params::default() };
    Request { prompt: prompt.clone(), params, against, max_tokens: Some(24), ignore_eos: true, ..Request::default() }
}

/// Answers to several requests at once, in their order.
fn answers(engine: &mut Engine, requests: Vec<Request>) -> Vec<Vec<TokenEvent>> {
    let ids: Vec<_> = requests.into_iter().map(|r| engine.submit(r).expect("a sound request")).collect();
    let (mut answers, mut events) = (vec![Vec::new(); ids.len()], Vec::new());
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(id, token) => answers[ids.iter().position(|i| *i == id).expect("it")].push(token),
                Event::Done(_, done) => assert_eq!(done.reason, FinishReason::Length),
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
    }
    answers
}

fn tokens(answer: &[TokenEvent]) -> Vec<u32> {
    answer.iter().map(|event| event.token).collect()
}

/// A text that is read by itself.
struct Plain {
    seq: SeqId,
    logits: Vec<f32>,
}

impl Plain {
    fn new(model: &mut Model, prompt: &[u32]) -> Plain {
        let mut plain = Plain { seq: model.kv_mut().new_seq(), logits: Vec::new() };
        prompt.iter().for_each(|&token| plain.read(model, token));
        plain
    }

    fn read(&mut self, model: &mut Model, token: u32) {
        let mut batch = Batch::new();
        batch.push_run(self.seq, &[token], true);
        pollster::block_on(model.forward(&batch, &mut self.logits)).expect("a forward");
        model.kv_mut().commit_run(self.seq).expect("a commit");
    }
}

#[test]
fn answers_are_those_of_two_texts_read_apart() {
    // Also where layers keep states, which fork only where one was kept.
    for name in ["llama", "gemma3", "lfm2", "qwen35"] {
        let mut model = load(&data(&format!("models/{name}.gguf")), &exact_options(1024), Cpu::new(1));
        let mut engine = engine(name, 2048);
        let contrast = Contrast { weight: 0.7, when: 1.0, mode: ContrastMode::Logit };
        let asked: Vec<Request> = pairs().iter().map(|pair| request(pair, contrast, 0.0)).collect();
        let alone: Vec<Vec<TokenEvent>> =
            asked.iter().map(|r| answers(&mut engine, vec![r.clone()]).remove(0)).collect();
        let mut differ = 0;
        for (request, answer) in asked.iter().zip(&alone) {
            let against = request.against.as_ref().expect("another prompt");
            let mut texts = [&request.prompt, &against.prompt].map(|prompt| Plain::new(&mut model, prompt));
            for event in answer {
                let [own, other] = texts.each_ref().map(|text| wide(&text.logits));
                let p = contrasted(&own, &other, contrast);
                let best = p.iter().copied().fold(0.0, f64::max);
                assert!(p[event.token as usize] > best * (1.0 - 1e-4), "{name}: {} is not the best", event.token);
                let own = softmax(&own);
                differ += usize::from(own[event.token as usize] < own.iter().copied().fold(0.0, f64::max));
                texts.iter_mut().for_each(|text| text.read(&mut model, event.token));
            }
            texts.iter().for_each(|text| model.kv_mut().free(text.seq));
        }
        assert!(differ > 0, "{name}: the other prompt never changed a token");
        // All at once, from what is known of them, and beside drafters.
        let want: Vec<_> = alone.iter().map(|answer| tokens(answer)).collect();
        let together =
            |engine: &mut Engine| answers(engine, asked.clone()).iter().map(|a| tokens(a)).collect::<Vec<_>>();
        assert_eq!(together(&mut engine), want, "{name}: behind known beginnings");
        engine.clear_cache();
        engine.speculate(Box::new(Ngram), Mode::Auto).expect("a drafter");
        assert_eq!(together(&mut engine), want, "{name}: in an engine that guesses");
    }
}

#[test]
fn little_memory_changes_no_answer() {
    let contrast = Contrast { weight: 1.0, when: 0.9, mode: ContrastMode::Prob };
    let asked: Vec<Request> = pairs().iter().map(|pair| request(pair, contrast, 0.8)).collect();
    let of = |cache| answers(&mut engine("llama", cache), asked.clone()).iter().map(|a| tokens(a)).collect::<Vec<_>>();
    assert_eq!(of(320), of(4096), "seeded answers with memory for one pair at a time");
}

#[test]
fn without_weight_and_where_the_model_is_sure_answers_are_plain() {
    let mut engine = engine("llama", 1024);
    for temperature in [0.0, 0.8] {
        for pair in pairs() {
            let plain = Request { against: None, ..request(&pair, Contrast::default(), temperature) };
            let plain = tokens(&answers(&mut engine, vec![plain])[0]);
            for (weight, when) in [(0.0, 1.0), (0.7, 0.0)] {
                let contrast = Contrast { weight, when, ..Contrast::default() };
                let got = answers(&mut engine, vec![request(&pair, contrast, temperature)]);
                assert_eq!(tokens(&got[0]), plain, "{contrast:?}");
            }
        }
    }
}

#[test]
fn rules_forced_tokens_stops_and_log_probabilities_are_those_of_the_answer() {
    let contrast = Contrast { weight: 1.0, when: 1.0, mode: ContrastMode::Logit };
    let mut engine = engine("llama", 1024);
    let pair = &pairs()[0];
    let rules: Vec<Box<dyn Rule>> = vec![Box::new(ByPath::default())];
    let ruled = answers(&mut engine, vec![Request { rules, ..request(pair, contrast, 1.0) }]).remove(0);
    let mut text = pair.0.clone();
    for event in &ruled {
        assert!(!ByPath::forbids(ByPath::last(text.iter().copied()), event.token), "{} is forbidden", event.token);
        text.push(event.token);
    }
    // Forced tokens are read in both texts; the answer is the same where none is said to be forced.
    let of = |says| Request { rules: vec![Box::new(Forcing::new(says))], ..request(pair, contrast, 0.0) };
    let [said, unsaid] = [true, false].map(|says| tokens(&answers(&mut engine, vec![of(says)])[0]));
    assert_eq!(said, unsaid);
    // Log-probabilities are the model's own, without the contrast.
    let plain = answers(&mut engine, vec![Request { logprobs: Some(3), ..request(pair, contrast, 0.0) }]).remove(0);
    let mut model = load(&data("models/llama.gguf"), &exact_options(256), Cpu::new(1));
    let mut own = Plain::new(&mut model, &pair.0);
    for event in &plain {
        let (logprob, _) = event.logprobs.as_ref().expect("log-probabilities");
        let want = softmax(&wide(&own.logits))[event.token as usize].ln();
        assert!((f64::from(*logprob) - want).abs() < 1e-3, "{logprob}, not {want}");
        own.read(&mut model, event.token);
    }
}

#[test]
fn cancelled_and_finished_answers_leave_nothing_behind() {
    let mut engine = engine("lfm2", 1024);
    let free = |engine: &Engine| (engine.model().kv().free_blocks(), engine.model().kv().free_slots());
    let all = free(&engine);
    for steps in 0..8 {
        let id = engine.submit(request(&pairs()[0], Contrast::default(), 1.0)).expect("a request");
        let mut events = Vec::new();
        (0..steps).for_each(|_| pollster::block_on(engine.step(&mut events)).expect("a step"));
        engine.cancel(id);
        pollster::block_on(engine.step(&mut events)).expect("a step that reports it");
        engine.clear_cache();
        assert_eq!(free(&engine), all, "after {steps} steps");
    }
    answers(&mut engine, vec![request(&pairs()[1], Contrast::default(), 1.0)]);
    engine.clear_cache();
    assert_eq!(free(&engine), all);
}

#[test]
fn what_cannot_be_contrasted_is_refused() {
    let mut engine = engine("llama", 256);
    let ask = |prompt: &[u32], weight: f32, when: f32| {
        let pair = (text(1, 10), prompt.to_vec());
        request(&pair, Contrast { weight, when, ..Contrast::default() }, 0.0)
    };
    let cases = [
        (ask(&[], 0.7, 0.8), Kind::InvalidRequest),
        (ask(&[9999], 0.7, 0.8), Kind::InvalidRequest),
        (ask(&[5], -0.1, 0.8), Kind::InvalidRequest),
        (ask(&[5], f32::NAN, 0.8), Kind::InvalidRequest),
        (ask(&[5], 0.7, 1.5), Kind::InvalidRequest),
        (ask(&text(2, 256), 0.7, 0.8), Kind::PromptTooLong),
        (ask(&text(2, 190), 0.7, 0.8), Kind::PromptTooLong),
    ];
    for (request, kind) in cases {
        let what = format!("{:?}", request.against);
        let error = engine.submit(request).expect_err(&what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    // Both texts have room up to the last block.
    let longest = Request { max_tokens: None, ..ask(&text(2, 100), 0.7, 0.8) };
    assert_eq!(answers(&mut engine, vec![longest])[0].len(), (256 - 62 - 110) / 2);
}

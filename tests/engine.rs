//! The engine: many requests at once give the answers that they give alone, whatever is cancelled, shared or refused.

mod common;

use common::data;
use common::random::Random;
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::engine::{Done, Engine, Event, FinishReason, Request, RequestId};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::Params;
use std::collections::HashMap;

fn engine(cache_tokens: usize) -> Engine {
    let source = FileSource::open(&data("models/llama.gguf")).expect("a model file");
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let options = ModelOptions {
        context_length: Some(128),
        cache_type: CacheType::F32,
        cache_tokens: Some(cache_tokens),
        max_batch: 48,
    };
    let cpu = Box::new(Cpu::new(1));
    pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model")
}

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let params = Params { temperature: 0.0, ..Params::default() };
    Request { prompt, params, max_tokens: Some(max_tokens), ignore_eos: true, ..Request::default() }
}

fn random_prompt(r: &mut Random, longest: usize) -> Vec<u32> {
    (0..1 + r.below(longest)).map(|_| 3 + r.below(260) as u32).collect()
}

/// Tokens, text and end of every request.
#[derive(Default)]
struct Answers {
    tokens: HashMap<RequestId, Vec<u32>>,
    text: HashMap<RequestId, String>,
    done: HashMap<RequestId, Done>,
    failed: Vec<RequestId>,
}

impl Answers {
    fn step(&mut self, engine: &mut Engine) {
        let mut events = Vec::new();
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events {
            match event {
                Event::Token(id, t) => {
                    self.tokens.entry(id).or_default().push(t.token);
                    self.text.entry(id).or_default().push_str(&t.text);
                }
                Event::Done(id, done) => {
                    self.text.entry(id).or_default().push_str(&done.text);
                    assert!(self.done.insert(id, done).is_none(), "a request ended twice");
                }
                Event::Failed(id, _) => self.failed.push(id),
            }
        }
    }

    fn finish(mut self, engine: &mut Engine) -> Self {
        for _ in 0..100_000 {
            if engine.is_idle() {
                return self;
            }
            self.step(engine);
        }
        panic!("the engine never became idle");
    }
}

fn alone(request: Request) -> (Vec<u32>, String, Done) {
    let mut engine = engine(128);
    let id = engine.submit(request).expect("a request");
    let mut answers = Answers::default().finish(&mut engine);
    (
        answers.tokens.remove(&id).unwrap_or_default(),
        answers.text.remove(&id).unwrap_or_default(),
        answers.done.remove(&id).expect("an end"),
    )
}

#[test]
fn sixty_four_at_once_answer_as_each_alone() {
    let mut r = Random::new(11);
    let shared = random_prompt(&mut r, 40);
    let requests: Vec<Request> = (0..64)
        .map(|i| {
            let mut prompt = if i % 3 == 0 { shared.clone() } else { Vec::new() };
            prompt.extend(random_prompt(&mut r, 60));
            greedy(prompt, 1 + r.below(20))
        })
        .collect();
    // Too little memory for all of them: some wait, cached sequences are reused and evicted.
    let mut engine = engine(512);
    let ids: Vec<_> = requests.iter().map(|q| engine.submit(q.clone()).expect("a request")).collect();
    let answers = Answers::default().finish(&mut engine);
    for (request, id) in requests.into_iter().zip(ids) {
        let (tokens, text, done) = alone(request);
        assert_eq!(answers.tokens[&id], tokens);
        assert_eq!(answers.text[&id], text);
        assert_eq!(answers.done[&id].reason, done.reason);
    }
}

#[test]
fn a_second_turn_reads_only_what_is_new() {
    let mut engine = engine(512);
    let first = greedy((3..40).collect(), 8);
    engine.submit(first.clone()).expect("a request");
    let answers = Answers::default().finish(&mut engine);
    let mut prompt = first.prompt;
    prompt.extend(answers.tokens.values().next().expect("an answer"));
    prompt.extend([50, 51, 52]);
    let second = greedy(prompt.clone(), 8);
    let id = engine.submit(second.clone()).expect("a request");
    let answers = Answers::default().finish(&mut engine);
    // Everything but the first answer's last token, which was never read, and what is new.
    assert_eq!(answers.done[&id].usage.cached_tokens, prompt.len() - 4);
    assert_eq!(answers.tokens[&id], alone(second).0);
}

#[test]
fn random_requests_and_cancels_leak_nothing() {
    let mut r = Random::new(5);
    let mut engine = engine(384);
    let blocks = engine.model().kv().free_blocks();
    let mut answers = Answers::default();
    let mut ids = Vec::new();
    while ids.len() < 1000 {
        for _ in 0..r.below(4) {
            let mut request = greedy(random_prompt(&mut r, 90), 1 + r.below(30));
            request.params.temperature = r.below(2) as f32;
            request.params.seed = r.bits();
            ids.push(engine.submit(request).expect("a request"));
        }
        if r.below(3) == 0 && !ids.is_empty() {
            engine.cancel(ids[r.below(ids.len())]);
        }
        answers.step(&mut engine);
    }
    let answers = answers.finish(&mut engine);
    assert!(answers.failed.is_empty());
    assert!(ids.iter().all(|id| answers.done.contains_key(id)), "a request never ended");
    let cancelled = answers.done.values().filter(|d| d.reason == FinishReason::Cancelled).count();
    assert!(cancelled > 20, "only {cancelled} were cancelled in time");
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), blocks, "blocks leaked");
}

#[test]
fn stop_texts_end_answers_across_token_borders() {
    let request = greedy((3..20).collect(), 40);
    let (_, text, _) = alone(request.clone());
    let chars: Vec<char> = text.chars().collect();
    assert!(chars.len() > 8, "{text:?}");
    for (from, to) in [(1, 2), (2, 5), (4, 8)] {
        let stop: String = chars[from..to].iter().collect();
        let first = text.find(&stop).expect("it is there");
        let (_, stopped, done) = alone(Request { stop: vec!["never there".into(), stop], ..request.clone() });
        assert_eq!(stopped, text[..first]);
        assert_eq!(done.reason, FinishReason::Stop);
    }
    // Held back until it is clear that it is no stop text.
    let last: String = chars.last().into_iter().chain(['\u{1}', '\u{2}'].iter()).collect();
    assert_eq!(alone(Request { stop: vec![last], ..request }).1, text);
}

#[test]
fn seeds_repeat_and_logprobs_are_the_models_own() {
    let params = Params { temperature: 1.3, top_k: 30, top_p: 0.9, seed: 7, ..Params::default() };
    let request = Request { params, ..greedy((3..20).collect(), 30) };
    assert_eq!(alone(request.clone()).0, alone(request.clone()).0);
    let other = Request { params: Params { seed: 8, ..request.params.clone() }, ..request.clone() };
    assert_ne!(alone(request).0, alone(other).0);
}

#[test]
fn impossible_requests_say_why() {
    let mut engine = engine(96);
    let kinds = |engine: &mut Engine, request: Request| engine.submit(request).expect_err("a refusal").kind();
    assert_eq!(kinds(&mut engine, greedy(vec![5; 96], 1)), foreword::Kind::PromptTooLong);
    assert_eq!(kinds(&mut engine, greedy(vec![], 1)), foreword::Kind::InvalidRequest);
    assert_eq!(kinds(&mut engine, greedy(vec![100_000], 1)), foreword::Kind::InvalidRequest);
    let mut request = greedy(vec![5], 1);
    request.params.top_p = 1.5;
    let error = engine.submit(request).expect_err("a refusal");
    assert!(error.to_string().contains("top_p is 1.5"), "{error}");
    // As much as fits is answered, and the end says so.
    let id = engine.submit(greedy(vec![5; 90], 1000)).expect("a request");
    let answers = Answers::default().finish(&mut engine);
    assert_eq!(answers.done[&id].reason, FinishReason::Length);
    assert_eq!(answers.tokens[&id].len(), 6);
}

//! The engine: many requests at once give the answers that they give alone, whatever is cancelled, shared or refused.

use crate::common::data;
use crate::common::random::Random;
use crate::common::rules::{DeadEnd, Forcing, Script};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::engine::{Done, Engine, Event, FinishReason, Request, RequestId};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::Params;
use std::collections::HashMap;

fn engine(cache_tokens: usize) -> Engine {
    engine_within(cache_tokens, None).expect("a sound model")
}

/// With so many bytes of cache at most.
fn engine_within(cache_tokens: usize, kv_memory: Option<usize>) -> foreword::Result<Engine> {
    let source = FileSource::open(&data("models/llama.gguf")).expect("a model file");
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let options = ModelOptions {
        context_length: Some(128),
        cache_type: CacheType::F32,
        cache_tokens: Some(cache_tokens),
        max_batch: 48,
        kv_memory,
    };
    let cpu = Box::new(Cpu::new(1));
    pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {}))
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
fn no_answer_ends_in_half_a_character() {
    let mut engine = engine(512);
    let text = "a😀é€b";
    let of_byte =
        |byte: u8| (0..engine.tokenizer().n_vocab() as u32).find(|&t| *engine.tokenizer().token_bytes(t) == [byte]);
    let tokens: Vec<u32> = text.bytes().map(|byte| of_byte(byte).expect("byte tokens")).collect();
    let end = engine.tokenizer().end_of_generation()[0];
    let whole = |n: usize| &text[..(0..=n).rev().find(|&n| text.is_char_boundary(n)).expect("a border")];
    for n in 1..=tokens.len() {
        // Cut at its length, ended by the model, and cancelled, each in the middle of a character or not.
        let written: Vec<u32> = tokens[..n].iter().copied().chain([end]).collect();
        for (max_tokens, stop_at, reason) in
            [(n, n, FinishReason::Length), (100, n, FinishReason::Stop), (100, n - 1, FinishReason::Cancelled)]
        {
            let request = greedy(vec![5, 6, 7], max_tokens);
            let request = Request { rules: vec![Box::new(Script(written.clone()))], ignore_eos: false, ..request };
            let id = engine.submit(request).expect("a request");
            let mut answers = Answers::default();
            if reason == FinishReason::Cancelled {
                while answers.tokens.get(&id).map_or(0, Vec::len) < stop_at {
                    answers.step(&mut engine);
                }
                engine.cancel(id);
            }
            let answers = answers.finish(&mut engine);
            let done = &answers.done[&id];
            assert_eq!(answers.text.get(&id).map_or("", |t| t), whole(stop_at), "{n} tokens, {reason:?}");
            // The end is a token, too.
            let count = stop_at + usize::from(reason == FinishReason::Stop);
            assert_eq!((done.reason, done.usage.completion_tokens), (reason, count));
        }
    }
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
fn as_many_log_probabilities_as_there_are_tokens_whatever_is_asked_for() {
    let mut engine = engine(128);
    let n_vocab = engine.model().config().n_vocab;
    for (asked, got) in [(0, 0), (3, 3), (n_vocab - 1, n_vocab - 1), (n_vocab + 1, n_vocab), (usize::MAX, n_vocab)] {
        engine.submit(Request { logprobs: Some(asked), ..greedy((3..20).collect(), 2) }).expect("a request");
        let mut events = Vec::new();
        while !engine.is_idle() {
            pollster::block_on(engine.step(&mut events)).expect("a step");
        }
        let Some(Event::Token(_, token)) = events.first() else { panic!("{events:?}") };
        let (own, top) = token.logprobs.as_ref().expect("asked for");
        assert_eq!(top.len(), got);
        assert!(top.is_sorted_by(|a, b| a.1 >= b.1) && top.first().is_none_or(|first| *first == (token.token, *own)));
    }
}

/// Requests of all kinds under a rule that forces tokens, which says so or not.
fn forcing(says: bool) -> Vec<Request> {
    let mut r = Random::new(31);
    let request = |i: usize| {
        let mut request = greedy(random_prompt(&mut r, 30), 1 + r.below(95));
        request.params.temperature = [0.0, 1.0][i % 2];
        (request.params.top_k, request.params.seed) = ([0, 0, 20][i % 3], i as u64);
        request.ignore_eos = i.is_multiple_of(4);
        request.stop = if i.is_multiple_of(5) { vec!["e".into(), "t".into()] } else { Vec::new() };
        request.rules = vec![Box::new(Forcing::new(says))];
        request
    };
    (0..48).map(request).collect()
}

#[test]
fn forced_tokens_change_no_answer_and_cost_no_forward() {
    // With little memory requests wait.
    for cache_tokens in [4096, 256] {
        let ask = |says| {
            let mut engine = engine(cache_tokens);
            let ids: Vec<_> = forcing(says).into_iter().map(|q| engine.submit(q).expect("a request")).collect();
            let answers = Answers::default().finish(&mut engine);
            (ids, answers)
        };
        let ((ids, plain), (same_ids, forced)) = (ask(false), ask(true));
        assert_eq!(ids, same_ids);
        assert!(forced.failed.is_empty() && plain.failed.is_empty());
        let mut n_forced = 0;
        for id in ids {
            assert_eq!(forced.tokens.get(&id), plain.tokens.get(&id));
            assert_eq!(forced.text[&id], plain.text[&id]);
            let (with, without) = (&forced.done[&id], &plain.done[&id]);
            assert_eq!(with.reason, without.reason);
            assert_eq!(with.usage.completion_tokens, without.usage.completion_tokens);
            assert_eq!(with.usage.forwards + with.usage.forced_tokens, without.usage.forwards);
            n_forced += with.usage.forced_tokens;
        }
        assert!(n_forced > 400, "only {n_forced} tokens were forced");
    }
}

#[test]
fn forced_tokens_have_log_probabilities_where_these_are_asked_for() {
    let mut engine = engine(512);
    let plain = forcing(true).into_iter().take(4);
    for request in plain {
        let (tokens, ..) = alone(request.clone());
        let id = engine.submit(Request { logprobs: Some(2), ..request }).expect("a request");
        let (mut events, mut answer) = (Vec::new(), Vec::new());
        while !engine.is_idle() {
            pollster::block_on(engine.step(&mut events)).expect("a step");
        }
        for event in events {
            if let Event::Token(of, token) = event {
                assert_eq!((of, token.logprobs.map(|(_, top)| top.len())), (id, Some(2)));
                answer.push(token.token);
            }
        }
        assert_eq!(answer, tokens);
    }
}

#[test]
fn a_rule_that_finds_nothing_to_go_on_with_ends_its_request_alone() {
    let mut engine = engine(512);
    let blocks = engine.model().kv().free_blocks();
    let request = |n| Request { rules: vec![Box::new(DeadEnd(n))], ..greedy(vec![5, 6, 7], 20) };
    let ids = [1, 4, 100].map(|n| engine.submit(request(n)).expect("a request"));
    let answers = Answers::default().finish(&mut engine);
    assert_eq!(answers.failed, ids[..2]);
    assert_eq!(ids.map(|id| answers.tokens[&id].len()), [1, 4, 20]);
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), blocks, "blocks leaked");
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

#[test]
fn the_cache_takes_what_its_texts_need_and_gives_it_back() {
    let mut engine = engine(1 << 20);
    let token = engine.model().kv().spec().bytes_per_token();
    let empty = engine.memory().cache;
    assert!(empty <= 128 * token, "{empty} bytes before there are tokens");
    let (mut answers, mut r) = (Answers::default(), Random::new(8));
    let ids: Vec<_> = (0..40).map(|_| engine.submit(greedy(random_prompt(&mut r, 60), 40)).expect("sound")).collect();
    while !engine.is_idle() {
        answers.step(&mut engine);
    }
    assert!(ids.iter().all(|id| answers.done.contains_key(id)));
    let full = engine.memory().cache;
    assert!((20 * 41 * token..=40 * 128 * 2 * token).contains(&full), "{full} bytes of 40 texts");
    engine.clear_cache();
    assert_eq!(engine.memory().cache, empty);
}

#[test]
fn at_the_ceiling_of_memory_earlier_texts_give_way_and_longer_ones_are_refused() {
    let token = engine(128).model().kv().spec().bytes_per_token();
    let ceiling = 100 * token;
    let mut engine = engine_within(1 << 20, Some(ceiling)).expect("a sound model");
    let mut r = Random::new(9);
    // Nothing of one is of use to the next, so the fourth finds 96 cells taken.
    for round in 0..8 {
        let (mut answers, prompt) = (Answers::default(), (0..30).map(|_| 3 + r.below(260) as u32).collect());
        let id = engine.submit(greedy(prompt, 30)).expect("a short one");
        while !engine.is_idle() {
            answers.step(&mut engine);
        }
        assert_eq!(answers.tokens[&id].len(), 30, "{round}");
        assert!(engine.memory().cache <= ceiling, "{round}: {} of {ceiling} bytes", engine.memory().cache);
    }
    let error = engine.submit(greedy((0..96).map(|i| 3 + i).collect(), 1)).expect_err("longer than the cache");
    assert_eq!(error.kind(), foreword::Kind::PromptTooLong);
    assert!(error.to_string().contains("holds 96") && error.to_string().contains("more memory"), "{error}");
    // An answer ends where memory does.
    let mut answers = Answers::default();
    let id = engine.submit(greedy((0..90).map(|i| 3 + i).collect(), 50)).expect("a shorter one");
    while !engine.is_idle() {
        answers.step(&mut engine);
    }
    assert_eq!((answers.tokens[&id].len(), answers.done[&id].reason), (6, FinishReason::Length));
    let error = engine_within(128, Some(31 * token)).map(drop).expect_err("less than a block");
    assert_eq!((error.kind(), error.param()), (foreword::Kind::InvalidRequest, Some("kv_memory")));
}

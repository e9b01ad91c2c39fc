//! The schedule: who reads when, what is shared, what memory running out and failing devices do, how long others wait.

use crate::common::data;
use crate::common::random::Random;
use crate::common::simulated::{Simulated, clock, fail_one_in, loaded, lose_one_in, stall_one_in};
use foreword::Kind;
use foreword::backend::{BLOCK, CacheType};
use foreword::engine::{Engine, Event, FinishReason, Request, RequestId};
use foreword::gguf::source::{BytesSource, FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::{Budget, Params};
use std::collections::{HashMap, HashSet};

fn sources() -> Vec<Box<dyn Source>> {
    vec![Box::new(FileSource::open(&data("models/llama.gguf")).expect("a model file"))]
}

fn engine_on(backend: Simulated, context: usize, cache_tokens: usize, max_batch: usize) -> Engine {
    let options = ModelOptions {
        context_length: Some(context),
        cache_type: CacheType::F32,
        cache_tokens: Some(cache_tokens),
        max_batch,
        kv_memory: None,
    };
    pollster::block_on(Engine::load(sources(), Box::new(backend), &options, clock, &mut |_| {})).expect("a sound model")
}

fn engine(context: usize, cache_tokens: usize) -> Engine {
    engine_on(simulated(), context, cache_tokens, 48)
}

fn simulated() -> Simulated {
    Simulated::new(1.0, 0.1, 0.0)
}

/// Whether steps may be sent ahead.
fn simulated_gpu(ahead: bool) -> Simulated {
    let mut backend = simulated();
    backend.ahead = ahead;
    backend
}

/// On another device after one was lost.
fn restore(engine: &mut Engine, ahead: bool) {
    let restored = pollster::block_on(engine.restore(sources(), Box::new(simulated_gpu(ahead)), &mut |_| {}));
    restored.expect("a sound model");
}

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let params = Params { temperature: 0.0, ..Params::default() };
    Request { prompt, params, max_tokens: Some(max_tokens), ignore_eos: true, ..Request::default() }
}

/// `n` tokens that begin as no other text does.
fn text(begin: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (begin * 37 + i * (begin + 5)) % 260).collect()
}

fn step(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    pollster::block_on(engine.step(&mut events)).expect("a step");
    events
}

/// Tokens of every request, in the order in which they came.
fn run(engine: &mut Engine) -> Vec<(RequestId, u32)> {
    let mut out = Vec::new();
    for _ in 0..100_000 {
        if engine.is_idle() {
            return out;
        }
        for event in step(engine) {
            match event {
                Event::Token(id, token) => out.push((id, token.token)),
                Event::Done(..) => {}
                Event::Failed(id, error) => panic!("{id:?}: {error}"),
            }
        }
    }
    panic!("the engine never became idle");
}

fn of(tokens: &[(RequestId, u32)], id: RequestId) -> Vec<u32> {
    tokens.iter().filter(|(i, _)| *i == id).map(|(_, t)| *t).collect()
}

fn alone(request: Request) -> Vec<u32> {
    let mut engine = engine(512, 512);
    engine.submit(request).expect("a request");
    run(&mut engine).into_iter().map(|(_, t)| t).collect()
}

#[test]
fn a_common_beginning_is_read_once() {
    let mut r = Random::new(8);
    let system = text(1, 70);
    let requests: Vec<Request> = (0..20)
        .map(|i| {
            let mut prompt = system.clone();
            prompt.extend(text(2 + i, 1 + r.below(30)));
            greedy(prompt, 1)
        })
        .collect();
    let mut engine = engine(256, 4096);
    let ids: Vec<_> = requests.iter().map(|q| engine.submit(q.clone()).expect("a request")).collect();
    let tokens = run(&mut engine);
    let totals = engine.take_totals();
    let own: usize = requests.iter().map(|q| q.prompt.len() - system.len()).sum();
    // Own parts may begin alike by chance.
    assert!(totals.rows <= system.len() + own && totals.rows > own, "{totals:?} for {own} tokens");
    for (id, request) in ids.into_iter().zip(requests) {
        assert_eq!(of(&tokens, id), alone(request));
    }
}

#[test]
fn the_longest_known_beginning_is_found() {
    let mut r = Random::new(4);
    let mut engine = engine(256, 16_384);
    // Texts over two letters share beginnings of all lengths.
    let mut known: Vec<Vec<u32>> = Vec::new();
    for _ in 0..60 {
        let mut prompt = match r.below(3) {
            0 if !known.is_empty() => known[r.below(known.len())].clone(),
            _ => Vec::new(),
        };
        prompt.truncate(r.below(prompt.len() + 1));
        prompt.extend((0..1 + r.below(60)).map(|_| 10 + r.below(2) as u32));
        prompt.truncate(180);
        let id = engine.submit(greedy(prompt.clone(), 5)).expect("a request");
        let mut cached = None;
        let mut whole = prompt.clone();
        while !engine.is_idle() {
            for event in step(&mut engine) {
                match event {
                    Event::Token(_, token) => whole.push(token.token),
                    Event::Done(done, end) if done == id => cached = Some(end.usage.cached_tokens),
                    other => panic!("{other:?}"),
                }
            }
        }
        let shared = |k: &Vec<u32>| k.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        assert_eq!(cached, Some(known.iter().map(shared).max().unwrap_or(0)));
        // The last token of an answer is never read.
        whole.pop();
        known.push(whole);
    }
}

#[test]
fn answers_give_way_and_come_back_when_memory_runs_out() {
    let requests: Vec<Request> =
        (0..6).map(|i| Request { max_tokens: None, ..greedy(text(i, 5 + i as usize), 1) }).collect();
    // Room for the beginnings of three answers, not for their ends.
    let mut engine = engine(128, 11 * BLOCK);
    let ids: Vec<_> = requests.iter().map(|q| engine.submit(q.clone()).expect("a request")).collect();
    let tokens = run(&mut engine);
    assert!(engine.take_totals().preemptions > 0, "memory never ran out");
    for (id, request) in ids.into_iter().zip(requests) {
        let n = 128 - request.prompt.len();
        assert_eq!(of(&tokens, id), alone(Request { max_tokens: Some(n), ..request }));
    }
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), 11);
}

#[test]
fn priorities_first_then_short_prompts_and_nobody_starves() {
    let mut engine = engine(512, 2048);
    let long = engine.submit(greedy(text(1, 300), 1)).expect("a request");
    let short = engine.submit(greedy(text(2, 20), 1)).expect("a request");
    let urgent = engine.submit(Request { priority: 1, ..greedy(text(3, 200), 1) }).expect("a request");
    let order: Vec<_> = run(&mut engine).into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [urgent, short, long]);

    // Short prompts come faster than they can be read; the long one is read all the same.
    let long = engine.submit(greedy(text(4, 300), 1)).expect("a request");
    for round in 0.. {
        assert!(round < 30, "the long prompt starves");
        for i in 0..2 {
            engine.submit(greedy(text(10 + 2 * round + i, 40), 1)).expect("a request");
        }
        if step(&mut engine).iter().any(|e| matches!(e, Event::Token(id, _) if *id == long)) {
            break;
        }
    }
}

#[test]
fn a_cancel_frees_memory_at_once() {
    cancel_frees(false);
    cancel_frees(true);
}

fn cancel_frees(ahead: bool) {
    let mut engine = engine_on(simulated_gpu(ahead), 256, 1024, 48);
    let blocks = engine.model().kv().free_blocks();
    let ids: Vec<_> = (0..3).map(|i| engine.submit(greedy(text(i, 100), 50)).expect("a request")).collect();
    for _ in 0..10 {
        step(&mut engine);
    }
    assert!(engine.model().kv().free_blocks() < blocks);
    ids.iter().for_each(|&id| engine.cancel(id));
    assert_eq!(engine.model().kv().free_blocks(), blocks);
    let ended = step(&mut engine);
    assert!(ended.iter().all(|e| matches!(e, Event::Done(_, done) if done.reason == FinishReason::Cancelled)));
    assert_eq!((ended.len(), engine.is_idle()), (3, true));
}

#[test]
fn a_thousand_requests_with_cancels_and_failures_all_end() {
    all_end(false);
    all_end(true);
}

fn all_end(ahead: bool) {
    let mut r = Random::new(5);
    let mut engine = engine_on(simulated_gpu(ahead), 160, 20 * BLOCK, 48);
    let blocks = engine.model().kv().free_blocks();
    let beginning = text(0, 40);
    let (mut ids, mut ended) = (Vec::new(), HashMap::new());
    let (mut lost, mut rounds) = (0, 0);
    fail_one_in(25);
    while ids.len() < 1000 || !engine.is_idle() {
        rounds += 1;
        assert!(rounds < 100_000, "the engine never became idle");
        for _ in 0..r.below(4).min(1000 - ids.len()) {
            let mut prompt = if r.below(3) == 0 { beginning.clone() } else { Vec::new() };
            prompt.extend((0..1 + r.below(90)).map(|_| 3 + r.below(260) as u32));
            let mut request = greedy(prompt, 1 + r.below(30));
            request.max_tokens = request.max_tokens.filter(|_| r.below(20) > 0);
            request.priority = r.below(3) as i32;
            request.params.temperature = r.below(2) as f32;
            ids.push(engine.submit(request).expect("a request"));
        }
        if r.below(4) == 0 && !ids.is_empty() {
            engine.cancel(ids[ids.len() - 1 - r.below(ids.len().min(30))]);
        }
        let mut events = Vec::new();
        if let Err(error) = pollster::block_on(engine.step(&mut events)) {
            assert_eq!(error.kind(), Kind::DeviceLost);
            lost += 1;
            restore(&mut engine, ahead);
        }
        for event in events {
            let (id, end) = match event {
                Event::Token(id, _) => {
                    assert!(!ended.contains_key(&id), "a token of a request that is over");
                    continue;
                }
                Event::Done(id, done) => (id, Ok(done.reason)),
                Event::Failed(id, error) => (id, Err(error.kind())),
            };
            assert!(ended.insert(id, end).is_none(), "a request ended twice");
        }
    }
    fail_one_in(0);
    assert_eq!(ids.iter().copied().collect::<HashSet<_>>(), ended.keys().copied().collect());
    let count = |end| ended.values().filter(|e| **e == end).count();
    let counts = [count(Ok(FinishReason::Length)), count(Ok(FinishReason::Cancelled)), count(Err(Kind::OutOfMemory))];
    assert_eq!(count(Err(Kind::DeviceLost)), 0);
    assert!(lost > 5 && counts.iter().all(|&n| n > 20), "too little happened: {counts:?}, {lost} losses");
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), blocks, "blocks leaked");
    // And it still works.
    engine.submit(greedy(text(9, 50), 3)).expect("a request");
    assert_eq!(run(&mut engine).len(), 3);
}

#[test]
fn answers_go_on_after_a_lost_device() {
    go_on(false);
    go_on(true);
}

#[test]
fn a_rule_that_acts_from_a_token_on_is_told_before_steps_are_sent_ahead() {
    let answers = [false, true].map(|ahead| {
        let mut engine = engine_on(simulated_gpu(ahead), 256, 1024, 48);
        let request = greedy(text(3, 20), 12);
        let rule = Budget::new(5, [vec![1], vec![2], vec![7, 8]], true);
        engine.submit(Request { rules: vec![Box::new(rule)], ..request }).expect("a request");
        run(&mut engine).into_iter().map(|(_, token)| token).collect::<Vec<u32>>()
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0][5..7], [7, 8]);
}

fn go_on(ahead: bool) {
    let requests: Vec<Request> = (0..8).map(|i| greedy(text(i, 20 + 15 * i as usize), 40)).collect();
    let mut engine = engine_on(simulated_gpu(ahead), 256, 1024, 48);
    let ids: Vec<_> = requests.iter().map(|q| engine.submit(q.clone()).expect("a request")).collect();
    let (mut tokens, mut events, mut lost) = (Vec::new(), Vec::new(), 0);
    lose_one_in(5);
    while !engine.is_idle() {
        if pollster::block_on(engine.step(&mut events)).is_err() {
            lost += 1;
            assert!(lost < 1000, "no progress");
            assert_eq!(engine.model().kv().free_blocks(), 32, "blocks leaked");
            restore(&mut engine, ahead);
        }
        tokens.extend(events.drain(..).filter_map(|e| match e {
            Event::Token(id, token) => Some((id, token.token)),
            _ => None,
        }));
    }
    lose_one_in(0);
    assert!(lost > 3, "only {lost} devices were lost");
    for (id, request) in ids.into_iter().zip(requests) {
        assert_eq!(of(&tokens, id), alone(request));
    }
}

#[test]
fn a_restored_engine_never_holds_the_model_twice_and_may_fail_to_be_restored() {
    let request = greedy(text(3, 60), 30);
    let mut engine = engine(256, 1024);
    let id = engine.submit(request.clone()).expect("a request");
    let (mut tokens, mut events) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        pollster::block_on(engine.step(&mut events)).expect("a step");
    }
    let whole = std::fs::read(data("models/llama.gguf")).expect("a model file");
    for n in [1000, whole.len() / 2, whole.len() - 100] {
        let cut: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(whole[..n].to_vec()))];
        let restored = pollster::block_on(engine.restore(cut, Box::new(simulated()), &mut |_| assert_eq!(loaded(), 1)));
        assert_eq!(restored.expect_err("a part of a file").kind(), Kind::BadFile);
        let lost = pollster::block_on(engine.step(&mut events)).expect_err("no model");
        assert_eq!((lost.kind(), engine.is_idle()), (Kind::DeviceLost, false));
    }
    let restored =
        pollster::block_on(engine.restore(sources(), Box::new(simulated()), &mut |_| assert_eq!(loaded(), 1)));
    restored.expect("a sound model");
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
    }
    tokens.extend(events.into_iter().filter_map(|e| match e {
        Event::Token(of, token) if of == id => Some(token.token),
        _ => None,
    }));
    assert_eq!(tokens, alone(request));
}

/// What the model answers by itself, up to its end-of-generation token at the latest.
fn to_the_end(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { ignore_eos: false, ..greedy(prompt, max_tokens) }
}

#[test]
fn steps_sent_ahead_write_the_same_answers() {
    let mut engine = engine_on(simulated_gpu(true), 256, 4096, 48);
    let blocks = engine.model().kv().free_blocks();
    // Alone and up to as many as there are rows of logits, some of which end early; the second time over known beginnings.
    for n in [1, 3, 8, 3] {
        let requests: Vec<Request> = (0..n).map(|i| greedy(text(i, 5 + 3 * i as usize), 20 + 9 * i as usize)).collect();
        let ids: Vec<_> = requests.iter().map(|q| engine.submit(q.clone()).expect("a request")).collect();
        let tokens = run(&mut engine);
        for (id, request) in ids.into_iter().zip(requests) {
            assert_eq!(of(&tokens, id), alone(request), "{n} requests");
        }
    }
    engine.clear_cache();
    assert_eq!(engine.model().kv().free_blocks(), blocks, "blocks leaked");
}

#[test]
fn a_step_sent_ahead_is_dropped_where_the_answer_has_ended() {
    // A stop text ends the answer when the token behind it is on its way; what follows finds the cache as it should be.
    let request = |prompt: &[u32], stop: Option<String>| Request {
        stop: stop.into_iter().collect(),
        ..to_the_end(prompt.to_vec(), 40)
    };
    let mut plain = engine_on(simulated_gpu(false), 256, 1024, 48);
    let mut ahead = engine_on(simulated_gpu(true), 256, 1024, 48);
    for begin in 0..12 {
        let prompt = text(begin, 9 + begin as usize * 5);
        let answer = alone(request(&prompt, None));
        let middle = answer.get(answer.len() / 2).map(|&token| plain.tokenizer().decode(&[token]));
        let stop = middle.filter(|text| !text.is_empty());
        let written = [&mut plain, &mut ahead].map(|engine| {
            engine.submit(request(&prompt, stop.clone())).expect("a request");
            let first: Vec<u32> = run(engine).into_iter().map(|(_, t)| t).collect();
            let longer: Vec<u32> = prompt.iter().chain(&first).copied().chain(text(50, 4)).collect();
            engine.submit(request(&longer, None)).expect("a request");
            (first, run(engine).into_iter().map(|(_, t)| t).collect::<Vec<u32>>())
        });
        assert_eq!(written[0], written[1]);
    }
    let (plain, ahead) = (plain.take_totals(), ahead.take_totals());
    assert!(ahead.rows > plain.rows, "nothing was sent in vain: {ahead:?}, {plain:?}");
}

#[test]
fn a_step_that_nobody_waits_for_is_taken_up_by_the_next() {
    let request = greedy(text(7, 30), 60);
    let mut engine = engine_on(simulated_gpu(true), 256, 1024, 48);
    engine.submit(request.clone()).expect("a request");
    let (mut tokens, mut r, mut dropped) = (Vec::new(), Random::new(3), 0);
    while !engine.is_idle() {
        let mut events = Vec::new();
        {
            stall_one_in(2);
            let mut step = std::pin::pin!(engine.step(&mut events));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let mut left = 1 + r.below(3);
            while step.as_mut().poll(&mut context).is_pending() && left > 0 {
                left -= 1;
                dropped += usize::from(left == 0);
            }
        }
        tokens.extend(events.into_iter().filter_map(|e| match e {
            Event::Token(_, token) => Some(token.token),
            _ => None,
        }));
    }
    stall_one_in(0);
    assert!(dropped > 5, "only {dropped} steps were given up");
    assert_eq!(tokens, alone(request));
}

/// Largest gap between tokens of four streams, in simulated milliseconds, while a prompt of 1,500 tokens is read, and the
/// time to its first token.
fn stall(target: f64) -> (f64, f64) {
    // Of the order of SmolLM2 135M on two cores.
    let mut engine = engine_on(Simulated::new(8.0, 0.35, 0.0002), 2048, 4096, 256);
    engine.set_step_target(target);
    for i in 0..4 {
        engine.submit(greedy(text(i, 40), 400)).expect("a request");
    }
    for _ in 0..30 {
        step(&mut engine);
    }
    let came = clock();
    let long = engine.submit(greedy(text(9, 1500), 1)).expect("a request");
    let (mut last, mut gap) = (clock(), 0f64);
    loop {
        let events = step(&mut engine);
        let streams = events.iter().filter(|e| matches!(e, Event::Token(id, _) if *id != long)).count();
        assert_eq!(streams, 4, "a stream was left out");
        gap = gap.max(clock() - last);
        last = clock();
        if events.iter().any(|e| matches!(e, Event::Token(id, _) if *id == long)) {
            return (gap, clock() - came);
        }
    }
}

#[test]
fn streams_go_on_while_a_long_prompt_is_read() {
    for target in [20.0, 50.0, 100.0] {
        let (gap, first) = stall(target);
        assert!(gap <= 2.0 * target, "a gap of {gap} ms at a target of {target} ms");
        // The budget is used: reading alone takes 0.8 s, writing the others' tokens comes on top.
        assert!(first < 3000.0, "the prompt's first token came after {first} ms at a target of {target} ms");
    }
    let (gap, _) = stall(f64::INFINITY);
    assert!(gap > 90.0, "without a target, steps are as wide as they can be: {gap} ms");
}

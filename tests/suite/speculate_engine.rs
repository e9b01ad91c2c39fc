//! Speculation in the engine: greedy answers are those of plain decoding, token by token, whatever guesses, whoever else
//! is answered, and whatever else was asked for.

use crate::common::data;
use crate::common::random::Random;
use crate::common::rules::{ByPath, Forcing};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::engine::openai::{Service, Stamp};
use foreword::engine::{Done, Engine, Event, Request, RequestId, TokenEvent};
use foreword::gguf::source::{FileSource, Source};
use foreword::model::ModelOptions;
use foreword::sample::{Params, Rule};
use foreword::speculate::draft::{Context, Drafter, Layers, Ngram, Proposals, SecondModel};
use foreword::speculate::{Mode, Shape, Speculation};
use foreword::tokenizer::Detokenizer;
use foreword::{Error, Kind};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

fn engine_of(model: &str, cache_tokens: usize) -> Engine {
    let source = FileSource::open(&data(&format!("models/{model}.gguf"))).expect("a model file");
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let options = ModelOptions {
        context_length: Some(160),
        cache_type: CacheType::F32,
        cache_tokens: Some(cache_tokens),
        max_batch: 48,
        kv_memory: None,
    };
    let cpu = Box::new(Cpu::new(1));
    pollster::block_on(Engine::load(sources, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model")
}

/// Another model as the drafter of `engine`.
fn second(engine: &Engine, model: &str) -> foreword::Result<SecondModel> {
    let (gguf, _) = crate::common::open(&data(&format!("models/{model}.gguf")));
    let tokenizer = foreword::tokenizer::Tokenizer::from_gguf(&gguf.metadata)?;
    let options = ModelOptions { cache_tokens: Some(2048), ..crate::common::exact_options(160) };
    let model = crate::common::load(&data(&format!("models/{model}.gguf")), &options, Cpu::new(1));
    SecondModel::new(model, &tokenizer, engine.tokenizer())
}

/// Guesses as the layers do, and fails after a few.
struct Failing(Layers, usize);

impl Drafter for Failing {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        if self.1 == 0 {
            return Box::pin(async { Err(Error::device_lost("the drafter's device is gone")) });
        }
        self.1 -= 1;
        self.0.propose(context, slots)
    }
    fn end(&mut self, _: u64) {}
    fn is_model(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Answer {
    tokens: Vec<TokenEvent>,
    done: Option<Done>,
}

impl Answer {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.token).collect()
    }

    fn text(&self) -> String {
        let end = self.done.as_ref().map_or("", |d| &d.text);
        self.tokens.iter().map(|t| &*t.text).chain([end]).collect()
    }
}

fn answers(engine: &mut Engine, requests: &[Request]) -> Vec<Answer> {
    let ids: Vec<RequestId> = requests.iter().map(|r| engine.submit(r.clone()).expect("a request")).collect();
    let mut all: HashMap<RequestId, Answer> = HashMap::new();
    let mut events = Vec::new();
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(id, token) => all.entry(id).or_default().tokens.push(token),
                Event::Done(id, done) => all.entry(id).or_default().done = Some(done),
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
    }
    ids.iter().map(|id| all.remove(id).expect("an answer")).collect()
}

/// Greedy requests of all kinds. Prompts repeat themselves, so that there is something to look up.
fn requests() -> Vec<Request> {
    let mut r = Random::new(21);
    (0..12)
        .map(|i| {
            let phrase: Vec<u32> = (0..4 + r.below(8)).map(|_| 3 + r.below(250) as u32).collect();
            let mut prompt = phrase.repeat(2 + r.below(4));
            prompt.truncate(70);
            let mut params = Params { temperature: 0.0, ..Params::default() };
            match i % 4 {
                1 => (params.repetition_penalty, params.presence_penalty) = (1.3, 0.2),
                2 => params.logit_bias = vec![(phrase[0], f32::NEG_INFINITY), (phrase[1], 3.0)],
                _ => {}
            }
            let logprobs = (i % 3 == 0).then_some(3);
            Request {
                prompt,
                params,
                max_tokens: Some(20 + r.below(50)),
                logprobs,
                ignore_eos: i % 2 == 0,
                ..Request::default()
            }
        })
        .collect()
}

fn modes() -> Vec<Mode> {
    let shapes = [
        Shape::Constant(vec![1, 1, 1, 1]),
        Shape::Constant(vec![2, 2, 1]),
        Shape::Beam { width: 3, depth: 3 },
        Shape::Independent(vec![2, 1]),
    ];
    [Mode::Auto].into_iter().chain(shapes.map(Mode::Fixed)).collect()
}

fn drafters(engine: &Engine) -> Vec<(&'static str, Box<dyn Drafter>)> {
    let layers = || Layers::new(engine.model(), 1).expect("layers");
    vec![
        ("ngram", Box::new(Ngram)),
        ("layers", Box::new(layers())),
        ("second model", Box::new(second(engine, "llama").expect("a drafter"))),
        ("failing", Box::new(Failing(layers(), 9))),
    ]
}

#[test]
fn greedy_answers_are_those_of_plain_decoding() {
    // With little memory requests wait, are preempted, and have no room to guess.
    for cache_tokens in [2048, 256] {
        let mut engine = engine_of("llama", cache_tokens);
        let blocks = engine.model().kv().free_blocks();
        let plain = answers(&mut engine, &requests());
        for mode in modes() {
            for (name, drafter) in drafters(&engine) {
                engine.speculate(drafter, mode.clone()).expect("a mode");
                let guessed = answers(&mut engine, &requests());
                let mut accepted = 0;
                for (a, b) in plain.iter().zip(&guessed) {
                    assert_eq!(a.ids(), b.ids(), "{name}, {mode:?}");
                    assert_eq!(a.text(), b.text(), "{name}, {mode:?}");
                    let (x, y) = (a.done.as_ref().expect("an end"), b.done.as_ref().expect("an end"));
                    assert_eq!(x.reason, y.reason);
                    assert_eq!(x.usage.completion_tokens, y.usage.completion_tokens);
                    let logprobs = |a: &Answer| a.tokens.iter().map(|t| t.logprobs.clone()).collect::<Vec<_>>();
                    assert!(logprobs(a) == logprobs(b), "{name}, {mode:?}: log-probabilities differ");
                    accepted += y.usage.accepted_tokens;
                    let seen = b.tokens.iter().filter(|t| t.guessed).count();
                    assert!(seen.abs_diff(y.usage.accepted_tokens) <= 1, "an end token is not reported");
                }
                if name == "second model" && cache_tokens > 1000 {
                    assert!(accepted > 100, "{mode:?}: only {accepted} guesses of the model itself were right");
                }
                let failed = guessed.iter().filter(|a| a.done.as_ref().is_some_and(|d| d.usage.drafter_failed)).count();
                assert_eq!(failed > 0, name == "failing");
                let why = engine.speculation().and_then(Speculation::failure).map(Error::kind);
                assert_eq!(why, (name == "failing").then_some(Kind::DeviceLost));
            }
        }
        *engine.speculation_mut() = None;
        engine.clear_cache();
        assert_eq!(engine.model().kv().free_blocks(), blocks, "blocks leaked");
    }
}

/// A request whose answers keep to a rule.
fn ruled(prompt: Vec<u32>, params: Params, max_tokens: usize) -> Request {
    let rules: Vec<Box<dyn Rule>> = vec![Box::new(ByPath::default())];
    Request { prompt, params, rules, max_tokens: Some(max_tokens), ignore_eos: true, ..Request::default() }
}

fn assert_ruled(prompt: &[u32], answer: &[u32]) {
    for (i, &token) in answer.iter().enumerate() {
        let last = ByPath::last(prompt.iter().chain(&answer[..i]).copied());
        assert!(!ByPath::forbids(last, token), "token {token} behind {last:?}");
    }
}

#[test]
fn a_rule_of_the_callers_own_is_kept_and_greedy_answers_stay_the_same() {
    let mut engine = engine_of("llama", 2048);
    let greedy = Params { temperature: 0.0, ..Params::default() };
    let rules_off = requests().into_iter().map(|r| Request { params: greedy.clone(), ..r });
    let free: Vec<Request> = rules_off.collect();
    let requests: Vec<Request> = free.iter().map(|r| ruled(r.prompt.clone(), greedy.clone(), 40)).collect();
    let plain = answers(&mut engine, &requests);
    let unlike = answers(&mut engine, &free).iter().zip(&plain).filter(|(a, b)| !b.ids().starts_with(&a.ids())).count();
    assert!(unlike > 6, "the rule changes hardly anything");
    for (request, answer) in requests.iter().zip(&plain) {
        assert_ruled(&request.prompt, &answer.ids());
    }
    for mode in modes() {
        for (name, drafter) in drafters(&engine) {
            engine.speculate(drafter, mode.clone()).expect("a mode");
            let guessed = answers(&mut engine, &requests);
            let mut accepted = 0;
            for (a, b) in plain.iter().zip(&guessed) {
                assert_eq!(a.ids(), b.ids(), "{name}, {mode:?}");
                accepted += b.done.as_ref().map_or(0, |d| d.usage.accepted_tokens);
            }
            // The drafter is the model itself and knows the rule along its path: its guesses are right.
            if name == "second model" {
                assert!(accepted > 200, "{mode:?}: only {accepted} guesses of the model itself were right");
            }
        }
    }
}

#[test]
fn greedy_answers_stay_the_same_where_a_rule_forces_tokens() {
    let mut engine = engine_of("llama", 2048);
    let rules: Vec<Box<dyn Rule>> = vec![Box::new(Forcing::new(true))];
    let requests: Vec<Request> = requests().into_iter().map(|r| Request { rules: rules.clone(), ..r }).collect();
    let plain = answers(&mut engine, &requests);
    for mode in modes() {
        for (name, drafter) in drafters(&engine) {
            engine.speculate(drafter, mode.clone()).expect("a mode");
            let guessed = answers(&mut engine, &requests);
            let (mut accepted, mut forced) = (0, 0);
            for (a, b) in plain.iter().zip(&guessed) {
                assert_eq!(a.ids(), b.ids(), "{name}, {mode:?}");
                assert_eq!(a.text(), b.text(), "{name}, {mode:?}");
                let usage = b.done.as_ref().expect("an end").usage;
                (accepted, forced) = (accepted + usage.accepted_tokens, forced + usage.forced_tokens);
            }
            assert!(forced > 50, "{name}, {mode:?}: only {forced} tokens were forced");
            assert!(accepted > 30 || name != "second model", "{mode:?}: only {accepted} guesses were right");
        }
    }
}

#[test]
fn a_rule_of_the_callers_own_leaves_the_distribution_as_it_is_without_guesses() {
    leaves_the_distribution(&|prompt, params, n| ruled(prompt, params, n), &assert_ruled);
}

#[test]
fn a_rule_that_forces_tokens_leaves_the_distribution_as_it_is_without_guesses() {
    let rules: Vec<Box<dyn Rule>> = vec![Box::new(Forcing::new(true))];
    let request = |prompt, params, n| Request { rules: rules.clone(), ..ruled(prompt, params, n + 6) };
    leaves_the_distribution(&request, &|_, _| {});
}

/// Answers under a rule are distributed with guesses as without. `request` makes one of a prompt, settings and a length, `check`
/// looks at its answer.
fn leaves_the_distribution(request: &dyn Fn(Vec<u32>, Params, usize) -> Request, check: &dyn Fn(&[u32], &[u32])) {
    let mut engine = engine_of("llama", 4096);
    let prompt: Vec<u32> = (3..20).collect();
    let requests: Vec<Request> = (0..3000)
        .map(|seed| request(prompt.clone(), Params { top_k: 3, temperature: 2.0, seed, ..Params::default() }, 3))
        .collect();
    // Counts of the second and third token together: they come out of one tree.
    let mut counts: HashMap<Vec<u32>, [f64; 2]> = HashMap::new();
    for with_guesses in [false, true] {
        if with_guesses {
            let drafter = second(&engine, "llama").expect("a drafter");
            engine.speculate(Box::new(drafter), Mode::Fixed(Shape::Constant(vec![2, 1]))).expect("a mode");
        }
        for answer in requests.chunks(100).flat_map(|some| answers(&mut engine, some)) {
            check(&prompt, &answer.ids());
            counts.entry(answer.ids()[1..].to_vec()).or_default()[usize::from(with_guesses)] += 1.0;
        }
    }
    // Two samples of the same distribution (chi-square); rare outcomes count as one.
    let (rare, common): (Vec<_>, Vec<_>) = counts.into_values().partition(|[a, b]| a + b < 10.0);
    let rare = rare.iter().fold([0.0, 0.0], |[a, b], [c, d]| [a + c, b + d]);
    let cells: Vec<[f64; 2]> = common.into_iter().chain([rare]).filter(|[a, b]| a + b > 0.0).collect();
    let chi2: f64 = cells.iter().map(|[a, b]| (a - b).powi(2) / (a + b)).sum();
    let degrees = (cells.len() - 1) as f64;
    assert!(degrees >= 8.0, "{cells:?}");
    // Four standard deviations.
    assert!(chi2 < degrees + 4.0 * (2.0 * degrees).sqrt(), "chi-square {chi2} of {degrees}");
}

#[test]
fn the_end_of_an_answer_limits_how_deep_trees_are_not_how_wide() {
    let mut engine = engine_of("llama", 1024);
    let drafter = second(&engine, "llama").expect("a drafter");
    let shape = Shape::Constant(vec![3, 2, 1, 1]);
    assert!(shape.size() > 20);
    engine.speculate(Box::new(drafter), Mode::Fixed(shape)).expect("a mode");
    let prompt: Vec<u32> = (3..40).collect();
    let params = Params { temperature: 0.0, ..Params::default() };
    for (max_tokens, accepted) in [(2, 0), (3, 1), (4, 2), (6, 4), (7, 4), (8, 5)] {
        let request = Request {
            prompt: prompt.clone(),
            params: params.clone(),
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..Request::default()
        };
        // The drafter is the model itself, so all its first guesses are right; the first token comes from the prompt.
        let done = answers(&mut engine, &[request]).remove(0).done.expect("an end");
        assert_eq!(done.usage.accepted_tokens, accepted, "of {max_tokens}");
    }
}

#[test]
fn a_tree_that_the_context_has_no_room_for_is_left_out() {
    let mut engine = engine_of("llama", 1024);
    let request = Request {
        prompt: (3..123).collect(),
        params: Params { temperature: 0.0, ..Params::default() },
        ignore_eos: true,
        ..Request::default()
    };
    let plain = answers(&mut engine, std::slice::from_ref(&request)).remove(0);
    assert_eq!(plain.ids().len(), 40, "up to the end of the context");
    // The context has room for 40 tokens: for no tree, for those of the first rounds, for all but the last ones.
    for (shape, some) in [
        (Shape::Beam { width: 1, depth: 45 }, false),
        (Shape::Beam { width: 10, depth: 3 }, true),
        (Shape::Constant(vec![1; 4]), true),
    ] {
        let drafter = second(&engine, "llama").expect("a drafter");
        engine.speculate(Box::new(drafter), Mode::Fixed(shape.clone())).expect("a mode");
        let guessed = answers(&mut engine, std::slice::from_ref(&request)).remove(0);
        assert_eq!(plain.ids(), guessed.ids(), "{shape:?}");
        let (a, b) = (plain.done.as_ref().expect("an end"), guessed.done.expect("an end"));
        assert_eq!((a.reason, some), (b.reason, b.usage.guessed_tokens > 0), "{shape:?}");
        assert!(!b.usage.drafter_failed);
    }
}

#[test]
fn layers_guess_in_a_cache_full_of_finished_answers() {
    let mut engine = engine_of("llama", 512);
    let mut r = Random::new(2);
    for round in 0..20 {
        // Longer than what finds room when it is admitted.
        let prompt = (0..10).map(|_| 3 + r.below(250) as u32).collect();
        let params = Params { temperature: 0.0, ..Params::default() };
        let request = Request { prompt, params, max_tokens: Some(145), ignore_eos: true, ..Request::default() };
        if round == 10 {
            assert!(engine.model().kv().free_blocks() < 2, "the cache is not full");
            let drafter = Layers::new(engine.model(), 1).expect("a drafter");
            engine.speculate(Box::new(drafter), "chain:5".parse().expect("a form")).expect("a mode");
        }
        let usage = answers(&mut engine, &[request]).remove(0).done.expect("an end").usage;
        assert!(!usage.drafter_failed, "{:?}", engine.speculation().and_then(Speculation::failure));
        assert!(round < 10 || usage.guessed_tokens > 400, "{} guesses", usage.guessed_tokens);
    }
}

/// Counts requests that it has guessed for and that have not ended.
struct Counting(Arc<Mutex<HashSet<u64>>>);

impl Drafter for Counting {
    fn propose<'a>(&'a mut self, context: Context<'a>, _: &'a [usize]) -> Proposals<'a> {
        self.0.lock().expect("no panic").insert(context.request);
        Box::pin(async { Ok(Vec::new()) })
    }
    fn end(&mut self, request: u64) {
        self.0.lock().expect("no panic").remove(&request);
    }
    fn is_model(&self) -> bool {
        false
    }
}

#[test]
fn a_drafter_forgets_requests_that_end_while_it_is_away() {
    let mut engine = engine_of("llama", 2048);
    let known = Arc::new(Mutex::new(HashSet::new()));
    engine.speculate(Box::new(Counting(known.clone())), "chain:2".parse().expect("a form")).expect("a mode");
    let n = || known.lock().expect("no panic").len();
    for request in requests() {
        engine.submit(request).expect("a request");
    }
    for _ in 0..15 {
        pollster::block_on(engine.step(&mut Vec::new())).expect("a step");
    }
    assert!(n() > 3, "{} requests", n());
    let away = engine.speculation_mut().take();
    answers(&mut engine, &[]);
    *engine.speculation_mut() = away;
    answers(&mut engine, &requests()[..1]);
    assert_eq!(n(), 0);
}

#[test]
fn stop_texts_and_cancels_end_answers_in_the_middle_of_a_tree() {
    let mut engine = engine_of("llama", 1024);
    let request = requests().swap_remove(4);
    let text = answers(&mut engine, std::slice::from_ref(&request)).remove(0).text();
    let chars: Vec<char> = text.chars().collect();
    let blocks = engine.model().kv().free_blocks();
    for at in 1..chars.len().min(14) {
        let stop: String = chars[at..(at + 2).min(chars.len())].iter().collect();
        let stopped = Request { stop: vec![stop.clone()], ..request.clone() };
        *engine.speculation_mut() = None;
        let plain = answers(&mut engine, std::slice::from_ref(&stopped)).remove(0);
        let drafter = second(&engine, "llama").expect("a drafter");
        engine.speculate(Box::new(drafter), Mode::Fixed(Shape::Constant(vec![2, 1, 1, 1]))).expect("a mode");
        let guessed = answers(&mut engine, &[stopped]).remove(0);
        assert_eq!(plain.text(), guessed.text());
        assert_eq!(plain.ids(), guessed.ids());
    }
    for steps in 1..6 {
        let id = engine.submit(request.clone()).expect("a request");
        for _ in 0..steps {
            pollster::block_on(engine.step(&mut Vec::new())).expect("a step");
        }
        engine.cancel(id);
        answers(&mut engine, &[]);
    }
    engine.clear_cache();
    assert!(engine.model().kv().free_blocks() >= blocks, "blocks leaked");
}

/// For each byte of a text whether an accepted guess wrote it.
fn origins(text: &str, accepted: &[Range<usize>]) -> Vec<bool> {
    (0..text.len()).map(|i| accepted.iter().any(|stretch| stretch.contains(&i))).collect()
}

/// The engine with the model as its own drafter, so that nearly all guesses are right.
fn guessing() -> Engine {
    let mut engine = engine_of("llama", 1024);
    let drafter = second(&engine, "llama").expect("a drafter");
    engine.speculate(Box::new(drafter), Mode::Fixed(Shape::Constant(vec![2, 1, 1]))).expect("a mode");
    engine
}

#[test]
fn the_text_says_which_of_it_accepted_guesses_wrote() {
    let mut engine = guessing();
    let text = answers(&mut engine, &requests()).iter().map(Answer::text).collect::<String>();
    // Every character may begin a stop text that never comes, so all text is held back for a while.
    let stop: Vec<String> = text.chars().map(|c| format!("{c}{c}{c}{c}{c}")).collect();
    for stop in [Vec::new(), stop, vec![text.chars().skip(20).take(2).collect()]] {
        let requests: Vec<Request> = requests().into_iter().map(|r| Request { stop: stop.clone(), ..r }).collect();
        for answer in answers(&mut engine, &requests) {
            let done = answer.done.as_ref().expect("an end");
            let pieces = answer.tokens.iter().map(|t| (&t.text, &t.accepted)).chain([(&done.text, &done.accepted)]);
            let got: Vec<bool> = pieces.flat_map(|(text, accepted)| origins(text, accepted)).collect();
            // A character belongs to the token that ends it; one that is never ended, and what a stop text cuts, is no text.
            let mut detokenizer = Detokenizer::new(true);
            let mut of = |t: &TokenEvent| vec![t.guessed; detokenizer.push(engine.tokenizer(), t.token).len()];
            let mut want: Vec<bool> = answer.tokens.iter().flat_map(&mut of).collect();
            want.truncate(answer.text().len());
            assert_eq!(got, want, "{:?}", answer.text());
            assert!(done.usage.accepted_tokens < 4 || got.contains(&true));
        }
    }
}

#[test]
fn chunks_say_which_text_accepted_guesses_wrote_and_requests_may_want_none() {
    let mut service = Service::new(guessing(), Err(Error::invalid_request("no template")), "llama");
    let prompt: Vec<u32> = (3..40).collect();
    let mut stream = |extra: &str| {
        let body = format!(
            r#"{{"prompt": {prompt:?}, "temperature": 0, "max_tokens": 30, "ignore_eos": true, "stream": true{extra}}}"#
        );
        service.submit(&body, &Stamp::default()).expect("a request");
        let mut replies = Vec::new();
        while !service.is_idle() {
            replies.extend(pollster::block_on(service.step()).expect("a step"));
        }
        assert!(replies.iter().rev().skip(1).all(|r| !r.done) && replies.last().is_some_and(|r| r.done));
        replies.into_iter().map(|r| r.value.expect("a chunk")).collect::<Vec<_>>()
    };
    let text = |chunks: &[serde_json::Value], all: bool| {
        let of = |c: &serde_json::Value| c["choices"][0]["text"].as_str().expect("a text").to_string();
        let wanted = chunks.iter().filter(|c| all || c["choices"][0]["accepted"] == true);
        wanted.map(of).collect::<String>()
    };
    let (guessed, plain) = (stream(""), stream(r#", "speculate": false"#));
    assert_eq!(text(&guessed, true), text(&plain, true));
    let details =
        |chunks: &[serde_json::Value]| chunks.last().expect("chunks")["usage"]["completion_tokens_details"].clone();
    let (usage, none) = (details(&guessed), details(&plain));
    assert!(usage["accepted_prediction_tokens"].as_u64() > Some(15), "{usage}");
    assert!(text(&guessed, false).len() * 2 > text(&guessed, true).len());
    assert!(plain.iter().all(|c| c["choices"][0].get("accepted").is_none()));
    assert_eq!(none["forwards"], 30);
    assert_eq!(usage["forwards"].as_u64(), Some(30 - usage["accepted_prediction_tokens"].as_u64().unwrap_or(0)));
    assert_eq!(none["rejected_prediction_tokens"], 0);
    // Text that was held back comes in pieces of one kind each; what else is said comes with the last of them.
    let stop: Vec<String> = text(&plain, true).chars().map(|c| c.to_string().repeat(5)).collect();
    let held = stream(&format!(r#", "logprobs": 0, "stop": {}"#, serde_json::json!(stop)));
    assert_eq!(text(&held, false), text(&guessed, false));
    assert_eq!(held.iter().filter(|c| !c["choices"][0]["logprobs"].is_null()).count(), 30);
}

#[test]
fn impossible_drafters_are_refused() {
    let mut engine = engine_of("llama", 256);
    let all = engine.model().config().layers.len();
    for n in [0, all, all + 1] {
        assert_eq!(Layers::new(engine.model(), n).expect_err("a refusal").kind(), Kind::InvalidRequest);
    }
    for width in [0, 1000] {
        let mode = Mode::Fixed(Shape::Beam { width, depth: 2 });
        let refused = engine.speculate(Box::new(Ngram), mode).expect_err("a refusal");
        assert!(refused.to_string().contains("1 to 47 are possible"), "{refused}");
    }
    let smol = engine_of("llama", 64);
    let (gguf, _) = crate::common::open(&crate::common::model_path(crate::common::SMOLLM2));
    let other = foreword::tokenizer::Tokenizer::from_gguf(&gguf.metadata).expect("a tokenizer");
    let model = crate::common::load(&data("models/llama.gguf"), &crate::common::exact_options(64), Cpu::new(1));
    let refused = SecondModel::new(model, smol.tokenizer(), &other).err().expect("a refusal");
    assert!(refused.to_string().contains("the same vocabulary"), "{refused}");
}

//! The engine over a cache whose layers keep states: requests go on only where a state was kept, and every state is that of its
//! text. The states are kept here, as texts, from what the device is told; the model itself has none.

use crate::common::random::Random;
use crate::common::simulated::{Fault, Seen, Simulated, clock, inject, take_seen};
use crate::common::{data, open_source};
use foreword::backend::{BLOCK, CacheSpec, CacheType, LayerCache, Plan, StateStep};
use foreword::engine::{Engine, Event, Request};
use foreword::kv::KvCache;
use foreword::model::ModelOptions;
use foreword::sample::Params;
use std::collections::HashMap;

/// An engine, and the states of its sequences. Without slots no layer keeps one.
struct Player {
    engine: Engine,
    states: Vec<Vec<u32>>,
    /// Tokens of all cells.
    cells: Vec<u32>,
    /// Tokens of the rows of the last plan.
    rows: Vec<u32>,
    answers: HashMap<u64, Vec<u32>>,
    cached: HashMap<u64, usize>,
    failed: Vec<u64>,
}

fn device() -> Simulated {
    let mut device = Simulated::new(1.0, 0.1, 0.0);
    device.watched = true;
    device
}

impl Player {
    fn new(n_slots: usize, n_blocks: usize) -> Self {
        let options = ModelOptions {
            context_length: Some(512),
            cache_type: CacheType::F32,
            cache_tokens: Some(n_blocks * BLOCK),
            max_batch: 100,
            kv_memory: None,
        };
        let sources = vec![open_source(&data("models/llama.gguf"))];
        let mut ignore = |_| {};
        let load = Engine::load(sources, Box::new(device()), &options, clock, &mut ignore);
        let mut engine = pollster::block_on(load).expect("a sound model");
        if n_slots > 0 {
            let mut spec = CacheSpec { n_slots, ..engine.model().kv().spec().clone() };
            spec.layers.push(LayerCache::State { floats: 8 });
            // The first cache of every device has the same handle.
            *engine.model_mut().kv_mut() = KvCache::new(&mut device(), spec).expect("memory");
        }
        take_seen();
        let (states, cells) = (vec![Vec::new(); n_slots], vec![u32::MAX; n_blocks * BLOCK]);
        Player {
            engine,
            states,
            cells,
            rows: Vec::new(),
            answers: HashMap::new(),
            cached: HashMap::new(),
            failed: Vec::new(),
        }
    }

    fn submit(&mut self, prompt: Vec<u32>, max_tokens: usize) -> u64 {
        self.submit_at(0, prompt, max_tokens)
    }

    fn submit_at(&mut self, priority: i32, prompt: Vec<u32>, max_tokens: usize) -> u64 {
        let params = Params { temperature: 0.0, ..Params::default() };
        let max_tokens = Some(max_tokens);
        let request = Request { prompt, params, max_tokens, priority, ignore_eos: true, ..Request::default() };
        self.engine.submit(request).expect("a sound request").0
    }

    fn step(&mut self) {
        let mut events = Vec::new();
        pollster::block_on(self.engine.step(&mut events)).expect("a step");
        for event in events {
            match event {
                Event::Token(id, token) => self.answers.entry(id.0).or_default().push(token.token),
                Event::Done(id, done) => {
                    let before = self.cached.insert(id.0, done.usage.cached_tokens);
                    assert_eq!(before, None, "request {} ended twice", id.0);
                }
                Event::Failed(id, _) => self.failed.push(id.0),
            }
        }
        for seen in take_seen() {
            match seen {
                Seen::Plan(plan) => self.forward(plan),
                Seen::Moves(moves) => {
                    moves.iter().for_each(|&(from, to)| self.cells[to as usize] = self.cells[from as usize]);
                }
            }
        }
    }

    /// What a model with states does; the state of every text that rows follow must be there.
    fn forward(&mut self, plan: Plan) {
        for step in plan.states {
            match step {
                StateStep::Clear { slot } => self.states[slot as usize].clear(),
                StateStep::Copy { from, to } => self.states[to as usize] = self.states[from as usize].clone(),
                StateStep::Advance { slot, rows } => {
                    let tokens = rows.iter().map(|&row| self.rows[row as usize]);
                    self.states[slot as usize].extend(tokens);
                }
            }
        }
        for span in plan.spans.chunk_by(|a, b| a.table == b.table).map(|run| run[0]) {
            let block = |position: usize| plan.blocks[span.table as usize + position / BLOCK] as usize;
            let cells = (0..span.prefix as usize - 1).map(|position| block(position) * BLOCK + position % BLOCK);
            let text: Vec<u32> = cells.map(|cell| self.cells[cell]).collect();
            assert!(self.states.is_empty() || self.states.contains(&text), "no state of a text of {}", text.len());
        }
        self.rows = plan.tokens;
        for (&cell, &token) in plan.cells.iter().zip(&self.rows) {
            self.cells[cell as usize] = token;
        }
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.engine.is_idle() {
                return;
            }
            self.step();
        }
        panic!("the engine never became idle");
    }

    /// Answers a prompt; returns how many tokens of it were known.
    fn answer(&mut self, prompt: Vec<u32>) -> (usize, Vec<u32>) {
        let id = self.submit(prompt, 5);
        self.finish();
        (self.cached[&id], self.answers[&id].clone())
    }

    /// Nothing is held where nothing is kept, and no request failed that was not to.
    fn end(&mut self) {
        assert!(self.failed.is_empty(), "{:?}", self.failed);
        self.engine.clear_cache();
        let kv = self.engine.model().kv();
        assert_eq!((kv.free_blocks(), kv.free_slots()), (kv.spec().n_blocks, kv.spec().n_slots));
    }
}

fn text(random: &mut Random, n: usize) -> Vec<u32> {
    (0..n).map(|_| 3 + random.below(260) as u32).collect()
}

#[test]
fn requests_go_on_where_a_state_was_kept() {
    let mut random = Random::new(5);
    let (prompt, more) = (text(&mut random, 300), text(&mut random, 20));
    let mut player = Player::new(6, 64);
    let (cached, answer) = player.answer(prompt.clone());
    assert_eq!(cached, 0);
    let then = |n: usize| [&prompt[..n], &more].concat();
    assert_eq!(player.answer([&prompt[..], &answer, &more].concat()).0, 304, "all but the last token of the answer");
    assert_eq!(player.answer(prompt.clone()).0, 299, "the prompt without its last token");
    assert_eq!(player.answer(then(280)).0, 256, "the last border in a long prompt");
    assert_eq!(player.answer(then(200)).0, 0, "nothing was kept before");
    player.end();
}

#[test]
fn a_request_that_waits_for_another_goes_on_from_its_state() {
    let mut random = Random::new(6);
    let prompt = text(&mut random, 300);
    let mut player = Player::new(8, 64);
    let first = player.submit(prompt.clone(), 3);
    player.step();
    let others = [280, 299].map(|n| player.submit([&prompt[..n], &text(&mut random, 9)].concat(), 3));
    player.finish();
    assert_eq!([first, others[0], others[1]].map(|id| player.cached[&id]), [0, 256, 299]);
    player.end();
}

/// A forward moves on the states of earlier ones first, also of requests that are not in its batch: where it fails, they are read
/// again.
#[test]
fn a_forward_that_fails_leaves_no_state_behind() {
    let mut random = Random::new(7);
    let (prompt, more, long) = (text(&mut random, 60), text(&mut random, 40), text(&mut random, 400));
    let after_answer = |fault: Option<usize>| {
        let mut player = Player::new(8, 64);
        let (_, answer) = player.answer(prompt.clone());
        // The longer one is read first, alone in the batch, while the other one has its place already.
        let other = player.submit_at(1, long.clone(), 5);
        let on = player.submit([&prompt[..], &answer, &more].concat(), 5);
        inject(Fault::Memory, fault.unwrap_or(0));
        player.finish();
        let failed = std::mem::take(&mut player.failed);
        assert_eq!(failed.contains(&other), fault.is_some(), "{fault:?}");
        player.end();
        (failed.contains(&on), player.answers[&on].clone())
    };
    let wanted = after_answer(None);
    for fault in 1..4 {
        assert_eq!(after_answer(Some(fault)), wanted, "operation {fault} fails");
    }
}

#[test]
fn answers_are_the_same_whatever_states_give_way() {
    let mut went_on = 0;
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let (n_slots, n_blocks) = (1 + random.below(6), 13 + random.below(30));
        let mut players = [Player::new(n_slots, n_blocks), Player::new(0, n_blocks)];
        let mut prompts = vec![text(&mut random, 300), text(&mut random, 40)];
        for _ in 0..12 {
            let earlier = &prompts[random.below(prompts.len())];
            let of = if random.below(3) > 0 { earlier.len() } else { 1 + random.below(earlier.len()) };
            let (of, more) = (of.min(370), 1 + random.below(30));
            let prompt = [&earlier[..of], &text(&mut random, more)].concat();
            prompts.push(prompt.clone());
            let n = 1 + random.below(12);
            let ids = players.each_mut().map(|player| player.submit(prompt.clone(), n));
            assert_eq!(ids[0], ids[1]);
            (0..random.below(12)).for_each(|_| players.iter_mut().for_each(Player::step));
        }
        players.iter_mut().for_each(Player::finish);
        assert_eq!(players[0].answers, players[1].answers, "seed {seed}");
        went_on += players[0].cached.values().filter(|&&n| n > 0).count();
        players.iter_mut().for_each(Player::end);
    }
    assert!(went_on > 30, "{went_on} requests went on from a kept state");
}

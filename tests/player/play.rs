//! Plays a schedule on an engine.

use super::check::{Live, Tally};
use super::drafter::Wild;
use super::reference::{Shared, load};
use super::schedule::{Action, Ask, DrafterKind, OwnRule, Schedule, SidecarKind};
use crate::common::random::Random;
use crate::common::simulated::{Fault, Simulated, another, clock, inject, is_lost, stall_one_in, stalls};
use foreword::Kind;
use foreword::backend::{BLOCK, CacheType};
use foreword::engine::{Against, Engine, Event, Request, RequestId};
use foreword::gguf::source::{BytesSource, Read, Source};
use foreword::model::ModelOptions;
use foreword::predict::Prefill;
use foreword::speculate::draft::{Drafter, Layers, Ngram, SecondModel};
use foreword::speculate::{Mode, Speculation};
use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

/// Plays a schedule to its end; says what was wrong.
pub fn play(schedule: &Schedule, shared: &mut Shared) -> Result<Tally, String> {
    let mut player = Player::new(schedule, shared)?;
    player.run()?;
    player.end()
}

struct Player<'a> {
    schedule: &'a Schedule,
    shared: &'a mut Shared,
    engine: Engine,
    ids: Vec<Option<RequestId>>,
    live: HashMap<RequestId, Live>,
    /// The speculation while it is taken away.
    pocket: Option<Speculation>,
    /// What may have failed so far.
    tally: Tally,
    /// Whether the model is in no backend: it was lost, and is not restored yet.
    gone: bool,
    failed_restores: usize,
    /// When the sidecar comes back.
    sidecar_at: Option<usize>,
    /// Steps that were not dropped, and most of them.
    steps: usize,
    most_steps: usize,
}

/// Text `which`, its first `n` tokens: some repeat themselves.
fn text(which: u64, n: usize) -> Vec<u32> {
    let mut r = Random::new(1000 + which);
    let all: Vec<u32> = (0..400).map(|_| 3 + r.below(260) as u32).collect();
    let period = [400, 9, 400, 50][which as usize % 4];
    (0..n).map(|i| all[i % period]).collect()
}

fn prompt_of(pieces: &[(u64, usize)]) -> Vec<u32> {
    pieces.iter().flat_map(|&(which, n)| text(which, n)).collect()
}

/// Tokens of prompt and answer where there are two texts: neither may be longer than the context, nor both together take more
/// than all blocks.
fn room_of_two(request: &Request, against: &Against, room: usize, blocks: usize) -> usize {
    let (own, other) = (request.prompt.len(), against.prompt.len());
    let fits =
        |n: &usize| own.max(other) + n <= room && own + other + 2 * n <= (blocks * BLOCK + 2).saturating_sub(2 * BLOCK);
    own + (0..=room).take_while(fits).last().unwrap_or(0)
}

/// Bytes that are not always there at once.
struct Slow(BytesSource);

impl Source for Slow {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        let mut late = stalls();
        Box::pin(async move {
            std::future::poll_fn(|_| if std::mem::take(&mut late) { Poll::Pending } else { Poll::Ready(()) }).await;
            self.0.read_at(offset, buf).await
        })
    }
}

fn source(bytes: Vec<u8>) -> Vec<Box<dyn Source>> {
    vec![Box::new(Slow(BytesSource(bytes)))]
}

/// Polls a future at most so many times; `None` when it is dropped before it is ready.
fn poll<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Polls of something that is to end.
const PATIENCE: usize = 100_000;

impl<'a> Player<'a> {
    fn new(schedule: &'a Schedule, shared: &'a mut Shared) -> Result<Self, String> {
        let setup = &schedule.setup;
        another(schedule.seed);
        stall_one_in(setup.stalls);
        let options = ModelOptions {
            context_length: Some(setup.context),
            cache_type: setup.cache_type,
            cache_tokens: Some(setup.blocks * BLOCK),
            max_batch: setup.max_batch,
            kv_memory: None,
        };
        let sources = source(shared.model(setup.model));
        let mut progress = |_| {};
        let load = Engine::load(sources, device(schedule), &options, clock, &mut progress);
        let mut engine = poll(load, PATIENCE).ok_or("loading never ends")?.map_err(|e| format!("loading: {e}"))?;
        engine.set_step_target(setup.target);
        let most = schedule.asks.iter().flatten().map(|a| most_tokens(a, setup.context.min(setup.blocks * BLOCK)));
        let most_steps = 3000 + 60 * most.sum::<usize>();
        let mut player = Player {
            schedule,
            shared,
            engine,
            ids: vec![None; schedule.asks.len()],
            live: HashMap::new(),
            pocket: None,
            tally: Tally::default(),
            gone: false,
            failed_restores: setup.failed_restores,
            sidecar_at: None,
            steps: 0,
            most_steps,
        };
        if let Some(kind) = setup.sidecar {
            player.add_sidecar(kind, PATIENCE)?;
        }
        player.set_prefill(setup.prefill)?;
        if let Some((kind, mode)) = &setup.drafter {
            player.speculate(*kind, mode.clone())?;
        }
        Ok(player)
    }

    /// Requests and actions at their times, and steps until all is over.
    fn run(&mut self) -> Result<(), String> {
        let schedule = self.schedule;
        let mut asks: Vec<(usize, usize)> =
            schedule.asks.iter().enumerate().filter_map(|(i, a)| Some((a.as_ref()?.at, i))).collect();
        asks.sort_unstable();
        let mut asks = VecDeque::from(asks);
        let mut actions: VecDeque<&(usize, Action)> = schedule.actions.iter().flatten().collect();
        for now in 0.. {
            while asks.front().is_some_and(|(at, _)| *at <= now) {
                asks.pop_front().map_or(Ok(()), |(_, i)| self.submit(i))?;
            }
            let mut polls = PATIENCE;
            while let Some((_, action)) = actions.front().filter(|(at, _)| *at <= now) {
                actions.pop_front();
                self.act(action, &mut polls)?;
            }
            if self.sidecar_at.is_some_and(|at| at <= now) && !self.gone {
                self.sidecar_at = None;
                if let Some(kind) = schedule.setup.sidecar {
                    self.add_sidecar(kind, PATIENCE)?;
                }
            }
            if !self.engine.is_idle() {
                self.step(polls, now)?;
            } else if asks.is_empty() && actions.is_empty() {
                return Ok(());
            }
            if self.steps > self.most_steps {
                let open: Vec<_> = self.live.iter().filter(|(_, l)| !l.ended).map(|(id, _)| id.0).collect();
                return Err(format!("no end after {} steps: requests {open:?} are open", self.steps));
            }
        }
        Ok(())
    }

    fn submit(&mut self, i: usize) -> Result<(), String> {
        let Some(ask) = &self.schedule.asks[i] else { return Ok(()) };
        let mut prompt = Vec::new();
        if let Some(live) = ask.goes_on.and_then(|of| self.ids[of]).and_then(|id| self.live.get(&id)) {
            prompt.extend(live.request.prompt.iter().copied().chain(live.tokens()));
        }
        prompt.extend(prompt_of(&ask.pieces));
        let request = Request {
            prompt,
            params: ask.params.clone(),
            rules: ask.rule.map(OwnRule::boxed).into_iter().collect(),
            max_tokens: ask.max_tokens,
            stop: ask.stop.clone(),
            logprobs: ask.logprobs,
            ignore_eos: ask.ignore_eos,
            priority: ask.priority,
            prefill: ask.prefill,
            plain: ask.plain,
            against: ask.against.clone().map(|(pieces, contrast)| Against { prompt: prompt_of(&pieces), contrast }),
            ..Request::default()
        };
        let setup = &self.schedule.setup;
        let room = setup.context.min(setup.blocks * BLOCK);
        let room = request.against.as_ref().map_or(room, |against| room_of_two(&request, against, room, setup.blocks));
        let needs_sidecar = matches!(ask.prefill, Some(Prefill::Fast | Prefill::Progressive));
        match self.engine.submit(request.clone()) {
            Ok(id) => {
                self.ids[i] = Some(id);
                self.live.insert(id, Live::new(request, room, self.may_predict(ask), self.may_guess(ask)));
                Ok(())
            }
            Err(e) if e.kind() == Kind::PromptTooLong && request.prompt.len() >= room => Ok(()),
            Err(e) if e.kind() == Kind::InvalidRequest && needs_sidecar && self.engine.model().trunk().is_none() => {
                Ok(())
            }
            Err(e) => Err(format!("a sound request was refused: {e}")),
        }
    }

    /// Whether a prompt may be read by prediction.
    fn may_predict(&self, ask: &Ask) -> bool {
        let others = self.schedule.actions.iter().flatten().any(|(_, a)| matches!(a, Action::Prefill(_)));
        ask.prefill != Some(Prefill::Exact)
            && (ask.prefill.is_some() || others || self.schedule.setup.prefill != Prefill::Exact)
    }

    /// Whether guesses may take random numbers of an answer.
    fn may_guess(&self, ask: &Ask) -> bool {
        let later = self.schedule.actions.iter().flatten().any(|(_, a)| matches!(a, Action::Drafter(..)));
        !ask.plain && ask.against.is_none() && (later || self.schedule.setup.drafter.is_some())
    }

    fn act(&mut self, action: &Action, polls: &mut usize) -> Result<(), String> {
        match action {
            Action::Cancel(i) => {
                if let Some(id) = self.ids[*i] {
                    self.engine.cancel(id);
                    self.live.entry(id).and_modify(|live| live.cancelled |= !live.ended);
                }
            }
            Action::Drop(n) => *polls = *n,
            Action::ClearCache => self.engine.clear_cache(),
            Action::Target(ms) => self.engine.set_step_target(*ms),
            Action::Prefill(prefill) => self.set_prefill(*prefill)?,
            Action::Toggle => std::mem::swap(self.engine.speculation_mut(), &mut self.pocket),
            Action::Mode(mode) => {
                if let Some(speculation) = self.engine.speculation_mut() {
                    speculation.set_mode(mode.clone()).map_err(|e| format!("a sound form was refused: {e}"))?;
                }
            }
            Action::Drafter(kind, mode) => self.speculate(*kind, mode.clone())?,
            Action::Sidecar(kind, polls) => self.add_sidecar(*kind, polls.unwrap_or(PATIENCE))?,
            Action::Lose(n) => inject(Fault::Lost, n + 1),
            Action::NoMemory(n) => {
                self.tally.memory_faults += 1;
                inject(Fault::Memory, n + 1);
            }
            Action::NoRoom(n) => {
                self.tally.memory_faults += 1;
                inject(Fault::Allocation, n + 1);
            }
        }
        Ok(())
    }

    fn set_prefill(&mut self, prefill: Prefill) -> Result<(), String> {
        match self.engine.set_prefill(prefill) {
            Err(e) if self.engine.model().trunk().is_some() => Err(format!("a sound setting was refused: {e}")),
            _ => Ok(()),
        }
    }

    /// Whether layers keep states, which neither prediction nor drafts by some layers can do with.
    fn has_states(&self) -> bool {
        self.engine.model().kv().spec().has_states()
    }

    fn speculate(&mut self, kind: DrafterKind, mode: Mode) -> Result<(), String> {
        if self.has_states() && matches!(kind, DrafterKind::Layers | DrafterKind::Sidecar) {
            return Ok(());
        }
        let drafter: Box<dyn Drafter> = match kind {
            DrafterKind::Ngram => Box::new(Ngram),
            DrafterKind::Layers => Box::new(Layers::new(self.engine.model(), 1).map_err(|e| e.to_string())?),
            DrafterKind::Sidecar => match Layers::of_sidecar(self.engine.model()) {
                Ok(layers) => Box::new(layers),
                // There is no sidecar, or one without a draft block.
                Err(e) if e.kind() == Kind::InvalidRequest => return Ok(()),
                Err(e) => return Err(e.to_string()),
            },
            DrafterKind::Wild(seed) => Box::new(Wild { random: Random::new(seed), is_model: seed.is_multiple_of(2) }),
            DrafterKind::Model(blocks) => {
                let options = ModelOptions {
                    context_length: Some(self.schedule.setup.context),
                    cache_type: CacheType::F16,
                    cache_tokens: Some(blocks * BLOCK),
                    max_batch: 64,
                    kv_memory: None,
                };
                let (model, tokenizer) = load(self.shared.model("llama"), &options);
                Box::new(SecondModel::new(model, &tokenizer, self.engine.tokenizer()).map_err(|e| e.to_string())?)
            }
        };
        self.engine.speculate(drafter, mode).map_err(|e| format!("a sound form was refused: {e}"))
    }

    fn add_sidecar(&mut self, kind: SidecarKind, polls: usize) -> Result<(), String> {
        if self.has_states() {
            return Ok(());
        }
        let sources = source(self.shared.sidecar(self.schedule.setup.model, kind));
        match poll(self.engine.add_sidecar(sources), polls) {
            Some(Ok(true)) => self.tally.sidecars += 1,
            Some(Ok(false)) => return Err("the sidecar is said to be of another quantization".into()),
            Some(Err(e)) if e.kind() == Kind::OutOfMemory => self.tally.memory_faults += 1,
            Some(Err(e)) if e.kind() == Kind::DeviceLost && (self.gone || is_lost()) => {}
            Some(Err(e)) => return Err(format!("a sound sidecar was refused: {e}")),
            None if polls == PATIENCE => return Err("adding a sidecar never ends".into()),
            None => {
                self.tally.dropped += 1;
                return Ok(());
            }
        }
        self.blocks_are_free()
    }

    /// The cache is empty where it was given up.
    fn blocks_are_free(&self) -> Result<(), String> {
        let kv = self.engine.model().kv();
        match kv.spec().n_blocks - kv.free_blocks() {
            0 => Ok(()),
            n => Err(format!("{n} blocks are in use in a cache that was given up")),
        }
    }

    fn step(&mut self, polls: usize, now: usize) -> Result<(), String> {
        let predicted_before: Vec<RequestId> =
            self.live.keys().copied().filter(|&id| self.engine.is_predicted(id)).collect();
        let mut events = Vec::new();
        let result = poll(self.engine.step(&mut events), polls);
        let ended: Vec<RequestId> =
            events.iter().filter_map(|e| if let Event::Done(id, _) = e { Some(*id) } else { None }).collect();
        for event in events {
            let (Event::Token(id, _) | Event::Done(id, _) | Event::Failed(id, _)) = &event;
            let sure = !predicted_before.contains(id) && !self.engine.is_predicted(*id) && !ended.contains(id);
            let live = self.live.get_mut(id).ok_or("an event of a request that nobody made")?;
            let setup = &self.schedule.setup;
            let reference = self.shared.reference(setup.model, setup.cache_type);
            // Other drafters never fail, and nothing else takes away what they draft with.
            let takes_away = |a: &Action| matches!(a, Action::Sidecar(..) | Action::Drafter(DrafterKind::Wild(_), _));
            let may_fail = matches!(setup.drafter, Some((DrafterKind::Wild(_), _)))
                || self.schedule.actions.iter().flatten().any(|(_, action)| takes_away(action));
            if let Event::Done(_, done) = &event
                && done.usage.drafter_failed
                && self.tally.losses == 0
                && !may_fail
            {
                let why = self.engine.speculation().and_then(Speculation::failure);
                return Err(format!("the drafter failed without a reason: {why:?}"));
            }
            live.take(event, sure, reference, &mut self.tally)?;
        }
        match result {
            None if polls == PATIENCE => return Err("a step is never ready".into()),
            None => self.tally.dropped += 1,
            Some(Ok(())) => self.steps += 1,
            Some(Err(e)) if e.kind() == Kind::DeviceLost && (self.gone || is_lost()) => {
                self.blocks_are_free()?;
                self.restore(now)?;
            }
            Some(Err(e)) => return Err(format!("a step failed: {e}")),
        }
        Ok(())
    }

    /// Puts the model into another backend, perhaps in vain.
    fn restore(&mut self, now: usize) -> Result<(), String> {
        self.tally.losses += 1;
        self.gone = true;
        another(self.schedule.seed + now as u64);
        let mut bytes = self.shared.model(self.schedule.setup.model);
        let fails = self.failed_restores > 0;
        let mut polls = PATIENCE;
        if fails {
            self.failed_restores -= 1;
            match self.failed_restores {
                0 => bytes.truncate(bytes.len() / 2),
                _ => polls = 5,
            }
        }
        match poll(self.engine.restore(source(bytes), device(self.schedule), &mut |_| {}), polls) {
            Some(Ok(())) => {
                self.gone = false;
                self.sidecar_at = self.schedule.setup.sidecar_again.map(|steps| now + steps);
            }
            None if polls == 5 => {}
            Some(Err(e)) if fails && e.kind() == Kind::BadFile => {}
            Some(Err(e)) => return Err(format!("restoring failed: {e}")),
            None => return Err("restoring never ends".into()),
        }
        self.blocks_are_free()
    }

    /// What holds when all is over.
    fn end(mut self) -> Result<Tally, String> {
        if let Some((id, _)) = self.live.iter().find(|(_, live)| !live.ended) {
            return Err(format!("the engine is idle, but request {} has not ended", id.0));
        }
        self.engine.clear_cache();
        let kv = self.engine.model().kv();
        let lost = kv.spec().n_blocks - kv.free_blocks();
        if lost > 0 {
            return Err(format!("{lost} blocks were lost"));
        }
        if kv.free_slots() < kv.spec().n_slots {
            return Err(format!("{} of {} states are free at the end", kv.free_slots(), kv.spec().n_slots));
        }
        self.tally.preemptions = self.engine.take_totals().preemptions;
        Ok(self.tally)
    }
}

/// Most tokens of prompt and answer.
fn most_tokens(ask: &Ask, room: usize) -> usize {
    ask.max_tokens.map_or(room, |n| n + ask.pieces.iter().map(|p| p.1).sum::<usize>()).min(room)
}

fn device(schedule: &Schedule) -> Box<Simulated> {
    let (fixed, per_row, per_cell) = schedule.setup.times;
    let mut device = Simulated::new(fixed, per_row, per_cell);
    device.ahead = schedule.setup.ahead;
    Box::new(device)
}

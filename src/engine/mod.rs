//! Requests to answers: any number of them over one model.
//!
//! [`Engine::step`] runs one forward for everything that is under way: first a token for every answer that is being
//! written, then pieces of prompts that are being read ([`crate::prefill`] says which, and how much). So a long prompt does
//! not stop the answers of others.
//!
//! A request is admitted when the cache has room for its prompt and the beginning of its answer; until then it waits. When
//! memory runs out later, the answer whose turn is last gives its memory up and is read again when there is room. The cache
//! of finished answers stays until its memory is needed, and a request begins behind the longest beginning that is known:
//! the second turn of a chat reads only what is new.

mod ahead;
mod early;
pub mod openai;
mod outputs;
mod prefixes;
mod request;
mod running;
mod schedule;
mod stream;

pub use request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Totals, Usage};

use crate::backend::{BLOCK, Backend};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::model::{Model, ModelOptions, Progress};
use crate::predict::Prefill;
use crate::prefill::{Cost, Pace};
use crate::speculate::draft::Drafter;
use crate::speculate::{Mode, Speculation};
use crate::tokenizer::Tokenizer;
use ahead::Flight;
use prefixes::Prefixes;
use running::Running;
use schedule::Work;

/// A model that answers requests.
pub struct Engine {
    model: Model,
    tokenizer: Tokenizer,
    gguf: Gguf,
    options: ModelOptions,
    /// Milliseconds from any fixed moment.
    clock: fn() -> f64,
    next_id: u64,
    /// In the order of their turns.
    waiting: Vec<Running>,
    running: Vec<Running>,
    /// Events of the time between two steps.
    reports: Vec<Event>,
    prefixes: Prefixes,
    cost: Cost,
    pace: Pace,
    /// How prompts are read whose request says nothing about it.
    prefill: Prefill,
    /// Milliseconds a token of the exact reading behind predictions, once measured.
    behind_ms: Option<f64>,
    speculation: Option<Speculation>,
    /// Prompt tokens read so far.
    n_read: u64,
    totals: Totals,
    /// The oldest first.
    flights: Vec<Flight>,
    batch: Batch,
    logits: Vec<f32>,
}

/// Default of [`Engine::set_step_target`]: 20 tokens a second, faster than one reads, and steps large enough for
/// prefill to be efficient on a laptop.
const STEP_TARGET_MS: f64 = 50.0;

impl Engine {
    /// Loads a model from its files into `backend`. `clock` gives milliseconds; the core has no clock of its own.
    ///
    /// # Errors
    /// See [`Gguf::read`], [`Tokenizer::from_gguf`] and [`Model::load`].
    pub async fn load(
        mut sources: Vec<Box<dyn Source>>,
        backend: Box<dyn Backend>,
        options: &ModelOptions,
        clock: fn() -> f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine> {
        let gguf = Gguf::read(&mut sources).await?;
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata)?;
        let model = Model::load(&gguf, &mut sources, backend, options, progress).await?;
        if tokenizer.n_vocab() > model.config().n_vocab {
            return Err(Error::bad_file(format!(
                "{} tokens, but embeddings for {}",
                tokenizer.n_vocab(),
                model.config().n_vocab
            )));
        }
        Ok(Engine {
            cost: Cost::of(model.config()),
            model,
            tokenizer,
            gguf,
            options: options.clone(),
            clock,
            next_id: 0,
            waiting: Vec::new(),
            running: Vec::new(),
            reports: Vec::new(),
            prefixes: Prefixes::new(),
            pace: Pace::new(STEP_TARGET_MS),
            prefill: Prefill::Exact,
            behind_ms: None,
            speculation: None,
            n_read: 0,
            totals: Totals::default(),
            flights: Vec::new(),
            batch: Batch::new(),
            logits: Vec::new(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file's header.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, to run batches of one's own while no request is under way; sequences of the engine are not to be touched.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Tokens of a prompt: `text` behind BOS where the model wants one. Control tokens are recognised with
    /// `parse_special`; a chat template writes some models' BOS itself, and it is not doubled then.
    pub fn prompt(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut tokens = self.tokenizer.encode(text, parse_special);
        if let Some(bos) = self.tokenizer.add_bos().filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        tokens
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for empty prompts and values out of range, [`crate::Kind::PromptTooLong`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let n_vocab = self.model.config().n_vocab;
        request.params.check(n_vocab)?;
        if let Some(token) = request.prompt.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(Error::invalid_request(format!("token {token} is not in the vocabulary of {n_vocab}")));
        }
        self.check_prefill(request.prefill.unwrap_or_default())?;
        if request.prompt.is_empty() || request.max_tokens == Some(0) {
            return Err(Error::invalid_request("the prompt is empty, or max_tokens is 0: there is nothing to do"));
        }
        let kv = self.model.kv();
        let room = self.model.context_length().min(kv.shape().n_blocks * BLOCK);
        if request.prompt.len() >= room {
            return Err(Error::prompt_too_long(format!(
                "the prompt has {} tokens, but the context holds {room} with the answer; shorten it or raise the context",
                request.prompt.len()
            )));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.enqueue(Running::new(id, request, room, self.n_read, (self.clock)()));
        Ok(id)
    }

    /// Ends a request and frees its memory; the next [`Engine::step`] reports it.
    pub fn cancel(&mut self, id: RequestId) {
        let kv = self.model.kv_mut();
        for mut over in self.running.extract_if(.., |r| r.id == id).chain(self.waiting.extract_if(.., |r| r.id == id)) {
            kv.free(over.seq);
            over.stop_guessing(self.speculation.as_mut());
            over.finish = Some(FinishReason::Cancelled);
            self.reports.extend(over.over());
        }
    }

    /// Whether there is nothing to do and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.reports.is_empty()
    }

    /// Forgets the beginnings of finished answers.
    pub fn clear_cache(&mut self) {
        while self.prefixes.evict(self.model.kv_mut()) {}
    }

    /// How long a step may take, in milliseconds, while answers are being written: prompts of others are read in pieces
    /// that keep to it. Infinite for the highest throughput.
    pub fn set_step_target(&mut self, milliseconds: f64) {
        self.pace.set_target_ms(milliseconds);
    }

    /// Adds a sidecar, with which prompts can be read by prediction. Returns whether it was made for this very quantization
    /// of the model; for another one the prediction is a little worse. Requests under way are read again.
    ///
    /// # Errors
    /// See [`Gguf::read`] and [`Model::add_sidecar`]; the engine goes on without then.
    pub async fn add_sidecar(&mut self, mut sources: Vec<Box<dyn Source>>) -> Result<bool> {
        let gguf = Gguf::read(&mut sources).await?;
        // Nothing is known of its layers' keys and values of what was read before.
        self.forget_all();
        self.model.add_sidecar(&gguf, &mut sources).await
    }

    /// How prompts are read whose request says nothing about it; see [`crate::predict`].
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] without a sidecar, where one is needed.
    pub fn set_prefill(&mut self, prefill: Prefill) -> Result<()> {
        self.check_prefill(prefill)?;
        self.prefill = prefill;
        Ok(())
    }

    fn check_prefill(&self, prefill: Prefill) -> Result<()> {
        if matches!(prefill, Prefill::Fast | Prefill::Progressive) && self.model.trunk().is_none() {
            return Err(Error::invalid_request(
                "fast and progressive prefill need a sidecar of this model; give one, or take auto or exact",
            ));
        }
        Ok(())
    }

    /// Whether cache entries of a request under way are predicted ones in part; `false` for one that is over.
    pub fn is_predicted(&self, id: RequestId) -> bool {
        self.running.iter().any(|r| r.id == id && r.reading.is_some())
    }

    /// Lets a drafter guess what comes next in every answer. Answers stay the same, or as probable as before where they are
    /// drawn; see [`crate::speculate`].
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for a tree without nodes or with more than a batch holds.
    pub fn speculate(&mut self, drafter: Box<dyn Drafter>, mode: Mode) -> Result<()> {
        self.speculation = Some(Speculation::new(drafter, mode, self.model.max_batch(), self.clock)?);
        Ok(())
    }

    /// The speculation, to be taken away (for plain decoding), brought back, or changed.
    pub fn speculation_mut(&mut self) -> &mut Option<Speculation> {
        &mut self.speculation
    }

    /// What was done since the last call.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// One forward for everything under way, or the one that was sent ahead; appends what happened to `events`.
    ///
    /// # Errors
    /// Only a lost device. The cache is empty then, and requests wait for [`Engine::restore`].
    pub async fn step(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let started = (self.clock)();
        events.append(&mut self.reports);
        match self.step_ahead(events).await {
            Ok(None) => {}
            Ok(Some(rows)) => {
                self.finish(events);
                let elapsed = (self.clock)() - started;
                self.totals.step_ms += elapsed;
                self.pace.observe(false, rows, elapsed);
                return Ok(());
            }
            Err(error) => return self.fail(error, events),
        }
        self.admit();
        // Steps with forwards of another kind say nothing about those of this one.
        let plain = self.running.iter().all(|r| r.reading.is_none());
        if let Err(error) = self.read_behind().await {
            return self.fail(error, events);
        }
        let guessing = (self.clock)();
        self.guess().await;
        self.totals.guess_ms += (self.clock)() - guessing;
        let work = self.fill();
        self.totals.schedule_ms += (self.clock)() - started;
        if let Err(error) = self.run_batch(&work, events).await {
            return self.fail(error, events);
        }
        if let Err(error) = self.read_ahead(work.rows, events).await {
            return self.fail(error, events);
        }
        self.finish(events);
        let elapsed = (self.clock)() - started;
        self.totals.step_ms += elapsed;
        if plain && work.rows > 0.0 {
            self.pace.observe(work.reading, work.rows, elapsed);
        }
        Ok(())
    }

    /// The forward of the batch, and what requests make of it.
    async fn run_batch(&mut self, work: &Work, events: &mut Vec<Event>) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let asked = (self.clock)();
        let form = self.forward().await?;
        self.count_step();
        let now = (self.clock)();
        if let Some(speculation) = self.speculation.as_mut().filter(|_| !work.reading) {
            speculation.measured(self.batch.len(), now - asked);
        }
        for (running, outputs) in outputs::shares(&mut self.running, form.of(&self.logits)) {
            let speculation = self.speculation.as_mut();
            running.take((&mut self.model, &self.tokenizer), speculation, outputs, now, events)?;
        }
        Ok(())
    }

    /// Counts the batch's forward.
    fn count_step(&mut self) {
        self.totals.steps += 1;
        self.totals.rows += self.batch.len();
        self.totals.widest = self.totals.widest.max(self.batch.len());
        let kv = self.model.kv();
        self.totals.most_blocks = self.totals.most_blocks.max(kv.shape().n_blocks - kv.free_blocks());
    }

    /// Reports finished answers and keeps their cache for later requests.
    fn finish(&mut self, events: &mut Vec<Event>) {
        let kv = self.model.kv_mut();
        for mut over in self.running.extract_if(.., |r| r.finish.is_some()) {
            over.stop_guessing(self.speculation.as_mut());
            events.extend(over.over());
            self.prefixes.insert(kv, over.seq, &over.tokens()[..kv.len(over.seq).min(over.exact())]);
            kv.free(over.seq);
        }
    }

    /// Ends the requests of a batch that failed. Where the device is of no more use none of them: what they need is on the
    /// host.
    fn fail(&mut self, error: Error, events: &mut Vec<Event>) -> Result<()> {
        // Some may have ended earlier in this step.
        self.finish(events);
        self.flights.clear();
        if matches!(error.kind(), crate::Kind::DeviceLost | crate::Kind::DeviceFault) {
            self.forget_all();
            return Err(error);
        }
        let kv = self.model.kv_mut();
        for mut failed in self.running.extract_if(.., |r| r.offer.rows > 0) {
            kv.free(failed.seq);
            failed.stop_guessing(self.speculation.as_mut());
            events.push(Event::Failed(failed.id, Error::new(error.kind(), error.to_string())));
        }
        Ok(())
    }

    /// Gives the whole cache up; requests under way are read again.
    fn forget_all(&mut self) {
        self.flights.clear();
        while let Some(running) = self.running.pop() {
            self.preempt(running);
        }
        self.clear_cache();
    }

    /// Loads the model into another backend, after [`Engine::step`] has reported [`crate::Kind::DeviceLost`] or
    /// [`crate::Kind::DeviceFault`]. Requests under way go on:
    /// their prompts and what has been answered are read again. A sidecar has to be added again, too.
    ///
    /// # Errors
    /// See [`Model::load`]; requests still wait then, and another backend may be tried.
    pub async fn restore(
        &mut self,
        mut sources: Vec<Box<dyn Source>>,
        backend: Box<dyn Backend>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.model = Model::load(&self.gguf, &mut sources, backend, &self.options, progress).await?;
        Ok(())
    }
}

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
mod beside;
mod circles;
mod early;
mod embed;
mod forward;
pub mod openai;
mod outputs;
mod overflow;
mod prefixes;
mod request;
mod running;
mod saved;
mod schedule;
mod stream;
mod task;

pub use overflow::Overflow;
pub use request::{Against, Done, Event, FinishReason, Request, RequestId, TokenEvent, Totals, Usage};
pub use saved::Saved;

use crate::backend::{BLOCK, Backend, MemoryUse};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::model::predict::Prefill;
use crate::model::{Model, ModelOptions, Progress};
use crate::prefill::{Cost, Pace};
use crate::speculate::draft::Drafter;
use crate::speculate::{Mode, Speculation};
use crate::tokenizer::Tokenizer;
use ahead::SentStep;
use prefixes::Prefixes;
use running::Running;
use schedule::Work;
use std::sync::Arc;
use task::Task;

/// A model that answers requests.
pub struct Engine {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    gguf: Gguf,
    /// Milliseconds from any fixed moment.
    clock: fn() -> f64,
    next_id: u64,
    /// In the order of their turns.
    waiting: Vec<Task>,
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
    /// Steps on their way, the oldest first.
    sent: Vec<SentStep>,
    /// Whether texts wait to be embedded: no step is sent ahead then, as they are read between steps.
    texts_wait: bool,
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
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf.metadata)?);
        let model = Model::load(&gguf, sources, backend, options, progress).await?;
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
            sent: Vec::new(),
            texts_wait: false,
            batch: Batch::new(),
            logits: Vec::new(),
        })
    }

    /// The tokenizer; others may share it.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
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

    /// Bytes held: the backend's, and the logits that were read of it.
    pub fn memory(&self) -> MemoryUse {
        let mut memory = self.model.backend().memory();
        memory.buffers += self.logits.capacity() * size_of::<f32>();
        memory
    }

    /// The model, to run batches of one's own while no request is under way; sequences of the engine are not to be touched.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// See [`Tokenizer::prompt`].
    pub fn prompt(&self, text: &str, parse_special: bool) -> Vec<u32> {
        self.tokenizer.prompt(text, parse_special)
    }

    /// Most tokens of a prompt and its answer: the context, where the KV cache may become so large.
    pub fn room(&self) -> usize {
        self.model.context_length().min(self.model.kv().spec().n_blocks * BLOCK)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for empty prompts and values out of range, [`crate::Kind::PromptTooLong`].
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId> {
        self.check_writes()?;
        let n_vocab = self.model.config().n_vocab;
        request.params.check(n_vocab)?;
        let others = request.against.iter().flat_map(|against| &against.prompt).map(|token| (token, "contrast"));
        let mut tokens = request.prompt.iter().map(|token| (token, "prompt")).chain(others);
        if let Some((token, field)) = tokens.find(|(token, _)| **token as usize >= n_vocab) {
            let message = format!("token {token} of the {field} is not in the vocabulary of {n_vocab}");
            return Err(Error::invalid_request(message).in_field(field));
        }
        self.check_prefill(request.prefill.unwrap_or_default())?;
        if request.prompt.is_empty() {
            return Err(
                Error::invalid_request("the prompt is empty: there is nothing to go on with").in_field("prompt")
            );
        }
        if request.max_tokens == Some(0) {
            return Err(Error::invalid_request("max_tokens is 0: there is nothing to do").in_field("max_tokens"));
        }
        let mut room = self.room();
        if request.prompt.len() >= room {
            let more =
                if room < self.model.context_length() { "more memory for its KV cache" } else { "a longer context" };
            return Err(Error::prompt_too_long(format!(
                "the prompt has {} tokens, but the context holds {room} with the answer; shorten it, begin a new chat, or load \
                 the model with {more}",
                request.prompt.len()
            )));
        }
        request.against.iter().try_for_each(|against| against.contrast.check())?;
        request.against.take_if(|against| against.contrast.weight == 0.0);
        if let Some(against) = &request.against {
            if matches!(request.prefill, Some(Prefill::Fast | Prefill::Progressive)) {
                let message = "contrast: prompts that are contrasted are read exactly; leave prefill out";
                return Err(Error::invalid_request(message).in_field("contrast"));
            }
            room = beside::room(&request.prompt, against, room, self.model.kv().spec())?;
        }
        let id = self.new_id();
        self.enqueue(Task::new(id, request, room, self.n_read, (self.clock)()));
        Ok(id)
    }

    /// Names a request.
    fn new_id(&mut self) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Ends a request and frees its memory; the next [`Engine::step`] reports it.
    pub fn cancel(&mut self, id: RequestId) {
        let kv = self.model.kv_mut();
        let running = self.running.extract_if(.., |r| r.task.id == id).map(|r| {
            r.texts().for_each(|(seq, _)| kv.free(seq));
            r.task
        });
        for mut task in running.chain(self.waiting.extract_if(.., |task| task.id == id)) {
            task.stop_guessing(self.speculation.as_mut());
            task.finish = Some(Ok(FinishReason::Cancelled));
            self.reports.extend(task.over());
        }
    }

    /// Whether there is nothing to do and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.reports.is_empty()
    }

    /// Forgets the beginnings of finished answers; memory that nobody needs then is given back.
    pub fn clear_cache(&mut self) {
        self.prefixes.clear(self.model.kv_mut());
        self.model.shrink_cache();
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
        let same = self.model.add_sidecar(&gguf, &mut sources).await?;
        self.speculation.iter_mut().for_each(Speculation::retry);
        Ok(same)
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
            )
            .in_field("prefill"));
        }
        Ok(())
    }

    /// Whether cache entries of a request under way are predicted ones in part; `false` for one that is over.
    pub fn is_predicted(&self, id: RequestId) -> bool {
        self.running.iter().any(|r| r.task.id == id && r.reading.is_some())
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

    /// The speculation, if there is one: what it has learnt, and why its drafter failed.
    pub fn speculation(&self) -> Option<&Speculation> {
        self.speculation.as_ref()
    }

    /// The speculation, to be taken away (for plain decoding), brought back, or changed. What a drafter keeps of requests that
    /// ended without it is freed in the next step.
    pub fn speculation_mut(&mut self) -> &mut Option<Speculation> {
        &mut self.speculation
    }

    /// What was done since the last call.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// One forward for everything under way, or the one that was sent ahead; appends what happened to `events`.
    ///
    /// The future may be dropped before it is ready. What it had put into `events` stays there, and the next step does again what
    /// was not done: requests lose nothing, and greedy answers stay the same.
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
        // At once: an answer that is over is not to be run again where the caller drops this step, and its memory is of use.
        self.finish(events);
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
        for (running, outputs) in forward::shares(&mut self.running, form.of(&self.logits)) {
            let speculation = self.speculation.as_mut();
            running.take((&mut self.model, &self.tokenizer), speculation, outputs, now, events)?;
        }
        self.keep_states()
    }

    /// Counts the batch's forward.
    fn count_step(&mut self) {
        self.totals.steps += 1;
        self.totals.rows += self.batch.len();
        self.totals.widest = self.totals.widest.max(self.batch.len());
        let kv = self.model.kv();
        self.totals.most_blocks = self.totals.most_blocks.max(kv.spec().n_blocks - kv.free_blocks());
    }

    /// Reports finished answers and keeps their cache for later requests.
    fn finish(&mut self, events: &mut Vec<Event>) {
        let kv = self.model.kv_mut();
        for mut over in self.running.extract_if(.., |r| r.task.finish.is_some()) {
            over.task.stop_guessing(self.speculation.as_mut());
            events.extend(over.task.over());
            over.texts().for_each(|(seq, text)| self.prefixes.take(kv, seq, text));
        }
        self.model.shrink_cache();
    }

    /// Ends the requests of a batch that failed. Where the device is of no more use none of them: what they need is on the
    /// host.
    fn fail(&mut self, error: Error, events: &mut Vec<Event>) -> Result<()> {
        // Some may have ended earlier in this step.
        self.finish(events);
        self.sent.clear();
        if matches!(error.kind(), crate::Kind::DeviceLost | crate::Kind::DeviceFault) {
            self.forget_all();
            return Err(error);
        }
        let kv = self.model.kv_mut();
        for mut failed in self.running.extract_if(.., |r| r.share.rows > 0) {
            failed.texts().for_each(|(seq, _)| kv.free(seq));
            failed.task.stop_guessing(self.speculation.as_mut());
            events.push(Event::Failed(failed.task.id, error.clone()));
        }
        if self.model.kv().spec().has_states() {
            // The forward moves on the states of earlier ones first, also of requests that are not in its batch; nobody knows of
            // which it did.
            self.forget_all();
        } else if error.kind() == crate::Kind::OutOfMemory {
            // So that the next ones find room where the cache cannot grow.
            self.clear_cache();
        }
        Ok(())
    }

    /// Gives the whole cache up; requests under way are read again.
    fn forget_all(&mut self) {
        self.sent.clear();
        while let Some(running) = self.running.pop() {
            self.preempt(running);
        }
        self.clear_cache();
    }

    /// Loads the model into another backend, after [`Engine::step`] has reported [`crate::Kind::DeviceLost`] or
    /// [`crate::Kind::DeviceFault`]. Requests under way go on: their prompts and what has been answered are read again. A sidecar
    /// has to be added again, too. The old backend is dropped before anything is loaded, so memory never holds the model twice.
    ///
    /// # Errors
    /// See [`Model::load`]; requests still wait then, steps report [`crate::Kind::DeviceLost`], and another backend may be tried.
    pub async fn restore(
        &mut self,
        sources: Vec<Box<dyn Source>>,
        backend: Box<dyn Backend>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.forget_all();
        self.model.reload(&self.gguf, sources, backend, progress).await?;
        self.speculation.iter_mut().for_each(Speculation::retry);
        Ok(())
    }
}

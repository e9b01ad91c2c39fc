//! Requests to answers: any number of them over one model.
//!
//! [`Engine::step`] runs one forward for everything that is under way: first a token for every answer that is being
//! written, then pieces of prompts that are being read, up to the batch size. So a long prompt does not stop the answers of
//! others. A request is admitted when the cache can hold its prompt and its whole answer; until then it waits.
//!
//! Sequences of finished answers stay in the cache until their memory is needed. A new request forks the one with which
//! it shares the longest beginning: the second turn of a chat reads only what is new.

pub mod openai;
mod request;
mod running;
mod stream;

pub use request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Usage};

use crate::backend::{BLOCK, Backend};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::model::{Model, ModelOptions, Progress};
use crate::tokenizer::Tokenizer;
use running::Running;
use std::collections::VecDeque;

/// A model that answers requests.
pub struct Engine {
    model: Model,
    tokenizer: Tokenizer,
    gguf: Gguf,
    /// Milliseconds from any fixed moment.
    clock: fn() -> f64,
    next_id: u64,
    waiting: VecDeque<Running>,
    running: Vec<Running>,
    /// Finished sequences and their tokens, the least recently used first.
    cached: VecDeque<(SeqId, Vec<u32>)>,
    batch: Batch,
    logits: Vec<f32>,
}

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
            model,
            tokenizer,
            gguf,
            clock,
            next_id: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            cached: VecDeque::new(),
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

    /// The model, to run batches of one's own; sequences of the engine are not to be touched.
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
        self.waiting.push_back(Running::new(id, request, room, (self.clock)()));
        Ok(id)
    }

    /// Ends a request; [`Engine::step`] reports it, and its memory is free at once.
    pub fn cancel(&mut self, id: RequestId) {
        for running in self.waiting.iter_mut().chain(&mut self.running).filter(|r| r.id == id) {
            running.finish = Some(FinishReason::Cancelled);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Forgets finished sequences.
    pub fn clear_cache(&mut self) {
        while self.evict() {}
    }

    /// One forward for everything under way; appends what happened to `events`.
    ///
    /// # Errors
    /// Only what ends all requests: a lost device. They have failed then, and the cache is empty.
    pub async fn step(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.sweep(events);
        self.admit(events);
        self.batch.clear();
        self.fill_batch();
        if self.batch.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.model.forward(&self.batch, &mut self.logits).await {
            self.fail_all(&error, events);
            return Err(error);
        }
        let now = (self.clock)();
        let mut rows = self.logits.chunks_exact(self.model.config().n_vocab);
        for running in self.running.iter_mut().filter(|r| r.in_batch > 0) {
            self.model.kv_mut().commit_run(running.seq)?;
            if running.advance()
                && let Some(logits) = rows.next()
            {
                running.choose(&self.tokenizer, logits, now, events);
            }
        }
        self.sweep(events);
        Ok(())
    }

    /// Puts this step's tokens into the batch: answers first, then prompts in the order of their requests.
    fn fill_batch(&mut self) {
        self.running.iter_mut().for_each(|r| r.in_batch = 0);
        let mut budget = self.model.max_batch();
        // Outputs come in row order, so both passes fill rows in the order of `running`: writing answers before reading
        // ones.
        self.running.sort_by_key(|r| (r.is_reading(), r.id));
        for running in &mut self.running {
            let pending = running.pending();
            let n = pending.len().min(budget);
            if n > 0 {
                self.batch.push_run(running.seq, &pending[..n], n == pending.len());
                running.in_batch = n;
                budget -= n;
            }
        }
    }

    /// Moves waiting requests to the running ones while the cache can hold them to their end.
    fn admit(&mut self, events: &mut Vec<Event>) {
        while let Some(mut next) = self.waiting.pop_front() {
            let promised: usize = self.running.iter().map(|r| r.blocks_to_come(self.model.kv())).sum();
            // One more for the shared block that is copied when the new sequence writes to it.
            let needed = promised + next.most_tokens().div_ceil(BLOCK) + 1;
            while self.model.kv().free_blocks() < needed && self.evict_but(&next.request.prompt) {}
            if self.model.kv().free_blocks() < needed && !self.running.is_empty() {
                return self.waiting.push_front(next);
            }
            match self.begin(&mut next) {
                Ok(()) => self.running.push(next),
                Err(error) => events.push(Event::Failed(next.id, error)),
            }
        }
    }

    /// Gives a request its sequence: a fork of the cached one that shares most with it.
    fn begin(&mut self, next: &mut Running) -> Result<()> {
        let Some((shared, index)) = self.longest_prefix(&next.request.prompt) else {
            next.begin(self.model.kv_mut().new_seq(), 0);
            return Ok(());
        };
        if let Some(used) = self.cached.remove(index) {
            next.begin(self.model.kv_mut().fork(used.0, shared)?, shared);
            self.cached.push_back(used);
        }
        Ok(())
    }

    /// The cached sequence that shares the longest beginning with a prompt: `(tokens, index)`. The last token of a prompt
    /// is always read, for its logits.
    fn longest_prefix(&self, prompt: &[u32]) -> Option<(usize, usize)> {
        let shared =
            |tokens: &[u32]| tokens.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        let best = self.cached.iter().enumerate().map(|(i, (_, tokens))| (shared(tokens), i)).max_by_key(|(n, _)| *n);
        best.filter(|(n, _)| *n > 0)
    }

    /// Frees the least recently used cached sequence; `false` when there is none.
    fn evict(&mut self) -> bool {
        match self.cached.pop_front() {
            Some((seq, _)) => {
                self.model.kv_mut().free(seq);
                true
            }
            None => false,
        }
    }

    /// The same, but the one that `prompt` could use goes last.
    fn evict_but(&mut self, prompt: &[u32]) -> bool {
        let keep = self.longest_prefix(prompt).map(|(_, i)| i);
        match (0..self.cached.len()).find(|i| Some(*i) != keep).and_then(|i| self.cached.remove(i)) {
            Some((seq, _)) => {
                self.model.kv_mut().free(seq);
                true
            }
            None => self.evict(),
        }
    }

    /// Reports finished requests and keeps their sequences for later ones.
    fn sweep(&mut self, events: &mut Vec<Event>) {
        for over in &mut self.waiting {
            events.extend(over.done());
        }
        self.waiting.retain(|r| r.finish.is_none());
        let kv = self.model.kv_mut();
        for mut over in self.running.extract_if(.., |r| r.finish.is_some()) {
            events.extend(over.done());
            if over.finish == Some(FinishReason::Cancelled) {
                kv.free(over.seq);
            } else {
                let len = kv.len(over.seq);
                self.cached.push_back((over.seq, over.into_tokens(len)));
            }
        }
    }

    /// Ends everything after a failure of the device.
    fn fail_all(&mut self, error: &Error, events: &mut Vec<Event>) {
        for running in self.running.drain(..) {
            self.model.kv_mut().free(running.seq);
            events.push(Event::Failed(running.id, Error::new(error.kind(), error.to_string())));
        }
        for waiting in self.waiting.drain(..) {
            events.push(Event::Failed(waiting.id, Error::new(error.kind(), error.to_string())));
        }
        self.clear_cache();
    }
}

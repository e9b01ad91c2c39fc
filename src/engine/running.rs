//! A request under way.

use super::outputs::Outputs;
use super::request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Usage};
use super::stream::TextStream;
use crate::batch::{Batch, BatchToken, SeqId};
use crate::error::Result;
use crate::kv::KvCache;
use crate::model::Model;
use crate::predict::Reading;
use crate::prefill::Turn;
use crate::sample::{Logits, Sampler, Wish, log_probabilities};
use crate::speculate::verify::{Choice, choose};
use crate::speculate::{Probs, Speculation, Subject, Tree};
use crate::tokenizer::Tokenizer;

pub(super) struct Running {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) seq: SeqId,
    /// Set once the answer is over.
    pub(super) finish: Option<FinishReason>,
    pub(super) turn: Turn,
    /// What the request put into this step's batch.
    pub(super) offer: Offer,
    /// Guesses below the last token, for this step's batch.
    tree: Tree,
    /// Another request that is reading a beginning which this one shares, and how long that is; until then this one waits.
    pub(super) follows: Option<(RequestId, usize)>,
    /// Set while the prompt's entries are predicted ones, in part.
    pub(super) reading: Option<Reading>,
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// Tokens in the cache.
    done: usize,
    /// Most tokens of prompt and answer.
    limit: usize,
    sampler: Sampler,
    stream: TextStream,
    usage: Usage,
    submitted: f64,
    first: f64,
}

/// Rows of a batch, and how many of them give logits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offer {
    /// The first of its rows.
    pub(super) first: u32,
    pub(super) rows: usize,
    pub(super) outputs: usize,
}

/// Tokens of an answer that must find room in the cache when its request is admitted; for the rest, requests compete.
const LOOKAHEAD: usize = 64;

impl Running {
    /// `room` is what the context holds, `n_read` the number of prompt tokens that the engine has read so far.
    pub(super) fn new(id: RequestId, mut request: Request, room: usize, n_read: u64, now: f64) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        let mut sampler = Sampler::new(request.params.clone());
        tokens.iter().for_each(|&t| sampler.accept(t));
        let stop = std::mem::take(&mut request.stop).into_iter().filter(|s| !s.is_empty()).collect();
        Running {
            id,
            seq: SeqId(u32::MAX),
            finish: None,
            turn: Turn::new(request.priority, n_read, tokens.len(), id.0),
            offer: Offer::default(),
            tree: Tree::default(),
            follows: None,
            reading: None,
            done: 0,
            limit: request.max_tokens.map_or(room, |n| tokens.len().saturating_add(n).min(room)),
            sampler,
            stream: TextStream::new(stop),
            usage: Usage { prompt_tokens: tokens.len(), ..Usage::default() },
            submitted: now,
            first: now,
            request,
            tokens,
        }
    }

    /// Starts in `seq`, behind `shared` tokens that are in the cache.
    pub(super) fn begin(&mut self, seq: SeqId, shared: usize) {
        self.seq = seq;
        self.done = shared;
        self.follows = None;
        if self.usage.completion_tokens == 0 {
            self.usage.cached_tokens = shared;
        }
    }

    /// Prompt and answer so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens in the cache.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Whether more than the last token of an answer is not in the cache yet.
    pub(super) fn is_reading(&self) -> bool {
        self.pending() > 1 || self.usage.completion_tokens == 0 || self.reads_ahead()
    }

    /// Whether the prompt is being read by prediction, and no word of the answer came of it yet.
    pub(super) fn reads_ahead(&self) -> bool {
        self.reading.as_ref().is_some_and(|r| !r.begun)
    }

    /// Leading tokens whose cache entries are those of the whole model; only they may be shared.
    pub(super) fn exact(&self) -> usize {
        self.reading.as_ref().map_or(self.done, |r| r.exact.min(self.done))
    }

    /// Puts `n` rows into a batch for the trunk.
    pub(super) fn put_early(&mut self, n: usize, batch: &mut Batch) {
        self.offer = Offer { first: batch.len() as u32, rows: n, outputs: 0 };
        batch.push_run(self.seq, &self.tokens[self.done..][..n], false);
    }

    /// Keeps what the trunk made of [`Running::put_early`].
    pub(super) fn keep_streams(&mut self, streams: &[f32]) {
        self.done += self.offer.rows;
        if let Some(reading) = &mut self.reading {
            reading.streams.extend_from_slice(streams);
        }
    }

    /// Chooses the first word after the tail.
    pub(super) fn take_early(&mut self, tokenizer: &Tokenizer, logits: Logits<'_>, now: f64, events: &mut Vec<Event>) {
        if let Some(reading) = &mut self.reading {
            reading.begin();
            self.usage.predicted_tokens = reading.tokens.len() - reading.ends().map(|e| e.len()).iter().sum::<usize>();
            if !reading.progressive {
                reading.streams = Vec::new();
            }
        }
        self.choose(tokenizer, logits, now, events);
    }

    /// Notes that entries up to `end` have been made exact; when all are, the request is like any other.
    pub(super) fn made_exact(&mut self, end: usize) {
        if let Some(reading) = &mut self.reading {
            reading.exact = reading.exact.max(end);
            if reading.exact >= self.done {
                self.reading = None;
            }
        }
    }

    /// Number of tokens that are not in the cache yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.done
    }

    /// Tokens that the request may have in the cache before others are asked to make room.
    pub(super) fn promised(&self) -> usize {
        self.limit.min(self.tokens.len() + LOOKAHEAD)
    }

    /// Blocks that were promised to this request and that it does not hold yet.
    pub(super) fn blocks_to_come(&self, kv: &KvCache) -> usize {
        kv.blocks_needed(self.seq, self.promised().saturating_sub(kv.len(self.seq))).unwrap_or(0)
    }

    /// This request as something to guess for. `rows` and `room` as in [`Subject`].
    pub(super) fn subject(&mut self, rows: usize, room: usize) -> Subject<'_> {
        // A round emits at most one token more than the tree is deep, however many guesses it has.
        let levels = self.limit.saturating_sub(self.tokens.len() + 1);
        let (request, seq, text, sampler) = (self.id.0, self.seq, &self.tokens[..], &mut self.sampler);
        Subject { request, seq, text, sampler, rows, room, levels }
    }

    /// Tells the drafter that the answer is over.
    pub(super) fn stop_guessing(&mut self, speculation: Option<&mut Speculation>) {
        if let Some(speculation) = speculation {
            self.usage.drafter_failed = speculation.failed(self.id.0);
            speculation.end(self.id.0);
        }
    }

    /// Whether guesses are of use now: not while the prompt is read, nor where the request wants none.
    pub(super) fn may_guess(&self) -> bool {
        !self.is_reading() && !self.request.plain
    }

    /// Sets the guesses of the next [`Running::put`].
    pub(super) fn set_guesses(&mut self, tree: Tree) {
        self.tree = tree;
    }

    /// Number of guesses.
    pub(super) fn guesses(&self) -> usize {
        self.tree.nodes().len()
    }

    /// Puts up to `n` rows into a batch. Here, and only here, it is decided what a request asks of a forward.
    pub(super) fn put(&mut self, n: usize, dim: usize, batch: &mut Batch) {
        let first = batch.len() as u32;
        if self.guesses() > 0 && self.pending() == 1 && n > self.guesses() {
            self.offer = Offer { first, rows: 1 + self.guesses(), outputs: 1 + self.guesses() };
            return self.put_tree(dim, batch);
        }
        self.tree = Tree::default();
        let n = n.min(self.pending());
        let whole = n > 0 && n == self.pending();
        if n > 0 {
            batch.push_run(self.seq, &self.tokens[self.done..][..n], whole);
        }
        self.offer = Offer { first, rows: n, outputs: usize::from(whole) };
    }

    /// Puts the one row of an answer that is being written; `token` as [`crate::model::Model::send_greedy`] takes it.
    pub(super) fn put_one(&mut self, token: u32, batch: &mut Batch) {
        let first = batch.push(BatchToken { token, seq: self.seq, parent: None, output: true });
        self.offer = Offer { first, rows: 1, outputs: 1 };
    }

    /// Whether an answer is being written whose tokens are always the most probable ones.
    pub(super) fn is_greedy(&self) -> bool {
        let only = Wish { n: 1, sum: false, sure: true };
        !self.is_reading() && self.reading.is_none() && self.wish(1) == Some(only)
    }

    /// Whether the answer may have so many tokens more.
    pub(super) fn has_room_for(&self, n: usize) -> bool {
        self.tokens.len() + n <= self.limit
    }

    /// The last token and the guesses below it in the order of slots, with logits of all of them.
    fn put_tree(&self, dim: usize, batch: &mut Batch) {
        let (seq, first) = (self.seq, self.offer.first);
        let mut push = |token, parent| batch.push(BatchToken { token, seq, parent, output: true });
        push(self.tokens[self.done], None);
        for guess in self.tree.nodes() {
            push(guess.token, Some(first + guess.slot as u32));
        }
        batch.resume(first, self.tree.streams(), dim);
    }

    /// What [`Running::take`] needs of the logits of its outputs, when at most `most` of the largest are to be had; `None`:
    /// all of them.
    pub(super) fn wish(&self, most: usize) -> Option<Wish> {
        let wish = self.sampler.wish(self.guesses(), most)?;
        let n = wish.n.max(self.request.logprobs.unwrap_or(0));
        // Which rows of a tree count is found out on the way.
        let usable = n <= most && (wish.sure || self.tree.is_empty());
        usable.then_some(Wish { n, sum: wish.sum || self.request.logprobs.is_some(), ..wish })
    }

    /// Whether tokens can be chosen from these outputs.
    pub(super) fn suffices(&mut self, outputs: Outputs<'_>) -> bool {
        (0..self.offer.outputs).all(|i| match outputs.row(i) {
            Logits::Top(top) if self.tree.is_empty() => self.sampler.suffices(top),
            _ => true,
        })
    }

    /// Takes what the forward made of [`Running::put`]: keeps rows in the cache and chooses tokens. `outputs` are those of
    /// the offer.
    ///
    /// # Errors
    /// Never for a sequence that was in the batch.
    pub(super) fn take(
        &mut self,
        (model, tokenizer): (&mut Model, &Tokenizer),
        speculation: Option<&mut Speculation>,
        outputs: Outputs<'_>,
        now: f64,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        if let Some(speculation) = speculation
            && !self.tree.is_empty()
        {
            let rows = self.verify(tokenizer, speculation, outputs, now, events);
            self.done += rows.len();
            return model.commit(self.seq, &rows);
        }
        self.commit(model.kv_mut())?;
        if self.offer.outputs > 0 {
            self.choose(tokenizer, outputs.row(0), now, events);
        }
        Ok(())
    }

    /// Keeps what was planned in the cache; a second time this changes nothing.
    ///
    /// # Errors
    /// Never for a sequence that exists.
    pub(super) fn commit(&mut self, kv: &mut KvCache) -> Result<()> {
        kv.commit_run(self.seq)?;
        self.done = kv.len(self.seq);
        Ok(())
    }

    /// Chooses the next token of the answer.
    pub(super) fn choose(&mut self, tokenizer: &Tokenizer, logits: Logits<'_>, now: f64, events: &mut Vec<Event>) {
        self.usage.forwards += 1;
        let token = self.sampler.sample(logits);
        self.emit(tokenizer, (token, false), logits, now, events);
    }

    /// Walks down the tree from its root, emitting tokens; returns the rows that are kept.
    fn verify(
        &mut self,
        tokenizer: &Tokenizer,
        speculation: &mut Speculation,
        outputs: Outputs<'_>,
        now: f64,
        events: &mut Vec<Event>,
    ) -> Vec<u32> {
        self.usage.forwards += 1;
        let tree = std::mem::take(&mut self.tree);
        let (mut path, mut rows) = (vec![0], vec![self.offer.first]);
        let mut slot = 0;
        loop {
            let logits = outputs.row(slot);
            let target = Probs::of(self.sampler.distribution(logits));
            let children: Vec<usize> = tree.children(slot).collect();
            let drawn: Vec<u32> = children.iter().map(|&c| tree.nodes()[c].token).collect();
            let replaces = speculation.replaces();
            let choice = choose(target, tree.law(slot), &drawn, replaces, &mut || self.sampler.unit());
            let Choice::Accepted(k) = choice else {
                if let Choice::Emitted(token) = choice {
                    self.emit(tokenizer, (token, false), logits, now, events);
                }
                break;
            };
            slot = children[k] + 1;
            path.push(slot);
            let known = self.tokens.len();
            self.emit(tokenizer, (drawn[k], true), logits, now, events);
            // A token that ends the answer is not part of it.
            if self.tokens.len() > known {
                rows.push(self.offer.first + slot as u32);
            }
            if self.finish.is_some() {
                break;
            }
        }
        self.usage.guessed_tokens += tree.nodes().len();
        self.usage.accepted_tokens += path.len() - 1;
        speculation.learn(self.id.0, &tree, &path);
        rows
    }

    /// Adds a chosen token to the answer. `logits` are those that it was chosen from; `guessed` says whether a drafter had
    /// guessed it.
    fn emit(
        &mut self,
        tokenizer: &Tokenizer,
        (token, guessed): (u32, bool),
        logits: Logits<'_>,
        now: f64,
        events: &mut Vec<Event>,
    ) {
        self.sampler.accept(token);
        if self.usage.completion_tokens == 0 {
            self.usage.ttft_ms = now - self.submitted;
            self.first = now;
        }
        self.usage.decode_ms = now - self.first;
        self.usage.completion_tokens += 1;
        if !self.request.ignore_eos && tokenizer.end_of_generation().binary_search(&token).is_ok() {
            self.finish = Some(FinishReason::Stop);
            return;
        }
        self.tokens.push(token);
        let ((text, accepted), stopped) = self.stream.push(tokenizer, token, guessed);
        let logprobs = self.request.logprobs.map(|n| log_probabilities(logits, token, n));
        events.push(Event::Token(self.id, TokenEvent { token, text, accepted, logprobs, guessed }));
        if stopped {
            self.finish = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.limit {
            self.finish = Some(FinishReason::Length);
        }
    }

    /// The event of a finished request.
    pub(super) fn over(&mut self) -> Option<Event> {
        let reason = self.finish?;
        let (text, accepted) = self.stream.finish();
        Some(Event::Done(self.id, Done { reason, text, accepted, usage: self.usage }))
    }
}

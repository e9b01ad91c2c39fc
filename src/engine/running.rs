//! A request under way.

use super::request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Usage};
use super::stream::TextStream;
use crate::batch::{Batch, SeqId};
use crate::error::Result;
use crate::kv::KvCache;
use crate::model::Model;
use crate::prefill::Turn;
use crate::sample::{Sampler, log_probabilities};
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
    /// Another request that is reading a beginning which this one shares, and how long that is; until then this one waits.
    pub(super) follows: Option<(RequestId, usize)>,
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
            follows: None,
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
        self.pending() > 1 || self.usage.completion_tokens == 0
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

    /// Puts up to `n` rows into a batch. Here, and only here, it is decided what a request asks of a forward.
    pub(super) fn put(&mut self, n: usize, batch: &mut Batch) {
        let n = n.min(self.pending());
        let whole = n > 0 && n == self.pending();
        if n > 0 {
            batch.push_run(self.seq, &self.tokens[self.done..][..n], whole);
        }
        self.offer = Offer { rows: n, outputs: usize::from(whole) };
    }

    /// Takes what the forward made of [`Running::put`]: keeps rows in the cache and chooses tokens. `logits` are the
    /// offer's outputs.
    ///
    /// # Errors
    /// Never for a sequence that was in the batch.
    pub(super) fn take(
        &mut self,
        (model, tokenizer): (&mut Model, &Tokenizer),
        logits: &[f32],
        now: f64,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        model.kv_mut().commit_run(self.seq)?;
        self.done += self.offer.rows;
        if self.offer.outputs > 0 {
            self.choose(tokenizer, logits, now, events);
        }
        Ok(())
    }

    /// Chooses the next token from the logits behind the last one.
    fn choose(&mut self, tokenizer: &Tokenizer, logits: &[f32], now: f64, events: &mut Vec<Event>) {
        let token = self.sampler.sample(logits);
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
        let (text, stopped) = self.stream.push(tokenizer, token);
        let logprobs = self.request.logprobs.map(|n| log_probabilities(logits, token, n));
        events.push(Event::Token(self.id, TokenEvent { token, text, logprobs }));
        if stopped {
            self.finish = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.limit {
            self.finish = Some(FinishReason::Length);
        }
    }

    /// The event of a finished request.
    pub(super) fn over(&mut self) -> Option<Event> {
        let reason = self.finish?;
        let text = self.stream.finish();
        Some(Event::Done(self.id, Done { reason, text, usage: self.usage }))
    }
}

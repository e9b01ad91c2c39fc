//! A request under way.

use super::request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Usage};
use super::stream::TextStream;
use crate::backend::BLOCK;
use crate::batch::SeqId;
use crate::kv::KvCache;
use crate::sample::{Sampler, log_probabilities};
use crate::tokenizer::Tokenizer;

pub(super) struct Running {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) seq: SeqId,
    /// Set once the answer is over.
    pub(super) finish: Option<FinishReason>,
    /// Tokens of this step's batch.
    pub(super) in_batch: usize,
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

impl Running {
    /// `room` is what the context holds.
    pub(super) fn new(id: RequestId, mut request: Request, room: usize, now: f64) -> Self {
        let prompt = request.prompt.len();
        let mut sampler = Sampler::new(request.params.clone());
        request.prompt.iter().for_each(|&t| sampler.accept(t));
        let stop = std::mem::take(&mut request.stop).into_iter().filter(|s| !s.is_empty()).collect();
        let limit = request.max_tokens.map_or(room, |n| prompt.saturating_add(n).min(room));
        Running {
            id,
            tokens: request.prompt.clone(),
            request,
            seq: SeqId(u32::MAX),
            finish: None,
            in_batch: 0,
            done: 0,
            limit,
            sampler,
            stream: TextStream::new(stop),
            usage: Usage { prompt_tokens: prompt, ..Usage::default() },
            submitted: now,
            first: now,
        }
    }

    /// Starts in `seq`, behind `shared` tokens that are in the cache.
    pub(super) fn begin(&mut self, seq: SeqId, shared: usize) {
        self.seq = seq;
        self.done = shared;
        self.usage.cached_tokens = shared;
    }

    /// Tokens of prompt and answer at most; the last one is never written to the cache.
    pub(super) fn most_tokens(&self) -> usize {
        self.limit
    }

    /// Blocks that this request will still take.
    pub(super) fn blocks_to_come(&self, kv: &KvCache) -> usize {
        kv.blocks_needed(self.seq, self.limit.saturating_sub(kv.len(self.seq))).unwrap_or(self.limit.div_ceil(BLOCK))
    }

    /// Whether the prompt is not yet read whole.
    pub(super) fn is_reading(&self) -> bool {
        self.tokens.len() - self.done > 1
    }

    /// Tokens that are not in the cache yet.
    pub(super) fn pending(&self) -> &[u32] {
        &self.tokens[self.done..]
    }

    /// Counts the batch's tokens as done; whether a token must be chosen now.
    pub(super) fn advance(&mut self) -> bool {
        self.done += self.in_batch;
        self.done == self.tokens.len()
    }

    /// Chooses the next token from the logits behind the last one.
    pub(super) fn choose(&mut self, tokenizer: &Tokenizer, logits: &[f32], now: f64, events: &mut Vec<Event>) {
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
    pub(super) fn done(&mut self) -> Option<Event> {
        let reason = self.finish?;
        let text = self.stream.finish();
        Some(Event::Done(self.id, Done { reason, text, usage: self.usage }))
    }

    /// The tokens that are in the cache.
    pub(super) fn into_tokens(mut self, len: usize) -> Vec<u32> {
        self.tokens.truncate(len);
        self.tokens
    }
}

//! What an engine knows of a request besides its place in the cache: enough to go on with it on any device.

use super::beside::Other;
use super::circles::Circles;
use super::request::{Done, Event, FinishReason, Request, RequestId, TokenEvent, Usage};
use super::stream::TextStream;
use crate::backend::BLOCK;
use crate::error::Result;
use crate::prefill::Turn;
use crate::sample::{Logits, Sampler, log_probabilities};
use crate::speculate::{Prediction, Speculation};
use crate::tokenizer::Tokenizer;
use std::ops::RangeInclusive;

/// A request under way, whether it waits or runs.
pub(super) struct Task {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) turn: Turn,
    /// Set once the answer is over: why, or what failed.
    pub(super) finish: Option<Result<FinishReason>>,
    /// Another request that is reading a beginning which this one shares, and how long that is; until then this one waits.
    pub(super) follows: Option<(RequestId, usize)>,
    pub(super) sampler: Sampler,
    pub(super) usage: Usage,
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// The text that the answer is contrasted with.
    pub(super) other: Option<Other>,
    /// How many of them, at the end, a rule forced: the forward behind the last chosen token reads them, too.
    forced: usize,
    /// Most tokens of prompt and answer.
    limit: usize,
    stream: TextStream,
    circles: Option<Circles>,
    /// Whether rules were told to bring the answer to an end, as it went in circles.
    concluded: bool,
    submitted: f64,
    first: f64,
}

/// Tokens of an answer that must find room in the cache when its request is admitted; for the rest, requests compete.
const LOOKAHEAD: usize = 64;

/// Tokens of a prompt from one kept state to the next: a fraction of a second's reading.
const BETWEEN_STATES: usize = 8 * BLOCK;

impl Task {
    /// `room` is what the context holds, `n_read` the number of prompt tokens that the engine has read so far.
    pub(super) fn new(id: RequestId, mut request: Request, room: usize, n_read: u64, now: f64) -> Self {
        let tokens = std::mem::take(&mut request.prompt);
        let mut sampler = Sampler::with_rules(request.params.clone(), std::mem::take(&mut request.rules));
        sampler.read(&tokens);
        let stop = std::mem::take(&mut request.stop).into_iter().filter(|s| !s.is_empty()).collect();
        Task {
            id,
            turn: Turn::new(request.priority, n_read, tokens.len(), id.0),
            finish: None,
            follows: None,
            sampler,
            usage: Usage { prompt_tokens: tokens.len(), ..Usage::default() },
            limit: request.max_tokens.map_or(room, |n| tokens.len().saturating_add(n).min(room)),
            stream: TextStream::new(stop, std::mem::take(&mut request.shown)),
            circles: request.stop_at_repetition.then(Circles::default),
            concluded: false,
            other: request.against.take().map(|against| Other::new(&tokens, against)),
            submitted: now,
            first: now,
            request,
            tokens,
            forced: 0,
        }
    }

    /// Prompt and answer so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Prompt and answer so far, what the answer is expected to be, and the sampler that chooses what comes next.
    pub(super) fn text_and_sampler(&mut self) -> (&[u32], Prediction<'_>, &mut Sampler) {
        let prompt = self.tokens.get(..self.usage.prompt_tokens).unwrap_or_default();
        let prediction = Prediction { prompt, tokens: &self.request.prediction };
        (&self.tokens, prediction, &mut self.sampler)
    }

    /// What a cache may already hold of the text: all but its last token, which is always read for its logits.
    pub(super) fn beginning(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// Lengths of the text, of those asked for, at which a state is kept where layers keep states: where the prompt ends but for
    /// its last token, and now and then in a long one.
    pub(super) fn borders(&self, lengths: RangeInclusive<usize>) -> impl Iterator<Item = usize> {
        let end = self.usage.prompt_tokens - 1;
        lengths.filter(move |&n| n == end || n < end && n > 0 && n.is_multiple_of(BETWEEN_STATES))
    }

    /// Whether a token of the answer was chosen.
    pub(super) fn has_begun(&self) -> bool {
        self.usage.completion_tokens > 0
    }

    /// How many tokens at the end of the text a rule forced; they are read as the last chosen one is.
    pub(super) fn forced(&self) -> usize {
        self.forced
    }

    /// Tokens that the request may have in the cache before others are asked to make room.
    pub(super) fn promised(&self) -> usize {
        self.limit.min(self.tokens.len() + LOOKAHEAD)
    }

    /// Tokens that the answer may still get.
    pub(super) fn left(&self) -> usize {
        self.limit.saturating_sub(self.tokens.len())
    }

    /// Tells the drafter that the answer is over.
    pub(super) fn stop_guessing(&mut self, speculation: Option<&mut Speculation>) {
        if let Some(speculation) = speculation {
            self.usage.drafter_failed = speculation.failed(self.id.0);
            speculation.end(self.id.0);
        }
    }

    /// Chooses the next token of the answer.
    pub(super) fn choose(&mut self, tokenizer: &Tokenizer, logits: Logits<'_>, now: f64, events: &mut Vec<Event>) {
        self.usage.forwards += 1;
        let token = self.sampler.sample(logits);
        self.emit(tokenizer, (token, false), Some(logits), now, events);
        self.force(tokenizer, now, events);
    }

    /// Appends what rules force behind the last chosen token. Log-probabilities of such tokens are not known before a forward,
    /// so where they are asked for, each is chosen from its logits.
    pub(super) fn force(&mut self, tokenizer: &Tokenizer, now: f64, events: &mut Vec<Event>) {
        let known = self.tokens.len();
        self.forced = 0;
        if self.finish.is_some() || self.request.logprobs.is_some() {
            return;
        }
        for token in self.sampler.forced().into_iter().take(LOOKAHEAD) {
            // Choosing takes one, too: a seed gives the same answer either way.
            self.sampler.unit();
            self.emit(tokenizer, (token, false), None, now, events);
            if self.finish.is_some() {
                break;
            }
        }
        self.forced = self.tokens.len() - known;
        self.usage.forced_tokens += self.forced;
    }

    /// Adds a token to the answer. `logits` are those that it was chosen from; `guessed` says whether a drafter had guessed it.
    pub(super) fn emit(
        &mut self,
        tokenizer: &Tokenizer,
        (token, guessed): (u32, bool),
        logits: Option<Logits<'_>>,
        now: f64,
        events: &mut Vec<Event>,
    ) {
        if let Some(error) = self.sampler.failure() {
            self.finish = Some(Err(error));
            return;
        }
        self.sampler.accept(token);
        if self.usage.completion_tokens == 0 {
            self.usage.ttft_ms = now - self.submitted;
            self.first = now;
        }
        self.usage.decode_ms = now - self.first;
        self.usage.completion_tokens += 1;
        if !self.request.ignore_eos && tokenizer.end_of_generation().binary_search(&token).is_ok() {
            let reason = if self.concluded { FinishReason::Concluded } else { FinishReason::Stop };
            self.finish = Some(Ok(reason));
            return;
        }
        self.tokens.push(token);
        self.other.iter_mut().for_each(|other| other.tokens.push(token));
        let ((text, accepted), stopped) = self.stream.push(tokenizer, token, guessed);
        let circles = self.circles.as_mut().is_some_and(|circles| circles.push(&text));
        let logprobs = self.request.logprobs.zip(logits).map(|(n, logits)| log_probabilities(logits, token, n));
        events.push(Event::Token(self.id, TokenEvent { token, text, accepted, logprobs, guessed }));
        if stopped {
            self.finish = Some(Ok(FinishReason::Stop));
        } else if circles && !self.conclude() {
            self.finish = Some(Ok(FinishReason::Repetition));
        } else if self.tokens.len() >= self.limit {
            self.finish = Some(Ok(FinishReason::Length));
        }
    }

    /// Has rules bring an answer to an end that goes in circles; `false` where none does.
    fn conclude(&mut self) -> bool {
        let by_rule = self.sampler.conclude();
        self.concluded |= by_rule;
        // What it says from here on is looked at by itself.
        self.circles = by_rule.then(Circles::default);
        by_rule
    }

    /// The event of a finished request.
    pub(super) fn over(&mut self) -> Option<Event> {
        let finish = self.finish.take()?;
        let (text, accepted) = self.stream.finish();
        Some(match finish {
            Ok(reason) => Event::Done(self.id, Done { reason, text, accepted, usage: self.usage }),
            Err(error) => Event::Failed(self.id, error),
        })
    }
}

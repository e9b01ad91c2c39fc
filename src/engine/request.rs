//! What is asked of the engine, and what it answers.

use crate::error::Error;
use crate::model::predict::Prefill;
use crate::sample::{Contrast, Params, Rule};
use std::ops::Range;

/// A request for one answer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Tokens of the prompt, BOS included where the model wants one; see [`super::Engine::prompt`].
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub params: Params,
    /// Rules of the caller's own, which apply after those of `params`.
    pub rules: Vec<Box<dyn Rule>>,
    /// Most tokens of the answer; as many as the context holds when `None`.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Control tokens whose texts are part of the answer's, such as those around calls of tools.
    pub shown: Vec<u32>,
    /// Log-probabilities of each token and of so many most probable ones.
    pub logprobs: Option<usize>,
    /// Go on after end-of-generation tokens (for benchmarks).
    pub ignore_eos: bool,
    /// Requests of a higher priority are admitted and read first.
    pub priority: i32,
    /// How the prompt is read; the engine's setting when `None`.
    pub prefill: Option<Prefill>,
    /// Without guesses, where the engine guesses.
    pub plain: bool,
    /// What the answer is expected to be: drafters that guess from the text itself guess from this, too.
    pub prediction: Vec<u32>,
    /// What the answer is to differ from. Such an answer is decoded without guesses, and its prompt is read exactly.
    pub against: Option<Against>,
    /// End an answer that goes in circles: that has said a run of a dozen words three times. Where a rule says what it has to look
    /// like, the rule ends it.
    pub stop_at_repetition: bool,
}

/// Another prompt, and how what it makes probable is taken off.
#[derive(Clone, Debug, PartialEq)]
pub struct Against {
    /// Its tokens, as those of [`Request::prompt`].
    pub prompt: Vec<u32>,
    /// How.
    pub contrast: Contrast,
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Something that happened to a request.
#[derive(Debug)]
pub enum Event {
    /// A token was chosen.
    Token(RequestId, TokenEvent),
    /// The answer is over.
    Done(RequestId, Done),
    /// The request failed; the others go on.
    Failed(RequestId, Error),
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenEvent {
    /// Vocabulary id.
    pub token: u32,
    /// Text that is certain now; empty while a character or a stop text may be unfinished.
    pub text: String,
    /// Stretches of the text, in bytes, that accepted guesses wrote. A character of several tokens belongs to the last one.
    pub accepted: Vec<Range<usize>>,
    /// Natural log-probability and the most probable tokens, where asked for.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
    /// Whether a drafter had guessed it; see [`crate::speculate`].
    pub guessed: bool,
}

/// What an engine did; see [`super::Engine::take_totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Totals {
    /// Forwards.
    pub steps: usize,
    /// Rows of all forwards; there is no padding among them.
    pub rows: usize,
    /// Rows of the widest forward.
    pub widest: usize,
    /// Tokens that were found in the cache instead of being read.
    pub shared: usize,
    /// Times that an answer gave its memory to others, to be read again later.
    pub preemptions: usize,
    /// Most blocks of the KV cache in use, known beginnings included.
    pub most_blocks: usize,
    /// Time that was spent on choosing what to run, in milliseconds.
    pub schedule_ms: f64,
    /// Time of drafters, in milliseconds.
    pub guess_ms: f64,
    /// Time of whole steps, in milliseconds.
    pub step_ms: f64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// An end-of-generation token or a stop text.
    Stop,
    /// [`Request::max_tokens`] or the end of the context.
    Length,
    /// It went in circles ([`Request::stop_at_repetition`]).
    Repetition,
    /// It went in circles, and a rule brought it to an end as the rule wants it ([`Rule::conclude`]).
    Concluded,
    /// Cancelled by the caller.
    Cancelled,
}

impl FinishReason {
    /// The name in OpenAI's API.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop | FinishReason::Repetition | FinishReason::Concluded => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Done {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back and turned out to belong to the answer.
    pub text: String,
    /// As in [`TokenEvent::accepted`].
    pub accepted: Vec<Range<usize>>,
    /// Tokens and times.
    pub usage: Usage,
}

/// Tokens and times of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values were in the cache already.
    pub cached_tokens: usize,
    /// Of these, tokens whose keys and values were predicted when the answer began; see [`crate::predict`].
    pub predicted_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// From the request to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// From the first token to the last, in milliseconds.
    pub decode_ms: f64,
    /// Forwards that gave tokens of the answer.
    pub forwards: usize,
    /// Tokens that drafters guessed; see [`crate::speculate`].
    pub guessed_tokens: usize,
    /// Of these, tokens that became part of the answer.
    pub accepted_tokens: usize,
    /// Tokens that a rule forced ([`crate::sample::Rule::forced`]): they took no forward of their own.
    pub forced_tokens: usize,
    /// The drafter failed, and the answer went on without it.
    pub drafter_failed: bool,
}

impl Usage {
    /// Adds what a choice of the same request took, which ran beside the others.
    pub fn join(&mut self, other: Usage) {
        let Usage {
            prompt_tokens,
            cached_tokens,
            predicted_tokens,
            completion_tokens,
            ttft_ms,
            decode_ms,
            forwards,
            guessed_tokens,
            accepted_tokens,
            forced_tokens,
            drafter_failed,
        } = other;
        self.prompt_tokens += prompt_tokens;
        self.cached_tokens += cached_tokens;
        self.predicted_tokens += predicted_tokens;
        self.completion_tokens += completion_tokens;
        self.ttft_ms = self.ttft_ms.max(ttft_ms);
        self.decode_ms = self.decode_ms.max(decode_ms);
        self.forwards += forwards;
        self.guessed_tokens += guessed_tokens;
        self.accepted_tokens += accepted_tokens;
        self.forced_tokens += forced_tokens;
        self.drafter_failed |= drafter_failed;
    }

    /// Prompt tokens read a second, cached ones left out.
    pub fn prefill_tok_s(&self) -> f64 {
        (self.prompt_tokens - self.cached_tokens) as f64 / self.ttft_ms * 1e3
    }

    /// Tokens a second behind the first one; 0 for answers of one token.
    pub fn decode_tok_s(&self) -> f64 {
        if self.completion_tokens < 2 { 0.0 } else { (self.completion_tokens - 1) as f64 / self.decode_ms * 1e3 }
    }
}

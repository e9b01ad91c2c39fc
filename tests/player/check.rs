//! What must hold of every answer.

use super::reference::{Given, Reference};
use foreword::Kind;
use foreword::engine::{Done, Event, FinishReason, Request, TokenEvent};
use foreword::tokenizer::Detokenizer;
use std::ops::{AddAssign, Range};

/// What happened in a schedule, or in many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub answers: usize,
    pub tokens: usize,
    /// Tokens that were compared with plain decoding, and those of them that were drawn, and that a rule had a say in.
    pub compared: usize,
    pub sampled: usize,
    pub ruled: usize,
    pub cached: usize,
    pub predicted: usize,
    pub guessed: usize,
    pub accepted: usize,
    pub forced: usize,
    pub stopped: usize,
    pub cancelled: usize,
    pub failed: usize,
    pub dropped: usize,
    pub losses: usize,
    pub sidecars: usize,
    pub preemptions: usize,
    pub memory_faults: usize,
    /// Requests in which the drafter failed.
    pub drafter_failed: usize,
}

impl Tally {
    fn all(&mut self) -> [&mut usize; 19] {
        let Tally { answers, tokens, compared, sampled, ruled, cached, predicted, guessed, accepted, .. } = self;
        let Tally { forced, stopped, cancelled, failed, dropped, losses, sidecars, preemptions, .. } = self;
        let Tally { memory_faults, drafter_failed, .. } = self;
        [
            answers,
            tokens,
            compared,
            sampled,
            ruled,
            cached,
            predicted,
            guessed,
            accepted,
            forced,
            stopped,
            cancelled,
            failed,
            dropped,
            losses,
            sidecars,
            preemptions,
            memory_faults,
            drafter_failed,
        ]
    }

    /// Whether each of these things happened.
    pub fn is_full(mut self) -> bool {
        self.all().iter().all(|n| **n > 0)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, n) in self.all().into_iter().zip(other.all()) {
            *sum += *n;
        }
    }
}

/// A request, and what came of it.
pub struct Live {
    pub request: Request,
    answer: Vec<Given>,
    /// Tokens that a drafter had guessed.
    guessed: usize,
    text: String,
    /// Most tokens of prompt and answer.
    limit: usize,
    may_predict: bool,
    may_guess: bool,
    pub cancelled: bool,
    pub ended: bool,
}

/// An error unless something holds.
fn hold(fact: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if fact { Ok(()) } else { Err(otherwise()) }
}

impl Live {
    pub fn new(request: Request, room: usize, may_predict: bool, may_guess: bool) -> Self {
        let limit = request.max_tokens.map_or(room, |n| (request.prompt.len() + n).min(room));
        let (answer, text, guessed, cancelled, ended) = (Vec::new(), String::new(), 0, false, false);
        Live { request, answer, guessed, text, limit, may_predict, may_guess, cancelled, ended }
    }

    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.answer.iter().map(|given| given.token)
    }

    /// Takes an event. `sure` where no entry of the cache was a predicted one.
    pub fn take(
        &mut self,
        event: Event,
        sure: bool,
        reference: &mut Reference,
        tally: &mut Tally,
    ) -> Result<(), String> {
        hold(!self.ended, || format!("an event of a request that is over: {event:?}"))?;
        let exact = sure || !self.may_predict;
        match event {
            Event::Token(_, token) => self.token(token, exact),
            Event::Done(_, done) => {
                self.ended = true;
                self.done(&done, exact, reference, tally).map_err(|e| format!("{e}\n{done:?}"))
            }
            Event::Failed(_, error) => {
                self.ended = true;
                tally.failed += 1;
                let injected = tally.memory_faults > 0 && error.kind() == Kind::OutOfMemory;
                hold(injected, || format!("a request failed: {error}"))
            }
        }
    }

    fn token(&mut self, token: TokenEvent, exact: bool) -> Result<(), String> {
        hold(!self.cancelled, || "a token of a request that was cancelled".into())?;
        self.answer.push(Given { token: token.token, exact });
        self.guessed += usize::from(token.guessed);
        marked(&token.text, &token.accepted)?;
        self.text += &token.text;
        hold(self.request.prompt.len() + self.answer.len() <= self.limit, || "more tokens than there may be".into())?;
        let wanted = self.request.logprobs.map(|n| n.min(264));
        let got = token.logprobs.as_ref().map(|(_, top)| top.len());
        hold(got == wanted, || format!("{got:?} log-probabilities, not {wanted:?}"))?;
        let all = token.logprobs.iter().flat_map(|(own, top)| [*own].into_iter().chain(top.iter().map(|t| t.1)));
        hold(all.into_iter().all(|p| p <= 1e-3), || "a log-probability above 0".into())
    }

    fn done(&mut self, done: &Done, exact: bool, reference: &mut Reference, tally: &mut Tally) -> Result<(), String> {
        marked(&done.text, &done.accepted)?;
        self.text += &done.text;
        let ended = self.text_is_right(done.reason, reference)?;
        self.usage_adds_up(done, ended)?;
        let full = self.request.prompt.len() + self.answer.len() == self.limit;
        match done.reason {
            FinishReason::Stop => {}
            FinishReason::Length => hold(full, || format!("{} tokens are not all", self.answer.len()))?,
            FinishReason::Cancelled => hold(self.cancelled, || "nobody cancelled this request".into())?,
            other => hold(false, || format!("an answer ended by {other:?}"))?,
        }
        tally.answers += 1;
        tally.tokens += self.answer.len();
        tally.cached += done.usage.cached_tokens;
        tally.predicted += done.usage.predicted_tokens;
        tally.guessed += done.usage.guessed_tokens;
        tally.accepted += done.usage.accepted_tokens;
        tally.forced += done.usage.forced_tokens;
        tally.stopped += usize::from(done.reason == FinishReason::Stop);
        tally.cancelled += usize::from(done.reason == FinishReason::Cancelled);
        tally.drafter_failed += usize::from(done.usage.drafter_failed);
        self.is_plain_decoding(ended, exact, reference, tally)
    }

    /// The text is that of the tokens, without stop texts and what follows; returns whether a token ended the answer that is no
    /// part of it.
    fn text_is_right(&self, reason: FinishReason, reference: &Reference) -> Result<bool, String> {
        let tokenizer = &reference.tokenizer;
        let mut detokenizer = Detokenizer::new(true);
        let whole: String = self.tokens().map(|t| detokenizer.push(tokenizer, t)).collect();
        let stops = self.request.stop.iter().filter(|s| !s.is_empty());
        let stop = stops.filter_map(|s| whole.find(s.as_str())).min();
        let wanted = &whole[..stop.unwrap_or(whole.len())];
        let text = &self.text;
        hold(text == wanted, || format!("the text is {text:?}, not {wanted:?}"))?;
        hold(stop.is_none() || reason == FinishReason::Stop, || format!("a stop text is in {whole:?}"))?;
        let ended = reason == FinishReason::Stop && stop.is_none();
        hold(!(ended && self.request.ignore_eos), || "the end of generation was to be ignored".into())?;
        Ok(ended)
    }

    fn usage_adds_up(&self, done: &Done, ended: bool) -> Result<(), String> {
        let usage = &done.usage;
        let n = self.answer.len() + usize::from(ended);
        let facts = [
            ("prompt tokens", usage.prompt_tokens == self.request.prompt.len()),
            ("cached tokens", usage.cached_tokens < usage.prompt_tokens),
            ("predicted tokens", usage.predicted_tokens < usage.prompt_tokens - usage.cached_tokens),
            ("predicted tokens of an exact prompt", usage.predicted_tokens == 0 || self.may_predict),
            ("completion tokens", usage.completion_tokens == n),
            ("accepted tokens", usage.accepted_tokens <= usage.guessed_tokens),
            ("guessed tokens", usage.accepted_tokens.abs_diff(self.guessed) <= usize::from(ended)),
            ("guesses for a plain request", usage.guessed_tokens == 0 || self.may_guess),
            // A round emits its accepted guesses, one token more, unless a guess ends the answer, and what this one forces.
            ("forwards", (n..=n + 1).contains(&(usage.forwards + usage.accepted_tokens + usage.forced_tokens))),
            ("times", [usage.ttft_ms, usage.decode_ms].iter().all(|ms| (0.0..1e12).contains(ms))),
        ];
        match facts.iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(format!("the usage does not add up: {what}")),
            None => Ok(()),
        }
    }

    /// Compares tokens with those of plain decoding, as far as these are defined: greedy ones, drawn ones where only one token can
    /// come, and drawn ones whose random numbers nobody else took, behind entries that are all exact.
    fn is_plain_decoding(
        &mut self,
        ended: bool,
        exact: bool,
        reference: &mut Reference,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let params = &self.request.params;
        let only_one = params.temperature <= 0.0 || params.top_k == 1 || params.top_p == 0.0;
        if !only_one && self.may_guess {
            return Ok(());
        }
        let n = self.answer.iter().filter(|g| g.exact).count();
        tally.compared += n;
        tally.sampled += if params.temperature > 0.0 { n } else { 0 };
        tally.ruled += if self.request.rules.is_empty() { 0 } else { n };
        let mut answer = self.answer.clone();
        // The model has one token that ends an answer.
        let end = reference.tokenizer.end_of_generation().first().copied();
        answer.extend(end.filter(|_| ended).map(|token| Given { token, exact }));
        reference.check(&self.request, &answer)
    }
}

/// Stretches of a text lie in it, one behind the other, on borders of characters.
fn marked(text: &str, stretches: &[Range<usize>]) -> Result<(), String> {
    let mut from = 0;
    for stretch in stretches {
        let fine = stretch.start >= from && stretch.start < stretch.end && text.get(stretch.clone()).is_some();
        hold(fine, || format!("{stretches:?} are no stretches of {text:?}"))?;
        from = stretch.end;
    }
    Ok(())
}

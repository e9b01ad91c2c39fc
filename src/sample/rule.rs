//! What may come next: rules that change logits before a token is drawn.
//!
//! Penalties and bias of [`super::Params`] are rules; a request may bring its own ([`crate::engine::Request::rules`]). A rule
//! is told of every token of the text, and is asked what may come behind it, or behind guesses that lie ahead of it. A guess is
//! accepted only once it is verified, so nothing is ever rolled back. Where only one token may come, a rule can say so, and the
//! model is not asked.

use super::distribution::Candidate;
use crate::error::Error;
use crate::send::{MaybeSend, MaybeSync};
use std::fmt::Debug;

/// Forbids tokens, or makes them more or less probable, by the text so far.
///
/// ```
/// use foreword::sample::{Effect, Logits, LogitsMut, Params, Rule, Sampler};
///
/// /// No token twice in a row.
/// #[derive(Clone, Debug, Default)]
/// struct NoRepeats(Option<u32>);
///
/// impl Rule for NoRepeats {
///     fn effect(&self, _ahead: usize) -> Effect {
///         Effect::Lowers(1)
///     }
///     fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
///         if let Some(logit) = ahead.last().copied().or(self.0).and_then(|last| logits.get_mut(last)) {
///             *logit = f32::NEG_INFINITY;
///         }
///     }
///     fn accept(&mut self, token: u32) {
///         self.0 = Some(token);
///     }
///     fn boxed(&self) -> Box<dyn Rule> {
///         Box::new(self.clone())
///     }
/// }
///
/// let greedy = Params { temperature: 0.0, ..Params::default() };
/// let mut sampler = Sampler::with_rules(greedy, vec![Box::new(NoRepeats::default())]);
/// sampler.accept(1);
/// assert_eq!(sampler.sample(Logits::All(&[0.5, 2.0, 1.5])), 2);
/// ```
pub trait Rule: Debug + MaybeSend + MaybeSync {
    /// The most that [`Rule::adjust`] does behind up to `ahead` more tokens.
    fn effect(&self, ahead: usize) -> Effect;

    /// Changes the logits of the token behind the text and the guesses `ahead`. Negative infinity forbids a token; when all
    /// are forbidden, the choice is arbitrary. What comes of a logit depends on text and guesses only, whichever others are
    /// there.
    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>);

    /// The text begins with `prompt`. To most rules these are tokens like any others.
    fn read(&mut self, prompt: &[u32]) {
        prompt.iter().for_each(|&token| self.accept(token));
    }

    /// The text goes on with `token`.
    fn accept(&mut self, token: u32);

    /// Tokens that come next whatever the model says, as [`Rule::adjust`] forbids all others behind the text and those before.
    /// They are appended at once. The answer is the same where a rule leaves them out, but each costs a forward then.
    fn forced(&self) -> Vec<u32> {
        Vec::new()
    }

    /// The answer goes in circles: the rule brings it to an end, as far as what it asks for lets it. `false` where it asks for
    /// nothing, so that the answer may end at once.
    fn conclude(&mut self) -> bool {
        false
    }

    /// Why there is nothing that may come next; the request ends with this error.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// A copy, for a copy of the request.
    fn boxed(&self) -> Box<dyn Rule>;
}

impl Clone for Box<dyn Rule> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

/// The most that a rule does to logits. Where tokens can only fall, the largest logits decide, and the others need not be
/// read from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lowers or forbids at most so many tokens; `usize::MAX` where there is no limit.
    Lowers(usize),
    /// Anything.
    Any,
}

impl Effect {
    /// The most that several rules do, one after the other.
    pub(super) fn of(rules: &[Box<dyn Rule>], ahead: usize) -> Effect {
        rules.iter().fold(Effect::Lowers(0), |all, rule| match (all, rule.effect(ahead)) {
            (Effect::Lowers(a), Effect::Lowers(b)) => Effect::Lowers(a.saturating_add(b)),
            _ => Effect::Any,
        })
    }
}

/// Logits to be changed by rules: those of the whole vocabulary, or the largest ones where they decide.
#[derive(Debug)]
pub struct LogitsMut<'a>(Which<'a>);

#[derive(Debug)]
enum Which<'a> {
    All(&'a mut [f32]),
    Top(&'a mut [Candidate]),
}

impl<'a> LogitsMut<'a> {
    /// Of the whole vocabulary `[n_vocab]`.
    pub(super) fn all(logits: &'a mut [f32]) -> Self {
        LogitsMut(Which::All(logits))
    }

    /// Of the tokens that are known.
    pub(super) fn top(candidates: &'a mut [Candidate]) -> Self {
        LogitsMut(Which::Top(candidates))
    }

    /// The logit of a token; `None` where it does not matter, as another one is chosen whatever becomes of it.
    pub fn get_mut(&mut self, token: u32) -> Option<&mut f32> {
        match &mut self.0 {
            Which::All(logits) => logits.get_mut(token as usize),
            Which::Top(candidates) => candidates.iter_mut().find(|c| c.id == token).map(|c| &mut c.logit),
        }
    }

    /// Forbids all tokens but those `allowed`: token `t` is bit `t % 32` of number `t / 32`.
    pub fn keep(&mut self, allowed: &[u32]) {
        self.for_each(|token, logit| {
            let bits = allowed.get(token as usize / 32).copied().unwrap_or(0);
            if bits >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        });
    }

    /// Calls `change` with each token that matters and its logit.
    pub fn for_each(&mut self, mut change: impl FnMut(u32, &mut f32)) {
        match &mut self.0 {
            Which::All(logits) => logits.iter_mut().enumerate().for_each(|(id, logit)| change(id as u32, logit)),
            Which::Top(candidates) => candidates.iter_mut().for_each(|c| change(c.id, &mut c.logit)),
        }
    }
}

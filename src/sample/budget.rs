//! What holds of a thought in front of an answer: how many tokens it has, and what the answer behind it looks like.

use super::rule::{Effect, LogitsMut, Rule};
use crate::error::Error;

/// Cuts a thought at the beginning of an answer when it has had its tokens: the tokens that end it are then the only ones that may
/// come. A rule of the answer itself begins behind the thought, or at once where the model does not think.
#[derive(Clone, Debug)]
pub struct Budget {
    tokens: usize,
    open: Vec<u32>,
    close: Vec<u32>,
    cut: Vec<u32>,
    at: At,
    then: Option<Then>,
}

/// What holds behind a thought.
#[derive(Clone, Debug)]
struct Then {
    /// Of an answer that begins.
    fresh: Box<dyn Rule>,
    /// Of the answer so far, which may yet turn out to begin with a thought.
    rule: Box<dyn Rule>,
    /// Tokens that would end the answer within the thought.
    ends: Vec<u32>,
}

/// Where a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the beginning of the answer, behind so many tokens of what begins a thought.
    Before(usize),
    /// In a thought that has had so many tokens, the last ones the beginning of its end.
    Thought(usize, usize),
    /// Behind so many tokens of the cut.
    Cut(usize),
    Behind,
}

impl Budget {
    /// `thinking` where the prompt ends in a thought. `marks` are the tokens that begin a thought, those that end it, and those that
    /// cut it.
    pub fn new(tokens: usize, [open, close, cut]: [Vec<u32>; 3], thinking: bool) -> Self {
        let mut budget = Budget { tokens, open, close, cut, at: At::Before(0), then: None };
        if thinking {
            budget.at = budget.thought(0, 0);
        }
        budget
    }

    /// The same with a rule of the answer behind the thought, which `ends` are not to end.
    pub fn then(mut self, rule: Box<dyn Rule>, ends: &[u32]) -> Self {
        let ends = ends.iter().copied().filter(|end| !self.close.contains(end)).collect();
        self.then = Some(Then { fresh: rule.clone(), rule, ends });
        self
    }

    fn thought(&self, tokens: usize, closing: usize) -> At {
        if tokens >= self.tokens { At::Cut(0) } else { At::Thought(tokens, closing) }
    }

    /// Where the text is behind a token more.
    fn next(&self, at: At, token: u32) -> At {
        match at {
            At::Before(n) => match self.open.get(n) {
                Some(open) if *open != token => At::Behind,
                _ if n + 1 >= self.open.len() => self.thought(0, 0),
                _ => At::Before(n + 1),
            },
            At::Thought(tokens, closing) => {
                let again = |n: usize| self.close.get(n) == Some(&token);
                let closing = if again(closing) { closing + 1 } else { usize::from(again(0)) };
                if closing > 0 && closing == self.close.len() { At::Behind } else { self.thought(tokens + 1, closing) }
            }
            At::Cut(n) if n + 1 < self.cut.len() => At::Cut(n + 1),
            At::Cut(_) | At::Behind => At::Behind,
        }
    }
}

impl Rule for Budget {
    fn effect(&self, ahead: usize) -> Effect {
        match (self.at, &self.then) {
            (At::Behind, None) => Effect::Lowers(0),
            (At::Behind, Some(then)) => then.rule.effect(ahead),
            (At::Thought(tokens, _), then) if tokens.saturating_add(ahead) < self.tokens => match then {
                None => Effect::Lowers(0),
                Some(then) if ahead == 0 => Effect::Lowers(then.ends.len()),
                Some(_) => Effect::Lowers(usize::MAX),
            },
            (At::Before(_), None) if ahead < self.tokens => Effect::Lowers(0),
            _ => Effect::Any,
        }
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let (mut at, mut thought, mut begin) = (self.at, false, 0);
        for (i, &token) in ahead.iter().enumerate() {
            let next = self.next(at, token);
            thought |= matches!(next, At::Thought(..) | At::Cut(_));
            if at != At::Behind && next == At::Behind && (thought || !matches!(at, At::Before(_))) {
                begin = i + 1;
            }
            at = next;
        }
        if let At::Cut(n) = at
            && let Some(only) = self.cut.get(n)
        {
            logits.for_each(|token, logit| {
                if token != *only {
                    *logit = f32::NEG_INFINITY;
                }
            });
        }
        let Some(then) = &self.then else { return };
        let answer = ahead.get(begin..).unwrap_or_default();
        match at {
            At::Cut(_) => {}
            At::Thought(..) => then.ends.iter().for_each(|end| {
                logits.get_mut(*end).into_iter().for_each(|logit| *logit = f32::NEG_INFINITY);
            }),
            At::Behind if thought => then.fresh.adjust(answer, logits),
            At::Behind => then.rule.adjust(answer, logits),
            At::Before(n) => {
                let opens = |logits: &mut LogitsMut<'_>| Some(*logits.get_mut(*self.open.get(n)?)?);
                let thinks = opens(logits);
                then.rule.adjust(answer, logits);
                if let (Some(logit), Some(open)) = (thinks, self.open.get(n).and_then(|&open| logits.get_mut(open))) {
                    *open = logit;
                }
            }
        }
    }

    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, token: u32) {
        let next = self.next(self.at, token);
        if let Some(then) = &mut self.then {
            match (self.at, next) {
                (At::Before(_), At::Thought(..) | At::Cut(_)) => then.rule = then.fresh.clone(),
                (At::Before(_) | At::Behind, _) => then.rule.accept(token),
                _ => {}
            }
        }
        self.at = next;
    }

    fn forced(&self) -> Vec<u32> {
        match (self.at, &self.then) {
            (At::Cut(n), _) => self.cut.iter().skip(n).copied().collect(),
            (At::Behind, Some(then)) => then.rule.forced(),
            _ => Vec::new(),
        }
    }

    fn conclude(&mut self) -> bool {
        match (self.at, &mut self.then) {
            (At::Thought(..), _) => {
                self.at = At::Cut(0);
                true
            }
            (At::Cut(_), _) => true,
            (At::Before(_) | At::Behind, Some(then)) => then.rule.conclude(),
            (At::Before(_) | At::Behind, None) => false,
        }
    }

    fn failure(&self) -> Option<Error> {
        self.then.as_ref().filter(|_| self.at == At::Behind)?.rule.failure()
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

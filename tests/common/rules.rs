//! Rules of a caller's own.

use foreword::Error;
use foreword::sample::{Effect, LogitsMut, Rule};

/// Forbids a third of the vocabulary behind each pair of tokens, another third behind another pair.
#[derive(Clone, Debug, Default)]
pub struct ByPath([u32; 2]);

impl ByPath {
    /// Whether `token` may not come behind these two.
    pub fn forbids([a, b]: [u32; 2], token: u32) -> bool {
        (a.wrapping_mul(7) + b.wrapping_mul(2) + token).is_multiple_of(3)
    }

    /// The last two tokens of a text.
    pub fn last(text: impl IntoIterator<Item = u32>) -> [u32; 2] {
        text.into_iter().fold([0, 0], |[_, b], token| [b, token])
    }
}

impl Rule for ByPath {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let last = Self::last(self.0.iter().chain(ahead).copied());
        logits.for_each(|token, logit| {
            if Self::forbids(last, token) {
                *logit = f32::NEG_INFINITY;
            }
        });
    }

    fn accept(&mut self, token: u32) {
        self.0 = [self.0[1], token];
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// Moves the logit of the token behind the last one, by its number.
#[derive(Clone, Debug)]
pub struct Next {
    last: u32,
    by: f32,
}

impl Next {
    pub fn new(by: f32) -> Self {
        Next { last: 0, by }
    }
}

impl Rule for Next {
    fn effect(&self, _ahead: usize) -> Effect {
        if self.by <= 0.0 { Effect::Lowers(1) } else { Effect::Any }
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        if let Some(logit) = logits.get_mut(ahead.last().copied().unwrap_or(self.last) + 1) {
            *logit += self.by;
        }
    }

    fn accept(&mut self, token: u32) {
        self.last = token;
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// Writes these tokens, one after the other.
#[derive(Clone, Debug)]
pub struct Script(pub Vec<u32>);

impl Rule for Script {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let next = self.0.get(ahead.len()).copied();
        logits.for_each(|token, logit| {
            if next.is_some_and(|next| next != token) {
                *logit = f32::NEG_INFINITY;
            }
        });
    }

    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, _token: u32) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// Behind most tokens of the answer only one may come, behind the others two thirds of the vocabulary.
#[derive(Clone, Debug)]
pub struct Forcing {
    last: Option<u32>,
    /// Whether it says which tokens it forces.
    says: bool,
}

impl Forcing {
    /// One that says which tokens it forces, or not.
    pub fn new(says: bool) -> Self {
        Forcing { last: None, says }
    }

    /// The only token that may come behind the last one of the answer.
    fn only(last: Option<u32>) -> Option<u32> {
        last.filter(|last| !last.is_multiple_of(3)).map(|last| 3 + last * 7 % 250)
    }
}

impl Rule for Forcing {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let last = ahead.last().copied().or(self.last);
        let allowed = (0..264).filter(|&token| match Self::only(last) {
            Some(only) => token == only,
            None => !ByPath::forbids([0, last.unwrap_or(0)], token),
        });
        let mut bits = [0; 9];
        allowed.for_each(|token| bits[token as usize / 32] |= 1 << (token % 32));
        logits.keep(&bits);
    }

    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, token: u32) {
        self.last = Some(token);
    }

    fn forced(&self) -> Vec<u32> {
        // Some chains go on for ever.
        let chain = std::iter::successors(Self::only(self.last), |&token| Self::only(Some(token)));
        if self.says { chain.take(40).collect() } else { Vec::new() }
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// Knows nothing to go on with behind so many tokens of the answer.
#[derive(Clone, Debug)]
pub struct DeadEnd(pub usize);

impl Rule for DeadEnd {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(0)
    }

    fn adjust(&self, _ahead: &[u32], _logits: &mut LogitsMut<'_>) {}

    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, _token: u32) {
        self.0 = self.0.saturating_sub(1);
    }

    fn failure(&self) -> Option<Error> {
        (self.0 == 0).then(|| Error::invalid_request("a dead end"))
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

//! Don't repeat yourself: what would lengthen a repetition becomes less probable with its length (p-e-w, "DRY: A modern
//! repetition penalty", text-generation-webui pull request 5677).

use super::Params;
use super::rule::{Effect, LogitsMut, Rule};
use std::collections::VecDeque;

/// Longest repetition that is told from a longer one, so that powers stay finite.
const LONGEST: usize = 50;

/// [`Params::dry_multiplier`] and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Dry {
    multiplier: f32,
    base: f32,
    allowed: usize,
    range: usize,
    /// Ascending.
    breakers: Vec<u32>,
    /// The last tokens, and how long what ends with each is also the end of the text.
    text: VecDeque<(u32, u8)>,
}

impl Dry {
    pub(super) fn new(params: &Params) -> Self {
        let mut breakers = params.dry_breakers.clone();
        breakers.sort_unstable();
        Dry {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed: params.dry_allowed_length,
            range: params.dry_range,
            breakers,
            text: VecDeque::new(),
        }
    }

    fn breaks(&self, token: u32) -> bool {
        self.breakers.binary_search(&token).is_ok()
    }

    /// Tokens that would lengthen a repetition that is long enough, and how long it is.
    fn repeated(&self) -> Vec<(u32, usize)> {
        let mut found: Vec<(u32, usize)> = Vec::new();
        let next = self.text.iter().skip(1).map(|t| t.0);
        for (i, (&(_, len), next)) in self.text.iter().zip(next).enumerate() {
            // What lies before the range does not count.
            let len = usize::from(len).min(i + 1);
            if len < self.allowed.max(1) || self.breaks(next) {
                continue;
            }
            match found.iter_mut().find(|(token, _)| *token == next) {
                Some((_, longest)) => *longest = len.max(*longest),
                None => found.push((next, len)),
            }
        }
        found
    }
}

impl Rule for Dry {
    fn effect(&self, ahead: usize) -> Effect {
        Effect::Lowers(if ahead == 0 { self.repeated().len() } else { usize::MAX })
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let repeated = match ahead {
            [] => self.repeated(),
            _ => {
                let mut behind = self.clone();
                ahead.iter().for_each(|&token| behind.accept(token));
                behind.repeated()
            }
        };
        for (token, len) in repeated {
            if let Some(logit) = logits.get_mut(token) {
                *logit -= self.multiplier * self.base.powi((len - self.allowed.min(len)) as i32);
            }
        }
    }

    fn read(&mut self, prompt: &[u32]) {
        prompt.iter().skip(prompt.len().saturating_sub(self.range)).for_each(|&token| self.accept(token));
    }

    fn accept(&mut self, token: u32) {
        let breaks = self.breaks(token);
        for i in (0..self.text.len()).rev() {
            let before = if i > 0 { self.text[i - 1].1 } else { 0 };
            let same = !breaks && self.text[i].0 == token;
            self.text[i].1 = if same { (before + 1).min(LONGEST as u8) } else { 0 };
        }
        self.text.push_back((token, 0));
        if self.text.len() > self.range {
            self.text.pop_front();
        }
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

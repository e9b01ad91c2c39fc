//! Rules of [`Params`]: bias, penalties of recent tokens, and DRY.

use super::Params;
use super::dry::Dry;
use super::rule::{Effect, LogitsMut, Rule};
use std::collections::VecDeque;

/// The rules that the settings ask for, in the order in which they apply.
pub(super) fn rules(params: &Params) -> Vec<Box<dyn Rule>> {
    let mut rules: Vec<Box<dyn Rule>> = Vec::new();
    if !params.logit_bias.is_empty() {
        rules.push(Box::new(LogitBias(params.logit_bias.clone())));
    }
    if params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
        rules.push(Box::new(Penalties::new(params)));
    }
    if params.dry_multiplier > 0.0 {
        rules.push(Box::new(Dry::new(params)));
    }
    rules
}

/// [`Params::logit_bias`].
#[derive(Clone, Debug)]
struct LogitBias(Vec<(u32, f32)>);

impl Rule for LogitBias {
    fn effect(&self, _ahead: usize) -> Effect {
        if self.0.iter().all(|(_, bias)| *bias <= 0.0) { Effect::Lowers(self.0.len()) } else { Effect::Any }
    }

    fn adjust(&self, _ahead: &[u32], logits: &mut LogitsMut<'_>) {
        for &(token, bias) in &self.0 {
            if let Some(logit) = logits.get_mut(token) {
                *logit += bias;
            }
        }
    }

    fn accept(&mut self, _token: u32) {}

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// [`Params::repetition_penalty`], [`Params::presence_penalty`] and [`Params::frequency_penalty`].
#[derive(Clone, Debug)]
struct Penalties {
    recent: VecDeque<u32>,
    window: usize,
    repetition: f32,
    presence: f32,
    frequency: f32,
}

impl Penalties {
    fn new(params: &Params) -> Self {
        Penalties {
            recent: VecDeque::with_capacity(params.penalty_window.min(4096)),
            window: params.penalty_window,
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
        }
    }
}

impl Rule for Penalties {
    fn effect(&self, ahead: usize) -> Effect {
        let lowers = self.repetition >= 1.0 && self.presence >= 0.0 && self.frequency >= 0.0;
        if lowers { Effect::Lowers(self.recent.len() + ahead) } else { Effect::Any }
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let too_old = (self.recent.len() + ahead.len()).saturating_sub(self.window);
        let recent = self.recent.iter().chain(ahead).skip(too_old).copied();
        for (i, token) in recent.clone().enumerate() {
            let first = !recent.clone().take(i).any(|t| t == token);
            let Some(logit) = logits.get_mut(token).filter(|_| first) else { continue };
            let count = recent.clone().filter(|&t| t == token).count();
            let scaled = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            *logit = scaled - (self.presence + self.frequency * count as f32);
        }
    }

    fn accept(&mut self, token: u32) {
        if self.window == 0 {
            return;
        }
        if self.recent.len() == self.window {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

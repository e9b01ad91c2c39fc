//! Recent tokens and how they lower their own logits.

use super::Params;
use std::collections::VecDeque;

/// The last tokens of a text.
#[derive(Clone, Debug)]
pub(super) struct History {
    recent: VecDeque<u32>,
    window: usize,
}

impl History {
    pub(super) fn new(window: usize) -> Self {
        History { recent: VecDeque::with_capacity(window.min(4096)), window }
    }

    pub(super) fn push(&mut self, token: u32) {
        if self.window == 0 {
            return;
        }
        if self.recent.len() == self.window {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// Number of tokens that the penalties of `params` may change.
    pub(super) fn n_penalized(&self, params: &Params) -> usize {
        if params.penalizes() { self.recent.len() } else { 0 }
    }

    /// Applies the penalties of `params` to the logits.
    pub(super) fn penalize(&self, params: &Params, logits: &mut [f32]) {
        if !params.penalizes() {
            return;
        }
        for (i, &token) in self.recent.iter().enumerate() {
            let first = !self.recent.iter().take(i).any(|&t| t == token);
            let Some(logit) = logits.get_mut(token as usize).filter(|_| first) else { continue };
            *logit = self.penalized(params, token, *logit);
        }
    }

    /// A token's logit after the penalties of `params`.
    pub(super) fn penalized(&self, params: &Params, token: u32, logit: f32) -> f32 {
        let count = self.recent.iter().filter(|&&t| t == token).count();
        if count == 0 || !params.penalizes() {
            return logit;
        }
        let logit = if logit > 0.0 { logit / params.repetition_penalty } else { logit * params.repetition_penalty };
        logit - (params.presence_penalty + params.frequency_penalty * count as f32)
    }
}

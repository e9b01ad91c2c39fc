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

    /// Applies the penalties of `params` to the logits.
    pub(super) fn penalize(&self, params: &Params, logits: &mut [f32]) {
        if params.repetition_penalty == 1.0 && params.presence_penalty == 0.0 && params.frequency_penalty == 0.0 {
            return;
        }
        for (i, &token) in self.recent.iter().enumerate() {
            let first = !self.recent.iter().take(i).any(|&t| t == token);
            let Some(logit) = logits.get_mut(token as usize).filter(|_| first) else { continue };
            let count = self.recent.iter().filter(|&&t| t == token).count();
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
        }
    }
}

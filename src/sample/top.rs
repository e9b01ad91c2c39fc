//! Choosing from the largest logits alone: a GPU's result is a thousand bytes then, not the vocabulary.
//!
//! The choice is exactly that of all logits, or [`Distribution::fill_top`] says that it cannot be known.

use super::distribution::{Candidate, Distribution, by_logit};
use super::rule::{Effect, LogitsMut, Rule};
use super::{Contrast, Params, Sampler};
use std::cmp::Ordering;

/// What a token is chosen from.
#[derive(Clone, Copy, Debug)]
pub enum Logits<'a> {
    /// Of the whole vocabulary `[n_vocab]`.
    All(&'a [f32]),
    /// The largest ones.
    Top(Top<'a>),
    /// Of the whole vocabulary `[n_vocab]` behind the request's own prompt and behind another, which is taken off it.
    Pair {
        /// Behind the request's own prompt.
        own: &'a [f32],
        /// Behind the other.
        other: &'a [f32],
        /// How it is taken off.
        contrast: Contrast,
    },
}

/// The largest logits of a vocabulary that has more.
#[derive(Clone, Copy, Debug)]
pub struct Top<'a> {
    /// From the largest down.
    pub logits: &'a [f32],
    /// Their tokens; of equal logits the lower one first.
    pub tokens: &'a [f32],
    /// Sum of `exp(logit - largest)` over the vocabulary; only where the [`Wish`] has it.
    pub sum: f32,
}

/// Which of the largest logits make a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How many.
    pub n: usize,
    /// Whether [`Top::sum`] is needed.
    pub sum: bool,
    /// Whether they always do; else [`Sampler::suffices`] tells.
    pub sure: bool,
}

/// Share of the mass within which a cut depends on how the sum of all was rounded.
const MARGIN: f64 = 1e-4;

impl Sampler {
    /// Which logits the choice behind `ahead` more tokens needs, when at most `most` are to be had; `None`: all of them.
    pub fn wish(&self, ahead: usize, most: usize) -> Option<Wish> {
        let p = &self.params;
        if p.temperature > 0.0 && (p.mirostat || p.top_n_sigma > 0.0) {
            return None;
        }
        let Effect::Lowers(lowered) = Effect::of(&self.rules, ahead) else { return None };
        // Where more may be forbidden than are to be had, those left over mostly do.
        let above = |n: usize| Wish { n: n.min(most), sum: false, sure: n <= most };
        let wish = if p.temperature == 0.0 {
            Some(above(lowered.saturating_add(1)))
        } else if p.top_k > 0 {
            (p.top_k <= most).then(|| above(p.top_k.saturating_add(lowered)))
        } else if p.typical_p < 1.0 {
            None
        } else if p.top_p < 1.0 {
            (lowered == 0).then_some(Wish { n: most, sum: true, sure: false })
        } else {
            (p.min_p > 0.0).then_some(Wish { n: most, sum: false, sure: false })
        };
        wish.filter(|w| w.n <= most)
    }

    /// Whether a token can be chosen from these.
    pub fn suffices(&mut self, top: Top<'_>) -> bool {
        self.distribution.fill_top(top, &self.params, &self.rules, &[])
    }
}

impl Distribution {
    /// The distribution that all logits would give; `false` when these do not tell.
    pub(super) fn fill_top(&mut self, top: Top<'_>, params: &Params, rules: &[Box<dyn Rule>], ahead: &[u32]) -> bool {
        self.candidates.clear();
        let raw = top.logits.iter().zip(top.tokens).map(|(&logit, &id)| Candidate { id: id as u32, logit, p: 0.0 });
        self.candidates.extend(raw);
        let Some(last) = self.candidates.last().copied() else { return false };
        rules.iter().for_each(|rule| rule.adjust(ahead, &mut LogitsMut::top(&mut self.candidates)));
        // Logits that are not here lie behind the last one, and none rises: what is before it is before them.
        self.candidates.retain(|c| by_logit(c, &last) != Ordering::Greater);
        self.candidates.sort_unstable_by(by_logit);
        if self.candidates.is_empty() {
            return false;
        }
        if params.temperature == 0.0 {
            self.candidates.truncate(1);
            self.candidates[0].p = 1.0;
            return true;
        }
        if params.top_k > 0 {
            if self.candidates.len() < params.top_k {
                return false;
            }
            self.candidates.truncate(params.top_k);
            self.keep_typical(params.typical_p);
            self.keep_top_p(params.top_p);
            self.keep_min_p(params.min_p);
        } else if params.top_p < 1.0 {
            if !self.keep_mass(f64::from(params.top_p), f64::from(top.sum)) {
                return false;
            }
            self.keep_min_p(params.min_p);
        } else {
            let known = self.candidates.len();
            self.keep_min_p(params.min_p);
            if self.candidates.len() == known {
                return false;
            }
            // As they come out of the whole vocabulary.
            self.candidates.sort_unstable_by_key(|c| c.id);
        }
        self.temper(params);
        true
    }

    /// Keeps candidates, which are in order, until they make up `mass` of the vocabulary's `sum`; `false` when they do not, or
    /// when rounding decides about the last one.
    fn keep_mass(&mut self, mass: f64, sum: f64) -> bool {
        let largest = self.candidates[0].logit;
        let mut reached = 0.0;
        for i in 0..self.candidates.len() {
            let p = f64::from(self.candidates[i].logit - largest).exp() / sum;
            let before = reached;
            reached += p;
            if reached >= mass {
                self.candidates.truncate(i + 1);
                return reached - mass > MARGIN && (i == 0 || mass - before > MARGIN);
            }
            if mass - reached <= MARGIN {
                return false;
            }
        }
        false
    }
}

//! Logits to the probabilities that a token is drawn from, after all of [`Params`].

use super::penalties::History;
use super::{Logits, Params};
use std::cmp::Ordering;

/// A token that can be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Vocabulary id.
    pub id: u32,
    /// Logit after bias and penalties.
    pub logit: f32,
    /// Probability.
    pub p: f64,
}

/// The tokens that can be drawn; their probabilities add up to 1. Keeps its memory from step to step.
#[derive(Debug, Default)]
pub struct Distribution {
    logits: Vec<f32>,
    pub(super) candidates: Vec<Candidate>,
}

/// More probable first, then the lower id; both zeros are equal.
pub(super) fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then(a.id.cmp(&b.id))
}

impl Distribution {
    /// The tokens that can be drawn, in no particular order.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Probability of a token; 0 when it cannot be drawn.
    pub fn p(&self, id: u32) -> f64 {
        self.candidates.iter().find(|c| c.id == id).map_or(0.0, |c| c.p)
    }

    /// The token at `u` (0..1) of the cumulated probabilities.
    pub fn pick(&self, u: f64) -> u32 {
        let mut left = u;
        for c in &self.candidates {
            left -= c.p;
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding may leave a sliver behind the last one.
        self.candidates.iter().rev().find(|c| c.p > 0.0).map_or(0, |c| c.id)
    }

    pub(super) fn fill(&mut self, logits: Logits<'_>, params: &Params, history: &History) {
        let logits = match logits {
            Logits::All(logits) => logits,
            Logits::Top(top) => {
                // Callers ask first whether these do; if they do not, they are the best that is known.
                self.fill_top(top, params, history);
                return;
            }
        };
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        history.penalize(params, &mut self.logits);
        self.candidates.clear();
        if params.temperature == 0.0 {
            self.candidates.push(argmax(&self.logits));
            return;
        }
        let possible = self.logits.iter().enumerate().filter(|(_, l)| **l > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(id, &logit)| Candidate { id: id as u32, logit, p: 0.0 }));
        if self.candidates.is_empty() {
            // Everything is forbidden or not a number; the choice is arbitrary, but there must be one.
            self.candidates.push(Candidate { id: 0, logit: 0.0, p: 1.0 });
            return;
        }
        self.keep_top_k(params.top_k);
        self.keep_typical(params.typical_p);
        self.keep_top_p(params.top_p);
        self.keep_min_p(params.min_p);
        self.normalize(params.temperature);
    }

    fn largest(&self) -> f32 {
        self.candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
    }

    /// Sets probabilities at a temperature.
    pub(super) fn normalize(&mut self, temperature: f32) {
        let largest = self.largest();
        let mut sum = 0.0;
        for c in &mut self.candidates {
            // Two equal infinities differ by NaN, but are equally likely.
            let below = if c.logit == largest { 0.0 } else { f64::from((c.logit - largest) / temperature) };
            c.p = below.exp();
            sum += c.p;
        }
        self.candidates.iter_mut().for_each(|c| c.p /= sum);
    }

    /// Moves the `n` most probable candidates to the front, in order.
    fn sort_front(&mut self, n: usize) {
        if n < self.candidates.len() {
            self.candidates.select_nth_unstable_by(n, by_logit);
        }
        let n = n.min(self.candidates.len());
        self.candidates[..n].sort_unstable_by(by_logit);
    }

    fn keep_top_k(&mut self, k: usize) {
        if k > 0 && k < self.candidates.len() {
            self.sort_front(k);
            self.candidates.truncate(k);
        }
    }

    pub(super) fn keep_typical(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        self.normalize(1.0);
        let entropy: f64 = self.candidates.iter().filter(|c| c.p > 0.0).map(|c| -c.p * c.p.ln()).sum();
        let distance = |c: &Candidate| (-c.p.max(f64::MIN_POSITIVE).ln() - entropy).abs();
        self.candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
        self.truncate_at(f64::from(mass));
    }

    /// Keeps candidates from the front until they make up `mass`.
    fn truncate_at(&mut self, mass: f64) {
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|c| {
            sum += c.p;
            sum >= mass
        });
        self.candidates.truncate(enough.map_or(self.candidates.len(), |last| last + 1));
    }

    /// Sorts only as far as the mass needs: large vocabularies have long tails.
    pub(super) fn keep_top_p(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        self.normalize(1.0);
        let mut n = 64;
        while n < self.candidates.len() {
            self.sort_front(n);
            if self.candidates[..n].iter().map(|c| c.p).sum::<f64>() >= f64::from(mass) {
                self.candidates.truncate(n);
                break;
            }
            n *= 8;
        }
        self.candidates.sort_unstable_by(by_logit);
        self.truncate_at(f64::from(mass));
    }

    pub(super) fn keep_min_p(&mut self, share: f32) {
        if share > 0.0 {
            let least = self.largest() + share.ln();
            self.candidates.retain(|c| c.logit >= least);
        }
    }
}

/// The most probable token with all the probability.
fn argmax(logits: &[f32]) -> Candidate {
    let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY, p: 1.0 };
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.logit {
            best = Candidate { id: id as u32, logit, p: 1.0 };
        }
    }
    best
}

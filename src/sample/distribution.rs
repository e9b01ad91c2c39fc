//! Logits to the probabilities that a token is drawn from, after all of [`Params`].

use super::rule::{LogitsMut, Rule};
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

    /// What may come behind the text that the rules know and the guesses `ahead`.
    pub(super) fn fill(&mut self, logits: Logits<'_>, params: &Params, rules: &[Box<dyn Rule>], ahead: &[u32]) {
        let (logits, against) = match logits {
            Logits::All(logits) => (logits, None),
            Logits::Pair { own, other, contrast } => (own, Some((other, contrast))),
            Logits::Top(top) => {
                // Callers ask first whether these do; if they do not, they are the best that is known.
                self.fill_top(top, params, rules, ahead);
                return;
            }
        };
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        rules.iter().for_each(|rule| rule.adjust(ahead, &mut LogitsMut::all(&mut self.logits)));
        if let Some((other, contrast)) = against {
            contrast.apply(&mut self.logits, logits, other);
        }
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
        if !params.mirostat {
            self.keep_sigmas(params.top_n_sigma);
            self.keep_top_k(params.top_k);
            self.keep_typical(params.typical_p);
            self.keep_top_p(params.top_p);
            self.keep_min_p(params.min_p);
        }
        self.temper(params);
    }

    /// Sets probabilities at the temperature, mixed with those that there are when the most probable tokens are left out.
    pub(super) fn temper(&mut self, params: &Params) {
        let left_out = self.above_threshold(params).saturating_sub(1);
        if left_out == 0 {
            return tempered(&mut self.candidates, params);
        }
        let share = f64::from(params.xtc_probability);
        let mut rest = self.candidates.split_at(left_out).1.to_vec();
        tempered(&mut rest, params);
        tempered(&mut self.candidates, params);
        self.candidates.iter_mut().for_each(|c| c.p *= 1.0 - share);
        self.candidates.iter_mut().skip(left_out).zip(&rest).for_each(|(c, alone)| c.p += share * alone.p);
        self.candidates.retain(|c| c.p > 0.0);
    }

    /// How many candidates, which are then in order, are probable enough for XTC.
    fn above_threshold(&mut self, params: &Params) -> usize {
        if params.xtc_probability == 0.0 || params.mirostat {
            return 0;
        }
        self.normalize();
        self.candidates.sort_unstable_by(by_logit);
        self.candidates.iter().take_while(|c| c.p >= f64::from(params.xtc_threshold)).count()
    }

    fn keep_sigmas(&mut self, n: f32) {
        if n <= 0.0 {
            return;
        }
        let logits = || self.candidates.iter().map(|c| f64::from(c.logit));
        let count = self.candidates.len() as f64;
        let mean = logits().sum::<f64>() / count;
        let sigma = (logits().map(|l| (l - mean).powi(2)).sum::<f64>() / count).sqrt();
        let least = f64::from(self.largest()) - f64::from(n) * sigma;
        // Infinite logits have no deviation.
        if least.is_finite() {
            self.candidates.retain(|c| f64::from(c.logit) >= least);
        }
    }

    fn largest(&self) -> f32 {
        largest(&self.candidates)
    }

    /// Sets the model's own probabilities.
    fn normalize(&mut self) {
        normalize(&mut self.candidates, 1.0);
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
        self.normalize();
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
        self.normalize();
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

fn largest(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// Sets probabilities at a temperature.
fn normalize(candidates: &mut [Candidate], temperature: f32) {
    let largest = largest(candidates);
    let mut sum = 0.0;
    for c in candidates.iter_mut() {
        // Two equal infinities differ by NaN, but are equally likely.
        let below = if c.logit == largest { 0.0 } else { f64::from((c.logit - largest) / temperature) };
        c.p = below.exp();
        sum += c.p;
    }
    candidates.iter_mut().for_each(|c| c.p /= sum);
}

/// Sets probabilities at the temperature of the settings, which may follow from the entropy.
fn tempered(candidates: &mut [Candidate], params: &Params) {
    let mut temperature = params.temperature;
    if params.dynatemp_range > 0.0 && candidates.len() > 1 {
        normalize(candidates, 1.0);
        let entropy: f64 = candidates.iter().filter(|c| c.p > 0.0).map(|c| -c.p * c.p.ln()).sum();
        let share = (entropy / (candidates.len() as f64).ln()).powf(f64::from(params.dynatemp_exponent)) as f32;
        let (low, high) = ((temperature - params.dynatemp_range).max(0.0), temperature + params.dynatemp_range);
        // Next to nothing takes the most probable token, as nothing would.
        temperature = (low + (high - low) * share).max(1e-4);
    }
    normalize(candidates, temperature);
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

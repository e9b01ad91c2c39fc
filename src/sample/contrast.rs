//! Two distributions to one: what another prompt, a weaker or an unwanted one, makes as probable as the request's own is taken off
//! (USCD, arXiv 2409.05923; classifier-free guidance, arXiv 2306.17806).

use crate::error::{Error, Result};

/// How the distribution behind another prompt is taken off the request's own. Rules change the logits of both; temperature and
/// cuts apply to what comes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    /// How much is taken off, from 0 for nothing to 10.
    pub weight: f32,
    /// Only where the sum of the squares of all probabilities is below this: 1 for always, 0 for never. A model that is sure of the
    /// next token has a sum near 1.
    pub when: f32,
    /// What is taken off what.
    pub mode: ContrastMode,
}

/// What [`Contrast::weight`] is the factor of. Either way, only tokens stay that are at least a tenth as probable as the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContrastMode {
    /// `p - weight * p_other`, what is not above 0 being left out (USCD). Where nothing is above 0, `p` itself.
    Prob,
    /// `logit + weight * (logit - logit_other)`: classifier-free guidance of strength `1 + weight`.
    Logit,
}

/// Least probability of a token that stays, as a share of the most probable one's: tokens that neither prompt makes probable
/// would win by their ratio alone.
const FLOOR: f64 = 0.1;

impl Default for Contrast {
    fn default() -> Self {
        Contrast::of(ContrastMode::Prob)
    }
}

impl Contrast {
    /// The usual settings of a mode: 0.7 where the model is unsure (0.8), or 0.5 always.
    pub fn of(mode: ContrastMode) -> Self {
        match mode {
            ContrastMode::Prob => Contrast { weight: 0.7, when: 0.8, mode },
            ContrastMode::Logit => Contrast { weight: 0.5, when: 1.0, mode },
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] that says which value is out of which range.
    pub fn check(&self) -> Result<()> {
        let ranges = [("contrast.weight", self.weight, 10.0), ("contrast.when", self.when, 1.0)];
        match ranges.into_iter().find(|(_, value, most)| !(0.0..=*most).contains(value)) {
            Some((name, value, most)) => {
                let message = format!("{name} is {value}; it must be from 0 to {most}");
                Err(Error::invalid_request(message).in_field(name))
            }
            None => Ok(()),
        }
    }

    /// Changes `logits`, which rules made of the request's `own`; what they changed there is changed in those of the `other`
    /// prompt, too.
    pub(super) fn apply(self, logits: &mut [f32], own: &[f32], other: &[f32]) {
        let adjusted = |i: usize, logit: f32| f64::from(other[i]) + (f64::from(logit) - f64::from(own[i]));
        let possible = || logits.iter().copied().enumerate().filter(|(_, logit)| *logit > f32::NEG_INFINITY);
        let best = possible().fold(f64::NEG_INFINITY, |best, (_, logit)| best.max(f64::from(logit)));
        let best_other = possible().fold(f64::NEG_INFINITY, |best, (i, logit)| best.max(adjusted(i, logit)));
        // Where an infinite bias forces a token, there is nothing to compare.
        if self.weight == 0.0 || !best.is_finite() || !best_other.is_finite() {
            return;
        }
        let (mut sum, mut squares, mut sum_other) = (0.0, 0.0, 0.0);
        for (i, logit) in possible() {
            let e = (f64::from(logit) - best).exp();
            (sum, squares) = (sum + e, squares + e * e);
            sum_other += (adjusted(i, logit) - best_other).exp();
        }
        if squares / (sum * sum) >= f64::from(self.when) {
            return;
        }
        let weight = f64::from(self.weight);
        let contrasted = |i: usize, logit: f32| {
            let (own, other) = (f64::from(logit) - best, adjusted(i, logit) - best_other);
            match self.mode {
                _ if own < FLOOR.ln() || own.is_nan() => f64::NEG_INFINITY,
                ContrastMode::Prob => (own.exp() / sum - weight * (other.exp() / sum_other)).max(0.0).ln(),
                ContrastMode::Logit => own + weight * (own - other),
            }
        };
        if possible().any(|(i, logit)| contrasted(i, logit) > f64::NEG_INFINITY) {
            logits.iter_mut().enumerate().for_each(|(i, logit)| *logit = contrasted(i, *logit) as f32);
        }
    }
}

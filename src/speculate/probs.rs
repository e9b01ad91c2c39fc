//! Probabilities of tokens, sparse and in order.

use crate::sample::Distribution;

/// A distribution over tokens: `(token, probability)` in the order of the tokens, probabilities above 0 that add up to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probs {
    entries: Vec<(u32, f64)>,
}

impl Probs {
    /// Makes probabilities of weights: those of equal tokens are added up, weights of 0 and less are left out.
    pub fn from_weights(mut weights: Vec<(u32, f64)>) -> Self {
        weights.retain(|(_, w)| *w > 0.0 && w.is_finite());
        if !weights.is_sorted_by_key(|w| w.0) {
            weights.sort_unstable_by_key(|w| w.0);
        }
        weights.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0.0 };
            same
        });
        let sum: f64 = weights.iter().map(|w| w.1).sum();
        weights.iter_mut().for_each(|w| w.1 /= sum);
        // Next to a very large weight a very small one is none.
        weights.retain(|(_, p)| *p > 0.0);
        Probs { entries: weights }
    }

    /// The tokens that a sampler may draw.
    pub fn of(distribution: &Distribution) -> Self {
        let candidates = distribution.candidates().iter().filter(|c| c.p > 0.0);
        let mut entries: Vec<(u32, f64)> = candidates.map(|c| (c.id, c.p)).collect();
        // Already normalised, and in order unless truncated; whole vocabularies are long.
        if !entries.is_sorted_by_key(|e| e.0) {
            entries.sort_unstable_by_key(|e| e.0);
        }
        Probs { entries }
    }

    /// `(token, probability)` in the order of the tokens.
    pub fn entries(&self) -> &[(u32, f64)] {
        &self.entries
    }

    /// Whether no token can be drawn.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Probability of a token.
    pub fn p(&self, token: u32) -> f64 {
        self.entries.binary_search_by_key(&token, |e| e.0).map_or(0.0, |i| self.entries[i].1)
    }

    /// The largest probability.
    pub fn largest(&self) -> f64 {
        self.entries.iter().map(|e| e.1).fold(0.0, f64::max)
    }

    /// The token at `u` (0..1) of the cumulated probabilities; `None` when there is none.
    pub fn pick(&self, u: f64) -> Option<u32> {
        pick(&self.entries, u * self.entries.iter().map(|e| e.1).sum::<f64>())
    }

    /// The entries, to be changed into weights.
    pub(super) fn into_entries(self) -> Vec<(u32, f64)> {
        self.entries
    }
}

/// The token at which the cumulated weights pass `left`.
pub(super) fn pick(weights: &[(u32, f64)], mut left: f64) -> Option<u32> {
    for &(token, w) in weights {
        left -= w;
        if left < 0.0 {
            return Some(token);
        }
    }
    // Rounding may leave a sliver behind the last one.
    weights.iter().rev().find(|w| w.1 > 0.0).map(|w| w.0)
}

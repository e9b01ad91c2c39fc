//! Mirostat 2 (arXiv 2007.14966): as many tokens as keep the surprise of an answer where it should be.

use super::Params;
use super::distribution::{Distribution, by_logit};

/// How surprising a token may be at most, which follows from how surprising those before were.
#[derive(Clone, Debug)]
pub(super) struct Mirostat {
    tau: f64,
    eta: f64,
    /// In bits.
    most: f64,
}

impl Mirostat {
    /// Of settings that have it; not where the most probable token is always taken.
    pub(super) fn of(params: &Params) -> Option<Self> {
        let (tau, eta) = (f64::from(params.mirostat_tau), f64::from(params.mirostat_eta));
        (params.mirostat && params.temperature > 0.0).then_some(Mirostat { tau, eta, most: 2.0 * tau })
    }

    /// Cuts off what is more surprising than it may be, but not the most probable token.
    pub(super) fn cut(&self, distribution: &mut Distribution) {
        let candidates = &mut distribution.candidates;
        candidates.sort_unstable_by(by_logit);
        let kept = candidates.iter().take_while(|c| -c.p.log2() <= self.most).count().max(1);
        candidates.truncate(kept);
        let sum: f64 = candidates.iter().map(|c| c.p).sum();
        candidates.iter_mut().for_each(|c| c.p /= sum);
    }

    /// Learns from the token that was chosen; one of the prompt was not.
    pub(super) fn accept(&mut self, distribution: &mut Distribution, token: u32) {
        let p = distribution.p(token);
        if p > 0.0 {
            self.most -= self.eta * (-p.log2() - self.tau);
        }
        distribution.candidates.clear();
    }
}

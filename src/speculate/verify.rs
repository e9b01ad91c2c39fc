//! Recursive rejection sampling (arXiv 2402.14160): which guess is kept, so that the token is the target's.
//!
//! Siblings `x_1, x_2, …` were drawn from `p` without replacement, `p_k` being `p` without the first `k - 1`, renormalised.
//! Sibling `k` is accepted with probability `min(1, q_k(x_k) / p_k(x_k))`; after a rejection `q_{k+1}` is what `[q_k - p_k]+`
//! becomes renormalised. When none is accepted, the token comes from the last residual. It is distributed as `q`, whatever
//! `p` is. With replacement, `p_k` stays `p` (SpecInfer's multi-round rejection).

use super::Probs;
use super::probs::pick;

/// What comes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The sibling of this number (from 0) is accepted; the round goes on behind it.
    Accepted(usize),
    /// No sibling is accepted, or there is none: this token is emitted, and the round ends.
    Emitted(u32),
}

/// Chooses the token behind a slot: from the target's distribution `target` by way of the siblings `drawn`, which were drawn
/// from `law` in this order. `unit` gives uniform numbers in 0..1.
pub fn choose(
    target: Probs,
    law: Option<&Probs>,
    drawn: &[u32],
    with_replacement: bool,
    unit: &mut dyn FnMut() -> f64,
) -> Choice {
    // The limit of certainty, greedy decoding among it: whatever the siblings were drawn from, only one token can come.
    if let [(only, _)] = target.entries() {
        return drawn.iter().position(|x| x == only).map_or(Choice::Emitted(*only), Choice::Accepted);
    }
    // Weights whose sum is `q_mass`; drawn tokens drop out of `p`, whose mass is then below 1.
    let mut q = target.into_entries();
    let mut q_mass: f64 = q.iter().map(|e| e.1).sum();
    let mut p: Vec<(u32, f64)> = law.map_or(Vec::new(), |law| law.entries().to_vec());
    let mut p_mass = 1.0;
    for (k, &x) in drawn.iter().enumerate() {
        let Ok(at) = p.binary_search_by_key(&x, |e| e.0) else { break };
        let weight = |q: &[(u32, f64)]| q.binary_search_by_key(&x, |e| e.0).map_or(0.0, |i| q[i].1);
        // u < (q(x) / q_mass) / (p(x) / p_mass)
        if unit() * p[at].1 * q_mass < weight(&q) * p_mass {
            return Choice::Accepted(k);
        }
        let mut rest = q_mass - subtract(&mut q, &p, q_mass / p_mass);
        if rest < 1e-3 * q_mass {
            // A small difference of large sums is added up afresh.
            rest = q.iter().map(|e| e.1).sum();
        }
        if rest <= 0.0 {
            // Only rounding can reject when q and p agree: x would have been the token.
            return Choice::Accepted(k);
        }
        q_mass = rest;
        if !with_replacement {
            p.remove(at);
            // Added up afresh: what is left of a near-certain distribution is too small to be a difference.
            p_mass = p.iter().map(|e| e.1).sum();
        }
    }
    // Distributions have at least one token, and so have residuals.
    Choice::Emitted(pick(&q, unit() * q_mass).unwrap_or(0))
}

/// `q = [q - scale * p]+`; both are in the order of their tokens. Returns what was taken away.
fn subtract(q: &mut [(u32, f64)], p: &[(u32, f64)], scale: f64) -> f64 {
    let mut taken = 0.0;
    for &(token, p) in p {
        if let Ok(at) = q.binary_search_by_key(&token, |e| e.0) {
            let less = q[at].1.min(scale * p);
            q[at].1 -= less;
            taken += less;
        }
    }
    taken
}

//! Rounds of speculation between two distributions, without a model.

use super::random::Random;
use foreword::speculate::draft::Proposal;
use foreword::speculate::verify::Choice;
use foreword::speculate::{Growth, Probs, Shape, Tree};

/// A distribution by the tokens before.
pub type Law = dyn Fn(&[u32]) -> Probs;

/// The signature of [`choose`].
pub type Chooser = dyn Fn(Probs, Option<&Probs>, &[u32], bool, &mut dyn FnMut() -> f64) -> Choice;

pub fn uniform(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// One round at the text `before`: the emitted tokens. `seen` gets the tree.
pub fn round(
    (target, draft): (&Law, &Law),
    shape: &Shape,
    chooser: &Chooser,
    before: &[u32],
    unit: &mut dyn FnMut() -> f64,
    seen: impl FnOnce(&Tree),
) -> Vec<u32> {
    let at = |path: &[u32]| before.iter().chain(path).copied().collect::<Vec<u32>>();
    let mut growth = Growth::new(shape.clone());
    loop {
        let slots = growth.wanted();
        if slots.is_empty() {
            break;
        }
        let law = |&s: &usize| Proposal { law: draft(&at(&growth.tree().path(s))), class: 0 };
        let proposals = slots.iter().map(law).collect();
        growth.grow(proposals, true, unit);
    }
    let tree = growth.finish();
    seen(&tree);
    verify(target, &tree, shape.replaces(), chooser, before, unit)
}

pub fn verify(
    target: &Law,
    tree: &Tree,
    replaces: bool,
    chooser: &Chooser,
    before: &[u32],
    unit: &mut dyn FnMut() -> f64,
) -> Vec<u32> {
    let (mut slot, mut out) = (0, Vec::new());
    loop {
        let children: Vec<usize> = tree.children(slot).collect();
        let drawn: Vec<u32> = children.iter().map(|&c| tree.nodes()[c].token).collect();
        let text: Vec<u32> = before.iter().chain(&out).copied().collect();
        match chooser(target(&text), tree.law(slot), &drawn, replaces, unit) {
            Choice::Accepted(k) => {
                out.push(drawn[k]);
                slot = children[k] + 1;
            }
            Choice::Emitted(token) => {
                out.push(token);
                return out;
            }
        }
    }
}

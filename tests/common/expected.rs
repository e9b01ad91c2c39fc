//! What verification of a tree yields on average, from the definition of recursive rejection sampling.

use foreword::speculate::{Probs, Tree};

/// The target's probabilities of some tokens behind a path.
pub type Target<'a> = dyn FnMut(&[u32], &[u32]) -> Vec<f64> + 'a;

/// Expected tokens of a round by depth: element `d` is what the tree's first `d` levels yield, the token that ends the
/// round included.
pub fn tokens(tree: &Tree, replaces: bool, target: &mut Target<'_>) -> Vec<f64> {
    let depth = tree.nodes().iter().map(|n| n.depth).max().unwrap_or(0);
    let mut reach = vec![0.0; tree.nodes().len() + 1];
    reach[0] = 1.0;
    let mut at_depth = vec![0.0; depth + 1];
    at_depth[0] = 1.0;
    for slot in 0..reach.len() {
        let children: Vec<usize> = tree.children(slot).collect();
        let Some(law) = tree.law(slot).filter(|_| !children.is_empty()) else { continue };
        let drawn: Vec<u32> = children.iter().map(|&c| tree.nodes()[c].token).collect();
        let support: Vec<u32> = law.entries().iter().map(|e| e.0).collect();
        let q = target(&tree.path(slot), &support);
        for (&child, share) in children.iter().zip(accepted(q, law, &drawn, replaces)) {
            reach[child + 1] = reach[slot] * share;
            at_depth[tree.nodes()[child].depth] += reach[child + 1];
        }
    }
    let add = |sum: &mut f64, x: f64| {
        *sum += x;
        Some(*sum)
    };
    at_depth.into_iter().scan(0.0, add).collect()
}

/// Probability that each sibling is the one that is accepted; `q` are the target's of the law's tokens.
fn accepted(mut q: Vec<f64>, law: &Probs, drawn: &[u32], replaces: bool) -> Vec<f64> {
    let mut p: Vec<f64> = law.entries().iter().map(|e| e.1).collect();
    let mut beside = (1.0 - q.iter().sum::<f64>()).max(0.0);
    let mut left = 1.0;
    let mut shares = Vec::new();
    for x in drawn {
        let at = law.entries().iter().position(|e| e.0 == *x).expect("a token of the law");
        let share = if p[at] > 0.0 { left * (q[at] / p[at]).min(1.0) } else { 0.0 };
        shares.push(share);
        left -= share;
        q.iter_mut().zip(&p).for_each(|(q, p)| *q = (*q - p).max(0.0));
        if !replaces {
            p[at] = 0.0;
        }
        let (rest, of_p) = (q.iter().sum::<f64>() + beside, p.iter().sum::<f64>());
        if left <= 1e-12 || rest <= 1e-12 || of_p <= 1e-300 {
            break;
        }
        q.iter_mut().for_each(|q| *q /= rest);
        beside /= rest;
        p.iter_mut().for_each(|p| *p /= of_p);
    }
    shares.resize(drawn.len(), 0.0);
    shares
}

//! Draft trees: how many guesses, and how they are drawn.
//!
//! A slot is a place behind which tokens are guessed: slot 0 is the end of the text, slot `i + 1` is behind node `i`.
//! Children of a slot are drawn one after another without replacement from the drafter's distribution there, and their
//! order is kept: verification needs it. Which draw comes next may depend on earlier draws, never on its own outcome;
//! otherwise verification would not be exact.

use super::Probs;
use super::draft::Proposal;
use crate::batch::Streams;
use crate::error::{Error, Result};

/// A guessed token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Vocabulary id.
    pub token: u32,
    /// The slot that it follows.
    pub slot: usize,
    /// Tokens from the end of the text to this one, itself included.
    pub depth: usize,
}

/// Guesses of how a text goes on.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    /// By slot: what its children are drawn from; empty where the drafter was not asked.
    proposals: Vec<Proposal>,
    /// Of the first slots, which the drafter has run through layers of the target.
    streams: Streams,
}

impl Tree {
    /// The guesses; parents come before children, siblings in the order of drawing.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether there are no guesses.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Indices of the children of a slot, in the order of drawing.
    pub fn children(&self, slot: usize) -> impl Iterator<Item = usize> + '_ {
        (slot..self.nodes.len()).filter(move |&i| self.nodes[i].slot == slot)
    }

    /// What the children of a slot are drawn from.
    pub fn law(&self, slot: usize) -> Option<&Probs> {
        self.proposals.get(slot).map(|p| &p.law)
    }

    /// How sure the drafter is behind a slot; see [`Proposal::class`].
    pub fn class(&self, slot: usize) -> usize {
        self.proposals.get(slot).map_or(0, |p| p.class)
    }

    /// Sets what the children of a slot are drawn from.
    pub(super) fn set_proposal(&mut self, slot: usize, proposal: Proposal) {
        self.proposals.resize_with(self.proposals.len().max(slot + 1), Proposal::default);
        self.proposals[slot] = proposal;
    }

    /// Adds a child of a slot; returns its index.
    pub(super) fn push(&mut self, slot: usize, token: u32) -> usize {
        let depth = slot.checked_sub(1).map_or(1, |parent| self.nodes[parent].depth + 1);
        self.nodes.push(Node { token, slot, depth });
        self.nodes.len() - 1
    }

    /// Residual streams of the tokens at the first slots, the last one of the text before the first node; none for drafters
    /// that do not use the target's layers. Rows that resume from them must lie in the order of slots.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Sets [`Tree::streams`].
    pub(super) fn set_streams(&mut self, streams: Streams) {
        self.streams = streams;
    }

    /// Tokens from the end of the text to a slot.
    pub fn path(&self, mut slot: usize) -> Vec<u32> {
        let mut path = Vec::new();
        while let Some(node) = slot.checked_sub(1) {
            path.push(self.nodes[node].token);
            slot = self.nodes[node].slot;
        }
        path.reverse();
        path
    }
}

/// The form of a tree that is drawn level by level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// RSD-C: so many children of each node, a level each. A chain is `[1, 1, …]`.
    Constant(Vec<usize>),
    /// RSD-S: stochastic beam search; `width` nodes a level.
    Beam {
        /// Nodes of a level.
        width: usize,
        /// Levels.
        depth: usize,
    },
    /// Independent draws with replacement, so many for each node: the older method, for comparison.
    Independent(Vec<usize>),
}

impl Shape {
    /// The form that a method gives a budget of so many tokens a round; `depth` levels of it where that is asked for.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for unknown names and a budget of 0.
    pub fn of(method: &str, budget: usize, depth: Option<usize>) -> Result<Shape> {
        if budget == 0 || depth.is_some_and(|d| d == 0 || d > budget) {
            let depth = depth.map_or(String::new(), |d| format!(" in {d} levels"));
            return Err(Error::invalid_request(format!(
                "a draft tree of {budget} tokens{depth}; it needs one for every level, and at least one"
            )));
        }
        // About as wide as deep: the later levels are reached more seldom, but one level has only few good guesses.
        let width = depth.map_or(budget.isqrt(), |d| budget / d);
        let depth = depth.unwrap_or(budget / width);
        match method {
            "chain" => Ok(Shape::Constant(vec![1; budget])),
            "rsd-c" => Ok(Shape::Constant(branching(budget))),
            "rsd-s" => Ok(Shape::Beam { width, depth }),
            "independent" => {
                let first = |level| if level == 0 { width } else { 1 };
                Ok(Shape::Independent((0..depth).map(first).collect()))
            }
            _ => Err(Error::invalid_request(format!(
                "no method {method:?}; there are rsd-s, rsd-c, chain and independent"
            ))),
        }
    }

    /// Levels.
    pub fn depth(&self) -> usize {
        match self {
            Shape::Constant(branching) | Shape::Independent(branching) => branching.len(),
            Shape::Beam { depth, .. } => *depth,
        }
    }

    /// Most nodes.
    pub fn size(&self) -> usize {
        match self {
            Shape::Constant(branching) | Shape::Independent(branching) => {
                let level = |nodes: &mut usize, b: &usize| {
                    *nodes = nodes.saturating_mul(*b);
                    Some(*nodes)
                };
                branching.iter().scan(1, level).fold(0, usize::saturating_add)
            }
            Shape::Beam { width, depth } => width.saturating_mul(*depth),
        }
    }

    /// Whether siblings are drawn with replacement.
    pub fn replaces(&self) -> bool {
        matches!(self, Shape::Independent(_))
    }
}

/// Branching factors for a budget: those of the paper's experiments, in between twos and then ones.
fn branching(budget: usize) -> Vec<usize> {
    match budget {
        1..=5 => return vec![1; budget],
        10 => return vec![2, 2, 1],
        14 => return vec![2, 2, 2],
        21 => return vec![3, 2, 2],
        30 => return vec![2, 2, 2, 2],
        _ => {}
    }
    let twos = (budget / 3).ilog2() as usize;
    let ones = (budget + 2 - (2 << twos)) >> twos;
    [vec![2; twos], vec![1; ones]].concat()
}

/// A slot whose children come next.
#[derive(Clone, Copy, Debug)]
struct Open {
    slot: usize,
    /// Log-probability of its path.
    phi: f64,
    /// The same, perturbed.
    g: f64,
}

/// A tree that grows level by level: [`Growth::wanted`] says at which slots the drafter's distribution is needed,
/// [`Growth::grow`] draws their children.
#[derive(Debug)]
pub struct Growth {
    shape: Shape,
    tree: Tree,
    level: usize,
    open: Vec<Open>,
}

impl Growth {
    /// Begins a tree.
    pub fn new(shape: Shape) -> Self {
        Growth { shape, tree: Tree::default(), level: 0, open: vec![Open { slot: 0, phi: 0.0, g: 0.0 }] }
    }

    /// Slots whose distributions [`Growth::grow`] needs next; none when the tree is finished.
    pub fn wanted(&self) -> Vec<usize> {
        let open = if self.level < self.shape.depth() { &self.open[..] } else { &[] };
        open.iter().map(|o| o.slot).collect()
    }

    /// The tree so far.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The finished tree.
    pub fn finish(self) -> Tree {
        self.tree
    }

    /// Draws the next level. `proposals` belong to the wanted slots; an empty or missing one ends its branch. Without `noise` the most
    /// probable tokens are taken (temperature 0). `unit` gives uniform numbers in 0..1.
    pub fn grow(&mut self, proposals: Vec<Proposal>, noise: bool, unit: &mut dyn FnMut() -> f64) {
        let open = std::mem::take(&mut self.open);
        let mut proposals = proposals.into_iter();
        for o in &open {
            self.tree.set_proposal(o.slot, proposals.next().unwrap_or_default());
        }
        match self.shape.clone() {
            Shape::Constant(branching) => self.constant(&open, branching[self.level], noise, unit),
            Shape::Beam { width, .. } => self.beam(&open, width, noise, unit),
            Shape::Independent(branching) => self.independent(&open, branching[self.level], noise, unit),
        }
        self.level += 1;
    }

    fn push(&mut self, slot: usize, token: u32, phi: f64, g: f64) {
        let node = self.tree.push(slot, token);
        self.open.push(Open { slot: node + 1, phi, g });
    }

    fn constant(&mut self, open: &[Open], n: usize, noise: bool, unit: &mut dyn FnMut() -> f64) {
        for o in open {
            let order = draw_order(&self.tree.proposals[o.slot].law, noise, unit);
            order.into_iter().take(n).for_each(|token| self.push(o.slot, token, 0.0, 0.0));
        }
    }

    fn independent(&mut self, open: &[Open], n: usize, noise: bool, unit: &mut dyn FnMut() -> f64) {
        for o in open {
            let law = &self.tree.proposals[o.slot].law;
            let tokens: Vec<u32> = if noise {
                (0..n).filter_map(|_| law.pick(unit())).collect()
            } else {
                draw_order(law, false, unit).into_iter().take(1).collect()
            };
            tokens.into_iter().for_each(|token| self.push(o.slot, token, 0.0, 0.0));
        }
    }

    /// Kool et al., arXiv 1903.06059: Gumbel noise of the children, conditioned on their largest being the parent's.
    fn beam(&mut self, open: &[Open], width: usize, noise: bool, unit: &mut dyn FnMut() -> f64) {
        let mut children: Vec<(Open, u32)> = Vec::new();
        for o in open {
            let entries = self.tree.proposals[o.slot].law.entries();
            let phi = entries.iter().map(|(_, p)| o.phi + p.ln());
            let noisy: Vec<(f64, f64)> = phi.map(|phi| (phi, if noise { phi + gumbel(unit()) } else { phi })).collect();
            let largest = noisy.iter().map(|n| n.1).fold(f64::NEG_INFINITY, f64::max);
            for (&(token, _), (phi, g)) in entries.iter().zip(noisy) {
                let g = if noise { conditioned(g, largest, o.g) } else { g };
                children.push((Open { slot: o.slot, phi, g }, token));
            }
        }
        children.sort_by(|a, b| b.0.g.total_cmp(&a.0.g).then(a.1.cmp(&b.1)));
        children.truncate(width);
        children.into_iter().for_each(|(o, token)| self.push(o.slot, token, o.phi, o.g));
    }
}

/// `g`, one of several perturbed values with maximum `largest`, moved so that the maximum is `target`.
fn conditioned(g: f64, largest: f64, target: f64) -> f64 {
    let v = target - g + (-(g - largest).exp()).ln_1p();
    target - v.max(0.0) - (-v.abs()).exp().ln_1p()
}

/// Standard Gumbel noise of a uniform number in 0..1.
fn gumbel(u: f64) -> f64 {
    -(-u.max(f64::MIN_POSITIVE).ln()).ln()
}

/// All tokens in the order of drawing without replacement: Gumbel-Top-k. Without `noise`, the most probable ones first.
pub(super) fn draw_order(law: &Probs, noise: bool, unit: &mut dyn FnMut() -> f64) -> Vec<u32> {
    let score = |&(token, p): &(u32, f64)| (p.ln() + if noise { gumbel(unit()) } else { 0.0 }, token);
    let mut order: Vec<(f64, u32)> = law.entries().iter().map(score).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|o| o.1).collect()
}

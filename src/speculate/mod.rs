//! Speculative decoding: a cheap drafter guesses a tree of next tokens, one forward of the model checks all of them, and the
//! answer is distributed exactly as without (greedy answers are the same token by token).
//!
//! A round: [`Speculation::draft`] makes a [`Tree`], which goes into the batch below the last token; [`verify::choose`]
//! walks down from the logits of its rows. Trees are drawn without replacement and verified by recursive rejection sampling
//! (arXiv 2402.14160); [`budget`] decides how much to draft, if at all.

pub mod budget;
pub mod draft;
mod probs;
mod tree;
pub mod verify;

pub use probs::Probs;
pub use tree::{Growth, Node, Shape, Tree};

use crate::batch::{SeqId, Streams};
use crate::error::{Error, Kind, Result};
use crate::model::{Model, ModelConfig};
use crate::sample::Sampler;
use budget::{Cost, Rates, pays};
use draft::{Context, Drafter, Proposal};
use std::collections::HashMap;
use tree::draw_order;

/// How much is drafted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As much as pays, by measured cost and acceptance; nothing where nothing pays.
    Auto,
    /// Always a tree of this form.
    Fixed(Shape),
}

impl std::str::FromStr for Mode {
    type Err = Error;

    /// `auto`, or `METHOD:BUDGET` as for [`Shape::of`].
    fn from_str(text: &str) -> Result<Mode> {
        if text == "auto" {
            return Ok(Mode::Auto);
        }
        let (method, budget) = text.split_once(':').unwrap_or((text, "6"));
        let budget = budget.parse().map_err(|e| Error::invalid_request(format!("a budget of {budget:?}: {e}")))?;
        Shape::of(method, budget, None).map(Mode::Fixed)
    }
}

/// Most guesses of [`Mode::Auto`] in a round.
const MOST: usize = 24;

/// A drafter, and what was learnt about it.
pub struct Speculation {
    drafter: Box<dyn Drafter>,
    mode: Mode,
    max_batch: usize,
    clock: fn() -> f64,
    cost: Cost,
    /// Acceptance over all requests: where a new one begins.
    rates: Rates,
    requests: HashMap<u64, State>,
    /// See [`Speculation::failure`].
    failure: Option<Error>,
}

/// What is known about a request.
#[derive(Clone, Debug)]
struct State {
    rates: Rates,
    /// Running mean of a round's tokens over its cost, in those of plain decoding.
    worth: f64,
    /// Rounds until drafts are tried again, and how long the last pause was.
    wait: u32,
    pause: u32,
    /// Drafter forwards of the round under way.
    drafts: usize,
    /// Set when the drafter failed; it is not asked again before [`Speculation::retry`].
    failed: bool,
}

/// Shortest and longest pause, in rounds, after drafts did not pay.
const PAUSES: (u32, u32) = (4, 64);

/// What an answer is expected to be, by the word of whoever asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prediction<'a> {
    /// The prompt, behind which it begins.
    pub prompt: &'a [u32],
    /// Empty where nothing is expected.
    pub tokens: &'a [u32],
}

/// The request that is drafted for.
pub struct Subject<'a> {
    /// See [`Context`].
    pub request: u64,
    /// See [`Context`].
    pub seq: SeqId,
    /// See [`Context`].
    pub text: &'a [u32],
    /// See [`Context`].
    pub prediction: Prediction<'a>,
    /// Also gives the random numbers of drawing.
    pub sampler: &'a mut Sampler,
    /// Rows that the batch holds without the tree.
    pub rows: usize,
    /// Most guesses that the context, the cache and the batch have room for.
    pub room: usize,
    /// Most levels of guesses: a round emits up to one token more, and the answer may not have more left.
    pub levels: usize,
}

impl Speculation {
    /// Speculates with `drafter` in batches of `max_batch` rows. `clock` gives milliseconds.
    ///
    /// # Errors
    /// As for [`Speculation::set_mode`].
    pub fn new(drafter: Box<dyn Drafter>, mode: Mode, max_batch: usize, clock: fn() -> f64) -> Result<Self> {
        let (cost, rates, requests, failure) = (Cost::default(), Rates::default(), HashMap::new(), None);
        let mut new = Speculation { drafter, mode: Mode::Auto, max_batch, clock, cost, rates, requests, failure };
        new.set_mode(mode)?;
        Ok(new)
    }

    /// Changes how much is drafted; what was learnt is kept.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for a form without nodes or with more than a batch can hold.
    pub fn set_mode(&mut self, mode: Mode) -> Result<()> {
        let most = self.max_batch.saturating_sub(1);
        if let Mode::Fixed(shape) = &mode
            && !(1..=most).contains(&shape.size())
        {
            return Err(Error::invalid_request(format!(
                "a draft tree of {} tokens; 1 to {most} are possible",
                shape.size()
            )));
        }
        self.mode = mode;
        Ok(())
    }

    /// Whether siblings are drawn with replacement.
    pub fn replaces(&self) -> bool {
        matches!(&self.mode, Mode::Fixed(shape) if shape.replaces())
    }

    /// Most guesses of a round.
    pub fn most(&self) -> usize {
        match &self.mode {
            Mode::Auto => MOST,
            Mode::Fixed(shape) => shape.size(),
        }
    }

    /// What was learnt of the forward's cost.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Whether the drafter failed in this request, which is decoded plainly since.
    pub fn failed(&self, request: u64) -> bool {
        self.requests.get(&request).is_some_and(|s| s.failed)
    }

    /// Why the drafter failed last, in any request.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Asks the drafter again in requests where it failed: what it drafts with has changed.
    pub fn retry(&mut self) {
        self.requests.values_mut().for_each(|state| state.failed = false);
    }

    /// Guesses for the next tokens of a request; an empty tree where drafting does not pay, where there is no memory for it, or
    /// where the drafter fails.
    pub async fn draft(&mut self, target: &mut Model, subject: Subject<'_>) -> Tree {
        let rates = &self.rates;
        let state = self.requests.entry(subject.request).or_insert_with(|| State::new(rates));
        state.drafts = 0;
        if state.failed || subject.room == 0 || subject.levels == 0 {
            return Tree::default();
        }
        let drawn = match &self.mode {
            Mode::Fixed(shape) if shape.size() <= subject.room => {
                fixed(&mut *self.drafter, target, shape.clone(), subject, (&mut self.cost, self.clock), state).await
            }
            Mode::Fixed(_) => Ok(Tree::default()),
            Mode::Auto if state.wait > 0 => {
                state.wait -= 1;
                Ok(Tree::default())
            }
            Mode::Auto => auto(&mut *self.drafter, target, subject, (&mut self.cost, self.clock), state).await,
        };
        let streams = self.drafter.take_streams();
        match drawn.and_then(|tree| with_streams(tree, streams, target.config())) {
            Ok(tree) => tree,
            // There may be memory in the next round.
            Err(error) if error.kind() == Kind::OutOfMemory => Tree::default(),
            Err(error) => {
                state.failed = true;
                self.failure = Some(error);
                Tree::default()
            }
        }
    }

    /// Learns from a round: `path` are the slots that were reached, from 0 on.
    pub fn learn(&mut self, request: u64, tree: &Tree, path: &[usize]) {
        let Some(state) = self.requests.get_mut(&request).filter(|_| !tree.is_empty()) else { return };
        // Fixed forms also make guesses that nobody would have bet on.
        if self.mode != Mode::Auto {
            return;
        }
        for (i, &slot) in path.iter().enumerate() {
            let class = tree.class(slot);
            for (k, child) in tree.children(slot).enumerate() {
                let accepted = path.get(i + 1) == Some(&(child + 1));
                state.rates.observed(class, k, accepted);
                self.rates.observed(class, k, accepted);
                if accepted {
                    break;
                }
            }
        }
        let cost = self.cost.ratio(tree.nodes().len() + 1) + self.cost.draft_ratio() * state.drafts as f64;
        state.round(path.len() as f64 / cost);
    }

    /// Learns the time of a forward in which only answers were written.
    pub fn measured(&mut self, rows: usize, milliseconds: f64) {
        self.cost.measured(rows, milliseconds);
    }

    /// Forgets requests that are not under way: they may have ended while the engine had no speculation.
    pub fn retain(&mut self, is_under_way: impl Fn(u64) -> bool) {
        let over: Vec<u64> = self.requests.keys().copied().filter(|&request| !is_under_way(request)).collect();
        over.into_iter().for_each(|request| self.end(request));
    }

    /// Forgets a request.
    pub fn end(&mut self, request: u64) {
        self.requests.remove(&request);
        self.drafter.end(request);
    }
}

impl State {
    fn new(rates: &Rates) -> Self {
        State { rates: rates.clone(), worth: 1.0, wait: 0, pause: PAUSES.0, drafts: 0, failed: false }
    }

    /// After a round that was worth so many tokens of plain decoding.
    fn round(&mut self, worth: f64) {
        self.worth += 0.15 * (worth - self.worth);
        if self.worth < 0.95 {
            (self.wait, self.worth) = (self.pause, 1.0);
            self.pause = (self.pause * 2).min(PAUSES.1);
        } else if self.worth > 1.1 {
            self.pause = PAUSES.0;
        }
    }
}

/// The tree with what its first slots have been through already.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] for streams that cannot be those of the tree's slots.
fn with_streams(mut tree: Tree, streams: Streams, config: &ModelConfig) -> Result<Tree> {
    let (n, most) = (streams.values.len(), (tree.nodes().len() + 1) * config.dim);
    if tree.is_empty() {
        return Ok(tree);
    }
    if !n.is_multiple_of(config.dim) || n > most || streams.layers > config.layers.len() {
        return Err(Error::invalid_request(format!(
            "the drafter's streams are {n} values behind layer {}; {most} at most are possible, {} a token, and {} layers",
            streams.layers,
            config.dim,
            config.layers.len()
        )));
    }
    tree.set_streams(streams);
    Ok(tree)
}

/// Asks the drafter and measures its time.
async fn propose(
    drafter: &mut dyn Drafter,
    target: &mut Model,
    (subject, tree): (&Subject<'_>, &Tree),
    slots: &[usize],
    (cost, clock): (&mut Cost, fn() -> f64),
    state: &mut State,
) -> Result<Vec<Proposal>> {
    let started = clock();
    let &Subject { request, seq, text, prediction, .. } = subject;
    let n_vocab = target.config().n_vocab;
    let context = Context { target, seq, request, text, prediction, sampler: &*subject.sampler, tree };
    let proposals = drafter.propose(context, slots).await?;
    state.drafts += 1;
    cost.drafted(clock() - started);
    let last = proposals.iter().filter_map(|proposal| proposal.law.entries().last());
    match last.map(|(token, _)| *token).find(|&token| token as usize >= n_vocab) {
        Some(token) => {
            Err(Error::invalid_request(format!("the drafter's token {token} is not in the vocabulary of {n_vocab}")))
        }
        None => Ok(proposals),
    }
}

/// A tree of a given form; its upper levels where the answer ends before the others are reached.
async fn fixed(
    drafter: &mut dyn Drafter,
    target: &mut Model,
    shape: Shape,
    subject: Subject<'_>,
    (cost, clock): (&mut Cost, fn() -> f64),
    state: &mut State,
) -> Result<Tree> {
    let noise = subject.sampler.params().temperature > 0.0;
    let mut growth = Growth::new(shape);
    for _ in 0..subject.levels {
        let slots = growth.wanted();
        if slots.is_empty() {
            break;
        }
        let asked = (&subject, growth.tree());
        let proposals = propose(drafter, target, asked, &slots, (&mut *cost, clock), state).await?;
        growth.grow(proposals, noise, &mut || subject.sampler.unit());
    }
    Ok(growth.finish())
}

/// A slot that may get another child.
struct Branch {
    slot: usize,
    /// Probability that the slot is reached and none of its children so far is accepted.
    reach: f64,
    class: usize,
    /// Its children in the order of drawing.
    order: Vec<u32>,
    drawn: usize,
}

/// The tree that pays best: the next guess is always the one that is most likely to be accepted. How likely that is does not depend
/// on which token is drawn, so verification stays exact.
async fn auto(
    drafter: &mut dyn Drafter,
    target: &mut Model,
    subject: Subject<'_>,
    (cost, clock): (&mut Cost, fn() -> f64),
    state: &mut State,
) -> Result<Tree> {
    let noise = subject.sampler.params().temperature > 0.0;
    let per_guess = usize::from(drafter.is_model());
    let (mut tree, mut branches) = (Tree::default(), Vec::<Branch>::new());
    let (mut expected, mut asked) = (1.0, Some((0, 1.0)));
    while tree.nodes().len() < subject.room.min(MOST) {
        if let Some((slot, reach)) = asked.take() {
            let proposals = propose(drafter, target, (&subject, &tree), &[slot], (&mut *cost, clock), state).await?;
            let Some(proposal) = proposals.into_iter().next() else { return Ok(tree) };
            let order = draw_order(&proposal.law, noise, &mut || subject.sampler.unit());
            branches.push(Branch { slot, reach, class: proposal.class, order, drawn: 0 });
            tree.set_proposal(slot, proposal);
        }
        let rate = |b: &Branch| state.rates.get(b.class, b.drawn);
        let open = branches.iter_mut().filter(|b| b.drawn < b.order.len());
        let Some(best) = open.max_by(|a, b| (a.reach * rate(a)).total_cmp(&(b.reach * rate(b)))) else {
            return Ok(tree);
        };
        let (gain, onward) = (best.reach * rate(best), state.rates.get(best.class, 0));
        let so_far = (expected, subject.rows + tree.nodes().len(), state.drafts * per_guess);
        if !pays(cost, so_far, (gain, onward), per_guess) {
            return Ok(tree);
        }
        let node = tree.push(best.slot, best.order[best.drawn]);
        best.reach -= gain;
        best.drawn += 1;
        expected += gain;
        asked = (tree.nodes()[node].depth < subject.levels).then_some((node + 1, gain));
    }
    Ok(tree)
}

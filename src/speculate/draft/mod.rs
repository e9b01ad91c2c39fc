//! Where guesses come from.

mod layers;
mod model;
mod ngram;

pub use layers::Layers;
pub use model::SecondModel;
pub use ngram::Ngram;

use super::{Prediction, Probs, Tree};
use crate::batch::{SeqId, Streams};
use crate::error::Result;
use crate::model::Model;
use crate::sample::Sampler;
use crate::send::{BoxFuture, MaybeSend};

/// What a drafter guesses from.
pub struct Context<'a> {
    /// The target, for drafters that use its layers. Its last token of `text` is not in the cache yet.
    pub target: &'a mut Model,
    /// The request's sequence in the target's cache.
    pub seq: SeqId,
    /// Names the request; never used twice.
    pub request: u64,
    /// Prompt and answer so far.
    pub text: &'a [u32],
    /// What the answer is expected to be.
    pub prediction: Prediction<'a>,
    /// Temperature, truncations, penalties and bias of the request.
    pub sampler: &'a Sampler,
    /// Guesses so far.
    pub tree: &'a Tree,
}

/// A drafter's opinion of a slot.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// What the children are drawn from; empty when the drafter has no idea. Any distribution keeps the answer exact.
    pub law: Probs,
    /// How sure the drafter is, as a class: acceptance is counted for each class apart.
    pub class: usize,
}

/// Classes of [`Proposal::class`].
pub const CLASSES: usize = 15;

/// Proposals that may have to wait for a device.
pub type Proposals<'a> = BoxFuture<'a, Result<Vec<Proposal>>>;

/// A source of guesses.
pub trait Drafter: MaybeSend {
    /// The distribution behind each of these slots of `context.tree`; slots are ascending. Those left out at the end have none.
    ///
    /// # Errors
    /// Whatever the drafter's own device reports; the answer goes on without drafts.
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a>;

    /// Takes the target's streams of the slots that were run since the tree was empty; see [`Tree::streams`].
    fn take_streams(&mut self) -> Streams {
        Streams::default()
    }

    /// Forgets a request.
    fn end(&mut self, request: u64);

    /// Whether a proposal costs a forward of a model.
    fn is_model(&self) -> bool;
}

/// Most tokens of a model's proposal: those behind have next to no probability, and trees keep a proposal for every node.
const LAW_LEN: usize = 64;

/// Proposals of a model from the rows of logits `[slots, n_vocab]`, after the request's own sampling settings. Greedy
/// requests draft from the untempered distribution, most probable tokens first.
fn from_logits(context: &Context<'_>, logits: &[f32], n_vocab: usize, slots: &[usize]) -> Vec<Proposal> {
    let n = n_vocab.min(context.target.config().n_vocab);
    let rows = logits.chunks_exact(n_vocab).zip(slots);
    rows.map(|(row, &slot)| {
        let after = context.sampler.draft_distribution(&row[..n], &context.tree.path(slot), LAW_LEN);
        let law = Probs::of(&after);
        let class = class_of(law.largest());
        Proposal { law, class }
    })
    .collect()
}

/// The class of a probability.
fn class_of(p: f64) -> usize {
    ((p * CLASSES as f64) as usize).min(CLASSES - 1)
}

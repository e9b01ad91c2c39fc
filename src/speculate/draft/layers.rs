//! The target's own first layers as drafter (layer skip): its final norm and head on an early hidden state.

use super::{Context, Drafter, Proposals, from_logits};
use crate::batch::{Batch, BatchToken, SeqId};
use crate::error::{Error, Result};
use crate::model::Model;

/// Drafts with the first layers of the target. The cache entries that it writes are those that verification writes again.
#[derive(Debug)]
pub struct Layers {
    n: usize,
    batch: Batch,
    logits: Vec<f32>,
}

impl Layers {
    /// The first `n` layers of `target`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when that is none or all of them.
    pub fn new(target: &Model, n: usize) -> Result<Self> {
        let all = target.config().layers.len();
        if n == 0 || n >= all {
            return Err(Error::invalid_request(format!("drafting with {n} layers; 1 to {} are possible", all - 1)));
        }
        Ok(Layers { n, batch: Batch::new(), logits: Vec::new() })
    }
}

impl Drafter for Layers {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        Box::pin(async move {
            let Some(&root) = context.text.last() else { return Ok(Vec::new()) };
            self.batch.clear();
            tree_batch(&mut self.batch, context.seq, root, &context, slots);
            context.target.forward_layers(&self.batch, self.n, &mut self.logits).await?;
            Ok(from_logits(&context, &self.logits, context.target.config().n_vocab, slots))
        })
    }

    fn end(&mut self, _: u64) {}

    fn is_model(&self) -> bool {
        true
    }
}

/// The root and the tree so far as a batch of one sequence, with outputs at `slots`.
pub(super) fn tree_batch(batch: &mut Batch, seq: SeqId, root: u32, context: &Context<'_>, slots: &[usize]) {
    batch.push(BatchToken { token: root, seq, parent: None, output: slots.contains(&0) });
    for (i, node) in context.tree.nodes().iter().enumerate() {
        let parent = Some(node.slot as u32);
        batch.push(BatchToken { token: node.token, seq, parent, output: slots.contains(&(i + 1)) });
    }
}

//! Ways of reading a context, and the logits behind it.

use super::auxiliary::Auxiliary;
use foreword::Result;
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::kv::Recompute;
use foreword::model::{Entries, Model};
use foreword::predict::SINKS;
use pollster::block_on;
use std::cmp::Reverse;
use std::ops::Range;

/// Last tokens that every way but the paper's own keeps.
pub(super) const NEAR: usize = 32;

/// How a context is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Exact,
    /// By trunk and maps; so many last tokens, and the first [`SINKS`], go through all layers.
    Predicted(usize),
    /// By an auxiliary and its maps; some first tokens and some last ones go through the base's layers.
    Auxiliary(usize, usize),
    /// The auxiliary reads and answers.
    Alone,
    /// Only some tokens, exactly, as if they were the whole text.
    Pruned(Kept, usize),
}

/// Which tokens a pruned context keeps besides the first [`SINKS`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kept {
    Last,
    /// The last [`NEAR`], and others by chance.
    Random,
    /// The last [`NEAR`], and those that get most attention from these in the first so many layers.
    Attended(usize),
}

/// The model, and the auxiliary of the moment.
pub(super) struct Models<'a> {
    pub(super) base: &'a mut Model,
    pub(super) auxiliary: Option<&'a mut Auxiliary>,
}

impl Models<'_> {
    /// The one that answers.
    pub(super) fn answering(&mut self, way: Way) -> &mut Model {
        match (way, &mut self.auxiliary) {
            (Way::Alone, Some(auxiliary)) => &mut auxiliary.model,
            _ => self.base,
        }
    }

    /// Reads a context; returns its sequence in the model that answers, and the logits behind its last token.
    pub(super) fn read(&mut self, way: Way, context: &[u32]) -> Result<(SeqId, Vec<f32>)> {
        let n = context.len();
        let mut logits = Vec::new();
        let kept = match way {
            Way::Pruned(kept, last) if n > SINKS + last => kept.tokens(self.base, context, last)?,
            _ => context.to_vec(),
        };
        let model = self.answering(way);
        let seq = model.kv_mut().new_seq();
        match (way, &mut self.auxiliary) {
            (Way::Predicted(tail), _) => {
                let streams = trunk(self.base, seq, context)?;
                recompute(self.base, (seq, context), [0..SINKS, n - tail..n], Some(&streams), &mut logits)?;
            }
            (Way::Auxiliary(first, last), Some(auxiliary)) => {
                auxiliary.read(self.base, seq, context)?;
                recompute(self.base, (seq, context), [0..first, n - last..n], None, &mut logits)?;
            }
            _ => append(self.answering(way), seq, &kept, false, &mut logits)?,
        }
        Ok((seq, logits))
    }
}

impl Kept {
    /// The first [`SINKS`] tokens and `n` others.
    fn tokens(self, model: &mut Model, context: &[u32], n: usize) -> Result<Vec<u32>> {
        let tail = context.len() - NEAR.min(n);
        let mut middle: Vec<usize> = (SINKS..tail).rev().collect();
        match self {
            Kept::Last => {}
            Kept::Random => middle.sort_by_key(|&i| mixed(context[i], i)),
            Kept::Attended(layers) => {
                let mass = attention(model, context, layers)?;
                middle.sort_by(|&a, &b| mass[b].total_cmp(&mass[a]));
            }
        }
        middle.truncate(n - (context.len() - tail));
        middle.sort_unstable();
        Ok((0..SINKS).chain(middle).chain(tail..context.len()).map(|i| context[i]).collect())
    }
}

/// A number by chance, always the same one for a token at a place (the finalizer of SplitMix64).
fn mixed(token: u32, at: usize) -> Reverse<u64> {
    let mut z = (u64::from(token) << 32 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Reverse(z ^ (z >> 31))
}

/// Attention that each token of a context gets from the last [`NEAR`] in the first layers, over all heads. Windows are not
/// applied.
fn attention(model: &mut Model, context: &[u32], layers: usize) -> Result<Vec<f32>> {
    let seq = model.kv_mut().new_seq();
    let mut seen = vec![Entries::default(); layers];
    let mut batch = Batch::new();
    for chunk in context.chunks(model.max_batch()) {
        batch.clear();
        batch.push_run(seq, chunk, false);
        let entries = block_on(model.observe(&batch, layers, true))?;
        model.kv_mut().commit_run(seq)?;
        for (all, new) in seen.iter_mut().zip(entries) {
            all.q.extend(new.q);
            all.k.extend(new.k);
        }
    }
    model.kv_mut().free(seq);
    let mut mass = vec![0.0; context.len()];
    for (layer, entries) in seen.iter().enumerate() {
        let Some(a) = model.config().attention(layer) else { continue };
        let (d, group) = (a.head_dim, a.n_heads / a.n_kv_heads);
        for row in context.len().saturating_sub(NEAR)..context.len() {
            for head in 0..a.n_heads {
                let query = &entries.q[(row * a.n_heads + head) * d..][..d];
                let key = |i: usize| &entries.k[(i * a.n_kv_heads + head / group) * d..][..d];
                let score = |i| query.iter().zip(key(i)).map(|(q, k)| q * k).sum::<f32>() * a.scale;
                let scores: Vec<f32> = (0..=row).map(score).collect();
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|s| (s - largest).exp()).sum();
                mass.iter_mut().zip(scores).for_each(|(mass, s)| *mass += (s - largest).exp() / sum);
            }
        }
    }
    Ok(mass)
}

/// Reads a context through the trunk and the maps; returns the streams behind the trunk.
fn trunk(model: &mut Model, seq: SeqId, context: &[u32]) -> Result<Vec<f32>> {
    let (mut batch, mut all, mut streams) = (Batch::new(), Vec::new(), Vec::new());
    for chunk in context.chunks(model.max_batch()) {
        batch.clear();
        batch.push_run(seq, chunk, false);
        block_on(model.forward_trunk(&batch, &mut streams))?;
        model.kv_mut().commit_run(seq)?;
        all.extend_from_slice(&streams);
    }
    Ok(all)
}

/// Runs first and last tokens once more, exactly; the last one's logits.
fn recompute(
    model: &mut Model,
    (seq, context): (SeqId, &[u32]),
    ends: [Range<usize>; 2],
    streams: Option<&[f32]>,
    logits: &mut Vec<f32>,
) -> Result<()> {
    let dim = model.config().dim;
    let streams = streams.map(|all| ends.clone().map(|run| &all[run.start * dim..run.end * dim]).concat());
    let runs =
        ends.map(|run| Recompute { seq, first: run.start, tokens: &context[run.clone()], output: run.start > 0 });
    block_on(model.recompute(&runs, streams.as_deref(), logits))
}

/// Logits `[next, n_vocab]` that each of `next` was to be chosen from; `first` are the first ones.
pub(super) fn behind(model: &mut Model, seq: SeqId, mut first: Vec<f32>, next: &[u32]) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    for chunk in next[..next.len() - 1].chunks(model.max_batch()) {
        append(model, seq, chunk, true, &mut logits)?;
        first.extend_from_slice(&logits);
    }
    Ok(first)
}

/// Appends tokens; gives the logits of all, or of the last one.
fn append(model: &mut Model, seq: SeqId, tokens: &[u32], all: bool, logits: &mut Vec<f32>) -> Result<()> {
    let mut batch = Batch::new();
    let step = model.max_batch();
    for (c, chunk) in tokens.chunks(step).enumerate() {
        batch.clear();
        for (i, &token) in chunk.iter().enumerate() {
            let output = all || c * step + i + 1 == tokens.len();
            batch.push(BatchToken { token, seq, parent: i.checked_sub(1).map(|p| p as u32), output });
        }
        block_on(model.forward(&batch, logits))?;
        model.kv_mut().commit_run(seq)?;
    }
    Ok(())
}

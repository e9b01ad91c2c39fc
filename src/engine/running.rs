//! A request that has a sequence in the cache: what it asks of a forward, and what it makes of one.

use super::beside::Beside;
use super::outputs::Outputs;
use super::request::Event;
use super::task::Task;
use crate::backend::BLOCK;
use crate::batch::{Batch, BatchToken, SeqId};
use crate::error::Result;
use crate::kv::KvCache;
use crate::model::Model;
use crate::model::predict::Reading;
use crate::prefill::common;
use crate::sample::{Logits, Wish};
use crate::speculate::verify::{Choice, choose};
use crate::speculate::{Probs, Speculation, Subject, Tree};
use crate::tokenizer::Tokenizer;

pub(super) struct Running {
    pub(super) task: Task,
    pub(super) seq: SeqId,
    /// The sequence of the other text of a contrasted request, once their common beginning is read.
    pub(super) beside: Option<Beside>,
    /// What the request put into this step's batch.
    pub(super) share: Share,
    /// Guesses below the last token, for this step's batch.
    tree: Tree,
    /// Set while the prompt's entries are predicted ones, in part.
    pub(super) reading: Option<Reading>,
    /// Tokens in the cache.
    done: usize,
}

/// A request's share of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// The first of its rows.
    pub(super) first: u32,
    pub(super) rows: usize,
    /// How many of the rows, at the end, are of the request's own sequence.
    pub(super) own: usize,
    /// How many of the rows give logits.
    pub(super) outputs: usize,
}

impl Running {
    /// Starts in `seq`, whose `cached` tokens are the beginning of the text; `reading` where the others are to be predicted.
    pub(super) fn new(mut task: Task, seq: SeqId, cached: usize, reading: Option<Reading>) -> Self {
        task.follows = None;
        if !task.has_begun() {
            task.usage.cached_tokens = cached;
        }
        Running { task, seq, beside: None, share: Share::default(), tree: Tree::default(), reading, done: cached }
    }

    /// Tokens in the cache.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Number of tokens that are not in the cache yet, of both texts where the request has two.
    pub(super) fn pending(&self) -> usize {
        self.own_pending() + self.other_pending()
    }

    /// Those of the request's own text, which is read up to where another parts from it until that one has its sequence.
    fn own_pending(&self) -> usize {
        let parting = self.task.other.as_ref().filter(|_| self.beside.is_none()).map(|other| other.common);
        parting.unwrap_or(self.task.tokens().len()).saturating_sub(self.done)
    }

    fn other_pending(&self) -> usize {
        let texts = self.task.other.as_ref().zip(self.beside.as_ref());
        texts.map_or(0, |(other, beside)| other.tokens.len() - beside.done)
    }

    /// Its sequences, and what of their texts may be shared.
    pub(super) fn texts(&self) -> impl Iterator<Item = (SeqId, &[u32])> {
        let texts = self.task.other.as_ref().zip(self.beside.as_ref());
        let other = texts.map(|(other, beside)| (beside.seq, &other.tokens[..beside.done]));
        std::iter::once((self.seq, self.exact())).chain(other)
    }

    /// Whether the cache lacks more of the text than an answer's last chosen token and those that a rule forced behind it.
    pub(super) fn is_reading(&self) -> bool {
        self.own_pending().max(self.other_pending()) > 1 + self.task.forced()
            || !self.task.has_begun()
            || self.reads_ahead()
    }

    /// Whether the prompt is being read by prediction, and no word of the answer came of it yet.
    pub(super) fn reads_ahead(&self) -> bool {
        self.reading.as_ref().is_some_and(|r| !r.begun)
    }

    /// Leading tokens whose cache entries are those of the whole model; only they may be shared.
    pub(super) fn exact(&self) -> &[u32] {
        let n = self.reading.as_ref().map_or(self.done, |r| r.exact.min(self.done));
        &self.task.tokens()[..n]
    }

    /// How much of a text's beginning another request can share with this one, and with which sequence.
    pub(super) fn shareable(&self, kv: &KvCache, beginning: &[u32]) -> (usize, SeqId) {
        let shared = self.texts().map(|(seq, text)| (kv.forkable(seq, common(text, beginning)), seq));
        shared.max_by_key(|(n, _)| *n).unwrap_or((0, self.seq))
    }

    /// How much of it that will be once the prompt is read.
    pub(super) fn to_be_shareable(&self, kv: &KvCache, beginning: &[u32]) -> usize {
        let n = common(self.task.tokens(), beginning);
        if kv.spec().has_states() { self.task.borders(0..=n).last().unwrap_or(0) } else { n }
    }

    /// Blocks that were promised to this request and that it does not hold yet.
    pub(super) fn blocks_to_come(&self, kv: &KvCache) -> usize {
        let promised = self.task.promised();
        let missing = |seq, len: usize| kv.blocks_needed(seq, len.saturating_sub(kv.len(seq))).unwrap_or(0);
        let other = self.task.other.as_ref().map_or(0, |other| {
            let len = other.tokens.len() + promised - self.task.tokens().len();
            self.beside.as_ref().map_or(len.div_ceil(BLOCK), |beside| missing(beside.seq, len))
        });
        missing(self.seq, promised) + other
    }

    /// Blocks that the next [`Running::put`] of `n` rows takes.
    pub(super) fn blocks_needed(&self, kv: &KvCache, n: usize) -> usize {
        let other = n.min(self.other_pending());
        let of_other = self.beside.as_ref().map_or(Ok(0), |beside| kv.blocks_needed(beside.seq, other));
        kv.blocks_needed(self.seq, n - other).unwrap_or(0) + of_other.unwrap_or(0)
    }

    /// Puts `n` rows into a batch for the trunk.
    pub(super) fn put_early(&mut self, n: usize, batch: &mut Batch) {
        self.share = Share { first: batch.len() as u32, rows: n, own: n, outputs: 0 };
        batch.push_run(self.seq, &self.task.tokens()[self.done..][..n], false);
    }

    /// Keeps what the trunk made of [`Running::put_early`].
    pub(super) fn keep_streams(&mut self, streams: &[f32]) {
        self.done += self.share.rows;
        if let Some(reading) = &mut self.reading {
            reading.streams.extend_from_slice(streams);
        }
    }

    /// Chooses the first word after the tail.
    pub(super) fn take_early(&mut self, tokenizer: &Tokenizer, logits: Logits<'_>, now: f64, events: &mut Vec<Event>) {
        if let Some(reading) = &mut self.reading {
            reading.begin();
            // What is read again says nothing about how the answer began.
            if !self.task.has_begun() {
                self.task.usage.predicted_tokens = reading.tokens.len() - reading.ends_len();
            }
            if !reading.progressive {
                reading.streams = Vec::new();
            }
        }
        self.task.choose(tokenizer, logits, now, events);
    }

    /// Notes that entries up to `end` have been made exact; when all are, the request is like any other.
    pub(super) fn made_exact(&mut self, end: usize) {
        if let Some(reading) = &mut self.reading {
            reading.exact = reading.exact.max(end);
            if reading.exact >= self.done {
                self.reading = None;
            }
        }
    }

    /// This request as something to guess for. `rows` and `room` as in [`Subject`].
    pub(super) fn subject(&mut self, rows: usize, room: usize) -> Subject<'_> {
        // A round emits at most one token more than the tree is deep, however many guesses it has.
        let levels = self.task.left().saturating_sub(1);
        let (request, seq) = (self.task.id.0, self.seq);
        let (text, prediction, sampler) = self.task.text_and_sampler();
        Subject { request, seq, text, prediction, sampler, rows, room, levels }
    }

    /// Whether the next forward may verify guesses: not while it reads more than one token, nor where the request wants none or has two
    /// texts.
    pub(super) fn may_guess(&self) -> bool {
        !self.is_reading() && self.pending() == 1 && !self.task.request.plain && self.task.other.is_none()
    }

    /// Sets the guesses of the next [`Running::put`].
    pub(super) fn set_guesses(&mut self, tree: Tree) {
        self.tree = tree;
    }

    /// Number of guesses.
    pub(super) fn guesses(&self) -> usize {
        self.tree.nodes().len()
    }

    /// Puts up to `n` rows into a batch. Here, and only here, it is decided what a request asks of a forward.
    pub(super) fn put(&mut self, n: usize, dim: usize, batch: &mut Batch) {
        let first = batch.len() as u32;
        if self.guesses() > 0 && self.pending() == 1 && n > self.guesses() {
            let rows = 1 + self.guesses();
            self.share = Share { first, rows, own: rows, outputs: rows };
            return self.put_tree(dim, batch);
        }
        self.tree = Tree::default();
        // The other text goes first, so that its logits are there when those of the request's own are.
        let other = n.min(self.other_pending());
        let other_whole = match (&self.beside, &self.task.other) {
            (Some(beside), Some(text)) => beside.put(text, other, batch),
            _ => false,
        };
        let own = (n - other).min(self.own_pending());
        let whole = own > 0 && self.done + own == self.task.tokens().len();
        if own > 0 {
            batch.push_run(self.seq, &self.task.tokens()[self.done..][..own], whole);
        }
        self.share = Share { first, rows: other + own, own, outputs: usize::from(other_whole) + usize::from(whole) };
    }

    /// Puts the one row of an answer that is being written; `token` as [`crate::model::Model::send_greedy`] takes it.
    pub(super) fn put_one(&mut self, token: u32, batch: &mut Batch) {
        let first = batch.push(BatchToken { token, seq: self.seq, parent: None, output: true });
        self.share = Share { first, rows: 1, own: 1, outputs: 1 };
    }

    /// Whether an answer is being written whose next two tokens are the most probable ones: the second may be chosen before the
    /// rules are told of the first.
    pub(super) fn is_greedy(&self) -> bool {
        let only = Some(Wish { n: 1, sum: false, sure: true });
        let next_two = self.wish(1) == only && self.task.sampler.wish(1, 1) == only;
        !self.is_reading() && self.pending() <= 1 && self.reading.is_none() && next_two
    }

    /// The last token and the guesses below it in the order of slots, with logits of all of them.
    fn put_tree(&self, dim: usize, batch: &mut Batch) {
        let (seq, first) = (self.seq, self.share.first);
        let mut push = |token, parent| batch.push(BatchToken { token, seq, parent, output: true });
        push(self.task.tokens()[self.done], None);
        for guess in self.tree.nodes() {
            push(guess.token, Some(first + guess.slot as u32));
        }
        batch.resume(first, self.tree.streams(), dim);
    }

    /// What [`Running::take`] needs of the logits of its outputs, when at most `most` of the largest are to be had; `None`:
    /// all of them.
    pub(super) fn wish(&self, most: usize) -> Option<Wish> {
        if self.task.other.is_some() {
            return None;
        }
        let wish = self.task.sampler.wish(self.guesses(), most)?;
        let logprobs = self.task.request.logprobs;
        let n = wish.n.max(logprobs.unwrap_or(0));
        // Which rows of a tree count is found out on the way.
        let usable = n <= most && (wish.sure || self.tree.is_empty());
        usable.then_some(Wish { n, sum: wish.sum || logprobs.is_some(), ..wish })
    }

    /// Whether tokens can be chosen from these outputs.
    pub(super) fn suffices(&mut self, outputs: Outputs<'_>) -> bool {
        (0..self.share.outputs).all(|i| match outputs.row(i) {
            Logits::Top(top) if self.tree.is_empty() => self.task.sampler.suffices(top),
            _ => true,
        })
    }

    /// Takes what the forward made of [`Running::put`]: keeps rows in the cache and chooses tokens. `outputs` are those of
    /// the request's share.
    ///
    /// # Errors
    /// Never for a sequence that was in the batch.
    pub(super) fn take(
        &mut self,
        (model, tokenizer): (&mut Model, &Tokenizer),
        speculation: Option<&mut Speculation>,
        outputs: Outputs<'_>,
        now: f64,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        if let Some(speculation) = speculation
            && !self.tree.is_empty()
        {
            let rows = self.verify(tokenizer, speculation, outputs, now, events);
            self.done += rows.len();
            return model.commit(self.seq, &rows);
        }
        self.commit(model.kv_mut())?;
        let (mut outputs, pending) = ((0..self.share.outputs).map(|i| outputs.row(i)), self.other_pending());
        let Some((beside, text)) = self.beside.as_mut().zip(self.task.other.as_ref()) else {
            outputs.for_each(|logits| self.task.choose(tokenizer, logits, now, events));
            return Ok(());
        };
        if self.share.rows > self.share.own && pending == 0 {
            outputs.next().into_iter().for_each(|logits| beside.keep(logits));
        }
        if let Some(own) = outputs.next() {
            let pair = beside.pair(text, own);
            self.task.choose(tokenizer, pair, now, events);
        }
        Ok(())
    }

    /// Keeps what was planned in the cache; a second time this changes nothing.
    ///
    /// # Errors
    /// Never for a sequence that exists.
    pub(super) fn commit(&mut self, kv: &mut KvCache) -> Result<()> {
        kv.commit_run(self.seq)?;
        self.done = kv.len(self.seq);
        if let Some(beside) = &mut self.beside {
            kv.commit_run(beside.seq)?;
            beside.done = kv.len(beside.seq);
        }
        Ok(())
    }

    /// Walks down the tree from its root, emitting tokens; returns the rows that are kept.
    fn verify(
        &mut self,
        tokenizer: &Tokenizer,
        speculation: &mut Speculation,
        outputs: Outputs<'_>,
        now: f64,
        events: &mut Vec<Event>,
    ) -> Vec<u32> {
        let (tree, task) = (std::mem::take(&mut self.tree), &mut self.task);
        task.usage.forwards += 1;
        let (mut path, mut rows) = (vec![0], vec![self.share.first]);
        let mut slot = 0;
        loop {
            let logits = outputs.row(slot);
            let target = Probs::of(task.sampler.distribution(logits));
            let children: Vec<usize> = tree.children(slot).collect();
            let drawn: Vec<u32> = children.iter().map(|&c| tree.nodes()[c].token).collect();
            let replaces = speculation.replaces();
            let choice = choose(target, tree.law(slot), &drawn, replaces, &mut || task.sampler.unit());
            let Choice::Accepted(k) = choice else {
                if let Choice::Emitted(token) = choice {
                    task.emit(tokenizer, (token, false), Some(logits), now, events);
                }
                break;
            };
            slot = children[k] + 1;
            path.push(slot);
            let known = task.tokens().len();
            task.emit(tokenizer, (drawn[k], true), Some(logits), now, events);
            // A token that ends the answer is not part of it.
            if task.tokens().len() > known {
                rows.push(self.share.first + slot as u32);
            }
            if task.finish.is_some() {
                break;
            }
        }
        task.force(tokenizer, now, events);
        task.usage.guessed_tokens += tree.nodes().len();
        task.usage.accepted_tokens += path.len() - 1;
        speculation.learn(task.id.0, &tree, &path);
        rows
    }
}

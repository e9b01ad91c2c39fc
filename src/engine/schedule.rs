//! What runs in a step: who is admitted, and how the rows of the batch are shared out.

use super::Engine;
use super::beside::Beside;
use super::prefixes::Prefixes;
use super::running::{Running, Share};
use super::task::Task;
use crate::backend::BLOCK;
use crate::batch::SeqId;
use crate::error::Result;
use crate::kv::KvCache;
use crate::prefill::{LEAST, WORTH_WAITING, width};
use crate::speculate::Tree;

/// A step's batch as the cost model counts it.
pub(super) struct Work {
    /// Whether prompts are part of it.
    pub(super) reading: bool,
    /// Rows' worth.
    pub(super) rows: f64,
}

impl Engine {
    /// Puts a request where its turn is.
    pub(super) fn enqueue(&mut self, task: Task) {
        let place = self.waiting.partition_point(|w| w.turn < task.turn);
        self.waiting.insert(place, task);
    }

    /// Moves waiting requests to the running ones, in the order of their turns, while the cache has room for them.
    pub(super) fn admit(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            if self.must_wait(at) {
                at += 1;
                continue;
            }
            let task = self.waiting.remove(at);
            let next = self.begin(task);
            let shared = next.done();
            self.running.push(next);
            // Alone, a request fits: `submit` has seen to that.
            if !self.keeps_promises() && self.running.len() > 1 {
                if let Some(next) = self.running.pop() {
                    let kv = self.model.kv_mut();
                    next.texts().for_each(|(seq, _)| kv.free(seq));
                    self.waiting.insert(at, next.task);
                }
                break;
            }
            self.totals.shared += shared;
        }
        self.fork();
        self.make_slots();
    }

    /// Whether the cache has room for all that the running requests were promised; known beginnings give way to it.
    fn keeps_promises(&mut self) -> bool {
        let kv = self.model.kv_mut();
        let promised: usize = self.running.iter().map(|r| r.blocks_to_come(kv)).sum();
        if kv.free_blocks() + self.prefixes.evictable(kv) < promised {
            return false;
        }
        while kv.free_blocks() < promised && self.prefixes.evict(kv) {}
        self.make_slots()
    }

    /// Whether every running request gets a state that no other has; kept states give way, at first those of requests that are over.
    fn make_slots(&mut self) -> bool {
        let kv = self.model.kv_mut();
        let texts = self.running.iter().map(|r| 1 + usize::from(r.task.other.is_some())).sum::<usize>();
        if kv.spec().has_states() && texts > kv.spec().n_slots {
            return false;
        }
        loop {
            let sequences = self.running.iter().flat_map(Running::texts);
            let needed: usize = sequences.map(|(seq, _)| kv.slots_needed(seq).unwrap_or(0)).sum();
            if needed <= kv.free_slots() {
                return true;
            }
            if !self.prefixes.forget_state(kv)
                && !self.running.iter().flat_map(Running::texts).any(|(seq, _)| kv.forget_checkpoint(seq))
            {
                return false;
            }
        }
    }

    /// Keeps the states of prompts at the places where later requests may go on from them.
    pub(super) fn keep_states(&mut self) -> Result<()> {
        let kv = self.model.kv_mut();
        if !kv.spec().has_states() {
            return Ok(());
        }
        for r in &self.running {
            for len in r.task.borders(r.done() + 1 - r.share.own.min(r.done())..=r.done()) {
                if kv.free_slots() == 0 && !self.prefixes.forget_state(kv) {
                    kv.forget_checkpoint(r.seq);
                }
                kv.checkpoint(r.seq, len)?;
            }
        }
        Ok(())
    }

    /// Whether a waiting request had better wait until one that runs has read the beginning that both share.
    fn must_wait(&mut self, at: usize) -> bool {
        let next = &self.waiting[at];
        if let Some((leader, shared)) = next.follows
            && let Some(leader) = self.running.iter().find(|r| r.task.id == leader)
        {
            return leader.done() < shared;
        }
        let beginning = next.beginning();
        let kv = self.model.kv();
        let read = self.running.iter().map(|r| r.shareable(kv, beginning).0).max().unwrap_or(0);
        // Whoever comes later in turn may never get to it.
        let leaders = self.running.iter().filter(|r| r.is_reading() && r.reading.is_none() && r.task.turn < next.turn);
        let best = leaders.map(|r| (r.to_be_shareable(kv, beginning), r.task.id)).max_by_key(|(n, _)| *n);
        let Some((shared, leader)) = best.filter(|(n, _)| *n >= read + WORTH_WAITING) else { return false };
        if self.prefixes.longest(kv, beginning).len + WORTH_WAITING > shared {
            return false;
        }
        self.waiting[at].follows = Some((leader, shared));
        true
    }

    /// Gives a request its sequence. The last token is always read, for its logits.
    fn begin(&mut self, task: Task) -> Running {
        let kv = self.model.kv_mut();
        let seq = sequence(kv, &mut self.prefixes, &self.running, task.beginning());
        let cached = kv.len(seq);
        let exact = task.other.is_some();
        let reading = self.choose_prefill(task.request.prefill, cached..task.tokens().len()).filter(|_| !exact);
        Running::new(task, seq, cached, reading)
    }

    /// Gives contrasted requests their second sequence where the common beginning of both texts is read.
    fn fork(&mut self) {
        for at in 0..self.running.len() {
            let r = &self.running[at];
            let Some(other) = r.task.other.as_ref().filter(|other| r.beside.is_none() && r.done() >= other.common)
            else {
                continue;
            };
            let kv = self.model.kv_mut();
            let seq = sequence(kv, &mut self.prefixes, &self.running, other.beginning());
            self.running[at].beside = Some(Beside::new(kv, seq));
        }
    }

    /// Has the next tokens of all answers guessed that are being written. Guesses get memory that nobody else needs now.
    pub(super) async fn guess(&mut self) {
        // Those of a step that the caller dropped.
        self.running.iter_mut().for_each(|r| r.set_guesses(Tree::default()));
        let Some(speculation) = &mut self.speculation else { return };
        let tasks = || self.running.iter().map(|r| &r.task).chain(&self.waiting);
        speculation.retain(|request| tasks().any(|task| task.id.0 == request));
        let writing: usize = self.running.iter().filter(|r| !r.is_reading()).map(Running::pending).sum();
        let free = self.model.kv().free_blocks() + self.prefixes.evictable(self.model.kv_mut());
        let spare = (free / self.running.len().max(1)).saturating_sub(1) * BLOCK;
        let context = self.model.context_length();
        let mut rows = writing;
        for r in &mut self.running {
            let tail = r.done().next_multiple_of(BLOCK).saturating_sub(r.done() + 1);
            let room = (tail + spare).min(self.model.max_batch().saturating_sub(rows));
            let room = room.min(context.saturating_sub(r.done() + 1)).min(speculation.most());
            if !r.may_guess() {
                continue;
            }
            // A drafter may run its guesses through the model, which takes free blocks only.
            let kv = self.model.kv_mut();
            let needed = kv.blocks_needed(r.seq, 1 + room).unwrap_or(0);
            while kv.free_blocks() < needed && self.prefixes.evict(kv) {}
            let tree = speculation.draft(&mut self.model, r.subject(rows, room)).await;
            r.set_guesses(tree);
            rows += r.guesses();
        }
    }

    /// Fills the batch: answers first, then prompts in the order of their turns.
    pub(super) fn fill(&mut self) -> Work {
        self.batch.clear();
        self.running.iter_mut().for_each(|r| r.share = Share::default());
        // Outputs come in row order, and the rows in the order of `running`.
        self.running.sort_by_key(|r| (r.is_reading(), r.task.turn));
        let mut work = Work { reading: false, rows: 0.0 };
        let mut blocks = 0;
        let mut budget = None;
        let mut at = 0;
        while at < self.running.len() {
            let left = self.model.max_batch() - self.batch.len();
            let r = &self.running[at];
            let n = if r.reads_ahead() {
                0
            } else if r.is_reading() {
                let budget = budget.get_or_insert_with(|| self.prompt_budget(&work));
                let fit = self.cost.fit(r.done(), budget.rows).max(budget.least);
                let n = r.pending().min(left).min(budget.tokens).min(fit);
                budget.least = 0;
                budget.tokens -= n;
                budget.rows -= self.cost.run(r.done(), n, 0);
                n
            } else {
                // Without room for all its guesses, a request puts its own tokens only.
                let own = r.pending();
                if left >= own + r.guesses() { own + r.guesses() } else { left.min(own) }
            };
            let n = self.make_room(at, n, &mut blocks);
            let Some(r) = self.running.get_mut(at) else { break };
            let reading = r.is_reading();
            r.put(n, self.model.config().dim, &mut self.batch);
            work.rows += self.cost.run(r.done(), n, r.share.outputs);
            if reading {
                work.reading |= n > 0;
                self.n_read += n as u64;
            }
            at += 1;
        }
        work
    }

    /// How much of prompts may go into a step that begins with `writing`.
    fn prompt_budget(&self, writing: &Work) -> PromptBudget {
        let left = self.model.max_batch() - self.batch.len();
        if !self.batch.is_empty() {
            return PromptBudget { tokens: left, rows: self.pace.room(writing.rows), least: LEAST };
        }
        // Nobody is kept waiting by a wide forward. When no further requests are to come, all are of one width.
        let pending = self.running.iter().filter(|r| !r.reads_ahead()).map(Running::pending).sum();
        let tokens = if self.waiting.is_empty() { width(pending, left) } else { left };
        PromptBudget { tokens, rows: f64::INFINITY, least: 0 }
    }

    /// Sees to it that request `at` can append `n` tokens behind the `blocks` that others of this batch take; gives up
    /// known beginnings first, then the answers whose turn is last, at the end this one. Returns how many tokens fit.
    pub(super) fn make_room(&mut self, at: usize, n: usize, blocks: &mut usize) -> usize {
        loop {
            let kv = self.model.kv_mut();
            let needed = self.running[at].blocks_needed(kv, n);
            if *blocks + needed <= kv.free_blocks() {
                *blocks += needed;
                return n;
            }
            if self.prefixes.evict(kv) {
                continue;
            }
            let last = self.running.len() - 1;
            if last == 0 {
                // Alone with the whole cache, so at least its limit fits.
                return n.min(kv.free_blocks() * BLOCK);
            }
            if let Some(victim) = self.running.pop() {
                self.preempt(victim);
            }
            if last == at {
                return 0;
            }
        }
    }

    /// Takes a running request's memory; it waits for its turn again, and finds what is left of its cache then.
    pub(super) fn preempt(&mut self, victim: Running) {
        let kv = self.model.kv_mut();
        victim.texts().for_each(|(seq, text)| self.prefixes.take(kv, seq, text));
        self.totals.preemptions += 1;
        self.enqueue(victim.task);
    }
}

/// A sequence behind the longest beginning of a text that is known: of a finished answer or of one that runs.
fn sequence(kv: &mut KvCache, prefixes: &mut Prefixes, running: &[Running], beginning: &[u32]) -> SeqId {
    let known = prefixes.longest(kv, beginning);
    let others = running.iter().map(|r| r.shareable(kv, beginning));
    let seq = match others.max_by_key(|(n, _)| *n).filter(|(n, _)| *n > known.len) {
        Some((n, other)) => kv.fork(other, n),
        None => kv.seq_of(&known.blocks, known.len, known.slot),
    };
    // Never an error: the beginning lies in these blocks.
    seq.unwrap_or_else(|_| kv.new_seq())
}

/// What a step has left for prompts.
struct PromptBudget {
    tokens: usize,
    /// Rows' worth of time.
    rows: f64,
    /// Tokens that the next prompt gets in any case.
    least: usize,
}

//! What runs in a step: who is admitted, and how the rows of the batch are shared out.

use super::Engine;
use super::running::{Offer, Running};
use crate::backend::BLOCK;
use crate::batch::SeqId;
use crate::prefill::{LEAST, WORTH_WAITING, common, width};
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
    pub(super) fn enqueue(&mut self, request: Running) {
        let place = self.waiting.partition_point(|w| w.turn < request.turn);
        self.waiting.insert(place, request);
    }

    /// Moves waiting requests to the running ones, in the order of their turns, while the cache has room for them.
    pub(super) fn admit(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            if self.must_wait(at) {
                at += 1;
                continue;
            }
            let mut next = self.waiting.remove(at);
            self.begin(&mut next);
            let promised: usize = self.running.iter().chain([&next]).map(|r| r.blocks_to_come(self.model.kv())).sum();
            let kv = self.model.kv_mut();
            // Alone, a request fits: `submit` has seen to that.
            if kv.free_blocks() + self.prefixes.evictable(kv) < promised && !self.running.is_empty() {
                kv.free(next.seq);
                next.seq = SeqId(u32::MAX);
                return self.waiting.insert(at, next);
            }
            while kv.free_blocks() < promised && self.prefixes.evict(kv) {}
            self.totals.shared += next.done();
            self.running.push(next);
        }
    }

    /// Whether a waiting request had better wait until one that runs has read the beginning that both share.
    fn must_wait(&mut self, at: usize) -> bool {
        let next = &self.waiting[at];
        if let Some((leader, shared)) = next.follows
            && let Some(leader) = self.running.iter().find(|r| r.id == leader)
        {
            return leader.done() < shared;
        }
        let beginning = &next.tokens()[..next.tokens().len() - 1];
        let read = self.running.iter().map(|r| common(&r.tokens()[..r.exact()], beginning)).max().unwrap_or(0);
        // Whoever comes later in turn may never get to it.
        let leaders = self.running.iter().filter(|r| r.is_reading() && r.reading.is_none() && r.turn < next.turn);
        let best = leaders.map(|r| (common(r.tokens(), beginning), r.id)).max_by_key(|(n, _)| *n);
        let Some((shared, leader)) = best.filter(|(n, _)| *n >= read + WORTH_WAITING) else { return false };
        if self.prefixes.longest(beginning, &mut Vec::new()) + WORTH_WAITING > shared {
            return false;
        }
        self.waiting[at].follows = Some((leader, shared));
        true
    }

    /// Gives a request its sequence, behind the longest beginning that is known: of a finished answer or of one that runs.
    /// The last token is always read, for its logits.
    fn begin(&mut self, next: &mut Running) {
        let beginning = &next.tokens()[..next.tokens().len() - 1];
        let mut blocks = Vec::new();
        let mut shared = self.prefixes.longest(beginning, &mut blocks);
        for other in &self.running {
            let n = common(&other.tokens()[..other.exact()], beginning);
            if n > shared {
                shared = n;
                blocks.clear();
                blocks.extend_from_slice(self.model.kv().blocks(other.seq));
            }
        }
        let kv = self.model.kv_mut();
        match kv.seq_of(&blocks, shared) {
            Ok(seq) => next.begin(seq, shared),
            // Never: `shared` tokens lie in these blocks.
            Err(_) => next.begin(kv.new_seq(), 0),
        }
        next.reading = self.choose_prefill(next.request.prefill, next.done()..next.tokens().len());
    }

    /// Has the next tokens of all answers guessed that are being written. Guesses get memory that nobody else needs now.
    pub(super) async fn guess(&mut self) {
        let Some(speculation) = &mut self.speculation else { return };
        let writing = self.running.iter().filter(|r| !r.is_reading()).count();
        let free = self.model.kv().free_blocks() + self.prefixes.evictable(self.model.kv_mut());
        let spare = (free / self.running.len().max(1)).saturating_sub(1) * BLOCK;
        let context = self.model.context_length();
        let mut rows = writing;
        for r in &mut self.running {
            let tail = r.done().next_multiple_of(BLOCK).saturating_sub(r.done() + 1);
            let room = (tail + spare).min(self.model.max_batch().saturating_sub(rows));
            let room = room.min(context.saturating_sub(r.done() + 1));
            let tree = match r.may_guess() {
                true => speculation.draft(&mut self.model, r.subject(rows, room)).await,
                false => Tree::default(),
            };
            r.set_guesses(tree);
            rows += r.guesses();
        }
    }

    /// Fills the batch: answers first, then prompts in the order of their turns.
    pub(super) fn fill(&mut self) -> Work {
        self.batch.clear();
        self.running.iter_mut().for_each(|r| r.offer = Offer::default());
        // Outputs come in row order, and the rows in the order of `running`.
        self.running.sort_by_key(|r| (r.is_reading(), r.turn));
        let mut work = Work { reading: false, rows: 0.0 };
        let mut blocks = 0;
        let mut room = None;
        let mut at = 0;
        while at < self.running.len() {
            let left = self.model.max_batch() - self.batch.len();
            let r = &self.running[at];
            let n = if r.reads_ahead() {
                0
            } else if r.is_reading() {
                let room = room.get_or_insert_with(|| self.room_for_prompts(&work));
                let fit = self.cost.fit(r.done(), room.rows).max(room.least);
                let n = r.pending().min(left).min(room.tokens).min(fit);
                room.least = 0;
                room.tokens -= n;
                room.rows -= self.cost.run(r.done(), n, 0);
                n
            } else {
                // Without room for all its guesses, a request puts its last token only.
                if left > r.guesses() { 1 + r.guesses() } else { left.min(1) }
            };
            let n = self.make_room(at, n, &mut blocks);
            let Some(r) = self.running.get_mut(at) else { break };
            let reading = r.is_reading();
            r.put(n, self.model.config().dim, &mut self.batch);
            work.rows += self.cost.run(r.done(), n, r.offer.outputs);
            if reading {
                work.reading |= n > 0;
                self.n_read += n as u64;
            }
            at += 1;
        }
        work
    }

    /// How much of prompts goes into a step that begins with `writing`.
    fn room_for_prompts(&self, writing: &Work) -> Room {
        let left = self.model.max_batch() - self.batch.len();
        if !self.batch.is_empty() {
            return Room { tokens: left, rows: self.pace.room(writing.rows), least: LEAST };
        }
        // Nobody is kept waiting by a wide forward. When no further requests are to come, all are of one width.
        let pending = self.running.iter().filter(|r| !r.reads_ahead()).map(Running::pending).sum();
        let tokens = if self.waiting.is_empty() { width(pending, left) } else { left };
        Room { tokens, rows: f64::INFINITY, least: 0 }
    }

    /// Sees to it that request `at` can append `n` tokens behind the `blocks` that others of this batch take; gives up
    /// known beginnings first, then the answers whose turn is last, at the end this one. Returns how many tokens fit.
    fn make_room(&mut self, at: usize, n: usize, blocks: &mut usize) -> usize {
        loop {
            let kv = self.model.kv_mut();
            let needed = kv.blocks_needed(self.running[at].seq, n).unwrap_or(0);
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
    pub(super) fn preempt(&mut self, mut victim: Running) {
        let kv = self.model.kv_mut();
        self.prefixes.insert(kv, victim.seq, &victim.tokens()[..victim.exact()]);
        victim.reading = None;
        kv.free(victim.seq);
        victim.seq = SeqId(u32::MAX);
        victim.offer = Offer::default();
        self.totals.preemptions += 1;
        self.enqueue(victim);
    }
}

/// What a step has left for prompts.
struct Room {
    tokens: usize,
    /// Rows' worth of time.
    rows: f64,
    /// Tokens that the next prompt gets in any case.
    least: usize,
}

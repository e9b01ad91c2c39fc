//! The KV cache as sequences of tokens over shared blocks.
//!
//! Memory is cut into blocks of [`BLOCK`] cells with reference counts. A sequence is a table of blocks and a committed
//! length. Forking shares blocks and copies nothing; the first append to a shared, partly filled block copies that block.
//! [`KvCache::plan`] reserves cells behind the committed length for the tokens of a batch, [`KvCache::commit`] keeps the
//! accepted ones and drops the rest: decode, prefill chunks and draft trees are the same thing here.
//!
//! The backend has memory for some of the blocks only: [`KvCache::plan`] has it grow by half or more, and
//! [`KvCache::shrink`] gives it back. Of states it has as many as are in use. Growing copies what is there, so a sequence of any length costs less than three copies of it.

mod pool;
mod states;

pub use states::Checkpoint;

use crate::backend::{BLOCK, Backend, Before, Cache, CacheSpec, Plan, Span, StateStep};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};
use pool::Pool;

/// Blocks that memory grows by at least: 128 tokens.
const SLAB: usize = 4;

#[derive(Debug)]
struct Sequence {
    blocks: Vec<u32>,
    /// Committed tokens.
    len: usize,
    /// First row of the sequence in the last plan, and the number of its rows; none after a commit.
    planned: Option<(u32, u32)>,
    /// Its state; none without tokens, and where layers keep no states.
    slot: Option<u32>,
    /// States that were kept, the shortest first.
    checkpoints: Vec<Checkpoint>,
}

/// Committed tokens that are run once more, so that their entries are overwritten.
#[derive(Clone, Copy, Debug)]
pub struct Recompute<'a> {
    /// Their sequence.
    pub seq: SeqId,
    /// Position of the first one.
    pub first: usize,
    /// The tokens.
    pub tokens: &'a [u32],
    /// Whether the logits of the last one are wanted.
    pub output: bool,
}

/// Sequences in the cache of a backend; see the module text.
#[derive(Debug)]
pub struct KvCache {
    /// The shape when it has grown to its end.
    spec: CacheSpec,
    cache: Cache,
    /// Further layers, in the same cells.
    more: Vec<Cache>,
    /// Whether layers keep states.
    has_states: bool,
    blocks: Pool,
    slots: Pool,
    /// Slots that there is memory for.
    slots_grown: usize,
    /// What is to be done to states before the next forward.
    state_steps: Vec<StateStep>,
    sequences: Vec<Option<Sequence>>,
    /// Work memory of `plan` and `commit`.
    moves: Vec<(u32, u32)>,
    linear: Vec<bool>,
}

impl KvCache {
    /// An empty cache in `backend` that may grow to this shape.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub fn new(backend: &mut dyn Backend, spec: CacheSpec) -> Result<Self> {
        let (n_blocks, n_slots) = (SLAB.min(spec.n_blocks), spec.n_slots.min(1));
        let cache = backend.new_cache(&CacheSpec { n_blocks, n_slots, ..spec.clone() })?;
        Ok(KvCache {
            cache,
            more: Vec::new(),
            has_states: spec.has_states(),
            blocks: Pool::new(n_blocks),
            slots: Pool::new(spec.n_slots),
            slots_grown: n_slots,
            state_steps: Vec::new(),
            sequences: Vec::new(),
            moves: Vec::new(),
            linear: Vec::new(),
            spec,
        })
    }

    /// The backend's handle of the model's own layers.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// Sets the caches of further layers with the same cells, as those of a sidecar are: what is moved here is moved there, too.
    /// They hold nothing of tokens that were committed before.
    pub(crate) fn attach(&mut self, caches: Vec<Cache>) {
        self.more = caches;
    }

    /// Copies the cells of `moves` in all layers.
    fn move_cells(&self, backend: &mut dyn Backend) {
        if !self.moves.is_empty() {
            for cache in [self.cache].iter().chain(&self.more) {
                backend.move_cells(*cache, &self.moves);
            }
        }
    }

    /// Shape of the memory when it has grown to its end.
    pub fn spec(&self) -> &CacheSpec {
        &self.spec
    }

    /// Blocks that there is memory for.
    pub fn grown(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no sequence holds, those that memory has yet to grow to included.
    pub fn free_blocks(&self) -> usize {
        self.blocks.n_free() + self.spec.n_blocks - self.grown()
    }

    /// Makes room for so many more blocks.
    fn grow(&mut self, backend: &mut dyn Backend, needed: usize) -> Result<()> {
        let missing = needed.saturating_sub(self.blocks.n_free());
        if missing == 0 {
            return Ok(());
        }
        let enough = (self.grown() + missing).max(roomy(self.grown(), self.spec.n_blocks));
        self.resize(backend, enough.next_multiple_of(SLAB).min(self.spec.n_blocks))
    }

    /// Gives memory back where less than a third is in use.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`] where there is no room for what is kept beside what is given back; nothing is lost then.
    pub fn shrink(&mut self, backend: &mut dyn Backend) -> Result<()> {
        let enough = roomy(self.blocks.held(), self.spec.n_blocks);
        if enough <= self.grown() / 2 {
            self.resize(backend, enough)?;
        }
        let enough = self.states_held(0).max(1);
        if enough <= self.slots_grown / 2 {
            self.resize_states(backend, enough)?;
        }
        Ok(())
    }

    /// Makes all layers have so many blocks.
    fn resize(&mut self, backend: &mut dyn Backend, n_blocks: usize) -> Result<()> {
        // Whatever fails on the way, there is memory for all blocks of the pool.
        self.blocks.resize(n_blocks.min(self.grown()));
        for cache in [self.cache].iter().chain(&self.more) {
            backend.resize_cache(*cache, n_blocks)?;
        }
        self.blocks.resize(n_blocks);
        Ok(())
    }

    /// Begins an empty sequence.
    pub fn new_seq(&mut self) -> SeqId {
        self.insert(Sequence { blocks: Vec::new(), len: 0, planned: None, slot: None, checkpoints: Vec::new() })
    }

    fn insert(&mut self, sequence: Sequence) -> SeqId {
        let slot = self.sequences.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[slot] = Some(sequence);
        SeqId(slot as u32)
    }

    fn get(&self, seq: SeqId) -> Result<&Sequence> {
        self.sequences.get(seq.0 as usize).and_then(Option::as_ref).ok_or_else(|| unknown(seq))
    }

    fn get_mut(&mut self, seq: SeqId) -> Result<&mut Sequence> {
        self.sequences.get_mut(seq.0 as usize).and_then(Option::as_mut).ok_or_else(|| unknown(seq))
    }

    /// Committed tokens of a sequence; 0 for one that does not exist.
    pub fn len(&self, seq: SeqId) -> usize {
        self.get(seq).map_or(0, |s| s.len)
    }

    /// Whether a sequence holds no committed tokens.
    pub fn is_empty(&self, seq: SeqId) -> bool {
        self.len(seq) == 0
    }

    /// A new sequence with the first `len` tokens of `seq`, or with as many as are [forkable](KvCache::forkable); shares its blocks.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist or is shorter.
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId> {
        let from = self.get(seq)?;
        if len > from.len {
            return Err(Error::invalid_request(format!("cannot fork {len} tokens of a sequence of {}", from.len)));
        }
        let len = self.forkable_of(from, len);
        let blocks = from.blocks[..len.div_ceil(BLOCK)].to_vec();
        blocks.iter().for_each(|&block| self.hold(block));
        let (slot, checkpoints) = self.hold_states(seq, len)?;
        Ok(self.insert(Sequence { blocks, len, planned: None, slot, checkpoints }))
    }

    /// Drops all tokens of `seq` behind the first `len`, or behind as many as are [forkable](KvCache::forkable); returns how many
    /// are left.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize> {
        self.get_mut(seq)?.planned = None;
        let len = self.forkable(seq, len);
        let (slot, checkpoints) = self.hold_states(seq, len)?;
        let sequence = self.get_mut(seq)?;
        sequence.len = len;
        let old =
            (std::mem::replace(&mut sequence.slot, slot), std::mem::replace(&mut sequence.checkpoints, checkpoints));
        self.release_states(old.0, &old.1);
        self.trim(seq)?;
        Ok(len)
    }

    /// Forgets a sequence and gives its blocks back.
    pub fn free(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.get_mut(seq.0 as usize).and_then(Option::take) {
            sequence.blocks.into_iter().for_each(|block| self.release(block));
            self.release_states(sequence.slot, &sequence.checkpoints);
        }
    }

    /// A new sequence of `len` tokens on blocks that are held already, by other sequences or by [`KvCache::hold`]. Where layers
    /// keep states, `slot` has the state behind the tokens; it is held likewise.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the blocks are too few, and where layers keep states and there is none.
    pub(crate) fn seq_of(&mut self, blocks: &[u32], len: usize, slot: Option<u32>) -> Result<SeqId> {
        let blocks = blocks.get(..len.div_ceil(BLOCK)).map(<[u32]>::to_vec);
        let blocks = blocks.ok_or_else(|| Error::invalid_request(format!("too few blocks for {len} tokens")))?;
        let slot = slot.filter(|_| len > 0);
        if slot.is_some() != (self.has_states && len > 0) {
            return Err(Error::invalid_request("blocks hold no states, and layers without states need none"));
        }
        blocks.iter().for_each(|&block| self.hold(block));
        slot.into_iter().for_each(|slot| self.hold_slot(slot));
        Ok(self.insert(Sequence { blocks, len, planned: None, slot, checkpoints: Vec::new() }))
    }

    /// The blocks of a sequence; none for one that does not exist.
    pub fn blocks(&self, seq: SeqId) -> &[u32] {
        self.get(seq).map_or(&[], |s| &s.blocks)
    }

    /// Sequences and other holders of a block.
    pub fn holders(&self, block: u32) -> u32 {
        self.blocks.holders(block)
    }

    /// Keeps a held block from being reused, until it is [released](KvCache::release) once more.
    pub fn hold(&mut self, block: u32) {
        self.blocks.hold(block);
    }

    /// Undoes a [`KvCache::hold`].
    pub fn release(&mut self, block: u32) {
        self.blocks.release(block);
    }

    /// Gives blocks behind the committed length back.
    fn trim(&mut self, seq: SeqId) -> Result<()> {
        let sequence = self.get_mut(seq)?;
        let needed = sequence.len.div_ceil(BLOCK).min(sequence.blocks.len());
        for block in sequence.blocks.split_off(needed) {
            self.release(block);
        }
        Ok(())
    }

    /// Whether appending to the sequence would write to a block that others hold too.
    fn shares_tail(&self, sequence: &Sequence) -> bool {
        let tail = sequence.blocks.get(sequence.len / BLOCK);
        !sequence.len.is_multiple_of(BLOCK) && tail.is_some_and(|&block| self.blocks.holders(block) > 1)
    }

    /// Blocks that a sequence must get from the free ones before `n` more tokens can be written.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub(crate) fn blocks_needed(&self, seq: SeqId, n: usize) -> Result<usize> {
        let sequence = self.get(seq)?;
        let more = (sequence.len + n).div_ceil(BLOCK).saturating_sub(sequence.blocks.len());
        Ok(more + usize::from(n > 0 && self.shares_tail(sequence)))
    }

    /// Resolves a batch: reserves a cell for every token and says what each token sees. Tokens of one sequence must be
    /// adjacent. What was planned before for these sequences and not committed is dropped.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`] when blocks run out, [`crate::Kind::InvalidRequest`] for unknown or scattered sequences
    /// and foreign parents. Nothing has changed then.
    pub fn plan(&mut self, backend: &mut dyn Backend, batch: &Batch, plan: &mut Plan) -> Result<()> {
        let needed = self.check(batch)?;
        self.grow(backend, needed)?;
        self.grow_states(backend, batch)?;
        plan.clear();
        self.moves.clear();
        if self.has_states {
            // Their inputs are overwritten by this forward's.
            self.sequences.iter_mut().flatten().for_each(|sequence| sequence.planned = None);
        }
        let mut linear = std::mem::take(&mut self.linear);
        linear.clear();
        for run in batch.tokens().chunk_by(|a, b| a.seq == b.seq) {
            self.reserve(run[0].seq, plan.tokens.len() as u32, run.len())?;
            let sequence = self.get(run[0].seq)?;
            let (table, first_row, len) = (plan.blocks.len() as u32, plan.tokens.len(), sequence.len);
            plan.blocks.extend_from_slice(&sequence.blocks);
            for (i, token) in run.iter().enumerate() {
                let row = first_row + i;
                plan.cells.push(cell(&sequence.blocks, len + i));
                let in_run = match token.parent {
                    None => i == 0,
                    Some(parent) => parent as usize + 1 == row && linear[parent as usize],
                };
                linear.push(in_run);
                let span = if in_run {
                    Span { table, prefix: (len + i + 1) as u32, extra: 0, n_extra: 0 }
                } else {
                    tree_span(batch, &linear, plan, (table, len), row)
                };
                if let Some(slot) = sequence.slot {
                    plan.before.push(token.parent.map_or(Before::Slot(slot), Before::Row));
                }
                plan.tokens.push(token.token);
                plan.positions.push(span.len() as u32 - 1);
                plan.spans.push(span);
                if token.output {
                    plan.outputs.push(row as u32);
                }
            }
        }
        self.linear = linear;
        self.move_cells(backend);
        plan.states.append(&mut self.state_steps);
        Ok(())
    }

    /// Resolves committed tokens once more, so that their entries can be overwritten: each sees what lies before it, also
    /// among these tokens. Runs of one sequence must be adjacent and in order. Blocks that others hold too are written
    /// like any other; whoever predicts shares none of the cells in question.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for unknown sequences and positions, [`crate::Kind::Unsupported`] where layers keep states.
    pub(crate) fn plan_recompute(&self, runs: &[Recompute<'_>], plan: &mut Plan) -> Result<()> {
        if self.has_states {
            return Err(Error::unsupported("tokens cannot be run once more where layers keep states"));
        }
        plan.clear();
        let mut known: Option<(SeqId, u32)> = None;
        for run in runs {
            let sequence = self.get(run.seq)?;
            let positions = run.first..run.first + run.tokens.len();
            if positions.end > sequence.len {
                return Err(Error::invalid_request(format!("positions {positions:?} of {} tokens", sequence.len)));
            }
            let table = match known {
                Some((seq, table)) if seq == run.seq => table,
                _ => {
                    let table = plan.blocks.len() as u32;
                    plan.blocks.extend_from_slice(&sequence.blocks);
                    known = Some((run.seq, table));
                    table
                }
            };
            for position in positions {
                plan.cells.push(cell(&sequence.blocks, position));
                plan.positions.push(position as u32);
                plan.spans.push(Span { table, prefix: position as u32 + 1, extra: 0, n_extra: 0 });
            }
            plan.tokens.extend_from_slice(run.tokens);
            if run.output && !run.tokens.is_empty() {
                plan.outputs.push(plan.tokens.len() as u32 - 1);
            }
        }
        Ok(())
    }

    /// Everything that can be wrong with a batch, before anything is changed; returns how many more blocks it needs.
    fn check(&self, batch: &Batch) -> Result<usize> {
        let (mut needed, mut slots) = (0, 0);
        let tokens = batch.tokens();
        let mut row = 0;
        for run in tokens.chunk_by(|a, b| a.seq == b.seq) {
            let seq = run[0].seq;
            if tokens[..row].iter().any(|t| t.seq == seq) {
                return Err(Error::invalid_request("tokens of one sequence must be adjacent in a batch"));
            }
            for (i, token) in run.iter().enumerate() {
                if token.parent.is_some_and(|p| (p as usize) < row || p as usize >= row + i) {
                    return Err(Error::invalid_request(format!(
                        "row {} has row {:?} as its parent, which is not an earlier row of its sequence",
                        row + i,
                        token.parent
                    )));
                }
            }
            needed += self.blocks_needed(seq, run.len())?;
            slots += self.slots_needed(seq)?;
            row += run.len();
        }
        if needed > self.free_blocks() {
            return Err(Error::out_of_memory(format!(
                "the KV cache is full: {needed} more blocks of {BLOCK} tokens are needed, {} of {} are free",
                self.free_blocks(),
                self.spec.n_blocks
            )));
        }
        if slots > self.slots.n_free() {
            return Err(Error::out_of_memory(format!(
                "{slots} more states are needed, {} of {} are free",
                self.slots.n_free(),
                self.spec.n_slots
            )));
        }
        Ok(needed)
    }

    /// Takes blocks for `n` more tokens; copies a shared tail.
    fn reserve(&mut self, seq: SeqId, first_row: u32, n: usize) -> Result<()> {
        let sequence = self.get(seq)?;
        let (len, held) = (sequence.len, sequence.blocks.len());
        if self.shares_tail(sequence) {
            let (old, new) = (sequence.blocks[len / BLOCK], self.take_block()?);
            let at = |block: u32, slot: usize| block * BLOCK as u32 + slot as u32;
            self.moves.extend((0..len % BLOCK).map(|slot| (at(old, slot), at(new, slot))));
            self.release(old);
            self.get_mut(seq)?.blocks[len / BLOCK] = new;
        }
        for _ in held..(len + n).div_ceil(BLOCK) {
            let block = self.take_block()?;
            self.get_mut(seq)?.blocks.push(block);
        }
        self.get_mut(seq)?.planned = Some((first_row, n as u32));
        self.own_slot(seq)
    }

    fn take_block(&mut self) -> Result<u32> {
        self.blocks.take().ok_or_else(|| Error::out_of_memory("the KV cache is full"))
    }

    /// Keeps the tokens of these rows of the last plan, a path from the committed length on, and drops the sequence's
    /// other planned tokens. Cells move towards the front, each at most once.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the rows are not ascending rows of the sequence.
    pub fn commit(&mut self, backend: &mut dyn Backend, seq: SeqId, rows: &[u32]) -> Result<()> {
        let sequence = self.get(seq)?;
        let (first, n) = sequence.planned.unwrap_or((0, 0));
        let inside = rows.iter().all(|row| (first..first + n).contains(row));
        if !inside || !rows.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid_request(format!("rows {rows:?} are no path of rows {first}..{}", first + n)));
        }
        let len = sequence.len;
        self.moves.clear();
        for (i, row) in rows.iter().enumerate() {
            let (from, to) = (len + (row - first) as usize, len + i);
            if from != to {
                let blocks = &self.get(seq)?.blocks;
                let moved = (cell(blocks, from), cell(blocks, to));
                self.moves.push(moved);
            }
        }
        self.move_cells(backend);
        self.advance(seq, rows.iter().copied())?;
        let sequence = self.get_mut(seq)?;
        sequence.len += rows.len();
        sequence.planned = None;
        self.trim(seq)
    }

    /// Keeps all planned tokens of a sequence, whose rows are a run.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub fn commit_run(&mut self, seq: SeqId) -> Result<()> {
        let sequence = self.get_mut(seq)?;
        if let Some((first, n)) = sequence.planned.take() {
            sequence.len += n as usize;
            self.advance(seq, first..first + n)?;
        }
        Ok(())
    }
}

/// Blocks to have memory for where `needed` are in use and `most` is the end: half as many again, in whole slabs.
fn roomy(needed: usize, most: usize) -> usize {
    (needed + needed / 2).max(1).next_multiple_of(SLAB).min(most)
}

fn unknown(seq: SeqId) -> Error {
    Error::invalid_request(format!("sequence {} does not exist", seq.0))
}

fn cell(blocks: &[u32], index: usize) -> u32 {
    blocks[index / BLOCK] * BLOCK as u32 + (index % BLOCK) as u32
}

/// What a token off the first run sees: the run as far as it is its ancestor, then its other ancestors and itself.
fn tree_span(batch: &Batch, linear: &[bool], plan: &mut Plan, (table, len): (u32, usize), row: usize) -> Span {
    let extra = plan.extras.len();
    let mut at = Some(row as u32);
    let mut run = 0;
    while let Some(ancestor) = at {
        let index = ancestor as usize;
        if linear[index] {
            run = plan.spans[index].prefix as usize - len;
            break;
        }
        plan.extras.push(plan.cells[index]);
        at = batch.tokens()[index].parent;
    }
    plan.extras[extra..].reverse();
    let n_extra = (plan.extras.len() - extra) as u32;
    Span { table, prefix: (len + run) as u32, extra: extra as u32, n_extra }
}

//! The KV cache as sequences of tokens over shared blocks.
//!
//! Memory is cut into blocks of [`BLOCK`] cells with reference counts. A sequence is a table of blocks and a committed
//! length. Forking shares blocks and copies nothing; the first append to a shared, partly filled block copies that block.
//! [`KvCache::plan`] reserves cells behind the committed length for the tokens of a batch, [`KvCache::commit`] keeps the
//! accepted ones and drops the rest: decode, prefill chunks and draft trees are the same thing here.

use crate::backend::{BLOCK, Backend, Cache, CacheShape, Plan, Span};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};

#[derive(Debug)]
struct Sequence {
    blocks: Vec<u32>,
    /// Committed tokens.
    len: usize,
    /// First row of the sequence in the last plan, and the number of its rows; none after a commit.
    planned: Option<(u32, u32)>,
}

/// Committed tokens that are run once more; see [`KvCache::plan_again`].
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
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
    shape: CacheShape,
    cache: Cache,
    /// Keys and values of a sidecar's layers, in the same cells.
    beside: Option<Cache>,
    /// Sequences that hold each block.
    refs: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
    /// Work memory of `plan` and `commit`.
    moves: Vec<(u32, u32)>,
    linear: Vec<bool>,
}

impl KvCache {
    /// An empty cache of `shape` in `backend`.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub fn new(backend: &mut dyn Backend, shape: CacheShape) -> Result<Self> {
        let cache = backend.new_cache(shape)?;
        let free = (0..shape.n_blocks as u32).rev().collect();
        let (sequences, moves, linear) = (Vec::new(), Vec::new(), Vec::new());
        Ok(KvCache { shape, cache, beside: None, refs: vec![0; shape.n_blocks], free, sequences, moves, linear })
    }

    /// The backend's handle.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// Another cache with the same cells, for the keys and values of a sidecar's layers: the one in front of the maps and the
    /// draft block. The one from before where there is one.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub fn beside(&mut self, backend: &mut dyn Backend) -> Result<Cache> {
        let cache = match self.beside {
            Some(cache) => cache,
            None => backend.new_cache(CacheShape { n_layers: 2, ..self.shape })?,
        };
        self.beside = Some(cache);
        Ok(cache)
    }

    /// Copies the cells of `moves` in all layers.
    fn move_cells(&self, backend: &mut dyn Backend) {
        if !self.moves.is_empty() {
            for cache in [Some(self.cache), self.beside].into_iter().flatten() {
                backend.move_cells(cache, &self.moves);
            }
        }
    }

    /// Shape of the memory.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Blocks that no sequence holds.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Begins an empty sequence.
    pub fn new_seq(&mut self) -> SeqId {
        self.insert(Sequence { blocks: Vec::new(), len: 0, planned: None })
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

    /// A new sequence with the first `len` tokens of `seq`; shares its blocks.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist or is shorter.
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId> {
        let from = self.get(seq)?;
        if len > from.len {
            return Err(Error::invalid_request(format!("cannot fork {len} tokens of a sequence of {}", from.len)));
        }
        let blocks = from.blocks.clone();
        self.seq_of(&blocks, len)
    }

    /// Drops all tokens of `seq` behind the first `len`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let sequence = self.get_mut(seq)?;
        sequence.len = sequence.len.min(len);
        sequence.planned = None;
        self.trim(seq)
    }

    /// Forgets a sequence and gives its blocks back.
    pub fn free(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.get_mut(seq.0 as usize).and_then(Option::take) {
            sequence.blocks.into_iter().for_each(|block| self.release(block));
        }
    }

    /// A new sequence of `len` tokens on blocks that are held already, by other sequences or by [`KvCache::hold`].
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the blocks are too few.
    pub fn seq_of(&mut self, blocks: &[u32], len: usize) -> Result<SeqId> {
        let blocks = blocks.get(..len.div_ceil(BLOCK)).map(<[u32]>::to_vec);
        let blocks = blocks.ok_or_else(|| Error::invalid_request(format!("too few blocks for {len} tokens")))?;
        blocks.iter().for_each(|&block| self.hold(block));
        Ok(self.insert(Sequence { blocks, len, planned: None }))
    }

    /// The blocks of a sequence; none for one that does not exist.
    pub fn blocks(&self, seq: SeqId) -> &[u32] {
        self.get(seq).map_or(&[], |s| &s.blocks)
    }

    /// Sequences and other holders of a block.
    pub fn holders(&self, block: u32) -> u32 {
        self.refs[block as usize]
    }

    /// Keeps a held block from being reused, until it is [released](KvCache::release) once more.
    pub fn hold(&mut self, block: u32) {
        debug_assert!(self.refs[block as usize] > 0, "a block that nobody holds has no content");
        self.refs[block as usize] += 1;
    }

    /// Undoes a [`KvCache::hold`].
    pub fn release(&mut self, block: u32) {
        let refs = &mut self.refs[block as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(block);
        }
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
        !sequence.len.is_multiple_of(BLOCK) && tail.is_some_and(|&block| self.refs[block as usize] > 1)
    }

    /// Blocks that a sequence must get from the free ones before `n` more tokens can be written.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub fn blocks_needed(&self, seq: SeqId, n: usize) -> Result<usize> {
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
        self.check(batch)?;
        plan.clear();
        self.moves.clear();
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
        Ok(())
    }

    /// Resolves committed tokens once more, so that their entries can be overwritten: each sees what lies before it, also
    /// among these tokens. Runs of one sequence must be adjacent and in order. Blocks that others hold too are written
    /// like any other; whoever predicts shares none of the cells in question.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for unknown sequences and positions.
    pub fn plan_again(&self, again: &[Again<'_>], plan: &mut Plan) -> Result<()> {
        plan.clear();
        let mut known: Option<(SeqId, u32)> = None;
        for run in again {
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

    /// Everything that can be wrong with a batch, before anything is changed.
    fn check(&self, batch: &Batch) -> Result<()> {
        let mut needed = 0;
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
            row += run.len();
        }
        if needed > self.free.len() {
            return Err(Error::out_of_memory(format!(
                "the KV cache is full: {needed} more blocks of {BLOCK} tokens are needed, {} of {} are free",
                self.free.len(),
                self.shape.n_blocks
            )));
        }
        Ok(())
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
        Ok(())
    }

    fn take_block(&mut self) -> Result<u32> {
        let block = self.free.pop().ok_or_else(|| Error::out_of_memory("the KV cache is full"))?;
        self.refs[block as usize] = 1;
        Ok(block)
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
        if let Some((_, n)) = sequence.planned.take() {
            sequence.len += n as usize;
        }
        Ok(())
    }
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

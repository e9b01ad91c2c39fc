//! States of sequences, for layers that keep one state and not an entry a token.
//!
//! A state cannot be cut, so what was read can be gone back to only where it was kept: at checkpoints. A state lies in a slot,
//! and slots are shared as blocks are: a checkpoint or a fork holds the slot, and the sequence that goes on takes a copy when its
//! next tokens are planned. The cache only says what is to be done, in the plan ([`Plan::states`](crate::backend::Plan::states)); who
//! runs the plan does it.

use super::{KvCache, Sequence};
use crate::backend::{Backend, StateStep};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};

/// A state that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Tokens behind it.
    pub len: usize,
    /// Where it is.
    pub slot: u32,
}

impl KvCache {
    /// The longest beginning of at most `len` tokens of a sequence that another one, or itself, can go on from: as long as
    /// asked for, or, where layers keep states, the last checkpoint before. While tokens of it are planned, the state that it
    /// has is about to move on, and only checkpoints count. 0 for a sequence that does not exist.
    pub fn forkable(&self, seq: SeqId, len: usize) -> usize {
        self.get(seq).map_or(0, |sequence| self.forkable_of(sequence, len))
    }

    pub(super) fn forkable_of(&self, sequence: &Sequence, len: usize) -> usize {
        if !self.has_states {
            return len.min(sequence.len);
        }
        if len >= sequence.len && sequence.planned.is_none() {
            return sequence.len;
        }
        let before = sequence.checkpoints.iter().rev().find(|checkpoint| checkpoint.len <= len);
        before.map_or(0, |checkpoint| checkpoint.len)
    }

    /// Keeps the state behind the first `len` tokens of a sequence, so that it can be gone back to: that of all its tokens, or one
    /// that the last commit led past. Does nothing where layers keep no states, where there is no such state or no free slot for it,
    /// behind a longer checkpoint, and while tokens of the sequence are planned.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub fn checkpoint(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let sequence = self.get(seq)?;
        let known = sequence.checkpoints.last().is_some_and(|last| last.len >= len);
        let Some(slot) = sequence.slot.filter(|_| len > 0 && sequence.planned.is_none() && !known) else {
            return Ok(());
        };
        let kept = match len == sequence.len {
            true => {
                self.slots.hold(slot);
                Some(slot)
            }
            false => self.copy_on_the_way(slot, sequence.len, len),
        };
        self.get_mut(seq)?.checkpoints.extend(kept.map(|slot| Checkpoint { len, slot }));
        Ok(())
    }

    /// The steps that wait move the state of `slot` on to `end` tokens. Puts a copy between them, taken when the state has come to
    /// `len` tokens; returns the copy's slot. `None` where the state is past `len` tokens already, or no slot is free.
    fn copy_on_the_way(&mut self, slot: u32, end: usize, len: usize) -> Option<u32> {
        let mut end = end;
        for i in (0..self.state_steps.len()).rev() {
            match &mut self.state_steps[i] {
                StateStep::Advance { slot: moved, rows } if *moved == slot => {
                    let start = end - rows.len();
                    if (start + 1..=end).contains(&len) {
                        let to = self.slots.take()?;
                        let behind = StateStep::Advance { slot, rows: rows.split_off(len - start) };
                        self.state_steps.splice(i + 1..i + 1, [StateStep::Copy { from: slot, to }, behind]);
                        return Some(to);
                    }
                    end = start;
                }
                // Here the slot gets its state; steps before this one are those of another sequence.
                StateStep::Clear { slot: to } | StateStep::Copy { to, .. } if *to == slot => return None,
                _ => {}
            }
        }
        None
    }

    /// Gives up a sequence's oldest checkpoint; `false` when it has none.
    pub fn forget_checkpoint(&mut self, seq: SeqId) -> bool {
        let Ok(sequence) = self.get_mut(seq) else { return false };
        if sequence.checkpoints.is_empty() {
            return false;
        }
        let oldest = sequence.checkpoints.remove(0);
        self.slots.release(oldest.slot);
        true
    }

    /// Checkpoints of a sequence, the shortest first; none for one that does not exist.
    pub fn checkpoints(&self, seq: SeqId) -> &[Checkpoint] {
        self.get(seq).map_or(&[], |s| &s.checkpoints)
    }

    /// Slot of the state of a sequence; `None` before its first tokens are planned, and where layers keep no states.
    pub fn slot(&self, seq: SeqId) -> Option<u32> {
        self.get(seq).ok()?.slot
    }

    /// Makes room for the states that the runs of a batch are to have.
    pub(super) fn grow_states(&mut self, backend: &mut dyn Backend, batch: &Batch) -> Result<()> {
        if !self.has_states {
            return Ok(());
        }
        let mut more = 0;
        for run in batch.tokens().chunk_by(|a, b| a.seq == b.seq) {
            more += self.slots_needed(run[0].seq)?;
        }
        match self.states_held(more) {
            enough if enough > self.slots_grown => self.resize_states(backend, enough),
            _ => Ok(()),
        }
    }

    pub(super) fn resize_states(&mut self, backend: &mut dyn Backend, n_slots: usize) -> Result<()> {
        backend.resize_states(self.cache, n_slots)?;
        self.slots_grown = n_slots;
        Ok(())
    }

    /// Slots up to the last one that is held or used by steps that wait, once so many more are taken.
    pub(super) fn states_held(&self, more: usize) -> usize {
        let last = |step: &StateStep| match *step {
            StateStep::Clear { slot } | StateStep::Advance { slot, .. } => slot,
            StateStep::Copy { from, to } => from.max(to),
        };
        let used = self.state_steps.iter().map(|step| last(step) as usize + 1).max().unwrap_or(0);
        self.slots.held_with(more).max(used)
    }

    /// Slots that nobody holds.
    pub fn free_slots(&self) -> usize {
        self.slots.n_free()
    }

    /// Holders of a slot: sequences, checkpoints and others.
    pub(crate) fn slot_holders(&self, slot: u32) -> u32 {
        self.slots.holders(slot)
    }

    /// Keeps a held slot from being reused, until it is [released](KvCache::release_slot) once more.
    pub(crate) fn hold_slot(&mut self, slot: u32) {
        self.slots.hold(slot);
    }

    /// Undoes a [`KvCache::hold_slot`].
    pub(crate) fn release_slot(&mut self, slot: u32) {
        self.slots.release(slot);
    }

    /// Slots that a sequence must get from the free ones before more tokens can be planned: 1 or 0.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when `seq` does not exist.
    pub(crate) fn slots_needed(&self, seq: SeqId) -> Result<usize> {
        let sequence = self.get(seq)?;
        let shared = || sequence.slot.is_none_or(|slot| self.slots.holders(slot) > 1);
        Ok(usize::from(self.has_states && shared()))
    }

    /// Sees to it that a sequence has a state that no other holds.
    pub(super) fn own_slot(&mut self, seq: SeqId) -> Result<()> {
        if self.slots_needed(seq)? == 0 {
            return Ok(());
        }
        let to = self.slots.take().ok_or_else(|| Error::out_of_memory("all states of the cache are in use"))?;
        let old = self.get_mut(seq)?.slot.replace(to);
        self.state_steps.push(match old {
            Some(from) => StateStep::Copy { from, to },
            None => StateStep::Clear { slot: to },
        });
        old.into_iter().for_each(|slot| self.slots.release(slot));
        Ok(())
    }

    /// Notes that rows of the last plan were kept.
    pub(super) fn advance(&mut self, seq: SeqId, rows: impl Iterator<Item = u32>) -> Result<()> {
        if let Some(slot) = self.get(seq)?.slot {
            let rows: Vec<u32> = rows.collect();
            if !rows.is_empty() {
                self.state_steps.push(StateStep::Advance { slot, rows });
            }
        }
        Ok(())
    }

    /// The state behind the first `len` tokens of a sequence, held once more, and the checkpoints up to there, held as well.
    pub(super) fn hold_states(&mut self, seq: SeqId, len: usize) -> Result<(Option<u32>, Vec<Checkpoint>)> {
        let sequence = self.get(seq)?;
        let kept: Vec<Checkpoint> = sequence.checkpoints.iter().copied().take_while(|c| c.len <= len).collect();
        let slot = match kept.last() {
            _ if len == 0 => None,
            Some(last) if last.len == len => Some(last.slot),
            _ => sequence.slot,
        };
        slot.into_iter().chain(kept.iter().map(|c| c.slot)).for_each(|slot| self.slots.hold(slot));
        Ok((slot, kept))
    }

    /// Gives back the states of a sequence.
    pub(super) fn release_states(&mut self, slot: Option<u32>, checkpoints: &[Checkpoint]) {
        slot.into_iter().chain(checkpoints.iter().map(|c| c.slot)).for_each(|slot| self.slots.release(slot));
    }
}

//! Steps that are sent to the device before the host has read the result of the step before. The next token of a greedy answer is
//! the largest logit, which the device finds by itself; so while the host reads one token, the device makes the next.
//!
//! Whether an answer ends is known only when its token was read. Then the step that is already on its way has a row too many; the
//! row is dropped, as its cache entry is not committed.

use super::outputs::Form;
use super::{Engine, Event, RequestId};
use crate::backend::Sent;
use crate::error::Result;

/// A step that was sent and not yet read.
pub(super) struct SentStep {
    sent: Sent,
    /// Whose rows these are.
    of: Vec<RequestId>,
    /// What they cost, as [`crate::prefill::Cost`] counts.
    rows: f64,
}

impl Engine {
    /// Takes a step while the next one is on its way, where greedy answers are all there is to do. Returns what the step's rows
    /// cost, as [`crate::prefill::Cost`] counts; `None` where there was no such step.
    pub(super) async fn step_ahead(&mut self, events: &mut Vec<Event>) -> Result<Option<f64>> {
        // Nobody waits for steps whose answers are all over.
        let running = &self.running;
        self.sent.retain(|step| step.of.iter().any(|id| running.iter().any(|r| r.task.id == *id)));
        if self.sent.is_empty() {
            self.send_ahead()?;
        }
        // Two are there when the caller did not wait for the last step.
        if self.sent.len() == 1 {
            self.send_ahead()?;
        }
        let Some(step) = self.sent.first() else { return Ok(None) };
        self.model.receive(&step.sent, &mut self.logits).await?;
        let (step, now) = (self.sent.remove(0), (self.clock)());
        let outputs = Form::top(1).of(&self.logits);
        for (row, id) in step.of.iter().enumerate() {
            let Some(r) = self.running.iter_mut().find(|r| r.task.id == *id) else { continue };
            if !self.sent.iter().any(|next| next.of.contains(id)) {
                r.commit(self.model.kv_mut())?;
            }
            r.task.choose(&self.tokenizer, outputs.row(row), now, events);
        }
        Ok(Some(step.rows))
    }

    /// Sends a step. Its tokens are the last ones of the answers, or, where a step is on its way, those that the device will find in
    /// that step. Sends nothing where the host has to see a token first.
    fn send_ahead(&mut self) -> Result<()> {
        let drafts = self.speculation.is_some();
        let known = self.running.iter().all(|r| r.is_greedy() && !(drafts && r.may_guess()));
        if !self.model.runs_ahead() || !self.waiting.is_empty() || self.texts_wait || !known {
            return Ok(());
        }
        self.batch.clear();
        let (mut of, mut rows, mut blocks, mut slots) = (Vec::new(), 0.0, 0, 0);
        for r in &mut self.running {
            let token = match self.sent.first() {
                None => r.task.tokens().last().copied(),
                Some(front) => {
                    r.commit(self.model.kv_mut())?;
                    let row = front.of.iter().position(|id| *id == r.task.id).filter(|_| r.task.left() >= 2);
                    row.map(|row| row as u32)
                }
            };
            let Some(token) = token else { continue };
            let kv = self.model.kv();
            (blocks, slots) = (blocks + kv.blocks_needed(r.seq, 1)?, slots + kv.slots_needed(r.seq)?);
            rows += self.cost.run(r.done(), 1, 1);
            r.put_one(token, &mut self.batch);
            of.push(r.task.id);
        }
        let kv = self.model.kv();
        let has_room = blocks <= kv.free_blocks() && slots <= kv.free_slots();
        if of.is_empty() || of.len() > self.model.head_rows() || !has_room {
            return Ok(());
        }
        let sent = self.model.send_greedy(&self.batch, !self.sent.is_empty())?;
        self.sent.push(SentStep { sent, of, rows });
        self.count_step();
        Ok(())
    }
}

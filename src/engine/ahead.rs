//! Steps that are sent before the one in front of them has been read: where a device runs ahead of the host, the next token of a
//! greedy answer is known on it first. While the host reads a token, the device makes the one after it.
//!
//! A step sent ahead hopes that no answer ends in the step before. What it makes for one that did is dropped: its cache entries
//! were never committed.

use super::outputs::Form;
use super::{Engine, Event, RequestId};
use crate::backend::Sent;
use crate::error::Result;

/// A step that was sent and not yet read.
pub(super) struct Flight {
    sent: Sent,
    /// Whose rows these are.
    of: Vec<RequestId>,
    /// What they are worth, as [`crate::prefill::Cost`] counts.
    rows: f64,
}

impl Engine {
    /// Takes a step with the next one on its way, where greedy answers are all there is to do. Returns what its rows were
    /// worth, `None` where there was no such step.
    pub(super) async fn step_ahead(&mut self, events: &mut Vec<Event>) -> Result<Option<f64>> {
        // Of answers that are over nothing is awaited.
        let running = &self.running;
        self.flights.retain(|f| f.of.iter().any(|id| running.iter().any(|r| r.id == *id)));
        if self.flights.is_empty() {
            self.send_ahead()?;
        }
        // Two are there when the caller did not wait for the last step.
        if self.flights.len() == 1 {
            self.send_ahead()?;
        }
        let Some(flight) = self.flights.first() else { return Ok(None) };
        self.model.receive(&flight.sent, &mut self.logits).await?;
        let (flight, now) = (self.flights.remove(0), (self.clock)());
        let outputs = Form::top(1).of(&self.logits);
        for (row, id) in flight.of.iter().enumerate() {
            let Some(r) = self.running.iter_mut().find(|r| r.id == *id) else { continue };
            if !self.flights.iter().any(|next| next.of.contains(id)) {
                r.commit(self.model.kv_mut())?;
            }
            r.choose(&self.tokenizer, outputs.row(row), now, events);
        }
        Ok(Some(flight.rows))
    }

    /// Sends a step, behind the one that is on its way if there is one; does nothing where it is not known what comes next.
    fn send_ahead(&mut self) -> Result<()> {
        let drafts = self.speculation.is_some();
        let known = self.running.iter().all(|r| r.is_greedy() && !(drafts && r.may_guess()));
        if !self.model.backend().runs_ahead() || !self.waiting.is_empty() || !known {
            return Ok(());
        }
        self.batch.clear();
        let (mut of, mut rows, mut blocks) = (Vec::new(), 0.0, 0);
        for r in &mut self.running {
            let token = match self.flights.first() {
                None => r.tokens().last().copied(),
                Some(front) => {
                    r.commit(self.model.kv_mut())?;
                    let row = front.of.iter().position(|id| *id == r.id).filter(|_| r.has_room_for(2));
                    row.map(|row| row as u32)
                }
            };
            let Some(token) = token else { continue };
            blocks += self.model.kv().blocks_needed(r.seq, 1)?;
            rows += self.cost.run(r.done(), 1, 1);
            r.put_one(token, &mut self.batch);
            of.push(r.id);
        }
        if of.is_empty() || of.len() > self.model.head_rows() || blocks > self.model.kv().free_blocks() {
            return Ok(());
        }
        let sent = self.model.send_greedy(&self.batch, !self.flights.is_empty())?;
        self.flights.push(Flight { sent, of, rows });
        self.count_step();
        Ok(())
    }
}

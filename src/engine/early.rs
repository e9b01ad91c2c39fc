//! Prompts that are read by prediction ([`crate::predict`]): forwards of their own beside the step's batch.

use super::running::Offer;
use super::{Engine, Event};
use crate::batch::Batch;
use crate::error::Result;
use crate::kv::Again;
use crate::predict::{CHUNK, Prefill, Reading};
use crate::prefill::{LEAST, width};
use crate::sample::Logits;
use std::ops::Range;

/// Tokens of running requests that are run once more: index in `running`, and which.
type Runs = Vec<(usize, Range<usize>)>;

impl Engine {
    /// Decides how a request that has just begun is read.
    pub(super) fn choose_prefill(&self, wanted: Option<Prefill>, tokens: Range<usize>) -> Option<Reading> {
        let share = self.model.predicted_share()?;
        let saved = self.pace.ms(tokens.len() as f64 * (1.0 - share));
        let progressive = wanted.unwrap_or(self.prefill).of(tokens.len(), saved)?;
        Some(Reading::new(progressive, tokens))
    }

    /// Goes on with the exact reading behind answers that have begun: of the prompts from the trunk's streams, then of the
    /// words that were written meanwhile, through all layers.
    pub(super) async fn read_behind(&mut self) -> Result<()> {
        self.running.iter_mut().for_each(|r| r.offer = Offer::default());
        if !self.running.iter().any(|r| r.reading.as_ref().is_some_and(|p| p.begun && p.progressive)) {
            return Ok(());
        }
        let most = CHUNK.end.min(self.model.max_batch());
        let wanted = self.behind_ms.map_or(CHUNK.start, |ms| (self.pace.target_ms() / ms) as usize);
        let mut room = wanted.clamp(CHUNK.start.min(most), most);
        let (mut prompts, mut words) = (Runs::new(), Runs::new());
        for (i, r) in self.running.iter().enumerate() {
            let Some(reading) = r.reading.as_ref().filter(|p| p.begun && p.progressive) else { continue };
            let prompt = reading.next(room);
            room -= prompt.len();
            if prompt.end >= reading.tokens.end {
                let written = prompt.end.max(reading.exact)..r.done();
                let written = written.start..written.end.min(written.start + room);
                room -= written.len();
                words.push((i, written));
            }
            prompts.push((i, prompt));
        }
        let started = (self.clock)();
        for (i, _) in prompts.iter().chain(&words) {
            self.running[*i].offer.rows = 1;
        }
        self.again(&prompts, true, false).await?;
        self.again(&words, false, false).await?;
        let mut rows = 0;
        for (i, run) in prompts.into_iter().chain(words) {
            rows += run.len();
            self.running[i].made_exact(run.end);
        }
        let ms = ((self.clock)() - started) / rows.max(1) as f64;
        self.behind_ms = Some(self.behind_ms.map_or(ms, |mean| (mean + ms) / 2.0));
        Ok(())
    }

    /// Reads prompts through the trunk, beside `writing` rows' worth of answers; where it is through, the sinks and the tail
    /// through the other layers, which gives the first word.
    pub(super) async fn read_ahead(&mut self, writing: f64, events: &mut Vec<Event>) -> Result<()> {
        self.running.iter_mut().for_each(|r| r.offer = Offer::default());
        let pending = |e: &Engine| e.running.iter().filter(|r| r.reads_ahead()).map(|r| r.pending()).sum::<usize>();
        if pending(self) > 0 {
            let most = match writing > 0.0 {
                true => {
                    let share = self.model.predicted_share().unwrap_or(1.0);
                    ((self.pace.room(writing) / share).max(0.0) as usize).max(LEAST).min(self.model.max_batch())
                }
                false => width(pending(self), self.model.max_batch()),
            };
            self.read_trunk(most).await?;
        }
        let mut room = self.model.max_batch();
        let mut runs = Runs::new();
        for (i, r) in self.running.iter_mut().enumerate().filter(|(_, r)| r.reads_ahead() && r.pending() == 0) {
            let Some(reading) = &r.reading else { continue };
            let ends = reading.ends();
            let n = ends[0].len() + ends[1].len();
            if n <= room {
                room -= n;
                r.offer = Offer { first: 0, rows: n, outputs: 1 };
                runs.extend(ends.map(|run| (i, run)));
            }
        }
        if runs.is_empty() {
            return Ok(());
        }
        self.again(&runs, true, true).await?;
        let (now, n_vocab) = ((self.clock)(), self.model.config().n_vocab);
        let begun = self.running.iter_mut().filter(|r| r.offer.outputs > 0);
        for (r, logits) in begun.zip(self.logits.chunks_exact(n_vocab)) {
            r.take_early(&self.tokenizer, Logits::All(logits), now, events);
        }
        Ok(())
    }

    /// One forward of at most `most` rows through the trunk.
    async fn read_trunk(&mut self, mut most: usize) -> Result<()> {
        let mut batch = Batch::new();
        for r in self.running.iter_mut().filter(|r| r.reads_ahead()) {
            let n = r.pending().min(most);
            if n > 0 && self.model.kv().blocks_needed(r.seq, n)? <= self.model.kv().free_blocks() {
                most -= n;
                r.put_early(n, &mut batch);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut streams = Vec::new();
        self.model.forward_trunk(&batch, &mut streams).await?;
        self.totals.steps += 1;
        self.totals.rows += batch.len();
        self.n_read += batch.len() as u64;
        let dim = self.model.config().dim;
        for r in self.running.iter_mut().filter(|r| r.offer.rows > 0) {
            self.model.kv_mut().commit_run(r.seq)?;
            let first = r.offer.first as usize;
            r.keep_streams(&streams[first * dim..][..r.offer.rows * dim]);
            r.offer = Offer::default();
        }
        Ok(())
    }

    /// Runs tokens once more; `streams`: from behind the trunk; `last`: with logits of the last run of every request.
    async fn again(&mut self, runs: &[(usize, Range<usize>)], streams: bool, last: bool) -> Result<()> {
        let dim = self.model.config().dim;
        let mut again = Vec::new();
        let mut values = Vec::new();
        for (at, (i, run)) in runs.iter().enumerate().filter(|(_, (_, run))| !run.is_empty()) {
            let r = &self.running[*i];
            let output = last && runs.get(at + 1).is_none_or(|(next, _)| next != i);
            again.push(Again { seq: r.seq, first: run.start, tokens: &r.tokens()[run.clone()], output });
            if let Some(reading) = r.reading.as_ref().filter(|_| streams) {
                values.extend_from_slice(reading.streams(run.clone(), dim));
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        let n: usize = again.iter().map(|a| a.tokens.len()).sum();
        let values = streams.then_some(&values[..]);
        self.model.forward_again(&again, values, &mut self.logits).await?;
        self.totals.steps += 1;
        self.totals.rows += n;
        Ok(())
    }
}

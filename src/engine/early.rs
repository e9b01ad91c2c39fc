//! Prompts that are read by prediction ([`crate::predict`]): forwards of their own beside the step's batch.

use super::running::Share;
use super::{Engine, Event};
use crate::batch::Batch;
use crate::error::Result;
use crate::kv::Recompute;
use crate::model::predict::{CHUNK, Prefill, Reading};
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

    /// Makes predicted cache entries of answers that have begun exact, a chunk a step: first those of the prompt, from the streams
    /// that the trunk left, then those of the words written meanwhile, through all layers.
    pub(super) async fn read_behind(&mut self) -> Result<()> {
        self.running.iter_mut().for_each(|r| r.share = Share::default());
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
            self.running[*i].share.rows = 1;
        }
        self.recompute(&prompts, true).await?;
        self.recompute(&words, false).await?;
        let mut rows = 0;
        for (i, run) in prompts.into_iter().chain(words) {
            rows += run.len();
            self.running[i].made_exact(run.end);
        }
        let ms = ((self.clock)() - started) / rows.max(1) as f64;
        self.behind_ms = Some(self.behind_ms.map_or(ms, |mean| (mean + ms) / 2.0));
        Ok(())
    }

    /// Reads prompts through the trunk; `writing` is what the answers in this step cost, in rows. Once the trunk has read a whole
    /// prompt, its sinks and tail go through the other layers, which gives the first word.
    pub(super) async fn read_ahead(&mut self, writing: f64, events: &mut Vec<Event>) -> Result<()> {
        self.running.iter_mut().for_each(|r| r.share = Share::default());
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
        self.read_ends(events).await
    }

    /// One forward of sinks and tails, of prompts that the trunk has read; the last of them is cut where the forward is full.
    async fn read_ends(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let mut room = self.model.max_batch();
        let mut runs = Runs::new();
        for (i, r) in self.running.iter_mut().enumerate().filter(|(_, r)| r.reads_ahead() && r.pending() == 0) {
            let Some(reading) = r.reading.as_ref().filter(|_| room > 0) else { continue };
            let (ends, last) = reading.next_ends(room);
            let rows = ends[0].len() + ends[1].len();
            room -= rows;
            r.share = Share { rows, outputs: usize::from(last), ..Share::default() };
            runs.extend(ends.map(|run| (i, run)));
        }
        if runs.is_empty() {
            return Ok(());
        }
        self.recompute(&runs, true).await?;
        let (now, n_vocab) = ((self.clock)(), self.model.config().n_vocab);
        let mut logits = self.logits.chunks_exact(n_vocab);
        for r in self.running.iter_mut().filter(|r| r.share.rows > 0) {
            if let Some(reading) = &mut r.reading {
                reading.read_ends(r.share.rows);
            }
            if r.share.outputs > 0
                && let Some(logits) = logits.next()
            {
                r.take_early(&self.tokenizer, Logits::All(logits), now, events);
            }
        }
        Ok(())
    }

    /// One forward of at most `most` rows through the trunk.
    async fn read_trunk(&mut self, mut most: usize) -> Result<()> {
        let mut batch = Batch::new();
        let (mut at, mut blocks) = (0, 0);
        while let Some(r) = self.running.get(at) {
            let wanted = if r.reads_ahead() { r.pending().min(most) } else { 0 };
            let n = self.make_room(at, wanted, &mut blocks);
            if let Some(r) = self.running.get_mut(at).filter(|_| n > 0) {
                most -= n;
                r.put_early(n, &mut batch);
            }
            at += 1;
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
        for r in self.running.iter_mut().filter(|r| r.share.rows > 0) {
            self.model.kv_mut().commit_run(r.seq)?;
            let first = r.share.first as usize;
            r.keep_streams(&streams[first * dim..][..r.share.rows * dim]);
            r.share = Share::default();
        }
        Ok(())
    }

    /// Runs tokens once more; `streams`: from behind the trunk. Where a request's share has an output, that is the last token of
    /// its last run.
    async fn recompute(&mut self, runs: &[(usize, Range<usize>)], streams: bool) -> Result<()> {
        let dim = self.model.config().dim;
        let mut recomputed = Vec::new();
        let mut values = Vec::new();
        for (at, (i, run)) in runs.iter().enumerate().filter(|(_, (_, run))| !run.is_empty()) {
            let r = &self.running[*i];
            let output = r.share.outputs > 0 && runs.get(at + 1).is_none_or(|(next, _)| next != i);
            recomputed.push(Recompute { seq: r.seq, first: run.start, tokens: &r.task.tokens()[run.clone()], output });
            if let Some(reading) = r.reading.as_ref().filter(|_| streams) {
                values.extend_from_slice(reading.streams(run.clone(), dim));
            }
        }
        if recomputed.is_empty() {
            return Ok(());
        }
        let n: usize = recomputed.iter().map(|a| a.tokens.len()).sum();
        let values = streams.then_some(&values[..]);
        self.model.recompute(&recomputed, values, &mut self.logits).await?;
        self.totals.steps += 1;
        self.totals.rows += n;
        Ok(())
    }
}

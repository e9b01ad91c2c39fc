//! The one decoder: the rows of a plan through the layers to logits.

use super::config::ModelConfig;
use super::embed::Projection;
use super::layer::{Layer, Tap};
use super::per_layer::Table;
use super::sound;
use super::weights::Weights;
use super::work::{Stream, Workspace};
use crate::backend::{Backend, Buf, Delta, Epilogue, MAX_SELECTED, Operand, Plan, Product, Rows, Select, Weight, read};
use crate::batch::Streams;
use crate::error::{Result, resize};
use std::ops::Range;

/// A model's weights in a backend, ready to run.
pub(super) struct Decoder {
    pub(super) config: ModelConfig,
    pub(super) backend: Box<dyn Backend>,
    pub(super) weights: Weights,
    pub(super) layers: Vec<Layer>,
    /// Layers of a sidecar.
    pub(super) taps: Vec<Tap>,
    pub(super) work: Workspace,
    pub(super) stream: Stream,
    pub(super) head: Head,
    /// The `k` largest of each row of the head's logits, `[head_rows, 2 k + 1]`, for some `k`, ascending.
    pub(super) selected: Selected,
    /// What becomes of pooled vectors.
    pub(super) pooled: Vec<Projection>,
    /// What layers get of each token besides the stream.
    pub(super) table: Option<Table>,
}

/// What makes logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Receives the normed stream `[rows, dim]`.
    pub(super) input: Operand,
    /// `[n, dim]`.
    pub(super) weight: Weight,
    /// `[n]`.
    pub(super) bias: Option<Buf>,
    /// `[rows, n]`.
    pub(super) logits: Buf,
    /// Rows of logits that are in the backend's memory at a time.
    pub(super) rows: usize,
    /// Tokens.
    pub(super) n: usize,
}

/// Most rows of logits that are in the backend's memory at a time.
const HEAD_ROWS: usize = 8;

/// Largest logits of a row that are read: for greedy decoding, for common settings of top-k, for all others.
const SELECTED: [usize; 3] = [1, 64, MAX_SELECTED];

/// How many of the largest logits, and their matrix `[head_rows, 2 k + 1]`.
pub(super) type Selected = [(usize, Buf); SELECTED.len()];

/// What is read of logits.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    All,
    /// By [`Select`].
    Top {
        k: usize,
        out: Buf,
        sum: bool,
    },
}

impl Wanted {
    /// Refuses results that are not numbers; they come in rows of `width`.
    fn check(self, out: &[f32], width: usize) -> Result<()> {
        match self {
            Wanted::All => sound::logits(out),
            Wanted::Top { sum, .. } => sound::top_logits(out, width, sum),
        }
    }
}

/// Bytes of the largest work matrix for `n` rows.
pub(super) fn largest_buf(c: &ModelConfig, n: usize) -> usize {
    let widest = c.layers.iter().map(|layer| layer.widest(c.dim)).fold(c.dim, usize::max);
    let rows = n.saturating_mul(widest).max(HEAD_ROWS.min(n).saturating_mul(c.n_vocab));
    rows.saturating_mul(size_of::<f32>())
}

impl Head {
    /// A head on `n` rows of weights.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &Workspace,
        weight: Weight,
        bias: Option<Buf>,
        n: usize,
    ) -> Result<Head> {
        let rows = HEAD_ROWS.min(work.rows);
        let (input, logits) = (backend.new_operand(rows, work.dim, &[weight])?, backend.new_buf(rows, n)?);
        Ok(Head { input, weight, bias, logits, rows, n })
    }

    /// Matrices for the largest logits.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub(super) fn selected(&self, backend: &mut dyn Backend) -> Result<Selected> {
        let mut selected = [(0, Buf::default()); SELECTED.len()];
        for (entry, k) in selected.iter_mut().zip(SELECTED.map(|k| k.min(self.n))) {
            *entry = (k, backend.new_buf(self.rows, 2 * k + 1)?);
        }
        Ok(selected)
    }
}

impl Decoder {
    /// Runs a plan through the layers, the last norm and the head. With `resumed` the stream holds what so many first layers
    /// made, and they are left out. `out` becomes `[n_outputs, n_vocab]` or what `wanted` says.
    pub(super) async fn run(
        &mut self,
        plan: &mut Plan,
        resumed: Option<usize>,
        wanted: Wanted,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.begin(plan).await?;
        if resumed.is_none() {
            self.embed();
        }
        let delta = self.through(resumed.unwrap_or(0)..self.layers.len());
        self.end(plan, delta, self.head, wanted, out).await
    }

    /// Begins a step over the rows of `plan` that goes through layers.
    pub(super) async fn begin(&mut self, plan: &Plan) -> Result<()> {
        if let Some(table) = &mut self.table {
            table.read(&mut *self.backend, &plan.tokens).await?;
        }
        self.backend.begin(plan)?;
        if let Some(table) = &self.table {
            table.embed(&mut *self.backend, self.weights.embeddings, self.config.embed_scale);
        }
        Ok(())
    }

    /// Begins the residual stream with the tokens' embeddings.
    pub(super) fn embed(&mut self) {
        self.backend.embed(self.weights.embeddings, self.config.embed_scale, self.stream.x);
    }

    /// Runs the residual stream through some layers. Returns what is left to be added to it.
    pub(super) fn through(&mut self, layers: Range<usize>) -> Option<Delta> {
        self.through_from(None, layers)
    }

    /// The same where something is to be added to the stream first.
    pub(super) fn through_from(&mut self, mut delta: Option<Delta>, layers: Range<usize>) -> Option<Delta> {
        for i in layers {
            delta = self.layers[i].run(&mut *self.backend, &self.stream, delta);
            if self.config.layers[i].renorm {
                self.backend.norm(&self.stream.complete(delta, Some(self.weights.norm)));
                delta = None;
            }
            for tap in self.taps.iter().filter(|tap| tap.after == i + 1) {
                tap.layer.fill(&mut *self.backend, &self.stream, delta);
                delta = None;
            }
        }
        delta
    }

    /// Adds to the stream what is left to be added.
    pub(super) fn complete(&mut self, delta: Option<Delta>) {
        if delta.is_some() {
            self.backend.norm(&self.stream.complete(delta, None));
        }
    }

    /// Last norm and logits of the outputs of the plan that was begun.
    pub(super) fn logits(&mut self, delta: Option<Delta>, head: Head, wanted: Wanted) {
        let (c, backend) = (&self.config, &mut *self.backend);
        let Head { input, weight, bias, logits, .. } = head;
        backend.norm(&self.stream.norm(delta, Some(self.weights.norm), input, Rows::Outputs));
        let epilogue = Epilogue { scale: c.logit_scale, bias, softcap: c.logit_softcap, accumulate: false };
        backend.matmul(input, Rows::Outputs, &[Product { weight, out: logits, epilogue }]);
        if let Wanted::Top { out, sum, .. } = wanted {
            backend.select(&Select { logits, out, sum });
        }
    }

    /// The last norm and the head behind the layers.
    pub(super) async fn end(
        &mut self,
        plan: &mut Plan,
        delta: Option<Delta>,
        head: Head,
        wanted: Wanted,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (source, width) = match wanted {
            Wanted::All => (head.logits, head.n),
            Wanted::Top { k, out, .. } => (out, 2 * k + 1),
        };
        // Not cleared first: every value is overwritten, and zeroing a large vocabulary takes time.
        resize(out, plan.outputs.len() * width, 0.0, "logits")?;
        if plan.outputs.len() <= head.rows {
            self.logits(delta, head, wanted);
            read(&mut *self.backend, source, plan.outputs.len(), out).await?;
            return wanted.check(out, width);
        }
        // Many logits (perplexity) go through the head a few rows at a time.
        let outputs = std::mem::take(&mut plan.outputs);
        for (rows, out) in outputs.chunks(head.rows).zip(out.chunks_mut(head.rows * width)) {
            plan.outputs.clear();
            plan.outputs.extend_from_slice(rows);
            self.backend.begin(plan)?;
            self.logits(delta, head, wanted);
            read(&mut *self.backend, source, rows.len(), out).await?;
            wanted.check(out, width)?;
        }
        Ok(())
    }

    /// Runs a plan through the first layers and appends the streams behind them, `[n, dim]`.
    pub(super) async fn first_layers(&mut self, plan: &Plan, n_layers: usize, streams: &mut Vec<f32>) -> Result<()> {
        self.begin(plan).await?;
        self.embed();
        let delta = self.through(0..n_layers);
        self.complete(delta);
        let (n, known) = (plan.tokens.len(), streams.len());
        resize(streams, known + n * self.config.dim, 0.0, "a prompt's streams")?;
        read(&mut *self.backend, self.stream.x, n, &mut streams[known..]).await
    }

    /// Puts the streams behind the first layers into `x` for all rows of a plan: for `rows` those that are `known`, for the
    /// others what the layers make of them. `part` becomes the other rows.
    pub(super) async fn resume(&mut self, plan: &Plan, part: &mut Plan, rows: &[u32], known: &Streams) -> Result<()> {
        let (dim, n) = (self.config.dim, plan.tokens.len());
        let is_known = |row: usize| rows.binary_search(&(row as u32)).is_ok();
        let mut others = Vec::new();
        if rows.len() < n {
            set_rows(part, plan, |row| !is_known(row));
            self.first_layers(part, known.layers, &mut others).await?;
        }
        let (mut values, mut others) = (known.values.chunks_exact(dim), others.chunks_exact(dim));
        let rows = (0..n).filter_map(|row| if is_known(row) { values.next() } else { others.next() });
        let x: Vec<f32> = rows.flatten().copied().collect();
        self.backend.write(self.stream.x, 0, &x)
    }
}

/// Fills `part` with the rows of a plan that are `wanted`; each keeps its cell and what it sees.
pub(super) fn set_rows(part: &mut Plan, whole: &Plan, wanted: impl Fn(usize) -> bool) {
    part.clear();
    part.blocks.extend_from_slice(&whole.blocks);
    part.extras.extend_from_slice(&whole.extras);
    for row in (0..whole.tokens.len()).filter(|&row| wanted(row)) {
        if whole.outputs.binary_search(&(row as u32)).is_ok() {
            part.outputs.push(part.tokens.len() as u32);
        }
        part.tokens.push(whole.tokens[row]);
        part.positions.push(whole.positions[row]);
        part.cells.push(whole.cells[row]);
        part.spans.push(whole.spans[row]);
    }
}

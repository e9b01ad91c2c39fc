//! Drafting with the model's own first layers, with or without a sidecar's draft block behind them, and the forward that goes on
//! behind these layers: what a drafter has computed of a guess is the first part of its verification.

use super::beside::Beside;
use super::forward::{Head, Wanted, block};
use super::{Model, weights};
use crate::backend::{Buf, Norm, Plan, Rows, Span, Weight, read};
use crate::batch::{Batch, Streams};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::quant::TensorType;
use crate::sidecar::Sidecar;

/// What guesses inside a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guesser {
    /// So many first layers, then the last norm and the head.
    Layers(usize),
    /// The sidecar's trunk and draft block, then the last norm and the head or some rows of it.
    Sidecar,
}

/// What an acceptance head adds to the product of its weights with the stream; see [`crate::sidecar`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acceptance {
    /// Added always.
    pub constant: f32,
    /// Factor on the log-odds of the drafter's most probable token.
    pub confidence: f32,
}

impl Acceptance {
    /// Probability that a drafter's most probable token is accepted; `row` has the draft's logits and the product behind them.
    /// What the drafter thinks of its guess is taken from these logits, whatever the request's settings.
    pub fn probability(self, row: &[f32]) -> f64 {
        let Some((&product, logits)) = row.split_last() else { return 0.0 };
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        let p = (1.0 / sum).clamp(1e-4, 1.0 - 1e-4);
        let odds = f64::from(product + self.constant) + f64::from(self.confidence) * (p / (1.0 - p)).ln();
        1.0 / (1.0 + (-odds).exp())
    }
}

/// A sidecar's draft block.
#[derive(Debug)]
pub(super) struct Drafting {
    /// Layers before it.
    pub(super) trunk: usize,
    pub(super) block: Beside,
    /// Its vocabulary and the rows of the base's head for it, where it is a reduced one. With an acceptance head that is the
    /// last row.
    tokens: Option<Vec<u32>>,
    pub(super) head: Option<Head>,
    acceptance: Option<Acceptance>,
}

impl Model {
    /// Loads a sidecar's draft block.
    pub(super) async fn load_drafting(
        &mut self,
        gguf: &Gguf,
        sources: &mut [Box<dyn Source>],
        sidecar: Sidecar,
    ) -> Result<Drafting> {
        let Sidecar { trunk, draft_tokens: tokens, accepts, .. } = sidecar;
        let n_vocab = self.config.n_vocab;
        if let Some(id) = tokens.iter().flatten().find(|&&t| t as usize >= n_vocab) {
            return Err(Error::bad_file(format!("draft token {id} is not in the vocabulary of {n_vocab}")));
        }
        let prefix = format!("blk.{}", self.config.layers.len());
        let block = self.load_beside((gguf, &mut *sources), &prefix, trunk, 1).await?;
        let (extra, acceptance) = match accepts {
            // The row would be capped as logits are.
            true if self.config.logit_softcap != 0.0 => {
                return Err(Error::unsupported("an acceptance head for a model whose logits are capped"));
            }
            true => {
                let head = weights::acceptance(gguf, sources, &mut *self.backend, self.config.dim).await?;
                (head.0, Some(head.1))
            }
            false => (Vec::new(), None),
        };
        let head = match &tokens {
            Some(tokens) => Some(self.reduced_head(tokens, &extra).await?),
            None => None,
        };
        Ok(Drafting { trunk, block, tokens, head, acceptance })
    }

    /// The head's rows of some tokens, and `extra` ones.
    async fn reduced_head(&mut self, tokens: &[u32], extra: &[f32]) -> Result<Head> {
        let (dim, rows) = (self.config.dim, self.buffers.head_rows);
        let n = tokens.len() + extra.len() / dim;
        let exact = self.weights.float_head || !dim.is_multiple_of(32);
        let ty = if exact { TensorType::F32 } else { TensorType::Q8_0 };
        let weight = self.backend.new_weight(ty, n, dim)?;
        let mut values = vec![0.0; tokens.len() * dim];
        let batch = self.max_batch;
        for (tokens, values) in tokens.chunks(batch).zip(values.chunks_mut(batch * dim)) {
            self.rows_of(self.weights.head, tokens, values).await?;
        }
        // The head scales what it makes.
        values.extend(extra.iter().map(|v| v / self.config.logit_scale));
        let bytes = if exact { values.iter().flat_map(|v| v.to_le_bytes()).collect() } else { q8_0(&values) };
        self.backend.load_rows(weight, 0, &bytes)?;
        let bias = match self.weights.head_bias {
            Some(bias) => Some(self.some_of(bias, tokens, n).await?),
            None => None,
        };
        let (input, logits) = (self.backend.new_operand(rows, dim, &[weight])?, self.backend.new_buf(rows, n)?);
        Ok(Head { input, weight, bias, logits, n })
    }

    /// Reads rows of a matrix back, `[tokens, dim]`.
    async fn rows_of(&mut self, matrix: Weight, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let n = tokens.len();
        let spans = vec![Span { prefix: 1, ..Span::default() }; n];
        let (positions, cells) = (vec![0; n], vec![0; n]);
        let plan = Plan { tokens: tokens.to_vec(), positions, cells, spans, blocks: vec![0], ..Plan::default() };
        self.backend.begin(&plan)?;
        self.backend.embed(matrix, 1.0, self.buffers.x);
        read(&mut *self.backend, self.buffers.x, n, out).await
    }

    /// Some values of a vector over the vocabulary, and zeros up to `n`.
    async fn some_of(&mut self, all: Buf, tokens: &[u32], n: usize) -> Result<Buf> {
        let mut values = vec![0.0; self.config.n_vocab];
        read(&mut *self.backend, all, 1, &mut values).await?;
        let mut some: Vec<f32> = tokens.iter().map(|&t| values[t as usize]).collect();
        some.resize(n, 0.0);
        let buf = self.backend.new_buf(1, some.len())?;
        self.backend.write(buf, 0, &some)?;
        Ok(buf)
    }

    /// Layers that a guesser runs of the model's own.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for none or all layers, and without a sidecar that has a draft block.
    pub fn guesser_layers(&self, guesser: Guesser) -> Result<usize> {
        let all = self.config.layers.len();
        match (guesser, &self.drafting) {
            (Guesser::Layers(n), _) if (1..=all).contains(&n) => Ok(n),
            (Guesser::Layers(n), _) => {
                Err(Error::invalid_request(format!("drafting with {n} layers; 1 to {} are possible", all - 1)))
            }
            (Guesser::Sidecar, Some(drafting)) => Ok(drafting.trunk),
            (Guesser::Sidecar, None) => Err(Error::invalid_request("drafting needs a sidecar with a draft block")),
        }
    }

    /// Vocabulary of a guesser's logits, ascending; `None`: the model's.
    pub fn draft_tokens(&self, guesser: Guesser) -> Option<&[u32]> {
        let drafting = self.drafting.as_ref().filter(|_| guesser == Guesser::Sidecar);
        drafting.and_then(|d| d.tokens.as_deref())
    }

    /// A guesser's acceptance head. What it makes of a row stands behind the row's logits.
    pub fn acceptance(&self, guesser: Guesser) -> Option<Acceptance> {
        self.drafting.as_ref().filter(|_| guesser == Guesser::Sidecar)?.acceptance
    }

    /// Runs the rows of a batch from `first` on, those before having been run by this function already, through what
    /// guesses. `streams` gets the residual streams `[rows, dim]` behind its [layers](Model::guesser_layers), `logits` becomes
    /// `[n_outputs, vocabulary]`, one column more with an [acceptance head](Model::acceptance). Deeper layers' cache entries are
    /// not written, so the tokens must not be committed; a forward of the same rows may go on from the streams
    /// ([`Batch::resume`]).
    ///
    /// # Errors
    /// As for [`Model::forward`] and [`Model::guesser_layers`]; `streams` is as before then.
    pub async fn draft(
        &mut self,
        (batch, first): (&Batch, usize),
        guesser: Guesser,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.check(batch)?;
        let (mut plan, mut part) = (std::mem::take(&mut self.plan), std::mem::take(&mut self.part));
        let mut result = self.kv.plan(&mut *self.backend, batch, &mut plan);
        if result.is_ok() {
            set_rows(&mut part, &plan, |row| row >= first);
            result = self.draft_rows(&mut part, guesser, streams, logits).await;
        }
        (self.plan, self.part) = (plan, part);
        result
    }

    async fn draft_rows(
        &mut self,
        plan: &mut Plan,
        guesser: Guesser,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let n_layers = self.guesser_layers(guesser)?;
        let known = streams.len();
        let mut result = self.first_layers(plan, n_layers, streams).await;
        if result.is_ok() {
            self.backend.begin(plan)?;
            let drafting = self.drafting.as_ref().filter(|_| guesser == Guesser::Sidecar);
            let (c, w) = (&self.config, &self.weights);
            let (delta, wanted) = match drafting {
                Some(d) => (block(&mut *self.backend, (c, w, &d.block.buffers), d.block.layer(), None), Wanted::Draft),
                None => (None, Wanted::All),
            };
            result = self.end(plan, delta, wanted, logits).await;
        }
        if result.is_err() {
            streams.truncate(known);
        }
        result
    }

    /// Runs a plan through the first layers and appends the streams behind them.
    async fn first_layers(&mut self, plan: &Plan, n_layers: usize, streams: &mut Vec<f32>) -> Result<()> {
        self.backend.begin(plan)?;
        self.embed();
        let delta = self.through(0..n_layers);
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        if delta.is_some() {
            // A norm completes the stream; what it makes is not used.
            self.backend.norm(&Norm { x: b.x, delta, weight: w.norm, eps: c.norm_eps, out: b.normed, rows: Rows::All });
        }
        let (n, known) = (plan.tokens.len(), streams.len());
        streams.resize(known + n * c.dim, 0.0);
        read(&mut *self.backend, b.x, n, &mut streams[known..]).await
    }

    /// Puts the streams behind the first layers into `x` for all rows of a plan: those that the batch knows, and those that the
    /// layers make of the other rows.
    pub(super) async fn resume(&mut self, plan: &Plan, batch: &Batch) -> Result<()> {
        let (known, Streams { layers, values }) = batch.known();
        let (dim, n) = (self.config.dim, plan.tokens.len());
        let is_known = |row: usize| known.binary_search(&(row as u32)).is_ok();
        let mut others = Vec::new();
        if known.len() < n {
            let mut part = std::mem::take(&mut self.part);
            set_rows(&mut part, plan, |row| !is_known(row));
            let result = self.first_layers(&part, *layers, &mut others).await;
            self.part = part;
            result?;
        }
        let (mut values, mut others) = (values.chunks_exact(dim), others.chunks_exact(dim));
        let rows = (0..n).filter_map(|row| if is_known(row) { values.next() } else { others.next() });
        let x: Vec<f32> = rows.flatten().copied().collect();
        self.backend.write(self.buffers.x, 0, &x)
    }
}

/// Makes `part` some rows of a plan. They are written where they were to be written, and see what they saw.
fn set_rows(part: &mut Plan, whole: &Plan, wanted: impl Fn(usize) -> bool) {
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

/// Rows of floats, whole groups of 32, as blocks of Q8_0.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
    for group in values.chunks_exact(32) {
        let scale = half::f16::from_f32(group.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0);
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        bytes.extend(scale.to_le_bytes());
        bytes.extend(group.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    bytes
}

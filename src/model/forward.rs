//! The one decoder: a batch through the layers to logits.

use super::predict::beside;
use super::weights::{LayerWeights, Linear, Weights};
use super::{Buffers, LayerConfig, Model, ModelConfig};
use crate::backend::{
    Attend, Backend, Buf, Cache, Delta, Epilogue, Gate, Norm, Operand, Plan, Product, RopeAppend, Rows, Select, Sent,
    Weight, read, receive,
};
use crate::batch::Batch;
use crate::error::{Error, Result};
use std::ops::Range;

impl Model {
    /// Runs a batch. `logits` becomes `[n_outputs, n_vocab]`, the rows that asked for them, in order. The tokens are in the
    /// cache afterwards, but not committed.
    ///
    /// # Errors
    /// Whatever [`crate::kv::KvCache::plan`] refuses, [`crate::Kind::InvalidRequest`] for more than
    /// [`Model::max_batch`] rows or unknown tokens, [`crate::Kind::DeviceLost`].
    pub async fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.plan_and_run(batch, Wanted::All, logits).await
    }

    /// The same with only the largest logits of each row, `n` or a few more: `top` becomes `[n_outputs, 2 k + 1]` as
    /// [`Select`] says, the sum only where it is wanted. Returns `k`.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more than [`crate::backend::MAX_SELECTED`].
    pub async fn forward_top(&mut self, batch: &Batch, n: usize, sum: bool, top: &mut Vec<f32>) -> Result<usize> {
        let selected = self.buffers.selected.iter().copied().find(|(k, _)| n <= *k || *k == self.config.n_vocab);
        let (k, out) =
            selected.ok_or_else(|| Error::invalid_request(format!("the {n} largest logits are too many")))?;
        self.plan_and_run(batch, Wanted::Top { k, out, sum }, top).await?;
        Ok(k)
    }

    /// Sends the forward of a batch of which the largest logit of each output is wanted, to be fetched by [`Model::receive`].
    /// With `ahead` the tokens are rows of the outputs sent before, whose largest logits they stand for, wherever the result of
    /// that is. The backend must [run ahead](Backend::runs_ahead).
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more outputs than [`Model::head_rows`].
    pub(crate) fn send_greedy(&mut self, batch: &Batch, ahead: bool) -> Result<Sent> {
        self.check(batch)?;
        let n_outputs = batch.tokens().iter().filter(|t| t.output).count();
        if n_outputs > self.head_rows() {
            return Err(Error::invalid_request(format!("{n_outputs} outputs are too many to be sent at once")));
        }
        self.kv.plan(&mut *self.backend, batch, &mut self.plan)?;
        let (k, out) = self.buffers.selected[0];
        self.plan.chosen = ahead.then_some(out);
        self.backend.begin(&self.plan)?;
        self.embed();
        let delta = self.through(0..self.config.layers.len());
        let used = self.base_head();
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        head(&mut *self.backend, (c, w, b), used, delta, Wanted::Top { k, out, sum: false });
        Ok(self.backend.send(out, 0..n_outputs))
    }

    /// Waits for what was sent: `top` becomes `[n_outputs, 3]` as [`Select`] says, without the sum.
    ///
    /// # Errors
    /// [`crate::Kind::DeviceLost`].
    pub(crate) async fn receive(&mut self, sent: &Sent, top: &mut Vec<f32>) -> Result<()> {
        top.resize(sent.rows.len() * 3, 0.0);
        receive(&mut *self.backend, sent, top).await
    }

    /// The whole logits behind the last [`Model::forward_top`], whose batch had `n` outputs, at most
    /// [`Model::head_rows`].
    ///
    /// # Errors
    /// [`crate::Kind::DeviceLost`].
    pub async fn read_logits(&mut self, n: usize, logits: &mut Vec<f32>) -> Result<()> {
        logits.resize(n * self.config.n_vocab, 0.0);
        read(&mut *self.backend, self.buffers.logits, n, logits).await
    }

    async fn plan_and_run(&mut self, batch: &Batch, wanted: Wanted, out: &mut Vec<f32>) -> Result<()> {
        self.check(batch)?;
        let mut plan = std::mem::take(&mut self.plan);
        let mut result = self.kv.plan(&mut *self.backend, batch, &mut plan);
        let mut first = 0;
        if result.is_ok() && !batch.known().0.is_empty() {
            first = batch.known().1.layers;
            result = self.resume(&plan, batch).await;
        }
        if result.is_ok() {
            result = self.run(&mut plan, first, wanted, out).await;
        }
        self.plan = plan;
        result
    }

    pub(super) fn check(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() || batch.len() > self.max_batch {
            return Err(Error::invalid_request(format!(
                "a batch of {} tokens; 1 to {} are possible",
                batch.len(),
                self.max_batch
            )));
        }
        match batch.tokens().iter().find(|t| t.token as usize >= self.config.n_vocab) {
            Some(t) => Err(Error::invalid_request(format!(
                "token {} is not in the vocabulary of {}",
                t.token, self.config.n_vocab
            ))),
            None => Ok(()),
        }
    }

    /// Runs a plan through the layers from `first` on, the last norm and the head.
    pub(super) async fn run(
        &mut self,
        plan: &mut Plan,
        first: usize,
        wanted: Wanted,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.backend.begin(plan)?;
        if first == 0 {
            self.embed();
        }
        let delta = self.through(first..self.config.layers.len());
        self.end(plan, delta, wanted, out).await
    }

    /// Begins the residual stream with the tokens' embeddings.
    pub(super) fn embed(&mut self) {
        self.backend.embed(self.weights.embeddings, self.config.embed_scale, self.buffers.x);
    }

    /// Runs the residual stream through some layers. Returns what is left to be added to it.
    pub(super) fn through(&mut self, layers: Range<usize>) -> Option<Delta> {
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        let backend = &mut *self.backend;
        let mut delta = None;
        for i in layers {
            delta = block(backend, (c, w, b), Layer::of(c, w, self.kv.cache(), i), delta);
            for layer in beside(&self.maps, &self.drafting, i + 1) {
                layer.append(backend, (c, w), delta);
                delta = None;
            }
        }
        delta
    }

    fn base_head(&self) -> Head {
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        Head { input: b.head_in, weight: w.head, bias: w.head_bias, logits: b.logits, n: c.n_vocab }
    }

    /// The last norm and the head behind the layers.
    pub(super) async fn end(
        &mut self,
        plan: &mut Plan,
        delta: Option<Delta>,
        wanted: Wanted,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let base = self.base_head();
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        let backend = &mut *self.backend;
        let used = match (wanted, &self.drafting) {
            (Wanted::Draft, Some(draft)) => draft.head.unwrap_or(base),
            _ => base,
        };
        let (source, width) = match wanted {
            Wanted::All | Wanted::Draft => (used.logits, used.n),
            Wanted::Top { k, out, .. } => (out, 2 * k + 1),
        };
        // Not cleared first: every value is overwritten, and zeroing a large vocabulary takes time.
        out.resize(plan.outputs.len() * width, 0.0);
        if plan.outputs.len() <= b.head_rows {
            head(backend, (c, w, b), used, delta, wanted);
            return read(backend, source, plan.outputs.len(), out).await;
        }
        // Many logits (perplexity) go through the head a few rows at a time.
        let outputs = std::mem::take(&mut plan.outputs);
        for (rows, out) in outputs.chunks(b.head_rows).zip(out.chunks_mut(b.head_rows * width)) {
            plan.outputs.clear();
            plan.outputs.extend_from_slice(rows);
            backend.begin(plan)?;
            head(backend, (c, w, b), used, delta, wanted);
            read(backend, source, rows.len(), out).await?;
        }
        Ok(())
    }
}

/// What is read of a forward's logits.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    All,
    /// All of the vocabulary of drafts.
    Draft,
    /// By [`Select`].
    Top {
        k: usize,
        out: Buf,
        sum: bool,
    },
}

/// A layer, and where its keys and values lie.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) spec: LayerConfig,
    pub(super) cache: (Cache, usize),
}

impl<'a> Layer<'a> {
    /// A layer of the model.
    pub(super) fn of(c: &ModelConfig, w: &'a Weights, cache: Cache, i: usize) -> Self {
        Layer { weights: &w.layers[i], spec: c.layers[i], cache: (cache, i) }
    }
}

/// What the parts of a forward are made of.
pub(super) type Parts<'a> = (&'a ModelConfig, &'a Weights, &'a Buffers);

/// Runs one layer. `delta` is what the layer before left to be added to the residual stream; returns what this one leaves.
pub(super) fn block(
    backend: &mut dyn Backend,
    (c, w, b): Parts<'_>,
    layer: Layer<'_>,
    delta: Option<Delta>,
) -> Option<Delta> {
    let l = layer.weights;
    let norm = |delta, weight, out| Norm { x: b.x, delta, weight, eps: c.norm_eps, out, rows: Rows::All };

    backend.norm(&norm(delta, l.attn_norm, b.normed));
    backend.matmul(b.normed, Rows::All, &[store(l.q, b.q), store(l.k, b.k), store(l.v, b.v)]);
    backend.rope_append(&append((c, w, b), layer));
    backend.attend(&Attend {
        q: b.q,
        cache: layer.cache.0,
        layer: layer.cache.1,
        n_heads: c.n_heads,
        scale: c.attention_scale,
        softcap: c.attention_softcap,
        window: layer.spec.window,
        out: b.attended,
    });
    let delta = join(backend, b, l.o, b.attended, l.post_attn_norm, c.residual_scale);

    backend.norm(&norm(delta, l.ffn_norm, b.normed));
    backend.matmul(b.normed, Rows::All, &[store(l.gate, b.gate), store(l.up, b.up)]);
    backend.gate(&Gate { gate: b.gate, up: b.up, activation: c.activation, out: b.gated });
    join(backend, b, l.down, b.gated, l.post_ffn_norm, c.residual_scale)
}

/// Rotation of what `b.q`, `b.k` and `b.v` hold, and the layer's cache entries.
pub(super) fn append((c, w, b): Parts<'_>, layer: Layer<'_>) -> RopeAppend {
    let (freqs, magnitude) = w.ropes[layer.spec.rope];
    RopeAppend {
        q: Some(b.q),
        k: b.k,
        v: b.v,
        n_heads: c.n_heads,
        q_norm: layer.weights.q_norm,
        k_norm: layer.weights.k_norm,
        eps: c.norm_eps,
        freqs,
        rope_dim: c.rope_dim,
        pairs: c.rope_pairs,
        magnitude,
        cache: layer.cache.0,
        layer: layer.cache.1,
    }
}

pub(super) fn store(linear: Linear, out: Buf) -> Product {
    Product { weight: linear.weight, out, epilogue: Epilogue { bias: linear.bias, ..Epilogue::STORE } }
}

/// Adds a block's result to the residual stream: at once, or, where a norm comes between, with the next norm.
fn join(
    backend: &mut dyn Backend,
    b: &Buffers,
    linear: Linear,
    x: Operand,
    norm: Option<Buf>,
    scale: f32,
) -> Option<Delta> {
    if let Some(norm) = norm {
        backend.matmul(x, Rows::All, &[store(linear, b.delta)]);
        return Some(Delta { buf: b.delta, norm: Some(norm), scale });
    }
    // The bias is not scaled by the epilogue; no model has both.
    let epilogue = Epilogue { scale, bias: linear.bias, softcap: 0.0, accumulate: true };
    backend.matmul(x, Rows::All, &[Product { weight: linear.weight, out: b.x, epilogue }]);
    None
}

/// What makes logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Receives the normed stream `[head_rows, dim]`.
    pub(super) input: Operand,
    /// `[n, dim]`.
    pub(super) weight: Weight,
    /// `[n]`.
    pub(super) bias: Option<Buf>,
    /// `[head_rows, n]`.
    pub(super) logits: Buf,
    /// Tokens.
    pub(super) n: usize,
}

/// Last norm and logits of the plan's outputs.
fn head(backend: &mut dyn Backend, (c, w, b): Parts<'_>, head: Head, delta: Option<Delta>, wanted: Wanted) {
    let Head { input, weight, bias, logits, .. } = head;
    backend.norm(&Norm { x: b.x, delta, weight: w.norm, eps: c.norm_eps, out: input, rows: Rows::Outputs });
    let epilogue = Epilogue { scale: c.logit_scale, bias, softcap: c.logit_softcap, accumulate: false };
    backend.matmul(input, Rows::Outputs, &[Product { weight, out: logits, epilogue }]);
    if let Wanted::Top { out, sum, .. } = wanted {
        backend.select(&Select { logits, out, sum });
    }
}

impl LayerWeights {
    /// Weights that read the normed residual stream.
    pub(super) fn normed_readers(&self) -> [Weight; 5] {
        [self.q, self.k, self.v, self.gate, self.up].map(|l| l.weight)
    }
}

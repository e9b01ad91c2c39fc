//! A mixer: linear attention with a decay, behind a short convolution and in front of a gate (gated DeltaNet, Mamba-2).

use super::config::{self, LinearKind};
use super::loader::{Linear, Loader, Place};
use super::work::{Form, Kept, Workspace};
use crate::backend::{
    Activation, Backend, Buf, ConvForm, Gate, GatedNorm, LinearAttend, Operand, Rows, Rule, ShortConv, Weight,
};
use crate::error::{Error, Result};
use arrayvec::ArrayVec;
use std::ops::Range;

/// Weights of linear attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearAttentionWeights {
    /// `[channels, dim]`: queries, keys and values.
    input: Linear,
    /// `[values, dim]`.
    gate: Linear,
    /// `[n_heads, dim]`.
    steps: Linear,
    /// `[n_heads, dim]`, of DeltaNets.
    gains: Option<Linear>,
    /// `[taps, channels]`.
    conv: Buf,
    /// `[channels]`.
    conv_bias: Option<Buf>,
    /// `[n_heads]`.
    rates: Buf,
    /// `[n_heads]`, of Mamba-2.
    skip: Option<Buf>,
    /// `[values]`.
    norm: Option<Buf>,
    /// `[dim, values]`.
    output: Linear,
    /// Columns of `output`.
    width: usize,
}

impl LinearAttentionWeights {
    /// Loads `{prefix}.ssm_*`, and what else there is of them.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        dim: usize,
        spec: &config::LinearAttention,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}");
        let (channels, values, n_heads) = (spec.channels(), spec.values(), spec.n_heads);
        let is_mamba = spec.kind == LinearKind::Mamba2;
        let all = values + channels + n_heads;
        // Mamba has them as one tensor.
        let place = |part: &str, rows: Range<usize>| match is_mamba {
            true => Place::part(name("ssm_in"), rows, all),
            false => Place::whole(name(part), rows.len()),
        };
        let steps = loader.linear(place("ssm_alpha", values + channels..all), dim).await?;
        let gains = Place::whole(name("ssm_beta"), n_heads);
        let norm = name("ssm_norm.weight");
        let norm = match spec.kind {
            LinearKind::DeltaNet => Some(loader.floats(&norm, spec.head_dim).await?.repeat(n_heads)),
            LinearKind::Mamba2 if !loader.has(&norm) => None,
            LinearKind::Mamba2 => Some(loader.floats_of(&norm, &[values / spec.n_key_heads, spec.n_key_heads]).await?),
        };
        let of_heads = if is_mamba { vec![1, n_heads] } else { vec![n_heads] };
        let rates = loader.floats_of(&name("ssm_a"), &of_heads).await?;
        let skip = if is_mamba { Some(loader.floats_of(&name("ssm_d"), &of_heads).await?) } else { None };
        Ok(LinearAttentionWeights {
            input: loader.linear(place("attn_qkv", values..values + channels), dim).await?,
            gate: loader.linear(place("attn_gate", 0..values), dim).await?,
            steps: loader.biased(steps, &name("ssm_dt.bias"), n_heads).await?,
            gains: if is_mamba { None } else { Some(loader.linear(gains, dim).await?) },
            conv: loader.columns(&name("ssm_conv1d.weight"), channels, spec.taps).await?,
            conv_bias: loader.opt_vector(&name("ssm_conv1d.bias"), channels).await?,
            rates: loader.upload(&rates)?,
            skip: skip.map(|skip| loader.upload(&skip)).transpose()?,
            norm: norm.map(|norm| loader.upload(&norm)).transpose()?,
            output: loader.linear(Place::whole(name("ssm_out"), dim), values).await?,
            width: values,
        })
    }

    /// Those that read the normed stream.
    pub(super) fn readers(&self) -> impl Iterator<Item = Weight> {
        [self.input, self.gate, self.steps].into_iter().chain(self.gains).map(|linear| linear.weight)
    }

    /// The projection behind the gate, and the form of its input.
    pub(super) fn output(&self) -> (Form, Weight) {
        ((1, self.width), self.output.weight)
    }
}

/// Linear attention, and what it runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearAttention {
    spec: config::LinearAttention,
    weights: LinearAttentionWeights,
    /// Of the norms.
    eps: f32,
    /// What the input projection makes `[n, channels]`.
    x: Buf,
    /// `[n, channels]`.
    convolved: Buf,
    /// `[n, values]`.
    gate: Buf,
    /// `[n, n_heads]`.
    steps: Buf,
    /// What makes the gains of DeltaNets, and these `[n, n_heads]`.
    gains: Option<(Linear, Buf)>,
    rule: Rule,
    /// `[n, values]`.
    attended: Buf,
    /// What may have to be convolved, and learnt, once more, of this layer alone.
    inputs: [Buf; 2],
    /// Input of the output projection `[n, values]`.
    mixed: Operand,
    kept: Kept,
}

impl LinearAttention {
    /// `mixed` is the input of the output projection.
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        spec: config::LinearAttention,
        weights: LinearAttentionWeights,
        mixed: Operand,
        kept: Kept,
    ) -> Result<Self> {
        let (channels, values) = (spec.channels(), spec.values());
        let gains = match weights.gains {
            Some(gains) => Some((gains, work.buf(backend, "gains", spec.n_heads)?)),
            None => None,
        };
        let rule = match (gains, weights.skip) {
            (Some((_, gains)), _) => Rule::Delta { gains, eps: work.eps },
            (None, Some(skip)) => Rule::Mamba { skip },
            (None, None) => return Err(Error::bad_file("linear attention without a rule")),
        };
        Ok(LinearAttention {
            x: work.buf(backend, "channels", channels)?,
            convolved: work.buf(backend, "convolved", channels)?,
            gate: work.buf(backend, "gate", values)?,
            steps: work.buf(backend, "steps", spec.n_heads)?,
            gains,
            rule,
            attended: work.buf(backend, "attended", values)?,
            inputs: [backend.new_buf(work.rows, channels)?, backend.new_buf(work.rows, spec.kept_width())?],
            eps: work.eps,
            spec,
            weights,
            mixed,
            kept,
        })
    }

    /// Runs up to the projection that is left to be made; returns it and its input.
    pub(super) fn run(&self, backend: &mut dyn Backend, normed: Operand) -> (Linear, Operand) {
        let LinearAttentionWeights { input, gate, steps, .. } = self.weights;
        let gains = self.gains.map(|(gains, buf)| gains.store(buf));
        let products = [input.store(self.x), gate.store(self.gate), steps.store(self.steps)].into_iter().chain(gains);
        backend.matmul(normed, Rows::All, &products.collect::<ArrayVec<_, 4>>());
        backend.short_conv(&ShortConv {
            x: self.x,
            form: ConvForm::Silu { bias: self.weights.conv_bias },
            weight: self.weights.conv,
            taps: self.spec.taps,
            kept: self.inputs[0],
            cache: self.kept.cache,
            layer: self.kept.further,
            out: self.convolved,
        });
        let config::LinearAttention { n_key_heads, key_dim, n_heads, head_dim, .. } = self.spec;
        backend.linear_attend(&LinearAttend {
            x: self.convolved,
            steps: self.steps,
            rates: self.weights.rates,
            rule: self.rule,
            n_key_heads,
            key_dim,
            n_heads,
            head_dim,
            kept: self.inputs[1],
            cache: self.kept.cache,
            layer: self.kept.layer,
            out: self.attended,
        });
        let (group, gate_first) = match self.spec.kind {
            LinearKind::DeltaNet => (head_dim, false),
            LinearKind::Mamba2 => (self.spec.values() / n_key_heads, true),
        };
        let (x, gate, eps, out) = (self.attended, self.gate, self.eps, self.mixed);
        match self.weights.norm {
            Some(weight) => backend.gated_norm(&GatedNorm { x, gate, weight, group, gate_first, eps, out }),
            None => backend.gate(&Gate { gate, up: Some(x), activation: Activation::Silu, out }),
        }
        (self.weights.output, self.mixed)
    }
}

//! A mixer: a short causal convolution between two gates (LFM2).

use super::config;
use super::loader::{Linear, Loader, Place};
use super::work::{Form, Kept, Workspace};
use crate::backend::{self, Backend, Buf, ConvForm, Operand, Rows, Weight};
use crate::error::Result;

/// Weights of a short convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortConvWeights {
    /// `[3 * dim, dim]`: what is multiplied in front of the convolution and behind it, and what is convolved.
    input: Linear,
    /// `[taps, dim]`.
    weight: Buf,
    /// `[dim, dim]`.
    output: Linear,
    /// Columns of `output`.
    width: usize,
}

impl ShortConvWeights {
    /// Loads `{prefix}.shortconv.*`.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        dim: usize,
        spec: &config::ShortConv,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.shortconv.{part}");
        Ok(ShortConvWeights {
            input: loader.linear(Place::whole(name("in_proj"), 3 * dim), dim).await?,
            weight: loader.columns(&name("conv.weight"), dim, spec.taps).await?,
            output: loader.linear(Place::whole(name("out_proj"), dim), dim).await?,
            width: dim,
        })
    }

    /// Those that read the normed stream.
    pub(super) fn readers(&self) -> [Weight; 1] {
        [self.input.weight]
    }

    /// The projection behind the convolution, and the form of its input.
    pub(super) fn output(&self) -> (Form, Weight) {
        ((1, self.width), self.output.weight)
    }
}

/// A short convolution, and what it runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortConv {
    weights: ShortConvWeights,
    /// What the input projection makes `[n, 3 * dim]`.
    x: Buf,
    /// What may have to be convolved once more `[n, dim]`, of this layer alone.
    inputs: Buf,
    /// `[n, dim]`.
    convolved: Buf,
    /// Input of the output projection `[n, dim]`.
    mixed: Operand,
    kept: Kept,
    taps: usize,
}

impl ShortConv {
    /// `mixed` is the input of the output projection.
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        spec: config::ShortConv,
        weights: ShortConvWeights,
        mixed: Operand,
        kept: Kept,
    ) -> Result<Self> {
        let (x, convolved) = (work.buf(backend, "gates", 3 * spec.dim)?, work.buf(backend, "convolved", spec.dim)?);
        let inputs = backend.new_buf(work.rows, spec.dim)?;
        Ok(ShortConv { weights, x, inputs, convolved, mixed, kept, taps: spec.taps })
    }

    /// Runs up to the projection that is left to be made; returns it and its input.
    pub(super) fn run(&self, backend: &mut dyn Backend, normed: Operand) -> (Linear, Operand) {
        backend.matmul(normed, Rows::All, &[self.weights.input.store(self.x)]);
        backend.short_conv(&backend::ShortConv {
            x: self.x,
            form: ConvForm::Gated,
            weight: self.weights.weight,
            taps: self.taps,
            kept: self.inputs,
            cache: self.kept.cache,
            layer: self.kept.layer,
            out: self.convolved,
        });
        backend.pack(self.convolved, Rows::All, self.mixed);
        (self.weights.output, self.mixed)
    }
}

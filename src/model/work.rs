//! What layers work on and in: the residual stream, their places in the cache, rotary tables, work memory.

use super::loader::Linear;
use crate::backend::{
    Backend, Buf, Cache, Delta, Epilogue, Norm, NormWeights, Operand, Product, RopePairs, Rows, Weight,
};
use crate::error::Result;
use std::collections::BTreeMap;

/// Where a layer keeps what its mixer needs of earlier tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) cache: Cache,
    /// Layer of this cache.
    pub(super) layer: usize,
    /// The same of the first further state, where the layer keeps more than one thing.
    pub(super) further: usize,
}

/// The residual stream that layers add to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// `[n, dim]`.
    pub(super) x: Buf,
    /// What a post-norm is applied to before it is added `[n, dim]`.
    pub(super) delta: Buf,
    /// Added to mean squares in norms.
    pub(super) eps: f32,
    /// Factor on what is added.
    pub(super) scale: f32,
}

impl Stream {
    /// Adds `delta`, and puts the sum, normed where there is a norm, into `out`.
    pub(super) fn norm(&self, delta: Option<Delta>, norm: Option<NormWeights>, out: Operand, rows: Rows) -> Norm {
        Norm { x: self.x, delta, norm, eps: self.eps, out: Some(out), rows }
    }

    /// Adds `delta`, and norms the stream itself where there is a norm.
    pub(super) fn complete(&self, delta: Option<Delta>, norm: Option<NormWeights>) -> Norm {
        Norm { x: self.x, delta, norm, eps: self.eps, out: None, rows: Rows::All }
    }

    /// What is left to be added to the stream when `delta` is made.
    pub(super) fn left(&self, norm: Option<Buf>) -> Delta {
        Delta { buf: self.delta, norm, scale: self.scale, gain: 1.0 }
    }

    /// Adds a product to the stream: at once, or, where a norm comes between, with the next norm.
    pub(super) fn add(
        &self,
        backend: &mut dyn Backend,
        (linear, x): (Linear, Operand),
        norm: Option<Buf>,
    ) -> Option<Delta> {
        if let Some(norm) = norm {
            backend.matmul(x, Rows::All, &[linear.store(self.delta)]);
            return Some(self.left(Some(norm)));
        }
        let epilogue = Epilogue { scale: self.scale * linear.scale, bias: linear.bias, softcap: 0.0, accumulate: true };
        backend.matmul(x, Rows::All, &[Product { weight: linear.weight, out: self.x, epilogue }]);
        None
    }
}

/// A rotary embedding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rope {
    /// Angles a position `[dim / 2]`.
    pub(super) angles: Buf,
    /// Rotated dimensions of a head.
    pub(super) dim: usize,
    pub(super) pairs: RopePairs,
    /// Factor on sine and cosine.
    pub(super) magnitude: f32,
}

/// Rows for each token, and their width.
pub(super) type Form = (usize, usize);

/// Memory that layers work in. They run one after the other, so those of one form share it.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Rows of it.
    pub(super) rows: usize,
    /// Width of the stream.
    pub(super) dim: usize,
    /// Of norms.
    pub(super) eps: f32,
    pub(super) ropes: Vec<Rope>,
    /// What it is for, and its form.
    pub(super) bufs: Vec<(&'static str, Form, Buf)>,
}

impl Workspace {
    /// An operand for all readers of each form, which is how many rows there are for a token, and how wide they are.
    pub(super) fn operands(
        &self,
        backend: &mut dyn Backend,
        readers: impl Iterator<Item = (Form, Weight)>,
    ) -> Result<BTreeMap<Form, Operand>> {
        let mut forms: BTreeMap<Form, Vec<Weight>> = BTreeMap::new();
        readers.for_each(|(form, reader)| forms.entry(form).or_default().push(reader));
        let operands = forms.into_iter().map(|((times, cols), readers)| {
            Ok(((times, cols), backend.new_operand(self.rows * times, cols, &readers)?))
        });
        operands.collect()
    }

    /// The matrix for one use.
    pub(super) fn buf(&mut self, backend: &mut dyn Backend, what: &'static str, cols: usize) -> Result<Buf> {
        self.buf_of(backend, what, (1, cols))
    }

    /// The same with several rows for a token.
    pub(super) fn buf_of(&mut self, backend: &mut dyn Backend, what: &'static str, form: Form) -> Result<Buf> {
        if let Some((_, _, buf)) = self.bufs.iter().find(|(w, f, _)| (*w, *f) == (what, form)) {
            return Ok(*buf);
        }
        let buf = backend.new_buf(self.rows * form.0, form.1)?;
        self.bufs.push((what, form, buf));
        Ok(buf)
    }
}

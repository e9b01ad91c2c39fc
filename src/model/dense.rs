//! A feed-forward: one network for every token, gated or not.

use super::config;
use super::loader::{Linear, Loader, Place};
use super::work::{Form, Workspace};
use crate::backend::{Activation, Backend, Buf, Gate, Operand, Rows, Weight};
use crate::error::Result;
use std::collections::BTreeMap;
use std::ops::Range;

/// Weights of a feed-forward.
#[derive(Clone, Copy, Debug)]
pub(super) struct DenseWeights {
    /// `[ff_dim, dim]`.
    gate: Option<Linear>,
    /// `[ff_dim, dim]`.
    up: Linear,
    /// `[dim, ff_dim]`.
    down: Linear,
    /// Columns of `down`.
    width: usize,
}

impl DenseWeights {
    /// Loads `{prefix}.ffn_*{suffix}`.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        (prefix, suffix): (&str, &str),
        dim: usize,
        spec: &config::Dense,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}{suffix}");
        // Phi 3 stores gate and up as one tensor.
        let fused = spec.gated && !loader.has(&format!("{}.weight", name("ffn_gate")));
        let place = |part: &str, rows: Range<usize>| match fused {
            true => Place::part(name("ffn_up"), rows, 2 * spec.dim),
            false => Place::whole(name(part), rows.len()),
        };
        Ok(DenseWeights {
            gate: match spec.gated {
                true => Some(loader.linear(place("ffn_gate", 0..spec.dim), dim).await?),
                false => None,
            },
            up: loader.linear(place("ffn_up", spec.dim..2 * spec.dim), dim).await?,
            down: loader.linear(Place::whole(name("ffn_down"), dim), spec.dim).await?,
            width: spec.dim,
        })
    }

    /// Those that read the normed stream.
    pub(super) fn readers(&self) -> impl Iterator<Item = Weight> {
        self.gate.into_iter().chain([self.up]).map(|l| l.weight)
    }

    /// The projection behind the feed-forward, and the form of its input.
    pub(super) fn output(&self) -> (Form, Weight) {
        ((1, self.width), self.down.weight)
    }
}

/// A feed-forward, and what it runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dense {
    activation: Activation,
    weights: DenseWeights,
    /// What the gate makes `[n, ff_dim]`.
    gate: Option<(Linear, Buf)>,
    /// `[n, ff_dim]`.
    up: Buf,
    /// Input of the down projection `[n, ff_dim]`.
    gated: Operand,
}

impl Dense {
    /// `operands` are inputs of down projections.
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        spec: config::Dense,
        weights: DenseWeights,
        operands: &BTreeMap<Form, Operand>,
    ) -> Result<Self> {
        let gate = match weights.gate {
            Some(gate) => Some((gate, work.buf(backend, "gate", spec.dim)?)),
            None => None,
        };
        let up = work.buf(backend, "up", spec.dim)?;
        let gated = operands[&weights.output().0];
        Ok(Dense { activation: spec.activation, weights, gate, up, gated })
    }

    /// Runs up to the projection that is left to be made; returns it and its input.
    pub(super) fn run(&self, backend: &mut dyn Backend, normed: Operand) -> (Linear, Operand) {
        let DenseWeights { up, down, .. } = self.weights;
        let (gate, up) = match self.gate {
            Some((gate, buf)) => {
                backend.matmul(normed, Rows::All, &[gate.store(buf), up.store(self.up)]);
                (buf, Some(self.up))
            }
            None => {
                backend.matmul(normed, Rows::All, &[up.store(self.up)]);
                (self.up, None)
            }
        };
        backend.gate(&Gate { gate, up, activation: self.activation, out: self.gated });
        (down, self.gated)
    }
}

//! A feed-forward of experts, of which each token uses a few, and perhaps one more that all tokens use.

use super::config;
use super::dense::{Dense, DenseWeights};
use super::loader::{Linear, Loader, Place};
use super::work::{Form, Workspace};
use crate::backend::{Backend, Buf, Operand, Routing, Rows, Shared, Stack, Weight};
use crate::error::Result;
use std::collections::BTreeMap;

/// Weights of a mixture of experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertsWeights {
    /// `[n_experts, dim]`.
    router: Linear,
    /// Added to the router's scores for the choice only `[n_experts]`.
    choice_bias: Option<Buf>,
    /// `[n_experts, ff_dim, dim]`.
    gate: Stack,
    /// `[n_experts, ff_dim, dim]`.
    up: Stack,
    /// `[n_experts, dim, ff_dim]`.
    down: Stack,
    /// Of each token, and the width of `down`'s input.
    form: Form,
    /// The expert that all tokens use.
    shared: Option<DenseWeights>,
    /// How much that one counts `[1, dim]`.
    shared_gate: Option<Linear>,
}

impl ExpertsWeights {
    /// Loads `{prefix}.ffn_*`.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        dim: usize,
        spec: &config::Experts,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}");
        let stack = |part: &str, rows: usize| (Place::whole(name(part), rows), spec.n);
        let shared_gate = name("ffn_gate_inp_shexp");
        Ok(ExpertsWeights {
            router: loader.linear(Place::whole(name("ffn_gate_inp"), spec.n), dim).await?,
            choice_bias: loader.opt_vector(&name("exp_probs_b.bias"), spec.n).await?,
            gate: loader.stack(stack("ffn_gate_exps", spec.dim), dim).await?,
            up: loader.stack(stack("ffn_up_exps", spec.dim), dim).await?,
            down: loader.stack(stack("ffn_down_exps", dim), spec.dim).await?,
            form: (spec.used, spec.dim),
            shared: match spec.shared() {
                Some(dense) => Some(DenseWeights::load(loader, (prefix, "_shexp"), dim, &dense).await?),
                None => None,
            },
            shared_gate: match loader.has(&format!("{shared_gate}.weight")) {
                true => Some(loader.linear(Place::whole(shared_gate, 1), dim).await?),
                false => None,
            },
        })
    }

    /// Those that read the normed stream.
    pub(super) fn readers(&self) -> impl Iterator<Item = Weight> {
        let one = [self.router.weight, self.gate.weight, self.up.weight].into_iter();
        one.chain(self.shared_gate.map(|l| l.weight)).chain(self.shared.iter().flat_map(DenseWeights::readers))
    }

    /// The projections behind the experts, and the form of their input.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (Form, Weight)> {
        let own = [(self.form, self.down.weight)].into_iter();
        own.chain(self.shared.as_ref().map(DenseWeights::output))
    }
}

/// A mixture of experts, and what it runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts {
    spec: config::Experts,
    weights: ExpertsWeights,
    /// What the router makes `[n, n_experts]`.
    logits: Buf,
    /// What gates and ups make, `[n * used, ff_dim]` each.
    hidden: [Buf; 2],
    /// Input of the down projections `[n * used, ff_dim]`.
    gated: Operand,
    /// What these make `[n * used, dim]`.
    parts: Buf,
    shared: Option<Dense>,
    /// `[n, 1]`.
    shared_gate: Option<(Linear, Buf)>,
}

impl Experts {
    /// `operands` are inputs of down projections.
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        spec: config::Experts,
        weights: ExpertsWeights,
        operands: &BTreeMap<Form, Operand>,
    ) -> Result<Self> {
        Ok(Experts {
            logits: work.buf(backend, "router", spec.n)?,
            hidden: [
                work.buf_of(backend, "experts' gates", weights.form)?,
                work.buf_of(backend, "experts' ups", weights.form)?,
            ],
            gated: operands[&weights.form],
            parts: work.buf_of(backend, "experts", (spec.used, work.dim))?,
            shared: match spec.shared().zip(weights.shared) {
                Some((dense, weights)) => Some(Dense::new(backend, work, dense, weights, operands)?),
                None => None,
            },
            shared_gate: match weights.shared_gate {
                Some(gate) => Some((gate, work.buf(backend, "shared expert", 1)?)),
                None => None,
            },
            spec,
            weights,
        })
    }

    /// Puts what the experts make of the tokens into `out` `[n, dim]`.
    pub(super) fn run(&self, backend: &mut dyn Backend, normed: Operand, out: Buf) {
        let ExpertsWeights { router, choice_bias, gate, up, down, .. } = self.weights;
        backend.matmul(normed, Rows::All, &[router.store(self.logits)]);
        if let Some((gate, buf)) = self.shared_gate {
            backend.matmul(normed, Rows::All, &[gate.store(buf)]);
        }
        if let Some(shared) = &self.shared {
            let (down, x) = shared.run(backend, normed);
            backend.matmul(x, Rows::All, &[down.store(out)]);
        }
        let config::Experts { activation, scores, used, normalized, scale, .. } = self.spec;
        backend.experts(&crate::backend::Experts {
            x: normed,
            logits: self.logits,
            routing: Routing { scores, used, bias: choice_bias, normalized, scale },
            gate,
            up,
            down,
            activation,
            hidden: self.hidden,
            gated: self.gated,
            parts: self.parts,
            out,
            shared: match (self.shared, self.shared_gate) {
                (None, _) => Shared::Nothing,
                (_, None) => Shared::Whole,
                (_, Some((_, gate))) => Shared::Gated(gate),
            },
        });
    }
}

//! A mixer: softmax attention over the paged cache.

use super::config::{self, QkNorm};
use super::loader::{Linear, Loader, Place};
use super::work::{Form, Kept, Rope, Workspace};
use crate::backend::{Attend, Backend, Buf, Norm, NormWeights, Operand, RopeAppend, Rows, Weight};
use crate::error::Result;
use std::ops::Range;

/// Weights of attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionWeights {
    /// `[n_heads * head_dim, dim]`.
    pub(super) q: Linear,
    /// Of keys and values `[n_kv_heads * head_dim, dim]`, where the layer makes some.
    pub(super) kv: Option<[Linear; 2]>,
    /// `[n_heads * head_dim, dim]`.
    gate: Option<Linear>,
    /// `[head_dim]`, or of all heads.
    q_norm: Option<Buf>,
    /// `[head_dim]`, or of all heads.
    k_norm: Option<Buf>,
    /// `[n_heads]`.
    sinks: Option<Buf>,
    /// `[dim, n_heads * head_dim]`.
    o: Linear,
    /// Columns of `o`.
    width: usize,
}

impl AttentionWeights {
    /// Loads `{prefix}.attn_*`.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        dim: usize,
        spec: &config::Attention,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}");
        let (q, kv) = (spec.q_dim(), spec.kv_dim());
        // Phi 3 stores queries, keys and values as one tensor.
        let fused = loader.has(&name("attn_qkv.weight"));
        let place = |part: &str, rows: Range<usize>| match fused {
            true => Place::part(name("attn_qkv"), rows, q + 2 * kv),
            false => Place::whole(name(part), rows.len()),
        };
        // Qwen3.5 has the gate of each head behind its queries.
        let beside = |which: usize| {
            let rows = which * spec.head_dim..(which + 1) * spec.head_dim;
            Place::each(name("attn_q"), rows, 2 * spec.head_dim, spec.n_heads)
        };
        let q_place = if spec.gated { beside(0) } else { place("attn_q", 0..q) };
        if spec.keys_of.is_some() {
            // Files may have them all the same.
            for part in ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"] {
                loader.pass_over(&name(part));
            }
        }
        let norm_of = |width| if spec.qk_norm == QkNorm::Whole { width } else { spec.head_dim };
        Ok(AttentionWeights {
            q: loader.linear(q_place, dim).await?,
            kv: match spec.keys_of {
                Some(_) => None,
                None => {
                    let k = loader.linear(place("attn_k", q..q + kv), dim).await?;
                    // Gemma 4 has layers whose values are made as keys are.
                    let is_same = spec.norm_values && !fused && !loader.has(&name("attn_v.weight"));
                    let v = match is_same {
                        true => k,
                        false => loader.linear(place("attn_v", q + kv..q + 2 * kv), dim).await?,
                    };
                    Some([k, v])
                }
            },
            gate: match spec.gated {
                true => Some(loader.linear(beside(1), dim).await?),
                false => None,
            },
            q_norm: loader.opt_vector(&name("attn_q_norm.weight"), norm_of(q)).await?,
            k_norm: match spec.keys_of {
                Some(_) => None,
                None => loader.opt_vector(&name("attn_k_norm.weight"), norm_of(kv)).await?,
            },
            sinks: loader.vector_if(spec.sinks, &name("attn_sinks.weight"), spec.n_heads).await?,
            o: loader.linear(Place::whole(name("attn_output"), dim), q).await?,
            width: q,
        })
    }

    /// Those that read the normed stream.
    pub(super) fn readers(&self) -> impl Iterator<Item = Weight> {
        [self.q].into_iter().chain(self.kv.into_iter().flatten()).chain(self.gate).map(|l| l.weight)
    }

    /// The projection behind attention, and the form of its input.
    pub(super) fn output(&self) -> (Form, Weight) {
        ((1, self.width), self.o.weight)
    }
}

/// Attention, and what it runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) spec: config::Attention,
    pub(super) weights: AttentionWeights,
    /// Of the norms of queries and keys.
    eps: f32,
    rope: Rope,
    /// `[n, n_heads * head_dim]`.
    pub(super) q: Buf,
    /// `[n, n_kv_heads * head_dim]`.
    pub(super) k: Buf,
    /// `[n, n_kv_heads * head_dim]`.
    pub(super) v: Buf,
    /// `[n, n_heads * head_dim]`.
    gate: Option<(Linear, Buf)>,
    /// Input of the output projection `[n, n_heads * head_dim]`.
    attended: Operand,
    kept: Kept,
}

impl Attention {
    /// `attended` is the input of the output projection.
    pub(super) fn new(
        backend: &mut dyn Backend,
        work: &mut Workspace,
        spec: config::Attention,
        weights: AttentionWeights,
        attended: Operand,
        kept: Kept,
    ) -> Result<Self> {
        Ok(Attention {
            q: work.buf(backend, "q", spec.q_dim())?,
            k: work.buf(backend, "k", spec.kv_dim())?,
            v: work.buf(backend, "v", spec.kv_dim())?,
            gate: match weights.gate {
                Some(gate) => Some((gate, work.buf(backend, "gate", spec.q_dim())?)),
                None => None,
            },
            eps: work.eps,
            rope: work.ropes[spec.rope],
            spec,
            weights,
            attended,
            kept,
        })
    }

    /// Attends; returns the projection that is left to be made, and its input.
    pub(super) fn run(&self, backend: &mut dyn Backend, normed: Operand) -> (Linear, Operand) {
        self.project(backend, normed);
        if let Some((gate, buf)) = self.gate {
            backend.matmul(normed, Rows::All, &[gate.store(buf)]);
        }
        self.append(backend, true);
        backend.attend(&Attend {
            q: self.q,
            cache: self.kept.cache,
            layer: self.kept.layer,
            n_heads: self.spec.n_heads,
            scale: self.spec.scale,
            softcap: self.spec.softcap,
            window: self.spec.window,
            centered: self.spec.centered,
            sinks: self.weights.sinks,
            gate: self.gate.map(|(_, gate)| gate),
            out: self.attended,
        });
        (self.weights.o, self.attended)
    }

    /// Puts queries, keys and values into `q`, `k` and `v`, before norm and rotation.
    pub(super) fn project(&self, backend: &mut dyn Backend, normed: Operand) {
        let q = self.weights.q.store(self.q);
        match self.weights.kv {
            Some([k, v]) => backend.matmul(normed, Rows::All, &[q, k.store(self.k), v.store(self.v)]),
            None => backend.matmul(normed, Rows::All, &[q]),
        }
    }

    /// Puts the keys and values that `k` and `v` make of `x` into the cache; there are no queries.
    pub(super) fn fill(&self, backend: &mut dyn Backend, x: Operand, [k, v]: [Linear; 2]) {
        backend.matmul(x, Rows::All, &[k.store(self.k), v.store(self.v)]);
        self.append(backend, false);
    }

    /// Norms and rotates what `q`, where it holds queries, and `k` hold, and writes `k` and `v` into the cache.
    pub(super) fn append(&self, backend: &mut dyn Backend, has_queries: bool) {
        self.norm_whole(backend, has_queries);
        let rotation = self.rotation();
        backend.rope_append(&RopeAppend { q: rotation.q.filter(|_| has_queries), ..rotation });
    }

    /// Norms queries and keys where all heads are normed as one row.
    pub(super) fn norm_whole(&self, backend: &mut dyn Backend, has_queries: bool) {
        if self.spec.qk_norm != QkNorm::Whole {
            return;
        }
        let AttentionWeights { q_norm, k_norm, .. } = self.weights;
        for (x, weight) in [(self.q, q_norm.filter(|_| has_queries)), (self.k, k_norm)] {
            let norm = weight.map(NormWeights::rms);
            if norm.is_some() {
                backend.norm(&Norm { x, delta: None, norm, eps: self.eps, out: None, rows: Rows::All });
            }
        }
    }

    /// What is left to be done to queries and keys.
    pub(super) fn rotation(&self) -> RopeAppend {
        let of_heads = |norm: Option<Buf>| norm.filter(|_| self.spec.qk_norm != QkNorm::Whole);
        RopeAppend {
            q: Some(self.q),
            kv: self.weights.kv.map(|_| [self.k, self.v]),
            n_heads: self.spec.n_heads,
            norm_values: self.spec.norm_values,
            q_norm: of_heads(self.weights.q_norm),
            k_norm: of_heads(self.weights.k_norm),
            eps: self.eps,
            norm_last: self.spec.qk_norm == QkNorm::Rotated,
            temperature: self.spec.temperature,
            freqs: self.rope.angles,
            rope_dim: self.rope.dim,
            pairs: self.rope.pairs,
            magnitude: self.rope.magnitude,
            cache: self.kept.cache,
            layer: self.kept.layer,
        }
    }
}

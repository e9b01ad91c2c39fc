//! Layers of a sidecar, beside the base's own behind the trunk.

use super::forward::{Layer, append, store};
use super::weights::{self, LayerWeights, Weights};
use super::{Buffers, LayerConfig, Model, ModelConfig};
use crate::backend::{Backend, Cache, Delta, Norm, RopeAppend, Rows};
use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::source::Source;

/// A layer that reads the stream behind the trunk, and what runs it.
#[derive(Debug)]
pub(super) struct Beside {
    weights: LayerWeights,
    spec: LayerConfig,
    /// Its keys and values: a layer of the cache beside the base's.
    cache: (Cache, usize),
    /// The model's, with operands of its own.
    pub(super) buffers: Buffers,
}

impl Beside {
    pub(super) fn layer(&self) -> Layer<'_> {
        Layer { weights: &self.weights, spec: self.spec, cache: self.cache }
    }

    /// Fills its cache from the stream behind the trunk, which every token of a text goes through; completes the stream.
    pub(super) fn append(&self, backend: &mut dyn Backend, (c, w): (&ModelConfig, &Weights), delta: Option<Delta>) {
        let (b, l) = (&self.buffers, &self.weights);
        let norm = Norm { x: b.x, delta, weight: l.attn_norm, eps: c.norm_eps, out: b.normed, rows: Rows::All };
        backend.norm(&norm);
        backend.matmul(b.normed, Rows::All, &[store(l.k, b.k), store(l.v, b.v)]);
        backend.rope_append(&RopeAppend { q: None, ..append((c, w, b), self.layer()) });
    }
}

impl Model {
    /// Loads the layer `{prefix}.*` behind a trunk of so many layers, with this layer of the cache beside the base's.
    pub(super) async fn load_beside(
        &mut self,
        (gguf, sources): (&Gguf, &mut [Box<dyn Source>]),
        prefix: &str,
        trunk: usize,
        layer: usize,
    ) -> Result<Beside> {
        let weights = weights::layer(gguf, sources, &mut *self.backend, &self.config, prefix).await?;
        let cache = (self.kv.beside(&mut *self.backend)?, layer);
        let (c, n, backend) = (&self.config, self.max_batch, &mut *self.backend);
        let buffers = Buffers {
            normed: backend.new_operand(n, c.dim, &weights.normed_readers())?,
            attended: backend.new_operand(n, c.n_heads * c.head_dim, &[weights.o.weight])?,
            gated: backend.new_operand(n, c.ff_dim, &[weights.down.weight])?,
            ..self.buffers.clone()
        };
        Ok(Beside { weights, spec: c.layers[trunk], cache, buffers })
    }
}

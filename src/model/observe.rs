//! What layers compute on the way, and cache entries from outside: for evaluations that compare ways of reading a context.

use super::Model;
use super::forward::{Layer, append, store};
use crate::backend::{Norm, Plan, RopeAppend, Rows, read};
use crate::batch::Batch;
use crate::error::{Error, Result};

/// Keys and values of some rows in one layer, and the queries that go with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// `[rows, n_heads * head_dim]`.
    pub q: Vec<f32>,
    /// `[rows, n_kv_heads * head_dim]`.
    pub k: Vec<f32>,
    /// `[rows, n_kv_heads * head_dim]`.
    pub v: Vec<f32>,
}

impl Model {
    /// Runs a batch through the first `layers` layers and returns the entries of each: as they are multiplied (`rotated`), or
    /// before norm and rotation. Deeper layers' cache entries are not written.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more layers than there are.
    pub async fn observe(&mut self, batch: &Batch, layers: usize, rotated: bool) -> Result<Vec<Entries>> {
        if layers > self.config.layers.len() {
            return Err(Error::invalid_request(format!("{layers} layers; there are {}", self.config.layers.len())));
        }
        self.check(batch)?;
        let mut plan = std::mem::take(&mut self.plan);
        let mut result = self.kv.plan(&mut *self.backend, batch, &mut plan).map(|()| Vec::new());
        for layer in 0..layers {
            let Ok(seen) = &mut result else { break };
            match self.observe_layer(&plan, layer, rotated).await {
                Ok(entries) => seen.push(entries),
                Err(error) => result = Err(error),
            }
        }
        self.plan = plan;
        result
    }

    async fn observe_layer(&mut self, plan: &Plan, layer: usize, rotated: bool) -> Result<Entries> {
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        let backend = &mut *self.backend;
        let n = plan.tokens.len();
        let norm = |weight, delta| Norm { x: b.x, delta, weight, eps: c.norm_eps, out: b.normed, rows: Rows::All };
        backend.begin(plan)?;
        if layer == 0 {
            backend.embed(w.embeddings, c.embed_scale, b.x);
        }
        let at = Layer::of(c, w, self.kv.cache(), layer);
        backend.norm(&norm(at.weights.attn_norm, None));
        let (q, k, v) = (at.weights.q, at.weights.k, at.weights.v);
        backend.matmul(b.normed, Rows::All, &[store(q, b.q), store(k, b.k), store(v, b.v)]);
        let mut seen = Entries::default();
        let (q_dim, kv_dim) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        [(&mut seen.q, q_dim), (&mut seen.k, kv_dim), (&mut seen.v, kv_dim)]
            .into_iter()
            .for_each(|(values, width)| values.resize(n * width, 0.0));
        read(backend, b.v, n, &mut seen.v).await?;
        if rotated {
            // Keys are rotated as queries are. What this writes to the cache is overwritten by the layer itself.
            let op = append((c, w, b), at);
            let keys = RopeAppend { q: Some(b.k), n_heads: c.n_kv_heads, q_norm: op.k_norm, k: b.v, ..op };
            backend.begin(plan)?;
            backend.rope_append(&keys);
            backend.rope_append(&RopeAppend { k: b.v, ..op });
        }
        read(backend, b.q, n, &mut seen.q).await?;
        read(backend, b.k, n, &mut seen.k).await?;
        self.backend.begin(plan)?;
        let delta = self.through(layer..layer + 1);
        let (b, weight) = (&self.buffers, self.weights.norm);
        if delta.is_some() {
            // Completes the stream; what it makes is not used.
            self.backend.norm(&Norm {
                x: b.x,
                delta,
                weight,
                eps: self.config.norm_eps,
                out: b.normed,
                rows: Rows::All,
            });
        }
        Ok(seen)
    }

    /// Writes the cache entries of a batch in all layers: `entries` are those of each, before norm and rotation (queries are not
    /// used). There are no logits.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for entries of another number or shape.
    pub fn put_entries(&mut self, batch: &Batch, entries: &[Entries]) -> Result<()> {
        self.check(batch)?;
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        let len = batch.len() * c.n_kv_heads * c.head_dim;
        if entries.len() != c.layers.len() || entries.iter().any(|e| e.k.len() != len || e.v.len() != len) {
            return Err(Error::invalid_request("entries of all layers and rows are needed"));
        }
        self.kv.plan(&mut *self.backend, batch, &mut self.plan)?;
        let (backend, cache) = (&mut *self.backend, self.kv.cache());
        for (layer, entries) in entries.iter().enumerate() {
            backend.write(b.k, 0, &entries.k)?;
            backend.write(b.v, 0, &entries.v)?;
            backend.begin(&self.plan)?;
            backend.rope_append(&RopeAppend { q: None, ..append((c, w, b), Layer::of(c, w, cache, layer)) });
        }
        Ok(())
    }
}

//! What layers compute on the way, and cache entries from outside: for evaluations that compare ways of reading a context.

use super::Model;
use super::decoder::Decoder;
use super::layer::Layer;
use crate::backend::{Plan, RopeAppend, read};
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
    /// Has `watch` told of what layers' matrices are multiplied by, in every forward from here on: the tensors that read the same rows,
    /// the rows `[n, cols]`, and `cols`.
    ///
    /// # Errors
    /// See [`crate::backend::Backend::watch`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn watch(&mut self, mut watch: impl FnMut(&[&str], &[f32], usize) + Send + 'static) -> Result<()> {
        let linears = self.decoder.weights.linears.clone();
        self.decoder.backend.watch(Box::new(move |products, x, cols| {
            let read = |weight| products.iter().any(|product| product.weight == weight);
            let tensors: Vec<&str> =
                linears.iter().filter(|(weight, _)| read(*weight)).map(|(_, tensor)| &**tensor).collect();
            if !tensors.is_empty() {
                watch(&tensors, x, cols);
            }
        }))
    }

    /// Runs a batch through the first `layers` layers and returns the entries of each: as they are multiplied (`rotated`), or
    /// before norm and rotation. Deeper layers' cache entries are not written.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more layers than there are.
    pub async fn observe(&mut self, batch: &Batch, layers: usize, rotated: bool) -> Result<Vec<Entries>> {
        if layers > self.config().layers.len() {
            return Err(Error::invalid_request(format!("{layers} layers; there are {}", self.config().layers.len())));
        }
        if self.kv.spec().has_states() {
            return Err(Error::unsupported("entries of models whose layers keep states"));
        }
        self.make_ready(batch)?;
        let Model { decoder, kv, plan, .. } = self;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        let mut seen = Vec::new();
        for layer in 0..layers {
            seen.push(decoder.observe(plan, layer, rotated).await?);
        }
        Ok(seen)
    }

    /// Writes the cache entries of a batch in all layers: `entries` are those of each, before norm and rotation (queries are not
    /// used). There are no logits.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for entries of another number or shape.
    pub fn put_entries(&mut self, batch: &Batch, entries: &[Entries]) -> Result<()> {
        self.make_ready(batch)?;
        let of = |layer: usize| {
            self.decoder.layers[layer].attention().filter(|a| a.weights.kv.is_some()).ok_or_else(no_attention)
        };
        if entries.len() != self.config().layers.len() {
            return Err(Error::invalid_request("entries of all layers are needed"));
        }
        for (layer, entries) in entries.iter().enumerate() {
            let len = batch.len() * of(layer)?.spec.kv_dim();
            if entries.k.len() != len || entries.v.len() != len {
                return Err(Error::invalid_request("entries of all rows are needed"));
            }
        }
        let Model { decoder: Decoder { backend, layers, .. }, kv, plan, .. } = self;
        kv.plan(&mut **backend, batch, plan)?;
        for (attention, entries) in layers.iter().filter_map(Layer::attention).zip(entries) {
            backend.write(attention.k, 0, &entries.k)?;
            backend.write(attention.v, 0, &entries.v)?;
            backend.begin(plan)?;
            attention.append(&mut **backend, false);
        }
        Ok(())
    }
}

impl Decoder {
    /// Runs a layer and reads its entries on the way.
    async fn observe(&mut self, plan: &Plan, layer: usize, rotated: bool) -> Result<Entries> {
        self.backend.begin(plan)?;
        if layer == 0 {
            self.embed();
        }
        let (backend, at) = (&mut *self.backend, &self.layers[layer]);
        let attention = at.attention().filter(|a| a.weights.kv.is_some()).ok_or_else(no_attention)?;
        at.norm(backend, &self.stream, None, at.normed);
        attention.project(backend, at.normed);
        let (n, spec) = (plan.tokens.len(), &attention.spec);
        let zeros = |width: usize| vec![0.0; n * width];
        let mut seen = Entries { q: zeros(spec.q_dim()), k: zeros(spec.kv_dim()), v: zeros(spec.kv_dim()) };
        read(backend, attention.v, n, &mut seen.v).await?;
        if rotated {
            // Keys are rotated as queries are. What this writes to the cache is overwritten by the layer itself.
            let (op, k, v) = (attention.rotation(), attention.k, attention.v);
            let keys = RopeAppend { q: Some(k), n_heads: spec.n_kv_heads, q_norm: op.k_norm, kv: Some([v, v]), ..op };
            let keys = RopeAppend { temperature: None, ..keys };
            backend.begin(plan)?;
            attention.norm_whole(backend, true);
            backend.rope_append(&keys);
            backend.rope_append(&RopeAppend { kv: Some([v, v]), ..op });
        }
        read(backend, attention.q, n, &mut seen.q).await?;
        read(backend, attention.k, n, &mut seen.k).await?;
        self.begin(plan).await?;
        let delta = self.through(layer..layer + 1);
        self.complete(delta);
        Ok(seen)
    }
}

fn no_attention() -> Error {
    Error::unsupported("only layers with attention of their own have entries")
}

//! A sidecar's maps from streams of the trunk to the deeper layers' keys and values.

use crate::backend::{Activation, Backend, Buf, Delta, Epilogue, Gate, Operand, Product, Rows, Weight};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::layer::Layer;
use crate::model::loader::{Linear, Loader, Place};
use crate::model::work::{Stream, Workspace};

/// Weights of a sidecar's maps ([`crate::sidecar`]).
#[derive(Debug)]
pub(in crate::model) struct MapWeights {
    /// Rows of `up` and `gate`.
    width: usize,
    /// `[width, dim]`, for every stream of the trunk, from the embeddings on.
    up: Vec<Weight>,
    /// `[width, dim]`.
    gate: Linear,
    /// Keys and values of every layer behind the trunk, `[n_kv_heads * head_dim, width]` each.
    layers: Vec<(Linear, Linear)>,
    /// Multiply-adds for a token.
    work: usize,
}

impl MapWeights {
    /// Loads the maps behind a trunk of so many layers.
    pub(in crate::model) async fn load(loader: &mut Loader<'_>, config: &ModelConfig, trunk: usize) -> Result<Self> {
        let gate = loader.info("maps.gate.weight").and_then(|info| info.dims.get(1).copied());
        let width = gate.ok_or_else(|| Error::bad_file("tensor maps.gate.weight is missing"))? as usize;
        let gate = loader.linear(Place::whole("maps.gate".into(), width), config.dim).await?;
        let mut up = Vec::new();
        for stream in 0..=trunk {
            up.push(loader.matrix(&format!("maps.up.{stream}.weight"), width, config.dim).await?);
        }
        let (mut layers, mut rows) = (Vec::new(), 0);
        for layer in trunk..config.layers.len() {
            let attention =
                config.attention(layer).ok_or_else(|| Error::unsupported("maps to a layer without keys"))?;
            let kv_dim = attention.kv_dim();
            let k = loader.linear(Place::whole(format!("blk.{layer}.attn_k"), kv_dim), width).await?;
            let v = loader.linear(Place::whole(format!("blk.{layer}.attn_v"), kv_dim), width).await?;
            layers.push((k, v));
            rows += 2 * kv_dim;
        }
        let work = width * ((up.len() + 1) * config.dim + rows);
        Ok(MapWeights { width, up, gate, layers, work })
    }
}

/// Maps of a sidecar, and what they run on.
#[derive(Debug)]
pub(in crate::model) struct Maps {
    /// Layers of the trunk.
    pub(super) trunk: usize,
    /// The layer between trunk and maps, by its index among the decoder's taps.
    pub(super) own: Option<usize>,
    weights: MapWeights,
    /// A normed stream `[n, dim]`.
    input: Operand,
    /// What all streams give `[n, width]`.
    up: Buf,
    /// `[n, width]`.
    gate: Buf,
    /// What keys and values are made of `[n, width]`.
    hidden: Operand,
}

impl Maps {
    /// Gives maps memory to work in.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfMemory`].
    pub(in crate::model) fn new(
        backend: &mut dyn Backend,
        work: &Workspace,
        trunk: usize,
        own: Option<usize>,
        weights: MapWeights,
    ) -> Result<Self> {
        let streams: Vec<_> = weights.up.iter().copied().chain([weights.gate.weight]).collect();
        let readers: Vec<_> = weights.layers.iter().flat_map(|(k, v)| [k.weight, v.weight]).collect();
        Ok(Maps {
            trunk,
            own,
            input: backend.new_operand(work.rows, work.dim, &streams)?,
            up: backend.new_buf(work.rows, weights.width)?,
            gate: backend.new_buf(work.rows, weights.width)?,
            hidden: backend.new_operand(work.rows, weights.width, &readers)?,
            weights,
        })
    }

    /// Multiply-adds for a token.
    pub(super) fn work(&self) -> usize {
        self.weights.work
    }

    /// Reads the stream in front of `layer`, the `index`-th of the trunk's, and completes it.
    pub(super) fn read(
        &self,
        backend: &mut dyn Backend,
        stream: &Stream,
        (index, layer): (usize, &Layer),
        delta: Option<Delta>,
    ) {
        layer.norm(backend, stream, delta, self.input);
        let epilogue = Epilogue { accumulate: index > 0, ..Epilogue::STORE };
        let up = Product { weight: self.weights.up[index], out: self.up, epilogue };
        match index == self.trunk {
            false => backend.matmul(self.input, Rows::All, &[up]),
            true => backend.matmul(self.input, Rows::All, &[up, self.weights.gate.store(self.gate)]),
        }
    }

    /// Writes what follows from the streams that were read into the cache of `layers`, those behind the trunk.
    pub(super) fn write(&self, backend: &mut dyn Backend, layers: &[Layer]) {
        backend.gate(&Gate { gate: self.gate, up: Some(self.up), activation: Activation::Silu, out: self.hidden });
        for (layer, &(k, v)) in layers.iter().zip(&self.weights.layers) {
            if let Some(attention) = layer.attention() {
                attention.fill(backend, self.hidden, [k, v]);
            }
        }
    }
}

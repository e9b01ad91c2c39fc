//! A sidecar's maps beside the weights, and the two forwards of KV prediction: through the trunk with the deeper layers'
//! cache predicted, and through the deeper layers once more from the streams that the trunk left.

use super::Model;
use super::beside::Beside;
use super::draft::Drafting;
use super::forward::{Layer, Parts, Wanted, append, block, store};
use super::weights::{self, MapWeights};
use crate::backend::{Activation, Backend, Buf, Delta, Epilogue, Gate, Norm, Operand, Product, RopeAppend, Rows, read};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::kv::Again;
use crate::sidecar::Sidecar;

/// Maps of a sidecar.
#[derive(Debug)]
pub(super) struct Maps {
    /// Layers of the trunk.
    trunk: usize,
    /// A layer between trunk and maps.
    own: Option<Beside>,
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
    /// Reads a stream of the trunk: that before layer `stream`, or behind the trunk. Completes it.
    fn read(&self, backend: &mut dyn Backend, (c, w, b): Parts<'_>, stream: usize, delta: Option<Delta>) {
        let weight = w.layers[stream].attn_norm;
        backend.norm(&Norm { x: b.x, delta, weight, eps: c.norm_eps, out: self.input, rows: Rows::All });
        let epilogue = Epilogue { accumulate: stream > 0, ..Epilogue::STORE };
        let up = Product { weight: self.weights.up[stream], out: self.up, epilogue };
        match stream == self.trunk {
            false => backend.matmul(self.input, Rows::All, &[up]),
            true => backend.matmul(self.input, Rows::All, &[up, store(self.weights.gate, self.gate)]),
        }
    }
}

impl Model {
    /// Adds a sidecar, in place of the one before. Returns whether it was made for this very quantization.
    ///
    /// # Errors
    /// See [`Sidecar::read`] and [`Sidecar::fits`]; [`crate::Kind::BadFile`] for missing tensors and wrong shapes,
    /// [`crate::Kind::OutOfMemory`], and whatever the sources report. The model is as before then.
    pub async fn add_sidecar(&mut self, gguf: &Gguf, sources: &mut [Box<dyn Source>]) -> Result<bool> {
        let sidecar = Sidecar::read(gguf)?;
        let same = sidecar.fits(self.weights.fingerprint, &self.config.name)?;
        if !(1..self.config.layers.len()).contains(&sidecar.trunk) {
            return Err(Error::bad_file(format!(
                "a trunk of {} layers; the model has {}",
                sidecar.trunk,
                self.config.layers.len()
            )));
        }
        let trunk = sidecar.trunk;
        let own = match sidecar.own {
            true => Some(self.load_beside((gguf, &mut *sources), "own.0", trunk, 0).await?),
            false => None,
        };
        let backend = &mut *self.backend;
        let weights = weights::maps(gguf, sources, backend, &self.config, trunk).await?;
        let streams: Vec<_> = weights.up.iter().copied().chain([weights.gate.weight]).collect();
        let readers: Vec<_> = weights.layers.iter().flat_map(|(k, v)| [k.weight, v.weight]).collect();
        let maps = Maps {
            trunk,
            own,
            input: backend.new_operand(self.max_batch, self.config.dim, &streams)?,
            up: backend.new_buf(self.max_batch, weights.width)?,
            gate: backend.new_buf(self.max_batch, weights.width)?,
            hidden: backend.new_operand(self.max_batch, weights.width, &readers)?,
            weights,
        };
        self.drafting = match sidecar.drafts {
            true => Some(self.load_drafting(gguf, sources, sidecar).await?),
            false => None,
        };
        self.maps = Some(maps);
        Ok(same)
    }

    /// Layers of the sidecar's trunk, if there is a sidecar.
    pub fn trunk(&self) -> Option<usize> {
        self.maps.as_ref().map(|m| m.trunk)
    }

    /// Layers of the sidecar's own in front of the maps: 0 or 1.
    pub fn own_layers(&self) -> usize {
        usize::from(self.maps.as_ref().is_some_and(|m| m.own.is_some()))
    }

    /// Work of reading a token through the trunk and the sidecar, as a share of all layers' (multiply-adds of weights); `None` without
    /// a sidecar.
    pub fn predicted_share(&self) -> Option<f64> {
        let (c, maps) = (&self.config, self.maps.as_ref()?);
        let (q_dim, kv_dim) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let layer = c.dim * (2 * q_dim + 2 * kv_dim + 3 * c.ff_dim);
        let MapWeights { width, up, layers, .. } = &maps.weights;
        let work = width * ((up.len() + 1) * c.dim + layers.len() * 2 * kv_dim);
        Some(((maps.trunk + self.own_layers()) * layer + work) as f64 / (c.layers.len() * layer) as f64)
    }

    /// Runs a batch through the trunk; the deeper layers' cache entries are predicted. `streams` becomes the residual stream
    /// behind the trunk, `[batch, dim]`. There are no logits.
    ///
    /// # Errors
    /// As for [`Model::forward`], and [`crate::Kind::InvalidRequest`] without a sidecar.
    pub async fn forward_trunk(&mut self, batch: &Batch, streams: &mut Vec<f32>) -> Result<()> {
        self.check(batch)?;
        let mut plan = std::mem::take(&mut self.plan);
        let planned = self.kv.plan(&mut *self.backend, batch, &mut plan);
        self.plan = plan;
        planned?;
        let trunk = self.trunk().ok_or_else(no_sidecar)?;
        self.backend.begin(&self.plan)?;
        self.embed();
        let mut delta = None;
        for layer in 0..trunk {
            let maps = self.maps.as_ref().ok_or_else(no_sidecar)?;
            maps.read(&mut *self.backend, (&self.config, &self.weights, &self.buffers), layer, delta);
            delta = self.through(layer..layer + 1);
        }
        let maps = self.maps.as_ref().ok_or_else(no_sidecar)?;
        let (c, w, b) = (&self.config, &self.weights, &self.buffers);
        let (backend, cache) = (&mut *self.backend, self.kv.cache());
        streams.resize(batch.len() * c.dim, 0.0);
        if let Some(own) = &maps.own {
            // The exact reading goes on from the trunk's stream, not from this layer's, whose keys and values are made twice here:
            // that is a sixteenth of the layer.
            read(backend, b.x, batch.len(), streams).await?;
            backend.begin(&self.plan)?;
            delta = block(backend, (c, w, &own.buffers), own.layer(), None);
        }
        maps.read(backend, (c, w, b), trunk, delta);
        backend.gate(&Gate { gate: maps.gate, up: maps.up, activation: Activation::Silu, out: maps.hidden });
        for (layer, (k, v)) in (trunk..).zip(&maps.weights.layers) {
            backend.matmul(maps.hidden, Rows::All, &[store(*k, b.k), store(*v, b.v)]);
            backend.rope_append(&RopeAppend { q: None, ..append((c, w, b), Layer::of(c, w, cache, layer)) });
        }
        match maps.own {
            Some(_) => Ok(()),
            None => read(backend, b.x, batch.len(), streams).await,
        }
    }

    /// Runs committed tokens once more and overwrites their cache entries: through the layers behind the trunk from their
    /// `streams` `[n, dim]`, or, without streams, through all layers. `logits` as for [`Model::forward`].
    ///
    /// # Errors
    /// As for [`Model::forward`] and [`crate::kv::KvCache::plan_again`].
    pub async fn forward_again(
        &mut self,
        again: &[Again<'_>],
        streams: Option<&[f32]>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let n: usize = again.iter().map(|a| a.tokens.len()).sum();
        let first = match streams {
            None => 0,
            Some(streams) if streams.len() == n * self.config.dim => self.trunk().ok_or_else(no_sidecar)?,
            Some(_) => return Err(Error::invalid_request("as many streams as tokens are needed")),
        };
        if n == 0 || n > self.max_batch {
            return Err(Error::invalid_request(format!("{n} tokens; 1 to {} are possible", self.max_batch)));
        }
        let mut plan = std::mem::take(&mut self.plan);
        let mut result = self.kv.plan_again(again, &mut plan);
        if let (Ok(()), Some(streams)) = (&result, streams) {
            result = self.backend.write(self.buffers.x, 0, streams);
        }
        if result.is_ok() {
            result = self.run(&mut plan, first, Wanted::All, logits).await;
        }
        self.plan = plan;
        result
    }
}

/// Layers of a sidecar that read the stream behind so many first layers.
pub(super) fn beside<'a>(
    maps: &'a Option<Maps>,
    drafting: &'a Option<Drafting>,
    trunk: usize,
) -> impl Iterator<Item = &'a Beside> {
    let own = maps.as_ref().filter(|m| m.trunk == trunk).and_then(|m| m.own.as_ref());
    own.into_iter().chain(drafting.as_ref().filter(|d| d.trunk == trunk).map(|d| &d.block))
}

fn no_sidecar() -> Error {
    Error::invalid_request("predicting needs a sidecar")
}

//! METHOD: KV prediction (arXiv 2410.08391), with the base's own first layers as the auxiliary model.
//!
//! A long prompt goes through the trunk only; maps ([`crate::sidecar`]) predict the deeper layers' keys and values from its
//! streams. The first tokens ([`SINKS`]: attention sinks, whose keys are outliers) and the last ones ([`tail`])
//! go through all layers, and the last one gives the first word.
//!
//! - [`Prefill::Fast`] leaves it at that.
//! - [`Prefill::Progressive`] goes on reading exactly, in chunks between the steps of the answer, from the streams that the
//!   trunk left, so that no work is done twice but the tail's. Words already sent stay; once the prompt is done, their
//!   entries are made exact too, and from then on the cache is that of the base having read prompt and words.
//!
//! The trunk's own entries are exact from the start. Predicted entries are never shared with other requests.
//!
//! `reading.rs` is the arithmetic of it, `maps.rs` what runs beside the model's layers; the forwards here are through the trunk
//! with the deeper layers' cache predicted, and through the deeper layers once more from the streams that the trunk left.
//! `engine/early.rs` says when.

mod maps;
mod reading;

pub(super) use maps::{MapWeights, Maps};
pub(crate) use reading::{CHUNK, Reading};
pub use reading::{Prefill, SINKS, tail};

use super::Model;
use super::decoder::Wanted;
use crate::backend::read;
use crate::batch::Batch;
use crate::error::{Error, Result, resize};
use crate::kv::Recompute;

impl Model {
    fn maps(&self) -> Option<&Maps> {
        self.sidecar.as_ref().map(|s| &s.maps)
    }

    /// Layers of the sidecar's trunk, if there is a sidecar.
    pub fn trunk(&self) -> Option<usize> {
        self.maps().map(|m| m.trunk)
    }

    /// Layers of the sidecar's own in front of the maps: 0 or 1.
    pub fn own_layers(&self) -> usize {
        usize::from(self.maps().is_some_and(|m| m.own.is_some()))
    }

    /// Work of reading a token through the trunk and the sidecar, as a share of all layers' (multiply-adds of weights); `None` without
    /// a sidecar.
    pub fn predicted_share(&self) -> Option<f64> {
        let (c, maps) = (self.config(), self.maps()?);
        let own = self.own_layers() * c.work(maps.trunk..maps.trunk + 1);
        Some((c.work(0..maps.trunk) + own + maps.work()) as f64 / c.work(0..c.layers.len()) as f64)
    }

    /// Runs a batch through the trunk; the deeper layers' cache entries are predicted. `streams` becomes the residual stream
    /// behind the trunk, `[batch, dim]`. There are no logits.
    ///
    /// # Errors
    /// As for [`Model::forward`], and [`crate::Kind::InvalidRequest`] without a sidecar.
    pub async fn forward_trunk(&mut self, batch: &Batch, streams: &mut Vec<f32>) -> Result<()> {
        self.make_ready(batch)?;
        let Model { decoder, kv, plan, sidecar, .. } = self;
        let maps = sidecar.as_ref().map(|s| &s.maps).ok_or_else(no_sidecar)?;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        decoder.backend.begin(plan)?;
        decoder.embed();
        let mut delta = None;
        for i in 0..maps.trunk {
            maps.read(&mut *decoder.backend, &decoder.stream, (i, &decoder.layers[i]), delta);
            delta = decoder.through(i..i + 1);
        }
        resize(streams, batch.len() * decoder.config.dim, 0.0, "a prompt's streams")?;
        if let Some(own) = maps.own {
            // The exact reading goes on from the trunk's stream, not from this layer's, whose keys and values are made twice here:
            // that is a sixteenth of the layer.
            read(&mut *decoder.backend, decoder.stream.x, batch.len(), streams).await?;
            decoder.backend.begin(plan)?;
            delta = decoder.taps[own].layer.run(&mut *decoder.backend, &decoder.stream, None);
        }
        let (backend, behind) = (&mut *decoder.backend, &decoder.layers[maps.trunk..]);
        maps.read(backend, &decoder.stream, (maps.trunk, &behind[0]), delta);
        maps.write(backend, behind);
        match maps.own {
            Some(_) => Ok(()),
            None => read(backend, decoder.stream.x, batch.len(), streams).await,
        }
    }

    /// Runs committed tokens once more and overwrites their cache entries: through the layers behind the trunk from their
    /// `streams` `[n, dim]`, or, without streams, through all layers. `logits` as for [`Model::forward`].
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for tokens that are not in the cache.
    pub async fn recompute(
        &mut self,
        runs: &[Recompute<'_>],
        streams: Option<&[f32]>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.check_loaded()?;
        let n: usize = runs.iter().map(|a| a.tokens.len()).sum();
        let resumed = match streams {
            None => None,
            Some(streams) if streams.len() == n * self.config().dim => Some(self.trunk().ok_or_else(no_sidecar)?),
            Some(_) => return Err(Error::invalid_request("as many streams as tokens are needed")),
        };
        if n == 0 || n > self.max_batch() {
            return Err(Error::invalid_request(format!("{n} tokens; 1 to {} are possible", self.max_batch())));
        }
        let Model { decoder, kv, plan, .. } = self;
        kv.plan_recompute(runs, plan)?;
        if let Some(streams) = streams {
            decoder.backend.write(decoder.stream.x, 0, streams)?;
        }
        decoder.run(plan, resumed, Wanted::All, logits).await
    }
}

fn no_sidecar() -> Error {
    Error::invalid_request("predicting needs a sidecar")
}

//! A batch to logits: planned against the cache, run by the decoder.

use super::Model;
use super::decoder::Wanted;
use super::sound;
use crate::backend::{Sent, read, receive};
use crate::batch::Batch;
use crate::error::{Error, Result, resize};

impl Model {
    /// Runs a batch. `logits` becomes `[n_outputs, n_vocab]`, the rows that asked for them, in order. The tokens are in the
    /// cache afterwards, but not committed.
    ///
    /// # Errors
    /// Whatever [`crate::kv::KvCache::plan`] refuses, [`crate::Kind::InvalidRequest`] for more than
    /// [`Model::max_batch`] rows or unknown tokens, [`crate::Kind::DeviceLost`]. Where layers keep states, no sequence can be gone
    /// on with after an error, those of other batches included: what was to be done to their states may be done in part.
    pub async fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.plan_and_run(batch, Wanted::All, logits).await
    }

    /// The same with only the largest logits of each row, `n` or a few more: `top` becomes `[n_outputs, 2 k + 1]` as
    /// [`crate::backend::Select`] says, the sum only where it is wanted. Returns `k`.
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more than [`crate::backend::MAX_SELECTED`].
    pub async fn forward_top(&mut self, batch: &Batch, n: usize, sum: bool, top: &mut Vec<f32>) -> Result<usize> {
        let n_vocab = self.config().n_vocab;
        let selected = self.decoder.selected.iter().copied().find(|(k, _)| n <= *k || *k == n_vocab);
        let (k, out) =
            selected.ok_or_else(|| Error::invalid_request(format!("the {n} largest logits are too many")))?;
        self.plan_and_run(batch, Wanted::Top { k, out, sum }, top).await?;
        Ok(k)
    }

    /// Sends the forward of a batch of which the largest logit of each output is wanted, to be fetched by [`Model::receive`],
    /// and does not wait for it. With `ahead`, a token of the batch is not an id but a number: the row of an output of the
    /// forward that was sent last. The device puts in that row's token, the one with the largest logit, which the host need
    /// not have read yet. The backend must [run ahead](crate::backend::Backend::runs_ahead).
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] for more outputs than [`Model::head_rows`].
    pub(crate) fn send_greedy(&mut self, batch: &Batch, ahead: bool) -> Result<Sent> {
        self.make_ready(batch)?;
        let n_outputs = batch.tokens().iter().filter(|t| t.output).count();
        if n_outputs > self.head_rows() {
            return Err(Error::invalid_request(format!("{n_outputs} outputs are too many to be sent at once")));
        }
        let Model { decoder, kv, plan, .. } = self;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        let (k, out) = decoder.selected[0];
        plan.chosen = ahead.then_some(out);
        decoder.backend.begin(plan)?;
        decoder.embed();
        let delta = decoder.through(0..decoder.layers.len());
        decoder.logits(delta, decoder.head, Wanted::Top { k, out, sum: false });
        Ok(decoder.backend.send(out, 0..n_outputs))
    }

    /// Waits for what was sent: `top` becomes `[n_outputs, 3]` as [`crate::backend::Select`] says, without the sum.
    ///
    /// # Errors
    /// [`crate::Kind::DeviceLost`].
    pub(crate) async fn receive(&mut self, sent: &Sent, top: &mut Vec<f32>) -> Result<()> {
        top.resize(sent.rows.len() * 3, 0.0);
        receive(&mut *self.decoder.backend, sent, top).await?;
        sound::top_logits(top, 3, false)
    }

    /// The whole logits behind the last [`Model::forward_top`], whose batch had `n` outputs, at most
    /// [`Model::head_rows`].
    ///
    /// # Errors
    /// [`crate::Kind::DeviceLost`].
    pub(crate) async fn read_logits(&mut self, n: usize, logits: &mut Vec<f32>) -> Result<()> {
        self.check_loaded()?;
        resize(logits, n * self.config().n_vocab, 0.0, "logits")?;
        read(&mut *self.decoder.backend, self.decoder.head.logits, n, logits).await?;
        sound::logits(logits)
    }

    async fn plan_and_run(&mut self, batch: &Batch, wanted: Wanted, out: &mut Vec<f32>) -> Result<()> {
        self.make_ready(batch)?;
        let (rows, streams) = batch.known();
        if self.kv.spec().has_states() && !rows.is_empty() {
            return Err(Error::unsupported("rows whose streams are known, where layers keep states"));
        }
        let Model { decoder, kv, plan, part, .. } = self;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        let resumed = (!rows.is_empty()).then_some(streams.layers);
        if resumed.is_some() {
            decoder.resume(plan, part, rows, streams).await?;
        }
        decoder.run(plan, resumed, wanted, out).await
    }

    /// Before a forward: gives back what is left of a sidecar that was given up half way, and refuses batches that cannot be run.
    pub(super) fn make_ready(&mut self, batch: &Batch) -> Result<()> {
        self.abandon();
        self.check_loaded()?;
        if !self.config().causal {
            return Err(Error::unsupported(format!(
                "{} is an encoder: it makes embeddings of texts, and no logits",
                self.config().architecture
            )));
        }
        if batch.is_empty() || batch.len() > self.max_batch() {
            return Err(Error::invalid_request(format!(
                "a batch of {} tokens; 1 to {} are possible",
                batch.len(),
                self.max_batch()
            )));
        }
        match batch.tokens().iter().find(|t| t.token as usize >= self.config().n_vocab) {
            Some(t) => Err(Error::invalid_request(format!(
                "token {} is not in the vocabulary of {}",
                t.token,
                self.config().n_vocab
            ))),
            None => Ok(()),
        }
    }

    /// [`crate::Kind::DeviceLost`] where the backend does not hold the model.
    pub(super) fn check_loaded(&self) -> Result<()> {
        match self.gone {
            true => Err(Error::device_lost("the model is not loaded: restoring it failed; try another backend")),
            false => Ok(()),
        }
    }
}

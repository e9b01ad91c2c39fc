//! Drafting with the model's own first layers, with or without a sidecar's draft block behind them, and the forward that goes on
//! behind these layers: what a drafter has computed of a guess is the first part of its verification.

use super::Model;
use super::decoder::{Decoder, Head, Wanted, set_rows};
use crate::backend::Plan;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::sidecar::Acceptance;

/// The way through a model that makes guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftPath {
    /// So many first layers, then the last norm and the head.
    Layers(usize),
    /// The sidecar's trunk and draft block, then the last norm and the head or some rows of it.
    Sidecar,
}

/// A sidecar's draft block.
#[derive(Debug)]
pub(super) struct Drafting {
    /// Layers before it.
    pub(super) trunk: usize,
    /// Its index among the decoder's taps.
    pub(super) tap: usize,
    /// Its vocabulary and the rows of the base's head for it, where it is a reduced one. With an acceptance head that is the
    /// last row.
    pub(super) tokens: Option<Vec<u32>>,
    pub(super) head: Option<Head>,
    pub(super) acceptance: Option<Acceptance>,
}

impl Decoder {
    /// Runs some rows through the first layers and what guesses behind them. The streams behind the layers are appended to
    /// `streams`.
    async fn draft(
        &mut self,
        plan: &mut Plan,
        n_layers: usize,
        drafting: Option<&Drafting>,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.first_layers(plan, n_layers, streams).await?;
        self.backend.begin(plan)?;
        let (delta, head) = match drafting {
            Some(drafting) => {
                let block = &self.taps[drafting.tap].layer;
                (block.run(&mut *self.backend, &self.stream, None), drafting.head.unwrap_or(self.head))
            }
            None => (None, self.head),
        };
        self.end(plan, delta, head, Wanted::All, logits).await
    }
}

impl Model {
    fn drafting(&self) -> Option<&Drafting> {
        self.sidecar.as_ref()?.drafting.as_ref()
    }

    /// Layers of the model that are part of a path.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for none or all layers, and without a sidecar that has a draft block;
    /// [`crate::Kind::Unsupported`] where layers keep states: a forward that goes on behind some layers has their inputs only.
    pub(crate) fn draft_layers(&self, path: DraftPath) -> Result<usize> {
        if self.kv.spec().has_states() {
            return Err(Error::unsupported("layers that keep states cannot draft; use n-grams or a second model"));
        }
        let all = self.config().layers.len();
        match (path, self.drafting()) {
            (DraftPath::Layers(n), _) if (1..=all).contains(&n) => Ok(n),
            (DraftPath::Layers(n), _) => {
                Err(Error::invalid_request(format!("drafting with {n} layers; 1 to {} are possible", all - 1)))
            }
            (DraftPath::Sidecar, Some(drafting)) => Ok(drafting.trunk),
            (DraftPath::Sidecar, None) => Err(Error::invalid_request("drafting needs a sidecar with a draft block")),
        }
    }

    /// Vocabulary of a path's logits, ascending; `None`: the model's.
    pub fn draft_tokens(&self, path: DraftPath) -> Option<&[u32]> {
        let drafting = self.drafting().filter(|_| path == DraftPath::Sidecar);
        drafting.and_then(|d| d.tokens.as_deref())
    }

    /// A path's acceptance head. What it makes of a row stands behind the row's logits.
    pub(crate) fn acceptance(&self, path: DraftPath) -> Option<Acceptance> {
        self.drafting().filter(|_| path == DraftPath::Sidecar)?.acceptance
    }

    /// Runs the rows of a batch from `first` on, those before having been run by this function already, through what
    /// guesses. `streams` gets the residual streams `[rows, dim]` behind its layers of the model, `logits` becomes
    /// `[n_outputs, vocabulary]`, one column more with an acceptance head. Deeper layers' cache entries are
    /// not written, so the tokens must not be committed; a forward of the same rows may go on from the streams
    /// ([`Batch::resume`]).
    ///
    /// # Errors
    /// As for [`Model::forward`]; [`crate::Kind::InvalidRequest`] where there is nothing that guesses so. `streams` is as before then.
    pub async fn draft(
        &mut self,
        (batch, first): (&Batch, usize),
        path: DraftPath,
        streams: &mut Vec<f32>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.make_ready(batch)?;
        let n_layers = self.draft_layers(path)?;
        let Model { decoder, kv, plan, part, sidecar, .. } = self;
        kv.plan(&mut *decoder.backend, batch, plan)?;
        set_rows(part, plan, |row| row >= first);
        let drafting = sidecar.as_ref().filter(|_| path == DraftPath::Sidecar).and_then(|s| s.drafting.as_ref());
        let known = streams.len();
        let result = decoder.draft(part, n_layers, drafting, streams, logits).await;
        if result.is_err() {
            streams.truncate(known);
        }
        result
    }
}

//! A second, smaller model with the same vocabulary as drafter.

use super::layers::Run;
use super::{Context, Drafter, Proposals, from_logits};
use crate::batch::{Batch, SeqId};
use crate::error::{Error, Result};
use crate::model::{DraftPath, Model};
use crate::tokenizer::Tokenizer;
use std::collections::HashMap;

/// Drafts with another model.
pub struct SecondModel {
    model: Model,
    /// The model's sequence of each request, and the tokens that are in it.
    sequences: HashMap<u64, (SeqId, usize)>,
    batch: Batch,
    rows: Run,
    logits: Vec<f32>,
}

impl SecondModel {
    /// `model` as a drafter for a target with the vocabulary of `target`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the vocabularies differ.
    pub fn new(model: Model, own: &Tokenizer, target: &Tokenizer) -> Result<Self> {
        let (n, wanted) = (own.n_vocab(), target.n_vocab());
        if n != wanted {
            return Err(Error::invalid_request(format!(
                "the drafter has {n} tokens and the model {wanted}; a drafter needs the same vocabulary"
            )));
        }
        if let Some(id) = (0..n as u32).find(|&id| own.token_bytes(id) != target.token_bytes(id)) {
            return Err(Error::invalid_request(format!(
                "token {id} is {:?} for the drafter and {:?} for the model; a drafter needs the same vocabulary",
                own.decode(&[id]),
                target.decode(&[id])
            )));
        }
        Ok(SecondModel {
            model,
            sequences: HashMap::new(),
            batch: Batch::new(),
            rows: Run::default(),
            logits: Vec::new(),
        })
    }

    /// Reads what is new of a text, all but its last token; returns the sequence.
    async fn read(&mut self, request: u64, text: &[u32]) -> Result<SeqId> {
        let model = &mut self.model;
        let (seq, known) = self.sequences.entry(request).or_insert_with(|| (model.kv_mut().new_seq(), 0));
        let end = text.len().saturating_sub(1);
        while *known < end {
            let n = (end - *known).min(model.max_batch());
            self.batch.clear();
            self.batch.push_run(*seq, &text[*known..*known + n], false);
            model.forward(&self.batch, &mut self.logits).await?;
            model.kv_mut().commit_run(*seq)?;
            *known += n;
        }
        Ok(*seq)
    }
}

impl Drafter for SecondModel {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        Box::pin(async move {
            let seq = self.read(context.request, context.text).await?;
            let (dim, n_layers) = (self.model.config().dim, self.model.config().layers.len());
            let Some(first) = self.rows.extend(seq, &context, slots, dim) else { return Ok(Vec::new()) };
            let rows = (&self.rows.batch, first);
            self.model.draft(rows, DraftPath::Layers(n_layers), &mut self.rows.streams, &mut self.logits).await?;
            Ok(from_logits(&context, &self.logits, self.model.config().n_vocab, slots))
        })
    }

    fn end(&mut self, request: u64) {
        if let Some((seq, _)) = self.sequences.remove(&request) {
            self.model.kv_mut().free(seq);
        }
    }

    fn is_model(&self) -> bool {
        true
    }
}

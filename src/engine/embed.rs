//! Embeddings beside answers: texts are read between steps, in the cells that no answer holds.

use super::Engine;
use crate::backend::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::model::{Pooling, Text};

impl Engine {
    /// Makes a vector of each text; see [`Model::embed`](crate::model::Model::embed). The cache gives up beginnings of finished
    /// answers for it.
    ///
    /// # Errors
    /// As there; [`Kind::OutOfMemory`] where answers under way hold the cache, [`Kind::Busy`] while a step is on its way.
    pub async fn embed(&mut self, texts: &[Text<'_>], pooling: Pooling) -> Result<Vec<Vec<f32>>> {
        if !self.sent.is_empty() {
            return Err(Error::new(Kind::Busy, "texts are embedded between steps, and one is on its way"));
        }
        let wanted = texts.iter().map(|text| text.tokens.len().div_ceil(BLOCK)).sum();
        let kv = self.model.kv_mut();
        while kv.free_blocks() < wanted && self.prefixes.evict(kv) {}
        let vectors = self.model.embed(texts, pooling).await;
        if vectors.as_ref().is_err_and(|e| matches!(e.kind(), Kind::DeviceLost | Kind::DeviceFault)) {
            self.forget_all();
        }
        vectors
    }

    /// Says whether texts wait to be embedded, and returns whether they can be.
    pub(super) fn lets_embed(&mut self, wait: bool) -> bool {
        self.texts_wait = wait;
        wait && self.sent.is_empty()
    }

    /// Refuses to write with models that do not.
    pub(super) fn check_writes(&self) -> Result<()> {
        let config = self.model.config();
        if config.causal && config.pooling != Some(Pooling::Rank) {
            return Ok(());
        }
        let message = format!("{} is no model that writes: it makes embeddings or scores of texts", config.name);
        Err(Error::invalid_request(message).in_field("model"))
    }

    /// How vectors of texts are pooled: as the file says, else by their mean.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] for a model that scores pairs of texts.
    pub fn pooling(&self) -> Result<Pooling> {
        match self.model.config().pooling {
            Some(Pooling::Rank) => Err(Error::invalid_request(
                "this model ranks documents and makes no embeddings; ask it with a query and documents",
            )),
            pooling => Ok(pooling.unwrap_or(Pooling::Mean)),
        }
    }

    /// Tokens of a query and a document as a model that ranks reads them, and where the document begins.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] for models that make embeddings or text.
    pub(super) fn pair(&self, query: &str, document: &str) -> Result<(Vec<u32>, usize)> {
        if self.model.config().pooling != Some(Pooling::Rank) {
            return Err(Error::invalid_request(
                "this model does not rank; compare the embeddings of query and documents",
            ));
        }
        if !self.model.config().causal {
            return Ok(self.tokenizer.encode_pair(query, document));
        }
        let template = self.gguf.metadata.opt_str("tokenizer.chat_template.rerank")?.unwrap_or(QWEN3_RERANKER);
        // The query last: a document may hold anything.
        let (front, back) = template.split_once("{document}").unwrap_or((template, ""));
        let prompt = [&front.replace("{query}", query), document, &back.replace("{query}", query)].concat();
        let tokens = self.prompt(&prompt, true);
        let n = tokens.len();
        Ok((tokens, n))
    }

    /// The score of a pair, from 0 to 1, of what the model made of it: a logit, or those of yes and no.
    pub(super) fn score(&self, vector: &[f32]) -> f32 {
        let logit = match vector {
            [yes, no] => yes - no,
            _ => vector.first().copied().unwrap_or_default(),
        };
        1.0 / (1.0 + (-logit).exp())
    }
}

/// How Qwen3-Reranker is asked, where its file does not say.
const QWEN3_RERANKER: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

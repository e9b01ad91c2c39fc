//! One transformer, driven by a config: a GGUF file becomes weights in a backend, a batch becomes logits.

mod beside;
mod config;
mod draft;
mod families;
mod forward;
mod observe;
mod perplexity;
mod predict;
mod weights;

pub use config::{LayerConfig, ModelConfig, RopeConfig, RopeScaling};
pub use draft::{Acceptance, Guesser};
pub use families::config as config_of;
pub use observe::Entries;
pub use perplexity::{Perplexity, perplexity};
pub use weights::Progress;

use crate::backend::{BLOCK, Backend, Buf, CacheShape, CacheType, MAX_SELECTED, Operand, Plan, Workload};
use crate::batch::SeqId;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::kv::KvCache;
use crate::quant::TensorType;
use weights::Weights;

/// How a model is set up.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Longest sequence; by default what the model was trained for, at most [`DEFAULT_CONTEXT`].
    pub context_length: Option<usize>,
    /// Number format of the KV cache.
    pub cache_type: CacheType,
    /// Tokens that the KV cache holds over all sequences; by default one context.
    pub cache_tokens: Option<usize>,
    /// Most tokens of a forward. Work buffers grow with it; 256 is where prefill stops getting faster on CPUs.
    pub max_batch: usize,
}

/// Context length where neither the caller nor the model asks for less.
pub const DEFAULT_CONTEXT: usize = 8192;

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions { context_length: None, cache_type: CacheType::default(), cache_tokens: None, max_batch: 256 }
    }
}

/// A loaded model with its KV cache.
pub struct Model {
    config: ModelConfig,
    backend: Box<dyn Backend>,
    weights: Weights,
    /// Of a sidecar.
    maps: Option<predict::Maps>,
    /// Of a sidecar with a draft block.
    drafting: Option<draft::Drafting>,
    buffers: Buffers,
    kv: KvCache,
    plan: Plan,
    /// Some rows of a plan.
    part: Plan,
    max_batch: usize,
    context_length: usize,
}

/// Work buffers of a forward; `n` is the batch.
#[derive(Clone, Debug)]
struct Buffers {
    /// Residual stream `[n, dim]`.
    x: Buf,
    /// `[n, n_heads * head_dim]`.
    q: Buf,
    /// `[n, n_kv_heads * head_dim]`.
    k: Buf,
    /// `[n, n_kv_heads * head_dim]`.
    v: Buf,
    /// `[n, ff_dim]`.
    gate: Buf,
    /// `[n, ff_dim]`.
    up: Buf,
    /// What a post-norm is applied to `[n, dim]`.
    delta: Buf,
    /// `[head_rows, n_vocab]`.
    logits: Buf,
    /// Rows of `logits`.
    head_rows: usize,
    /// The `k` largest of each row of `logits`, `[head_rows, 2 k + 1]`, for some `k`, ascending.
    selected: [(usize, Buf); 3],
    /// Input of attention and feed-forward `[n, dim]`.
    normed: Operand,
    /// Input of the output projection `[n, n_heads * head_dim]`.
    attended: Operand,
    /// Input of the down projection `[n, ff_dim]`.
    gated: Operand,
    /// Input of the head `[head_rows, dim]`.
    head_in: Operand,
}

/// Rows of logits that are in the backend's memory at a time.
const HEAD_ROWS: usize = 8;

/// Largest logits of a row that are read: for greedy decoding, for common settings of top-k, for all others.
const SELECTED: [usize; 3] = [1, 64, MAX_SELECTED];

impl Model {
    /// Loads a model into `backend`.
    ///
    /// # Errors
    /// See [`config_of`]; [`crate::Kind::BadFile`] for missing tensors and wrong shapes, [`crate::Kind::OutOfMemory`],
    /// and whatever the sources report.
    pub async fn load(
        gguf: &Gguf,
        sources: &mut [Box<dyn Source>],
        mut backend: Box<dyn Backend>,
        options: &ModelOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Model> {
        let config = families::config(gguf, options.context_length)?;
        let context_length = options.context_length.unwrap_or(config.context_length.min(DEFAULT_CONTEXT));
        if context_length == 0 || options.max_batch == 0 {
            return Err(Error::invalid_request("context length and batch size must not be 0"));
        }
        if options.cache_type == CacheType::Q8_0 && !config.head_dim.is_multiple_of(32) {
            return Err(Error::unsupported(format!(
                "a q8_0 cache needs heads of a multiple of 32 values, not {}; use f16",
                config.head_dim
            )));
        }
        let max_batch = options.max_batch;
        let cache_tokens = options.cache_tokens.unwrap_or(context_length);
        let shape = CacheShape {
            n_layers: config.layers.len(),
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            ty: options.cache_type,
            n_blocks: cache_tokens.div_ceil(BLOCK),
        };
        // Before the tensors, which may still be on their way: what does not fit is not downloaded.
        let kv = KvCache::new(&mut *backend, shape)?;
        backend.room(gguf.tensors.iter().map(|t| t.n_bytes).sum(), Buffers::largest(&config, max_batch)).await?;
        backend.prepare(&Workload { types: types_of(gguf), cache: shape, n_heads: config.n_heads });
        let weights = weights::load(gguf, sources, &mut *backend, &config, progress).await?;
        let buffers = Buffers::new(&mut *backend, &config, &weights, max_batch)?;
        let (plan, part, maps, drafting) = (Plan::default(), Plan::default(), None, None);
        Ok(Model { config, backend, weights, maps, drafting, buffers, kv, plan, part, max_batch, context_length })
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Longest sequence.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Most tokens of a forward.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Rows of logits that are on the device at a time.
    pub fn head_rows(&self) -> usize {
        self.buffers.head_rows
    }

    /// Where the model runs.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The sequences.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// The sequences, to begin, fork, truncate and free them.
    pub fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Keeps these rows of the last forward; see [`KvCache::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(&mut self, seq: SeqId, rows: &[u32]) -> Result<()> {
        self.kv.commit(&mut *self.backend, seq, rows)
    }
}

/// Types of the matrices, that of the embeddings first.
fn types_of(gguf: &Gguf) -> Vec<TensorType> {
    let matrices = gguf.tensors.iter().filter(|t| t.dims.len() > 1);
    gguf.tensor("token_embd.weight").into_iter().chain(matrices).map(|t| t.ty).collect()
}

impl Buffers {
    /// Bytes of the largest one.
    fn largest(c: &ModelConfig, n: usize) -> usize {
        let widest = c.dim.max(c.n_heads * c.head_dim).max(c.ff_dim);
        let rows = n.saturating_mul(widest).max(HEAD_ROWS.min(n).saturating_mul(c.n_vocab));
        rows.saturating_mul(size_of::<f32>())
    }

    fn new(backend: &mut dyn Backend, c: &ModelConfig, w: &Weights, n: usize) -> Result<Self> {
        let (q_dim, kv_dim) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let head_rows = HEAD_ROWS.min(n);
        let normed: Vec<_> = w.layers.iter().flat_map(|l| l.normed_readers()).collect();
        let attended: Vec<_> = w.layers.iter().map(|l| l.o.weight).collect();
        let gated: Vec<_> = w.layers.iter().map(|l| l.down.weight).collect();
        let mut selected = [(0, Buf(0)); 3];
        for (entry, k) in selected.iter_mut().zip(SELECTED.map(|k| k.min(c.n_vocab))) {
            *entry = (k, backend.new_buf(head_rows, 2 * k + 1)?);
        }
        Ok(Buffers {
            x: backend.new_buf(n, c.dim)?,
            q: backend.new_buf(n, q_dim)?,
            k: backend.new_buf(n, kv_dim)?,
            v: backend.new_buf(n, kv_dim)?,
            gate: backend.new_buf(n, c.ff_dim)?,
            up: backend.new_buf(n, c.ff_dim)?,
            delta: backend.new_buf(n, c.dim)?,
            logits: backend.new_buf(head_rows, c.n_vocab)?,
            head_rows,
            selected,
            normed: backend.new_operand(n, c.dim, &normed)?,
            attended: backend.new_operand(n, q_dim, &attended)?,
            gated: backend.new_operand(n, c.ff_dim, &gated)?,
            head_in: backend.new_operand(head_rows, c.dim, &[w.head])?,
        })
    }
}

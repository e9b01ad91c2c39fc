//! One transformer, driven by a config: a GGUF file becomes weights in a backend, a batch becomes logits.

mod attention;
mod cells;
mod config;
mod decoder;
mod dense;
mod draft;
mod embed;
mod encoders;
mod experts;
mod families;
mod forward;
mod hybrids;
mod layer;
mod linear;
mod loader;
mod metadata;
mod observe;
mod per_layer;
pub mod predict;
mod short_conv;
mod sidecar;
mod sound;
mod weights;
mod work;

pub(crate) use cells::KeptLayer;
pub use config::{
    Attention, Dense, Experts, Ffn, LayerConfig, LinearAttention, LinearKind, Mixer, ModelConfig, Pooling, QkNorm,
    RopeConfig, RopeScaling, ShortConv,
};
pub use draft::DraftPath;
pub use embed::Text;
pub use families::config as config_of;
pub use loader::Progress;
pub use observe::Entries;

use crate::backend::{BLOCK, Backend, CacheSpec, CacheType, CellShape, LayerCache, Plan, Scope, Workload};
use crate::batch::SeqId;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::kv::KvCache;
use crate::quant::TensorType;
use decoder::{Decoder, Head};
use layer::Layer;
use per_layer::{PerLayerWeights, Table};
use weights::Weights;
use work::{Kept, Stream, Workspace};

/// How a model is set up.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Longest sequence; by default what the model was trained for, at most [`DEFAULT_CONTEXT`].
    pub context_length: Option<usize>,
    /// Number format of the KV cache.
    pub cache_type: CacheType,
    /// Tokens that the KV cache holds over all sequences; by default one context.
    pub cache_tokens: Option<usize>,
    /// Most bytes of keys and values over all sequences, where that is less than `cache_tokens` take. A sidecar's layers come on top,
    /// and an encoder, which keeps nothing of a text, takes no heed.
    pub kv_memory: Option<usize>,
    /// Most tokens of a forward. Work buffers grow with it; 256 is where prefill stops getting faster on CPUs.
    pub max_batch: usize,
}

/// Context length where neither the caller nor the model asks for less.
pub const DEFAULT_CONTEXT: usize = 8192;

/// The same for encoders: work buffers are as long as the longest text.
const ENCODER_CONTEXT: usize = 2048;

/// Blocks that a forward of an encoder may need, for each of its full ones: every text begins a block.
const BLOCKS_OF_TEXTS: usize = 4;

/// Bytes that states may take, those of answers under way and those that are kept for later requests.
const STATE_BYTES: usize = 32 << 20;

/// States that there is always room for: a few answers, and what is kept of them.
const MIN_SLOTS: usize = 8;

/// States beyond which more are of no use.
const MAX_SLOTS: usize = 64;

/// Longest sequence of a model that was trained for `trained` positions, where the caller wants `wanted`.
fn context_length(trained: usize, wanted: Option<usize>) -> usize {
    wanted.unwrap_or(trained.min(DEFAULT_CONTEXT))
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            context_length: None,
            cache_type: CacheType::default(),
            cache_tokens: None,
            max_batch: 256,
            kv_memory: None,
        }
    }
}

/// A loaded model with its KV cache.
pub struct Model {
    decoder: Decoder,
    sidecar: Option<sidecar::Attached>,
    /// What a sidecar owns that is being loaded.
    loading: Option<Scope>,
    kv: KvCache,
    plan: Plan,
    /// Some rows of a plan.
    part: Plan,
    /// Sequences of texts that are being embedded.
    reading: Vec<SeqId>,
    context_length: usize,
    /// Set while the backend does not hold the model: [`Model::reload`] was not successful.
    gone: bool,
}

impl Model {
    /// Loads a model into `backend`.
    ///
    /// # Errors
    /// See [`config_of`]; [`crate::Kind::BadFile`] for missing tensors and wrong shapes, [`crate::Kind::OutOfMemory`],
    /// [`crate::Kind::Unsupported`] for sources that do not [stay open](Source::stays_open) where the model needs them, and whatever
    /// the sources report.
    pub async fn load(
        gguf: &Gguf,
        sources: Vec<Box<dyn Source>>,
        mut backend: Box<dyn Backend>,
        options: &ModelOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Model> {
        let config = families::config(gguf, options.context_length)?;
        let trained = config.context_length;
        let context_length = match config.causal {
            true => context_length(trained, options.context_length),
            false => options.context_length.unwrap_or(ENCODER_CONTEXT).min(trained),
        };
        if context_length == 0 || options.max_batch == 0 {
            return Err(Error::invalid_request("context length and batch size must not be 0"));
        }
        let (max_batch, cache_tokens) = match config.causal {
            true => (options.max_batch, options.cache_tokens.unwrap_or(context_length)),
            false => {
                let rows = options.max_batch.max(context_length);
                (rows, BLOCKS_OF_TEXTS * rows)
            }
        };
        let mut spec = cache_spec(&config, options.cache_type, cache_tokens.div_ceil(BLOCK))?;
        if let Some(bytes) = options.kv_memory.filter(|_| config.causal) {
            spec.n_blocks = spec.n_blocks.min(blocks_in(bytes, &spec)?);
        }
        let held = Held::load(gguf, sources, &mut *backend, &config, spec, max_batch, progress).await?;
        let Held { weights, layers, work, stream, head, selected, pooled, table, kv } = held;
        let taps = Vec::new();
        let decoder = Decoder { config, backend, weights, layers, taps, work, stream, head, selected, pooled, table };
        let (plan, part, reading) = (Plan::default(), Plan::default(), Vec::new());
        Ok(Model { decoder, sidecar: None, loading: None, kv, plan, part, reading, context_length, gone: false })
    }

    /// Loads the same model once more, into another backend. The old one is dropped first, with all that it holds; a sidecar and
    /// all sequences go with it.
    ///
    /// # Errors
    /// As for [`Model::load`]. The model is of no use then, nor after the future was dropped: forwards report
    /// [`crate::Kind::DeviceLost`] until it is loaded once more.
    pub(crate) async fn reload(
        &mut self,
        gguf: &Gguf,
        sources: Vec<Box<dyn Source>>,
        backend: Box<dyn Backend>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        (self.gone, self.sidecar, self.loading) = (true, None, None);
        self.decoder.taps.clear();
        self.reading.clear();
        self.decoder.backend = backend;
        let (spec, rows) = (self.kv.spec().clone(), self.max_batch());
        let Decoder { config, backend, .. } = &mut self.decoder;
        let held = Held::load(gguf, sources, &mut **backend, config, spec, rows, progress).await?;
        let Held { weights, layers, work, stream, head, selected, pooled, table, kv } = held;
        let d = &mut self.decoder;
        (d.weights, d.layers, d.work, d.stream, d.head, d.selected) = (weights, layers, work, stream, head, selected);
        (d.pooled, d.table, self.kv, self.gone) = (pooled, table, kv, false);
        Ok(())
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Longest sequence.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Most tokens of a forward.
    pub fn max_batch(&self) -> usize {
        self.decoder.work.rows
    }

    /// Rows of logits that are on the device at a time.
    pub(crate) fn head_rows(&self) -> usize {
        self.decoder.head.rows
    }

    /// Whether a step may be sent whose tokens the host does not know yet.
    pub(crate) fn runs_ahead(&self) -> bool {
        self.decoder.backend.runs_ahead() && self.decoder.table.is_none()
    }

    /// Where the model runs.
    pub fn backend(&self) -> &dyn Backend {
        &*self.decoder.backend
    }

    /// The sequences.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// The sequences, to begin, fork, truncate and free them.
    pub fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Gives memory of the cache back that sequences do not need.
    pub(crate) fn shrink_cache(&mut self) {
        // Where that fails all is as it was, and a lost device is reported by the next forward.
        _ = self.kv.shrink(&mut *self.decoder.backend);
    }

    /// Keeps these rows of the last forward; see [`KvCache::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(&mut self, seq: SeqId, rows: &[u32]) -> Result<()> {
        self.kv.commit(&mut *self.decoder.backend, seq, rows)
    }
}

/// What a backend holds of a model.
struct Held {
    weights: Weights,
    layers: Vec<Layer>,
    work: Workspace,
    stream: Stream,
    head: Head,
    selected: decoder::Selected,
    pooled: Vec<embed::Projection>,
    table: Option<Table>,
    kv: KvCache,
}

impl Held {
    async fn load(
        gguf: &Gguf,
        mut sources: Vec<Box<dyn Source>>,
        backend: &mut dyn Backend,
        config: &ModelConfig,
        spec: CacheSpec,
        rows: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Held> {
        // Before the tensors, which may still be on their way: what does not run here, or does not fit, is not downloaded.
        if config.per_layer.is_some() && !sources.iter().all(|source| source.stays_open()) {
            let what = "models with per-layer embeddings, whose rows are read from the file at each step: files are closed here by then";
            return Err(Error::unsupported(format!("{what}; the command line runs them")));
        }
        let kv = KvCache::new(backend, spec)?;
        let loaded = gguf.tensors.iter().filter(|t| config.per_layer.is_none() || t.name != weights::TABLE);
        let bytes = loaded.map(|t| t.n_bytes).sum();
        backend.room(bytes, kv.spec(), decoder::largest_buf(config, rows)).await?;
        backend.prepare(&workload(gguf, config, kv.spec()));
        let (weights, layers) = weights::load(gguf, &mut sources, backend, config, progress).await?;
        let ropes = weights.ropes.clone();
        let mut work = Workspace { rows, dim: config.dim, eps: config.norm_eps, ropes, bufs: Vec::new() };
        let mut further = config.layers.len();
        let kept = |(layer, weights)| {
            let (config, kept) = (config.layers[layer], Kept { cache: kv.cache(), layer, further });
            further += further_states(&config).count();
            (config, weights, kept)
        };
        let layers: Vec<_> = layers.into_iter().enumerate().map(kept).collect();
        let per_layer: Vec<PerLayerWeights> = layers.iter().filter_map(|(_, weights, _)| weights.per_layer).collect();
        let mut layers = layer::build(&mut work, backend, &layers)?;
        let table = match weights.table {
            Some(place) => {
                let (table, per_layer) = Table::new(backend, &mut work, &per_layer, place, sources)?;
                layers.iter_mut().zip(per_layer).for_each(|(layer, own)| layer.per_layer = Some(own));
                Some(table)
            }
            None => None,
        };
        let stream = Stream {
            x: backend.new_buf(rows, config.dim)?,
            delta: backend.new_buf(rows, config.dim)?,
            eps: config.norm_eps,
            scale: config.residual_scale,
        };
        let head = Head::new(backend, &work, weights.head, weights.head_bias, config.n_vocab)?;
        let selected = head.selected(backend)?;
        let pooled = embed::projections(backend, &weights.pooled, rows)?;
        Ok(Held { weights, layers, work, stream, head, selected, pooled, table, kv })
    }
}

/// What a layer keeps besides what its mixer keeps first.
fn further_states(layer: &LayerConfig) -> impl Iterator<Item = LayerCache> {
    let own = if let Mixer::Linear(linear) = layer.mixer { Some(linear) } else { None };
    let conv = |linear: LinearAttention| LayerCache::State { floats: (linear.taps - 1) * linear.channels() };
    layer.beside.map(state).into_iter().chain(own.or(layer.beside).map(conv))
}

/// The states of linear attention.
fn state(linear: LinearAttention) -> LayerCache {
    LayerCache::State { floats: linear.key_dim * linear.values() }
}

/// What a model's layers keep, then what some keep besides.
///
/// # Errors
/// [`crate::Kind::Unsupported`] where the number format does not fit a head.
fn cache_spec(config: &ModelConfig, ty: CacheType, n_blocks: usize) -> Result<CacheSpec> {
    let kept = |layer: &LayerConfig| match layer.mixer {
        Mixer::Attention(Attention { keys_of: Some(layer), .. }) => Ok(LayerCache::SharedWith(layer)),
        Mixer::Attention(Attention { n_kv_heads, head_dim, .. }) => {
            if ty == CacheType::Q8_0 && !head_dim.is_multiple_of(32) {
                return Err(Error::unsupported(format!(
                    "a q8_0 cache needs heads of a multiple of 32 values, not {head_dim}; use f16"
                )));
            }
            Ok(LayerCache::Paged(CellShape { n_kv_heads, head_dim, ty }))
        }
        Mixer::ShortConv(ShortConv { dim, taps }) => Ok(LayerCache::State { floats: (taps - 1) * dim }),
        Mixer::Linear(linear) => Ok(state(linear)),
    };
    let mut layers = config.layers.iter().map(kept).collect::<Result<Vec<_>>>()?;
    layers.extend(config.layers.iter().flat_map(further_states));
    if !config.causal {
        // Nobody reads the keys and values of a layer behind it, so the next one may overwrite them.
        let first = layers[0];
        layers.iter_mut().skip(1).filter(|kept| **kept == first).for_each(|kept| *kept = LayerCache::SharedWith(0));
    }
    let state = CacheSpec { layers, n_blocks, n_slots: 1 };
    let n_slots = match state.state_floats().fold(0, usize::saturating_add) {
        0 => 0,
        floats => (STATE_BYTES / size_of::<f32>() / floats).clamp(MIN_SLOTS, MAX_SLOTS),
    };
    Ok(CacheSpec { n_slots, ..state })
}

/// Blocks that so many bytes hold.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] where that is none.
fn blocks_in(bytes: usize, spec: &CacheSpec) -> Result<usize> {
    let block = spec.bytes_per_token().max(1).saturating_mul(BLOCK);
    if bytes < block {
        let message =
            format!("{bytes} bytes of KV cache hold no text: {BLOCK} tokens of this model take {block}; allow more");
        return Err(Error::invalid_request(message).in_field("kv_memory"));
    }
    Ok(bytes / block)
}

/// What a model will ask of its backend.
fn workload(gguf: &Gguf, config: &ModelConfig, spec: &CacheSpec) -> Workload {
    let mut attention = Vec::new();
    for (layer, kept) in spec.layers.iter().enumerate() {
        let (Some(spec), LayerCache::Paged(shape)) = (config.attention(layer), kept) else { continue };
        if !attention.contains(&(spec.n_heads, *shape)) {
            attention.push((spec.n_heads, *shape));
        }
    }
    Workload { types: types_of(gguf), attention }
}

/// Types of the matrices, that of the embeddings first.
fn types_of(gguf: &Gguf) -> Vec<TensorType> {
    let matrices = gguf.tensors.iter().filter(|t| t.dims.len() > 1);
    gguf.tensor("token_embd.weight").into_iter().chain(matrices).map(|t| t.ty).collect()
}

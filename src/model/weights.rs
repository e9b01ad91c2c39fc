//! The weights of a model.

use super::config::ModelConfig;
use super::embed::{Added, PooledWeights};
use super::layer::LayerWeights;
use super::loader::{Loader, Progress};
use super::per_layer::{PerLayerWeights, TablePlace};
use super::work::Rope;
use crate::backend::{Backend, Buf, NormWeights, Weight};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::source::Source;
use crate::sidecar::Fingerprint;

/// Weights of no layer.
#[derive(Debug)]
pub(super) struct Weights {
    /// Embeddings `[n_vocab, dim]`.
    pub(super) embeddings: Weight,
    /// `[n_vocab, dim]`; the embeddings where the head is tied.
    pub(super) head: Weight,
    /// Whether the head is of floats.
    pub(super) float_head: bool,
    /// `[n_vocab]`.
    pub(super) head_bias: Option<Buf>,
    /// Norm before the head `[dim]`.
    pub(super) norm: NormWeights,
    /// What embeddings of tokens are added to.
    pub(super) added: Added,
    /// What becomes of pooled vectors.
    pub(super) pooled: Vec<PooledWeights>,
    /// Where what layers get of each token besides the stream lies.
    pub(super) table: Option<TablePlace>,
    /// One for each of [`ModelConfig::ropes`].
    pub(super) ropes: Vec<Rope>,
    /// Matrices of layers, and their tensors.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "there nobody watches products"))]
    pub(super) linears: Vec<(Weight, String)>,
    /// Names the model.
    pub(super) fingerprint: Fingerprint,
}

/// What layers get of each token besides the stream; its rows stay in the file.
pub(super) const TABLE: &str = "per_layer_token_embd.weight";

/// Loads the weights that `config` asks for.
pub(super) async fn load(
    gguf: &Gguf,
    sources: &mut [Box<dyn Source>],
    backend: &mut dyn Backend,
    config: &ModelConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Weights, Vec<LayerWeights>)> {
    let mut loader = Loader::new(gguf, sources, backend, progress);
    loader.fingerprint.set_types(gguf);
    loader.layer_norm = config.layer_norm;
    let (dim, n_vocab) = (config.dim, config.n_vocab);
    // There may be more embeddings than tokens; those are not read.
    let rows = loader.info("token_embd.weight").and_then(|info| info.dims.get(1)).map_or(n_vocab, |&n| n as usize);
    let embeddings = loader.rows("token_embd.weight", 0..n_vocab, rows, dim).await?;
    let mut layers = Vec::new();
    let n_layers = config.layers.len() / config.loops;
    for layer in in_file_order(gguf, n_layers) {
        let behind = behind(layer);
        let names = (&*format!("blk.{layer}"), &*behind);
        let mut weights = LayerWeights::load(&mut loader, names, dim, &config.layers[layer]).await?;
        if let Some(width) = config.per_layer {
            weights.per_layer = Some(PerLayerWeights::load(&mut loader, (layer, n_layers), dim, width).await?);
        }
        layers.push((layer, weights));
    }
    layers.sort_by_key(|(layer, _)| *layer);
    let layers: Vec<_> = layers.into_iter().map(|(_, weights)| weights).collect();
    let layers = layers.repeat(config.loops);
    let head = match loader.has("output.weight") {
        true => loader.rows("output.weight", 0..n_vocab, rows, dim).await?,
        false => embeddings,
    };
    let head_info = gguf.tensor("output.weight").or_else(|| gguf.tensor("token_embd.weight"));
    let float_head = head_info.is_some_and(|info| info.ty.is_float());
    let mut ropes = Vec::new();
    for rope in &config.ropes {
        let factors = match rope.factors {
            Some(tensor) => {
                let factors = loader.floats(tensor, rope.dim / 2).await?;
                if factors.iter().any(|&f| !f.is_finite() || f <= 0.0) {
                    return Err(Error::bad_file(format!("tensor {tensor} holds factors that are not above 0")));
                }
                Some(factors)
            }
            None => None,
        };
        let angles = loader.upload(&rope.angles(factors.as_deref()))?;
        ropes.push(Rope { angles, dim: rope.dim, pairs: rope.pairs, magnitude: rope.magnitude });
    }
    let norm = loader.norm(config.last_norm, &behind(n_layers), dim).await?;
    let (added, pooled) = (Added::load(&mut loader, dim).await?, PooledWeights::load(&mut loader, dim).await?);
    let head_bias = match loader.has("output.bias") {
        true => {
            let bias = loader.floats("output.bias", rows).await?;
            Some(loader.upload(&bias[..n_vocab])?)
        }
        false => None,
    };
    let table = match config.per_layer {
        Some(width) => Some(loader.table_place(TABLE, rows, n_layers * width).await?),
        None => None,
    };
    loader.nothing_is_left(n_layers)?;
    loader.finish();
    let (fingerprint, linears) = (loader.fingerprint, loader.linears);
    let weights =
        Weights { embeddings, head, float_head, head_bias, norm, added, pooled, table, ropes, linears, fingerprint };
    Ok((weights, layers))
}

/// The norm behind what comes before a layer, or behind the last one, in models whose norms stand behind.
fn behind(layer: usize) -> String {
    match layer.checked_sub(1) {
        None => "token_embd_norm".to_string(),
        Some(before) => format!("blk.{before}.layer_output_norm"),
    }
}

/// The layers as they lie in the file, which need not be by number (`blk.10` before `blk.2`): a file that is still being
/// downloaded is read as it comes.
fn in_file_order(gguf: &Gguf, n_layers: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = (0..n_layers).collect();
    layers.sort_by_key(|layer| {
        let tensor = |name: &str| gguf.tensor(&format!("blk.{layer}.{name}.weight"));
        tensor("attn_norm").or_else(|| tensor("attn_output")).map(|info| (info.part, info.offset))
    });
    layers
}

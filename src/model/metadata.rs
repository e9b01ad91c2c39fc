//! From GGUF metadata to what a [`ModelConfig`] has in every family alike. Keys are those of ggml's
//! `gguf-py/gguf/constants.py`.

use super::config::{Attention, Dense, Ffn, LayerConfig, Mixer, ModelConfig, QkNorm, RopeConfig, RopeScaling};
use super::{encoders, sound};
use crate::backend::{Activation, RopePairs};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata, TensorInfo, Value};

const FREQS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// Metadata under the architecture's prefix.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'a str,
    /// Context that the caller wants.
    pub(super) context: Option<usize>,
}

impl Keys<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn count(&self, name: &str) -> Result<usize> {
        let key = self.key(name);
        match self.metadata.u32(&key)? {
            0 => Err(Error::bad_file(format!("metadata key {key} is 0"))),
            n => Ok(n as usize),
        }
    }

    /// The same for every layer: one number, or an array of one for each.
    fn counts(&self, name: &str, n_layers: usize, least: usize) -> Result<Vec<usize>> {
        let key = self.key(name);
        self.opt_counts(name, n_layers, least)?.ok_or_else(|| Error::bad_file(format!("metadata key {key} is missing")))
    }

    /// `least` is the smallest number that may stand in an array.
    fn opt_counts(&self, name: &str, n_layers: usize, least: usize) -> Result<Option<Vec<usize>>> {
        let key = self.key(name);
        let Some(Value::Integers(values)) = self.metadata.get(&key) else {
            return Ok(match self.metadata.opt_u32(&key)? {
                Some(0) if least > 0 => return Err(Error::bad_file(format!("metadata key {key} is 0"))),
                count => count.map(|n| vec![n as usize; n_layers]),
            });
        };
        let counts: Vec<usize> =
            values.iter().filter_map(|&n| usize::try_from(n).ok().filter(|&n| n >= least)).collect();
        if values.len() != n_layers || counts.len() != n_layers {
            return Err(Error::bad_file(format!(
                "metadata key {key} should hold a number of {least} or more for each of {n_layers} layers"
            )));
        }
        Ok(Some(counts))
    }

    pub(super) fn opt_count(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.metadata.opt_u32(&self.key(name))?.map(|n| n as usize))
    }

    pub(super) fn opt_f32(&self, name: &str) -> Result<Option<f32>> {
        self.metadata.opt_f32(&self.key(name))
    }

    pub(super) fn opt_bool(&self, name: &str) -> Result<Option<bool>> {
        self.metadata.opt_bool(&self.key(name))
    }
}

/// What the metadata say in every family alike, for the rotary embeddings and the activation of this one.
pub(super) fn common(
    gguf: &Gguf,
    keys: &Keys<'_>,
    (pairs, activation): (RopePairs, Activation),
) -> Result<ModelConfig> {
    let dim = keys.count("embedding_length")?;
    let (layers, head_dim) = layers(gguf, keys, dim, activation)?;
    let embeddings = gguf.tensor("token_embd.weight").and_then(|t| t.dims.get(1));
    let n_embeddings = *embeddings.ok_or_else(|| Error::bad_file("tensor token_embd.weight is missing"))? as usize;
    // Some makers round the number of embeddings up; what has no text is no token.
    let n_tokens = keys.metadata.opt_strings("tokenizer.ggml.tokens")?.map_or(n_embeddings, |tokens| tokens.len());
    let rope_dim = keys.opt_count("rope.dimension_count")?.unwrap_or(head_dim);
    let (norm_eps, layer_norm) = norms(keys)?;
    // Beyond a table of positions there is nothing.
    let positions = gguf.tensor("position_embd.weight").and_then(|t| t.dims.get(1)).map_or(usize::MAX, |&n| n as usize);
    Ok(ModelConfig {
        architecture: keys.architecture.to_string(),
        name: keys.metadata.opt_str("general.name").ok().flatten().unwrap_or(keys.architecture).to_string(),
        n_vocab: n_embeddings.min(n_tokens.max(1)),
        dim,
        context_length: keys.count("context_length")?.min(positions),
        norm_eps,
        layer_norm,
        causal: keys.metadata.opt_bool(&keys.key("attention.causal"))?.unwrap_or(true),
        pooling: encoders::pooling(keys)?,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: 0.0,
        ropes: vec![rope(gguf, keys, pairs, rope_dim)?],
        per_layer: None,
        layers,
        last_norm: "output_norm",
        loops: 1,
    })
}

/// The layers, and the width of their heads; what is special about some is set later.
fn layers(gguf: &Gguf, keys: &Keys<'_>, dim: usize, activation: Activation) -> Result<(Vec<LayerConfig>, usize)> {
    let n_layers = keys.count("block_count")?;
    if n_layers > sound::MAX_LAYERS {
        return Err(sound::absurd(keys.architecture));
    }
    sound::has_no_more_layers(gguf, n_layers)?;
    // 0 where a layer has another mixer.
    let n_heads = keys.counts("attention.head_count", n_layers, 0)?;
    let n_kv_heads = keys.opt_counts("attention.head_count_kv", n_layers, 0)?.unwrap_or_else(|| n_heads.clone());
    // Mixtures of experts need not say how wide another feed-forward would be, and there need be none.
    let ff_dims = match keys.opt_counts("expert_feed_forward_length", n_layers, 0)? {
        Some(of_experts) => keys.opt_counts("feed_forward_length", n_layers, 0)?.unwrap_or(of_experts),
        None => keys.counts("feed_forward_length", n_layers, 0)?,
    };
    let head_dim = keys.opt_count("attention.key_length")?.unwrap_or(dim / n_heads[0].max(1));
    if keys.opt_count("attention.value_length")?.is_some_and(|n| n != head_dim) {
        return Err(Error::unsupported("keys and values of different width are not supported"));
    }
    let (scale, softcap) = (1.0 / (head_dim as f32).sqrt(), 0.0);
    let layer = |i: usize| {
        let (n_heads, n_kv_heads) = (n_heads[i], n_kv_heads[i]);
        let attention = Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            softcap,
            window: None,
            centered: false,
            rope: 0,
            qk_norm: QkNorm::Heads,
            norm_values: false,
            keys_of: None,
            temperature: None,
            sinks: false,
            gated: false,
        };
        let tensor = |name: &str| gguf.tensor(&format!("blk.{i}.{name}.weight"));
        // A gate of its own, or one in front of `up` in the same tensor; only BERT may do without.
        let wide = |up: &TensorInfo| up.dims.get(1) != Some(&(ff_dims[i] as u64));
        let gated = keys.architecture != "bert" || tensor("ffn_gate").is_some() || tensor("ffn_up").is_none_or(wide);
        let dense = Dense { dim: ff_dims[i], activation, gated };
        let (mixer, ffn) = (Mixer::Attention(attention), Ffn::Dense(dense));
        LayerConfig { mixer, beside: None, ffn, pre_norm: true, renorm: false }
    };
    Ok(((0..n_layers).map(layer).collect(), head_dim))
}

/// The epsilon of the norms, and whether they are LayerNorms, which have a key of their own.
fn norms(keys: &Keys<'_>) -> Result<(f32, bool)> {
    match (keys.opt_f32("attention.layer_norm_rms_epsilon")?, keys.opt_f32("attention.layer_norm_epsilon")?) {
        (None, Some(eps)) => Ok((eps, true)),
        _ => Ok((keys.metadata.f32(&keys.key("attention.layer_norm_rms_epsilon"))?, false)),
    }
}

fn rope(gguf: &Gguf, keys: &Keys<'_>, pairs: RopePairs, dim: usize) -> Result<RopeConfig> {
    let trained = keys.count("context_length")?;
    let original = keys.opt_count("rope.scaling.original_context_length")?.unwrap_or(trained);
    let factor = keys.opt_f32("rope.scaling.factor")?.or(keys.opt_f32("rope.scale_linear")?);
    let factor = factor.filter(|&f| f != 0.0).unwrap_or(1.0);
    let mut magnitude = keys.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let kind = keys.metadata.opt_str(&keys.key("rope.scaling.type"))?.unwrap_or("linear");
    let scaling = match kind {
        "none" | "longrope" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear(factor),
        "yarn" => {
            let growth = |share: f32| 1.0 + 0.1 * share * factor.max(1.0).ln();
            magnitude *= growth(1.0) / growth(keys.opt_f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0));
            RopeScaling::Yarn {
                factor,
                original_context: original as f32,
                beta_fast: keys.opt_f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.opt_f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }
        }
        other => return Err(Error::unsupported(format!("rope scaling {other} is not supported"))),
    };
    // LongRoPE has one set of factors up to the original context and another for longer ones; files of its first days do not
    // name it.
    let has = |tensor| gguf.tensor(tensor).is_some();
    let is_long = super::context_length(trained, keys.context) > original;
    let factors = match (has(FREQS), kind == "longrope" || (has(LONG) && has(SHORT))) {
        (true, _) => Some(FREQS),
        (false, true) => Some(if is_long { LONG } else { SHORT }),
        (false, false) => None,
    };
    let base = keys.opt_f32("rope.freq_base")?.unwrap_or(10_000.0);
    Ok(RopeConfig { dim, pairs, base, factors, scaling, magnitude })
}

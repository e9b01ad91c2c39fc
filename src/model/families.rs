//! Which architectures there are: a row each, from GGUF metadata to [`ModelConfig`].
//!
//! Biases, query and key norms, post-norms and tied heads follow from the tensors that a file holds, so a row names only
//! what the tensors cannot tell. Keys are those of ggml's `gguf-py/gguf/constants.py`.

use super::config::{LayerConfig, ModelConfig, RopeConfig, RopeScaling};
use crate::backend::{Activation, RopePairs};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata};

/// One architecture.
struct Family {
    name: &'static str,
    pairs: RopePairs,
    activation: Activation,
    /// Sets what is special.
    adjust: fn(&Keys<'_>, &mut ModelConfig) -> Result<()>,
}

const FAMILIES: &[Family] = &[
    Family { name: "llama", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: plain },
    Family { name: "mistral3", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: plain },
    Family { name: "qwen2", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: plain },
    Family { name: "qwen3", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: plain },
    Family { name: "gemma", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma },
    Family { name: "gemma2", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma2 },
    Family { name: "gemma3", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma3 },
    Family { name: "phi3", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: phi3 },
    Family { name: "granite", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: granite },
    Family { name: "smollm3", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: smollm3 },
];

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    /// Context that the caller wants.
    context: Option<usize>,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }
    fn count(&self, name: &str) -> Result<usize> {
        let key = self.key(name);
        match self.metadata.u32(&key)? {
            0 => Err(Error::bad_file(format!("metadata key {key} is 0"))),
            n => Ok(n as usize),
        }
    }
    fn opt_count(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.metadata.opt_u32(&self.key(name))?.map(|n| n as usize))
    }
    fn opt_f32(&self, name: &str) -> Result<Option<f32>> {
        self.metadata.opt_f32(&self.key(name))
    }
}

/// Makes the config of a model; `context` is the context length that the caller wants (LongRoPE depends on it).
///
/// # Errors
/// [`crate::Kind::Unsupported`] for unknown architectures, [`crate::Kind::BadFile`] for missing or absurd values.
pub fn config(gguf: &Gguf, context: Option<usize>) -> Result<ModelConfig> {
    let metadata = &gguf.metadata;
    let architecture = metadata.str("general.architecture")?;
    let Some(family) = FAMILIES.iter().find(|f| f.name == architecture) else {
        let known: Vec<_> = FAMILIES.iter().map(|f| f.name).collect();
        return Err(Error::unsupported(format!(
            "architecture {architecture} is not supported; Foreword knows {}",
            known.join(", ")
        )));
    };
    let keys = Keys { metadata, architecture, context };
    let mut config = common(gguf, &keys, family)?;
    (family.adjust)(&keys, &mut config)?;
    check(&config)?;
    Ok(config)
}

fn common(gguf: &Gguf, keys: &Keys<'_>, family: &Family) -> Result<ModelConfig> {
    let (dim, n_heads, n_layers) =
        (keys.count("embedding_length")?, keys.count("attention.head_count")?, keys.count("block_count")?);
    if n_layers > MAX_LAYERS {
        return Err(absurd(keys.architecture));
    }
    let head_dim = keys.opt_count("attention.key_length")?.unwrap_or(dim / n_heads);
    if keys.opt_count("attention.value_length")?.is_some_and(|n| n != head_dim) {
        return Err(Error::unsupported("keys and values of different width are not supported"));
    }
    let embeddings = gguf.tensor("token_embd.weight").and_then(|t| t.dims.get(1));
    let n_vocab = *embeddings.ok_or_else(|| Error::bad_file("tensor token_embd.weight is missing"))? as usize;
    let rope_dim = keys.opt_count("rope.dimension_count")?.unwrap_or(head_dim);
    let base = keys.opt_f32("rope.freq_base")?.unwrap_or(10_000.0);
    let scaling = scaling(gguf, keys)?;
    Ok(ModelConfig {
        architecture: keys.architecture.to_string(),
        name: keys.metadata.opt_str("general.name")?.unwrap_or(keys.architecture).to_string(),
        n_vocab,
        dim,
        ff_dim: keys.count("feed_forward_length")?,
        n_heads,
        n_kv_heads: keys.opt_count("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        context_length: keys.count("context_length")?,
        norm_eps: keys.metadata.f32(&keys.key("attention.layer_norm_rms_epsilon"))?,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: keys.opt_f32("final_logit_softcapping")?.unwrap_or(0.0),
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attention_softcap: keys.opt_f32("attn_logit_softcapping")?.unwrap_or(0.0),
        activation: family.activation,
        rope_pairs: family.pairs,
        rope_dim,
        ropes: vec![RopeConfig { base, scaling }],
        layers: vec![LayerConfig { window: None, rope: 0 }; n_layers],
    })
}

fn scaling(gguf: &Gguf, keys: &Keys<'_>) -> Result<RopeScaling> {
    if gguf.tensor("rope_freqs.weight").is_some() {
        return Ok(RopeScaling::Factors { tensor: "rope_freqs.weight", attention_factor: 1.0 });
    }
    let factor = keys.opt_f32("rope.scaling.factor")?.or(keys.opt_f32("rope.scale_linear")?).unwrap_or(1.0);
    let attention_factor = keys.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = keys.opt_count("rope.scaling.original_context_length")?;
    match keys.metadata.opt_str(&keys.key("rope.scaling.type"))?.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 || factor == 0.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear(factor)),
        "yarn" => Ok(RopeScaling::Yarn {
            factor,
            original_context: original.unwrap_or(keys.count("context_length")?) as f32,
            attention_factor,
            beta_fast: keys.opt_f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.opt_f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        }),
        // LongRoPE has one set of factors up to the original context and another for longer ones.
        "longrope" => {
            let context = keys.context.unwrap_or(keys.count("context_length")?);
            let long = original.is_some_and(|original| context > original);
            let tensor = if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
            Ok(RopeScaling::Factors { tensor, attention_factor })
        }
        other => Err(Error::unsupported(format!("rope scaling {other} is not supported"))),
    }
}

/// Far beyond any real model.
const MAX_LAYERS: usize = 1 << 12;
/// Far beyond the width, vocabulary and context of any real model.
const MAX_SIZE: usize = 1 << 24;

fn absurd(architecture: &str) -> Error {
    Error::bad_file(format!("{architecture}: sizes beyond any real model: the file is damaged"))
}

/// Rejects what would make the forward pass index out of bounds or divide by zero.
fn check(config: &ModelConfig) -> Result<()> {
    let bad = |what: &str| Err(Error::bad_file(format!("{}: {what}", config.architecture)));
    if !config.n_heads.is_multiple_of(config.n_kv_heads.max(1)) || config.n_kv_heads == 0 {
        return bad(&format!("{} query heads cannot share {} key heads", config.n_heads, config.n_kv_heads));
    }
    if config.head_dim == 0 || config.rope_dim > config.head_dim || !config.rope_dim.is_multiple_of(2) {
        return bad(&format!("{} rotated dimensions of a head of {}", config.rope_dim, config.head_dim));
    }
    let heads = config.n_heads.saturating_mul(config.head_dim);
    if [config.dim, config.ff_dim, config.n_vocab, config.context_length, heads].iter().any(|&n| n > MAX_SIZE) {
        return Err(absurd(&config.architecture));
    }
    Ok(())
}

fn plain(_: &Keys<'_>, _: &mut ModelConfig) -> Result<()> {
    Ok(())
}

fn gemma(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.embed_scale = (config.dim as f32).sqrt();
    Ok(())
}

/// Every layer but each `pattern`-th sees a window only.
fn windows(keys: &Keys<'_>, config: &mut ModelConfig, pattern: usize, rope: usize) -> Result<()> {
    let Some(window) = keys.opt_count("attention.sliding_window")?.filter(|&w| w > 0) else { return Ok(()) };
    for (i, layer) in config.layers.iter_mut().enumerate() {
        if (i + 1) % pattern != 0 {
            *layer = LayerConfig { window: Some(window as u32), rope };
        }
    }
    Ok(())
}

/// The largest models scale by the width of the stream, not of a head; as the key is not in the files, llama.cpp tells them
/// by their number of layers, and so does this.
fn wide_heads(config: &mut ModelConfig, n_layers: usize) {
    if config.layers.len() == n_layers {
        config.attention_scale = 1.0 / (config.dim as f32 / config.n_heads as f32).sqrt();
    }
}

fn gemma2(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    wide_heads(config, 46);
    windows(keys, config, 2, 0)?;
    gemma(keys, config)
}

fn gemma3(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let base = keys.opt_f32("rope.freq_base_swa")?.or(keys.opt_f32("rope.local.freq_base")?).unwrap_or(10_000.0);
    config.ropes.push(RopeConfig { base, scaling: RopeScaling::None });
    wide_heads(config, 62);
    windows(keys, config, 6, 1)?;
    gemma(keys, config)
}

fn phi3(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    windows(keys, config, usize::MAX, 0)
}

fn granite(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.embed_scale = keys.opt_f32("embedding_scale")?.unwrap_or(1.0);
    config.residual_scale = keys.opt_f32("residual_scale")?.unwrap_or(1.0);
    config.attention_scale = keys.opt_f32("attention.scale")?.unwrap_or(config.attention_scale);
    // The file holds the divisor.
    config.logit_scale = 1.0 / keys.opt_f32("logit_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
    Ok(())
}

/// Every fourth layer has no rotary embedding.
fn smollm3(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.ropes.push(RopeConfig { base: 1.0, scaling: RopeScaling::NoRotation });
    for layer in config.layers.iter_mut().skip(3).step_by(4) {
        layer.rope = 1;
    }
    Ok(())
}

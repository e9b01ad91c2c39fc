//! Which architectures there are: a row each, from GGUF metadata to [`ModelConfig`].
//!
//! Biases, query and key norms, post-norms and tied heads follow from the tensors that a file holds, so a row names only
//! what the tensors cannot tell.

use super::config::{Attention, Dense, Experts, Ffn, LayerConfig, Mixer, ModelConfig, QkNorm, RopeConfig, RopeScaling};
use super::metadata::{self, Keys};
use super::{encoders, hybrids, sound};
use crate::backend::{Activation, RopePairs, Scores, Temperature};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Value};

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
    Family { name: "mistral3", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: mistral3 },
    Family { name: "qwen2", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: plain },
    Family { name: "qwen3", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: plain },
    Family { name: "gemma", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma },
    Family { name: "gemma2", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma2 },
    Family { name: "gemma3", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma3 },
    Family { name: "gemma4", pairs: RopePairs::Halves, activation: Activation::GeluTanh, adjust: gemma4 },
    Family { name: "phi3", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: phi3 },
    Family { name: "granite", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: granite },
    Family { name: "smollm3", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: smollm3 },
    Family { name: "exaone4", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: exaone4 },
    Family { name: "olmo2", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: olmo2 },
    Family { name: "ernie4_5", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: plain },
    Family { name: "hunyuan-dense", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hunyuan },
    Family { name: "minicpm", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: minicpm },
    Family { name: "nanbeige", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: nanbeige },
    Family { name: "lfm2", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::lfm2 },
    Family { name: "lfm2moe", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::lfm2moe },
    Family { name: "qwen35moe", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::qwen35moe },
    Family {
        name: "granitehybrid",
        pairs: RopePairs::Adjacent,
        activation: Activation::Silu,
        adjust: hybrids::granitehybrid,
    },
    Family { name: "mamba2", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::mamba2 },
    Family { name: "falcon-h1", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::falcon_h1 },
    Family { name: "qwen35", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: hybrids::qwen35 },
    Family { name: "qwen3moe", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: qwen3moe },
    Family { name: "olmoe", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: olmoe },
    Family { name: "granitemoe", pairs: RopePairs::Adjacent, activation: Activation::Silu, adjust: granitemoe },
    Family { name: "gpt-oss", pairs: RopePairs::Halves, activation: Activation::ClampedSwish, adjust: gpt_oss },
    // GELU is the exact one, as the makers compute it; llama.cpp takes the tanh approximation.
    Family { name: "bert", pairs: RopePairs::Halves, activation: Activation::Gelu, adjust: encoders::bert },
    Family { name: "nomic-bert", pairs: RopePairs::Halves, activation: Activation::Silu, adjust: encoders::encoder },
    Family {
        name: "modern-bert",
        pairs: RopePairs::Halves,
        activation: Activation::Gelu,
        adjust: encoders::modern_bert,
    },
    Family {
        name: "gemma-embedding",
        pairs: RopePairs::Halves,
        activation: Activation::GeluTanh,
        adjust: encoders::gemma_embedding,
    },
];

/// Makes the config of a model; `context` is the context length that the caller wants (LongRoPE depends on it).
///
/// # Errors
/// [`crate::Kind::Unsupported`] for unknown architectures, [`crate::Kind::BadFile`] for missing or absurd values.
pub fn config(gguf: &Gguf, context: Option<usize>) -> Result<ModelConfig> {
    let architecture = gguf.metadata.str("general.architecture")?;
    let Some(family) = FAMILIES.iter().find(|f| f.name == architecture) else {
        let known: Vec<_> = FAMILIES.iter().map(|f| f.name).collect();
        return Err(Error::unsupported(format!(
            "architecture {architecture} is not supported; Foreword knows {}",
            known.join(", ")
        )));
    };
    sound::is_model(gguf)?;
    let keys = Keys { metadata: &gguf.metadata, architecture, context };
    let mut config = metadata::common(gguf, &keys, (family.pairs, family.activation))?;
    (family.adjust)(&keys, &mut config)?;
    sound::has_no_other_experts(gguf, &config)?;
    sound::sees_ahead(&config)?;
    sound::sizes(&config)?;
    sound::constants(&config)?;
    Ok(config)
}

fn plain(_: &Keys<'_>, _: &mut ModelConfig) -> Result<()> {
    Ok(())
}

fn gemma(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.embed_scale = (config.dim as f32).sqrt();
    Ok(())
}

/// The attention of each layer that has one.
pub(super) fn attentions(config: &mut ModelConfig) -> impl Iterator<Item = &mut Attention> {
    config.layers.iter_mut().filter_map(attention)
}

pub(super) fn attention(layer: &mut LayerConfig) -> Option<&mut Attention> {
    match &mut layer.mixer {
        Mixer::Attention(attention) => Some(attention),
        Mixer::ShortConv(_) | Mixer::Linear(_) => None,
    }
}

/// Adds a rotary embedding like the first one, but not stretched, and for this base; returns its index.
pub(super) fn add_rope(config: &mut ModelConfig, base: f32, scaling: RopeScaling) -> usize {
    config.ropes.push(RopeConfig { base, scaling, factors: None, magnitude: 1.0, ..config.ropes[0] });
    config.ropes.len() - 1
}

/// Layers see a window only: all but each `period`-th, or those that the file names. The window is what the file says, else
/// `default`; without either there is none.
pub(super) fn windows(keys: &Keys<'_>, config: &mut ModelConfig, default: usize, period: usize) -> Result<()> {
    let window = keys.opt_count("attention.sliding_window")?.unwrap_or(default);
    if window == 0 {
        return Ok(());
    }
    let (key, n_layers) = (keys.key("attention.sliding_window_pattern"), config.layers.len());
    let periodic = |period: usize| (1..=n_layers).map(|i| period == 0 || !i.is_multiple_of(period)).collect();
    let pattern: Vec<bool> = match keys.metadata.get(&key) {
        Some(Value::Bools(pattern)) => pattern.clone(),
        Some(Value::Integers(pattern)) => pattern.iter().map(|&is_windowed| is_windowed != 0).collect(),
        _ => periodic(keys.metadata.opt_u32(&key)?.map_or(period, |period| period as usize)),
    };
    if pattern.len() != n_layers {
        return Err(Error::bad_file(format!("metadata key {key} should hold one for each of {n_layers} layers")));
    }
    let windowed = config.layers.iter_mut().zip(pattern).filter(|(_, is_windowed)| *is_windowed);
    windowed.filter_map(|(layer, _)| attention(layer)).for_each(|attention| attention.window = Some(window as u32));
    Ok(())
}

/// Gives a rotary embedding to the layers with a window, or to those without.
fn set_rope(config: &mut ModelConfig, with_window: bool, rope: usize) {
    attentions(config).filter(|a| a.window.is_some() == with_window).for_each(|a| a.rope = rope);
}

/// The largest models scale by the width of the stream, not of a head; as the key is not in the files, llama.cpp tells them
/// by their number of layers, and so does this.
fn wide_heads(config: &mut ModelConfig, n_layers: usize) {
    if config.layers.len() == n_layers {
        let dim = config.dim as f32;
        attentions(config).for_each(|a| a.scale = 1.0 / (dim / a.n_heads as f32).sqrt());
    }
}

fn gemma2(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    wide_heads(config, 46);
    // Files of its first days have neither window nor caps.
    windows(keys, config, 4096, 2)?;
    let softcap = keys.opt_f32("attn_logit_softcapping")?.unwrap_or(50.0);
    attentions(config).for_each(|a| a.softcap = softcap);
    config.logit_softcap = keys.opt_f32("final_logit_softcapping")?.unwrap_or(30.0);
    gemma(keys, config)
}

pub(super) fn gemma3(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let base = keys.opt_f32("rope.freq_base_swa")?.or(keys.opt_f32("rope.local.freq_base")?).unwrap_or(10_000.0);
    let rope = add_rope(config, base, RopeScaling::None);
    wide_heads(config, 62);
    windows(keys, config, 0, 6)?;
    set_rope(config, true, rope);
    config.logit_softcap = keys.opt_f32("final_logit_softcapping")?.unwrap_or(0.0);
    gemma(keys, config)
}

/// Layers with a window have heads of another width; the last ones use the keys and values of the last layers of their kind before.
fn gemma4(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    windows(keys, config, 0, 6)?;
    let full = attentions(config).next().map_or(0, |a| a.head_dim);
    let width = keys.opt_count("attention.key_length_swa")?.unwrap_or(full);
    if keys.opt_count("attention.value_length_swa")?.is_some_and(|n| n != width) {
        return Err(Error::unsupported("keys and values of different width are not supported"));
    }
    let rope = add_rope(config, keys.opt_f32("rope.freq_base_swa")?.unwrap_or(10_000.0), RopeScaling::None);
    config.ropes[rope].dim = keys.opt_count("rope.dimension_count_swa")?.unwrap_or(width);
    set_rope(config, true, rope);
    attentions(config).for_each(|a| (a.scale, a.norm_values) = (1.0, true));
    attentions(config).filter(|a| a.window.is_some()).for_each(|a| a.head_dim = width);
    let n_own = config.layers.len().saturating_sub(keys.opt_count("attention.shared_kv_layers")?.unwrap_or(0));
    let own: Vec<Attention> = attentions(config).take(n_own).map(|a| *a).collect();
    for a in attentions(config).skip(n_own) {
        let same = |of: &Attention| (of.window, of.n_kv_heads, of.head_dim) == (a.window, a.n_kv_heads, a.head_dim);
        a.keys_of = own.iter().rposition(same);
        if a.keys_of.is_none() {
            return Err(Error::bad_file("a layer is to use the keys of one before it, and there is none of its kind"));
        }
    }
    config.per_layer = keys.opt_count("embedding_length_per_layer_input")?.filter(|&n| n > 0);
    config.logit_softcap = keys.opt_f32("final_logit_softcapping")?.unwrap_or(0.0);
    gemma(keys, config)
}

fn phi3(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    windows(keys, config, 0, 0)
}

fn mistral3(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let Some(scale) = keys.opt_f32("attention.temperature_scale")?.filter(|&s| s != 0.0) else { return Ok(()) };
    let original = keys.opt_count("rope.scaling.original_context_length")?.filter(|&n| n > 0);
    let original = original.unwrap_or(config.context_length);
    let temperature = Temperature { scale, length: original as u32 };
    attentions(config).for_each(|a| a.temperature = Some(temperature));
    Ok(())
}

/// Factors on embeddings and on what blocks add, and the divisor of the logits.
fn scales(keys: &Keys<'_>, config: &mut ModelConfig, [embed, residual, divisor]: [f32; 3]) -> Result<()> {
    config.embed_scale = keys.opt_f32("embedding_scale")?.unwrap_or(embed);
    config.residual_scale = keys.opt_f32("residual_scale")?.unwrap_or(residual);
    config.logit_scale = 1.0 / keys.opt_f32("logit_scale")?.filter(|&s| s != 0.0).unwrap_or(divisor);
    Ok(())
}

/// Layers behind the first dense ones are mixtures of experts, chosen by the softmax where the file does not say another thing.
pub(super) fn experts(keys: &Keys<'_>, config: &mut ModelConfig, normalized: bool) -> Result<()> {
    let unsupported = |what: String| Err(Error::unsupported(format!("{}: {what}", keys.architecture)));
    if keys.opt_count("expert_group_count")?.is_some_and(|n| n > 1) {
        return unsupported("experts that are chosen by groups are not supported".into());
    }
    let (scores, normalized) = match keys.opt_count("expert_gating_func")? {
        None | Some(0 | 1) => (Scores::Softmax, keys.opt_bool("expert_weights_norm")?.unwrap_or(normalized)),
        Some(2) => (Scores::Sigmoid, keys.opt_bool("expert_weights_norm")?.unwrap_or(normalized)),
        // The softmax over those that are used.
        Some(3) => (Scores::Softmax, true),
        Some(other) => return unsupported(format!("the way to choose experts number {other} is not supported")),
    };
    let (n, used) = (keys.count("expert_count")?, keys.count("expert_used_count")?);
    let width = keys.opt_count("expert_feed_forward_length")?.filter(|&dim| dim > 0);
    let shared = keys.opt_count("expert_shared_feed_forward_length")?.filter(|&dim| dim > 0);
    let scale = keys.opt_f32("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
    let n_dense = keys.opt_count("leading_dense_block_count")?.unwrap_or(0);
    for layer in config.layers.iter_mut().skip(n_dense) {
        if let Ffn::Dense(Dense { dim, activation, .. }) = layer.ffn {
            let dim = width.unwrap_or(dim);
            layer.ffn = Ffn::Experts(Experts { n, used, dim, activation, scores, normalized, scale, shared });
        }
    }
    Ok(())
}

fn qwen3moe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    experts(keys, config, true)
}

fn olmoe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    attentions(config).for_each(|a| a.qk_norm = QkNorm::Whole);
    experts(keys, config, false)
}

fn granitemoe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    experts(keys, config, true)?;
    granite(keys, config)
}

/// Every second layer has a window, the first one among them; all have sinks.
fn gpt_oss(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    windows(keys, config, 0, 2)?;
    attentions(config).for_each(|a| a.sinks = true);
    experts(keys, config, true)
}

pub(super) fn granite(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    if let Some(scale) = keys.opt_f32("attention.scale")?.filter(|&s| s != 0.0) {
        attentions(config).for_each(|a| a.scale = scale);
    }
    // Elsewhere the key only says how a model came to its context.
    if keys.opt_bool("rope.scaling.finetuned")? == Some(false) {
        let rope = add_rope(config, 1.0, RopeScaling::NoRotation);
        set_rope(config, false, rope);
    }
    scales(keys, config, [1.0; 3])
}

/// Files of its first days have no scales.
fn minicpm(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let (n_layers, dim) = (config.layers.len() as f32, config.dim as f32);
    scales(keys, config, [12.0, 1.4 / n_layers.sqrt(), dim / 256.0])
}

/// Every fourth layer has no rotary embedding.
fn smollm3(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let rope = add_rope(config, 1.0, RopeScaling::NoRotation);
    attentions(config).skip(3).step_by(4).for_each(|a| a.rope = rope);
    Ok(())
}

/// The largest one has windows, and no rotary embedding where there is none.
fn exaone4(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.layers.iter_mut().for_each(|layer| layer.pre_norm = false);
    windows(keys, config, 0, 4)?;
    if attentions(config).any(|a| a.window.is_some()) {
        let rope = add_rope(config, 1.0, RopeScaling::NoRotation);
        set_rope(config, false, rope);
    }
    Ok(())
}

/// OLMo 2 and 3; the latter has windows, in which positions are not stretched.
fn olmo2(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.layers.iter_mut().for_each(|layer| layer.pre_norm = false);
    attentions(config).for_each(|a| a.qk_norm = QkNorm::Whole);
    windows(keys, config, 0, 4)?;
    let base = keys.opt_f32("rope.freq_base_swa")?.unwrap_or(config.ropes[0].base);
    let rope = add_rope(config, base, RopeScaling::None);
    set_rope(config, true, rope);
    Ok(())
}

fn hunyuan(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    attentions(config).for_each(|a| a.qk_norm = QkNorm::Rotated);
    Ok(())
}

/// All layers are run several times.
fn nanbeige(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.loops = keys.opt_count("num_loops")?.unwrap_or(1);
    if config.loops == 0 || config.layers.len().saturating_mul(config.loops) > sound::MAX_LAYERS {
        return Err(sound::absurd(keys.architecture));
    }
    let mut layers = config.layers.repeat(config.loops);
    let is_normed = !keys.opt_bool("skip_loop_final_norm")?.unwrap_or(false);
    layers.chunks_mut(config.layers.len()).rev().skip(1).for_each(|run| run[run.len() - 1].renorm = is_normed);
    config.layers = layers;
    Ok(())
}

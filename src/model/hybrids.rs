//! Families of which some layers keep states.

use super::config::{Ffn, LinearAttention, LinearKind, Mixer, ModelConfig, ShortConv};
use super::families::{attention, experts, granite, windows};
use super::metadata::Keys;
use super::sound::absurd;
use crate::backend::MAX_TAPS;
use crate::error::{Error, Result};
use crate::gguf::Value;

/// Layers without key heads have a short convolution.
pub(super) fn lfm2(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let taps = keys.count("shortconv.l_cache")?;
    if !(2..=MAX_TAPS).contains(&taps) {
        return Err(Error::unsupported(format!("convolutions of {taps} tokens; 2 to {MAX_TAPS} are supported")));
    }
    let conv = Mixer::ShortConv(ShortConv { dim: config.dim, taps });
    for layer in &mut config.layers {
        if attention(layer).is_some_and(|attention| attention.n_kv_heads == 0) {
            layer.mixer = conv;
        }
    }
    // The file has it under the name of a norm behind the embeddings.
    config.last_norm = "token_embd_norm";
    windows(keys, config, 0, 0)
}

pub(super) fn lfm2moe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    lfm2(keys, config)?;
    experts(keys, config, true)
}

pub(super) fn qwen35moe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    qwen35(keys, config)?;
    experts(keys, config, true)
}

/// Layers without key heads are Mamba-2's; the larger ones are mixtures of experts.
pub(super) fn granitehybrid(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    granite(keys, config)?;
    let linear = Mixer::Linear(linear(keys, LinearKind::Mamba2)?);
    for layer in &mut config.layers {
        if attention(layer).is_some_and(|attention| attention.n_kv_heads == 0) {
            layer.mixer = linear;
        }
    }
    match keys.opt_count("expert_count")? {
        None | Some(0) => Ok(()),
        Some(_) => experts(keys, config, true),
    }
}

/// Every layer has attention and Mamba-2 side by side.
pub(super) fn falcon_h1(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let linear = linear(keys, LinearKind::Mamba2)?;
    config.layers.iter_mut().for_each(|layer| layer.beside = Some(linear));
    Ok(())
}

/// Every layer is a mixer alone.
pub(super) fn mamba2(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let mixer = Mixer::Linear(linear(keys, LinearKind::Mamba2)?);
    config.layers.iter_mut().for_each(|layer| (layer.mixer, layer.ffn) = (mixer, Ffn::None));
    Ok(())
}

fn linear(keys: &Keys<'_>, kind: LinearKind) -> Result<LinearAttention> {
    let (n_heads, values) = (keys.count("ssm.time_step_rank")?, keys.count("ssm.inner_size")?);
    if !values.is_multiple_of(n_heads) {
        return Err(Error::bad_file(format!("{n_heads} heads cannot share {values} values")));
    }
    Ok(LinearAttention {
        n_key_heads: keys.count("ssm.group_count")?,
        key_dim: keys.count("ssm.state_size")?,
        n_heads,
        head_dim: values / n_heads,
        taps: keys.count("ssm.conv_kernel")?,
        kind,
    })
}

/// Every fourth layer attends to all tokens, or those that the file names; the others are gated DeltaNets. Layers at the end that
/// foretell further tokens are not run.
pub(super) fn qwen35(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let (n_layers, key) = (config.layers.len(), keys.key("attention.recurrent_layers"));
    let interval = keys.opt_count("full_attention_interval")?.unwrap_or(4).max(1);
    let recurrent: Vec<bool> = match keys.metadata.get(&key) {
        Some(Value::Bools(recurrent)) if recurrent.len() == n_layers => recurrent.clone(),
        Some(_) => {
            return Err(Error::bad_file(format!("metadata key {key} should hold one for each of {n_layers} layers")));
        }
        None => (1..=n_layers).map(|i| !i.is_multiple_of(interval)).collect(),
    };
    let linear = Mixer::Linear(linear(keys, LinearKind::DeltaNet)?);
    for (layer, recurrent) in config.layers.iter_mut().zip(recurrent) {
        match attention(layer) {
            Some(_) if recurrent => layer.mixer = linear,
            Some(attention) if attention.head_dim.is_multiple_of(16) => attention.gated = true,
            _ => return Err(Error::unsupported("heads with gates that are not multiples of 16 values wide")),
        }
    }
    let foretelling = keys.opt_count("nextn_predict_layers")?.unwrap_or(0);
    if foretelling >= n_layers {
        return Err(absurd(keys.architecture));
    }
    config.layers.truncate(n_layers - foretelling);
    Ok(())
}

//! What rows of [`super::families`] say of encoders: models in which a token sees the whole text.

use super::config::{ModelConfig, Pooling, RopeScaling};
use super::families::{add_rope, attentions, gemma3};
use super::metadata::Keys;
use crate::error::{Error, Result};

/// How a file says that its vectors are pooled.
pub(super) fn pooling(keys: &Keys<'_>) -> Result<Option<Pooling>> {
    match keys.opt_count("pooling_type")? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::First)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(4) => Ok(Some(Pooling::Rank)),
        Some(other) => Err(Error::unsupported(format!("pooling of type {other} is not supported"))),
    }
}

/// Positions come from a table (BERT, RoBERTa).
pub(super) fn bert(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.ropes[0].scaling = RopeScaling::NoRotation;
    encoder(keys, config)
}

pub(super) fn encoder(_: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.causal = false;
    Ok(())
}

/// Every third layer sees all, the first one among them.
pub(super) fn modern_bert(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let base = keys.opt_f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let rope = add_rope(config, base, RopeScaling::None);
    if let Some(window) = keys.opt_count("attention.sliding_window")?.filter(|&w| w > 0) {
        for (_, attention) in attentions(config).enumerate().filter(|(i, _)| i % 3 != 0) {
            (attention.window, attention.rope, attention.centered) = (Some(window as u32), rope, true);
        }
    }
    encoder(keys, config)
}

pub(super) fn gemma_embedding(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    gemma3(keys, config)?;
    attentions(config).for_each(|attention| attention.centered = true);
    encoder(keys, config)
}

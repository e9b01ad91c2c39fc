//! What is refused because answers of it would only look like answers: files that are no whole model, sizes and
//! constants that no model has, logits that are not numbers.

use super::config::{
    Attention, Dense, Experts, Ffn, LayerConfig, LinearAttention, Mixer, ModelConfig, RopeConfig, RopeScaling,
};
use crate::backend::{MAX_EXPERTS, MAX_KEY_DIM, MAX_TAPS};
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// Far beyond any real model.
pub(super) const MAX_LAYERS: usize = 1 << 12;
/// Far beyond the width, vocabulary and context of any real model.
const MAX_SIZE: usize = 1 << 24;

/// Refuses what the name of an architecture does not tell: parts of models.
pub(super) fn is_model(gguf: &Gguf) -> Result<()> {
    match gguf.metadata.opt_str("general.type") {
        Ok(Some(what)) if ["adapter", "imatrix", "mmproj", "vocab"].contains(&what) => {
            Err(Error::unsupported(format!("this file is of the type {what:?}, not a model")))
        }
        _ => Ok(()),
    }
}

/// Refuses mixtures of experts in families that are not known to be any.
pub(super) fn has_no_other_experts(gguf: &Gguf, config: &ModelConfig) -> Result<()> {
    if config.layers.iter().any(|layer| matches!(layer.ffn, Ffn::Experts(_))) {
        return Ok(());
    }
    let architecture = &config.architecture;
    let experts = gguf.metadata.opt_u32(&format!("{architecture}.expert_count"))?.unwrap_or(0);
    let tensor = gguf.tensors.iter().find(|t| t.name.contains("_exps.") || t.name.contains(".ffn_gate_inp."));
    let unsupported = |what: String| Err(Error::unsupported(format!("{architecture} as a mixture of {what}")));
    match (experts, tensor) {
        (0 | 1, None) => Ok(()),
        (0, Some(t)) => unsupported(format!("experts ({}) is not supported", t.name)),
        _ => unsupported(format!("{experts} experts is not supported")),
    }
}

/// Refuses encoders whose layers keep states: these know nothing of what comes next.
pub(super) fn sees_ahead(config: &ModelConfig) -> Result<()> {
    let keeps_state = |layer: &LayerConfig| layer.beside.is_some() || !matches!(layer.mixer, Mixer::Attention(_));
    match !config.causal && config.layers.iter().any(keeps_state) {
        true => {
            Err(Error::unsupported(format!("{} as an encoder, whose tokens see what comes next", config.architecture)))
        }
        false => Ok(()),
    }
}

/// Refuses layers that the metadata do not count.
pub(super) fn has_no_more_layers(gguf: &Gguf, n_layers: usize) -> Result<()> {
    match gguf.tensors.iter().find(|t| layer_of(&t.name).is_some_and(|n| n >= n_layers)) {
        Some(t) => Err(Error::bad_file(format!("block_count is {n_layers}, but there is a tensor {}", t.name))),
        None => Ok(()),
    }
}

pub(super) fn absurd(architecture: &str) -> Error {
    Error::bad_file(format!("{architecture}: sizes beyond any real model: the file is damaged"))
}

/// Rejects what would make the forward pass index out of bounds or divide by zero.
pub(super) fn sizes(config: &ModelConfig) -> Result<()> {
    let bad = |what: &str| Err(Error::bad_file(format!("{}: {what}", config.architecture)));
    let per_layer = config.per_layer.unwrap_or(0).saturating_mul(config.layers.len());
    let mut sizes = vec![config.dim, config.n_vocab, config.context_length, per_layer];
    // Also of those that no layer uses.
    sizes.extend(config.ropes.iter().map(|rope| rope.dim));
    for (i, LayerConfig { mixer, beside, ffn, .. }) in config.layers.iter().enumerate() {
        match ffn {
            Ffn::None => {}
            Ffn::Dense(Dense { dim: 0, .. }) => return bad("a feed-forward of no width"),
            Ffn::Dense(dense) => sizes.push(dense.dim),
            Ffn::Experts(experts) => {
                let Experts { n, used, dim, shared, .. } = *experts;
                if used == 0 || used > n || n > MAX_EXPERTS {
                    return bad(&format!("{used} experts of {n} cannot be used (of {MAX_EXPERTS} at most)"));
                }
                sizes.extend([dim, shared.unwrap_or(0)]);
            }
        }
        let linear = if let Mixer::Linear(linear) = mixer { Some(linear) } else { beside.as_ref() };
        if let Some(&LinearAttention { n_key_heads, key_dim, n_heads, head_dim, taps, .. }) = linear {
            if !n_heads.is_multiple_of(n_key_heads) || key_dim > MAX_KEY_DIM || !(2..=MAX_TAPS).contains(&taps) {
                return bad(&format!(
                    "{n_heads} heads on {n_key_heads} keys of {key_dim} values, behind {taps} tokens, are not supported"
                ));
            }
            let state = n_heads.saturating_mul(head_dim).saturating_mul(key_dim);
            sizes.extend([n_key_heads.saturating_mul(key_dim), state]);
        }
        let Some(&Attention { n_heads, n_kv_heads, head_dim, rope, .. }) = config.attention(i) else { continue };
        if !n_heads.is_multiple_of(n_kv_heads.max(1)) || n_kv_heads == 0 || n_heads == 0 {
            return bad(&format!("{n_heads} query heads cannot share {n_kv_heads} key heads"));
        }
        let rope_dim = config.ropes[rope].dim;
        if head_dim == 0 || rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            return bad(&format!("{rope_dim} rotated dimensions of a head of {head_dim}"));
        }
        sizes.push(n_heads.saturating_mul(head_dim));
    }
    match sizes.iter().any(|&n| n > MAX_SIZE) {
        true => Err(absurd(&config.architecture)),
        false => Ok(()),
    }
}

/// The layer of a tensor, if it is one's.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Refuses constants that are zero, negative, or beyond what any model has.
pub(super) fn constants(config: &ModelConfig) -> Result<()> {
    let bad = |what: &str| Err(Error::bad_file(format!("{}: {what}", config.architecture)));
    if !(0.0..1.0).contains(&config.norm_eps) {
        return bad(&format!("norms with an epsilon of {}", config.norm_eps));
    }
    let attentions = (0..config.layers.len()).filter_map(|layer| config.attention(layer));
    let of_experts = config.layers.iter().filter_map(|layer| match &layer.ffn {
        Ffn::Experts(experts) => Some(experts.scale),
        Ffn::Dense(_) | Ffn::None => None,
    });
    let scales = [config.embed_scale, config.residual_scale, config.logit_scale].into_iter().chain(of_experts);
    let temperatures = attentions.clone().filter_map(|a| a.temperature).map(|t| t.scale);
    if let Some(scale) = attentions.clone().map(|a| a.scale).chain(temperatures).chain(scales).find(|&s| !is_sane(s)) {
        return bad(&format!("a scale of {scale}"));
    }
    let mut caps = attentions.map(|a| a.softcap).chain([config.logit_softcap]);
    if let Some(cap) = caps.find(|&cap| cap != 0.0 && !is_sane(cap)) {
        return bad(&format!("logits or scores capped at {cap}"));
    }
    match config.ropes.iter().find(|rope| !rope.is_sane()) {
        Some(rope) => bad(&format!("a rotation with absurd numbers ({rope:?})")),
        None => Ok(()),
    }
}

/// Whether a factor, a base or a bound is one that a model could have.
fn is_sane(value: f32) -> bool {
    value > 1e-9 && value < 1e15
}

impl RopeConfig {
    fn is_sane(&self) -> bool {
        let scaling: &[f32] = match &self.scaling {
            RopeScaling::None | RopeScaling::NoRotation => &[],
            RopeScaling::Linear(factor) => &[*factor],
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                &[*factor, *original_context, *beta_fast, *beta_slow]
            }
        };
        is_sane(self.base) && is_sane(self.magnitude) && scaling.iter().all(|&s| is_sane(s))
    }
}

/// Refuses logits of which nothing can be chosen.
pub(super) fn logits(logits: &[f32]) -> Result<()> {
    // Without an early end, which would keep it from being done by vectors.
    are_numbers(logits.iter().fold(true, |all, logit| all & logit.is_finite()))
}

/// The same by the largest logit of each row of `width` values, and by the sum where it is there.
pub(super) fn top_logits(rows: &[f32], width: usize, sum: bool) -> Result<()> {
    are_numbers(rows.chunks_exact(width).all(|row| row[0].is_finite() && (!sum || row[width - 1].is_finite())))
}

fn are_numbers(they_are: bool) -> Result<()> {
    they_are.then_some(()).ok_or_else(|| no_numbers("the logits"))
}

/// What is not a number was made of weights that are damaged, or absurdly large.
pub(super) fn no_numbers(what: &str) -> Error {
    Error::bad_file(format!("{what} are not numbers: weights of the file are damaged, or absurdly large"))
}

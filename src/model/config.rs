//! What a model is, as plain data: everything that [`super::forward`] needs to know.

use crate::backend::{Activation, RopePairs};

/// A decoder-only transformer; made from GGUF metadata by [`super::config_of`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, for people.
    pub name: String,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward layers.
    pub ff_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Added to mean squares in norms.
    pub norm_eps: f32,
    /// Factor on embeddings.
    pub embed_scale: f32,
    /// Factor on what each block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// `cap * tanh(logit / cap)`; 0 for none.
    pub logit_softcap: f32,
    /// Factor on query-key products.
    pub attention_scale: f32,
    /// `cap * tanh(score / cap)`; 0 for none.
    pub attention_softcap: f32,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// How rotary embedding pairs dimensions.
    pub rope_pairs: RopePairs,
    /// Rotated dimensions of a head.
    pub rope_dim: usize,
    /// Rotary embeddings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// One a layer.
    pub layers: Vec<LayerConfig>,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Attention sees the last so many positions only.
    pub window: Option<u32>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Angle of the first pair is 1 a position; of pair i, `base^(-2i / rope_dim)`.
    pub base: f32,
    /// How it is stretched to longer contexts.
    pub scaling: RopeScaling,
}

/// Stretching of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// No rotation in these layers (NoPE).
    NoRotation,
    /// Positions divided by a factor.
    Linear(f32),
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Context over original context.
        factor: f32,
        /// Context of the first training.
        original_context: f32,
        /// Factor on sine and cosine beside YaRN's own.
        attention_factor: f32,
        /// Rotations in the original context above which a pair is not stretched.
        beta_fast: f32,
        /// Rotations below which a pair is stretched fully.
        beta_slow: f32,
    },
    /// Angles divided by the factors of a tensor (`rope_freqs.weight` of Llama 3, LongRoPE of Phi 3).
    Factors {
        /// The tensor's name.
        tensor: &'static str,
        /// Factor on sine and cosine.
        attention_factor: f32,
    },
}

impl RopeConfig {
    /// Angles a position `[rope_dim / 2]` and the factor on sine and cosine. `factors` are those of
    /// [`RopeScaling::Factors`].
    pub fn angles(&self, rope_dim: usize, factors: Option<&[f32]>) -> (Vec<f32>, f32) {
        let base = f64::from(self.base);
        let angle = |i: usize| base.powf(-2.0 * i as f64 / rope_dim as f64);
        let pairs = 0..rope_dim / 2;
        match &self.scaling {
            RopeScaling::None => (pairs.map(|i| angle(i) as f32).collect(), 1.0),
            RopeScaling::NoRotation => (pairs.map(|_| 0.0).collect(), 1.0),
            RopeScaling::Linear(factor) => (pairs.map(|i| (angle(i) / f64::from(*factor)) as f32).collect(), 1.0),
            RopeScaling::Factors { attention_factor, .. } => {
                let factor = |i: usize| factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f64::from(f));
                (pairs.map(|i| (angle(i) / factor(i)) as f32).collect(), *attention_factor)
            }
            RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
                // The pair that turns `beta` times in the original context (section 3.2).
                let pair = |beta: f32| {
                    let turns = f64::from(*original_context) / (f64::from(beta) * std::f64::consts::TAU);
                    rope_dim as f64 * turns.ln() / (2.0 * base.ln())
                };
                let low = pair(*beta_fast).floor().max(0.0);
                let high = pair(*beta_slow).ceil().min(rope_dim as f64 - 1.0);
                let keep = |i: usize| 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let angle = |i: usize| angle(i) * ((1.0 - keep(i)) / f64::from(*factor) + keep(i));
                let magnitude = attention_factor * (1.0 + 0.1 * factor.ln());
                (pairs.map(|i| angle(i) as f32).collect(), magnitude)
            }
        }
    }
}

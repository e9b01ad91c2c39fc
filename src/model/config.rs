//! What a model is, as plain data: everything that [`super::forward`] needs to know.

use crate::backend::{Activation, LinearAttend, RopePairs, Scores, Temperature};
use std::ops::Range;

/// A transformer, decoder or encoder; made from GGUF metadata by [`super::config_of`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, for people.
    pub name: String,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Added to mean squares in norms.
    pub norm_eps: f32,
    /// Whether norms of the stream are LayerNorms, which subtract the mean.
    pub layer_norm: bool,
    /// Whether a token sees those before it only. Where it sees all, a text is read in one forward, and nothing is kept of it.
    pub causal: bool,
    /// How the vectors of a text's tokens become one, where the model is made for that.
    pub pooling: Option<Pooling>,
    /// Factor on embeddings.
    pub embed_scale: f32,
    /// Factor on what each block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// `cap * tanh(logit / cap)`; 0 for none.
    pub logit_softcap: f32,
    /// Rotary embeddings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// Width of what each layer gets of a token besides the stream, where there is such.
    pub per_layer: Option<usize>,
    /// One a layer, in the order in which they run.
    pub layers: Vec<LayerConfig>,
    /// Tensor of the last norm, without its extension.
    pub last_norm: &'static str,
    /// How often the layers of the file are run one after the other, with a cache for each time; [`layers`](Self::layers) has
    /// all of them.
    pub loops: usize,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
    /// A score of a pair of texts, made of the first token's vector, or of the last one's where the model is causal.
    Rank,
}

/// A layer: a mixer, which carries information from token to token, then a feed-forward, which works on each alone.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerConfig {
    /// How a token learns of those before it.
    pub mixer: Mixer,
    /// A second mixer, which reads what the first one reads.
    pub beside: Option<LinearAttention>,
    /// What is done to each token.
    pub ffn: Ffn,
    /// Whether mixer and feed-forward read the normed stream. Otherwise they read the stream itself, and what they make is normed.
    pub pre_norm: bool,
    /// Whether the stream itself is normed behind the layer, by the last norm's weights.
    pub renorm: bool,
}

/// How a token learns of those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Mixer {
    /// By queries on their keys.
    Attention(Attention),
    /// By what lies right before it.
    ShortConv(ShortConv),
    /// By a state that all before it have changed.
    Linear(LinearAttention),
}

/// Linear attention with a decay, behind a short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinearAttention {
    /// Heads of queries and keys.
    pub n_key_heads: usize,
    /// Width of a query and a key.
    pub key_dim: usize,
    /// Heads of values, each with a state `[key_dim, head_dim]`.
    pub n_heads: usize,
    /// Width of a value.
    pub head_dim: usize,
    /// Tokens that the convolution sees, the token itself included.
    pub taps: usize,
    /// What a state learns of a token, and how what it says is gated.
    pub kind: LinearKind,
}

/// What a state of linear attention learns of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinearKind {
    /// See [`crate::backend::Rule::Delta`]; the norm of each head comes before the gate.
    DeltaNet,
    /// See [`crate::backend::Rule::Mamba`]; the norm, where there is one, is that of all heads of a key, behind the gate.
    Mamba2,
}

impl LinearAttention {
    /// Width of all values.
    pub fn values(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.n_key_heads * self.key_dim + self.values()
    }

    /// Multiply-adds of the weights, for a token and a column of the stream.
    fn work(&self) -> usize {
        self.channels() + 2 * self.values() + 2 * self.n_heads
    }

    /// What is kept of a row.
    pub(super) fn kept_width(&self) -> usize {
        LinearAttend::kept_width(self.n_key_heads, self.key_dim, self.n_heads, self.head_dim)
    }
}

/// A causal convolution of each column between two gates (LFM2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShortConv {
    /// Columns.
    pub dim: usize,
    /// Tokens that a token learns of, itself included.
    pub taps: usize,
}

/// Softmax attention with grouped queries and rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on query-key products.
    pub scale: f32,
    /// `cap * tanh(score / cap)`; 0 for none.
    pub softcap: f32,
    /// Sees the last so many positions only.
    pub window: Option<u32>,
    /// Whether the window reaches to both sides, half of it to each.
    pub centered: bool,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
    /// How queries and keys are normed, where there are weights for that.
    pub qk_norm: QkNorm,
    /// Whether each head of values is normed, without weights.
    pub norm_values: bool,
    /// The earlier layer whose keys and values serve, where this one makes none.
    pub keys_of: Option<usize>,
    /// Growth of the queries with their position.
    pub temperature: Option<Temperature>,
    /// Whether each head has a score that stands for no position.
    pub sinks: bool,
    /// Whether what it makes is multiplied by the logistic function of a projection of its input.
    pub gated: bool,
}

/// How queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QkNorm {
    /// Each head by itself, in front of the rotation.
    Heads,
    /// Each head by itself, behind the rotation.
    Rotated,
    /// All heads as one row, in front of the rotation.
    Whole,
}

impl Attention {
    /// Width of all queries.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Multiply-adds of the weights, for a token and a column of the stream.
    fn work(&self) -> usize {
        let own_keys = if self.keys_of.is_some() { 0 } else { 2 * self.kv_dim() };
        (2 + usize::from(self.gated)) * self.q_dim() + own_keys
    }

    /// Width of all keys, and of all values.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// What is done to each token.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ffn {
    /// Nothing: layers are mixers alone.
    None,
    /// The same weights for every token.
    Dense(Dense),
    /// Those of a few experts, which each token chooses.
    Experts(Experts),
}

/// A feed-forward: `down · (activation(gate · x) * (up · x))`, or without a gate `down · activation(up · x)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Dense {
    /// Rows of gate and up.
    pub dim: usize,
    /// On the gate, or on what there is.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
}

/// A mixture of experts, gated feed-forwards of one width; see [`crate::backend::Experts`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Experts {
    /// How many there are.
    pub n: usize,
    /// How many a token uses.
    pub used: usize,
    /// Rows of gate and up of each.
    pub dim: usize,
    /// On the gate.
    pub activation: Activation,
    /// What the router's logits are made into.
    pub scores: Scores,
    /// Whether the scores of a token's experts are divided by their sum.
    pub normalized: bool,
    /// Factor on the scores.
    pub scale: f32,
    /// Rows of gate and up of one more expert that all tokens use, where there is one.
    pub shared: Option<usize>,
}

impl Experts {
    /// The expert that all tokens use.
    pub(super) fn shared(&self) -> Option<Dense> {
        self.shared.map(|dim| Dense { dim, activation: self.activation, gated: true })
    }
}

impl LayerConfig {
    /// Width of the widest matrix inside; `dim` is that of the stream.
    pub(super) fn widest(&self, dim: usize) -> usize {
        let mixer = match &self.mixer {
            Mixer::Attention(attention) => attention.q_dim().max(attention.kv_dim()),
            Mixer::ShortConv(conv) => 3 * conv.dim,
            Mixer::Linear(linear) => linear.kept_width(),
        };
        let mixer = mixer.max(self.beside.map_or(0, |linear| linear.kept_width()));
        let ffn = match &self.ffn {
            Ffn::None => 0,
            Ffn::Dense(dense) => dense.dim,
            Ffn::Experts(experts) => (experts.used * experts.dim.max(dim)).max(experts.shared.unwrap_or(0)),
        };
        mixer.max(ffn)
    }
}

impl ModelConfig {
    /// The attention of a layer, if that is what mixes there.
    pub fn attention(&self, layer: usize) -> Option<&Attention> {
        match &self.layers.get(layer)?.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::ShortConv(_) | Mixer::Linear(_) => None,
        }
    }

    /// Multiply-adds of the weights of some layers, for one token.
    pub fn work(&self, layers: Range<usize>) -> usize {
        let work = |layer: &LayerConfig| {
            let mixer = match &layer.mixer {
                Mixer::Attention(attention) => attention.work(),
                Mixer::ShortConv(conv) => 4 * conv.dim,
                Mixer::Linear(linear) => linear.work(),
            };
            let mixer = mixer + layer.beside.map_or(0, |linear| linear.work());
            let ffn = match &layer.ffn {
                Ffn::None => 0,
                Ffn::Dense(dense) => (2 + usize::from(dense.gated)) * dense.dim,
                Ffn::Experts(e) => e.n + 3 * (e.used * e.dim + e.shared.unwrap_or(0)),
            };
            self.dim * (mixer + ffn + 3 * self.per_layer.unwrap_or(0))
        };
        self.layers[layers].iter().map(work).sum()
    }
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RopeConfig {
    /// Rotated dimensions of a head, the first ones.
    pub dim: usize,
    /// How they are paired.
    pub pairs: RopePairs,
    /// Angle of the first pair is 1 a position; of pair i, `base^(-2i / dim)`.
    pub base: f32,
    /// Tensor `[dim / 2]` that the angles are divided by (`rope_freqs.weight` of Llama 3, LongRoPE of Phi 3).
    pub factors: Option<&'static str>,
    /// How it is stretched to longer contexts.
    pub scaling: RopeScaling,
    /// Factor on sine and cosine.
    pub magnitude: f32,
}

/// Stretching of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
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
        /// Rotations in the original context above which a pair is not stretched.
        beta_fast: f32,
        /// Rotations below which a pair is stretched fully.
        beta_slow: f32,
    },
}

impl RopeConfig {
    /// Angles a position `[dim / 2]`; `factors` are the numbers of [`RopeConfig::factors`].
    pub(crate) fn angles(&self, factors: Option<&[f32]>) -> Vec<f32> {
        let base = f64::from(self.base);
        let angle = |i: usize| {
            let factor = factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f64::from(f));
            base.powf(-2.0 * i as f64 / self.dim as f64) / factor * self.stretch(i)
        };
        (0..self.dim / 2).map(|i| angle(i) as f32).collect()
    }

    /// Factor on the angle of a pair.
    fn stretch(&self, i: usize) -> f64 {
        match self.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::NoRotation => 0.0,
            RopeScaling::Linear(factor) => 1.0 / f64::from(factor),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                // The pair that turns `beta` times in the original context (section 3.2).
                let pair = |beta: f32| {
                    let turns = f64::from(original_context) / (f64::from(beta) * std::f64::consts::TAU);
                    self.dim as f64 * turns.ln() / (2.0 * f64::from(self.base).ln())
                };
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min(self.dim as f64 - 1.0);
                let keep = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                (1.0 - keep) / f64::from(factor) + keep
            }
        }
    }
}

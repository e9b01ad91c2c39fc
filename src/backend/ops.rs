//! What the ops of a [`Backend`](super::Backend) take.

use super::{Buf, Cache, Operand, Weight};

/// Which rows of the step an op covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every token of the plan.
    All,
    /// Only [`Plan::outputs`](super::Plan::outputs); the result's rows are compacted.
    Outputs,
    /// Neighbouring tokens of the plan, `start..end`. They keep their places: row `start` of what is read and made is the
    /// first.
    Run {
        /// The first row.
        start: u32,
        /// Behind the last row.
        end: u32,
    },
}

/// Something to be done to the states of all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateStep {
    /// The state of no tokens.
    Clear {
        /// Where it is put.
        slot: u32,
    },
    /// A copy.
    Copy {
        /// The slot that is read.
        from: u32,
        /// The slot that is written.
        to: u32,
    },
    /// The state is moved on by tokens that were kept; their inputs are those that the rows had in the forward before.
    Advance {
        /// Slot of the state.
        slot: u32,
        /// Rows of the last plan, in order; perhaps none.
        rows: Vec<u32>,
    },
}

/// What lies before a token, for layers that keep states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The state of a slot; the slot itself stays as it is.
    Slot(u32),
    /// An earlier row of the plan, and what lies before that.
    Row(u32),
}

/// Something to add to the residual stream before a norm.
#[derive(Clone, Copy, Debug)]
pub struct Delta {
    /// `[n, dim]`.
    pub buf: Buf,
    /// Weights `[dim]` of an RMS norm applied to `buf` first (post-norm models).
    pub norm: Option<Buf>,
    /// Factor applied after the norm.
    pub scale: f32,
    /// Factor on the sum.
    pub gain: f32,
}

/// What a norm multiplies with, and which norm it is: `x / rms(x) * weight`, or with `centered` LayerNorm,
/// `(x - mean(x)) / deviation(x) * weight + bias`.
#[derive(Clone, Copy, Debug)]
pub struct NormWeights {
    /// `[dim]`.
    pub weight: Buf,
    /// Added at last `[dim]`.
    pub bias: Option<Buf>,
    /// Whether the mean is subtracted first.
    pub centered: bool,
    /// Whether the residual stream becomes what was made, too (norms behind blocks, as in BERT).
    pub replaces: bool,
}

impl NormWeights {
    /// A root mean square norm.
    pub const fn rms(weight: Buf) -> Self {
        NormWeights { weight, bias: None, centered: false, replaces: false }
    }
}

/// Norm of the rows of a plain matrix, mostly of the residual stream: `x = gain * (x + delta); y = norm(x); out = y`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[n, dim]`, updated by `delta`.
    pub x: Buf,
    /// Added first.
    pub delta: Option<Delta>,
    /// Which norm; without one, `y = x`.
    pub norm: Option<NormWeights>,
    /// Added to the mean square, of `delta`'s norm too.
    pub eps: f32,
    /// Receives `y`; without it `x` does.
    pub out: Option<Operand>,
    /// Rows covered.
    pub rows: Rows,
}

/// One product of [`Backend::matmul`](super::Backend::matmul): `out = f(operand · weightᵀ)`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[rows, cols]`.
    pub weight: Weight,
    /// `[n, rows]`.
    pub out: Buf,
    /// What happens to a result before it is stored.
    pub epilogue: Epilogue,
}

/// `y = scale * (product + bias); y = softcap * tanh(y / softcap); out = accumulate ? out + y : y`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// Factor on the product and its bias.
    pub scale: f32,
    /// `[rows]`.
    pub bias: Option<Buf>,
    /// 0 for none.
    pub softcap: f32,
    /// Add to what `out` holds.
    pub accumulate: bool,
}

impl Epilogue {
    /// Stores the plain product.
    pub const STORE: Epilogue = Epilogue { scale: 1.0, bias: None, softcap: 0.0, accumulate: false };
}

/// How rotary embedding pairs up the dimensions of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `(0, 1), (2, 3), …` (ggml "norm": llama).
    Adjacent,
    /// `(0, d/2), (1, d/2 + 1), …` (ggml "neox": qwen, gemma, phi).
    Halves,
}

/// Growth of the queries with their position: `q *= 1 + scale * ln(1 + floor(position / length))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// 0.1 in Ministral 3.
    pub scale: f32,
    /// Positions of a step; not 0.
    pub length: u32,
}

impl Temperature {
    /// The factor at a position.
    pub(crate) fn at(self, position: u32) -> f32 {
        1.0 + self.scale * ((1 + position / self.length) as f32).ln()
    }
}

/// RMS norm of each query and key head, rotary embedding, and writing of keys and values into the cache at
/// [`Plan::cells`](super::Plan::cells).
#[derive(Clone, Copy, Debug)]
pub struct RopeAppend {
    /// `[n, n_heads * head_dim]`, rotated in place; `None` when only the cache is filled (KV prediction).
    pub q: Option<Buf>,
    /// Keys before rotary embedding, and values, `[n, n_kv_heads * head_dim]` each; `None` where those of another layer serve.
    pub kv: Option<[Buf; 2]>,
    /// Query heads.
    pub n_heads: usize,
    /// Whether the heads of values are normed, too, without weights.
    pub norm_values: bool,
    /// Weights `[head_dim]` of the query norm.
    pub q_norm: Option<Buf>,
    /// Weights `[head_dim]` of the key norm.
    pub k_norm: Option<Buf>,
    /// Of the norms.
    pub eps: f32,
    /// Norms come behind the rotation, not in front of it.
    pub norm_last: bool,
    /// Behind rotation and norm, for queries only.
    pub temperature: Option<Temperature>,
    /// Angle a position `[rope_dim / 2]`; the dimensions of a head behind `rope_dim` are not rotated.
    pub freqs: Buf,
    /// Rotated dimensions of a head.
    pub rope_dim: usize,
    /// Pairing.
    pub pairs: RopePairs,
    /// Factor on sine and cosine (YaRN, LongRoPE).
    pub magnitude: f32,
    /// Receives keys and values; the layer's shape gives `n_kv_heads` and `head_dim`.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
}

/// Keys and values of the plan's [`cells`](super::Plan::cells), as floats. What is written back by a [`RopeAppend`] that turns
/// nothing is the same entry, bit for bit.
#[derive(Clone, Copy, Debug)]
pub struct ReadCells {
    /// Keys and values.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Receives the keys `[n, n_kv_heads * head_dim]`.
    pub k: Buf,
    /// Receives the values, likewise.
    pub v: Buf,
}

/// Attention of each token's queries over what its [`Span`](super::Span) shows.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// `[n, n_heads * head_dim]`, rotated.
    pub q: Buf,
    /// Keys and values.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Query heads; a multiple of the layer's key/value heads.
    pub n_heads: usize,
    /// Factor on the dot products.
    pub scale: f32,
    /// `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f32,
    /// Only the last `window` positions, the token's own included.
    pub window: Option<u32>,
    /// Whether a window lies around its token: positions at most `window / 2` from the token's own, which is that of
    /// [`Plan::positions`](super::Plan::positions) here.
    pub centered: bool,
    /// A score of each head that stands for no position `[n_heads]`: it has a share of the softmax, and no value.
    pub sinks: Option<Buf>,
    /// What is made is multiplied by the logistic function of this `[n, n_heads * head_dim]`.
    pub gate: Option<Buf>,
    /// Receives `[n, n_heads * head_dim]`.
    pub out: Operand,
}

/// A causal convolution of each column with the few newest rows of its sequence, `sum(weight[i] * z of so many rows before)`; what
/// `z` is and what becomes of the sum, [`ConvForm`] says. The state of a sequence is its last `taps - 1` rows of `z`, the oldest
/// first. What [`Plan::states`](super::Plan::states) says is done first.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv {
    /// `[n, 3 * dim]`, or without gates `[n, dim]`.
    pub x: Buf,
    /// What stands in front of the convolution and behind it.
    pub form: ConvForm,
    /// `[taps, dim]`; the last one is for the row itself.
    pub weight: Buf,
    /// From 2 to [`MAX_TAPS`].
    pub taps: usize,
    /// `[n, dim]`, of this layer alone: `z` of all rows, until the next forward, which is told which of them were kept.
    pub kept: Buf,
    /// Holds the states.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Receives `[n, dim]`.
    pub out: Buf,
}

/// What stands in front of a [`ShortConv`] and behind it.
#[derive(Clone, Copy, Debug)]
pub enum ConvForm {
    /// Two gates (LFM2): of rows `[b, c, u]`, `z = b * u` and `out = c * sum`.
    Gated,
    /// An activation (DeltaNet, Mamba): `z` is the row itself, `y = sum + bias` and `out = y * sigmoid(y)`.
    Silu {
        /// `[dim]`.
        bias: Option<Buf>,
    },
}

/// Most rows that [`ShortConv`] reads for one.
pub const MAX_TAPS: usize = 8;

/// Linear attention with a decay: each head carries a matrix `S [key_dim, head_dim]`, and of each row the queries `q`, keys `k` and
/// values `v` of the head make `S = decay * S`, then `S += k ⊗ u`, and `out = qᵀ S`. With `dt = softplus(steps)` of the head,
/// `decay = exp(rates * dt)`; what `u` is, [`Rule`] says. The state of a sequence is `[key_dim, n_heads * head_dim]`, the matrices
/// of all heads side by side. What [`Plan::states`](super::Plan::states) says is done first.
#[derive(Clone, Copy, Debug)]
pub struct LinearAttend {
    /// `[n, 2 * n_key_heads * key_dim + n_heads * head_dim]`: queries, keys and values; their order is the rule's.
    pub x: Buf,
    /// `[n, n_heads]`.
    pub steps: Buf,
    /// `[n_heads]`, below 0.
    pub rates: Buf,
    /// What the state learns of a row.
    pub rule: Rule,
    /// Heads of queries and keys; divides `n_heads`.
    pub n_key_heads: usize,
    /// Width of a query and a key, at most [`MAX_KEY_DIM`].
    pub key_dim: usize,
    /// Heads of values, each with a state.
    pub n_heads: usize,
    /// Width of a value.
    pub head_dim: usize,
    /// `[n, `[`kept_width`](Self::kept_width)`]`, of this layer alone: what moves states on, of all rows, until the next forward, which is
    /// told which of them were kept.
    pub kept: Buf,
    /// Holds the states.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Receives `[n, n_heads * head_dim]`.
    pub out: Buf,
}

impl LinearAttend {
    /// What is kept of a row: queries, keys and values, then a decay and a factor on `u` for each head.
    pub const fn kept_width(n_key_heads: usize, key_dim: usize, n_heads: usize, head_dim: usize) -> usize {
        2 * n_key_heads * key_dim + n_heads * head_dim + 2 * n_heads
    }
}

/// What a state of [`LinearAttend`] learns of a row.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Gated DeltaNet (arXiv 2412.06464): `u = sigmoid(gains) * (v - kᵀ S)`. Rows are `[q, k, v]`; a query and a key are divided by the
    /// root of the sum of their squares and `eps`, and the query by the root of `key_dim`, too. Head `j` has query and key
    /// `j mod n_key_heads`.
    Delta {
        /// `[n, n_heads]`.
        gains: Buf,
        /// Added to sums of squares.
        eps: f32,
    },
    /// Mamba-2 (arXiv 2405.21060): `u = dt * v`, and `skip * v` is added to `out`. Rows are `[v, k, q]`. Neighbouring heads share a
    /// query and a key.
    Mamba {
        /// `[n_heads]`.
        skip: Buf,
    },
}

/// Widest key of [`LinearAttend`].
pub const MAX_KEY_DIM: usize = 256;

/// RMS norm of groups of columns beside a gate: `out = norm(x) * weight * g` with `g = gate * sigmoid(gate)`, or with `gate_first`
/// `out = norm(x * g) * weight`.
#[derive(Clone, Copy, Debug)]
pub struct GatedNorm {
    /// `[n, dim]`.
    pub x: Buf,
    /// `[n, dim]`.
    pub gate: Buf,
    /// `[dim]`.
    pub weight: Buf,
    /// Columns of a group; divides `dim`.
    pub group: usize,
    /// Whether the norm comes behind the gate.
    pub gate_first: bool,
    /// Added to mean squares.
    pub eps: f32,
    /// Receives `[n, dim]`.
    pub out: Operand,
}

/// Activation of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Φ(x)`, where Φ is the normal distribution.
    Gelu,
    /// The same in the tanh approximation.
    GeluTanh,
    /// `min(x, 7) * sigmoid(1.702 min(x, 7))`; what it is multiplied by is first cut to -7 and 7, and 1 is added (gpt-oss).
    ClampedSwish,
}

/// `out = activation(gate) * up`, or without `up` `out = activation(gate)`.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// `[n, dim]`.
    pub gate: Buf,
    /// `[n, dim]`.
    pub up: Option<Buf>,
    /// On `gate`.
    pub activation: Activation,
    /// Receives `[n, dim]`.
    pub out: Operand,
}

/// A matrix for each expert, one behind the other in a weight.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// `[n_experts * pitch, cols]`.
    pub weight: Weight,
    /// Rows of an expert.
    pub rows: usize,
    /// Factor on an expert's products and their bias `[n_experts]`.
    pub scale: Option<Buf>,
    /// `[n_experts * rows]`.
    pub bias: Option<Buf>,
}

impl Stack {
    /// Rows of the weight that an expert of so many rows takes: whole panels.
    pub const fn pitch(rows: usize) -> usize {
        rows.next_multiple_of(16)
    }
}

/// What a router's logits are made into, of which the largest are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// The softmax over all experts. Divided by the sum of the chosen ones, it is the softmax over these.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
}

/// How a token's experts are chosen, and what each counts.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Of the router's logits.
    pub scores: Scores,
    /// Experts of a token.
    pub used: usize,
    /// Added to the scores for the choice only `[n_experts]`.
    pub bias: Option<Buf>,
    /// Whether the scores of a token's experts are divided by their sum.
    pub normalized: bool,
    /// Factor on the scores.
    pub scale: f32,
}

impl Routing {
    /// The least that scores are divided by: the smallest normal half float.
    pub const LEAST_SUM: f32 = 6.103_515_6e-5;
}

/// What becomes of what [`Experts::out`] holds before.
#[derive(Clone, Copy, Debug)]
pub enum Shared {
    /// It is overwritten.
    Nothing,
    /// It is added to.
    Whole,
    /// It is multiplied by the logistic function of this matrix `[n, 1]`, and added to.
    Gated(Buf),
}

/// A mixture of experts: `out = Σ score_e * down_e · (activation(gate_e · x) * (up_e · x))` over the experts `e` with the largest
/// scores, of equal ones the first.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// `[n, dim]`.
    pub x: Operand,
    /// What the router makes of `x`, `[n, n_experts]`, at most [`MAX_EXPERTS`]; overwritten.
    pub logits: Buf,
    /// How experts are chosen.
    pub routing: Routing,
    /// `[n_experts, ff_dim, dim]`.
    pub gate: Stack,
    /// `[n_experts, ff_dim, dim]`.
    pub up: Stack,
    /// `[n_experts, dim, ff_dim]`.
    pub down: Stack,
    /// On what the gate makes.
    pub activation: Activation,
    /// Work memory: what gate and up make of each token, for each expert that it uses, twice `[n * used, ff_dim]`.
    pub hidden: [Buf; 2],
    /// Work memory: the input of `down`, `[n * used, ff_dim]`.
    pub gated: Operand,
    /// Work memory: what `down` makes `[n * used, dim]`.
    pub parts: Buf,
    /// Receives `[n, dim]`.
    pub out: Buf,
    /// What becomes of what `out` holds.
    pub shared: Shared,
}

/// Most experts of a layer.
pub const MAX_EXPERTS: usize = 512;

/// The largest logits of every output row: all that choosing a token mostly needs, in a hundredth of the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Select {
    /// `[n_outputs, n_vocab]`.
    pub logits: Buf,
    /// Receives `[n_outputs, 2 k + 1]`, `k` from 1 to [`MAX_SELECTED`] and at most `n_vocab`: the `k` largest logits, from
    /// the largest down and equal ones by their columns; their columns; the sum of `exp(logit - largest)` over the row.
    pub out: Buf,
    /// Whether the sum is wanted; it may be anything otherwise.
    pub sum: bool,
}

/// Most logits that [`Select`] takes of a row.
pub const MAX_SELECTED: usize = 256;

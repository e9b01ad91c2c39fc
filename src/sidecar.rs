//! The sidecar: a small GGUF file beside a base model, for KV prediction (design in docs/kv-prediction.md).
//!
//! Architecture `foreword-sidecar`. The *trunk* is the base's own first `T` layers; the sidecar adds maps from the residual streams
//! before its layers and behind it to keys (before norm and rotation) and values of every deeper layer. The maps are one gated
//! feed-forward layer: with `x_i` the stream before layer `i`, normed as that layer norms it,
//!
//! ```text
//! hidden = silu(gate · x_T + bias) * (up_0 · x_0 + … + up_T · x_T)
//! keys or values of a layer = weight · hidden + bias
//! ```
//!
//! | key | what |
//! |---|---|
//! | `foreword-sidecar.trunk_layers` | u32: layers of the trunk |
//! | `foreword-sidecar.base.norms` | string: fingerprint of the base's norm weights, 16 hex digits |
//! | `foreword-sidecar.base.tensors` | string: fingerprint of the base's tensor list with its types |
//! | `foreword-sidecar.own_layers` | u32: 1 with a layer of its own in front of the maps; 0 or absent without |
//! | `foreword-sidecar.draft_layers` | u32: 1 with a draft block; 0 or absent without |
//! | `foreword-sidecar.draft_tokens` | integers, ascending: the vocabulary of drafts; absent: the base's |
//!
//! | tensor | shape |
//! |---|---|
//! | `maps.gate.weight`, `maps.up.I.weight` | `[width, dim]`, any type, every `I` from 0 to `T` |
//! | `maps.gate.bias` | `[width]`, optional |
//! | `blk.L.attn_k.weight`, `blk.L.attn_v.weight` | `[n_kv_heads * head_dim, width]`, any type, every `L` behind the trunk |
//! | `blk.L.attn_k.bias`, `blk.L.attn_v.bias` | `[n_kv_heads * head_dim]`, optional |
//! | `own.0.*` | the layer of its own: all tensors of a layer of the base |
//! | `blk.N.*`, `N` the number of the base's layers | the draft block: all tensors of a layer of the base |
//! | `accept.weight` | `[1, dim]`: the acceptance head, optional, only with `draft_tokens` |
//! | `accept.bias` | `[2]`: its constant, and its factor on the draft's confidence |
//!
//! The layer of its own and the draft block are each one layer of the base's form behind the trunk, with the rotation and the
//! window of the layer that the base has there. What they attend to follows from the stream behind the trunk, so it is there for
//! every token however a text was read; that is why there is one layer and not several. With a layer of its own `x_T` is
//! the stream behind it. The output of the draft block goes through the base's last norm and head, or through the head's rows of
//! `draft_tokens`.
//!
//! The acceptance head (SpecDec++, arXiv 2405.19715) says how likely the block's first guess is to be accepted: the log-odds
//! are `accept.weight · h + accept.bias[0] + accept.bias[1] * logit(p)`, where `h` is what the head reads and `p` the probability
//! that the block gives its guess, at temperature 1 among the draft's tokens. Models with capped logits cannot have one.
//!
//! Every quantization of a base keeps its norms as they are, so their fingerprint names the base; the types name the
//! quantization. With another quantization the maps still fit, a little worse.

use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// `general.architecture` of a sidecar.
pub const ARCHITECTURE: &str = "foreword-sidecar";

/// Which base a sidecar was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Sum of the FNV-1a hashes of name and bytes of every tensor `*norm.weight`.
    pub norms: u64,
    /// Sum of the FNV-1a hashes of `name:type` of every tensor.
    pub tensors: u64,
    /// Sum of the FNV-1a hashes of name and first bytes of every matrix: tells a model from one that was trained on from it. A
    /// sidecar's header does not say it.
    pub weights: u64,
}

impl Fingerprint {
    /// Adds a tensor's data; only norms count.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        if name.ends_with("norm.weight") {
            self.norms = self.norms.wrapping_add(fnv1a(bytes, fnv1a(name.as_bytes(), OFFSET)));
        }
    }

    /// Adds the beginning of a matrix.
    pub(crate) fn add_matrix(&mut self, name: &str, bytes: &[u8]) {
        let start = &bytes[..bytes.len().min(1024)];
        self.weights = self.weights.wrapping_add(fnv1a(start, fnv1a(name.as_bytes(), OFFSET)));
    }

    /// Sets what follows from the header.
    pub fn set_types(&mut self, gguf: &Gguf) {
        let hashes = gguf.tensors.iter().map(|t| fnv1a(format!("{}:{}", t.name, t.ty.id()).as_bytes(), OFFSET));
        self.tensors = hashes.fold(0, u64::wrapping_add);
    }
}

/// FNV-1a's offset basis and prime, 64 bits.
pub(crate) const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of `bytes` behind what `start` is the hash of.
pub(crate) fn fnv1a(bytes: &[u8], start: u64) -> u64 {
    bytes.iter().fold(start, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The header of a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Layers of the trunk.
    pub trunk: usize,
    /// Whether there is a layer of its own.
    pub own: bool,
    /// Whether there is a draft block.
    pub drafts: bool,
    /// Vocabulary of drafts, ascending, where it is a reduced one.
    pub draft_tokens: Option<Vec<u32>>,
    /// Whether there is an acceptance head.
    pub accepts: bool,
    /// Of its base.
    pub base: Fingerprint,
}

impl Sidecar {
    /// Reads the header.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for a file that is no sidecar, [`crate::Kind::BadFile`] for missing or wrong keys.
    pub fn read(gguf: &Gguf) -> Result<Sidecar> {
        let architecture = gguf.metadata.str("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(Error::invalid_request(format!(
                "a sidecar has the architecture {ARCHITECTURE}, but this file is a {architecture} model"
            )));
        }
        let hash = |key: &str| -> Result<u64> {
            let text = gguf.metadata.str(key)?;
            u64::from_str_radix(text, 16)
                .map_err(|e| Error::bad_file(format!("{key} is {text:?}, not 16 hex digits")).caused_by(e))
        };
        let trunk = gguf.metadata.u32("foreword-sidecar.trunk_layers")? as usize;
        let has = |key: &str| match gguf.metadata.opt_u32(key)?.unwrap_or(0) {
            n @ (0 | 1) => Ok(n == 1),
            n => Err(Error::unsupported(format!("{key} is {n}; there may be one"))),
        };
        let (own, drafts) = (has("foreword-sidecar.own_layers")?, has("foreword-sidecar.draft_layers")?);
        let draft_tokens = gguf.metadata.opt_integers("foreword-sidecar.draft_tokens")?.map(token_ids).transpose()?;
        let accepts = gguf.tensor("accept.weight").is_some();
        if accepts && !(drafts && draft_tokens.is_some()) {
            return Err(Error::bad_file("an acceptance head without foreword-sidecar.draft_tokens"));
        }
        let base = Fingerprint {
            norms: hash("foreword-sidecar.base.norms")?,
            tensors: hash("foreword-sidecar.base.tensors")?,
            weights: 0,
        };
        Ok(Sidecar { trunk, own, drafts, draft_tokens, accepts, base })
    }

    /// Whether the sidecar fits a base; `false` for another quantization of it.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for another model.
    pub fn fits(&self, base: Fingerprint, name: &str) -> Result<bool> {
        if self.base.norms != base.norms {
            return Err(Error::invalid_request(format!(
                "the sidecar was made for another model than {name}; leave it out, or take the one for this model"
            )));
        }
        Ok(self.base.tensors == base.tensors)
    }
}

/// Ascending token ids.
fn token_ids(values: &[i64]) -> Result<Vec<u32>> {
    let ids: Option<Vec<u32>> = values.iter().map(|&v| u32::try_from(v).ok()).collect();
    ids.filter(|ids| !ids.is_empty() && ids.is_sorted_by(|a, b| a < b))
        .ok_or_else(|| Error::bad_file("foreword-sidecar.draft_tokens are no ascending token ids"))
}

/// What an acceptance head adds to the product of its weights with the stream; see the module text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Acceptance {
    /// Added always.
    pub(crate) constant: f32,
    /// Factor on the log-odds of the drafter's most probable token.
    pub(crate) confidence: f32,
}

impl Acceptance {
    /// Probability that a drafter's most probable token is accepted; `row` has the draft's logits and the product behind them.
    /// What the drafter thinks of its guess is taken from these logits, whatever the request's settings.
    pub(crate) fn probability(self, row: &[f32]) -> f64 {
        let Some((&product, logits)) = row.split_last() else { return 0.0 };
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        let p = (1.0 / sum).clamp(1e-4, 1.0 - 1e-4);
        let odds = f64::from(product + self.constant) + f64::from(self.confidence) * (p / (1.0 - p)).ln();
        1.0 / (1.0 + (-odds).exp())
    }
}

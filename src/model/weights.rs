//! Tensors of a file into the backend's memory, one at a time: file and repacked weights never both lie whole in memory.

use super::config::{ModelConfig, RopeScaling};
use super::draft::Acceptance;
use crate::backend::{Backend, Buf, Weight};
use crate::error::{Error, Result};
use crate::gguf::source::Source;
use crate::gguf::{Gguf, TensorInfo};
use crate::quant;
use crate::sidecar::Fingerprint;
use std::future::poll_fn;
use std::ops::Range;

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    /// Embeddings `[n_vocab, dim]`.
    pub(super) embeddings: Weight,
    /// `[n_vocab, dim]`; the embeddings where the head is tied.
    pub(super) head: Weight,
    /// Whether the head is of floats.
    pub(super) float_head: bool,
    /// `[n_vocab]`.
    pub(super) head_bias: Option<Buf>,
    /// Norm before the head `[dim]`.
    pub(super) norm: Buf,
    pub(super) layers: Vec<LayerWeights>,
    /// Angles `[rope_dim / 2]` and magnitude of each of [`ModelConfig::ropes`].
    pub(super) ropes: Vec<(Buf, f32)>,
    /// Names the model.
    pub(super) fingerprint: Fingerprint,
}

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct LayerWeights {
    /// `[dim]`.
    pub(super) attn_norm: Buf,
    /// `[n_heads * head_dim, dim]`.
    pub(super) q: Linear,
    /// `[n_kv_heads * head_dim, dim]`.
    pub(super) k: Linear,
    /// `[n_kv_heads * head_dim, dim]`.
    pub(super) v: Linear,
    /// `[head_dim]`.
    pub(super) q_norm: Option<Buf>,
    /// `[head_dim]`.
    pub(super) k_norm: Option<Buf>,
    /// `[dim, n_heads * head_dim]`.
    pub(super) o: Linear,
    /// `[dim]`.
    pub(super) post_attn_norm: Option<Buf>,
    /// `[dim]`.
    pub(super) ffn_norm: Buf,
    /// `[ff_dim, dim]`.
    pub(super) gate: Linear,
    /// `[ff_dim, dim]`.
    pub(super) up: Linear,
    /// `[dim, ff_dim]`.
    pub(super) down: Linear,
    /// `[dim]`.
    pub(super) post_ffn_norm: Option<Buf>,
}

/// A weight and its bias `[rows]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Buf>,
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of tensors loaded.
    pub done_bytes: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
}

/// Bytes of a tensor that are in memory in file form at a time.
const STAGING: usize = 1 << 20;

/// Loads the weights that `config` asks for.
pub(super) async fn load(
    gguf: &Gguf,
    sources: &mut [Box<dyn Source>],
    backend: &mut dyn Backend,
    config: &ModelConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Weights> {
    let mut loader = Loader::new(gguf, sources, backend, progress);
    loader.fingerprint.set_types(gguf);
    let (dim, n_vocab) = (config.dim, config.n_vocab);
    let embeddings = loader.matrix("token_embd.weight", n_vocab, dim).await?;
    let mut layers = Vec::new();
    for layer in loader.in_file_order(config.layers.len()) {
        layers.push((layer, loader.layer(config, &format!("blk.{layer}")).await?));
    }
    layers.sort_by_key(|(layer, _)| *layer);
    let layers = layers.into_iter().map(|(_, weights)| weights).collect();
    let head = match gguf.tensor("output.weight") {
        Some(_) => loader.matrix("output.weight", n_vocab, dim).await?,
        None => embeddings,
    };
    let head_info = gguf.tensor("output.weight").or_else(|| gguf.tensor("token_embd.weight"));
    let float_head = head_info.is_some_and(|info| info.ty.is_float());
    let mut ropes = Vec::new();
    for rope in &config.ropes {
        let factors = match &rope.scaling {
            RopeScaling::Factors { tensor, .. } => Some(loader.floats(tensor, config.rope_dim / 2).await?),
            _ => None,
        };
        let (angles, magnitude) = rope.angles(config.rope_dim, factors.as_deref());
        ropes.push((loader.upload(&angles)?, magnitude));
    }
    let norm = loader.vector("output_norm.weight", dim).await?;
    let head_bias = loader.opt_vector("output.bias", n_vocab).await?;
    let (fingerprint, total_bytes) = (loader.fingerprint, loader.total_bytes);
    (loader.progress)(Progress { done_bytes: total_bytes, total_bytes });
    Ok(Weights { embeddings, head, float_head, head_bias, norm, layers, ropes, fingerprint })
}

/// Weights of a sidecar's maps ([`crate::sidecar`]).
#[derive(Debug)]
pub(super) struct MapWeights {
    /// Rows of `up` and `gate`.
    pub(super) width: usize,
    /// `[width, dim]`, for every stream of the trunk, from the embeddings on.
    pub(super) up: Vec<Weight>,
    /// `[width, dim]`.
    pub(super) gate: Linear,
    /// Keys and values of every layer behind the trunk, `[n_kv_heads * head_dim, width]` each.
    pub(super) layers: Vec<(Linear, Linear)>,
}

/// Loads a sidecar's maps behind a trunk of so many layers.
pub(super) async fn maps(
    gguf: &Gguf,
    sources: &mut [Box<dyn Source>],
    backend: &mut dyn Backend,
    config: &ModelConfig,
    trunk: usize,
) -> Result<MapWeights> {
    let gate = gguf.tensor("maps.gate.weight").and_then(|info| info.dims.get(1).copied());
    let width = gate.ok_or_else(|| Error::bad_file("tensor maps.gate.weight is missing"))? as usize;
    let mut ignore = |_| {};
    let mut loader = Loader::new(gguf, sources, backend, &mut ignore);
    let gate = loader.linear(("maps.gate".into(), 0..width, width), config.dim).await?;
    let mut up = Vec::new();
    for stream in 0..=trunk {
        up.push(loader.matrix(&format!("maps.up.{stream}.weight"), width, config.dim).await?);
    }
    let rows = config.n_kv_heads * config.head_dim;
    let mut layers = Vec::new();
    for layer in trunk..config.layers.len() {
        let k = loader.linear((format!("blk.{layer}.attn_k"), 0..rows, rows), width).await?;
        let v = loader.linear((format!("blk.{layer}.attn_v"), 0..rows, rows), width).await?;
        layers.push((k, v));
    }
    Ok(MapWeights { width, up, gate, layers })
}

/// Loads a layer whose tensors are named `{prefix}.*`.
pub(super) async fn layer(
    gguf: &Gguf,
    sources: &mut [Box<dyn Source>],
    backend: &mut dyn Backend,
    config: &ModelConfig,
    prefix: &str,
) -> Result<LayerWeights> {
    let mut ignore = |_| {};
    Loader::new(gguf, sources, backend, &mut ignore).layer(config, prefix).await
}

/// Loads a sidecar's acceptance head: weights `[dim]`, and the two numbers of its bias.
pub(super) async fn acceptance(
    gguf: &Gguf,
    sources: &mut [Box<dyn Source>],
    backend: &mut dyn Backend,
    dim: usize,
) -> Result<(Vec<f32>, Acceptance)> {
    let mut ignore = |_| {};
    let mut loader = Loader::new(gguf, sources, backend, &mut ignore);
    let weights = loader.floats("accept.weight", dim).await?;
    let bias = loader.floats("accept.bias", 2).await?;
    Ok((weights, Acceptance { constant: bias[0], confidence: bias[1] }))
}

struct Loader<'a> {
    gguf: &'a Gguf,
    sources: &'a mut [Box<dyn Source>],
    backend: &'a mut dyn Backend,
    progress: &'a mut dyn FnMut(Progress),
    staging: Vec<u8>,
    fingerprint: Fingerprint,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Loader<'a> {
    /// The layers as they lie in the file, which need not be by number (`blk.10` before `blk.2`): a file that is still being
    /// downloaded is read as it comes.
    fn in_file_order(&self, n_layers: usize) -> Vec<usize> {
        let mut layers: Vec<usize> = (0..n_layers).collect();
        layers.sort_by_key(|layer| {
            self.gguf.tensor(&format!("blk.{layer}.attn_norm.weight")).map(|info| (info.part, info.offset))
        });
        layers
    }

    fn new(
        gguf: &'a Gguf,
        sources: &'a mut [Box<dyn Source>],
        backend: &'a mut dyn Backend,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let total_bytes = gguf.tensors.iter().map(|t| t.n_bytes).sum();
        let (staging, fingerprint) = (Vec::new(), Fingerprint::default());
        Loader { gguf, sources, backend, progress, staging, fingerprint, done_bytes: 0, total_bytes }
    }

    async fn layer(&mut self, c: &ModelConfig, prefix: &str) -> Result<LayerWeights> {
        let name = |part: &str| format!("{prefix}.{part}");
        let (q_rows, kv_rows) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        // Phi 3 stores queries, keys and values as one tensor, gate and up as another.
        let fused = q_rows + 2 * kv_rows;
        let qkv = |part: &str, rows: Range<usize>| match self.gguf.tensor(&name("attn_qkv.weight")) {
            Some(_) => (name("attn_qkv"), rows, fused),
            None => (name(part), 0..rows.len(), rows.len()),
        };
        let gate_up = |part: &str, rows: Range<usize>| match self.gguf.tensor(&name("ffn_gate.weight")) {
            None => (name("ffn_up"), rows, 2 * c.ff_dim),
            Some(_) => (name(part), 0..rows.len(), rows.len()),
        };
        let (q, k, v) =
            (qkv("attn_q", 0..q_rows), qkv("attn_k", q_rows..q_rows + kv_rows), qkv("attn_v", q_rows + kv_rows..fused));
        let (gate, up) = (gate_up("ffn_gate", 0..c.ff_dim), gate_up("ffn_up", c.ff_dim..2 * c.ff_dim));
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm.weight"), c.dim).await?,
            q: self.linear(q, c.dim).await?,
            k: self.linear(k, c.dim).await?,
            v: self.linear(v, c.dim).await?,
            q_norm: self.opt_vector(&name("attn_q_norm.weight"), c.head_dim).await?,
            k_norm: self.opt_vector(&name("attn_k_norm.weight"), c.head_dim).await?,
            o: self.linear((name("attn_output"), 0..c.dim, c.dim), q_rows).await?,
            post_attn_norm: self.opt_vector(&name("post_attention_norm.weight"), c.dim).await?,
            ffn_norm: self.vector(&name("ffn_norm.weight"), c.dim).await?,
            gate: self.linear(gate, c.dim).await?,
            up: self.linear(up, c.dim).await?,
            down: self.linear((name("ffn_down"), 0..c.dim, c.dim), c.ff_dim).await?,
            post_ffn_norm: self.opt_vector(&name("post_ffw_norm.weight"), c.dim).await?,
        })
    }

    /// The rows of `{name}.weight`, which has `all` of them, and of `{name}.bias` where there is one.
    async fn linear(&mut self, (name, rows, all): (String, Range<usize>, usize), cols: usize) -> Result<Linear> {
        let weight = self.rows(&format!("{name}.weight"), rows.clone(), (all, cols)).await?;
        let bias_name = format!("{name}.bias");
        let bias = match self.gguf.tensor(&bias_name) {
            Some(_) => {
                let all = self.floats(&bias_name, all).await?;
                Some(self.upload(&all[rows])?)
            }
            None => None,
        };
        Ok(Linear { weight, bias })
    }

    async fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        self.rows(name, 0..rows, (rows, cols)).await
    }

    /// Streams some rows of a matrix `[all, cols]` into a weight.
    async fn rows(&mut self, name: &str, rows: Range<usize>, (all, cols): (usize, usize)) -> Result<Weight> {
        let info = self.find(name, &[cols, all])?;
        let weight = self.backend.new_weight(info.ty, rows.len(), cols).map_err(|e| e.at(name))?;
        let row_bytes = info.ty.row_bytes(cols).unwrap_or(0);
        // Panels of 16 rows; see `Backend::load_rows`.
        let step = (STAGING / row_bytes.max(1)).max(1).next_multiple_of(16);
        for first in rows.clone().step_by(step) {
            let n = step.min(rows.end - first);
            let offset = info.offset + (first * row_bytes) as u64;
            self.read(info, offset, n * row_bytes).await?;
            self.backend.load_rows(weight, first - rows.start, &self.staging).map_err(|e| e.at(name))?;
        }
        Ok(weight)
    }

    /// A tensor, which must have this shape (ggml's order).
    fn find(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo> {
        let info = self.gguf.tensor(name).ok_or_else(|| Error::bad_file(format!("tensor {name} is missing")))?;
        let found = info.dims.iter().rev().skip_while(|&&d| d == 1);
        let wanted = dims.iter().rev().skip_while(|&&d| d == 1).map(|&d| d as u64);
        if !found.copied().eq(wanted) {
            return Err(Error::bad_file(format!("tensor {name} should have shape {dims:?}, but has {:?}", info.dims)));
        }
        Ok(info)
    }

    /// Reads bytes of a tensor into `staging`.
    async fn read(&mut self, info: &TensorInfo, offset: u64, n_bytes: usize) -> Result<()> {
        let missing = || Error::invalid_request(format!("tensor {} is in a file that was not given", info.name));
        self.staging.resize(n_bytes, 0);
        let source = self.sources.get_mut(info.part).ok_or_else(missing)?;
        let mut read = source.read_at(offset, &mut self.staging);
        let awaited = poll_fn(|cx| {
            let state = read.as_mut().poll(cx);
            if state.is_pending() {
                self.backend.idle();
            }
            state
        });
        awaited.await.map_err(|e| e.at(&info.name))?;
        self.done_bytes += n_bytes as u64;
        (self.progress)(Progress { done_bytes: self.done_bytes.min(self.total_bytes), total_bytes: self.total_bytes });
        Ok(())
    }

    /// A vector as floats.
    async fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let info = self.find(name, &[len])?;
        self.read(info, info.offset, info.n_bytes as usize).await?;
        let mut values = vec![0.0; len];
        quant::decode(info.ty, &self.staging, &mut values).map_err(|e| e.at(name))?;
        Ok(values)
    }

    fn upload(&mut self, values: &[f32]) -> Result<Buf> {
        let buf = self.backend.new_buf(1, values.len())?;
        self.backend.write(buf, 0, values)?;
        Ok(buf)
    }

    async fn vector(&mut self, name: &str, len: usize) -> Result<Buf> {
        let values = self.floats(name, len).await?;
        self.fingerprint.add(name, &self.staging);
        self.upload(&values)
    }

    async fn opt_vector(&mut self, name: &str, len: usize) -> Result<Option<Buf>> {
        match self.gguf.tensor(name) {
            Some(_) => Ok(Some(self.vector(name, len).await?)),
            None => Ok(None),
        }
    }
}

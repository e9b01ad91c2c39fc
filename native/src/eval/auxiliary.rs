//! The paper's form of KV prediction (arXiv 2410.08391): an auxiliary model of its own reads the context, and linear maps take keys
//! and values of its layers to those of the base's. The file is one of `train/auxiliary.py`: a model, and beside its tensors the maps.

use crate::args::LoadArgs;
use crate::{load, store};
use foreword::batch::{Batch, SeqId};
use foreword::gguf::source::Source;
use foreword::gguf::{Gguf, Value};
use foreword::model::{Entries, Model, ModelConfig, ModelOptions};
use foreword::{Error, Result, quant};
use pollster::block_on;
use std::path::Path;

/// An auxiliary model with its maps.
pub(super) struct Auxiliary {
    /// The model, which can also be asked alone.
    pub(super) model: Model,
    /// Of every layer of the base.
    maps: Vec<Maps>,
}

/// Maps to one layer of the base.
struct Maps {
    /// The auxiliary's layer that they read.
    source: usize,
    keys: Map,
    values: Map,
}

/// `out = weight · in + bias`.
struct Map {
    /// `[out, in]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Auxiliary {
    /// Loads an auxiliary of a base.
    pub(super) fn load(path: &Path, base: &ModelConfig, args: &LoadArgs) -> Result<Auxiliary> {
        let read = || -> Result<Auxiliary> {
            let mut sources = store::sources(path)?;
            let mut gguf = block_on(Gguf::read(&mut sources))?;
            let maps = maps(&gguf, &mut sources, base)?;
            // What is left is a model of its own.
            gguf.tensors.retain(|t| !t.name.starts_with("map."));
            let options = ModelOptions {
                context_length: args.context,
                cache_type: args.cache_type.into(),
                cache_tokens: args.cache_tokens,
                ..ModelOptions::default()
            };
            let device = load::backend(args)?;
            let model = block_on(Model::load(&gguf, sources, device, &options, &mut |_| {}))?;
            let c = model.config();
            let fits = width(c) == width(base) && c.n_vocab == base.n_vocab;
            if !fits || maps.iter().any(|m| m.source >= c.layers.len()) {
                return Err(Error::invalid_request("this is no auxiliary of the model"));
            }
            Ok(Auxiliary { model, maps })
        };
        read().map_err(|e| e.at(path.display()))
    }

    /// Work of reading a token, as a share of that of all the base's layers (multiply-adds of weights).
    pub(super) fn share(&self, base: &ModelConfig) -> f64 {
        let work = |c: &ModelConfig| c.work(0..c.layers.len());
        let own = work(self.model.config());
        let maps: usize = self.maps.iter().map(|m| m.keys.weight.len() + m.values.weight.len()).sum();
        (own + maps) as f64 / work(base) as f64
    }

    /// Reads a context into a sequence of the base.
    pub(super) fn read(&mut self, base: &mut Model, seq: SeqId, context: &[u32]) -> Result<()> {
        let own = self.model.kv_mut().new_seq();
        let (layers, step) = (self.model.config().layers.len(), self.model.max_batch().min(base.max_batch()));
        let mut batch = Batch::new();
        for chunk in context.chunks(step) {
            batch.clear();
            batch.push_run(own, chunk, false);
            let seen = block_on(self.model.observe(&batch, layers, false))?;
            self.model.kv_mut().commit_run(own)?;
            let entries: Vec<Entries> = self.maps.iter().map(|maps| maps.apply(&seen[maps.source])).collect();
            batch.clear();
            batch.push_run(seq, chunk, false);
            base.put_entries(&batch, &entries)?;
            base.kv_mut().commit_run(seq)?;
        }
        self.model.kv_mut().free(own);
        Ok(())
    }
}

impl Maps {
    fn apply(&self, seen: &Entries) -> Entries {
        Entries { q: Vec::new(), k: self.keys.apply(&seen.k), v: self.values.apply(&seen.v) }
    }
}

impl Map {
    /// Of rows `[n, in]`, `[n, out]`.
    fn apply(&self, rows: &[f32]) -> Vec<f32> {
        let width = self.weight.len() / self.bias.len();
        let product = |row: &[f32], i: usize| -> f32 {
            let weights = &self.weight[i * width..][..width];
            row.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>() + self.bias[i]
        };
        rows.chunks_exact(width).flat_map(|row| (0..self.bias.len()).map(move |i| product(row, i))).collect()
    }
}

/// Width of the keys of a layer.
fn width(config: &ModelConfig) -> usize {
    config.attention(0).map_or(0, |a| a.kv_dim())
}

fn maps(gguf: &Gguf, sources: &mut [Box<dyn Source>], base: &ModelConfig) -> Result<Vec<Maps>> {
    let Some(Value::Integers(layers)) = gguf.metadata.get("foreword-auxiliary.sources") else {
        return Err(Error::invalid_request("a model without maps; train/auxiliary.py makes auxiliaries"));
    };
    if layers.len() != base.layers.len() {
        return Err(Error::invalid_request(format!(
            "maps to {} layers; the model has {}",
            layers.len(),
            base.layers.len()
        )));
    }
    let width = width(base);
    let mut map = |layer: usize, part: &str| -> Result<Map> {
        let weight = floats(gguf, sources, &format!("map.{layer}.{part}.weight"), width * width)?;
        Ok(Map { weight, bias: floats(gguf, sources, &format!("map.{layer}.{part}.bias"), width)? })
    };
    let maps = layers.iter().enumerate().map(|(layer, &source)| {
        Ok(Maps { source: source as usize, keys: map(layer, "attn_k")?, values: map(layer, "attn_v")? })
    });
    maps.collect()
}

/// A tensor of `n` values.
fn floats(gguf: &Gguf, sources: &mut [Box<dyn Source>], name: &str, n: usize) -> Result<Vec<f32>> {
    let info = gguf.tensor(name).ok_or_else(|| Error::bad_file(format!("tensor {name} is missing")))?;
    let (mut bytes, mut values) = (vec![0; info.n_bytes as usize], vec![0.0; n]);
    block_on(sources[info.part].read_at(info.offset, &mut bytes))?;
    quant::decode(info.ty, &bytes, &mut values)?;
    Ok(values)
}

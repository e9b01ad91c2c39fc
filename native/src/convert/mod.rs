//! `foreword convert`: a checkpoint of Hugging Face's, safetensors and `tokenizer.json`, as one GGUF file, in the memory of a few
//! rows. What comes of it is what llama.cpp's converter makes.

mod checkpoint;
mod dense;
mod families;
mod general;
mod json;
mod model;
mod tensors;
mod vocab;

use crate::args::{ConvertArgs, Float};
use crate::output::Output;
use crate::{store, term};
use checkpoint::Checkpoint;
use foreword::Result;
use foreword::gguf::source::{Read, Source};
use foreword::gguf::write::{self, Entry, Pair};
use foreword::gguf::{Gguf, Value};
use foreword::quant::TensorType;
use indicatif::ProgressBar;
use model::Model;
use pollster::block_on;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use tensors::Planned;

const ALIGNMENT: u64 = 32;

pub(crate) fn convert(args: &ConvertArgs) -> Result<()> {
    // First, as what follows may download for hours.
    let mut out = Output::create(&args.out)?;
    let folder = store::checkpoint(&args.model)?;
    let model = Model::open(&folder)?;
    let mut checkpoint = Checkpoint::open(&folder)?;
    let ty = match args.ty {
        Float::Auto => tensors::type_of(&checkpoint),
        Float::F32 => TensorType::F32,
        Float::F16 => TensorType::F16,
        Float::Bf16 => TensorType::BF16,
    };
    let mut planned: Vec<Planned> =
        model.rope_factors().map(|factors| Planned::of("rope_freqs.weight", factors)).into_iter().collect();
    planned.extend(tensors::plan(&model, &checkpoint, ty)?);
    let dense = dense::add(&model, &mut checkpoint, ty)?;
    planned.extend(dense.tensors);
    let weights = planned.iter().map(Planned::weights).sum();
    let mut pairs = general::metadata(&model, &folder, (weights, ty))?;
    pairs.extend(model.metadata(&folder)?);
    pairs.extend(dense.pairs);
    pairs.extend(vocab::metadata(&model, &folder)?);
    out.write(&header(&pairs, &planned)?)?;
    let bar = ProgressBar::new(planned.iter().map(Planned::n_bytes).sum());
    for tensor in &planned {
        let written = tensors::write(tensor, &mut checkpoint.files, model.head_dim(), (&mut out, &bar));
        written.and_then(|()| out.pad(ALIGNMENT)).map_err(|e| e.at(format!("tensor {}", tensor.name)))?;
    }
    bar.finish_and_clear();
    report(args, &model, (planned.len(), ty), out.finish()?)
}

/// The files that an index of safetensors names.
pub(crate) fn shards(folder: &Path) -> Result<BTreeSet<String>> {
    Ok(checkpoint::index(folder)?.unwrap_or_default().into_values().collect())
}

/// Whether a folder has all files with weights.
pub(crate) fn has_weights(folder: &Path) -> Result<bool> {
    let shards = shards(folder)?;
    let is_whole = !shards.is_empty() && shards.iter().all(|shard| folder.join(shard).exists());
    Ok(is_whole || folder.join("model.safetensors").exists())
}

/// All in front of the tensors, once it was read again: shapes and numbers that make no model are refused before anything is
/// written.
fn header(pairs: &[(String, Value)], planned: &[Planned]) -> Result<Vec<u8>> {
    let pairs: Vec<Pair<'_>> = pairs.iter().map(|(key, value)| Pair::New(key, value)).collect();
    let entries = planned.iter().map(|t| Entry { name: &t.name, ty: t.ty, dims: &t.dims, n_bytes: t.n_bytes() });
    let entries: Vec<Entry<'_>> = entries.collect();
    let header = write::header(&pairs, ALIGNMENT, &entries);
    let data: u64 = planned.iter().map(|t| t.n_bytes().next_multiple_of(ALIGNMENT)).sum();
    let len = header.len() as u64 + data;
    let gguf = block_on(Gguf::read(&mut [Box::new(Ahead { header: header.clone(), len })]))?;
    foreword::model::config_of(&gguf, None)?;
    Ok(header)
}

/// A file of which there is only the header yet.
struct Ahead {
    header: Vec<u8>,
    len: u64,
}

impl Source for Ahead {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        let there = self.header.get(offset as usize..).unwrap_or_default();
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        Box::pin(std::future::ready(Ok(())))
    }
}

fn report(args: &ConvertArgs, model: &Model, (tensors, ty): (usize, TensorType), bytes: u64) -> Result<()> {
    let name = model.family.name;
    if args.report.json {
        return term::print_json(&json!({
            "path": args.out.to_string_lossy(), "bytes": bytes, "architecture": name, "tensors": tensors, "type": ty.name(),
        }));
    }
    term::print(&format!("{:.1} MB: {name}, {tensors} tensors, matrices as {}\n", bytes as f64 / 1e6, ty.name()))
}

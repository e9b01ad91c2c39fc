//! Tensors: which of a checkpoint's become which of a GGUF file's, and their way there, some rows at a time.

use super::checkpoint::{Checkpoint, Stored};
use super::families::{Change, Row};
use super::model::Model;
use crate::output::Output;
use foreword::gguf::source::{FileSource, Source};
use foreword::quant::{self, TensorType, encode};
use foreword::{Error, Result};
use indicatif::ProgressBar;
use pollster::block_on;
use safetensors::tensor::Dtype;
use std::collections::BTreeSet;

/// Weights that are in memory at a time, unless a head has more.
const CHUNK: u64 = 1 << 20;

/// A tensor that is to be written.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) ty: TensorType,
    /// The length of a row first.
    pub(super) dims: Vec<u64>,
    from: Origin,
}

enum Origin {
    Stored(Stored, Change),
    Values(Vec<f32>),
}

impl Planned {
    pub(super) fn n_bytes(&self) -> u64 {
        self.weights() * self.ty.block_bytes() as u64
    }

    pub(super) fn weights(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Of values that no checkpoint stores.
    pub(super) fn of(name: &str, values: &[f32]) -> Planned {
        let dims = vec![values.len() as u64];
        Planned { name: name.into(), ty: TensorType::F32, dims, from: Origin::Values(values.to_vec()) }
    }

    /// Of weights that stay as they are.
    pub(super) fn copy(name: String, stored: Stored, ty: TensorType) -> Result<Planned> {
        can_be_read(&stored)?;
        let dims = stored.shape.iter().rev().copied().collect();
        Ok(Planned { name, ty, dims, from: Origin::Stored(stored, Change::Keep) })
    }
}

/// What the tensors of a checkpoint become: those outside layers first, then layer by layer, as files are loaded.
pub(super) fn plan(model: &Model, checkpoint: &Checkpoint, ty: TensorType) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    let mut found = BTreeSet::new();
    for stored in &checkpoint.tensors {
        let Some(place) = Place::of(model, &stored.name)? else { continue };
        check(model, stored, &place)?;
        let (layer, name) = (place.layer, place.name());
        if !found.insert(name.clone()) {
            return Err(Error::bad_file(format!("two tensors become {name}; one of them is {}", stored.name)));
        }
        let mut dims: Vec<u64> = stored.shape.iter().rev().copied().collect();
        if place.row.change == Change::Flatten && dims.len() == 3 {
            dims.remove(1);
        }
        let ty = if is_small(&name, &dims) { TensorType::F32 } else { ty };
        planned.push((layer, Planned { name, ty, dims, from: Origin::Stored(stored.clone(), place.row.change) }));
    }
    is_whole(model, &found)?;
    planned.sort_by_key(|(layer, _)| *layer);
    Ok(planned.into_iter().map(|(_, planned)| planned).collect())
}

/// Stays F32 whatever the file's type is: it is small, and much depends on it.
fn is_small(name: &str, dims: &[u64]) -> bool {
    const KEPT: &[&str] = &["position_embd.weight", "token_types.weight", "shortconv.conv.weight", "_norm.weight"];
    dims.len() < 2 || !name.ends_with(".weight") || KEPT.iter().any(|end| name.ends_with(end))
}

/// The type of the first matrix that has fewer than 32 bits, or F16.
pub(super) fn type_of(checkpoint: &Checkpoint) -> TensorType {
    let half = |t: &Stored| match t.dtype {
        Dtype::BF16 if t.shape.len() > 1 => Some(TensorType::BF16),
        Dtype::F16 if t.shape.len() > 1 => Some(TensorType::F16),
        _ => None,
    };
    checkpoint.tensors.iter().find_map(half).unwrap_or(TensorType::F16)
}

/// Where a tensor belongs.
struct Place {
    row: &'static Row,
    /// Of a layer.
    layer: Option<u64>,
    is_bias: bool,
}

impl Place {
    /// That of a name; nothing where no text needs the tensor.
    fn of(model: &Model, name: &str) -> Result<Option<Place>> {
        const NEVER: [&str; 3] = [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];
        let family = model.family;
        let plain = name.replace("language_model.", "");
        let plain = plain.strip_prefix(family.prefix).unwrap_or(&plain);
        let is_skipped = |part: &str| family.skipped.iter().any(|start| part.starts_with(start));
        if is_skipped(plain) || NEVER.iter().any(|end| plain.ends_with(end)) {
            return Ok(None);
        }
        let unknown = || Error::unsupported(format!("tensor {name} is none that {} models have", family.name));
        let (stem, kind) = plain.rsplit_once('.').ok_or_else(unknown)?;
        let is_bias = match kind {
            // The latter names are those of TensorFlow's checkpoints.
            "weight" | "gamma" => false,
            "bias" | "beta" => true,
            _ => return Err(unknown()),
        };
        let inside = stem.strip_prefix(family.layer).and_then(|rest| rest.split_once('.'));
        let (rows, stem, layer) = match inside {
            Some((number, stem)) => (family.layers, stem, Some(number.parse().map_err(|_| unknown())?)),
            None => (family.tensors, stem, None),
        };
        let row = rows.iter().find(|row| row.from == stem).ok_or_else(unknown)?;
        if layer.is_some_and(|layer| layer >= model.n_layers) {
            return Err(Error::bad_file(format!(
                "num_hidden_layers is {}, but there is a tensor {name}",
                model.n_layers
            )));
        }
        Ok(Some(Place { row, layer, is_bias }))
    }

    /// Its name in GGUF.
    fn name(&self) -> String {
        let end = if self.is_bias { "bias" } else { "weight" };
        match self.layer {
            Some(layer) => format!("blk.{layer}.{}.{end}", self.row.to),
            None => format!("{}.{end}", self.row.to),
        }
    }
}

/// Whether a tensor has numbers that can be read, in the shape that `config.json` gives it.
fn check(model: &Model, stored: &Stored, place: &Place) -> Result<()> {
    let wanted: Vec<u64> = place.row.shape.iter().map(|&dim| model.dim(dim)).collect::<Result<_>>()?;
    let wanted = if place.is_bias { &wanted[..1] } else { &wanted[..] };
    if stored.shape != wanted {
        let message = format!("{} is {:?}; by config.json it should be {wanted:?}", stored.name, stored.shape);
        return Err(Error::bad_file(message));
    }
    can_be_read(stored)
}

fn can_be_read(stored: &Stored) -> Result<()> {
    match stored.dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
        other => Err(Error::unsupported(format!(
            "{} is {other:?}: quantized checkpoints are not converted; take the one in BF16, F16 or F32",
            stored.name
        ))),
    }
}

/// Whether nothing is missing that every model of the family has.
fn is_whole(model: &Model, found: &BTreeSet<String>) -> Result<()> {
    let layers = (0..model.n_layers).flat_map(|layer| model.family.layers.iter().map(move |row| (row, Some(layer))));
    let all = model.family.tensors.iter().map(|row| (row, None)).chain(layers);
    for (row, layer) in all.filter(|(row, _)| row.is_required) {
        let place = Place { row, layer, is_bias: false };
        if !found.contains(&place.name()) {
            let inside = layer.map_or(String::new(), |layer| format!("{}{layer}.", model.family.layer));
            let message = format!("{inside}{}.weight is in none of the files: a piece may be missing", row.from);
            return Err(Error::bad_file(message));
        }
    }
    Ok(())
}

/// Writes a tensor's data.
pub(super) fn write(
    planned: &Planned,
    files: &mut [FileSource],
    head_dim: u64,
    (out, bar): (&mut Output, &ProgressBar),
) -> Result<()> {
    let (stored, change) = match &planned.from {
        Origin::Values(values) => return put(planned.ty, values, out),
        Origin::Stored(stored, change) => (stored, *change),
    };
    let rows = stored.shape.first().copied().unwrap_or(1);
    let cols: u64 = stored.shape.iter().skip(1).product();
    // Rows of a head change places, so heads are read whole.
    let unit = if change == Change::Interleave { head_dim } else { 1 };
    let step = (CHUNK / cols.max(1) / unit).max(1) * unit;
    let source = &mut files[stored.file];
    for first in (0..rows).step_by(step as usize) {
        let n = step.min(rows - first) * cols;
        let size = stored.dtype.bitsize() as u64 / 8;
        let mut bytes = vec![0; (n * size) as usize];
        block_on(source.read_at(stored.offset + first * cols * size, &mut bytes))?;
        let mut values = decode(stored.dtype, &bytes)?;
        match change {
            Change::Keep | Change::Flatten => {}
            Change::AddOne => values.iter_mut().for_each(|v| *v += 1.0),
            Change::Interleave => values = interleave(&values, head_dim as usize, cols as usize),
        }
        put(planned.ty, &values, out)?;
        bar.inc(n * planned.ty.block_bytes() as u64);
    }
    Ok(())
}

fn put(ty: TensorType, values: &[f32], out: &mut Output) -> Result<()> {
    let mut bytes = Vec::new();
    encode::encode(ty, values, None, &mut bytes)?;
    out.write(&bytes)
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    let ty = match dtype {
        Dtype::F64 => return Ok(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
        Dtype::BF16 => TensorType::BF16,
        Dtype::F16 => TensorType::F16,
        _ => TensorType::F32,
    };
    let mut values = vec![0.0; bytes.len() / ty.block_bytes()];
    quant::decode(ty, bytes, &mut values)?;
    Ok(values)
}

/// Rows of whole heads: that of the first half and that of the second half of each head take turns.
fn interleave(values: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * cols) {
        let row = |i: usize| &head[i * cols..(i + 1) * cols];
        for i in 0..head_dim / 2 {
            out.extend_from_slice(row(i));
            out.extend_from_slice(row(i + head_dim / 2));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::interleave;

    #[test]
    fn halves_of_each_head_take_turns() {
        let rows: Vec<f32> = (0..16).map(|n| n as f32).collect();
        let wanted = [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 12.0, 13.0, 10.0, 11.0, 14.0, 15.0];
        assert_eq!(interleave(&rows, 4, 2), wanted);
    }
}

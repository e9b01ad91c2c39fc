//! Tensors of a file into the backend's memory, one at a time: file and repacked weights never both lie whole in memory.

use super::per_layer::TablePlace;
use super::sound;
use crate::backend::{Backend, Buf, Epilogue, NormWeights, Product, Stack, Weight};
use crate::error::{Error, Result};
use crate::gguf::source::Source;
use crate::gguf::{Gguf, TensorInfo};
use crate::quant;
use crate::sidecar::Fingerprint;
use std::collections::HashSet;
use std::future::poll_fn;
use std::ops::Range;

/// A weight, the factor on its products and their bias, and that bias `[rows]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: Weight,
    /// 1 but where the file has one, as it has for NVFP4.
    pub(super) scale: f32,
    pub(super) bias: Option<Buf>,
}

impl Linear {
    /// The product that is stored as it is.
    pub(super) fn store(self, out: Buf) -> Product {
        Product {
            weight: self.weight,
            out,
            epilogue: Epilogue { scale: self.scale, bias: self.bias, ..Epilogue::STORE },
        }
    }
}

/// Where a [`Linear`] lies in a file: rows of `{name}.weight` and `{name}.bias`, and `{name}.scale`. These have `times` runs of
/// `all` rows, and the rows are those of each run.
pub(super) struct Place {
    name: String,
    rows: Range<usize>,
    all: usize,
    times: usize,
}

impl Place {
    /// Tensors of its own.
    pub(super) fn whole(name: String, rows: usize) -> Self {
        Place { name, rows: 0..rows, all: rows, times: 1 }
    }

    /// Some rows of tensors that hold others, too.
    pub(super) fn part(name: String, rows: Range<usize>, all: usize) -> Self {
        Place { name, rows, all, times: 1 }
    }

    /// Some rows of each of so many runs; as many as a multiple of 16 (see [`Backend::load_rows`]).
    pub(super) fn each(name: String, rows: Range<usize>, all: usize, times: usize) -> Self {
        Place { name, rows, all, times }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of tensors loaded.
    pub done_bytes: u64,
    /// Bytes of all tensors.
    pub total_bytes: u64,
}

/// Ends of the names of tensors that may be passed over: factors of rotations that follow from the metadata, or are for
/// other lengths of the context, and scales for activations of four bits.
const UNUSED: [&str; 5] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "attn_rot_embd.weight",
    ".input_scale",
];

/// Bytes of a tensor that are in memory in file form at a time.
const STAGING: usize = 1 << 20;

/// Reads tensors into a backend.
pub(super) struct Loader<'a> {
    gguf: &'a Gguf,
    sources: &'a mut [Box<dyn Source>],
    backend: &'a mut dyn Backend,
    progress: &'a mut dyn FnMut(Progress),
    staging: Vec<u8>,
    /// Names of the tensors that were read.
    used: HashSet<&'a str>,
    pub(super) fingerprint: Fingerprint,
    /// Whether norms are LayerNorms.
    pub(super) layer_norm: bool,
    /// The tensors of what [`Self::linear`] loaded.
    pub(super) linears: Vec<(Weight, String)>,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        gguf: &'a Gguf,
        sources: &'a mut [Box<dyn Source>],
        backend: &'a mut dyn Backend,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let total_bytes = gguf.tensors.iter().map(|t| t.n_bytes).sum();
        let (staging, used, fingerprint) = (Vec::new(), HashSet::new(), Fingerprint::default());
        let (layer_norm, linears, done_bytes) = (false, Vec::new(), 0);
        Loader {
            gguf,
            sources,
            backend,
            progress,
            staging,
            used,
            fingerprint,
            layer_norm,
            linears,
            done_bytes,
            total_bytes,
        }
    }

    /// Whether every tensor of the file was read, but for those of layers from `n_layers` on: a model without one of its parts gives
    /// other answers.
    pub(super) fn nothing_is_left(&self, n_layers: usize) -> Result<()> {
        let left = |name: &&str| {
            let is_behind = sound::layer_of(name).is_some_and(|layer| layer >= n_layers);
            !self.used.contains(name) && !is_behind && !UNUSED.iter().any(|unused| name.ends_with(unused))
        };
        let left: Vec<&str> = self.gguf.tensors.iter().map(|t| t.name.as_str()).filter(left).collect();
        match left[..] {
            [] => Ok(()),
            [first, ..] => Err(Error::unsupported(format!(
                "{} tensors of the file have no place in this architecture as Foreword knows it, {first} among them",
                left.len()
            ))),
        }
    }

    /// Whether the file has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// A tensor, if the file has it.
    pub(super) fn info(&self, name: &str) -> Option<&'a TensorInfo> {
        self.gguf.tensor(name)
    }

    /// Passes over a tensor, if the file has it: the layer uses what another one makes.
    pub(super) fn pass_over(&mut self, name: &str) {
        self.used.extend(self.gguf.tensor(name).map(|info| info.name.as_str()));
    }

    /// The table of rows for each token, of which only the first one is read here: where it lies.
    pub(super) async fn table_place(&mut self, name: &str, rows: usize, cols: usize) -> Result<TablePlace> {
        let info = self.find(name, &[cols, rows])?;
        let row_bytes = info.ty.row_bytes(cols).unwrap_or(0);
        self.read(info, info.offset, row_bytes).await?;
        self.fingerprint.add_matrix(name, &self.staging);
        Ok(TablePlace { part: info.part, ty: info.ty, offset: info.offset, row_bytes })
    }

    /// The factor on the stream behind a layer: 1 where the file has none.
    pub(super) async fn gain(&mut self, name: &str, is_normed: bool) -> Result<f32> {
        if !self.has(name) {
            return Ok(1.0);
        }
        let gain = self.floats(name, 1).await?[0];
        match is_normed && gain > 0.0 {
            true => Ok(gain),
            false => Err(Error::unsupported(format!("{name} of {gain} behind a feed-forward (normed: {is_normed})"))),
        }
    }

    /// Reports that everything is there.
    pub(super) fn finish(&mut self) {
        (self.progress)(Progress { done_bytes: self.total_bytes, total_bytes: self.total_bytes });
    }

    /// A weight of so many columns, and its bias where there is one.
    pub(super) async fn linear(&mut self, place: Place, cols: usize) -> Result<Linear> {
        let Place { name, rows, all, times } = place;
        let tensor = format!("{name}.weight");
        let info = self.find(&tensor, &[cols, all * times])?;
        let weight = self.backend.new_weight(info.ty, rows.len() * times, cols).map_err(|e| e.at(&tensor))?;
        for run in 0..times {
            let (from, to) = (run * all, run * rows.len());
            self.stream(info, weight, (from + rows.start..from + rows.end, to), cols).await?;
        }
        let (scale_name, bias_name) = (format!("{name}.scale"), format!("{name}.bias"));
        let scale = if self.has(&scale_name) { self.floats(&scale_name, 1).await?[0] } else { 1.0 };
        if scale <= 0.0 {
            return Err(Error::bad_file(format!("tensor {scale_name} should be above 0, but is {scale}")));
        }
        let bias = match self.gguf.tensor(&bias_name) {
            Some(_) => {
                // The backend puts the factor on product and bias together, but only the product is to have it.
                let found = self.floats(&bias_name, all * times).await?;
                let of_run = |run: &[f32]| run[rows.clone()].iter().map(|b| b / scale).collect();
                let runs: Vec<Vec<f32>> = found.chunks_exact(all).map(of_run).collect();
                Some(self.upload(&runs.concat())?)
            }
            None => None,
        };
        self.linears.push((weight, tensor));
        Ok(Linear { weight, scale, bias })
    }

    /// A weight without a bias of its own, with this one.
    pub(super) async fn biased(&mut self, linear: Linear, name: &str, rows: usize) -> Result<Linear> {
        if linear.bias.is_some() {
            return Err(Error::unsupported(format!("{name} beside another bias of the same product")));
        }
        // The factor is on product and bias, but only the product is to have it.
        let bias: Vec<f32> = self.floats(name, rows).await?.into_iter().map(|b| b / linear.scale).collect();
        Ok(Linear { bias: Some(self.upload(&bias)?), ..linear })
    }

    /// The same for each of `n` experts, which a file has one behind the other.
    pub(super) async fn stack(&mut self, (place, n): (Place, usize), cols: usize) -> Result<Stack> {
        let Place { name, rows, all, .. } = place;
        let (tensor, scale_name, bias_name) =
            (format!("{name}.weight"), format!("{name}.scale"), format!("{name}.bias"));
        let (info, n_rows) = (self.find(&tensor, &[cols, all, n])?, rows.len());
        let pitch = Stack::pitch(n_rows);
        let weight = self.backend.new_weight(info.ty, n * pitch, cols).map_err(|e| e.at(&tensor))?;
        for expert in 0..n {
            let from = expert * all + rows.start;
            self.stream(info, weight, (from..from + n_rows, expert * pitch), cols).await?;
        }
        let scales = match self.has(&scale_name) {
            true => self.floats(&scale_name, n).await?,
            false => vec![1.0; n],
        };
        if let Some(scale) = scales.iter().find(|&&scale| scale <= 0.0) {
            return Err(Error::bad_file(format!("tensor {scale_name} should be above 0, but holds {scale}")));
        }
        let mut bias = None;
        if self.has(&bias_name) {
            let found = self.floats_of(&bias_name, &[all, n]).await?;
            // The factor is on product and bias, but only the product is to have it.
            let of_expert = |(biases, scale): (&[f32], &f32)| biases[rows.clone()].iter().map(|b| b / scale).collect();
            let all: Vec<Vec<f32>> = found.chunks_exact(all).zip(&scales).map(of_expert).collect();
            bias = Some(self.upload(&all.concat())?);
        }
        let scale = if self.has(&scale_name) { Some(self.upload(&scales)?) } else { None };
        Ok(Stack { weight, rows: n_rows, scale, bias })
    }

    pub(super) async fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        self.rows(name, 0..rows, rows, cols).await
    }

    /// Streams some rows of a matrix `[all, cols]` into a weight.
    pub(super) async fn rows(&mut self, name: &str, rows: Range<usize>, all: usize, cols: usize) -> Result<Weight> {
        let info = self.find(name, &[cols, all])?;
        let weight = self.backend.new_weight(info.ty, rows.len(), cols).map_err(|e| e.at(name))?;
        self.stream(info, weight, (rows, 0), cols).await?;
        Ok(weight)
    }

    /// Streams rows of a tensor into a weight, from row `to` of it on.
    async fn stream(
        &mut self,
        info: &'a TensorInfo,
        weight: Weight,
        (rows, to): (Range<usize>, usize),
        cols: usize,
    ) -> Result<()> {
        let row_bytes = info.ty.row_bytes(cols).unwrap_or(0);
        // Panels of 16 rows; see `Backend::load_rows`.
        let step = (STAGING / row_bytes.max(1)).max(1).next_multiple_of(16);
        for first in rows.clone().step_by(step) {
            let n = step.min(rows.end - first);
            let offset = info.offset + (first * row_bytes) as u64;
            self.read(info, offset, n * row_bytes).await?;
            if first == 0 {
                self.fingerprint.add_matrix(&info.name, &self.staging);
            }
            let first = to + first - rows.start;
            self.backend.load_rows(weight, first, &self.staging).map_err(|e| e.at(&info.name))?;
        }
        Ok(())
    }

    /// A tensor, which must have this shape (ggml's order).
    fn find(&mut self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo> {
        let info = self.gguf.tensor(name).ok_or_else(|| Error::bad_file(format!("tensor {name} is missing")))?;
        let found = info.dims.iter().rev().skip_while(|&&d| d == 1);
        let wanted = dims.iter().rev().skip_while(|&&d| d == 1).map(|&d| d as u64);
        if !found.copied().eq(wanted) {
            return Err(Error::bad_file(format!("tensor {name} should have shape {dims:?}, but has {:?}", info.dims)));
        }
        self.used.insert(&info.name);
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
        drop(read);
        if !info.are_numbers(&self.staging) {
            let name = &info.name;
            return Err(Error::bad_file(format!("tensor {name} holds values that are not numbers, or absurdly large")));
        }
        self.done_bytes += n_bytes as u64;
        (self.progress)(Progress { done_bytes: self.done_bytes.min(self.total_bytes), total_bytes: self.total_bytes });
        Ok(())
    }

    /// A vector as floats.
    pub(super) async fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.floats_of(name, &[len]).await
    }

    /// A tensor of this shape (ggml's order) as floats.
    pub(super) async fn floats_of(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let info = self.find(name, dims)?;
        self.decoded(info, dims.iter().product()).await
    }

    /// A matrix `[rows, cols]` of floats, column by column: `[cols, rows]`.
    pub(super) async fn columns(&mut self, name: &str, rows: usize, cols: usize) -> Result<Buf> {
        let info = self.find(name, &[cols, rows])?;
        let values = self.decoded(info, rows * cols).await?;
        self.fingerprint.add(name, &self.staging);
        let turned: Vec<f32> = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
        let buf = self.backend.new_buf(cols, rows)?;
        self.backend.write(buf, 0, &turned)?;
        Ok(buf)
    }

    /// A table of rows of `dim` values as floats, if the file has it.
    pub(super) async fn table(&mut self, name: &str, dim: usize) -> Result<Option<Vec<f32>>> {
        let Some(rows) = self.info(name).map(|info| info.dims.get(1).map_or(1, |&n| n as usize)) else {
            return Ok(None);
        };
        let info = self.find(name, &[dim, rows])?;
        Ok(Some(self.decoded(info, dim * rows).await?))
    }

    async fn decoded(&mut self, info: &'a TensorInfo, len: usize) -> Result<Vec<f32>> {
        self.read(info, info.offset, info.n_bytes as usize).await?;
        let mut values = vec![0.0; len];
        quant::decode(info.ty, &self.staging, &mut values).map_err(|e| e.at(&info.name))?;
        Ok(values)
    }

    pub(super) fn upload(&mut self, values: &[f32]) -> Result<Buf> {
        let buf = self.backend.new_buf(1, values.len())?;
        self.backend.write(buf, 0, values)?;
        Ok(buf)
    }

    pub(super) async fn vector(&mut self, name: &str, len: usize) -> Result<Buf> {
        let values = self.floats(name, len).await?;
        self.fingerprint.add(name, &self.staging);
        self.upload(&values)
    }

    /// The norm `{name}`, or, where the file has none of this name, the norm `{behind}` of the block before, which replaces the
    /// stream.
    pub(super) async fn norm(&mut self, name: &str, behind: &str, dim: usize) -> Result<NormWeights> {
        let tensor = |name: &str, part: &str| format!("{name}.{part}");
        let replaces = !self.has(&tensor(name, "weight")) && self.has(&tensor(behind, "weight"));
        let name = if replaces { behind } else { name };
        // Falcon-H1 has one without the ending.
        let bare = self.has(name) && !self.has(&tensor(name, "weight"));
        let weight = if bare { name.to_string() } else { tensor(name, "weight") };
        let weight = self.vector(&weight, dim).await?;
        let bias = self.opt_vector(&tensor(name, "bias"), dim).await?;
        Ok(NormWeights { weight, bias, centered: self.layer_norm, replaces })
    }

    pub(super) async fn opt_vector(&mut self, name: &str, len: usize) -> Result<Option<Buf>> {
        self.vector_if(self.has(name), name, len).await
    }

    /// A vector that must be there where it is wanted, and is not read otherwise.
    pub(super) async fn vector_if(&mut self, wanted: bool, name: &str, len: usize) -> Result<Option<Buf>> {
        match wanted {
            true => Ok(Some(self.vector(name, len).await?)),
            false => Ok(None),
        }
    }
}

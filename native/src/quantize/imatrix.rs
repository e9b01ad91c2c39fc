//! How much each column of a matrix matters: mean squares of what it is multiplied by, in llama.cpp's form of GGUF.
//!
//! Of each tensor NAME there are `NAME.in_sum2`, the sums of squares `[cols, matrices]`, and `NAME.counts`, how many rows were summed
//! `[1, matrices]`.

use super::calibrate::Calibration;
use crate::args::ImatrixArgs;
use crate::output::Output;
use crate::{load, store, term};
use foreword::gguf::source::Source;
use foreword::gguf::write::{self, Tensor};
use foreword::gguf::{Gguf, Metadata, TensorInfo, Value};
use foreword::quant::TensorType;
use foreword::{Error, Result};
use pollster::block_on;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `foreword imatrix`.
pub(crate) fn imatrix(args: &ImatrixArgs) -> Result<()> {
    let mut out = Output::create(&args.out)?;
    let mut calibration = Calibration::open(&args.model, &args.file, &args.windows, load::threads(args.threads)?)?;
    type Sums = BTreeMap<String, (Vec<f64>, u64)>;
    let sums = calibration.run(Sums::new(), |all, tensors, x, cols| {
        // A tensor whose parts are matrices of their own is named once for each.
        for tensor in tensors.iter().enumerate().filter(|(i, tensor)| !tensors[..*i].contains(tensor)).map(|(_, t)| t) {
            let (sums, count) = all.entry((*tensor).to_string()).or_insert_with(|| (vec![0.0; cols], 0));
            for row in x.chunks_exact(cols) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                *count += 1;
            }
        }
    })?;
    let mut metadata = Metadata::default();
    let file = args.file.to_string_lossy();
    metadata.insert("general.type", Value::String("imatrix".into()));
    metadata.insert("imatrix.datasets", Value::Strings([&*file].into_iter().collect()));
    metadata.insert("imatrix.chunk_count", Value::Unsigned(calibration.windows() as u64));
    metadata.insert("imatrix.chunk_size", Value::Unsigned(args.windows.context as u64));
    let bytes = |values: &[f64]| values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect::<Vec<u8>>();
    let owned = sums.iter().flat_map(|(name, (sums, count))| {
        let (n, data) = (sums.len() as u64, bytes(sums));
        [(format!("{name}.in_sum2"), [n, 1], data), (format!("{name}.counts"), [1, 1], bytes(&[*count as f64]))]
    });
    let owned: Vec<(String, [u64; 2], Vec<u8>)> = owned.collect();
    let tensors: Vec<Tensor<'_>> =
        owned.iter().map(|(name, dims, data)| Tensor { name, ty: TensorType::F32, dims, data }).collect();
    out.write(&write::to_bytes(&metadata, &tensors)?)?;
    out.finish()?;
    let n = calibration.windows() * args.windows.context;
    term::print(&format!("inputs of {} matrices over {n} tokens\n", sums.len()))
}

/// Of each tensor the importance of columns, matrix by matrix.
pub(super) struct Importance {
    of: BTreeMap<String, Vec<f32>>,
    path: PathBuf,
}

impl Importance {
    /// Reads a file of `foreword imatrix` or of llama.cpp.
    pub(super) fn open(path: &Path) -> Result<Importance> {
        let at = |e: Error| e.at(path.display());
        let mut sources = store::sources(path)?;
        let gguf = block_on(Gguf::read(&mut sources)).map_err(at)?;
        if gguf.metadata.opt_str("general.type")? != Some("imatrix") {
            return Err(at(Error::invalid_request("no importance matrix; `foreword imatrix` makes one")));
        }
        let mut of = BTreeMap::new();
        for info in &gguf.tensors {
            let Some(name) = info.name.strip_suffix(".in_sum2") else { continue };
            let counts = gguf.tensor(&format!("{name}.counts"));
            let counts = counts.ok_or_else(|| at(Error::bad_file(format!("{name}.counts is missing"))))?;
            let (sums, counts) = (floats(info, &mut sources)?, floats(counts, &mut sources)?);
            let cols = info.dims[0] as usize;
            let mean = |(i, sum): (usize, &f32)| sum / counts.get(i / cols).copied().unwrap_or(0.0).max(1.0);
            let means: Vec<f32> = sums.iter().enumerate().map(mean).collect();
            if means.iter().any(|m| !(m.is_finite() && *m >= 0.0)) {
                return Err(at(Error::bad_file(format!("{name}.in_sum2 holds values that are no mean squares"))));
            }
            of.insert(name.to_string(), means);
        }
        Ok(Importance { of, path: path.to_path_buf() })
    }

    /// That of a tensor `[cols]`, for each of its matrices. A matrix of a layer that has none makes the file one of another
    /// model; experts and what stands outside layers may have none.
    pub(super) fn of(&self, info: &TensorInfo) -> Result<Option<&[f32]>> {
        let other = |what: String| {
            Error::invalid_request(format!("an importance matrix of another model: {what}")).at(self.path.display())
        };
        let matrices: u64 = info.dims.get(2..).unwrap_or_default().iter().product();
        let Some(found) = self.of.get(&info.name) else {
            return match info.name.starts_with("blk.") && matrices == 1 {
                true => Err(other(format!("it has nothing for {}", info.name))),
                false => Ok(None),
            };
        };
        let wanted = info.dims[0].saturating_mul(matrices);
        match found.len() as u64 == wanted {
            true => Ok(Some(found)),
            false => Err(other(format!("{} has {} columns there, not {wanted}", info.name, found.len()))),
        }
    }
}

fn floats(info: &TensorInfo, sources: &mut [Box<dyn Source>]) -> Result<Vec<f32>> {
    let mut bytes = vec![0; info.n_bytes as usize];
    block_on(sources[info.part].read_at(info.offset, &mut bytes))?;
    let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
    foreword::quant::decode(info.ty, &bytes, &mut values)?;
    Ok(values)
}

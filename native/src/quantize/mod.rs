//! `foreword quantize`: a model's tensors in another type, one after the other, in the memory of a few rows.

mod calibrate;
pub(crate) mod imatrix;
mod plan;

use crate::args::{Method, QuantizeArgs};
use crate::output::Output;
use crate::{load, store, term};
use calibrate::{Calibration, Rounding};
use foreword::gguf::source::Source;
use foreword::gguf::write::{self, Entry, Pair};
use foreword::gguf::{Gguf, TensorInfo, Value};
use foreword::quant::encode::gptq::Factors;
use foreword::quant::{self, TensorType, encode};
use foreword::{Error, Result};
use imatrix::Importance;
use indicatif::ProgressBar;
use plan::{Plan, Planned};
use pollster::block_on;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::rc::Rc;

/// Weights that are in memory as floats at a time, on all threads.
const CHUNK: usize = 1 << 20;

/// The version of ggml's formats that files of today have.
const QUANTIZATION_VERSION: u64 = 2;

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<()> {
    let path = store::find(&args.model)?;
    let mut sources = store::sources(&path)?;
    let gguf = block_on(Gguf::read(&mut sources)).map_err(|e| e.at(path.display()))?;
    let plan = Plan::new(&gguf, args.ty)?;
    let threads = load::threads(args.threads)?;
    let mut out = Output::create(&args.out)?;
    let mut weighting = Weighting::new(args, &plan, threads)?;
    let alignment = gguf.metadata.opt_u32("general.alignment")?.unwrap_or(32).into();
    out.write(&header(&gguf, &mut sources, (&plan, alignment))?)?;
    let bar = ProgressBar::new(gguf.tensors.iter().map(|t| t.n_bytes).sum());
    for planned in &plan.tensors {
        let info = planned.info;
        let how = weighting.of(planned)?;
        let mut work = Work { sources: &mut sources, planned, how, threads, alignment, out: &mut out };
        work.tensor(&bar).map_err(|e| e.at(format!("tensor {}", info.name)))?;
    }
    bar.finish_and_clear();
    let bytes = out.finish()?;
    report(args, &gguf, &plan, bytes)
}

/// All in front of the tensors: the metadata of the source as they stand there, but for what the types of tensors and the number of
/// files change.
fn header(gguf: &Gguf, sources: &mut [Box<dyn Source>], (plan, alignment): (&Plan<'_>, u64)) -> Result<Vec<u8>> {
    let replaced =
        |key: &str| ["general.file_type", "general.quantization_version"].contains(&key) || key.starts_with("split.");
    let mut copied = Vec::new();
    for place in gguf.metadata.iter().filter(|(key, _)| !replaced(key)).filter_map(|(key, _)| gguf.metadata.place(key))
    {
        let mut bytes = vec![0; (place.end - place.start) as usize];
        let source = sources.first_mut().ok_or_else(|| Error::invalid_request("no model file is given"))?;
        block_on(source.read_at(place.start, &mut bytes))?;
        copied.push(bytes);
    }
    let (file_type, version) = (Value::Unsigned(plan.file_type.into()), Value::Unsigned(QUANTIZATION_VERSION));
    let mut pairs: Vec<Pair<'_>> = copied.iter().map(|bytes| Pair::Copied(bytes)).collect();
    pairs.push(Pair::New("general.file_type", &file_type));
    pairs.push(Pair::New("general.quantization_version", &version));
    let mut entries = Vec::new();
    for t in &plan.tensors {
        entries.push(Entry { name: &t.info.name, ty: t.ty, dims: &t.info.dims, n_bytes: t.n_bytes });
        if let Some((name, dims)) = &t.scale {
            entries.push(Entry { name, ty: TensorType::F32, dims, n_bytes: dims[0] * 4 });
        }
    }
    Ok(write::header(&pairs, alignment, &entries))
}

/// What is known of how much columns matter.
enum Weighting {
    Nothing,
    Importance(Importance),
    Rounding(Box<Rounding>),
}

/// The same for one tensor.
enum How<'a> {
    Plain,
    /// Of the columns of each of its matrices.
    Importance(&'a [f32]),
    Factors(Rc<Factors>),
}

impl Weighting {
    fn new(args: &QuantizeArgs, plan: &Plan<'_>, threads: usize) -> Result<Weighting> {
        if let Some(path) = &args.imatrix {
            return Ok(Weighting::Importance(Importance::open(path)?));
        }
        let Some(file) = &args.file else { return Ok(Weighting::Nothing) };
        if args.method == Method::Rtn {
            let message = "--file is read by --method gptq; for rtn `foreword imatrix` makes what --imatrix takes";
            return Err(Error::invalid_request(message));
        }
        let calibration = Calibration::open(&args.model, file, &args.windows, threads)?;
        let tensors = plan.tensors.iter().filter(|t| t.is_rounded());
        let tensors = tensors.map(|t| (t.info.name.clone(), t.info.dims[0] as usize)).collect();
        Ok(Weighting::Rounding(Box::new(Rounding::new(calibration, tensors, threads))))
    }

    fn of(&mut self, planned: &Planned<'_>) -> Result<How<'_>> {
        if !planned.is_rounded() {
            return Ok(How::Plain);
        }
        Ok(match self {
            Weighting::Nothing => How::Plain,
            Weighting::Importance(importance) => importance.of(planned.info)?.map_or(How::Plain, How::Importance),
            Weighting::Rounding(rounding) => rounding.factors(&planned.info.name)?.map_or(How::Plain, How::Factors),
        })
    }
}

/// A tensor on its way.
struct Work<'a, 'p> {
    sources: &'a mut [Box<dyn Source>],
    planned: &'a Planned<'p>,
    how: How<'a>,
    threads: usize,
    alignment: u64,
    out: &'a mut Output,
}

impl Work<'_, '_> {
    fn tensor(&mut self, bar: &ProgressBar) -> Result<()> {
        let (info, ty) = (self.planned.info, self.planned.ty);
        let row_bytes = info.ty.row_bytes(info.dims[0] as usize).unwrap_or(0);
        let rows = info.n_bytes / row_bytes.max(1) as u64;
        let matrices = info.dims.get(2..).unwrap_or_default().iter().product::<u64>();
        let mut scales = Vec::new();
        for matrix in 0..matrices {
            let (from, to) = (rows / matrices * matrix, rows / matrices * (matrix + 1));
            let scale = if self.planned.scale.is_some() { self.scale(from..to)? } else { 1.0 };
            scales.extend(scale.to_le_bytes());
            self.chunks(from..to, &mut |work, bytes| {
                bar.inc(bytes.len() as u64);
                if info.ty == ty {
                    return match info.are_numbers(bytes) {
                        true => work.out.write(bytes),
                        false => Err(Error::bad_file("it holds values that are not numbers; the file is damaged")),
                    };
                }
                let encoded = work.encode(bytes, (matrix, scale))?;
                work.out.write(&encoded)
            })?;
        }
        self.out.pad(self.alignment)?;
        if self.planned.scale.is_some() {
            self.out.write(&scales)?;
            self.out.pad(self.alignment)?;
        }
        Ok(())
    }

    /// Reads rows, some at a time, in file form.
    fn chunks(&mut self, rows: Range<u64>, each: &mut dyn FnMut(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        let info = self.planned.info;
        let cols = info.dims[0] as usize;
        let row_bytes = info.ty.row_bytes(cols).unwrap_or(0);
        let step = (CHUNK / cols.max(1)).max(1);
        let mut bytes = Vec::new();
        for first in rows.clone().step_by(step) {
            bytes.resize((rows.end - first).min(step as u64) as usize * row_bytes, 0);
            let source = &mut self.sources[info.part];
            block_on(source.read_at(info.offset + first * row_bytes as u64, &mut bytes))?;
            each(self, &bytes)?;
        }
        Ok(())
    }

    /// What brings the largest weight of a matrix to the largest value that NVFP4 can say: its own scales hardly reach below 0.002.
    fn scale(&mut self, rows: Range<u64>) -> Result<f32> {
        let info = self.planned.info;
        let mut largest = 0.0_f32;
        self.chunks(rows, &mut |_, bytes| {
            let values = decode(info, bytes)?;
            largest = values.iter().fold(largest, |m, v| m.max(v.abs()));
            Ok(())
        })?;
        Ok(if largest > 0.0 { largest / (6.0 * 448.0) } else { 1.0 })
    }

    /// Rows of a matrix in the new type, by all threads.
    fn encode(&self, bytes: &[u8], (matrix, scale): (u64, f32)) -> Result<Vec<u8>> {
        let (info, ty) = (self.planned.info, self.planned.ty);
        let cols = info.dims[0] as usize;
        let row_bytes = info.ty.row_bytes(cols).unwrap_or(0);
        let share = (bytes.len() / row_bytes.max(1)).div_ceil(self.threads).max(1) * row_bytes;
        let (factors, importance) = match &self.how {
            How::Plain => (None, None),
            How::Importance(of_all) => (None, Some(&of_all[matrix as usize * cols..][..cols])),
            How::Factors(factors) => (Some(&**factors), None),
        };
        let run = |bytes: &[u8]| -> Result<Vec<u8>> {
            let (mut values, mut out) = (decode(info, bytes)?, Vec::new());
            values.iter_mut().for_each(|v| *v /= scale);
            match factors {
                Some(factors) => factors.encode(ty, &values, &mut out)?,
                None => values.chunks_exact(cols).try_for_each(|row| encode::encode(ty, row, importance, &mut out))?,
            }
            Ok(out)
        };
        let run = &run;
        std::thread::scope(|scope| {
            let threads: Vec<_> = bytes.chunks(share).map(|bytes| scope.spawn(move || run(bytes))).collect();
            let parts = threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            Ok(parts.collect::<Result<Vec<_>>>()?.concat())
        })
    }
}

/// Rows as floats.
fn decode(info: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut values = vec![0.0; bytes.len() / info.ty.block_bytes() * info.ty.block_len()];
    quant::decode(info.ty, bytes, &mut values)?;
    Ok(values)
}

fn report(args: &QuantizeArgs, gguf: &Gguf, plan: &Plan<'_>, bytes: u64) -> Result<()> {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    plan.tensors.iter().for_each(|t| *types.entry(t.ty.name()).or_default() += 1);
    let weights: u64 = gguf.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
    let source: u64 = gguf.tensors.iter().map(|t| t.n_bytes).sum();
    let tensors: u64 = plan.tensors.iter().map(|t| t.n_bytes).sum();
    let bits = tensors as f64 * 8.0 / weights as f64;
    if args.report.json {
        return term::print_json(&json!({
            "path": args.out.to_string_lossy(), "bytes": bytes, "bits": bits, "types": types,
            "fallbacks": plan.fallbacks.iter().map(|((wanted, ty, cols), n)| {
                json!({"wanted": wanted, "type": ty, "columns": cols, "tensors": n})
            }).collect::<Vec<_>>(),
        }));
    }
    for ((wanted, ty, cols), n) in &plan.fallbacks {
        term::note(&format!("rows of {cols} are no whole blocks of {wanted}: {n} became {ty}"));
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let mut out = format!("{:.1} MB, tensors were {:.1} MB: {bits:.2} bits a weight\n", mb(bytes), mb(source));
    for (name, n) in types {
        let _ = writeln!(out, "  {n:>5} {name}");
    }
    term::print(&out)
}

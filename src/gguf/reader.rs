//! Bytes of a GGUF header to [`Header`]; nothing is trusted.
//!
//! Lengths are checked against the bytes that are there before anything is allocated. A header that is not yet whole is
//! [`Fault::Short`], so that the caller can fetch more.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::metadata::{Metadata, Strings, Value};
use crate::error::Error;
use crate::quant::TensorType;
use std::collections::HashSet;

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Entry>,
    /// Bytes from the start of the file to the tensor data.
    pub(super) data_start: u64,
}

/// A tensor of the directory; `offset` counts from the tensor data.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) ty: TensorType,
    pub(super) dims: Vec<u64>,
    pub(super) offset: u64,
    pub(super) n_bytes: u64,
}

/// Why a header could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes end before the header does.
    Short,
    Bad(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Bad(error)
    }
}

type Parsed<T> = Result<T, Fault>;

fn bad<T>(message: impl Into<String>) -> Parsed<T> {
    Err(Fault::Bad(Error::bad_file(message)))
}

const MAGIC: &[u8] = b"GGUF";
/// ggml's limits.
const MAX_DIMS: u32 = 4;
const MAX_NAME: usize = 64;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Reads the header at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed<Header> {
    let mut r = Cursor { rest: bytes, len: bytes.len() };
    if r.take(4)? != MAGIC {
        return bad("not a GGUF file: it does not begin with \"GGUF\"");
    }
    let version = r.u32()?;
    if version.swap_bytes() == 2 || version.swap_bytes() == 3 {
        return Err(Error::unsupported("big-endian GGUF files are not supported; use the little-endian file").into());
    }
    if !(2..=3).contains(&version) {
        return Err(Error::unsupported(format!("GGUF version {version} is not supported (2 and 3 are)")).into());
    }
    let (n_tensors, n_pairs) = (r.u64()?, r.u64()?);
    // A pair takes at least 8 + 1 + 4 + 1 bytes, a directory entry 8 + 4 + 8 + 4 + 8; no model comes near 2^24 of either.
    for (n, what) in [(n_pairs, "metadata pairs"), (n_tensors, "tensors")] {
        if n > 1 << 24 {
            return bad(format!("the header announces {n} {what}: the file is damaged"));
        }
    }
    let metadata = pairs(&mut r, n_pairs)?;
    let alignment = match metadata.opt_u32("general.alignment")? {
        Some(a) if a.is_power_of_two() && a <= 1 << 20 => u64::from(a),
        Some(a) => return bad(format!("general.alignment is {a}, not a power of two up to 1 MiB")),
        None => DEFAULT_ALIGNMENT,
    };
    let tensors = directory(&mut r, n_tensors, alignment)?;
    let data_start = (r.position() as u64).next_multiple_of(alignment);
    Ok(Header { version, metadata, tensors, data_start })
}

fn pairs(r: &mut Cursor<'_>, n: u64) -> Parsed<Metadata> {
    let mut metadata = Metadata::default();
    for i in 0..n {
        let at = r.position();
        let key = match r.string() {
            Ok(key) => key,
            Err(Fault::Bad(e)) => return Err(e.at(format!("key of metadata pair {i} (byte {at})")).into()),
            Err(short) => return Err(short),
        };
        if key.is_empty() || key.len() > 65_535 {
            return bad(format!("metadata pair {i} (byte {at}) has a key of {} bytes", key.len()));
        }
        let value = match value(r) {
            Ok(value) => value,
            Err(Fault::Bad(e)) => return Err(e.at(format!("metadata key {key}")).into()),
            Err(short) => return Err(short),
        };
        if !metadata.insert(key, value) {
            return bad(format!("metadata key {key} occurs twice"));
        }
    }
    Ok(metadata)
}

fn directory(r: &mut Cursor<'_>, n: u64, alignment: u64) -> Parsed<Vec<Entry>> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for i in 0..n {
        let entry = entry(r, i, alignment)?;
        if !names.insert(entry.name.clone()) {
            return bad(format!("tensor {} occurs twice", entry.name));
        }
        tensors.push(entry);
    }
    Ok(tensors)
}

fn entry(r: &mut Cursor<'_>, i: u64, alignment: u64) -> Parsed<Entry> {
    let name = match r.string() {
        Ok(name) => name.to_owned(),
        Err(Fault::Bad(e)) => return Err(e.at(format!("name of tensor {i}")).into()),
        Err(short) => return Err(short),
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return bad(format!("tensor {i} has a name of {} bytes (1 to {MAX_NAME} are allowed)", name.len()));
    }
    let n_dims = r.u32()?;
    if n_dims == 0 || n_dims > MAX_DIMS {
        return bad(format!("tensor {name} has {n_dims} dimensions (1 to {MAX_DIMS} are allowed)"));
    }
    let mut dims = Vec::new();
    for _ in 0..n_dims {
        dims.push(r.u64()?);
    }
    let ty = TensorType::from_id(r.u32()?).map_err(|e| e.at(format!("tensor {name}")))?;
    let offset = r.u64()?;
    if offset.checked_rem(alignment) != Some(0) {
        return bad(format!("tensor {name} begins at {offset}, which is not aligned to {alignment} bytes"));
    }
    let n_bytes = match tensor_bytes(ty, &dims) {
        Some(n) => n,
        None => {
            return bad(format!(
                "tensor {name} has the impossible shape {dims:?}: rows of {} hold multiples of {} weights",
                ty.name(),
                ty.block_len()
            ));
        }
    };
    Ok(Entry { name, ty, dims, offset, n_bytes })
}

/// Bytes of a tensor; `None` when a dimension is 0, rows are no whole blocks, or the product overflows.
fn tensor_bytes(ty: TensorType, dims: &[u64]) -> Option<u64> {
    let (cols, rest) = dims.split_first()?;
    let row = ty.row_bytes(usize::try_from(*cols).ok()?)? as u64;
    let n = rest.iter().try_fold(row, |n, d| n.checked_mul(*d))?;
    (n > 0).then_some(n)
}

fn value(r: &mut Cursor<'_>) -> Parsed<Value> {
    let ty = r.u32()?;
    Ok(match ty {
        0 => Value::Unsigned(u64::from(r.array::<1>().map(u8::from_le_bytes)?)),
        1 => Value::Signed(i64::from(r.array().map(i8::from_le_bytes)?)),
        2 => Value::Unsigned(u64::from(r.array().map(u16::from_le_bytes)?)),
        3 => Value::Signed(i64::from(r.array().map(i16::from_le_bytes)?)),
        4 => Value::Unsigned(u64::from(r.u32()?)),
        5 => Value::Signed(i64::from(r.array().map(i32::from_le_bytes)?)),
        6 => Value::Float(f64::from(r.array().map(f32::from_le_bytes)?)),
        7 => Value::Bool(boolean(r.array::<1>().map(u8::from_le_bytes)?)?),
        8 => Value::String(r.string()?.to_owned()),
        9 => array(r)?,
        10 => Value::Unsigned(r.u64()?),
        11 => Value::Signed(r.array().map(i64::from_le_bytes)?),
        12 => Value::Float(r.array().map(f64::from_le_bytes)?),
        _ => return bad(format!("unknown value type {ty}")),
    })
}

fn boolean(byte: u8) -> Parsed<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => bad(format!("{byte} is not a boolean")),
    }
}

fn array(r: &mut Cursor<'_>) -> Parsed<Value> {
    let (ty, n) = (r.u32()?, r.u64()?);
    Ok(match ty {
        0 => Value::Integers(r.numbers(n, |b: [u8; 1]| i64::from(u8::from_le_bytes(b)))?),
        1 => Value::Integers(r.numbers(n, |b| i64::from(i8::from_le_bytes(b)))?),
        2 => Value::Integers(r.numbers(n, |b| i64::from(u16::from_le_bytes(b)))?),
        3 => Value::Integers(r.numbers(n, |b| i64::from(i16::from_le_bytes(b)))?),
        4 => Value::Integers(r.numbers(n, |b| i64::from(u32::from_le_bytes(b)))?),
        5 => Value::Integers(r.numbers(n, |b| i64::from(i32::from_le_bytes(b)))?),
        6 => Value::Floats(r.numbers(n, f32::from_le_bytes)?),
        7 => {
            let bytes = r.numbers(n, |[b]: [u8; 1]| b)?;
            Value::Bools(bytes.into_iter().map(boolean).collect::<Parsed<_>>()?)
        }
        8 => Value::Strings(strings(r, n)?),
        9 => return Err(Error::unsupported("arrays of arrays are not supported").into()),
        10 | 11 => Value::Integers(r.numbers(n, i64::from_le_bytes)?),
        12 => Value::Floats(r.numbers(n, |b| f64::from_le_bytes(b) as f32)?),
        _ => return bad(format!("unknown value type {ty} of an array")),
    })
}

fn strings(r: &mut Cursor<'_>, n: u64) -> Parsed<Strings> {
    let mut strings = Strings::default();
    for i in 0..n {
        let s = match r.string() {
            Ok(s) => s,
            Err(Fault::Bad(e)) => return Err(e.at(format!("string {i}")).into()),
            Err(short) => return Err(short),
        };
        if !strings.push(s) {
            return bad("more than 4 GiB of strings");
        }
    }
    Ok(strings)
}

/// Takes bytes from the front.
struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    fn position(&self) -> usize {
        self.len.saturating_sub(self.rest.len())
    }

    fn take(&mut self, n: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Parsed<&'a str> {
        let n = self.length(1)?;
        match std::str::from_utf8(self.take(n)?) {
            Ok(s) => Ok(s),
            Err(e) => bad(format!("invalid UTF-8 after {} bytes of a string", e.valid_up_to())),
        }
    }

    /// A count of items of at least `width` bytes; more than memory can hold is damage, not shortness.
    fn length(&mut self, width: usize) -> Parsed<usize> {
        let n = self.u64()?;
        let fits = usize::try_from(n).ok().filter(|n| n.checked_mul(width).is_some_and(|bytes| bytes < 1 << 31));
        fits.map_or_else(|| bad(format!("a length of {n} is beyond any real file: the file is damaged")), Ok)
    }

    fn numbers<const N: usize, T>(&mut self, n: u64, f: impl Fn([u8; N]) -> T) -> Parsed<Vec<T>> {
        let bytes = usize::try_from(n).ok().and_then(|n| n.checked_mul(N)).filter(|bytes| *bytes < 1 << 31);
        let Some(bytes) = bytes else { return bad(format!("an array of {n} numbers: the file is damaged")) };
        Ok(self.take(bytes)?.as_chunks::<N>().0.iter().map(|b| f(*b)).collect())
    }
}

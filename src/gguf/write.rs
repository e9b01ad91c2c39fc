//! Writing GGUF files (version 3): small ones in memory, such as sidecars; of large ones the header, behind which tensors are written
//! one by one.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::metadata::{Metadata, Value};
use crate::error::{Error, Result};
use crate::quant::TensorType;

/// Alignment of the data section unless the metadata name another.
const ALIGNMENT: u32 = 32;

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// How `data` are encoded.
    pub ty: TensorType,
    /// Dimensions, the length of a row first.
    pub dims: &'a [u64],
    /// The encoded rows.
    pub data: &'a [u8],
}

/// A pair of the metadata to write.
#[derive(Clone, Copy, Debug)]
pub enum Pair<'a> {
    /// A key and its value.
    New(&'a str, &'a Value),
    /// The bytes of a pair in another file ([`Metadata::place`]): values keep their types.
    Copied(&'a [u8]),
}

/// A tensor in the directory of a file.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it is encoded.
    pub ty: TensorType,
    /// Dimensions, the length of a row first.
    pub dims: &'a [u64],
    /// Bytes of its rows.
    pub n_bytes: u64,
}

/// All bytes in front of the first tensor's. Tensors follow in the same order, each with zeros behind it up to a multiple of
/// `alignment` bytes, which is that of `pairs`, or 32.
pub fn header(pairs: &[Pair], alignment: u64, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::from(*b"GGUF");
    put_u32(&mut out, 3);
    put_len(&mut out, entries.len());
    put_len(&mut out, pairs.len());
    for pair in pairs {
        match pair {
            Pair::New(key, value) => {
                put_str(&mut out, key);
                put_value(&mut out, value);
            }
            Pair::Copied(bytes) => out.extend_from_slice(bytes),
        }
    }
    let mut offset = 0_u64;
    for entry in entries {
        put_str(&mut out, entry.name);
        put_u32(&mut out, entry.dims.len() as u32);
        entry.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        put_u32(&mut out, entry.ty.id());
        out.extend(offset.to_le_bytes());
        offset = offset.saturating_add(entry.n_bytes).next_multiple_of(alignment);
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    out
}

/// The bytes of a file. The reader has the last word on whether it is valid.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] when `general.alignment` in `metadata` is 0 or not a number.
pub fn to_bytes(metadata: &Metadata, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let alignment = metadata.opt_u32("general.alignment")?.unwrap_or(ALIGNMENT) as usize;
    if alignment == 0 {
        return Err(Error::invalid_request("an alignment of 0"));
    }
    let pairs: Vec<Pair> = metadata.iter().map(|(key, value)| Pair::New(key, value)).collect();
    let entries = tensors.iter().map(|t| Entry { name: t.name, ty: t.ty, dims: t.dims, n_bytes: t.data.len() as u64 });
    let entries: Vec<Entry> = entries.collect();
    let mut out = header(&pairs, alignment as u64, &entries);
    for tensor in tensors {
        out.extend_from_slice(tensor.data);
        out.resize(out.len().next_multiple_of(alignment), 0);
    }
    Ok(out)
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

/// Numbers are written in the widest type, but for integers that fit 32 bits, which readers expect there, and floats.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! put {
        ($id:literal, $value:expr) => {{
            put_u32(out, $id);
            out.extend($value.to_le_bytes());
        }};
    }
    match value {
        Value::Unsigned(v) => match u32::try_from(*v) {
            Ok(v) => put!(4, v),
            Err(_) => put!(10, v),
        },
        Value::Signed(v) => match i32::try_from(*v) {
            Ok(v) => put!(5, v),
            Err(_) => put!(11, v),
        },
        Value::Float(v) if f64::from(*v as f32) == *v => put!(6, (*v as f32)),
        Value::Float(v) => put!(12, v),
        Value::Bool(v) => put!(7, u8::from(*v)),
        Value::String(v) => {
            put_u32(out, 8);
            put_str(out, v);
        }
        Value::Integers(values) => match values.iter().map(|&v| i32::try_from(v)).collect::<Result<Vec<_>, _>>() {
            Ok(values) => put_array(out, 5, &values, |out, v| out.extend(v.to_le_bytes())),
            Err(_) => put_array(out, 11, values, |out, v| out.extend(v.to_le_bytes())),
        },
        Value::Floats(values) => put_array(out, 6, values, |out, v| out.extend(v.to_le_bytes())),
        Value::Bools(values) => put_array(out, 7, values, |out, &v| out.push(u8::from(v))),
        Value::Strings(values) => put_array(out, 8, values.iter(), put_str),
        Value::Other(what) => put_value(out, &Value::String((*what).into())),
    }
}

/// An array whose values have the type `id`.
fn put_array<I: IntoIterator<IntoIter: ExactSizeIterator>>(
    out: &mut Vec<u8>,
    id: u32,
    values: I,
    put: impl Fn(&mut Vec<u8>, I::Item),
) {
    let values = values.into_iter();
    put_u32(out, 9);
    put_u32(out, id);
    put_len(out, values.len());
    values.for_each(|value| put(out, value));
}

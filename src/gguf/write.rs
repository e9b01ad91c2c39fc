//! Writing small GGUF files (version 3): sidecars and tests. Everything is in memory.

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

/// The bytes of a file. The reader has the last word on whether it is valid.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] when `general.alignment` in `metadata` is 0 or not a number.
pub fn to_bytes(metadata: &Metadata, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let alignment = metadata.opt_u32("general.alignment")?.unwrap_or(ALIGNMENT) as usize;
    if alignment == 0 {
        return Err(Error::invalid_request("an alignment of 0"));
    }
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(alignment), 0);
    let mut out = Vec::from(*b"GGUF");
    put_u32(&mut out, 3);
    put_len(&mut out, tensors.len());
    put_len(&mut out, metadata.len());
    for (key, value) in metadata.iter() {
        put_str(&mut out, key);
        put_value(&mut out, value);
    }
    let mut data = Vec::new();
    for tensor in tensors {
        put_str(&mut out, tensor.name);
        put_u32(&mut out, tensor.dims.len() as u32);
        tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        put_u32(&mut out, tensor.ty.id());
        put_len(&mut out, data.len());
        data.extend_from_slice(tensor.data);
        pad(&mut data);
    }
    pad(&mut out);
    out.append(&mut data);
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

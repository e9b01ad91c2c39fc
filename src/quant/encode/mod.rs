//! Floats to tensor types. Plain rounding is ggml's reference, bit for bit, where a scale follows from the largest weight; where a
//! type leaves scales open, and wherever columns matter more or less, scales are searched that leave the least weighted error.
//!
//! Scales come first and codes behind them, so what chooses codes in another way starts from the same scales.

mod codes;
pub mod gptq;
mod k;
mod legacy;
mod search;

use super::{TensorType, Unpacked, group_len, unpack};
use crate::error::{Error, Result};

/// The types that [`encode`] writes, the largest first.
pub const TYPES: &[TensorType] = &[
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Q6_K,
    TensorType::Q5_1,
    TensorType::Q5_0,
    TensorType::Q5_K,
    TensorType::Q4_1,
    TensorType::Q4_0,
    TensorType::Q4_K,
    TensorType::IQ4_NL,
    TensorType::NVFP4,
    TensorType::IQ4_XS,
    TensorType::MXFP4,
    TensorType::Q3_K,
    TensorType::Q2_K,
];

/// Appends a row, whole blocks, to `out`. `importance` says how much each column matters, as the mean square of what it is
/// multiplied by; without it all count alike.
///
/// # Errors
/// [`crate::Kind::BadFile`] when a weight is no finite number, or too large for the type; [`crate::Kind::InvalidRequest`] when the row
/// is not whole blocks, `importance` has another length, or the type is not one of [`TYPES`].
pub fn encode(ty: TensorType, row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<()> {
    let start = begin(ty, row, importance, out)?;
    let bytes = &mut out[start..];
    match ty {
        TensorType::F32 => each(row, bytes, f32::to_le_bytes),
        TensorType::F16 => each(row, bytes, |v| half::f16::from_f32(v).to_le_bytes()),
        TensorType::BF16 => each(row, bytes, |v| half::bf16::from_f32(v).to_le_bytes()),
        _ => {
            let weights = weights(row, importance);
            for (i, block) in bytes.chunks_exact_mut(ty.block_bytes()).enumerate() {
                let range = i * ty.block_len()..(i + 1) * ty.block_len();
                let (x, w) = (&row[range.clone()], &weights[range]);
                if importance.is_some() || !legacy::plain(ty, x, block) {
                    put_scales(ty, x, w, block);
                    round(ty, x, block);
                }
            }
        }
    }
    sound(ty, &out[start..])
}

/// Checks what is to be encoded, and makes room; returns where.
fn begin(ty: TensorType, row: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) -> Result<usize> {
    let name = ty.name();
    if !TYPES.contains(&ty) {
        return Err(Error::invalid_request(format!("{name} can be read, but not written")));
    }
    let Some(n) = ty.row_bytes(row.len()) else {
        return Err(Error::invalid_request(format!("a row of {} weights is not whole blocks of {name}", row.len())));
    };
    if importance.is_some_and(|i| i.len() != row.len()) {
        return Err(Error::invalid_request(format!("an importance of each of {} columns is needed", row.len())));
    }
    if let Some(wrong) = row.iter().find(|v| !v.is_finite()) {
        return Err(Error::bad_file(format!("a weight is {wrong}, which is no number; the file is damaged")));
    }
    let start = out.len();
    out.resize(start + n, 0);
    Ok(start)
}

/// Scales are half floats, which end at 65504.
fn sound(ty: TensorType, bytes: &[u8]) -> Result<()> {
    match ty.are_numbers(bytes) {
        true => Ok(()),
        false => Err(Error::bad_file(format!("a weight is too large for {}; BF16 holds it", ty.name()))),
    }
}

fn each<const N: usize>(row: &[f32], bytes: &mut [u8], f: impl Fn(f32) -> [u8; N]) {
    for (at, &value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(row) {
        *at = f(value);
    }
}

/// What an error at each weight costs. That of large weights counts more: they are what outputs consist of.
fn weights(row: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mean = (row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / row.len().max(1) as f64) as f32;
    let weight = |(i, &x): (usize, &f32)| importance.map_or(1.0, |imp| imp[i]) * (mean + x * x).sqrt();
    let weights: Vec<f32> = row.iter().enumerate().map(weight).collect();
    // Sums of weights must neither vanish nor overflow.
    let largest = weights.iter().copied().fold(0.0, f32::max);
    if !(largest.is_finite() && largest > f32::MIN_POSITIVE) {
        return vec![1.0; row.len()];
    }
    weights.iter().map(|w| w / largest + 1e-9).collect()
}

/// Searches scales for a block and writes them; what it says of codes is left alone.
fn put_scales(ty: TensorType, x: &[f32], w: &[f32], block: &mut [u8]) {
    match ty {
        TensorType::Q2_K | TensorType::Q4_K | TensorType::Q5_K => k::affine(ty, x, w, block),
        TensorType::Q3_K | TensorType::Q6_K | TensorType::IQ4_XS => k::symmetric(ty, x, w, block),
        _ => legacy::searched(ty, x, w, block),
    }
}

/// Takes, for each weight, the code under the block's scales that stands for the nearest value.
fn round(ty: TensorType, x: &[f32], block: &mut [u8]) {
    let mut unpacked = Unpacked::default();
    unpack(ty, block, &mut unpacked);
    for (i, &x) in x.iter().enumerate() {
        let g = i / group_len(ty);
        unpacked.codes[i] = search::nearest(ty, x, unpacked.scales[g], unpacked.mins[g]);
    }
    codes::put(ty, &unpacked.codes, block);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes that are put into a block are those that `unpack` finds, and scales stay.
    #[test]
    fn codes_go_in_as_they_come_out() {
        for &ty in TYPES.iter().filter(|ty| !ty.is_float()) {
            let mut block: Vec<u8> = (0..ty.block_bytes()).map(|i| (i * 89 + 31) as u8).collect();
            let mut before = Unpacked::default();
            unpack(ty, &block, &mut before);
            let mut wanted = before.clone();
            let range = u16::from(search::max_code(ty)) + 1;
            for (i, code) in wanted.codes.iter_mut().take(ty.block_len()).enumerate() {
                *code = ((i * 37 + i / 7) as u16 % range) as u8;
            }
            codes::put(ty, &wanted.codes, &mut block);
            let mut found = Unpacked::default();
            unpack(ty, &block, &mut found);
            let bits = |u: &Unpacked| (u.scales.map(f32::to_bits), u.mins.map(f32::to_bits));
            assert_eq!(found.codes, wanted.codes, "{}", ty.name());
            assert_eq!(bits(&found), bits(&before), "{}", ty.name());
        }
    }
}

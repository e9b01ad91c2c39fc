//! Scales of single blocks: by ggml's reference, which also rounds, and searched.

use super::super::legacy::{e8m0, ue4m3};
use super::super::{Table, TensorType};
use super::codes;
use super::search::{self, Levels};

fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// Encodes a block as ggml's reference does; `false` for types whose reference searches.
pub(super) fn plain(ty: TensorType, x: &[f32], block: &mut [u8]) -> bool {
    let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    // The first of several, and of zeros its sign, as in the reference.
    let extreme = x.iter().copied().reduce(|m, v| if v.abs() > m.abs() { v } else { m }).unwrap_or(0.0);
    let mut out = [0; 256];
    let mut put = |code: &dyn Fn(f32) -> u8| out.iter_mut().zip(x).for_each(|(out, &x)| *out = code(x));
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 => {
            let half = if ty == TensorType::Q4_0 { 8.0 } else { 16.0 };
            let d = extreme / -half;
            let id = inverse(d);
            put(&|x| (x * id + (half + 0.5)).min(2.0 * half - 1.0) as u8);
            put_half(block, 0, d);
        }
        TensorType::Q4_1 | TensorType::Q5_1 => {
            let max = f32::from(search::max_code(ty));
            let low = x.iter().copied().fold(f32::INFINITY, f32::min);
            let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let d = (high - low) / max;
            let id = inverse(d);
            put(&|x| ((x - low) * id + 0.5).min(max) as u8);
            put_half(block, 0, d);
            put_half(block, 2, low);
        }
        TensorType::Q8_0 => {
            let d = extreme.abs() / 127.0;
            let id = inverse(d);
            put(&|x| (x * id).round() as i8 as u8);
            put_half(block, 0, d);
        }
        TensorType::MXFP4 => {
            block[0] = exponent(extreme);
            let scale = e8m0(block[0]);
            put(&|x| search::index(Table::E2m1, x / scale));
        }
        _ => return false,
    }
    codes::put(ty, &out, block);
    true
}

/// MXFP4's exponent by the standard of the type: the largest value has that of 4 or 6.
fn exponent(extreme: f32) -> u8 {
    let e = extreme.abs().log2().floor() - 2.0 + 127.0;
    // 255 stands for NaN.
    e.clamp(0.0, 254.0) as u8
}

/// Searches the scale of a block, or scales.
pub(super) fn searched(ty: TensorType, x: &[f32], w: &[f32], block: &mut [u8]) {
    match ty {
        TensorType::Q4_1 | TensorType::Q5_1 => {
            let (scale, min) = search::affine(search::max_code(ty), true, x, w);
            put_half(block, 0, scale);
            put_half(block, 2, min);
        }
        TensorType::MXFP4 => {
            let first = exponent(x.iter().fold(0.0, |m: f32, v| m.max(v.abs())));
            block[0] = best(first.saturating_sub(1)..=first.saturating_add(1).min(254), x, w, e8m0);
        }
        TensorType::NVFP4 => {
            for (g, (x, w)) in x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0).enumerate() {
                // The largest value of the table, doubled, is 12.
                let wanted = x.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 12.0;
                let above = (1..=0x7e).find(|&code| ue4m3(code) >= wanted).unwrap_or(0x7e);
                block[g] = best(above.saturating_sub(3)..=above.saturating_add(2).min(0x7e), x, w, ue4m3);
            }
        }
        TensorType::Q8_0 => put_half(block, 0, x.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0),
        _ => put_half(block, 0, search::scale(Levels::of(ty), x, w)),
    }
}

/// The code of a scale that leaves the least error of 4-bit floats.
fn best(codes: impl Iterator<Item = u8>, x: &[f32], w: &[f32], scale: impl Fn(u8) -> f32) -> u8 {
    let error = |code: u8| -> f32 {
        let scale = scale(code);
        let value = |x: f32| if scale == 0.0 { 0 } else { search::index(Table::E2m1, x / scale) };
        let left = |x: f32| x - scale * f32::from(Table::E2m1.values()[usize::from(value(x))]);
        x.iter().zip(w).map(|(&x, w)| w * left(x).powi(2)).sum()
    };
    codes.map(|code| (error(code), code)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, code)| code)
}

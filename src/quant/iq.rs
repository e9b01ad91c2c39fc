//! Codebook types: 256 weights, each an index into a table of values (ggml-quants). Below four bits, several weights together
//! are an entry of a grid, and signs lie apart.

use super::{Unpacked, grids, half_at};

/// Integer scales of 32 weights have 6 bits, of which the upper two lie apart, and are offset by 32.
pub(super) fn iq4_xs(b: &[u8], out: &mut Unpacked) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
        let scale = low | (((high >> (2 * g)) as u8) & 3) << 4;
        out.scales[g] = d * (f32::from(scale) - 32.0);
        super::nibbles(&b[8 + 16 * g..], codes);
    }
}

/// Codes of weights from magnitudes, `bits` each, and a bit each for the sign: tables hold both signs of each magnitude.
fn put(codes: &mut [u8], entry: u16, bits: usize, signs: u8) {
    for (j, code) in codes.iter_mut().enumerate() {
        let magnitude = (entry >> (bits * j)) as u8 & ((1 << bits) - 1);
        *code = magnitude << 1 | signs >> j & 1;
    }
}

/// Eight signs from seven bits: an even number is negative.
fn even(signs: u32) -> u8 {
    let signs = signs as u8 & 127;
    signs | (signs.count_ones() as u8 & 1) << 7
}

fn word16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn word32(b: &[u8], at: usize) -> u32 {
    u32::from(word16(b, at)) | u32::from(word16(b, at + 2)) << 16
}

/// Nibble `i` of some bytes, the low one first.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (i % 2 * 4) & 15
}

/// Two words for 32 weights: four indices; four times seven signs, and the scale.
pub(super) fn iq2_xxs(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ2_XXS));
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (indices, signs) = (&b[2 + 8 * g..], word32(b, 6 + 8 * g));
        out.scales[g] = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
            put(codes, grid[usize::from(indices[k])], 2, even(signs >> (7 * k)));
        }
    }
}

/// Words of an index and seven signs, then scales of 16 weights.
pub(super) fn iq2_xs(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ2_XS));
    for (k, codes) in out.codes.chunks_exact_mut(8).enumerate() {
        let word = word16(b, 2 + 2 * k);
        put(codes, grid[usize::from(word & 511)], 2, even(u32::from(word >> 9)));
    }
    scales_of_16(d, &b[66..], out);
}

/// Indices, signs, upper bits of the indices, then scales of 16 weights.
pub(super) fn iq2_s(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ2_S));
    for (k, codes) in out.codes.chunks_exact_mut(8).enumerate() {
        let high = usize::from(b[66 + k / 4] >> (k % 4 * 2) & 3);
        put(codes, grid[usize::from(b[2 + k]) | high << 8], 2, b[34 + k]);
    }
    scales_of_16(d, &b[74..], out);
}

fn scales_of_16(d: f32, nibbles: &[u8], out: &mut Unpacked) {
    for (g, scale) in out.scales.iter_mut().enumerate() {
        *scale = d * (0.5 + f32::from(nibble(nibbles, g))) * 0.25;
    }
}

/// Indices, then for 32 weights a word of four times seven signs and the scale.
pub(super) fn iq3_xxs(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ3_XXS));
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (indices, signs) = (&b[2 + 8 * g..], word32(b, 66 + 4 * g));
        out.scales[g] = d * (0.5 + (signs >> 28) as f32) * 0.5;
        for (k, codes) in codes.chunks_exact_mut(4).enumerate() {
            put(codes, grid[usize::from(indices[k])], 4, even(signs >> (7 * (k / 2))) >> (k % 2 * 4));
        }
    }
}

/// Indices, their upper bits, signs, then scales of 32 weights.
pub(super) fn iq3_s(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ3_S));
    for (k, codes) in out.codes.chunks_exact_mut(4).enumerate() {
        let high = usize::from(b[66 + k / 8] >> (k % 8) & 1);
        put(codes, grid[usize::from(b[2 + k]) | high << 8], 4, nibble(&b[74..], k));
    }
    for (g, scale) in out.scales.iter_mut().take(8).enumerate() {
        *scale = d * (1.0 + 2.0 * f32::from(nibble(&b[106..], g)));
    }
}

/// An eighth is added to, or taken from, values of -1, 0 and 1; the table holds eightfold values.
fn eighths(below: bool) -> u8 {
    if below { 255 } else { 0 }
}

/// Indices, then for 32 weights a word of their upper bits, the scale and the sign of the eighth.
pub(super) fn iq1_s(b: &[u8], out: &mut Unpacked) {
    let (d, grid) = (half_at(b, 0), grids::entries(grids::IQ1));
    for (k, codes) in out.codes.chunks_exact_mut(8).enumerate() {
        let word = word16(b, 34 + k / 4 * 2);
        out.scales[k / 4] = d * f32::from(2 * (word >> 12 & 7) + 1) * 0.125;
        let high = usize::from(word >> (k % 4 * 3) & 7);
        put(codes, grid[usize::from(b[k + 2]) | high << 8], 2, eighths(word & 0x8000 != 0));
    }
}

/// Indices; nibbles of their upper bits and the sign of the eighth; words of scales of 16 weights, with a quarter of the half
/// float above.
pub(super) fn iq1_m(b: &[u8], out: &mut Unpacked) {
    let grid = grids::entries(grids::IQ1);
    let d = half::f16::from_bits((0..4).map(|i| word16(b, 48 + 2 * i) >> 12 << (4 * i)).sum()).to_f32();
    for (k, codes) in out.codes.chunks_exact_mut(8).enumerate() {
        let high = nibble(&b[32..], k);
        put(codes, grid[usize::from(b[k]) | usize::from(high & 7) << 8], 2, eighths(high & 8 != 0));
    }
    for (g, scale) in out.scales.iter_mut().enumerate() {
        let word = word16(b, 48 + g / 4 * 2);
        *scale = d * f32::from(2 * (word >> (g % 4 * 3) & 7) + 1) * 0.125;
    }
}

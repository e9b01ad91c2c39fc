//! Types with a scale in front of some codes: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4 and NVFP4.

use super::{Unpacked, half_at};

/// The codes of a block of 32, of which the first 16 bytes of `bytes` are nibbles.
fn nibbles(bytes: &[u8], out: &mut Unpacked) {
    super::nibbles(bytes, out.codes.first_chunk_mut().expect("256 codes"));
}

/// Bit i of the four bytes is bit 4 of code i.
fn fifth_bits(bytes: &[u8], out: &mut Unpacked) {
    for (i, code) in out.codes.iter_mut().take(32).enumerate() {
        *code |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

pub(super) fn q4_0(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[2..], out);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = -8.0 * out.scales[0];
}

pub(super) fn q4_1(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[4..], out);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = half_at(b, 2);
}

pub(super) fn q5_0(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[6..], out);
    fifth_bits(&b[2..6], out);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = -16.0 * out.scales[0];
}

pub(super) fn q5_1(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[8..], out);
    fifth_bits(&b[4..8], out);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = half_at(b, 2);
}

pub(super) fn q8_0(b: &[u8], out: &mut Unpacked) {
    out.codes[..32].copy_from_slice(&b[2..34]);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = 0.0;
}

pub(super) fn iq4_nl(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[2..], out);
    out.scales[0] = half_at(b, 0);
    out.mins[0] = 0.0;
}

pub(super) fn mxfp4(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[1..], out);
    out.scales[0] = e8m0(b[0]);
    out.mins[0] = 0.0;
}

/// Half of what a scale of MXFP4 stands for: the exponent counts from 2^-127, and the table holds doubled values.
pub(super) fn e8m0(byte: u8) -> f32 {
    match byte {
        // 2^-128 and 2^-127 are subnormal.
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        e => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// Four scales, unsigned floats with four bits of exponent, then nibbles; halves of the scales, because the table holds doubled
/// values.
pub(super) fn nvfp4(b: &[u8], out: &mut Unpacked) {
    for (g, codes) in out.codes.as_chunks_mut::<16>().0.iter_mut().take(4).enumerate() {
        for (i, &byte) in b[4 + 8 * g..].iter().take(8).enumerate() {
            codes[i] = byte & 15;
            codes[i + 8] = byte >> 4;
        }
        out.scales[g] = ue4m3(b[g]);
    }
}

/// Half of what a scale of NVFP4 stands for.
pub(super) fn ue4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, f32::from(byte & 7));
    match exponent {
        // Not a number; ggml takes it for 0. With the unused bit above it is a number.
        15 if byte == 0x7f => 0.0,
        0 => mantissa * 2.0_f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(i32::from(exponent) - 8),
    }
}

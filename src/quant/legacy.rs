//! Types with blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

use super::{Unpacked, half_at};

/// Low nibbles are weights 0..16, high ones 16..32.
fn nibbles(bytes: &[u8], out: &mut Unpacked) {
    for (i, &b) in bytes.iter().take(16).enumerate() {
        out.codes[i] = b & 15;
        out.codes[i + 16] = b >> 4;
    }
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

/// The shared exponent counts from 2^-127; half of it, because the table holds doubled values.
pub(super) fn mxfp4(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[1..], out);
    out.scales[0] = match b[0] {
        // 2^-128 and 2^-127 are subnormal.
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        e => f32::from_bits(u32::from(e - 1) << 23),
    };
    out.mins[0] = 0.0;
}

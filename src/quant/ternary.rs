//! Types of one or two bits with a scale and nothing else: `weight = scale * (code - 1)`.

use super::{Unpacked, half_at};

fn set_scale(scale: f32, out: &mut Unpacked) {
    (out.scales[0], out.mins[0]) = (scale, -scale);
}

/// One bit: code 0 or 2.
pub(super) fn q1_0(b: &[u8], out: &mut Unpacked) {
    for (i, code) in out.codes.iter_mut().take(128).enumerate() {
        *code = (b[2 + i / 8] >> (i % 8) & 1) * 2;
    }
    set_scale(half_at(b, 0), out);
}

/// Four neighbours a byte.
pub(super) fn q2_0(b: &[u8], out: &mut Unpacked) {
    for (i, code) in out.codes.iter_mut().take(64).enumerate() {
        *code = b[2 + i / 4] >> (i % 4 * 2) & 3;
    }
    set_scale(half_at(b, 0), out);
}

/// Digits to base 3, five a byte (four in the last four bytes): a byte is the fraction of 256 whose first digit is the code, and
/// times 3 modulo 256 the next one's.
pub(super) fn tq1_0(b: &[u8], out: &mut Unpacked) {
    // Bytes of which digits are neighbours: 32 times 5, 16 times 5, 4 times 4.
    let (mut at, mut codes) = (0, &mut out.codes[..]);
    for (n_bytes, digits) in [(32, 5), (16, 5), (4, 4)] {
        let (part, rest) = std::mem::take(&mut codes).split_at_mut(n_bytes * digits);
        for (i, code) in part.iter_mut().enumerate() {
            let fraction = b[at + i % n_bytes].wrapping_mul(3_u8.pow((i / n_bytes) as u32));
            *code = ((u16::from(fraction) * 3) >> 8) as u8;
        }
        (at, codes) = (at + n_bytes, rest);
    }
    set_scale(half_at(b, 52), out);
}

pub(super) fn tq2_0(b: &[u8], out: &mut Unpacked) {
    super::k::two_bits(&b[..64], out);
    set_scale(half_at(b, 64), out);
}

//! K-quants: 256 weights with two levels of scales (ggml-quants).

use super::{Unpacked, half_at};

/// Two-bit fields: shift s of byte 32 h + i is weight 128 h + 32 s + i.
pub(super) fn two_bits(bytes: &[u8], out: &mut Unpacked) {
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(out.codes.as_chunks_mut::<128>().0) {
        for (s, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (2 * s) & 3;
            }
        }
    }
}

/// Bit g of byte i is bit `to` of weight 32 g + i.
fn high_bits(bytes: &[u8], to: u32, out: &mut Unpacked) {
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code |= (byte >> g & 1) << to;
        }
    }
}

/// Six-bit scales and minima of Q4_K and Q5_K, packed into 12 bytes.
fn scale_min(j: usize, b: &[u8]) -> (u8, u8) {
    if j < 4 {
        (b[j] & 63, b[j + 4] & 63)
    } else {
        (b[j + 4] & 15 | b[j - 4] >> 6 << 4, b[j + 4] >> 4 | b[j] >> 6 << 4)
    }
}

pub(super) fn q2_k(b: &[u8], out: &mut Unpacked) {
    two_bits(&b[16..80], out);
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (g, &s) in b[..16].iter().enumerate() {
        out.scales[g] = d * f32::from(s & 15);
        out.mins[g] = -(min * f32::from(s >> 4));
    }
}

pub(super) fn q3_k(b: &[u8], out: &mut Unpacked) {
    two_bits(&b[32..96], out);
    high_bits(&b[..32], 2, out);
    let (d, s) = (half_at(b, 108), &b[96..108]);
    for g in 0..16 {
        let low = s[g % 8] >> (4 * (g / 8)) & 15;
        let high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
        out.scales[g] = d * (f32::from(low | high << 4) - 32.0);
        out.mins[g] = -4.0 * out.scales[g];
    }
}

fn scales_of_32(b: &[u8], out: &mut Unpacked) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    for g in 0..8 {
        let (s, m) = scale_min(g, &b[4..16]);
        out.scales[g] = d * f32::from(s);
        out.mins[g] = -(min * f32::from(m));
    }
}

/// Nibbles: byte 32 j + i holds weights 64 j + i (low) and 64 j + 32 + i (high).
fn nibbles(bytes: &[u8], out: &mut Unpacked) {
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(out.codes.as_chunks_mut::<64>().0) {
        let (low, high) = codes.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

pub(super) fn q4_k(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[16..144], out);
    scales_of_32(b, out);
}

pub(super) fn q5_k(b: &[u8], out: &mut Unpacked) {
    nibbles(&b[48..176], out);
    high_bits(&b[16..48], 4, out);
    scales_of_32(b, out);
}

pub(super) fn q6_k(b: &[u8], out: &mut Unpacked) {
    let halves = b[..128].as_chunks::<64>().0.iter().zip(b[128..192].as_chunks::<32>().0);
    for ((low, high), codes) in halves.zip(out.codes.as_chunks_mut::<128>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for ((code, low), high) in codes.iter_mut().zip(&low[quarter % 2 * 32..]).zip(high) {
                *code = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            }
        }
    }
    let d = half_at(b, 208);
    for (g, &s) in b[192..208].iter().enumerate() {
        out.scales[g] = d * f32::from(s as i8);
        out.mins[g] = -32.0 * out.scales[g];
    }
}

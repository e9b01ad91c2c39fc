//! Codes into blocks: what [`super::super::unpack`] takes out.

use super::super::TensorType;

/// Puts the codes of a block, in the form of [`super::super::Unpacked::codes`]; scales stay as they are.
pub(super) fn put(ty: TensorType, codes: &[u8; 256], block: &mut [u8]) {
    match ty {
        TensorType::Q4_0 | TensorType::IQ4_NL => nibbles(codes, &mut block[2..]),
        TensorType::Q4_1 => nibbles(codes, &mut block[4..]),
        TensorType::MXFP4 => nibbles(codes, &mut block[1..]),
        TensorType::Q5_0 => fifth(codes, &mut block[2..]),
        TensorType::Q5_1 => fifth(codes, &mut block[4..]),
        TensorType::Q8_0 => block[2..34].copy_from_slice(&codes[..32]),
        TensorType::NVFP4 => {
            for (codes, bytes) in codes.as_chunks::<16>().0.iter().zip(block[4..].as_chunks_mut::<8>().0) {
                (0..8).for_each(|i| bytes[i] = codes[i] & 15 | codes[i + 8] << 4);
            }
        }
        TensorType::IQ4_XS => {
            for (codes, bytes) in codes.as_chunks::<32>().0.iter().zip(block[8..].as_chunks_mut::<16>().0) {
                nibbles(codes, bytes);
            }
        }
        TensorType::Q2_K => two_bits(codes, &mut block[16..80]),
        TensorType::Q3_K => {
            two_bits(codes, &mut block[32..96]);
            high_bits(codes, 2, &mut block[..32]);
        }
        TensorType::Q4_K => pairs(codes, &mut block[16..144]),
        TensorType::Q5_K => {
            pairs(codes, &mut block[48..176]);
            high_bits(codes, 4, &mut block[16..48]);
        }
        TensorType::Q6_K => six_bits(codes, block),
        _ => unreachable!("not a type of TYPES"),
    }
}

/// 32 codes as 16 bytes: weights 0..16 are low nibbles, 16..32 high ones.
fn nibbles(codes: &[u8], bytes: &mut [u8]) {
    (0..16).for_each(|i| bytes[i] = codes[i] & 15 | codes[i + 16] << 4);
}

/// Four bytes of fifth bits in front of nibbles.
fn fifth(codes: &[u8], bytes: &mut [u8]) {
    for (byte, codes) in bytes.iter_mut().zip(codes[..32].as_chunks::<8>().0) {
        *byte = (0..8).fold(0, |bits, i| bits | (codes[i] >> 4 & 1) << i);
    }
    nibbles(codes, &mut bytes[4..]);
}

/// Shift s of byte 32 h + i is weight 128 h + 32 s + i.
fn two_bits(codes: &[u8; 256], bytes: &mut [u8]) {
    for (bytes, codes) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (0..4).fold(0, |bits, s| bits | (codes[32 * s + i] & 3) << (2 * s));
        }
    }
}

/// Bit g of byte i is bit `from` of weight 32 g + i.
fn high_bits(codes: &[u8; 256], from: u32, bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, g| bits | (codes[32 * g + i] >> from & 1) << g);
    }
}

/// Byte 32 j + i holds weights 64 j + i (low) and 64 j + 32 + i (high).
fn pairs(codes: &[u8; 256], bytes: &mut [u8]) {
    for (bytes, codes) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        (0..32).for_each(|i| bytes[i] = codes[i] & 15 | codes[i + 32] << 4);
    }
}

/// Of each half, nibbles of two quarters a byte, then two bits of four quarters a byte.
fn six_bits(codes: &[u8; 256], block: &mut [u8]) {
    for (h, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..64 {
            block[64 * h + i] = codes[i] & 15 | codes[i + 64] << 4;
        }
        for i in 0..32 {
            block[128 + 32 * h + i] = (0..4).fold(0, |bits, q| bits | (codes[32 * q + i] >> 4 & 3) << (2 * q));
        }
    }
}

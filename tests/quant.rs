//! Decoding of every tensor type against blocks that the PyPI package gguf decoded (`data/make_quant.py`).

mod common;

use foreword::gguf::Gguf;
use foreword::gguf::source::{BytesSource, Source};
use foreword::quant::{self, TensorType};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn fixture() -> (Vec<u8>, Gguf) {
    let bytes = common::read(&common::data("quant.gguf"));
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes.clone()))];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a valid file");
    (bytes, gguf)
}

/// Type, its encoded weights, and the floats that they stand for.
fn cases() -> Vec<(TensorType, Vec<u8>, Vec<f32>)> {
    let (bytes, gguf) = fixture();
    let data = |name: &str| {
        let info = gguf.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        (info.ty, bytes[info.offset as usize..][..info.n_bytes as usize].to_vec())
    };
    let case = |&ty: &TensorType| {
        let ((found, encoded), (_, decoded)) = (data(ty.name()), data(&format!("{}.decoded", ty.name())));
        assert_eq!(found, ty);
        (ty, encoded, decoded.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    TensorType::ALL.iter().map(case).collect()
}

#[test]
fn every_type_decodes_bit_for_bit() {
    for (ty, encoded, expected) in cases() {
        let mut decoded = vec![0.0; expected.len()];
        quant::decode(ty, &encoded, &mut decoded).expect("whole blocks");
        for (i, (found, expected)) in decoded.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{} weight {i}: {found} for {expected}", ty.name());
        }
    }
}

/// The blocks above meet few entries of the grids; these meet all of them.
#[test]
fn grids_decode_to_their_checksums() {
    let (bytes, gguf) = fixture();
    for info in gguf.tensors.iter().filter(|info| info.name.ends_with(".grid")) {
        let encoded = &bytes[info.offset as usize..][..info.n_bytes as usize];
        let mut decoded = vec![0.0; encoded.len() / info.ty.block_bytes() * info.ty.block_len()];
        quant::decode(info.ty, encoded, &mut decoded).expect("whole blocks");
        let expected = gguf.metadata.u32(&format!("quant.{}", info.name)).expect("a checksum");
        assert_eq!(crc32(decoded.iter().flat_map(|v| v.to_le_bytes())), expected, "{}", info.name);
    }
}

fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    let bit = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.fold(!0, |crc, b| (0..8).fold(crc ^ u32::from(b), |crc, _| bit(crc)))
}

#[test]
fn decoding_wants_whole_blocks() {
    for (ty, encoded, expected) in cases() {
        let mut out = vec![0.0; expected.len()];
        let error = quant::decode(ty, &encoded[1..], &mut out).expect_err("a byte is missing");
        assert!(error.to_string().contains(ty.name()), "{error}");
        assert!(quant::decode(ty, &encoded, &mut out[1..]).is_err(), "{} into too few floats", ty.name());
    }
}

/// The contract of `unpack`, on which kernel layouts build: a weight is `scale * code + min` of its group.
#[test]
fn unpacked_blocks_mean_the_decoded_weights() {
    for (ty, encoded, expected) in cases() {
        if ty.is_float() {
            continue;
        }
        let mut block = quant::Unpacked::default();
        let group_len = quant::group_len(ty);
        for (bytes, expected) in encoded.chunks_exact(ty.block_bytes()).zip(expected.chunks_exact(ty.block_len())) {
            quant::unpack(ty, bytes, &mut block);
            for (i, &expected) in expected.iter().enumerate() {
                let code = match quant::Table::of(ty) {
                    Some(table) => f64::from(table.values()[usize::from(block.codes[i])]),
                    None if ty == TensorType::Q8_0 => f64::from(block.codes[i] as i8),
                    None => f64::from(block.codes[i]),
                };
                let (scale, min) = (f64::from(block.scales[i / group_len]), f64::from(block.mins[i / group_len]));
                let (found, bound) = (scale * code + min, 1e-6 * ((scale * code).abs() + min.abs()));
                let expected = f64::from(expected);
                assert!(expected.is_infinite() || (found - expected).abs() <= bound, "{} weight {i}", ty.name());
            }
        }
    }
}

/// Whatever makes a decoded weight NaN, infinite or absurd is found in the encoded rows, and nothing else.
#[test]
fn rows_that_are_no_numbers_are_found() {
    for &ty in TensorType::ALL.iter().filter(|&&ty| ty != TensorType::MXFP4) {
        let clean = vec![0; 2 * ty.block_bytes().max(4)];
        let mut values = vec![0.0; clean.len() / ty.block_bytes() * ty.block_len()];
        for at in (0..clean.len() - 3).step_by(2) {
            for pattern in [&[0x00, 0x7e][..], &[0xff, 0xff], &[0x80, 0x7f], &[0x00, 0x00, 0x80, 0xff], &[0xfe, 0x7b]] {
                let mut rows = clean.clone();
                rows[at..at + pattern.len()].copy_from_slice(pattern);
                quant::decode(ty, &rows, &mut values).expect("whole blocks");
                let sound = values.iter().all(|v| v.abs() < 1e18);
                assert_eq!(ty.are_numbers(&rows), sound, "{} at {at}: {pattern:x?}", ty.name());
            }
        }
    }
    // A scale of all ones is NaN by the standard of the type, but decoded as the next power of two.
    assert!(!TensorType::MXFP4.are_numbers(&[0xff; 17]) && TensorType::MXFP4.are_numbers(&[0x7f; 34]));
}

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
                let code = match ty {
                    TensorType::Q8_0 => f64::from(block.codes[i] as i8),
                    TensorType::IQ4_NL => f64::from(quant::layout::IQ4_NL_VALUES[usize::from(block.codes[i])]),
                    TensorType::MXFP4 => f64::from(quant::layout::MXFP4_VALUES[usize::from(block.codes[i])]),
                    _ => f64::from(block.codes[i]),
                };
                let (scale, min) = (f64::from(block.scales[i / group_len]), f64::from(block.mins[i / group_len]));
                let (found, bound) = (scale * code + min, 1e-6 * ((scale * code).abs() + min.abs()));
                let expected = f64::from(expected);
                assert!(expected.is_infinite() || (found - expected).abs() <= bound, "{} weight {i}", ty.name());
            }
        }
    }
}

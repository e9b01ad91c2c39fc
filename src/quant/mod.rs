//! Tensor types of GGUF files: block geometry and decoding.
//!
//! [`TensorType`] is the table of types that Foreword reads; [`unpack`] takes one block apart into codes, scales and minima;
//! [`decode`] makes floats. Kernels do not work on file blocks: loading repacks them into the few layouts of [`layout`] (CPU) or
//! [`panels`] (GPUs).

mod k;
pub mod layout;
mod legacy;
pub mod panels;
mod types;

pub use types::TensorType;

use crate::error::{Error, Result};
use layout::{IQ4_NL_VALUES, MXFP4_VALUES};

/// A block of up to 256 weights taken apart: `weight = scales[g] * code + mins[g]`, with `g` the scale group of the weight
/// (16 or 32 weights, see [`group_len`]).
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// One a weight. Natural unsigned codes as in the file; two's complement for [`TensorType::Q8_0`]; table indices for
    /// [`TensorType::IQ4_NL`] and [`TensorType::MXFP4`].
    pub codes: [u8; 256],
    /// One a scale group.
    pub scales: [f32; 16],
    /// One a scale group; where a type has no minima of its own, `-offset * scale`.
    pub mins: [f32; 16],
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { codes: [0; 256], scales: [0.0; 16], mins: [0.0; 16] }
    }
}

/// Weights that share a scale.
pub const fn group_len(ty: TensorType) -> usize {
    match ty {
        TensorType::Q2_K | TensorType::Q3_K | TensorType::Q6_K => 16,
        _ => 32,
    }
}

/// Takes one block of a quantized type apart. `block` holds [`TensorType::block_bytes`] bytes.
pub fn unpack(ty: TensorType, block: &[u8], out: &mut Unpacked) {
    match ty {
        TensorType::Q4_0 => legacy::q4_0(block, out),
        TensorType::Q4_1 => legacy::q4_1(block, out),
        TensorType::Q5_0 => legacy::q5_0(block, out),
        TensorType::Q5_1 => legacy::q5_1(block, out),
        TensorType::Q8_0 => legacy::q8_0(block, out),
        TensorType::IQ4_NL => legacy::iq4_nl(block, out),
        TensorType::MXFP4 => legacy::mxfp4(block, out),
        TensorType::Q2_K => k::q2_k(block, out),
        TensorType::Q3_K => k::q3_k(block, out),
        TensorType::Q4_K => k::q4_k(block, out),
        TensorType::Q5_K => k::q5_k(block, out),
        TensorType::Q6_K => k::q6_k(block, out),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => {}
    }
}

/// Decodes whole blocks to floats, bit for bit as ggml's reference does.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] when `bytes` are not `out.len()` weights of whole blocks.
pub fn decode(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::invalid_request(format!(
            "{} bytes of {} do not hold {} weights",
            bytes.len(),
            ty.name(),
            out.len()
        )));
    }
    match ty {
        TensorType::F32 => each::<4>(bytes, out, f32::from_le_bytes),
        TensorType::F16 => each::<2>(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        TensorType::BF16 => each::<2>(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => {
            let mut block = Unpacked::default();
            for (bytes, out) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
                unpack(ty, bytes, &mut block);
                for (i, (out, &code)) in out.iter_mut().zip(&block.codes).enumerate() {
                    let g = i / group_len(ty);
                    *out = weight(ty, code, block.scales[g], block.mins[g]);
                }
            }
        }
    }
    Ok(())
}

/// One weight, in the order of operations of ggml's reference.
fn weight(ty: TensorType, code: u8, scale: f32, min: f32) -> f32 {
    match ty {
        TensorType::Q4_0 => scale * (f32::from(code) - 8.0),
        TensorType::Q5_0 => scale * (f32::from(code) - 16.0),
        TensorType::Q3_K => scale * (f32::from(code) - 4.0),
        TensorType::Q6_K => scale * (f32::from(code) - 32.0),
        TensorType::Q8_0 => scale * f32::from(code as i8),
        TensorType::IQ4_NL => scale * f32::from(IQ4_NL_VALUES[usize::from(code & 15)]),
        TensorType::MXFP4 => scale * f32::from(MXFP4_VALUES[usize::from(code & 15)]),
        _ => scale * f32::from(code) + min,
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = f(*b);
    }
}

/// The half float at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

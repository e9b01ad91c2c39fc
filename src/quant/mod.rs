//! Tensor types of GGUF files: block geometry and decoding.
//!
//! [`TensorType`] is the table of types that Foreword reads; [`unpack`] takes one block apart into codes, scales and minima;
//! [`decode`] makes floats. Kernels do not work on file blocks: loading repacks them into the few layouts of [`layout`] (CPU) or
//! [`panels`] (GPUs).

pub mod encode;
mod grids;
mod iq;
mod k;
pub mod layout;
mod legacy;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub mod panels;
mod tables;
mod ternary;
mod types;

pub use tables::Table;
pub use types::TensorType;

use crate::error::{Error, Result};

/// A block of up to 256 weights taken apart: `weight = scales[g] * code + mins[g]`, with `g` the scale group of the weight
/// (see [`group_len`]).
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// One a weight. Natural unsigned codes as in the file; two's complement for [`TensorType::Q8_0`]; indices where a type
    /// has a [`Table`].
    pub codes: [u8; 256],
    /// One a scale group.
    pub scales: [f32; 16],
    /// One a scale group; where a type has no minima of its own, `-offset * scale`. Of a type with a [`Table`] there are none.
    pub mins: [f32; 16],
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { codes: [0; 256], scales: [0.0; 16], mins: [0.0; 16] }
    }
}

/// Weights that share a scale, at least 16.
pub const fn group_len(ty: TensorType) -> usize {
    match ty {
        TensorType::Q2_K | TensorType::Q3_K | TensorType::Q6_K => 16,
        TensorType::IQ2_XS | TensorType::IQ2_S | TensorType::IQ1_M | TensorType::NVFP4 => 16,
        TensorType::Q2_0 => 64,
        TensorType::Q1_0 => 128,
        TensorType::TQ1_0 | TensorType::TQ2_0 => 256,
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
        TensorType::IQ4_XS => iq::iq4_xs(block, out),
        TensorType::IQ3_S => iq::iq3_s(block, out),
        TensorType::IQ3_XXS => iq::iq3_xxs(block, out),
        TensorType::IQ2_S => iq::iq2_s(block, out),
        TensorType::IQ2_XS => iq::iq2_xs(block, out),
        TensorType::IQ2_XXS => iq::iq2_xxs(block, out),
        TensorType::IQ1_S => iq::iq1_s(block, out),
        TensorType::IQ1_M => iq::iq1_m(block, out),
        TensorType::MXFP4 => legacy::mxfp4(block, out),
        TensorType::NVFP4 => legacy::nvfp4(block, out),
        TensorType::Q1_0 => ternary::q1_0(block, out),
        TensorType::Q2_0 => ternary::q2_0(block, out),
        TensorType::TQ1_0 => ternary::tq1_0(block, out),
        TensorType::TQ2_0 => ternary::tq2_0(block, out),
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

/// Floats, whole groups of 32, as blocks of [`TensorType::Q8_0`].
pub(crate) fn encode_q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
    for group in values.chunks_exact(32) {
        let scale = half::f16::from_f32(group.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0);
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        bytes.extend(scale.to_le_bytes());
        bytes.extend(group.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    bytes
}

/// One weight, in the order of operations of ggml's reference.
fn weight(ty: TensorType, code: u8, scale: f32, min: f32) -> f32 {
    if let Some(table) = Table::of(ty) {
        return scale * f32::from(table.values()[usize::from(code & 15)]);
    }
    match ty {
        TensorType::Q1_0 | TensorType::Q2_0 | TensorType::TQ1_0 | TensorType::TQ2_0 => scale * (f32::from(code) - 1.0),
        TensorType::Q4_0 => scale * (f32::from(code) - 8.0),
        TensorType::Q5_0 => scale * (f32::from(code) - 16.0),
        TensorType::Q3_K => scale * (f32::from(code) - 4.0),
        TensorType::Q6_K => scale * (f32::from(code) - 32.0),
        TensorType::Q8_0 => scale * f32::from(code as i8),
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

/// 32 codes from the first 16 bytes: low nibbles are weights 0..16, high ones 16..32.
fn nibbles(bytes: &[u8], codes: &mut [u8; 32]) {
    for (i, &b) in bytes.iter().take(16).enumerate() {
        codes[i] = b & 15;
        codes[i + 16] = b >> 4;
    }
}

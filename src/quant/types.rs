//! The table of tensor types: GGUF id, name and block geometry.

use crate::error::{Error, Result};

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// A tensor type that Foreword reads; the geometry is that of the GGUF specification (ggml).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names are those of the GGUF specification")]
        pub enum TensorType { $($(#[$doc])* $name),* }

        impl TensorType {
            /// Every type, in the order of the GGUF ids.
            pub const ALL: &[TensorType] = &[$(TensorType::$name),*];

            /// The type with this GGUF id; an error that names the type otherwise.
            pub fn from_id(id: u32) -> Result<Self> {
                match id {
                    $($id => Ok(TensorType::$name),)*
                    _ => Err(Error::unsupported(format!(
                        "tensor type {} is not supported; use a file quantized to one of {}",
                        foreign_name(id).map_or_else(|| format!("{id} (unknown)"), |name| format!("{name} ({id})")),
                        Self::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", "),
                    ))),
                }
            }

            /// The GGUF id.
            pub const fn id(self) -> u32 {
                match self { $(TensorType::$name => $id),* }
            }

            /// The name that GGUF tools print.
            pub const fn name(self) -> &'static str {
                match self { $(TensorType::$name => $text),* }
            }

            /// Weights in a block.
            pub const fn block_len(self) -> usize {
                match self { $(TensorType::$name => $block_len),* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(TensorType::$name => $block_bytes),* }
            }
        }
    };
}

tensor_types! {
    /// 32-bit float.
    F32 = 0, "F32", 1, 4;
    /// IEEE half.
    F16 = 1, "F16", 1, 2;
    /// 4 bits, scale.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4 bits, scale and minimum.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5 bits, scale.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5 bits, scale and minimum.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8 bits, scale.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 2 bits, 4-bit scales and minima of 16 weights, under two halves of 256.
    Q2_K = 10, "Q2_K", 256, 84;
    /// 3 bits, 6-bit scales of 16 weights.
    Q3_K = 11, "Q3_K", 256, 110;
    /// 4 bits, 6-bit scales and minima of 32 weights.
    Q4_K = 12, "Q4_K", 256, 144;
    /// 5 bits, 6-bit scales and minima of 32 weights.
    Q5_K = 13, "Q5_K", 256, 176;
    /// 6 bits, 8-bit scales of 16 weights.
    Q6_K = 14, "Q6_K", 256, 210;
    /// Signs and entries of a grid of 256 times eight values, 4-bit scales of 32 weights.
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    /// Signs and entries of a grid of 512 times eight values, 4-bit scales of 16 weights.
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    /// Signs and entries of a grid of 256 times four values, 4-bit scales of 32 weights.
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    /// Entries of a grid of 2048 times eight values, 3-bit scales of 32 weights.
    IQ1_S = 19, "IQ1_S", 256, 50;
    /// 4-bit indices into a table of 16 values, scale.
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    /// Signs and entries of a grid of 512 times four values, 4-bit scales of 32 weights.
    IQ3_S = 21, "IQ3_S", 256, 110;
    /// Signs and entries of a grid of 1024 times eight values, 4-bit scales of 16 weights.
    IQ2_S = 22, "IQ2_S", 256, 82;
    /// IQ4_NL's table, 6-bit scales of 32 weights.
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    /// IQ1_S with scales of 16 weights.
    IQ1_M = 29, "IQ1_M", 256, 56;
    /// The upper half of a 32-bit float.
    BF16 = 30, "BF16", 1, 2;
    /// Three values, five to a byte, scale.
    TQ1_0 = 34, "TQ1_0", 256, 54;
    /// Three values in two bits, scale.
    TQ2_0 = 35, "TQ2_0", 256, 66;
    /// OCP microscaling: 4-bit floats (E2M1) under a shared power of two.
    MXFP4 = 39, "MXFP4", 32, 17;
    /// 4-bit floats (E2M1), 8-bit floats (E4M3) as scales of 16 weights; a tensor's own scale is another tensor.
    NVFP4 = 40, "NVFP4", 64, 36;
    /// The sign, scale.
    Q1_0 = 41, "Q1_0", 128, 18;
    /// 2 bits, scale.
    Q2_0 = 42, "Q2_0", 64, 18;
}

impl TensorType {
    /// Bytes of a row of `len` weights, or `None` when the row is not a whole number of blocks or overflows.
    pub const fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether encoded rows hold numbers that weights could be: neither floats nor the scales of blocks are NaN, infinite or
    /// beyond 1e18, of which products would be infinite.
    pub fn are_numbers(self, rows: &[u8]) -> bool {
        // Without early ends, which would keep this from being done by vectors.
        let scales: &[usize] = match self {
            TensorType::F32 => {
                return rows.as_chunks().0.iter().fold(true, |all, b| all & (f32::from_le_bytes(*b).abs() < 1e18));
            }
            TensorType::BF16 => {
                let value = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                return rows.as_chunks().0.iter().fold(true, |all, b| all & (value(b).abs() < 1e18));
            }
            // Of 8 bits, all of which are numbers.
            TensorType::NVFP4 => return true,
            TensorType::MXFP4 => return rows.chunks_exact(self.block_bytes()).all(|block| block[0] != 0xff),
            TensorType::F16 | TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
            TensorType::IQ4_NL | TensorType::IQ4_XS | TensorType::IQ3_S | TensorType::IQ3_XXS => &[0],
            TensorType::IQ2_S | TensorType::IQ2_XS | TensorType::IQ2_XXS | TensorType::IQ1_S => &[0],
            // The upper eight bits of the half are the upper nibbles of two bytes.
            TensorType::IQ1_M => {
                let finite = |block: &[u8]| block[55] & 0x70 != 0x70 || block[53] & 0xc0 != 0xc0;
                return rows.chunks_exact(self.block_bytes()).fold(true, |all, block| all & finite(block));
            }
            TensorType::Q1_0 | TensorType::Q2_0 => &[0],
            TensorType::TQ1_0 => &[52],
            TensorType::TQ2_0 => &[64],
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::Q6_K => &[208],
        };
        // The exponent of a half is in the upper byte.
        let finite = |block: &[u8]| scales.iter().fold(true, |all, at| all & (block[at + 1] & 0x7c != 0x7c));
        rows.chunks_exact(self.block_bytes()).fold(true, |all, block| all & finite(block))
    }

    /// Whether weights are plain floats: their products are computed in f32, not on quantized activations.
    pub const fn is_float(self) -> bool {
        matches!(self, TensorType::F32 | TensorType::F16 | TensorType::BF16)
    }
}

/// Names of ggml types that Foreword does not read, for error messages.
fn foreign_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "I2_S of BitNet",
        37 | 38 => "one of BitNet's fork, or a repacked IQ4_NL",
        // Of the fork ik_llama.cpp.
        133 => "Q6_0",
        134 => "IQ1_BN",
        135 => "IQ2_BN",
        137 => "IQ2_K",
        138 => "IQ3_K",
        139 => "IQ4_K",
        140 => "IQ5_K",
        141 => "IQ6_K",
        144 => "IQ4_KS",
        145 => "IQ2_KS",
        146 => "IQ4_KSS",
        152 => "IQ5_KS",
        153 => "IQ2_KT",
        154 => "IQ3_KT",
        155 => "IQ4_KT",
        156 => "IQ3_KS",
        157 => "IQ2_KL",
        158 => "IQ1_KT",
        200..=399 => "a repacked one of ik_llama.cpp",
        _ => return None,
    })
}

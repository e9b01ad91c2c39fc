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
    /// 4-bit indices into a table of 16 values, scale.
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    /// The upper half of a 32-bit float.
    BF16 = 30, "BF16", 1, 2;
    /// OCP microscaling: 4-bit floats (E2M1) under a shared power of two.
    MXFP4 = 39, "MXFP4", 32, 17;
}

impl TensorType {
    /// Bytes of a row of `len` weights, or `None` when the row is not a whole number of blocks or overflows.
    pub const fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
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
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return None,
    })
}

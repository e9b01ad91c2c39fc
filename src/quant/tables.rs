//! Types whose codes are indices into a table of values.

use super::TensorType;

/// A table of up to 16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Of IQ4_NL and IQ4_XS: denser about 0.
    Iq4,
    /// Of IQ3_S: both signs of each magnitude, as in those below.
    Iq3S,
    /// Of IQ3_XXS.
    Iq3Xxs,
    /// Of IQ2_S, IQ2_XS and IQ2_XXS.
    Iq2,
    /// Of IQ1_S and IQ1_M: an eighth more or less than -1, 0 and 1, in eighths.
    Iq1,
    /// Of MXFP4 and NVFP4: four-bit floats (E2M1), doubled.
    E2m1,
}

impl Table {
    /// The table of a tensor type, if its codes are indices.
    pub const fn of(ty: TensorType) -> Option<Self> {
        Some(match ty {
            TensorType::IQ4_NL | TensorType::IQ4_XS => Table::Iq4,
            TensorType::IQ3_S => Table::Iq3S,
            TensorType::IQ3_XXS => Table::Iq3Xxs,
            TensorType::IQ2_S | TensorType::IQ2_XS | TensorType::IQ2_XXS => Table::Iq2,
            TensorType::IQ1_S | TensorType::IQ1_M => Table::Iq1,
            TensorType::MXFP4 | TensorType::NVFP4 => Table::E2m1,
            _ => return None,
        })
    }

    /// The value of each code.
    pub const fn values(self) -> &'static [i8; 16] {
        match self {
            Table::Iq4 => &[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
            Table::Iq3S => &[1, -1, 3, -3, 5, -5, 7, -7, 9, -9, 11, -11, 13, -13, 15, -15],
            Table::Iq3Xxs => &[4, -4, 12, -12, 20, -20, 28, -28, 36, -36, 44, -44, 52, -52, 62, -62],
            Table::Iq2 => &[8, -8, 25, -25, 43, -43, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Table::Iq1 => &[-7, -9, 1, -1, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Table::E2m1 => &[0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12],
        }
    }
}

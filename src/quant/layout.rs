//! Kernel layouts: how weights lie in memory once they are loaded.
//!
//! Files hold many tensor types; kernels read few layouts, and all instruction sets read the same ones. A matrix is cut
//! into panels of `PANEL` rows. A panel is a sequence of groups along the columns, and in a group the codes of the 16
//! rows are interleaved four columns at a time, so that one register holds the same four columns of as many rows as it
//! has 32-bit lanes, and a dot-product instruction advances all these rows by four columns. No sums across lanes are
//! ever needed, and a decode step reads each panel once from front to back.
//!
//! "Quad j" below is columns `4j..4j+4` of 32; it takes 64 bytes, row by row. A group of 32 columns is
//!
//! | layout | codes | bytes | scales behind the codes |
//! |---|---|---|---|
//! | `U4`, `U4M`, `T4`, `Mxfp4`, `Nvfp4` | quads 0–3 in the low nibbles, 4–7 in the high ones | 256 | a row; of `Nvfp4`: a row and 16 columns |
//! | `U5`, `U5M` | as U4, then bit j of byte `4 row + i` is bit 4 of column `4j + i` | 320 | a row |
//! | `U6` | as U4, then two planes of bits 4–5, quads 0–3 and 4–7 | 384 | a row and 16 columns |
//! | `U3`, `T3` | two planes of bits 0–1, then one of bit 2 | 192 | a row and 16 columns |
//! | `Ternary` | two planes of 2 bits | 128 | a row |
//! | `Binary` | bit j of byte `4 row + i` is bit 1 of column `4j + i`, and bit 0 is 0 | 64 | a row |
//! | `U2` (256 columns) | 8 times two planes of 2 bits | 1024 | `scale \| min << 4` a row and 16 columns, then d and dmin |
//! | `I8` | eight quads | 512 | a row |
//!
//! Scales (then minima, where there are any) are half floats, 16 of them, one a row; f32 for `Mxfp4`, whose powers of two
//! outrange a half. Codes of `T3`, `T4`, `Mxfp4` and `Nvfp4` are indices into a [`Table`]. Float layouts hold `[column][16 rows]`.

use super::{Table, TensorType, Unpacked};

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;

/// A layout; see the module text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the module text has the table")]
pub enum Layout {
    F32,
    F16,
    Bf16,
    U4,
    U4M,
    U5,
    U5M,
    U6,
    U3,
    U2,
    I8,
    T3(Table),
    T4(Table),
    Mxfp4,
    Nvfp4,
    Ternary,
    Binary,
}

impl Layout {
    /// The layout that weights of this type are repacked to.
    pub const fn of(ty: TensorType) -> Self {
        match ty {
            TensorType::F32 => Layout::F32,
            TensorType::F16 => Layout::F16,
            TensorType::BF16 => Layout::Bf16,
            TensorType::Q4_0 => Layout::U4,
            TensorType::Q4_1 | TensorType::Q4_K => Layout::U4M,
            TensorType::Q5_0 => Layout::U5,
            TensorType::Q5_1 | TensorType::Q5_K => Layout::U5M,
            TensorType::Q6_K => Layout::U6,
            TensorType::Q3_K => Layout::U3,
            TensorType::Q2_K => Layout::U2,
            TensorType::Q8_0 => Layout::I8,
            TensorType::IQ4_NL | TensorType::IQ4_XS => Layout::T4(Table::Iq4),
            TensorType::IQ3_S => Layout::T4(Table::Iq3S),
            TensorType::IQ3_XXS => Layout::T4(Table::Iq3Xxs),
            TensorType::IQ2_S | TensorType::IQ2_XS | TensorType::IQ2_XXS => Layout::T3(Table::Iq2),
            TensorType::IQ1_S | TensorType::IQ1_M => Layout::T3(Table::Iq1),
            TensorType::MXFP4 => Layout::Mxfp4,
            TensorType::NVFP4 => Layout::Nvfp4,
            TensorType::Q1_0 => Layout::Binary,
            TensorType::Q2_0 | TensorType::TQ1_0 | TensorType::TQ2_0 => Layout::Ternary,
        }
    }

    /// Columns of a group.
    pub(crate) const fn group_cols(self) -> usize {
        match self {
            Layout::F32 | Layout::F16 | Layout::Bf16 => 1,
            Layout::U2 => 256,
            _ => 32,
        }
    }

    /// Bytes of a group of [`PANEL`] rows.
    pub(crate) const fn group_bytes(self) -> usize {
        match self {
            Layout::F32 => 64,
            Layout::F16 | Layout::Bf16 => 32,
            Layout::U4 | Layout::T4(_) => 256 + 32,
            Layout::U4M | Layout::Mxfp4 | Layout::Nvfp4 => 256 + 64,
            Layout::U5 => 320 + 32,
            Layout::U5M => 320 + 64,
            Layout::U6 => 384 + 64,
            Layout::U3 | Layout::T3(_) => 192 + 64,
            Layout::Ternary => 128 + 32,
            Layout::Binary => 64 + 32,
            Layout::U2 => 1024 + 256 + 64,
            Layout::I8 => 512 + 32,
        }
    }

    /// Bytes of a panel with `cols` columns.
    pub(crate) const fn panel_bytes(self, cols: usize) -> usize {
        cols / self.group_cols() * self.group_bytes()
    }
}

/// Repacks up to [`PANEL`] rows of a tensor, `rows` in file form one behind the other, into one panel. Rows that are
/// missing at the end of a matrix become zeros.
pub(crate) fn repack_panel(ty: TensorType, cols: usize, rows: &[u8], panel: &mut [u8]) {
    let layout = Layout::of(ty);
    let row_bytes = cols / ty.block_len() * ty.block_bytes();
    if rows.len() < PANEL * row_bytes {
        panel.fill(0);
    }
    if ty.is_float() {
        let width = ty.block_bytes();
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, value) in row.chunks_exact(width).enumerate() {
                panel[(k * PANEL + r) * width..][..width].copy_from_slice(value);
            }
        }
        return;
    }
    let mut block = Unpacked::default();
    let groups_a_block = (ty.block_len() / layout.group_cols()).max(1);
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (b, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
            super::unpack(ty, bytes, &mut block);
            let first = b * groups_a_block * layout.group_bytes();
            let groups = panel[first..].chunks_exact_mut(layout.group_bytes()).take(groups_a_block);
            if layout == Layout::U2 {
                groups.for_each(|group| pack_u2(bytes, &block, r, group));
            } else {
                groups.enumerate().for_each(|(g, group)| pack_group(ty, &block, g, r, group));
            }
        }
    }
}

/// Writes row `r` of a group of 32 columns: codes `32 g..` of the block and their scales and minima.
fn pack_group(ty: TensorType, block: &Unpacked, g: usize, r: usize, group: &mut [u8]) {
    let codes: &[u8; 32] = block.codes[g * 32..].first_chunk().expect("a block holds whole groups");
    let (layout, group_len) = (Layout::of(ty), super::group_len(ty));
    // Where scales are of 16 columns there are two to 32 columns, though those of the type may be of more.
    let (per, scales_at) = match layout {
        Layout::Ternary => (1, 128),
        Layout::Binary => (1, 64),
        Layout::Nvfp4 => (2, 256),
        Layout::U6 => (2, 384),
        Layout::U3 | Layout::T3(_) => (2, 192),
        Layout::U5 | Layout::U5M => (1, 320),
        Layout::I8 => (1, 512),
        _ => (1, 256),
    };
    match layout {
        Layout::I8 => {
            for (j, quad) in quads(codes).into_iter().enumerate() {
                put_quad(&mut group[j * 64..], r, quad);
            }
        }
        Layout::Ternary => pack_planes(codes, r, 0, &mut group[..128]),
        Layout::Binary => pack_bits(codes, r, 1, &mut group[..64]),
        Layout::U3 | Layout::T3(_) => {
            pack_planes(codes, r, 0, &mut group[..128]);
            pack_bits(codes, r, 2, &mut group[128..192]);
        }
        _ => {
            let quads = quads(codes);
            for j in 0..4 {
                put_quad(&mut group[j * 64..], r, quads[j] & 0x0f0f_0f0f | (quads[j + 4] & 0x0f0f_0f0f) << 4);
            }
            match layout {
                Layout::U5 | Layout::U5M => pack_bits(codes, r, 4, &mut group[256..320]),
                Layout::U6 => pack_planes(codes, r, 4, &mut group[256..384]),
                _ => {}
            }
        }
    }
    for sub in 0..per {
        let scale = block.scales[(g * 32 + sub * 16) / group_len];
        if layout == Layout::Mxfp4 {
            group[scales_at + r * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        } else {
            put_half(&mut group[scales_at + sub * 32..], r, scale);
        }
    }
    if matches!(layout, Layout::U4M | Layout::U5M) {
        put_half(&mut group[scales_at + 32..], r, block.mins[g]);
    }
}

/// Four neighbouring codes a word.
fn quads(codes: &[u8; 32]) -> [u32; 8] {
    let (words, _) = codes.as_chunks::<4>();
    std::array::from_fn(|j| u32::from_le_bytes(words[j]))
}

fn put_quad(out: &mut [u8], r: usize, quad: u32) {
    out[r * 4..][..4].copy_from_slice(&quad.to_le_bytes());
}

/// Bit `bit` of quad j goes to bit j of byte `4 r + i`.
fn pack_bits(codes: &[u8; 32], r: usize, bit: u32, plane: &mut [u8]) {
    let bits = quads(codes).into_iter().enumerate().fold(0, |all, (j, quad)| all | (quad >> bit & 0x0101_0101) << j);
    put_quad(plane, r, bits);
}

/// Bits `bit` and `bit + 1` of quad j go to bits `2 (j mod 4)` of plane `j / 4`.
fn pack_planes(codes: &[u8; 32], r: usize, bit: u32, planes: &mut [u8]) {
    for (plane, quads) in quads(codes).chunks_exact(4).enumerate() {
        let bits = quads.iter().enumerate().fold(0, |all, (j, quad)| all | (quad >> bit & 0x0303_0303) << (2 * j));
        put_quad(&mut planes[plane * 64..], r, bits);
    }
}

/// Writes row `r` of a group of 256 columns; the 4-bit scales and minima stay as they are in the file.
fn pack_u2(bytes: &[u8], block: &Unpacked, r: usize, group: &mut [u8]) {
    for (part, codes) in block.codes.as_chunks::<32>().0.iter().enumerate() {
        pack_planes(codes, r, 0, &mut group[part * 128..][..128]);
    }
    for (sub, &scale_min) in bytes[..16].iter().enumerate() {
        group[1024 + sub * PANEL + r] = scale_min;
    }
    group[1280 + r * 2..][..2].copy_from_slice(&bytes[80..82]);
    group[1312 + r * 2..][..2].copy_from_slice(&bytes[82..84]);
}

/// Writes a half float, saturating where an absurd file has scales beyond its range.
fn put_half(out: &mut [u8], r: usize, value: f32) {
    let half = half::f16::from_f32(value.clamp(-65504.0, 65504.0));
    out[r * 2..][..2].copy_from_slice(&half.to_le_bytes());
}

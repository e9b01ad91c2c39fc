//! Weights in the GPUs' layouts: panels of 16 rows by groups of 32 columns, so that neighbouring threads, which take
//! neighbouring rows, load neighbouring 16 bytes. What a group holds stands at the head of each file of `shaders/layouts`.

use super::{Table, TensorType, Unpacked, group_len, unpack};

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;

/// Columns of a group.
pub(crate) const GROUP_COLS: usize = 32;

/// How weights lie in GPU memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the files of shaders/layouts say it")]
pub enum Layout {
    F32,
    F16,
    Bf16,
    U4,
    U5,
    U6,
    U3,
    U2,
    I8,
    T3(Table),
    T4(Table),
    Nvfp4,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 16] = [
        Layout::F32,
        Layout::F16,
        Layout::Bf16,
        Layout::U4,
        Layout::U5,
        Layout::U6,
        Layout::U3,
        Layout::U2,
        Layout::I8,
        Layout::T3(Table::Iq1),
        Layout::T3(Table::Iq2),
        Layout::T4(Table::Iq3Xxs),
        Layout::T4(Table::Iq3S),
        Layout::T4(Table::Iq4),
        Layout::T4(Table::E2m1),
        Layout::Nvfp4,
    ];

    /// The layout that weights of this type are repacked to.
    pub const fn of(ty: TensorType) -> Self {
        match ty {
            TensorType::F32 => Layout::F32,
            TensorType::F16 => Layout::F16,
            TensorType::BF16 => Layout::Bf16,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4_K => Layout::U4,
            TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5_K => Layout::U5,
            TensorType::Q6_K => Layout::U6,
            TensorType::Q3_K => Layout::U3,
            TensorType::Q1_0 | TensorType::Q2_0 | TensorType::TQ1_0 | TensorType::TQ2_0 => Layout::U2,
            TensorType::Q2_K => Layout::U2,
            TensorType::Q8_0 => Layout::I8,
            TensorType::IQ4_NL | TensorType::IQ4_XS => Layout::T4(Table::Iq4),
            TensorType::IQ3_S => Layout::T4(Table::Iq3S),
            TensorType::IQ3_XXS => Layout::T4(Table::Iq3Xxs),
            TensorType::IQ2_S | TensorType::IQ2_XS | TensorType::IQ2_XXS => Layout::T3(Table::Iq2),
            TensorType::IQ1_S | TensorType::IQ1_M => Layout::T3(Table::Iq1),
            TensorType::MXFP4 => Layout::T4(Table::E2m1),
            TensorType::NVFP4 => Layout::Nvfp4,
        }
    }

    /// The table that codes point into.
    pub const fn table(self) -> Option<Table> {
        match self {
            Layout::T3(table) | Layout::T4(table) => Some(table),
            Layout::Nvfp4 => Some(Table::E2m1),
            _ => None,
        }
    }

    /// Vectors of 16 bytes in a group of `PANEL` rows; `GROUP` in the shaders.
    pub(crate) const fn group_vectors(self) -> usize {
        match self {
            Layout::F32 => 128,
            Layout::F16 | Layout::Bf16 => 64,
            Layout::U4 | Layout::T4(_) | Layout::Nvfp4 => 20,
            Layout::U5 => 24,
            Layout::U6 => 28,
            Layout::U3 | Layout::T3(_) | Layout::U2 => 16,
            Layout::I8 => 36,
        }
    }

    /// Words of a panel with `cols` columns.
    pub(crate) const fn panel_words(self, cols: usize) -> usize {
        cols.div_ceil(GROUP_COLS) * self.group_vectors() * 4
    }
}

/// Repacks up to [`PANEL`] rows, in file form one behind the other, into one panel. What is missing becomes zeros.
pub(crate) fn repack_panel(ty: TensorType, cols: usize, rows: &[u8], panel: &mut [u32]) {
    let layout = Layout::of(ty);
    panel.fill(0);
    let row_bytes = cols / ty.block_len() * ty.block_bytes();
    let group_words = layout.group_vectors() * 4;
    let mut block = Unpacked::default();
    for (r, row) in rows.chunks_exact(row_bytes.max(1)).enumerate() {
        match layout {
            Layout::F32 => {
                for (k, b) in row.as_chunks::<4>().0.iter().enumerate() {
                    let quad = k % GROUP_COLS / 4;
                    panel[k / GROUP_COLS * group_words + (quad * PANEL + r) * 4 + k % 4] = u32::from_le_bytes(*b);
                }
            }
            Layout::F16 | Layout::Bf16 => {
                for (k, b) in row.as_chunks::<2>().0.iter().enumerate() {
                    let octet = k % GROUP_COLS / 8;
                    let word = k / GROUP_COLS * group_words + (octet * PANEL + r) * 4 + k % 8 / 2;
                    panel[word] |= u32::from(u16::from_le_bytes(*b)) << (k % 2 * 16);
                }
            }
            _ => {
                let groups_a_block = ty.block_len() / GROUP_COLS;
                for (b, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
                    unpack(ty, bytes, &mut block);
                    let groups = panel[b * groups_a_block * group_words..].chunks_exact_mut(group_words);
                    for (g, group) in groups.take(groups_a_block).enumerate() {
                        pack_group(ty, &block, g, r, group);
                    }
                }
            }
        }
    }
}

/// Writes row `r` of group `g` of a block.
fn pack_group(ty: TensorType, block: &Unpacked, g: usize, r: usize, group: &mut [u32]) {
    let codes: &[u8; 32] = block.codes[g * 32..].first_chunk().expect("a block holds whole groups");
    let (low, high) = codes.split_at(16);
    // The scale and the minimum of the first half of the group, or of the second.
    let (layout, group_len) = (Layout::of(ty), group_len(ty));
    let scale = |h: usize| block.scales[(g * GROUP_COLS + h * 16) / group_len];
    let min = |h: usize| block.mins[(g * GROUP_COLS + h * 16) / group_len];
    // Word r of the array of words that begins at vector `v`.
    let word = |v: usize| v * 4 + r;
    match layout {
        Layout::I8 => {
            for j in 0..4 {
                group[r * 4 + j] = word_of(&low[4 * j..], 0xff, 0);
                group[(PANEL + r) * 4 + j] = word_of(&high[4 * j..], 0xff, 0);
            }
            group[word(32)] = halves(scale(0), 0.0);
        }
        Layout::U3 | Layout::T3(_) | Layout::U2 => {
            group[r * 4] = plane(low, 0);
            group[r * 4 + 1] = plane(high, 0);
            if layout == Layout::U2 {
                group[r * 4 + 2] = halves(scale(0), min(0));
                group[r * 4 + 3] = halves(scale(1), min(1));
            } else {
                group[r * 4 + 2] = bits(codes, 2);
                group[r * 4 + 3] = halves(scale(0), scale(1));
            }
        }
        _ => {
            for j in 0..4 {
                group[r * 4 + j] = word_of(&low[4 * j..], 15, 0) | word_of(&high[4 * j..], 15, 4);
            }
            match layout {
                Layout::U5 => {
                    group[word(16)] = bits(codes, 4);
                    group[word(20)] = halves(scale(0), min(0));
                }
                Layout::U6 => {
                    group[word(16)] = plane(low, 4);
                    group[word(20)] = plane(high, 4);
                    group[word(24)] = halves(scale(0), scale(1));
                }
                // Powers of two that outrange a half float.
                Layout::T4(_) => group[word(16)] = scale(0).to_bits(),
                Layout::Nvfp4 => group[word(16)] = halves(scale(0), scale(1)),
                _ => group[word(16)] = halves(scale(0), min(0)),
            }
        }
    }
}

/// Four codes as the bytes of a word.
fn word_of(codes: &[u8], mask: u8, shift: u32) -> u32 {
    u32::from_le_bytes([codes[0] & mask, codes[1] & mask, codes[2] & mask, codes[3] & mask]) << shift
}

/// Bits `bit` and `bit + 1` of 16 codes: code `4 q + b` at bits `8 b + 2 q`.
fn plane(codes: &[u8], bit: u32) -> u32 {
    (0..4).map(|q| (word_of(&codes[4 * q..], 0xff, 0) >> bit & 0x0303_0303) << (2 * q)).sum()
}

/// Bit `bit` of 32 codes: code `4 q + b` at bit `8 b + q`.
fn bits(codes: &[u8; 32], bit: u32) -> u32 {
    (0..8).map(|q| (word_of(&codes[4 * q..], 0xff, 0) >> bit & 0x0101_0101) << q).sum()
}

/// Two half floats in a word, saturating where an absurd file has scales beyond their range.
fn halves(low: f32, high: f32) -> u32 {
    let half = |v: f32| u32::from(half::f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits());
    half(low) | half(high) << 16
}

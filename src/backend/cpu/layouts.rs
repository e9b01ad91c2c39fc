//! How kernels read the layouts of [`crate::quant::layout`], one type a layout.

use super::simd::Simd;
use crate::quant::layout::{IQ4_NL_VALUES, MXFP4_VALUES};

/// A layout with integer codes: `weight = scale * code + min`.
pub(super) trait Codes {
    /// Columns of a group.
    const COLS: usize;
    /// Bytes of a group.
    const BYTES: usize;
    /// Scales to 32 columns: 1 or 2.
    const SUBS: usize;
    /// Codes are signed.
    const SIGNED: bool;
    /// Whether [`Codes::min`] is anything but 0 (beside what [`Simd::signed_offset`] asks for).
    const HAS_MIN: bool;

    /// Quads 0..8 of the 32 columns `part` for rows `h * LANES..`.
    fn codes<S: Simd>(s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8];
    /// Scales of scale group `sub` of the 32 columns `part`.
    fn scale<S: Simd>(s: S, group: &[u8], part: usize, sub: usize, h: usize) -> S::F;
    /// Minima; `scale` is what [`Codes::scale`] returned.
    fn min<S: Simd>(s: S, group: &[u8], part: usize, sub: usize, h: usize, scale: S::F) -> S::F;
}

#[inline(always)]
fn quad<S: Simd>(s: S, group: &[u8], at: usize, h: usize) -> S::I {
    s.load(&group[at + h * S::LANES * 4..])
}

#[inline(always)]
fn halves<S: Simd>(s: S, group: &[u8], at: usize, h: usize) -> S::F {
    s.load_f16(&group[at + h * S::LANES * 2..])
}

/// An array of eight, written out: closures (`array::map`) would be compiled without the instruction set.
macro_rules! eight {
    ($j:ident => $e:expr) => {
        [
            { const $j: usize = 0; $e },
            { const $j: usize = 1; $e },
            { const $j: usize = 2; $e },
            { const $j: usize = 3; $e },
            { const $j: usize = 4; $e },
            { const $j: usize = 5; $e },
            { const $j: usize = 6; $e },
            { const $j: usize = 7; $e },
        ]
    };
}

/// Quads 0..8 from nibbles.
#[inline(always)]
fn nibbles<S: Simd>(s: S, group: &[u8], h: usize) -> [S::I; 8] {
    let mask = s.splat_u8(15);
    let b = [quad(s, group, 0, h), quad(s, group, 64, h), quad(s, group, 128, h), quad(s, group, 192, h)];
    eight!(J => if J < 4 { s.and(b[J % 4], mask) } else { s.and(s.shr(b[J % 4], 4), mask) })
}

/// Shifts left by `n`, or right when `n` is negative, and masks.
#[inline(always)]
fn field<S: Simd>(s: S, v: S::I, n: i32, mask: u8) -> S::I {
    let shifted = if n >= 0 { s.shl(v, n as u32) } else { s.shr(v, -n as u32) };
    s.and(shifted, s.splat_u8(mask))
}

/// Bit j of a plane, moved to bit `to`, for quads 0..8.
#[inline(always)]
fn bits<S: Simd>(s: S, plane: S::I, to: i32) -> [S::I; 8] {
    eight!(J => field(s, plane, to - J as i32, 1 << to))
}

/// Two bits a quad from two planes, moved to bit `to`.
#[inline(always)]
fn pairs<S: Simd>(s: S, planes: [S::I; 2], to: i32) -> [S::I; 8] {
    eight!(J => field(s, planes[J / 4], to - 2 * (J % 4) as i32, 3 << to))
}

#[inline(always)]
fn or8<S: Simd>(s: S, a: [S::I; 8], b: [S::I; 8]) -> [S::I; 8] {
    eight!(J => s.or(a[J], b[J]))
}

/// `min = -offset * scale` for codes that are stored with an offset.
#[inline(always)]
fn offset<S: Simd>(s: S, scale: S::F, offset: f32) -> S::F {
    s.mul(scale, s.splat(-offset))
}

/// `U4` and, with minima, `U4M`.
pub(super) struct U4<const MIN: bool>;

impl<const MIN: bool> Codes for U4<MIN> {
    const COLS: usize = 32;
    const BYTES: usize = if MIN { 320 } else { 288 };
    const SUBS: usize = 1;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        nibbles(s, group, h)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 256, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize, scale: S::F) -> S::F {
        if MIN { halves(s, group, 288, h) } else { offset(s, scale, 8.0) }
    }
}

/// `U5` and, with minima, `U5M`.
pub(super) struct U5<const MIN: bool>;

impl<const MIN: bool> Codes for U5<MIN> {
    const COLS: usize = 32;
    const BYTES: usize = if MIN { 384 } else { 352 };
    const SUBS: usize = 1;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        or8(s, nibbles(s, group, h), bits(s, quad(s, group, 256, h), 4))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 320, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize, scale: S::F) -> S::F {
        if MIN { halves(s, group, 352, h) } else { offset(s, scale, 16.0) }
    }
}

/// `U6`.
pub(super) struct U6;

impl Codes for U6 {
    const COLS: usize = 32;
    const BYTES: usize = 448;
    const SUBS: usize = 2;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        or8(s, nibbles(s, group, h), pairs(s, [quad(s, group, 256, h), quad(s, group, 320, h)], 4))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, sub: usize, h: usize) -> S::F {
        halves(s, group, 384 + sub * 32, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, _: &[u8], _: usize, _: usize, _: usize, scale: S::F) -> S::F {
        offset(s, scale, 32.0)
    }
}

/// `U3`.
pub(super) struct U3;

impl Codes for U3 {
    const COLS: usize = 32;
    const BYTES: usize = 256;
    const SUBS: usize = 2;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        let low = pairs(s, [quad(s, group, 0, h), quad(s, group, 64, h)], 0);
        or8(s, low, bits(s, quad(s, group, 128, h), 2))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, sub: usize, h: usize) -> S::F {
        halves(s, group, 192 + sub * 32, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, _: &[u8], _: usize, _: usize, _: usize, scale: S::F) -> S::F {
        offset(s, scale, 4.0)
    }
}

/// `U2`.
pub(super) struct U2;

impl U2 {
    /// A nibble of the scale bytes times the halves at `half_at`.
    #[inline(always)]
    fn scaled<S: Simd>(s: S, group: &[u8], at: usize, shift: u32, half_at: usize, h: usize) -> S::F {
        let mut nibbles = [0.0; 16];
        for (n, &byte) in nibbles.iter_mut().zip(&group[1024 + at * 16 + h * S::LANES..][..S::LANES]) {
            *n = f32::from(byte >> shift & 15);
        }
        s.mul(s.load_f(&nibbles), halves(s, group, half_at, h))
    }
}

impl Codes for U2 {
    const COLS: usize = 256;
    const BYTES: usize = 1344;
    const SUBS: usize = 2;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8] {
        let at = part * 128;
        pairs(s, [quad(s, group, at, h), quad(s, group, at + 64, h)], 0)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], part: usize, sub: usize, h: usize) -> S::F {
        Self::scaled(s, group, part * 2 + sub, 0, 1280, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, group: &[u8], part: usize, sub: usize, h: usize, _: S::F) -> S::F {
        s.sub(s.splat(0.0), Self::scaled(s, group, part * 2 + sub, 4, 1312, h))
    }
}

/// `I8`.
pub(super) struct I8;

impl Codes for I8 {
    const COLS: usize = 32;
    const BYTES: usize = 544;
    const SUBS: usize = 1;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        eight!(J => s.signed(quad(s, group, J * 64, h)))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 512, h)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, _: &[u8], _: usize, _: usize, _: usize, scale: S::F) -> S::F {
        offset(s, scale, s.signed_offset())
    }
}

/// `Iq4Nl` and, with `MX`, `Mxfp4`: nibbles that index a table of signed values.
pub(super) struct Table<const MX: bool>;

impl<const MX: bool> Codes for Table<MX> {
    const COLS: usize = 32;
    const BYTES: usize = if MX { 320 } else { 288 };
    const SUBS: usize = 1;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes<S: Simd>(s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        let table = if MX { &MXFP4_VALUES } else { &IQ4_NL_VALUES };
        {
            let indices = nibbles(s, group, h);
            eight!(J => s.signed(s.lookup(table, indices[J])))
        }
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        if !MX {
            return halves(s, group, 256, h);
        }
        let mut scales = [0.0; 16];
        let bytes = &group[256 + h * S::LANES * 4..][..S::LANES * 4];
        for (scale, b) in scales.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *scale = f32::from_le_bytes(*b);
        }
        s.load_f(&scales)
    }
    #[inline(always)]
    fn min<S: Simd>(s: S, _: &[u8], _: usize, _: usize, _: usize, scale: S::F) -> S::F {
        offset(s, scale, s.signed_offset())
    }
}

/// A layout of plain floats: `[column][16 rows]`.
pub(super) trait Floats {
    /// Bytes of a column of 16 rows.
    const BYTES: usize;
    /// Rows `h * LANES..` of a column.
    fn load<S: Simd>(s: S, column: &[u8], h: usize) -> S::F;
}

/// `F32`.
pub(super) struct F32;

impl Floats for F32 {
    const BYTES: usize = 64;
    #[inline(always)]
    fn load<S: Simd>(s: S, column: &[u8], h: usize) -> S::F {
        let mut values = [0.0; 16];
        for (v, b) in values.iter_mut().zip(column[h * S::LANES * 4..][..S::LANES * 4].as_chunks::<4>().0) {
            *v = f32::from_le_bytes(*b);
        }
        s.load_f(&values)
    }
}

/// `F16`.
pub(super) struct F16;

impl Floats for F16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(s: S, column: &[u8], h: usize) -> S::F {
        halves(s, column, 0, h)
    }
}

/// `Bf16`.
pub(super) struct Bf16;

impl Floats for Bf16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(s: S, column: &[u8], h: usize) -> S::F {
        s.load_bf16(&column[h * S::LANES * 2..])
    }
}

/// Calls `$body` with `$L` set to the type of an integer layout, or `$float` with that of a float layout.
macro_rules! with_layout {
    ($layout:expr, codes $L:ident => $codes:expr, floats $M:ident => $floats:expr) => {{
        use crate::backend::cpu::layouts as l;
        use crate::quant::layout::Layout;
        match $layout {
            Layout::U4 => {
                type $L = l::U4<false>;
                $codes
            }
            Layout::U4M => {
                type $L = l::U4<true>;
                $codes
            }
            Layout::U5 => {
                type $L = l::U5<false>;
                $codes
            }
            Layout::U5M => {
                type $L = l::U5<true>;
                $codes
            }
            Layout::U6 => {
                type $L = l::U6;
                $codes
            }
            Layout::U3 => {
                type $L = l::U3;
                $codes
            }
            Layout::U2 => {
                type $L = l::U2;
                $codes
            }
            Layout::I8 => {
                type $L = l::I8;
                $codes
            }
            Layout::Iq4Nl => {
                type $L = l::Table<false>;
                $codes
            }
            Layout::Mxfp4 => {
                type $L = l::Table<true>;
                $codes
            }
            Layout::F32 => {
                type $M = l::F32;
                $floats
            }
            Layout::F16 => {
                type $M = l::F16;
                $floats
            }
            Layout::Bf16 => {
                type $M = l::Bf16;
                $floats
            }
        }
    }};
}
pub(super) use with_layout;

//! How kernels read the layouts of [`crate::quant::layout`], one type a layout.
//!
//! Tables of values are fields, not constants: tensor types that differ only in their table share a kernel.

use super::simd::Simd;
use crate::quant::Table;

/// A layout with integer codes: `weight = scale * code + min`.
pub(super) trait Codes: Copy {
    /// Columns of a group.
    const COLS: usize = 32;
    /// Bytes of a group.
    const BYTES: usize;
    /// Scales to 32 columns: 1 or 2.
    const SUBS: usize = 1;
    /// Bits of a code.
    const BITS: u32;
    /// Codes are signed, and there are no minima (beside what [`Simd::signed_offset`] asks for).
    const SIGNED: bool = false;
    /// What codes are stored with, where a layout has no minima of its own.
    const OFFSET: f32 = 0.0;

    /// Quads 0..8 of the 32 columns `part` for rows `h * LANES..`.
    fn codes<S: Simd>(self, s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8];
    /// Scales of scale group `sub` of the 32 columns `part`.
    fn scale<S: Simd>(self, s: S, group: &[u8], part: usize, sub: usize, h: usize) -> S::F;
    /// Minima; `scale` is what [`Codes::scale`] returned.
    #[inline(always)]
    fn min<S: Simd>(self, s: S, group: &[u8], part: usize, sub: usize, h: usize, scale: S::F) -> S::F {
        let _ = (group, part, sub, h);
        s.mul(scale, s.splat(if Self::SIGNED { -s.signed_offset() } else { -Self::OFFSET }))
    }
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

/// `U4` and, with minima, `U4M`.
#[derive(Clone, Copy)]
pub(super) struct U4<const MIN: bool>;

impl<const MIN: bool> Codes for U4<MIN> {
    const BYTES: usize = if MIN { 320 } else { 288 };
    const BITS: u32 = 4;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        nibbles(s, group, h)
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 256, h)
    }
    #[inline(always)]
    fn min<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize, scale: S::F) -> S::F {
        if MIN { halves(s, group, 288, h) } else { s.mul(scale, s.splat(-8.0)) }
    }
}

/// `U5` and, with minima, `U5M`.
#[derive(Clone, Copy)]
pub(super) struct U5<const MIN: bool>;

impl<const MIN: bool> Codes for U5<MIN> {
    const BYTES: usize = if MIN { 384 } else { 352 };
    const BITS: u32 = 5;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        or8(s, nibbles(s, group, h), bits(s, quad(s, group, 256, h), 4))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 320, h)
    }
    #[inline(always)]
    fn min<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize, scale: S::F) -> S::F {
        if MIN { halves(s, group, 352, h) } else { s.mul(scale, s.splat(-16.0)) }
    }
}

/// `U6`.
#[derive(Clone, Copy)]
pub(super) struct U6;

impl Codes for U6 {
    const BYTES: usize = 448;
    const BITS: u32 = 6;
    const SUBS: usize = 2;
    const OFFSET: f32 = 32.0;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        or8(s, nibbles(s, group, h), pairs(s, [quad(s, group, 256, h), quad(s, group, 320, h)], 4))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, sub: usize, h: usize) -> S::F {
        halves(s, group, 384 + sub * 32, h)
    }
}

/// `U3`.
#[derive(Clone, Copy)]
pub(super) struct U3;

impl Codes for U3 {
    const BYTES: usize = 256;
    const BITS: u32 = 3;
    const SUBS: usize = 2;
    const OFFSET: f32 = 4.0;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        let low = pairs(s, [quad(s, group, 0, h), quad(s, group, 64, h)], 0);
        or8(s, low, bits(s, quad(s, group, 128, h), 2))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, sub: usize, h: usize) -> S::F {
        halves(s, group, 192 + sub * 32, h)
    }
}

/// `U2`.
#[derive(Clone, Copy)]
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
    const BITS: u32 = 2;
    const SUBS: usize = 2;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8] {
        let at = part * 128;
        pairs(s, [quad(s, group, at, h), quad(s, group, at + 64, h)], 0)
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], part: usize, sub: usize, h: usize) -> S::F {
        Self::scaled(s, group, part * 2 + sub, 0, 1280, h)
    }
    #[inline(always)]
    fn min<S: Simd>(self, s: S, group: &[u8], part: usize, sub: usize, h: usize, _: S::F) -> S::F {
        s.sub(s.splat(0.0), Self::scaled(s, group, part * 2 + sub, 4, 1312, h))
    }
}

/// `I8`.
#[derive(Clone, Copy)]
pub(super) struct I8;

impl Codes for I8 {
    const BYTES: usize = 544;
    const BITS: u32 = 8;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        eight!(J => s.signed(quad(s, group, J * 64, h)))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 512, h)
    }
}

/// Quads 0..8 of indices as values, prepared for [`Simd::dot_signed`].
#[inline(always)]
fn looked_up<S: Simd>(s: S, values: &[i8; 16], indices: [S::I; 8]) -> [S::I; 8] {
    eight!(J => s.signed(s.lookup(values, indices[J])))
}

/// `T3`.
#[derive(Clone, Copy)]
pub(super) struct T3(pub(super) &'static [i8; 16]);

impl Codes for T3 {
    const BYTES: usize = 256;
    const BITS: u32 = 8;
    const SUBS: usize = 2;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8] {
        looked_up(s, self.0, U3.codes(s, group, part, h))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], part: usize, sub: usize, h: usize) -> S::F {
        U3.scale(s, group, part, sub, h)
    }
}

/// `T4`.
#[derive(Clone, Copy)]
pub(super) struct T4(pub(super) &'static [i8; 16]);

impl Codes for T4 {
    const BYTES: usize = 288;
    const BITS: u32 = 8;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        looked_up(s, self.0, nibbles(s, group, h))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 256, h)
    }
}

/// `Mxfp4`.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4;

impl Codes for Mxfp4 {
    const BYTES: usize = 320;
    const BITS: u32 = 8;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        looked_up(s, Table::E2m1.values(), nibbles(s, group, h))
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        let mut scales = [0.0; 16];
        let bytes = &group[256 + h * S::LANES * 4..][..S::LANES * 4];
        for (scale, b) in scales.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *scale = f32::from_le_bytes(*b);
        }
        s.load_f(&scales)
    }
}

/// `Nvfp4`.
#[derive(Clone, Copy)]
pub(super) struct Nvfp4;

impl Codes for Nvfp4 {
    const BYTES: usize = 320;
    const BITS: u32 = 8;
    const SUBS: usize = 2;
    const SIGNED: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], part: usize, h: usize) -> [S::I; 8] {
        Mxfp4.codes(s, group, part, h)
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, sub: usize, h: usize) -> S::F {
        halves(s, group, 256 + sub * 32, h)
    }
}

/// `Ternary`.
#[derive(Clone, Copy)]
pub(super) struct Ternary;

impl Codes for Ternary {
    const BYTES: usize = 160;
    const BITS: u32 = 2;
    const OFFSET: f32 = 1.0;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        pairs(s, [quad(s, group, 0, h), quad(s, group, 64, h)], 0)
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 128, h)
    }
}

/// `Binary`.
#[derive(Clone, Copy)]
pub(super) struct Binary;

impl Codes for Binary {
    const BYTES: usize = 96;
    const BITS: u32 = 2;
    const OFFSET: f32 = 1.0;

    #[inline(always)]
    fn codes<S: Simd>(self, s: S, group: &[u8], _: usize, h: usize) -> [S::I; 8] {
        bits(s, quad(s, group, 0, h), 1)
    }
    #[inline(always)]
    fn scale<S: Simd>(self, s: S, group: &[u8], _: usize, _: usize, h: usize) -> S::F {
        halves(s, group, 64, h)
    }
}

/// A layout of plain floats: `[column][16 rows]`.
pub(super) trait Floats: Copy {
    /// Bytes of a column of 16 rows.
    const BYTES: usize;
    /// Rows `h * LANES..` of a column.
    fn load<S: Simd>(self, s: S, column: &[u8], h: usize) -> S::F;
}

/// `F32`.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl Floats for F32 {
    const BYTES: usize = 64;
    #[inline(always)]
    fn load<S: Simd>(self, s: S, column: &[u8], h: usize) -> S::F {
        let mut values = [0.0; 16];
        for (v, b) in values.iter_mut().zip(column[h * S::LANES * 4..][..S::LANES * 4].as_chunks::<4>().0) {
            *v = f32::from_le_bytes(*b);
        }
        s.load_f(&values)
    }
}

/// `F16`.
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Floats for F16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(self, s: S, column: &[u8], h: usize) -> S::F {
        halves(s, column, 0, h)
    }
}

/// `Bf16`.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Floats for Bf16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(self, s: S, column: &[u8], h: usize) -> S::F {
        s.load_bf16(&column[h * S::LANES * 2..])
    }
}

/// Evaluates `$codes` with `$l` an integer layout, or `$floats` with `$m` a float layout.
macro_rules! with_layout {
    ($layout:expr, codes $l:ident => $codes:expr, floats $m:ident => $floats:expr) => {{
        use crate::backend::cpu::layouts as l;
        use crate::quant::layout::Layout;
        match $layout {
            Layout::U4 => {
                let $l = l::U4::<false>;
                $codes
            }
            Layout::U4M => {
                let $l = l::U4::<true>;
                $codes
            }
            Layout::U5 => {
                let $l = l::U5::<false>;
                $codes
            }
            Layout::U5M => {
                let $l = l::U5::<true>;
                $codes
            }
            Layout::U6 => {
                let $l = l::U6;
                $codes
            }
            Layout::U3 => {
                let $l = l::U3;
                $codes
            }
            Layout::U2 => {
                let $l = l::U2;
                $codes
            }
            Layout::I8 => {
                let $l = l::I8;
                $codes
            }
            Layout::T3(table) => {
                let $l = l::T3(table.values());
                $codes
            }
            Layout::T4(table) => {
                let $l = l::T4(table.values());
                $codes
            }
            Layout::Mxfp4 => {
                let $l = l::Mxfp4;
                $codes
            }
            Layout::Nvfp4 => {
                let $l = l::Nvfp4;
                $codes
            }
            Layout::Ternary => {
                let $l = l::Ternary;
                $codes
            }
            Layout::Binary => {
                let $l = l::Binary;
                $codes
            }
            Layout::F32 => {
                let $m = l::F32;
                $floats
            }
            Layout::F16 => {
                let $m = l::F16;
                $floats
            }
            Layout::Bf16 => {
                let $m = l::Bf16;
                $floats
            }
        }
    }};
}
pub(super) use with_layout;

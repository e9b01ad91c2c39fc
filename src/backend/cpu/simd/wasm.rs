//! WASM SIMD128: 4 lanes; relaxed SIMD where the build has it.

use super::{Kernel, Simd};
use core::arch::wasm32::*;

/// The name that people know.
pub(super) const NAME: &str = if cfg!(target_feature = "relaxed-simd") { "wasm-relaxed-simd" } else { "wasm-simd128" };

/// A module with SIMD instructions runs only where the engine has them, so there is nothing to prove.
#[derive(Clone, Copy, Debug)]
pub struct Wasm;

impl Simd for Wasm {
    const LANES: usize = 4;
    const TOKENS: usize = 4;
    const QUERIES: usize = 2;
    const SIGNED_OFFSET: f32 = 0.0;
    type F = v128;
    type I = v128;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self)
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> v128 {
        let b = &b[..16];
        // SAFETY: 16 bytes are there; unaligned load.
        unsafe { v128_load(b.as_ptr().cast()) }
    }
    #[inline(always)]
    fn zero(self) -> v128 {
        i32x4_splat(0)
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> v128 {
        u8x16_splat(v)
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> v128 {
        let b = &b[..4];
        // SAFETY: 4 bytes are there; unaligned load.
        unsafe { v128_load32_splat(b.as_ptr().cast()) }
    }
    #[inline(always)]
    fn and(self, a: v128, b: v128) -> v128 {
        v128_and(a, b)
    }
    #[inline(always)]
    fn or(self, a: v128, b: v128) -> v128 {
        v128_or(a, b)
    }
    #[inline(always)]
    fn shl(self, a: v128, n: u32) -> v128 {
        i16x8_shl(a, n)
    }
    #[inline(always)]
    fn shr(self, a: v128, n: u32) -> v128 {
        u16x8_shr(a, n)
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: v128) -> v128 {
        // SAFETY: the table has 16 bytes.
        i8x16_swizzle(unsafe { v128_load(table.as_ptr().cast()) }, index)
    }
    #[inline(always)]
    fn signed(self, codes: v128) -> v128 {
        codes
    }
    #[cfg(target_feature = "relaxed-simd")]
    #[inline(always)]
    fn dot(self, acc: v128, w: v128, x: v128) -> v128 {
        // The second operand must be in 0..=127, which codes are.
        i32x4_relaxed_dot_i8x16_i7x16_add(x, w, acc)
    }
    #[cfg(not(target_feature = "relaxed-simd"))]
    #[inline(always)]
    fn dot(self, acc: v128, w: v128, x: v128) -> v128 {
        // Even and odd bytes as 16-bit numbers; each product of pairs adds up two of the four bytes.
        let even = i32x4_dot_i16x8(v128_and(w, u16x8_splat(0xff)), i16x8_shr(i16x8_shl(x, 8), 8));
        let odd = i32x4_dot_i16x8(u16x8_shr(w, 8), i16x8_shr(x, 8));
        i32x4_add(acc, i32x4_add(even, odd))
    }
    #[inline(always)]
    fn dot_signed(self, acc: v128, w: v128, x: v128) -> v128 {
        let even = i32x4_dot_i16x8(i16x8_shr(i16x8_shl(w, 8), 8), i16x8_shr(i16x8_shl(x, 8), 8));
        let odd = i32x4_dot_i16x8(i16x8_shr(w, 8), i16x8_shr(x, 8));
        i32x4_add(acc, i32x4_add(even, odd))
    }
    #[inline(always)]
    fn to_f(self, a: v128) -> v128 {
        f32x4_convert_i32x4(a)
    }
    #[inline(always)]
    fn splat(self, v: f32) -> v128 {
        f32x4_splat(v)
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> v128 {
        let v = &v[..4];
        // SAFETY: 4 floats are there; unaligned load.
        unsafe { v128_load(v.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> v128 {
        let b = &b[..8];
        // SAFETY: 8 bytes are there; unaligned load.
        let half = unsafe { u32x4_load_extend_u16x4(b.as_ptr().cast()) };
        // Exponent and mantissa move to their place and are rescaled by 2^112, which is right for subnormals too; infinities
        // become large numbers, and weights have none.
        let magnitude = u32x4_shl(v128_and(half, u32x4_splat(0x7fff)), 13);
        let value = f32x4_mul(magnitude, f32x4_splat(f32::from_bits(0x7780_0000)));
        v128_or(value, u32x4_shl(v128_and(half, u32x4_splat(0x8000)), 16))
    }
    #[inline(always)]
    fn store_f(self, a: v128, out: &mut [f32]) {
        let out = &mut out[..4];
        // SAFETY: 4 floats are there; unaligned store.
        unsafe { v128_store(out.as_mut_ptr().cast(), a) }
    }
    #[inline(always)]
    fn store_i8(self, a: v128, out: &mut [i8]) {
        let words = i32x4_trunc_sat_f32x4(f32x4_nearest(a));
        let halves = i16x8_narrow_i32x4(words, words);
        let bytes = i8x16_narrow_i16x8(halves, halves);
        let quad = i32x4_extract_lane::<0>(bytes).to_le_bytes();
        for (o, b) in out[..4].iter_mut().zip(quad) {
            *o = b as i8;
        }
    }
    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }
    #[inline(always)]
    fn div(self, a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }
    #[inline(always)]
    fn max(self, a: v128, b: v128) -> v128 {
        f32x4_pmax(a, b)
    }
    #[inline(always)]
    fn min(self, a: v128, b: v128) -> v128 {
        f32x4_pmin(a, b)
    }
    #[inline(always)]
    fn abs(self, a: v128) -> v128 {
        f32x4_abs(a)
    }
    #[cfg(target_feature = "relaxed-simd")]
    #[inline(always)]
    fn mul_add(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_relaxed_madd(a, b, c)
    }
    #[cfg(not(target_feature = "relaxed-simd"))]
    #[inline(always)]
    fn mul_add(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), c)
    }
    #[inline(always)]
    fn round(self, a: v128) -> v128 {
        f32x4_nearest(a)
    }
    #[inline(always)]
    fn scale2(self, a: v128, n: v128) -> v128 {
        let exponent = i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127));
        f32x4_mul(a, i32x4_shl(exponent, 23))
    }
    #[inline(always)]
    fn sum(self, a: v128) -> f32 {
        let pairs = f32x4_add(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(pairs) + f32x4_extract_lane::<1>(pairs)
    }
    #[inline(always)]
    fn max_lane(self, a: v128) -> f32 {
        let pairs = f32x4_pmax(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(pairs).max(f32x4_extract_lane::<1>(pairs))
    }
}

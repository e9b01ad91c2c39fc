//! NEON with the dot-product extension: 4 lanes.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::asm;

proof!(
    /// Proof that the processor has NEON (with it the conversion of half floats) and dot products: all of ARMv8.2 in phones
    /// and laptops.
    Neon,
    is_aarch64_feature_detected,
    ["neon", "dotprod"]
);

/// Wraps intrinsics: every use is covered by the same argument.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a value of `Neon` exists only where the processor has these instructions (`Neon::new`).
        unsafe { $e }
    };
}

impl Simd for Neon {
    const LANES: usize = 4;
    const TOKENS: usize = 4;
    const QUERIES: usize = 6;
    const BESIDE: usize = 4;
    type F = float32x4_t;
    type I = uint8x16_t;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        self.enable(kernel);
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> uint8x16_t {
        let b = &b[..16];
        // SAFETY: 16 bytes are there.
        unsafe { vld1q_u8(b.as_ptr()) }
    }
    #[inline(always)]
    fn zero(self) -> uint8x16_t {
        op!(vdupq_n_u8(0))
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> uint8x16_t {
        op!(vdupq_n_u8(v))
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> uint8x16_t {
        let quad = u32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8]);
        op!(vreinterpretq_u8_u32(vdupq_n_u32(quad)))
    }
    #[inline(always)]
    fn and(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        op!(vandq_u8(a, b))
    }
    #[inline(always)]
    fn or(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        op!(vorrq_u8(a, b))
    }
    #[inline(always)]
    fn shl(self, a: uint8x16_t, n: u32) -> uint8x16_t {
        op!(vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(n as i16))))
    }
    #[inline(always)]
    fn shr(self, a: uint8x16_t, n: u32) -> uint8x16_t {
        op!(vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(-(n as i16)))))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: uint8x16_t) -> uint8x16_t {
        // SAFETY: the table has 16 bytes.
        unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr().cast()), index) }
    }
    #[inline(always)]
    fn signed(self, codes: uint8x16_t) -> uint8x16_t {
        codes
    }
    #[inline(always)]
    fn dot(self, acc: uint8x16_t, w: uint8x16_t, x: uint8x16_t) -> uint8x16_t {
        self.dot_signed(acc, w, x)
    }
    #[inline(always)]
    fn dot_signed(self, acc: uint8x16_t, w: uint8x16_t, x: uint8x16_t) -> uint8x16_t {
        let mut sum = acc;
        // The intrinsic is not stable yet.
        // SAFETY: a value of `Neon` exists only where the processor has `sdot`; registers only.
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
    #[inline(always)]
    fn to_f(self, a: uint8x16_t) -> float32x4_t {
        op!(vcvtq_f32_s32(vreinterpretq_s32_u8(a)))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> float32x4_t {
        op!(vdupq_n_f32(v))
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> float32x4_t {
        let v = &v[..4];
        // SAFETY: 4 floats are there.
        unsafe { vld1q_f32(v.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> float32x4_t {
        let b = &b[..8];
        let out: float32x4_t;
        // The half-float intrinsics are not stable yet; the instruction belongs to baseline NEON.
        // SAFETY: 8 bytes are there; registers only.
        unsafe {
            let half = vld1_u8(b.as_ptr());
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) out, in(vreg) half, options(pure, nomem, nostack, preserves_flags));
        }
        out
    }
    #[inline(always)]
    fn store_f(self, a: float32x4_t, out: &mut [f32]) {
        let out = &mut out[..4];
        // SAFETY: 4 floats are there.
        unsafe { vst1q_f32(out.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn store_i8(self, a: float32x4_t, out: &mut [i8]) {
        let out = &mut out[..4];
        let lanes: [i32; 4] = op!({
            let words = vcvtnq_s32_f32(a);
            [
                vgetq_lane_s32::<0>(words),
                vgetq_lane_s32::<1>(words),
                vgetq_lane_s32::<2>(words),
                vgetq_lane_s32::<3>(words),
            ]
        });
        for (o, v) in out.iter_mut().zip(lanes) {
            *o = v as i8;
        }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        op!(vminq_f32(a, b))
    }
    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        op!(vabsq_f32(a))
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        op!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        op!(vrndnq_f32(a))
    }
    #[inline(always)]
    fn scale2(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        op!({
            let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }
    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        op!(vaddvq_f32(a))
    }
    #[inline(always)]
    fn max_lane(self, a: float32x4_t) -> f32 {
        op!(vmaxvq_f32(a))
    }
}

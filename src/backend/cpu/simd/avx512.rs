//! AVX-512 with VNNI: 16 lanes.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

proof!(
    /// Proof that the processor has AVX-512 F, BW, VL and VNNI.
    Avx512,
    is_x86_feature_detected,
    ["avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"]
);

/// Wraps intrinsics: every use is covered by the same argument.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a value of `Avx512` exists only where the processor has these instructions (`Avx512::new`).
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TOKENS: usize = 8;
    const QUERIES: usize = 6;
    const BESIDE: usize = 4;
    const WORDS: bool = true;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        self.enable(kernel);
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> __m512i {
        let b: &[u8] = &b[..64];
        // SAFETY: 64 bytes are there; unaligned load.
        unsafe { _mm512_loadu_si512(b.as_ptr().cast()) }
    }
    #[inline(always)]
    fn prefetch(self, bytes: &[u8], ahead: usize) {
        // SAFETY: a prefetch is only a hint and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead).cast()) }
    }
    #[inline(always)]
    fn zero(self) -> __m512i {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> __m512i {
        op!(_mm512_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> __m512i {
        op!(_mm512_set1_epi32(i32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8])))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shl(self, a: __m512i, n: u32) -> __m512i {
        op!(_mm512_sll_epi16(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shr(self, a: __m512i, n: u32) -> __m512i {
        op!(_mm512_srl_epi16(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: __m512i) -> __m512i {
        // SAFETY: the table has 16 bytes; the rest as for `op`.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }
    #[inline(always)]
    fn signed_offset(self) -> f32 {
        128.0
    }
    #[inline(always)]
    fn signed(self, codes: __m512i) -> __m512i {
        op!(_mm512_xor_si512(codes, _mm512_set1_epi8(-128)))
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(acc, w, x))
    }
    #[inline(always)]
    fn dot_signed(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(acc, w, x))
    }
    #[inline(always)]
    fn dot_words(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, a, b))
    }
    #[inline(always)]
    fn to_f(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        op!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> __m512 {
        let v = &v[..16];
        // SAFETY: 16 floats are there; unaligned load.
        unsafe { _mm512_loadu_ps(v.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> __m512 {
        let b = &b[..32];
        // SAFETY: 32 bytes are there; unaligned load.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(b.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f(self, a: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: 16 floats are there; unaligned store.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn store_i8(self, a: __m512, out: &mut [i8]) {
        let out = &mut out[..16];
        // SAFETY: 16 bytes are there; unaligned store.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale2(self, a: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        op!(_mm512_reduce_add_ps(a))
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(a))
    }
}

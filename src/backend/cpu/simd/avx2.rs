//! AVX2 with FMA and F16C: 8 lanes; with AVX-VNNI, dot products of bytes take one instruction instead of three.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C, and AVX-VNNI where `VNNI`.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// The proof, where it holds.
    pub(super) fn new() -> Option<Self> {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        (avx2 && (!VNNI || is_x86_feature_detected!("avxvnni"))).then_some(Avx2(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<S: Simd, K: Kernel>(s: S, kernel: K) {
    kernel.run(s)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn run_vnni<S: Simd, K: Kernel>(s: S, kernel: K) {
    kernel.run(s)
}

/// Wraps intrinsics: every use is covered by the same argument.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a value of `Avx2` exists only where the processor has these instructions (`Avx2::new`).
        unsafe { $e }
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const TOKENS: usize = 4;
    const QUERIES: usize = 2;
    const BESIDE: usize = 4;
    const WORDS: bool = true;
    type F = __m256;
    type I = __m256i;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `new` has found each of these features.
        unsafe { if VNNI { run_vnni(self, kernel) } else { run(self, kernel) } }
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> __m256i {
        let b = &b[..32];
        // SAFETY: 32 bytes are there; unaligned load.
        unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
    }
    #[inline(always)]
    fn prefetch(self, bytes: &[u8], ahead: usize) {
        // SAFETY: a prefetch is only a hint and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead).cast()) }
    }
    #[inline(always)]
    fn zero(self) -> __m256i {
        op!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> __m256i {
        op!(_mm256_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> __m256i {
        op!(_mm256_set1_epi32(i32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8])))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn shl(self, a: __m256i, n: u32) -> __m256i {
        op!(_mm256_sll_epi16(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shr(self, a: __m256i, n: u32) -> __m256i {
        op!(_mm256_srl_epi16(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: __m256i) -> __m256i {
        // SAFETY: the table has 16 bytes; the rest as for `op`.
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }
    #[inline(always)]
    fn signed_offset(self) -> f32 {
        if VNNI { 128.0 } else { 0.0 }
    }
    #[inline(always)]
    fn signed(self, codes: __m256i) -> __m256i {
        if VNNI { op!(_mm256_xor_si256(codes, _mm256_set1_epi8(-128))) } else { codes }
    }
    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        if VNNI {
            op!(_mm256_dpbusd_avx_epi32(acc, w, x))
        } else {
            // Pairs stay below 2 * 127 * 127 = 32,258: no saturation.
            op!(_mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1))))
        }
    }
    #[inline(always)]
    fn dot_signed(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        if VNNI {
            self.dot(acc, w, x)
        } else {
            // |w| <= 128 and |x| <= 127: pairs stay below 2 * 128 * 127 = 32,512.
            op!(self.dot(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)))
        }
    }
    /// Without VNNI, sums of pairs are kept in 16 bits for as long as they fit.
    #[inline(always)]
    fn dots<const N: usize>(self, w: &[__m256i; N], x: &[i8], bits: u32) -> __m256i {
        let mut acc = self.zero();
        let pair = 2 * 127 * ((1 << bits) - 1);
        let fit = if VNNI { 1 } else { i16::MAX as usize / pair };
        let mut sum = self.zero();
        for j in 0..N {
            let quad = self.splat4(&x[j * 4..j * 4 + 4]);
            if fit < 2 {
                acc = self.dot(acc, w[j], quad);
                continue;
            }
            let pairs = op!(_mm256_maddubs_epi16(w[j], quad));
            sum = if j % fit == 0 { pairs } else { op!(_mm256_add_epi16(sum, pairs)) };
            if j % fit == fit - 1 || j == N - 1 {
                acc = op!(_mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1))));
            }
        }
        acc
    }
    #[inline(always)]
    fn dot_words(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        if VNNI { op!(_mm256_dpwssd_avx_epi32(acc, a, b)) } else { op!(_mm256_add_epi32(acc, _mm256_madd_epi16(a, b))) }
    }
    #[inline(always)]
    fn to_f(self, a: __m256i) -> __m256 {
        op!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> __m256 {
        op!(_mm256_set1_ps(v))
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> __m256 {
        let v = &v[..8];
        // SAFETY: 8 floats are there; unaligned load.
        unsafe { _mm256_loadu_ps(v.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> __m256 {
        let b = &b[..16];
        // SAFETY: 16 bytes are there; unaligned load.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(b.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f(self, a: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: 8 floats are there; unaligned store.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn store_i8(self, a: __m256, out: &mut [i8]) {
        let out = &mut out[..8];
        // SAFETY: 8 bytes are there; unaligned store.
        unsafe {
            let i = _mm256_cvtps_epi32(a);
            let words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256::<1>(i));
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn scale2(self, a: __m256, n: __m256) -> __m256 {
        op!({
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        })
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        op!({
            let v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        })
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        op!({
            let v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        })
    }
}

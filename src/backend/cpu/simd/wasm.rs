//! WASM SIMD128, relaxed SIMD where the build has it. A register here is several of the machine's: what is loaded once for
//! it (activations, addresses) serves all of them, and their sums do not wait for each other.

use super::{Kernel, Simd};
use core::arch::wasm32::*;

/// Machine registers to one of ours.
const N: usize = 4;

/// `[v128; N]` from an expression a register; closures would not be inlined into each other reliably.
macro_rules! each {
    ($i:ident => $e:expr) => {{
        let mut out = [i32x4_splat(0); N];
        for $i in 0..N {
            out[$i] = $e;
        }
        out
    }};
}

/// The name that people know.
pub(super) const NAME: &str = if cfg!(target_feature = "relaxed-simd") { "wasm-relaxed-simd" } else { "wasm-simd128" };

/// A module with SIMD instructions runs only where the engine has them, so there is nothing to prove. What is kept is how
/// the relaxed dot product takes bytes above 127 in its second operand, which engines may choose by the processor.
#[derive(Clone, Copy, Debug)]
pub struct Wasm {
    bytes: Bytes,
}

/// The second operand of the dot product of signed codes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(target_feature = "relaxed-simd"), allow(dead_code, reason = "only the probe knows them"))]
enum Bytes {
    /// -128..=127 (ARM, AVX-VNNI-INT8).
    Signed,
    /// 0..=255 without saturation (AVX-VNNI): signed codes are moved up by 128.
    Unsigned,
    /// Only 0..=127 is safe (older x86-64, and builds without the instruction): 16-bit products do the work.
    Narrow,
}

impl Wasm {
    /// Asks the engine once what its dot product does; it answers the same for as long as the module lives.
    pub(super) fn new() -> Self {
        Wasm { bytes: Self::probe() }
    }

    /// Each lane adds up four times -127 times the byte 255: -1 when that is signed, and enough to saturate 16 bits when
    /// it is not.
    #[cfg(target_feature = "relaxed-simd")]
    fn probe() -> Bytes {
        let [x, w] = std::hint::black_box([i8x16_splat(-127), u8x16_splat(255)]);
        match i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(x, w, i32x4_splat(0))) {
            sum if sum == 4 * 127 => Bytes::Signed,
            sum if sum == 4 * -127 * 255 => Bytes::Unsigned,
            _ => Bytes::Narrow,
        }
    }

    #[cfg(not(target_feature = "relaxed-simd"))]
    fn probe() -> Bytes {
        Bytes::Narrow
    }
}

/// Products of signed bytes by way of 16 bits: even and odd bytes apart, and each adds up two of the four.
#[inline(always)]
fn dot_narrow(acc: v128, w: v128, x: v128) -> v128 {
    let even = i32x4_dot_i16x8(i16x8_shr(i16x8_shl(w, 8), 8), i16x8_shr(i16x8_shl(x, 8), 8));
    let odd = i32x4_dot_i16x8(i16x8_shr(w, 8), i16x8_shr(x, 8));
    i32x4_add(acc, i32x4_add(even, odd))
}

/// `acc + Σ w * x` over four bytes a lane; `w` in 0..=127.
#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
fn dot(acc: v128, w: v128, x: v128) -> v128 {
    i32x4_relaxed_dot_i8x16_i7x16_add(x, w, acc)
}
#[cfg(not(target_feature = "relaxed-simd"))]
#[inline(always)]
fn dot(acc: v128, w: v128, x: v128) -> v128 {
    let even = i32x4_dot_i16x8(v128_and(w, u16x8_splat(0xff)), i16x8_shr(i16x8_shl(x, 8), 8));
    let odd = i32x4_dot_i16x8(u16x8_shr(w, 8), i16x8_shr(x, 8));
    i32x4_add(acc, i32x4_add(even, odd))
}

#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
fn mul_add(a: v128, b: v128, c: v128) -> v128 {
    f32x4_relaxed_madd(a, b, c)
}
#[cfg(not(target_feature = "relaxed-simd"))]
#[inline(always)]
fn mul_add(a: v128, b: v128, c: v128) -> v128 {
    f32x4_add(f32x4_mul(a, b), c)
}

impl Simd for Wasm {
    const LANES: usize = 4 * N;
    /// Beside a GPU the processor computes only while a lost one is opened anew: less code to download counts more there.
    const TOKENS: usize = if cfg!(feature = "wgpu") { 2 } else { 4 };
    const QUERIES: usize = 2;
    const BESIDE: usize = 1;
    type F = [v128; N];
    type I = [v128; N];

    /// Each kernel is a function of its own: with the products of all layouts in one, engines allocate registers badly.
    #[inline(never)]
    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self)
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> [v128; N] {
        let b = &b[..16 * N];
        // SAFETY: 16 bytes a register are there; unaligned load.
        each!(i => unsafe { v128_load(b.as_ptr().add(16 * i).cast()) })
    }
    #[inline(always)]
    fn zero(self) -> [v128; N] {
        [i32x4_splat(0); N]
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> [v128; N] {
        [u8x16_splat(v); N]
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> [v128; N] {
        let b = &b[..4];
        // SAFETY: 4 bytes are there; unaligned load.
        [unsafe { v128_load32_splat(b.as_ptr().cast()) }; N]
    }
    #[inline(always)]
    fn and(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => v128_and(a[i], b[i]))
    }
    #[inline(always)]
    fn or(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => v128_or(a[i], b[i]))
    }
    #[inline(always)]
    fn shl(self, a: [v128; N], n: u32) -> [v128; N] {
        each!(i => i16x8_shl(a[i], n))
    }
    #[inline(always)]
    fn shr(self, a: [v128; N], n: u32) -> [v128; N] {
        each!(i => u16x8_shr(a[i], n))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: [v128; N]) -> [v128; N] {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { v128_load(table.as_ptr().cast()) };
        each!(i => i8x16_swizzle(table, index[i]))
    }
    #[inline(always)]
    fn signed_offset(self) -> f32 {
        if self.bytes == Bytes::Unsigned { 128.0 } else { 0.0 }
    }
    #[inline(always)]
    fn signed(self, codes: [v128; N]) -> [v128; N] {
        let flip = u8x16_splat(if self.bytes == Bytes::Unsigned { 0x80 } else { 0 });
        each!(i => v128_xor(codes[i], flip))
    }
    #[inline(always)]
    fn dot(self, acc: [v128; N], w: [v128; N], x: [v128; N]) -> [v128; N] {
        each!(i => dot(acc[i], w[i], x[i]))
    }
    #[inline(always)]
    fn dot_signed(self, acc: [v128; N], w: [v128; N], x: [v128; N]) -> [v128; N] {
        if self.bytes == Bytes::Narrow { each!(i => dot_narrow(acc[i], w[i], x[i])) } else { self.dot(acc, w, x) }
    }
    #[inline(always)]
    fn to_f(self, a: [v128; N]) -> [v128; N] {
        each!(i => f32x4_convert_i32x4(a[i]))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> [v128; N] {
        [f32x4_splat(v); N]
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> [v128; N] {
        let v = &v[..4 * N];
        // SAFETY: 4 floats a register are there; unaligned load.
        each!(i => unsafe { v128_load(v.as_ptr().add(4 * i).cast()) })
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> [v128; N] {
        let b = &b[..8 * N];
        // Exponent and mantissa move to their place, the sign stays in front, and all is rescaled by 2^112, which is right
        // for subnormals too; infinities become large numbers, and weights have none.
        // SAFETY: 8 bytes a register are there; unaligned load.
        each!(i => f32x4_mul(
            v128_and(i32x4_shl(unsafe { i32x4_load_extend_i16x4(b.as_ptr().add(8 * i).cast()) }, 13), u32x4_splat(0x8fff_e000)),
            f32x4_splat(f32::from_bits(0x7780_0000))
        ))
    }
    #[inline(always)]
    fn store_f(self, a: [v128; N], out: &mut [f32]) {
        let out = &mut out[..4 * N];
        for i in 0..N {
            // SAFETY: 4 floats a register are there; unaligned store.
            unsafe { v128_store(out.as_mut_ptr().add(4 * i).cast(), a[i]) }
        }
    }
    #[inline(always)]
    fn store_i8(self, a: [v128; N], out: &mut [i8]) {
        for i in 0..N {
            let words = i32x4_trunc_sat_f32x4(f32x4_nearest(a[i]));
            let halves = i16x8_narrow_i32x4(words, words);
            let bytes = i8x16_narrow_i16x8(halves, halves);
            let out = &mut out[4 * i..4 * i + 4];
            // SAFETY: 4 bytes are there; unaligned store.
            unsafe { v128_store32_lane::<0>(bytes, out.as_mut_ptr().cast()) }
        }
    }
    #[inline(always)]
    fn add(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_add(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_sub(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_mul(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_div(a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_pmax(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: [v128; N], b: [v128; N]) -> [v128; N] {
        each!(i => f32x4_pmin(a[i], b[i]))
    }
    #[inline(always)]
    fn abs(self, a: [v128; N]) -> [v128; N] {
        each!(i => f32x4_abs(a[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: [v128; N], b: [v128; N], c: [v128; N]) -> [v128; N] {
        each!(i => mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn round(self, a: [v128; N]) -> [v128; N] {
        each!(i => f32x4_nearest(a[i]))
    }
    #[inline(always)]
    fn scale2(self, a: [v128; N], n: [v128; N]) -> [v128; N] {
        each!(i => f32x4_mul(a[i], i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(n[i]), i32x4_splat(127)), 23)))
    }
    #[inline(always)]
    fn sum(self, a: [v128; N]) -> f32 {
        let mut all = a[0];
        for &a in &a[1..] {
            all = f32x4_add(all, a);
        }
        let pairs = f32x4_add(all, i32x4_shuffle::<2, 3, 0, 1>(all, all));
        f32x4_extract_lane::<0>(pairs) + f32x4_extract_lane::<1>(pairs)
    }
    #[inline(always)]
    fn max_lane(self, a: [v128; N]) -> f32 {
        let mut all = a[0];
        for &a in &a[1..] {
            all = f32x4_pmax(all, a);
        }
        let pairs = f32x4_pmax(all, i32x4_shuffle::<2, 3, 0, 1>(all, all));
        f32x4_extract_lane::<0>(pairs).max(f32x4_extract_lane::<1>(pairs))
    }
}

//! The few vector operations from which every CPU kernel is made, one file an instruction set.
//!
//! Kernels are written once, generic over [`Simd`], and run inside [`Simd::run`], where the compiler may use the
//! instruction set. A value of an implementing type is the proof that the processor has it: only [`Level::detect`] and
//! the constructors behind it make one.
//!
//! A register has [`Simd::LANES`] lanes of 32 bits: floats (`F`), or integers that may also be seen as four bytes each
//! (`I`).

#![allow(unsafe_code, reason = "vector intrinsics")]

use crate::error::{Error, Result};

/// Makes a proof type for some features of the processor: it detects exactly those that it enables.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! proof {
    ($(#[$doc:meta])* $name:ident, $is_detected:ident, [$($feature:tt),*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        impl $name {
            /// The proof, where it holds.
            #[inline]
            pub(super) fn new() -> Option<Self> {
                ($(std::arch::$is_detected!($feature))&&*).then_some($name(()))
            }

            /// Runs `kernel` compiled for these features.
            #[inline(always)]
            fn enable<K: Kernel>(self, kernel: K) {
                $(#[target_feature(enable = $feature)])*
                fn inner<K: Kernel>(s: $name, kernel: K) {
                    kernel.run(s)
                }
                // SAFETY: `new` has found each of these features.
                unsafe { inner(self, kernel) }
            }
        }
    };
}

/// `$e` for each `$i` in `0..$n`, eight at most, written out: loops of more than four are not unrolled, and the registers that
/// they index go through memory.
#[cfg(not(target_arch = "wasm32"))]
macro_rules! unrolled {
    ($n:ident, $i:ident => $e:expr) => { unrolled!(@ $n, $i, $e, 0 1 2 3 4 5 6 7) };
    (@ $n:ident, $i:ident, $e:expr, $($k:literal)*) => {
        $(if $k < $n {
            const $i: usize = $k;
            $e
        })*
    };
}

/// The same as a loop: WASM has tiles of four at most, and what is written out is downloaded.
#[cfg(target_arch = "wasm32")]
macro_rules! unrolled {
    ($n:ident, $i:ident => $e:expr) => {
        #[allow(non_snake_case, reason = "a constant elsewhere")]
        for $i in 0..$n {
            $e;
        }
    };
}
pub(super) use unrolled;

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

pub use scalar::Scalar;

/// Code that runs with an instruction set.
pub trait Kernel {
    /// Runs the kernel. Implementations are `#[inline(always)]`, so that they are compiled for the instruction set.
    fn run<S: Simd>(self, s: S);
}

/// The operations of an instruction set; see the module text.
#[allow(missing_docs, reason = "the operations are the field's usual ones")]
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a register; divides 16.
    const LANES: usize;
    /// Tokens that a matrix product handles at a time: what the registers hold. One of 1, 2, 4, 8.
    const TOKENS: usize;
    /// Queries that attention handles at a time: 1, 2 or 6.
    const QUERIES: usize;
    /// Registers side by side in attention, as far as a query's sums stay in registers: 1 or 4.
    const BESIDE: usize;
    /// Whether attention is to compute with integers of 16 bits, by [`Simd::dot_words`].
    const WORDS: bool = false;
    type F: Copy;
    type I: Copy;

    /// Runs `kernel` with this instruction set.
    fn run<K: Kernel>(self, kernel: K);

    /// Loads `4 * LANES` bytes.
    fn load(self, bytes: &[u8]) -> Self::I;
    fn zero(self) -> Self::I;
    fn splat_u8(self, v: u8) -> Self::I;
    /// The same four bytes in every lane.
    fn splat4(self, bytes: &[i8]) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shifts 16-bit halves; bits cross byte borders, the caller masks.
    fn shl(self, a: Self::I, n: u32) -> Self::I;
    /// Shifts 16-bit halves; bits cross byte borders, the caller masks.
    fn shr(self, a: Self::I, n: u32) -> Self::I;
    /// `table[index]` for every byte; indices are below 16.
    fn lookup(self, table: &[i8; 16], index: Self::I) -> Self::I;
    /// What [`Simd::signed`] adds to signed codes.
    #[inline(always)]
    fn signed_offset(self) -> f32 {
        0.0
    }
    /// Prepares signed codes for [`Simd::dot_signed`]; may add [`Simd::signed_offset`].
    fn signed(self, codes: Self::I) -> Self::I;
    /// Per lane: `acc + Σ w[i] * x[i]` over four bytes; `w` in 0..=127.
    fn dot(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// Per lane: the same for what [`Simd::signed`] returned; `x` in -127..=127.
    fn dot_signed(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// Per lane: the sum of [`Simd::dot`] over some quads of codes of `bits` bits, seven at most, and of `x`.
    #[inline(always)]
    fn dots<const N: usize>(self, w: &[Self::I; N], x: &[i8], bits: u32) -> Self::I {
        let _ = bits;
        let mut acc = self.zero();
        for j in 0..N {
            acc = self.dot(acc, w[j], self.splat4(&x[j * 4..j * 4 + 4]));
        }
        acc
    }
    /// Per lane: `acc + a[0] * b[0] + a[1] * b[1]` over two integers of 16 bits; only where [`Simd::WORDS`].
    #[inline(always)]
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let _ = (a, b);
        acc
    }
    fn to_f(self, a: Self::I) -> Self::F;

    fn splat(self, v: f32) -> Self::F;
    /// Loads `LANES` floats.
    fn load_f(self, v: &[f32]) -> Self::F;
    /// Loads `LANES` half floats, little-endian.
    fn load_f16(self, bytes: &[u8]) -> Self::F;
    fn store_f(self, a: Self::F, out: &mut [f32]);
    /// Rounds to the nearest integer (ties to even) and stores as bytes.
    fn store_i8(self, a: Self::F, out: &mut [i8]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `a * b + c`; fused where the instruction set can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in -126..=127.
    fn scale2(self, a: Self::F, n: Self::F) -> Self::F;
    fn sum(self, a: Self::F) -> f32;
    fn max_lane(self, a: Self::F) -> f32;

    /// Hints that the cache line `ahead` bytes behind the start of `bytes` will be read; it may lie anywhere.
    #[inline(always)]
    fn prefetch(self, bytes: &[u8], ahead: usize) {
        let _ = (bytes, ahead);
    }

    /// Loads `LANES` bfloat16, little-endian.
    #[inline(always)]
    fn load_bf16(self, bytes: &[u8]) -> Self::F {
        let mut out = [0.0; 16];
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0).take(Self::LANES) {
            *o = f32::from_bits((u16::from_le_bytes(*b) as u32) << 16);
        }
        self.load_f(&out)
    }

    /// Loads `LANES` signed bytes as floats.
    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> Self::F {
        let mut out = [0.0; 16];
        for (o, &b) in out.iter_mut().zip(bytes).take(Self::LANES) {
            *o = f32::from(b as i8);
        }
        self.load_f(&out)
    }

    /// e^x; relative error below 3e-7 in -87..=88, clamped outside.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let x = self.min(self.max(x, self.splat(-87.0)), self.splat(88.0));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts (Cody and Waite), so that r is exact to the last bits.
        let r = self.mul_add(n, self.splat(-0.693_359_4), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.mul_add(p, r, self.splat(c));
        }
        self.scale2(p, n)
    }

    /// Hyperbolic tangent.
    #[inline(always)]
    fn tanh(self, x: Self::F) -> Self::F {
        let e = self.exp(self.add(x, x));
        let one = self.splat(1.0);
        self.sub(one, self.div(self.splat(2.0), self.add(e, one)))
    }
}

/// An instruction set that this build has kernels for and this processor can run.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Plain Rust, one lane: the path that the others are tested against.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    /// The same with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    /// AVX-512 (F, BW, VL) with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// NEON with the dot-product extension.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    /// SIMD128; relaxed SIMD where the build has it.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm(wasm::Wasm),
}

impl Level {
    /// The instruction sets that this processor can run, best first.
    pub fn available() -> Vec<Level> {
        let best = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::new().map(Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::<true>::new().map(Level::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::<false>::new().map(Level::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::new().map(Level::Neon),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Some(Level::Wasm(wasm::Wasm::new())),
            Some(Level::Scalar),
        ];
        best.into_iter().flatten().collect()
    }

    /// The best instruction set of this processor.
    pub fn detect() -> Level {
        Level::available().first().copied().unwrap_or(Level::Scalar)
    }

    /// The name that people know.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => "neon-dotprod",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Level::Wasm(_) => wasm::NAME,
        }
    }

    /// Where tests and measurements ask for one: the instruction set that begins with `name` (`avx512` is enough).
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] with those that this processor has.
    pub fn named(name: &str) -> Result<Level> {
        let all = Level::available();
        let found = all.iter().find(|level| !name.is_empty() && level.name().starts_with(name));
        found.copied().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|level| level.name()).collect();
            Error::unsupported(format!(
                "instruction set {name:?}: this processor and this build have {}",
                names.join(", ")
            ))
        })
    }

    /// Runs a kernel with this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(s) => s.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(s) => s.run(kernel),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Level::Wasm(s) => s.run(kernel),
            Level::Scalar => Scalar.run(kernel),
        }
    }
}

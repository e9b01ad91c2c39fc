//! One lane of plain Rust: what every other instruction set must agree with.

use super::{Kernel, Simd};

/// See the module text.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

fn bytes(v: u32) -> [u8; 4] {
    v.to_le_bytes()
}

impl Simd for Scalar {
    const LANES: usize = 1;
    const TOKENS: usize = 4;
    const QUERIES: usize = 1;
    const BESIDE: usize = 4;
    type F = f32;
    type I = u32;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self)
    }
    #[inline(always)]
    fn load(self, b: &[u8]) -> u32 {
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    #[inline(always)]
    fn zero(self) -> u32 {
        0
    }
    #[inline(always)]
    fn splat_u8(self, v: u8) -> u32 {
        u32::from_le_bytes([v; 4])
    }
    #[inline(always)]
    fn splat4(self, b: &[i8]) -> u32 {
        u32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8])
    }
    #[inline(always)]
    fn and(self, a: u32, b: u32) -> u32 {
        a & b
    }
    #[inline(always)]
    fn or(self, a: u32, b: u32) -> u32 {
        a | b
    }
    #[inline(always)]
    fn shl(self, a: u32, n: u32) -> u32 {
        ((a & 0xffff) << n & 0xffff) | (a & 0xffff_0000) << n
    }
    #[inline(always)]
    fn shr(self, a: u32, n: u32) -> u32 {
        (a & 0xffff) >> n | (a >> 16 >> n) << 16
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: u32) -> u32 {
        u32::from_le_bytes(bytes(index).map(|i| table[i as usize & 15] as u8))
    }
    #[inline(always)]
    fn signed(self, codes: u32) -> u32 {
        codes
    }
    #[inline(always)]
    fn dot(self, acc: u32, w: u32, x: u32) -> u32 {
        self.dot_signed(acc, w, x)
    }
    #[inline(always)]
    fn dot_signed(self, acc: u32, w: u32, x: u32) -> u32 {
        let sum: i32 = bytes(w).into_iter().zip(bytes(x)).map(|(w, x)| w as i8 as i32 * x as i8 as i32).sum();
        (acc as i32).wrapping_add(sum) as u32
    }
    #[inline(always)]
    fn to_f(self, a: u32) -> f32 {
        a as i32 as f32
    }
    #[inline(always)]
    fn splat(self, v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn load_f(self, v: &[f32]) -> f32 {
        v[0]
    }
    #[inline(always)]
    fn load_f16(self, b: &[u8]) -> f32 {
        half::f16::from_le_bytes([b[0], b[1]]).to_f32()
    }
    #[inline(always)]
    fn store_f(self, a: f32, out: &mut [f32]) {
        out[0] = a;
    }
    #[inline(always)]
    fn store_i8(self, a: f32, out: &mut [i8]) {
        out[0] = a.round_ties_even() as i8;
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn abs(self, a: f32) -> f32 {
        a.abs()
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn round(self, a: f32) -> f32 {
        a.round_ties_even()
    }
    #[inline(always)]
    fn scale2(self, a: f32, n: f32) -> f32 {
        a * f32::from_bits(((n as i32 + 127) as u32) << 23)
    }
    #[inline(always)]
    fn sum(self, a: f32) -> f32 {
        a
    }
    #[inline(always)]
    fn max_lane(self, a: f32) -> f32 {
        a
    }
}

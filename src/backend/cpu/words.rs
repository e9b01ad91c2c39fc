//! Cells of integers of 16 bits, which attention multiplies (`attend/words.rs`).
//!
//! The key of a cell is integers and a scale, a power of two, so that the norm of the integers is at most 32,767. The integers of
//! a value are at most 32,767. Entries are half floats, of which small ones beside large ones lose digits: what is read back is
//! half floats.
//!
//! A block holds, for each head, keys `[head_dim / 2][32 cells][2]` and values `[16][head_dim][2 cells]`, and behind each 32
//! scales of four bytes.

use super::super::{BLOCK, CacheType, CellShape};
use super::cache::Part;
use super::simd::{Kernel, Level, Simd};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Whether this build has it: for WASM a gain is not shown, and code is dear.
pub(super) const BUILT: bool = cfg!(not(target_arch = "wasm32"));

/// The largest integer.
pub(super) const LARGEST: f32 = 32767.0;

/// Whether cells of this shape are kept so at this level.
pub(super) fn fit(shape: &CellShape, level: Level) -> bool {
    struct Asked<'a>(&'a mut bool);
    impl Kernel for Asked<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            *self.0 = S::WORDS;
        }
    }
    let mut words = false;
    level.run(Asked(&mut words));
    BUILT && words && shape.ty == CacheType::F16 && shape.head_dim.is_multiple_of(16)
}

/// Bytes of a head's keys or values in a block.
pub(super) fn head_bytes(dim: usize) -> usize {
    (dim * 2 + 4) * BLOCK
}

/// The least power of two that makes at most [`LARGEST`] of `size`; 0 of nothing, and no number of what is none.
fn power(size: f32) -> f32 {
    if size.is_finite() { f32::from_bits(((size / LARGEST).to_bits() + 0x7f_ffff) & !0x7f_ffff) } else { f32::NAN }
}

/// Values that are worked on together, in lanes of which the compiler makes vectors.
const PIECE: usize = 64;
const LANES: usize = 16;

/// What half floats make of some values, in pieces, the last with zeros behind its end. Converting a slice takes one instruction
/// for eight values.
#[inline(always)]
fn halves(values: &[f32]) -> impl Iterator<Item = [f32; PIECE]> {
    values.chunks(PIECE).map(|values| {
        let (mut halves, mut floats) = ([f16::ZERO; PIECE], [0.0; PIECE]);
        halves[..values.len()].convert_from_f32_slice(values);
        halves.convert_to_f32_slice(&mut floats);
        floats
    })
}

/// Adds the squares of a piece to the sums of each lane.
#[inline(always)]
fn add_squares(sums: &mut [f32; LANES], piece: &[f32; PIECE]) {
    for values in piece.as_chunks::<LANES>().0 {
        sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v * v);
    }
}

/// The norm of a key, or the largest value of a value; no number where one of the values is none.
#[inline(always)]
fn size(part: Part, values: &[f32]) -> f32 {
    let (mut sums, mut largest) = ([0.0; LANES], [0; LANES]);
    for piece in halves(values) {
        match part {
            Part::Key => add_squares(&mut sums, &piece),
            // Numbers without their signs are in the order of their bits, and behind them is what is no number.
            Part::Value => piece.as_chunks::<LANES>().0.iter().for_each(|values| {
                largest.iter_mut().zip(values).for_each(|(largest, v)| *largest = v.abs().to_bits().max(*largest));
            }),
        }
    }
    match part {
        Part::Key => sums.iter().sum::<f32>().sqrt(),
        Part::Value => f32::from_bits(largest.into_iter().fold(0, u32::max)),
    }
}

/// Writes one head of a cell.
pub(super) struct Store<'a> {
    pub(super) part: Part,
    pub(super) slot: usize,
    pub(super) values: &'a [f32],
    pub(super) out: &'a mut [u8],
}

impl Kernel for Store<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Store { part, slot, values, out } = self;
        let dim = values.len();
        let (words, scales) = out.split_at_mut(dim * BLOCK * 2);
        let mut scale = power(size(part, values));
        // Rounding may make a norm too large, which would be another power of two for what is read back.
        for _ in 0..2 {
            let (inverse, mut sums) = (if scale == 0.0 { 0.0 } else { 1.0 / scale }, [0.0; LANES]);
            for (d, piece) in (0..dim).step_by(PIECE).zip(halves(values)) {
                let piece = piece.map(|v| word(v * inverse));
                add_squares(&mut sums, &piece.map(f32::from));
                put(part, slot, &piece[..PIECE.min(dim - d)], d, dim, words);
            }
            if part == Part::Value || sums.iter().sum::<f32>().sqrt() <= LARGEST {
                break;
            }
            scale *= 2.0;
        }
        scales[slot * 4..][..4].copy_from_slice(&scale.to_le_bytes());
    }
}

/// Writes integers of a cell from `d` on, an even number of them.
#[inline(always)]
fn put(part: Part, slot: usize, piece: &[i16], d: usize, dim: usize, words: &mut [u8]) {
    let words = &mut words[at(part, dim, slot, d)..];
    match part {
        Part::Key => words.chunks_mut(BLOCK * 4).zip(piece.as_chunks::<2>().0).for_each(|(out, [a, b])| {
            out[..2].copy_from_slice(&a.to_le_bytes());
            out[2..4].copy_from_slice(&b.to_le_bytes());
        }),
        Part::Value => {
            words.chunks_mut(4).zip(piece).for_each(|(out, word)| out[..2].copy_from_slice(&word.to_le_bytes()))
        }
    }
}

/// Reads one head of a cell.
pub(super) fn load(part: Part, slot: usize, bytes: &[u8], out: &mut [f32]) {
    let dim = out.len();
    let (words, scales) = parts(bytes, dim);
    for (d, out) in out.iter_mut().enumerate() {
        let at = at(part, dim, slot, d);
        *out = f32::from(i16::from_le_bytes([words[at], words[at + 1]])) * scales[slot];
    }
}

/// Where value `d` of a cell lies.
fn at(part: Part, dim: usize, slot: usize, d: usize) -> usize {
    match part {
        Part::Key => (d / 2 * BLOCK + slot) * 4 + d % 2 * 2,
        Part::Value => (slot / 2 * dim + d) * 4 + slot % 2 * 2,
    }
}

/// Added to a small number, it makes the unit the last bit of the mantissa, whose end is the nearest integer then.
pub(super) const UNIT: f32 = 12_582_912.0;

/// The nearest integer of a small number.
fn word(v: f32) -> i16 {
    (v + UNIT).to_bits() as i16
}

/// Calls `f(at, width)` for every run of `width` bytes that a cell has, at `at(slot)`.
pub(super) fn elements(part: Part, dim: usize, mut f: impl FnMut(&dyn Fn(usize) -> usize, usize)) {
    match part {
        Part::Key => (0..dim).step_by(2).for_each(|d| f(&|slot| at(part, dim, slot, d), 4)),
        Part::Value => (0..dim).for_each(|d| f(&|slot| at(part, dim, slot, d), 2)),
    }
    f(&|slot| dim * BLOCK * 2 + slot * 4, 4);
}

/// The integers of a block, and the scales of its cells.
#[inline(always)]
pub(super) fn parts(head: &[u8], dim: usize) -> (&[u8], [f32; BLOCK]) {
    let (words, bytes) = head.split_at(dim * BLOCK * 2);
    let mut scales = [0.0; BLOCK];
    for (scale, bytes) in scales.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *scale = f32::from_le_bytes(*bytes);
    }
    (words, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(part: Part, slot: usize, values: &[f32], out: &mut [u8]) {
        Level::Scalar.run(Store { part, slot, values, out });
    }

    /// Vectors of a few forms, some with values that are far larger than the others, and some whose norm is at a border.
    fn vectors(dim: usize) -> impl Iterator<Item = Vec<f32>> {
        let mut state = 1u32;
        (0..2000).map(move |i| {
            let mut values: Vec<f32> = Vec::new();
            for d in 0..dim {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let v = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                values.push(if i % 3 == 0 && d == 5 { v * 300.0 } else { v * 2.0_f32.powi(i % 31 - 20) });
            }
            if i % 2 == 0 {
                let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
                values.iter_mut().for_each(|v| *v *= LARGEST / norm / 512.0);
            }
            values
        })
    }

    #[test]
    fn what_is_read_is_half_floats_and_written_again_the_same() {
        for dim in [16, 64, 256] {
            for (part, values) in [Part::Key, Part::Value].into_iter().flat_map(|p| vectors(dim).map(move |v| (p, v))) {
                let slot = 7;
                let (mut read, mut again) = (vec![0.0; dim], vec![0.0; dim]);
                let mut bytes = vec![0; head_bytes(dim)];
                store(part, slot, &values, &mut bytes);
                load(part, slot, &bytes, &mut read);
                let largest = values.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
                for (v, read) in values.iter().zip(&read) {
                    assert_eq!(f16::from_f32(*read).to_f32(), *read);
                    // Of a norm, the largest is the sixteenth part at least.
                    assert!((v - read).abs() <= largest * 1e-3 + 1e-7, "{part:?}: {read} for {v}");
                }
                let mut other = vec![0; head_bytes(dim)];
                store(part, slot, &read, &mut other);
                load(part, slot, &other, &mut again);
                assert_eq!(read, again);
                if part == Part::Value {
                    assert_eq!(bytes, other);
                }
            }
        }
    }

    #[test]
    fn sums_of_products_of_keys_stay_in_32_bits() {
        for values in vectors(64) {
            let mut bytes = vec![0; head_bytes(64)];
            store(Part::Key, 0, &values, &mut bytes);
            let words =
                (0..64).map(|d| at(Part::Key, 64, 0, d)).map(|at| i16::from_le_bytes([bytes[at], bytes[at + 1]]));
            assert!(words.map(|w| f64::from(w).powi(2)).sum::<f64>() < 32768.0 * 32768.0);
        }
    }

    #[test]
    fn values_that_are_no_numbers_do_not_become_some() {
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            for part in [Part::Key, Part::Value] {
                let (mut bytes, mut read) = (vec![0; head_bytes(16)], vec![0.0; 16]);
                let mut values = [1.0; 16];
                values[3] = bad;
                store(part, 1, &values, &mut bytes);
                load(part, 1, &bytes, &mut read);
                assert!(read.iter().all(|v| v.is_nan()), "{part:?} of {bad}: {read:?}");
            }
        }
    }
}

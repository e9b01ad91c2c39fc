//! Two levels of scales: groups' scales are searched one by one, become integers under the block's own, and are moved by one where
//! that leaves less of an error.

use super::super::{TensorType, group_len};
use super::search::{self, Levels};

fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let half = half::f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn quotient(x: f32, d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { (x / d).round() }
}

/// The groups of a block: their weights, and what errors cost.
fn groups<'a>(ty: TensorType, x: &'a [f32], w: &'a [f32]) -> impl Iterator<Item = (usize, (&'a [f32], &'a [f32]))> {
    x.chunks_exact(group_len(ty)).zip(w.chunks_exact(group_len(ty))).enumerate()
}

/// Q3_K, Q6_K and IQ4_XS: signed scales.
pub(super) fn symmetric(ty: TensorType, x: &[f32], w: &[f32], block: &mut [u8]) {
    let levels = Levels::of(ty);
    let mut scales = [0.0_f32; 16];
    groups(ty, x, w).for_each(|(g, (x, w))| scales[g] = search::scale(levels, x, w));
    let extreme = scales.iter().copied().fold(0.0_f32, |m, v| if v.abs() > m.abs() { v } else { m });
    let (at, lowest) = match ty {
        TensorType::Q6_K => (208, -128.0),
        TensorType::Q3_K => (108, -32.0),
        _ => (0, -32.0),
    };
    let d = put_half(block, at, extreme / lowest);
    let mut found = [0_i8; 16];
    for (g, (x, w)) in groups(ty, x, w) {
        let near = quotient(scales[g], d);
        let near = [near - 1.0, near, near + 1.0].map(|s| s.clamp(lowest, -lowest - 1.0));
        let errors = near.map(|s| (levels.error(x, w, d * s), s));
        found[g] = errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, s)| s as i8);
    }
    match ty {
        TensorType::Q6_K => (0..16).for_each(|g| block[192 + g] = found[g] as u8),
        TensorType::Q3_K => {
            block[96..108].fill(0);
            for g in 0..16 {
                let scale = (found[g] + 32) as u8;
                block[96 + g % 8] |= (scale & 15) << (4 * (g / 8));
                block[104 + g % 4] |= (scale >> 4) << (2 * (g / 4));
            }
        }
        _ => {
            block[2..8].fill(0);
            for g in 0..8 {
                let scale = (found[g] + 32) as u8;
                block[2 + g / 4] |= (scale >> 4) << (2 * (g % 4));
                block[4 + g / 2] |= (scale & 15) << (4 * (g % 2));
            }
        }
    }
}

/// Q2_K, Q4_K and Q5_K: scales and minima, neither of them negative.
pub(super) fn affine(ty: TensorType, x: &[f32], w: &[f32], block: &mut [u8]) {
    let max = search::max_code(ty);
    let mut found = [(0.0_f32, 0.0_f32); 16];
    for (g, (x, w)) in groups(ty, x, w) {
        let (scale, min) = search::affine(max, false, x, w);
        found[g] = (scale, -min);
    }
    let (at, limit) = if ty == TensorType::Q2_K { (80, 15.0) } else { (0, 63.0) };
    let largest = found.iter().fold((0.0_f32, 0.0_f32), |m, v| (m.0.max(v.0), m.1.max(v.1)));
    let (d, dmin) = (put_half(block, at, largest.0 / limit), put_half(block, at + 2, largest.1 / limit));
    let mut scales = [(0_u8, 0_u8); 16];
    for (g, (x, w)) in groups(ty, x, w) {
        let near = (quotient(found[g].0, d), quotient(found[g].1, dmin));
        let mut best = f32::INFINITY;
        for (i, j) in [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1), (-1, 1), (1, -1_i8)] {
            let scale = (near.0 + f32::from(i as i8)).clamp(0.0, limit);
            let min = (near.1 + f32::from(j)).clamp(0.0, limit);
            let error = error(f32::from(max), x, w, d * scale, -(dmin * min));
            if error < best {
                (best, scales[g]) = (error, (scale as u8, min as u8));
            }
        }
    }
    put_scale_mins(ty, &scales, block);
}

fn error(max: f32, x: &[f32], w: &[f32], scale: f32, min: f32) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let left = |x: f32| x - (scale * ((x - min) * inverse).round_ties_even().clamp(0.0, max) + min);
    x.iter().zip(w).map(|(&x, w)| w * left(x).powi(2)).sum()
}

fn put_scale_mins(ty: TensorType, scales: &[(u8, u8); 16], block: &mut [u8]) {
    if ty == TensorType::Q2_K {
        (0..16).for_each(|g| block[g] = scales[g].0 | scales[g].1 << 4);
        return;
    }
    // Six bits each: the upper two of the last four lie above the first four.
    let bytes = &mut block[4..16];
    for g in 0..4 {
        let ((scale, min), (scale4, min4)) = (scales[g], scales[g + 4]);
        bytes[g] = scale | scale4 >> 4 << 6;
        bytes[g + 4] = min | min4 >> 4 << 6;
        bytes[g + 8] = scale4 & 15 | (min4 & 15) << 4;
    }
}

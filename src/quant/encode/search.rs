//! Which code is nearest, and which scales leave the least weighted error.

use super::super::{Table, TensorType};

/// The largest code of a type; that of a table is its last index.
pub(super) const fn max_code(ty: TensorType) -> u8 {
    match ty {
        TensorType::Q2_K => 3,
        TensorType::Q3_K => 7,
        TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5_K => 31,
        TensorType::Q6_K => 63,
        TensorType::Q8_0 => 255,
        _ => 15,
    }
}

/// The code whose value under a scale and a minimum is nearest.
pub(super) fn nearest(ty: TensorType, x: f32, scale: f32, min: f32) -> u8 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    match ty {
        TensorType::Q8_0 => (x * inverse).round().clamp(-128.0, 127.0) as i8 as u8,
        _ => match Table::of(ty) {
            Some(table) => index(table, x * inverse),
            None => ((x - min) * inverse).round().clamp(0.0, f32::from(max_code(ty))) as u8,
        },
    }
}

/// The entry of a table that is nearest to `x`: the first of two.
pub(super) fn index(table: Table, x: f32) -> u8 {
    let values = table.values();
    match table {
        // Ascending.
        Table::Iq4 => values.windows(2).map(|w| u8::from(x > 0.5 * (f32::from(w[0]) + f32::from(w[1])))).sum(),
        // Magnitudes ascend, and the sign is bit 3.
        Table::E2m1 => {
            let magnitudes = values[..8].windows(2);
            let code: u8 = magnitudes.map(|w| u8::from(x.abs() > 0.5 * (f32::from(w[0]) + f32::from(w[1])))).sum();
            if x < 0.0 && code > 0 { code | 8 } else { code }
        }
        _ => unreachable!("no type of TYPES has it"),
    }
}

/// Values that a code times a scale can stand for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Levels {
    /// `-n..n`: the code without its offset.
    Range(i8),
    /// Those of IQ4_NL.
    Iq4,
}

impl Levels {
    pub(super) const fn of(ty: TensorType) -> Levels {
        match ty {
            TensorType::Q3_K => Levels::Range(4),
            TensorType::Q5_0 => Levels::Range(16),
            TensorType::Q6_K => Levels::Range(32),
            TensorType::IQ4_NL | TensorType::IQ4_XS => Levels::Iq4,
            _ => Levels::Range(8),
        }
    }

    fn lowest(self) -> f32 {
        match self {
            Levels::Range(n) => -f32::from(n),
            Levels::Iq4 => -127.0,
        }
    }

    fn nearest(self, x: f32) -> f32 {
        match self {
            Levels::Range(n) => x.round_ties_even().clamp(-f32::from(n), f32::from(n) - 1.0),
            Levels::Iq4 => f32::from(Table::Iq4.values()[usize::from(index(Table::Iq4, x))]),
        }
    }

    /// Weighted squares of what is left of `x` under a scale.
    pub(super) fn error(self, x: &[f32], w: &[f32], scale: f32) -> f32 {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        x.iter().zip(w).map(|(&x, w)| w * (x - scale * self.nearest(x * inverse)).powi(2)).sum()
    }
}

/// The scale under which levels are nearest to `x`.
pub(super) fn scale(levels: Levels, x: &[f32], w: &[f32]) -> f32 {
    let extreme = x.iter().copied().fold(0.0_f32, |m, v| if v.abs() > m.abs() { v } else { m });
    if extreme.abs() < 1e-30 {
        return 0.0;
    }
    let (mut best, mut found) = (0.0, extreme / levels.lowest());
    // Where the extreme lies a tenth of the range, or of a step, beside the last level.
    let width = if let Levels::Range(_) = levels { 0.1 } else { 1.5 };
    for k in -9..=9_i8 {
        let inverse = (levels.lowest() + width * f32::from(k)) / extreme;
        let (mut xl, mut ll) = (0.0, 0.0);
        for (&x, w) in x.iter().zip(w) {
            let l = levels.nearest(x * inverse);
            xl += w * x * l;
            ll += w * l * l;
        }
        // What the best scale for these levels explains of x.
        if ll > 0.0 && xl * xl > best * ll {
            (best, found) = (xl * xl / ll, xl / ll);
        }
    }
    found
}

/// The scale and minimum under which `x ≈ scale * code + min`, with codes up to `max`. Only where `signed` may the minimum be above 0.
pub(super) fn affine(max: u8, signed: bool, x: &[f32], w: &[f32]) -> (f32, f32) {
    let low = x.iter().copied().fold(if signed { f32::INFINITY } else { 0.0 }, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high - low < 1e-30 {
        return (0.0, low);
    }
    let max = f32::from(max);
    let (mut best, mut found) = (f64::INFINITY, ((high - low) / max, low));
    for k in 0..=36_u8 {
        let inverse = (max - 0.9 + 0.05 * f32::from(k)) / (high - low);
        let [mut sw, mut sx, mut sl, mut sxx, mut sxl, mut sll] = [0.0_f32; 6];
        for (&x, w) in x.iter().zip(w) {
            let l = ((x - low) * inverse).round_ties_even().clamp(0.0, max);
            (sw, sx, sl) = (sw + w, sx + w * x, sl + w * l);
            (sxx, sxl, sll) = (sxx + w * x * x, sxl + w * x * l, sll + w * l * l);
        }
        let [sw, sx, sl, sxx, sxl, sll] = [sw, sx, sl, sxx, sxl, sll].map(f64::from);
        let det = sw * sll - sl * sl;
        if det <= 0.0 {
            continue;
        }
        let (mut scale, mut min) = ((sw * sxl - sx * sl) / det, (sll * sx - sl * sxl) / det);
        if min > 0.0 && !signed {
            (scale, min) = (sxl / sll, 0.0);
        }
        let cross = 2.0 * (scale * min * sl - scale * sxl - min * sx);
        let error = sxx + scale * scale * sll + min * min * sw + cross;
        if scale > 0.0 && error < best {
            (best, found) = (error, (scale as f32, min as f32));
        }
    }
    found
}

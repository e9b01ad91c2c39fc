//! The largest logits of a row.

use super::super::MAX_SELECTED;
use arrayvec::ArrayVec;

/// Logits that are compared at once: most blocks hold none of the largest.
const BLOCK: usize = 64;

/// See [`super::super::Select`]; `out` is `[2 k + 1]`.
pub(super) fn select_row(logits: &[f32], sum: bool, out: &mut [f32]) {
    let k = out.len() / 2;
    // Descending; of equals the one that came first.
    let mut top = ArrayVec::<(f32, usize), MAX_SELECTED>::new();
    for (block, values) in logits.chunks(BLOCK).enumerate() {
        if top.len() == k && top.last().is_some_and(|(least, _)| largest(values) <= *least) {
            continue;
        }
        for (column, &logit) in (block * BLOCK..).zip(values) {
            if top.len() == k {
                if top.last().is_some_and(|(least, _)| logit <= *least) {
                    continue;
                }
                top.pop();
            }
            let at = top.partition_point(|(other, _)| *other >= logit);
            top.insert(at, (logit, column));
        }
    }
    for (i, (logit, column)) in top.iter().enumerate() {
        out[i] = *logit;
        out[k + i] = *column as f32;
    }
    if sum {
        out[2 * k] = logits.iter().map(|&l| f64::from(l - out[0]).exp()).sum::<f64>() as f32;
    }
}

/// The largest value, by lanes: a plain fold waits for itself at every step.
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = values.as_chunks::<16>();
    for chunk in whole {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

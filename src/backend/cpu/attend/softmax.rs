//! Softmax of a row of scores.

use super::super::simd::Simd;
use std::ops::Range;

/// Softmax over `scores[visible]` and one more score, `sink`; everything else becomes 0.
#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, scores: &mut [f32], (softcap, sink): (f32, f32), visible: Range<usize>) {
    let (start, end) = (visible.start, visible.end);
    scores[..start].fill(0.0);
    scores[end..].fill(0.0);
    let all = &mut scores[start..end];
    if softcap != 0.0 {
        map(
            s,
            all,
            #[inline(always)]
            |v| s.mul(s.splat(softcap), s.tanh(s.div(v, s.splat(softcap)))),
        );
    }
    let mut largest = sink;
    let chunks = all.chunks_exact(S::LANES);
    for &v in chunks.remainder() {
        largest = if v > largest { v } else { largest };
    }
    let mut lanes = s.splat(largest);
    for v in chunks {
        lanes = s.max(lanes, s.load_f(v));
    }
    let largest = s.max_lane(lanes);
    let sink = (sink - largest).exp();
    let largest = s.splat(largest);
    map(
        s,
        all,
        #[inline(always)]
        |v| s.exp(s.sub(v, largest)),
    );
    let chunks = all.chunks_exact(S::LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    let mut lanes = s.splat(0.0);
    for v in chunks {
        lanes = s.add(lanes, s.load_f(v));
    }
    let inverse = s.splat(1.0 / (s.sum(lanes) + tail + sink));
    map(
        s,
        all,
        #[inline(always)]
        |v| s.mul(v, inverse),
    );
}

/// Applies `f` to every value; the last ones in a padded register.
#[inline(always)]
fn map<S: Simd>(s: S, values: &mut [f32], f: impl Fn(S::F) -> S::F) {
    let n = values.len() / S::LANES * S::LANES;
    let (body, tail) = values.split_at_mut(n);
    for v in body.chunks_exact_mut(S::LANES) {
        s.store_f(f(s.load_f(v)), v);
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; 16];
        lanes[..tail.len()].copy_from_slice(tail);
        let y = f(s.load_f(&lanes));
        s.store_f(y, &mut lanes);
        tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

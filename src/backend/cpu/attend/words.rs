//! Attention on integers of 16 bits: twice as many products a second as of floats, and nothing to expand.
//!
//! The norm of the integers of a query is at most 32,767, as is that of a key's (`words.rs`). Then the sum of their products fits
//! into 32 bits (Cauchy and Schwarz) and is exact. The probabilities of a block, times the scales of its values, become integers
//! that add up to 32,767, so the sums of values fit again. What becomes of a block of positions depends on these alone, not on
//! the batch or on where its cells lie.

use super::super::super::{BLOCK, Span};
use super::super::cache::{LayerData, Part};
use super::super::simd::{Simd, unrolled};
use super::super::words::{LARGEST, UNIT, parts};
use super::{Blocks, Tile};

/// Work memory of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// Queries `[n_queries, head_dim]`, and their scales.
    queries: Vec<i16>,
    query_scales: Vec<f32>,
    /// Probabilities of a block `[n_queries, 32]`, and their scales.
    shares: Vec<i16>,
    share_scales: Vec<f32>,
}

impl Scratch {
    pub(super) fn bytes(&self) -> usize {
        (self.queries.capacity() + self.shares.capacity()) * size_of::<i16>()
            + (self.query_scales.capacity() + self.share_scales.capacity()) * size_of::<f32>()
    }
}

/// The scale of integers of which `size` becomes [`LARGEST`], and its inverse.
fn scale(size: f32) -> (f32, f32) {
    if size <= 1e-30 { (0.0, 0.0) } else { (size / LARGEST, LARGEST / size) }
}

/// Two neighbours in every lane.
#[inline(always)]
fn splat_pair<S: Simd>(s: S, [a, b]: [i16; 2]) -> S::I {
    let [[a, b], [c, d]] = [a.to_le_bytes(), b.to_le_bytes()];
    s.splat4(&[a as i8, b as i8, c as i8, d as i8])
}

/// Attention of a tile: `scratch.scores` have rows of `width` positions from `base`, and `scratch.out` is filled.
#[inline(always)]
pub(super) fn attend<S: Simd>(s: S, tile: &mut Tile<'_, '_>, base: usize, width: usize) {
    let spans = &tile.plan.spans[tile.tokens.clone()];
    let blocks = Blocks { plan: tile.plan, base, width };
    encode_queries(s, tile);
    score(s, tile, spans, blocks);
    tile.softmax(s, base, width);
    sum(s, tile, spans, blocks);
}

#[inline(always)]
fn encode_queries<S: Simd>(s: S, tile: &mut Tile<'_, '_>) {
    let (dim, group) = (tile.cache.shape().head_dim, tile.heads.len());
    let n = tile.tokens.len() * group;
    let words = &mut tile.scratch.words;
    words.queries.resize(n * dim, 0);
    words.query_scales.resize(n, 0.0);
    for (i, token) in tile.tokens.clone().enumerate() {
        for head in 0..group {
            let query = &tile.q[(token * tile.op.n_heads + tile.heads.start + head) * dim..][..dim];
            let mut sum = s.splat(0.0);
            for v in query.chunks_exact(S::LANES) {
                sum = s.mul_add(s.load_f(v), s.load_f(v), sum);
            }
            let (scale, inverse) = scale(s.sum(sum).sqrt());
            let out = &mut words.queries[(i * group + head) * dim..][..dim];
            for (v, out) in query.chunks_exact(S::LANES).zip(out.chunks_exact_mut(S::LANES)) {
                store_words(s, s.mul(s.load_f(v), s.splat(inverse)), out);
            }
            words.query_scales[i * group + head] = scale * tile.op.scale;
        }
    }
}

/// The nearest integers; see [`UNIT`].
#[inline(always)]
fn store_words<S: Simd>(s: S, a: S::F, out: &mut [i16]) {
    let mut values = [0.0; 16];
    s.store_f(s.add(a, s.splat(UNIT)), &mut values);
    for (out, v) in out.iter_mut().zip(&values[..S::LANES]) {
        *out = v.to_bits() as i16;
    }
}

#[inline(always)]
fn score<S: Simd>(s: S, tile: &mut Tile<'_, '_>, spans: &[Span], blocks: Blocks<'_>) {
    let (dim, group, width) = (tile.cache.shape().head_dim, tile.heads.len(), blocks.width);
    let (scores, words) = (&mut tile.scratch.scores, &tile.scratch.words);
    for (at, block, _) in blocks.prefix(spans) {
        let keys = parts(tile.cache.head(block, Part::Key, tile.head), dim);
        let (mut q, n) = (0, words.query_scales.len());
        while q < n {
            let (queries, scores) =
                ((&words.queries[q * dim..], &words.query_scales[q..]), &mut scores[q * width + at..]);
            q += match n - q {
                6.. if S::QUERIES >= 6 => score_block::<S, 6>(s, &keys, queries, dim, scores, width),
                3.. if S::QUERIES >= 6 => score_block::<S, 3>(s, &keys, queries, dim, scores, width),
                2.. => score_block::<S, 2>(s, &keys, queries, dim, scores, width),
                _ => score_block::<S, 1>(s, &keys, queries, dim, scores, width),
            };
        }
    }
    for (i, span) in spans.iter().enumerate() {
        for (position, cell) in blocks.extras(span) {
            let keys = parts(tile.cache.head(cell / BLOCK, Part::Key, tile.head), dim);
            for query in i * group..(i + 1) * group {
                let mut row = [0.0; BLOCK];
                let queries = (&words.queries[query * dim..], &words.query_scales[query..]);
                score_block::<S, 1>(s, &keys, queries, dim, &mut row, BLOCK);
                scores[query * width + position] = row[cell % BLOCK];
            }
        }
    }
}

/// Scores of `Q` queries with the 32 keys of a block, at the beginning of rows `width` long; returns `Q`.
#[inline(always)]
fn score_block<S: Simd, const Q: usize>(
    s: S,
    (keys, key_scales): &(&[u8], [f32; BLOCK]),
    (queries, query_scales): (&[i16], &[f32]),
    dim: usize,
    scores: &mut [f32],
    width: usize,
) -> usize {
    let n = dim / 2;
    let mut rows: [&[[i16; 2]]; Q] = [&[]; Q];
    unrolled!(Q, I => rows[I] = &queries[I * dim..][..dim].as_chunks().0[..n]);
    for first in (0..BLOCK).step_by(2 * S::LANES) {
        let mut sums = [[s.zero(); 2]; Q];
        for (pair, keys) in keys.chunks_exact(BLOCK * 4).enumerate().take(n) {
            let (a, b) = (s.load(&keys[first * 4..]), s.load(&keys[(first + S::LANES) * 4..]));
            unrolled!(Q, I => {
                let x = splat_pair(s, rows[I][pair]);
                sums[I] = [s.dot_words(sums[I][0], a, x), s.dot_words(sums[I][1], b, x)];
            });
        }
        for r in 0..2 {
            let scale = s.load_f(&key_scales[first + r * S::LANES..]);
            unrolled!(Q, I => {
                let score = s.mul(s.mul(s.to_f(sums[I][r]), scale), s.splat(query_scales[I]));
                s.store_f(score, &mut scores[I * width + first + r * S::LANES..]);
            });
        }
    }
    Q
}

#[inline(always)]
fn sum<S: Simd>(s: S, tile: &mut Tile<'_, '_>, spans: &[Span], blocks: Blocks<'_>) {
    let (dim, width, n) = (tile.cache.shape().head_dim, blocks.width, tile.scratch.words.query_scales.len());
    // Where there are draft trees, all tokens have the same prefix, and a block of positions may go on in them.
    let branches = spans.iter().any(|span| span.n_extra > 0);
    {
        let scratch = &mut *tile.scratch;
        let (scores, out, words) = (&scratch.scores, &mut scratch.out, &mut scratch.words);
        words.shares.resize(n * BLOCK, 0);
        words.share_scales.resize(n, 0.0);
        for (at, block, cells) in blocks.prefix(spans) {
            if branches && cells < BLOCK {
                break;
            }
            let (values, mut scales) = parts(tile.cache.head(block, Part::Value, tile.head), dim);
            scales[cells..].fill(0.0);
            for (q, shares) in words.shares.as_chunks_mut().0.iter_mut().enumerate() {
                words.share_scales[q] = encode_shares(s, &scores[q * width + at..], &scales, shares);
            }
            let mut q = 0;
            while q < n {
                let (shares, out) = ((&words.shares[q * BLOCK..], &words.share_scales[q..]), &mut out[q * dim..]);
                q += match n - q {
                    6.. if S::QUERIES >= 6 => sum_block::<S, 6>(s, values, shares, out, dim),
                    3.. if S::QUERIES >= 6 => sum_block::<S, 3>(s, values, shares, out, dim),
                    2.. => sum_block::<S, 2>(s, values, shares, out, dim),
                    _ => sum_block::<S, 1>(s, values, shares, out, dim),
                };
            }
        }
    }
    if branches {
        sum_branches(s, tile, spans, blocks);
    }
}

/// Probabilities times scales of values as integers that add up to [`LARGEST`]; returns their scale.
#[inline(always)]
fn encode_shares<S: Simd>(s: S, scores: &[f32], scales: &[f32; BLOCK], out: &mut [i16; BLOCK]) -> f32 {
    let mut shares = [0.0; BLOCK];
    let mut sum = s.splat(0.0);
    for i in (0..BLOCK).step_by(S::LANES) {
        let share = s.mul(s.load_f(&scores[i..]), s.load_f(&scales[i..]));
        s.store_f(share, &mut shares[i..]);
        sum = s.add(sum, share);
    }
    let (scale, inverse) = scale(s.sum(sum));
    for i in (0..BLOCK).step_by(S::LANES) {
        store_words(s, s.mul(s.load_f(&shares[i..]), s.splat(inverse)), &mut out[i..]);
    }
    scale
}

/// Adds a block's values, times their shares, to `Q` outputs; returns `Q`.
#[inline(always)]
fn sum_block<S: Simd, const Q: usize>(
    s: S,
    values: &[u8],
    shares: (&[i16], &[f32]),
    out: &mut [f32],
    dim: usize,
) -> usize {
    let mut d = 0;
    while d < dim {
        d += match dim - d >= 4 * S::LANES {
            true => sum_columns::<S, Q, 4>(s, values, shares, out, dim, d),
            false => sum_columns::<S, Q, 1>(s, values, shares, out, dim, d),
        };
    }
    Q
}

#[inline(always)]
fn sum_columns<S: Simd, const Q: usize, const R: usize>(
    s: S,
    values: &[u8],
    (shares, scales): (&[i16], &[f32]),
    out: &mut [f32],
    dim: usize,
    d: usize,
) -> usize {
    let mut rows: [&[[i16; 2]]; Q] = [&[]; Q];
    unrolled!(Q, I => rows[I] = &shares[I * BLOCK..][..BLOCK].as_chunks().0[..BLOCK / 2]);
    let mut sums = [[s.zero(); R]; Q];
    for pair in 0..BLOCK / 2 {
        let values = &values[(pair * dim + d) * 4..][..R * S::LANES * 4];
        let mut v = [s.zero(); R];
        unrolled!(R, J => v[J] = s.load(&values[J * S::LANES * 4..]));
        unrolled!(Q, I => {
            let x = splat_pair(s, rows[I][pair]);
            unrolled!(R, J => sums[I][J] = s.dot_words(sums[I][J], v[J], x));
        });
    }
    unrolled!(Q, I => {
        let scale = s.splat(scales[I]);
        let out = &mut out[I * dim + d..][..R * S::LANES];
        unrolled!(R, J => {
            let out = &mut out[J * S::LANES..];
            s.store_f(s.mul_add(s.to_f(sums[I][J]), scale, s.load_f(out)), out);
        });
    });
    R * S::LANES
}

/// The sums behind the last whole block that all tokens of a draft tree share; each token has cells of its own there.
#[inline(always)]
fn sum_branches<S: Simd>(s: S, tile: &mut Tile<'_, '_>, spans: &[Span], blocks: Blocks<'_>) {
    let (dim, group, width) = (tile.cache.shape().head_dim, tile.heads.len(), blocks.width);
    let scratch = &mut *tile.scratch;
    for (i, span) in spans.iter().enumerate() {
        let prefix = span.prefix as usize;
        let first = (prefix / BLOCK * BLOCK).max(blocks.base);
        for position in (first..span.len().min(blocks.base + width)).step_by(BLOCK) {
            let (mut cells, mut scales) = ([0; BLOCK], [0.0; BLOCK]);
            let n = (span.len() - position).min(BLOCK);
            for j in 0..n {
                cells[j] = match (position + j).checked_sub(prefix) {
                    None => tile.plan.blocks[span.table as usize + position / BLOCK] as usize * BLOCK + j,
                    Some(extra) => tile.plan.extras[span.extra as usize + extra] as usize,
                };
                let head = tile.cache.head(cells[j] / BLOCK, Part::Value, tile.head);
                scales[j] = parts(head, dim).1[cells[j] % BLOCK];
            }
            for query in i * group..(i + 1) * group {
                let mut shares = [0; BLOCK];
                let scores = &scratch.scores[query * width + position - blocks.base..];
                let scale = encode_shares(s, scores, &scales, &mut shares);
                let out = &mut scratch.out[query * dim..][..dim];
                sum_cells(s, (tile.cache, tile.head), (&cells[..n], &shares), scale, out);
            }
        }
    }
}

/// Adds the values of some cells, times their shares, to an output.
#[inline(always)]
fn sum_cells<S: Simd>(
    s: S,
    (cache, head): (&LayerData, usize),
    (cells, shares): (&[usize], &[i16; BLOCK]),
    scale: f32,
    out: &mut [f32],
) {
    let dim = out.len();
    for (d, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        let mut sum = s.zero();
        for (cell, &share) in cells.iter().zip(shares) {
            let values = cache.head(cell / BLOCK, Part::Value, head);
            let pair = if cell % 2 == 0 { [share, 0] } else { [0, share] };
            let v = s.load(&values[(cell % BLOCK / 2 * dim + d * S::LANES) * 4..]);
            sum = s.dot_words(sum, v, splat_pair(s, pair));
        }
        s.store_f(s.mul_add(s.to_f(sum), s.splat(scale), s.load_f(out)), out);
    }
}

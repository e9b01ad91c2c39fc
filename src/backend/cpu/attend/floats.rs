//! Attention on floats: a head's block of keys or values is expanded, and serves all queries of the tile.

use super::super::super::{BLOCK, Span};
use super::super::cache::{LayerData, Part};
use super::super::simd::Simd;
use super::{Blocks, Scratch, Tile};

/// Attention of a tile: `scratch.scores` have rows of `width` positions from `base`, and `scratch.out` is filled.
#[inline(always)]
pub(super) fn attend<S: Simd>(s: S, tile: &mut Tile<'_, '_>, base: usize, width: usize) {
    let (dim, group) = (tile.cache.shape().head_dim, tile.heads.len());
    let scratch = &mut *tile.scratch;
    scratch.block.resize(dim * BLOCK, 0.0);
    scratch.queries.resize(tile.tokens.len() * group * dim, 0.0);
    for (i, token) in tile.tokens.clone().enumerate() {
        let at = (token * tile.op.n_heads + tile.heads.start) * dim;
        let queries = &mut scratch.queries[i * group * dim..][..group * dim];
        for (to, from) in queries.iter_mut().zip(&tile.q[at..]) {
            *to = from * tile.op.scale;
        }
    }
    let blocks = Blocks { plan: tile.plan, base, width };
    let mut walk = Walk { blocks, cache: tile.cache, head: tile.head, width, dim, scratch };
    let spans = &tile.plan.spans[tile.tokens.clone()];
    walk.score_prefix(s, spans);
    walk.score_extras(s, spans, group);
    tile.softmax(s, base, width);
    let mut walk = Walk { blocks, cache: tile.cache, head: tile.head, width, dim, scratch: tile.scratch };
    walk.sum_prefix(s, spans);
    walk.sum_extras(s, spans, group);
}

/// A walk over the visible cells of a tile, expanded to floats.
struct Walk<'a> {
    blocks: Blocks<'a>,
    cache: &'a LayerData,
    head: usize,
    width: usize,
    dim: usize,
    scratch: &'a mut Scratch,
}

impl Walk<'_> {
    #[inline(always)]
    fn score_prefix<S: Simd>(&mut self, s: S, spans: &[Span]) {
        let mut blocks = std::mem::take(&mut self.scratch.block);
        for (at, block, _) in self.blocks.prefix(spans) {
            self.cache.expand(s, block, Part::Key, self.head, &mut blocks);
            let (queries, scores) = (&self.scratch.queries, &mut self.scratch.scores);
            let mut q = 0;
            let n = queries.len() / self.dim;
            while q < n {
                let rows = &mut scores[q * self.width..];
                q += match n - q {
                    6.. if S::QUERIES >= 6 => {
                        score::<S, 6>(s, &blocks, &queries[q * self.dim..], self.dim, rows, (self.width, at))
                    }
                    2.. if S::QUERIES >= 2 => {
                        score::<S, 2>(s, &blocks, &queries[q * self.dim..], self.dim, rows, (self.width, at))
                    }
                    _ => score::<S, 1>(s, &blocks, &queries[q * self.dim..], self.dim, rows, (self.width, at)),
                };
            }
        }
        self.scratch.block = blocks;
    }

    /// Scores of ancestors in a draft tree, each at its position's place behind the prefix.
    #[inline(always)]
    fn score_extras<S: Simd>(&mut self, s: S, spans: &[Span], group: usize) {
        let mut expanded = None;
        for (i, span) in spans.iter().enumerate() {
            for (position, cell) in self.blocks.extras(span) {
                let block = cell / BLOCK;
                if expanded != Some(block) {
                    self.cache.expand(s, block, Part::Key, self.head, &mut self.scratch.block);
                    expanded = Some(block);
                }
                for query in i * group..(i + 1) * group {
                    let mut row = [0.0; BLOCK];
                    score::<S, 1>(
                        s,
                        &self.scratch.block,
                        &self.scratch.queries[query * self.dim..],
                        self.dim,
                        &mut row,
                        (BLOCK, 0),
                    );
                    self.scratch.scores[query * self.width + position] = row[cell % BLOCK];
                }
            }
        }
    }

    #[inline(always)]
    fn sum_prefix<S: Simd>(&mut self, s: S, spans: &[Span]) {
        let mut blocks = std::mem::take(&mut self.scratch.block);
        for (at, block, cells) in self.blocks.prefix(spans) {
            self.cache.expand(s, block, Part::Value, self.head, &mut blocks);
            let (scores, out) = (&self.scratch.scores, &mut self.scratch.out);
            let values = &blocks[..cells * self.dim];
            let mut q = 0;
            let n = out.len() / self.dim;
            while q < n {
                let (rows, out) = (&scores[q * self.width..], &mut out[q * self.dim..]);
                q += match n - q {
                    6.. if S::QUERIES >= 6 => sum::<S, 6>(s, values, rows, (self.width, at), out, self.dim),
                    2.. if S::QUERIES >= 2 => sum::<S, 2>(s, values, rows, (self.width, at), out, self.dim),
                    _ => sum::<S, 1>(s, values, rows, (self.width, at), out, self.dim),
                };
            }
        }
        self.scratch.block = blocks;
    }

    #[inline(always)]
    fn sum_extras<S: Simd>(&mut self, s: S, spans: &[Span], group: usize) {
        let mut expanded = None;
        for (i, span) in spans.iter().enumerate() {
            for (position, cell) in self.blocks.extras(span) {
                let block = cell / BLOCK;
                if expanded != Some(block) {
                    self.cache.expand(s, block, Part::Value, self.head, &mut self.scratch.block);
                    expanded = Some(block);
                }
                let value = &self.scratch.block[cell % BLOCK * self.dim..][..self.dim];
                for query in i * group..(i + 1) * group {
                    let scores = &self.scratch.scores[query * self.width..][..self.width];
                    sum::<S, 1>(
                        s,
                        value,
                        scores,
                        (self.width, position),
                        &mut self.scratch.out[query * self.dim..],
                        self.dim,
                    );
                }
            }
        }
    }
}

/// Scores of `Q` queries with the 32 keys of a block, written to columns `at..at + 32` of score rows `width` long; returns
/// `Q`. Keys are `[dim][32]`.
#[inline(always)]
fn score<S: Simd, const Q: usize>(
    s: S,
    keys: &[f32],
    queries: &[f32],
    dim: usize,
    scores: &mut [f32],
    (width, at): (usize, usize),
) -> usize {
    let q: [&[f32]; Q] = std::array::from_fn(
        #[inline(always)]
        |i| &queries[i * dim..][..dim],
    );
    let mut first = 0;
    while first < BLOCK {
        first += if S::BESIDE >= 2 {
            score_keys::<S, Q, 2>(s, keys, &q, scores, (width, at), first)
        } else {
            score_keys::<S, Q, 1>(s, keys, &q, scores, (width, at), first)
        };
    }
    Q
}

/// Keys `first..` of a block, `R` registers; returns how many keys that are.
#[inline(always)]
fn score_keys<S: Simd, const Q: usize, const R: usize>(
    s: S,
    keys: &[f32],
    q: &[&[f32]; Q],
    scores: &mut [f32],
    (width, at): (usize, usize),
    first: usize,
) -> usize {
    let mut sums = [[s.splat(0.0); R]; Q];
    for (d, keys) in keys.chunks_exact(BLOCK).take(q[0].len()).enumerate() {
        let mut k = [s.splat(0.0); R];
        for r in 0..R {
            k[r] = s.load_f(&keys[first + r * S::LANES..]);
        }
        for i in 0..Q {
            let x = s.splat(q[i][d]);
            for r in 0..R {
                sums[i][r] = s.mul_add(x, k[r], sums[i][r]);
            }
        }
    }
    for i in 0..Q {
        for r in 0..R {
            s.store_f(sums[i][r], &mut scores[i * width + at + first + r * S::LANES..]);
        }
    }
    R * S::LANES
}

/// Adds probabilities times values to `Q` outputs; returns `Q`. Values are `[cells][dim]`.
#[inline(always)]
fn sum<S: Simd, const Q: usize>(
    s: S,
    values: &[f32],
    scores: &[f32],
    (width, at): (usize, usize),
    out: &mut [f32],
    dim: usize,
) -> usize {
    let cells = values.len() / dim;
    let p: [&[f32]; Q] = std::array::from_fn(
        #[inline(always)]
        |i| &scores[i * width + at..][..cells],
    );
    let mut d = 0;
    while d < dim {
        // Four registers a query where there are enough of them and the head is wide enough, else one.
        d += if S::BESIDE >= 4 && dim - d >= 4 * S::LANES {
            sum_columns::<S, Q, 4>(s, values, &p, out, dim, d)
        } else if dim - d >= S::LANES {
            sum_columns::<S, Q, 1>(s, values, &p, out, dim, d)
        } else {
            sum_tail::<Q>(values, &p, out, dim, d)
        };
    }
    Q
}

#[inline(always)]
fn sum_columns<S: Simd, const Q: usize, const R: usize>(
    s: S,
    values: &[f32],
    p: &[&[f32]; Q],
    out: &mut [f32],
    dim: usize,
    d: usize,
) -> usize {
    let mut sums = [[s.splat(0.0); R]; Q];
    for i in 0..Q {
        for r in 0..R {
            sums[i][r] = s.load_f(&out[i * dim + d + r * S::LANES..]);
        }
    }
    for (cell, value) in values.chunks_exact(dim).enumerate() {
        let mut v = [s.splat(0.0); R];
        for r in 0..R {
            v[r] = s.load_f(&value[d + r * S::LANES..]);
        }
        for i in 0..Q {
            let x = s.splat(p[i][cell]);
            for r in 0..R {
                sums[i][r] = s.mul_add(x, v[r], sums[i][r]);
            }
        }
    }
    for i in 0..Q {
        for r in 0..R {
            s.store_f(sums[i][r], &mut out[i * dim + d + r * S::LANES..]);
        }
    }
    R * S::LANES
}

/// The last columns of heads whose size is no multiple of the register width.
fn sum_tail<const Q: usize>(values: &[f32], p: &[&[f32]; Q], out: &mut [f32], dim: usize, d: usize) -> usize {
    for (cell, value) in values.chunks_exact(dim).enumerate() {
        for i in 0..Q {
            for (o, v) in out[i * dim + d..(i + 1) * dim].iter_mut().zip(&value[d..]) {
                *o += p[i][cell] * v;
            }
        }
    }
    dim - d
}

//! Attention over the paged cache.
//!
//! A task takes one key/value head and a tile of neighbouring tokens of one sequence, with the query heads that share it:
//! all of them, unless there would be too few tasks for the threads. Scores of the whole visible context are kept (they fit into the L2 cache), so softmax is exact and needs no second
//! pass. A query's sums run over the positions in order, whatever else is in the tile: results do not depend on the batch.

use super::super::{Attend, BLOCK, Plan, Span};
use super::cache::{CacheData, Part};
use super::pool::{Columns, ColumnsPart, Pool};
use super::simd::{Kernel, Level, Simd};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Queries of a tile: enough to use an expanded block often, few enough for their scores to stay in the cache.
const TILE_QUERIES: usize = 16;

/// Work memory of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// One head's block of keys or values as floats.
    block: Vec<f32>,
    /// Queries `[n_queries, head_dim]`, scaled.
    queries: Vec<f32>,
    /// Scores `[n_queries, n_positions]`, then probabilities.
    scores: Vec<f32>,
    /// Outputs `[n_queries, head_dim]`.
    out: Vec<f32>,
}

/// Computes attention into `out` `[n, n_heads * head_dim]`. `tiles` is reused work memory.
pub(super) fn attend(
    (pool, level): (&Pool, Level),
    op: &Attend,
    (plan, cache): (&Plan, &CacheData),
    q: &[f32],
    out: &mut [f32],
    (tiles, scratch): (&mut Vec<Range<usize>>, &[Mutex<Scratch>]),
) {
    let dim = cache.shape().head_dim;
    let group = op.n_heads / cache.shape().n_kv_heads;
    cut_tiles(&plan.spans, (TILE_QUERIES / group).max(1), tiles);
    let tiles: &[Range<usize>] = tiles;
    let parts = parts(group, tiles.len() * cache.shape().n_kv_heads, pool.len());
    let group = group / parts;
    let mut out = Columns::new(out, op.n_heads * dim);
    pool.grid(&mut out, tiles, group * dim, &|tile, panel, part| {
        let (tokens, heads) = (tiles[tile].clone(), panel * group..(panel + 1) * group);
        level.run(Tile { op, plan, cache, q, tokens, head: panel / parts, heads, part, scratch: &mut free(scratch) });
    });
}

/// Into how many parts the query heads of a key/value head are cut, given the tasks without a cut. A task expands keys and
/// values for itself, which costs about as much as two queries.
fn parts(group: usize, n_tasks: usize, n_threads: usize) -> usize {
    let cost = |parts: &usize| (n_tasks * parts).div_ceil(n_threads) * (2 + group / parts);
    (1..=group).filter(|parts| group.is_multiple_of(*parts)).min_by_key(cost).unwrap_or(1)
}

/// A scratch that no other thread is using; there is one for each thread.
fn free(scratch: &[Mutex<Scratch>]) -> MutexGuard<'_, Scratch> {
    loop {
        if let Some(found) = scratch.iter().find_map(|s| s.try_lock().ok()) {
            return found;
        }
        std::hint::spin_loop();
    }
}

/// Cuts rows into tiles of at most `n` tokens of one sequence; tokens of draft trees share a tile only below the same
/// prefix, so that a tile sees the cells behind its longest prefix in one way only.
fn cut_tiles(spans: &[Span], n: usize, tiles: &mut Vec<Range<usize>>) {
    tiles.clear();
    for (i, span) in spans.iter().enumerate() {
        if let Some(tile) = tiles.last_mut() {
            let last = &spans[tile.end - 1];
            let linear = span.n_extra == 0 && last.n_extra == 0;
            if last.table == span.table && tile.len() < n && (linear || last.prefix == span.prefix) {
                tile.end = i + 1;
                continue;
            }
        }
        tiles.push(i..i + 1);
    }
}

struct Tile<'a, 'b> {
    op: &'a Attend,
    plan: &'a Plan,
    cache: &'a CacheData,
    q: &'a [f32],
    tokens: Range<usize>,
    /// The key/value head.
    head: usize,
    /// Query heads, which share it.
    heads: Range<usize>,
    part: &'a mut ColumnsPart<'b>,
    scratch: &'a mut Scratch,
}

impl Kernel for Tile<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.cache.shape().head_dim;
        let group = self.heads.len();
        let n_queries = self.tokens.len() * group;
        let (base, end) = self.visible();
        let width = (end - base).next_multiple_of(BLOCK);
        let scratch = &mut *self.scratch;
        scratch.block.resize(dim * BLOCK, 0.0);
        scratch.queries.resize(n_queries * dim, 0.0);
        scratch.out.clear();
        scratch.out.resize(n_queries * dim, 0.0);
        scratch.scores.clear();
        scratch.scores.resize(n_queries * width, 0.0);
        for (i, token) in self.tokens.clone().enumerate() {
            let at = (token * self.op.n_heads + self.heads.start) * dim;
            let queries = &mut scratch.queries[i * group * dim..][..group * dim];
            for (to, from) in queries.iter_mut().zip(&self.q[at..]) {
                *to = from * self.op.scale;
            }
        }
        let mut walk = Walk {
            plan: self.plan,
            cache: self.cache,
            layer: self.op.layer,
            head: self.head,
            base,
            width,
            dim,
            scratch,
        };
        let spans = &self.plan.spans[self.tokens.clone()];
        walk.score_prefix(s, spans);
        walk.score_extras(s, spans, group);
        for (query, scores) in walk.scratch.scores.chunks_exact_mut(width).enumerate() {
            let span = &spans[query / group];
            softmax(s, &mut scores[..], self.op.softcap, window_start(self.op, span) - base..span.len() - base);
        }
        walk.sum_prefix(s, spans);
        walk.sum_extras(s, spans, group);
        for (i, token) in self.tokens.clone().enumerate() {
            self.part.row(token).copy_from_slice(&scratch.out[i * group * dim..][..group * dim]);
        }
    }
}

/// First position that a token may see.
fn window_start(op: &Attend, span: &Span) -> usize {
    op.window.map_or(0, |window| span.len().saturating_sub(window as usize))
}

impl Tile<'_, '_> {
    /// Positions that any token of the tile sees; the first one rounded down to a block.
    fn visible(&self) -> (usize, usize) {
        let spans = &self.plan.spans[self.tokens.clone()];
        let start = spans.iter().map(|span| window_start(self.op, span)).min().unwrap_or(0);
        let end = spans.iter().map(Span::len).max().unwrap_or(0);
        (start / BLOCK * BLOCK, end)
    }
}

/// A walk over the visible cells of a tile.
struct Walk<'a> {
    plan: &'a Plan,
    cache: &'a CacheData,
    layer: usize,
    head: usize,
    /// First position of the scores, a multiple of a block.
    base: usize,
    /// Positions of a row of scores.
    width: usize,
    dim: usize,
    scratch: &'a mut Scratch,
}

impl<'a> Walk<'a> {
    /// Blocks of the longest prefix in the tile: `(position, block, cells)`.
    fn blocks(&self, spans: &[Span]) -> impl Iterator<Item = (usize, usize, usize)> + use<'a> {
        let prefix = spans.iter().map(|span| span.prefix as usize).max().unwrap_or(0);
        let table = spans.first().map_or(0, |span| span.table as usize);
        let plan = self.plan;
        (self.base..prefix).step_by(BLOCK).map(move |position| {
            (position, plan.blocks[table + position / BLOCK] as usize, (prefix - position).min(BLOCK))
        })
    }

    #[inline(always)]
    fn score_prefix<S: Simd>(&mut self, s: S, spans: &[Span]) {
        let mut blocks = std::mem::take(&mut self.scratch.block);
        for (position, block, _) in self.blocks(spans) {
            self.cache.expand(s, self.layer, block, Part::Key, self.head, &mut blocks);
            let at = position - self.base;
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
            for (position, cell) in self.extras(span) {
                let block = cell / BLOCK;
                if expanded != Some(block) {
                    self.cache.expand(s, self.layer, block, Part::Key, self.head, &mut self.scratch.block);
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

    /// `(position - base, cell)` of a token's ancestors.
    fn extras(&self, span: &Span) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let first = span.prefix as usize - self.base.min(span.prefix as usize);
        let cells = &self.plan.extras[span.extra as usize..][..span.n_extra as usize];
        cells.iter().enumerate().map(move |(i, &cell)| (first + i, cell as usize))
    }

    #[inline(always)]
    fn sum_prefix<S: Simd>(&mut self, s: S, spans: &[Span]) {
        let mut blocks = std::mem::take(&mut self.scratch.block);
        for (position, block, cells) in self.blocks(spans) {
            self.cache.expand(s, self.layer, block, Part::Value, self.head, &mut blocks);
            let at = position - self.base;
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
            for (position, cell) in self.extras(span) {
                let block = cell / BLOCK;
                if expanded != Some(block) {
                    self.cache.expand(s, self.layer, block, Part::Value, self.head, &mut self.scratch.block);
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

/// Softmax over `scores[visible]`; everything else becomes 0.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], softcap: f32, visible: Range<usize>) {
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
    let mut largest = f32::NEG_INFINITY;
    let chunks = all.chunks_exact(S::LANES);
    for &v in chunks.remainder() {
        largest = if v > largest { v } else { largest };
    }
    let mut lanes = s.splat(largest);
    for v in chunks {
        lanes = s.max(lanes, s.load_f(v));
    }
    let largest = s.splat(s.max_lane(lanes));
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
    let inverse = s.splat(1.0 / (s.sum(lanes) + tail));
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

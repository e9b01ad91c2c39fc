//! Attention over the paged cache.
//!
//! A task takes a tile, which is some neighbouring tokens of one sequence, one key/value head, and the query heads that read
//! it: all of them, unless there would be too few tasks for the threads. Scores of the whole visible context are kept (they
//! fit into the L2 cache), so softmax is exact and needs no second pass. A query's sums run over the positions in order,
//! whatever else is in the tile: results do not depend on the batch.

mod floats;
mod softmax;
mod words;

use super::super::{Attend, BLOCK, Plan, Span};
use super::cache::LayerData;
use super::pool::{Columns, ColumnsPart, Pool};
use super::simd::{Kernel, Level, Simd};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, TryLockError};

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
    /// Of attention on integers.
    words: words::Scratch,
}

/// Computes attention into `out` `[n, n_heads * head_dim]`. `tiles` is reused work memory.
pub(super) fn attend(
    (pool, level): (&Pool, Level),
    op: &Attend,
    (plan, cache): (&Plan, &LayerData),
    (q, sinks): (&[f32], Option<&[f32]>),
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
        let scratch = &mut free(scratch);
        level.run(Tile { op, plan, cache, q, sinks, tokens, head: panel / parts, heads, part, scratch });
    });
}

/// How many tasks share the `group` query heads of a key/value head, where one task a head would make `n_tasks`. Each task
/// expands the keys and values for itself, which costs about as much as two queries.
fn parts(group: usize, n_tasks: usize, n_threads: usize) -> usize {
    let cost = |parts: &usize| (n_tasks * parts).div_ceil(n_threads) * (2 + group / parts);
    (1..=group).filter(|parts| group.is_multiple_of(*parts)).min_by_key(cost).unwrap_or(1)
}

/// A scratch that no other thread is using; there is one for each thread.
fn free(scratch: &[Mutex<Scratch>]) -> MutexGuard<'_, Scratch> {
    loop {
        if let Some(found) = scratch.iter().find_map(try_lock) {
            return found;
        }
        std::hint::spin_loop();
    }
}

/// A scratch that a task left behind when it panicked is as good as any: every task fills it anew.
fn try_lock(scratch: &Mutex<Scratch>) -> Option<MutexGuard<'_, Scratch>> {
    match scratch.try_lock() {
        Ok(free) => Some(free),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Bytes that a scratch holds.
pub(super) fn bytes(scratch: &Mutex<Scratch>) -> usize {
    let lists = |s: MutexGuard<'_, Scratch>| [&s.block, &s.queries, &s.scores, &s.out].map(Vec::capacity);
    try_lock(scratch).map_or(0, |s| s.words.bytes() + lists(s).iter().sum::<usize>() * size_of::<f32>())
}

/// Cuts rows into tiles of at most `n` tokens of one sequence. Tokens of draft trees share a tile only if their prefixes are
/// equally long: at a position behind its prefix a token has an ancestor of its own, where one with a longer prefix has a
/// cell of the block table, and a tile walks the blocks of one prefix.
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
    cache: &'a LayerData,
    q: &'a [f32],
    sinks: Option<&'a [f32]>,
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
    fn run<S: Simd>(mut self, s: S) {
        let (dim, group) = (self.cache.shape().head_dim, self.heads.len());
        let (base, end) = self.visible();
        let (width, n_queries) = ((end - base).next_multiple_of(BLOCK), self.tokens.len() * group);
        self.scratch.out.clear();
        self.scratch.out.resize(n_queries * dim, 0.0);
        self.scratch.scores.clear();
        self.scratch.scores.resize(n_queries * width, 0.0);
        if S::WORDS && self.cache.words() {
            words::attend(s, &mut self, base, width);
        } else {
            floats::attend(s, &mut self, base, width);
        }
        for (i, token) in self.tokens.clone().enumerate() {
            self.part.row(token).copy_from_slice(&self.scratch.out[i * group * dim..][..group * dim]);
        }
    }
}

/// Positions that a token sees.
#[inline]
fn seen_by(op: &Attend, plan: &Plan, token: usize) -> Range<usize> {
    let len = plan.spans[token].len();
    match op.window {
        None => 0..len,
        Some(window) if op.centered => {
            let (own, half) = (plan.positions[token] as usize, window as usize / 2);
            own.saturating_sub(half).min(len)..(own + half + 1).min(len)
        }
        Some(window) => len.saturating_sub(window as usize)..len,
    }
}

impl Tile<'_, '_> {
    /// Scores, rows `width` long of positions from `base`, become probabilities.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, base: usize, width: usize) {
        let group = self.heads.len();
        for (query, scores) in self.scratch.scores.chunks_exact_mut(width).enumerate() {
            let Range { start, end } = seen_by(self.op, self.plan, self.tokens.start + query / group);
            let sink = self.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[self.heads.start + query % group]);
            softmax::softmax(s, &mut scores[..], (self.op.softcap, sink), start - base..end - base);
        }
    }

    /// Positions that any token of the tile sees; the first one rounded down to a block.
    #[inline]
    fn visible(&self) -> (usize, usize) {
        let seen = self.tokens.clone().map(|token| seen_by(self.op, self.plan, token));
        let (start, end) = seen.fold((usize::MAX, 0), |(start, end), seen| (start.min(seen.start), end.max(seen.end)));
        (start.min(end) / BLOCK * BLOCK, end)
    }
}

/// The visible cells of a tile.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    plan: &'a Plan,
    /// First position of the scores, a multiple of a block.
    base: usize,
    /// Positions of a row of scores.
    width: usize,
}

impl<'a> Blocks<'a> {
    /// Blocks of the longest prefix in the tile, as far as scores are made: `(position - base, block, cells)`.
    #[inline]
    fn prefix(self, spans: &[Span]) -> impl Iterator<Item = (usize, usize, usize)> + use<'a> {
        let prefix = spans.iter().map(|span| span.prefix as usize).max().unwrap_or(0).min(self.base + self.width);
        let table = spans.first().map_or(0, |span| span.table as usize);
        let Blocks { plan, base, .. } = self;
        (base..prefix).step_by(BLOCK).map(move |position| {
            let block = plan.blocks[table + position / BLOCK] as usize;
            (position - base, block, (prefix - position).min(BLOCK))
        })
    }

    /// `(position - base, cell)` of a token's ancestors in its draft tree, but for those before `base`: where the window is
    /// smaller than a branch, they are out of sight.
    #[inline]
    fn extras(self, span: &Span) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let (base, prefix) = (self.base, span.prefix as usize);
        let cells = &self.plan.extras[span.extra as usize..][..span.n_extra as usize];
        let hidden = base.saturating_sub(prefix);
        (prefix..).zip(cells).skip(hidden).map(move |(position, &cell)| (position - base, cell as usize))
    }
}

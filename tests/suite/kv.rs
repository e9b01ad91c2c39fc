//! The KV cache alone, against one that keeps every token: a random player forks, cuts, plans, commits and keeps states, on a
//! backend whose cells hold tokens and whose states are the texts that they stand for.

use crate::common::random::Random;
use foreword::Kind;
use foreword::backend::*;
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::error::{Error, Result};
use foreword::kv::KvCache;
use foreword::quant::TensorType;
use std::ops::Range;
use std::task::{Context, Poll};

/// Cells of tokens. No op computes anything.
#[derive(Default)]
struct Tokens {
    cells: Vec<u32>,
    /// Tokens of the states that there is memory for.
    states: Vec<Vec<u32>>,
}

impl Backend for Tokens {
    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        self.cells = vec![u32::MAX; spec.n_blocks * BLOCK];
        self.states = vec![vec![u32::MAX]; spec.n_slots];
        Ok(Cache::default())
    }
    fn resize_cache(&mut self, _: Cache, n_blocks: usize) -> Result<()> {
        self.cells.resize(n_blocks * BLOCK, u32::MAX);
        Ok(())
    }
    fn resize_states(&mut self, _: Cache, n_slots: usize) -> Result<()> {
        self.states.resize(n_slots, vec![u32::MAX]);
        Ok(())
    }
    fn read_cells(&mut self, _: &ReadCells) {}
    fn move_cells(&mut self, _: Cache, moves: &[(u32, u32)]) {
        moves.iter().for_each(|&(from, to)| self.cells[to as usize] = self.cells[from as usize]);
    }
    fn info(&self) -> DeviceInfo {
        DeviceInfo::default()
    }
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
    fn begin_scope(&mut self) -> Scope {
        Scope::default()
    }
    fn end_scope(&mut self) {}
    fn release(&mut self, _: Scope) {}
    fn new_weight(&mut self, _: TensorType, _: usize, _: usize) -> Result<Weight> {
        Err(Error::unsupported("only cells"))
    }
    fn load_rows(&mut self, _: Weight, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn new_buf(&mut self, _: usize, _: usize) -> Result<Buf> {
        Err(Error::unsupported("only cells"))
    }
    fn write(&mut self, _: Buf, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }
    fn new_operand(&mut self, _: usize, _: usize, _: &[Weight]) -> Result<Operand> {
        Err(Error::unsupported("only cells"))
    }
    fn begin(&mut self, _: &Plan) -> Result<()> {
        Ok(())
    }
    fn embed(&mut self, _: Weight, _: f32, _: Buf) {}
    fn norm(&mut self, _: &Norm) {}
    fn pack(&mut self, _: Buf, _: Rows, _: Operand) {}
    fn matmul(&mut self, _: Operand, _: Rows, _: &[Product]) {}
    fn rope_append(&mut self, _: &RopeAppend) {}
    fn attend(&mut self, _: &Attend) {}
    fn short_conv(&mut self, _: &ShortConv) {}
    fn linear_attend(&mut self, _: &LinearAttend) {}
    fn gated_norm(&mut self, _: &GatedNorm) {}
    fn gate(&mut self, _: &Gate) {}
    fn experts(&mut self, _: &Experts) {}
    fn select(&mut self, _: &Select) {}
    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }
    fn poll_sent(&mut self, _: &mut Context<'_>, _: &Sent, _: &mut [f32]) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A sequence as it should be.
struct Text {
    seq: SeqId,
    tokens: Vec<u32>,
    /// Lengths at which its state was kept.
    kept: Vec<usize>,
    /// Lengths that its last commit led past, until the next plan.
    passed: Range<usize>,
    /// Rows of the last plan, each with its parent's row.
    planned: Vec<(u32, Option<u32>)>,
}

impl Text {
    fn forkable(&self, states: bool, len: usize) -> usize {
        match len >= self.tokens.len() && self.planned.is_empty() || !states {
            true => len.min(self.tokens.len()),
            false => self.kept.iter().copied().filter(|&kept| kept <= len).max().unwrap_or(0),
        }
    }
}

struct Player {
    random: Random,
    backend: Tokens,
    kv: KvCache,
    has_states: bool,
    texts: Vec<Text>,
    /// Tokens of the rows of the last plan.
    rows: Vec<u32>,
    plan: Plan,
    /// Names tokens: none is there twice.
    next: u32,
    /// Plans that were refused, and plans.
    refused: (usize, usize),
}

impl Player {
    fn new(seed: u64, layers: Vec<LayerCache>) -> Self {
        let mut random = Random::new(seed);
        let (n_blocks, n_slots) = (3 + random.below(20), 2 + random.below(8));
        let spec = CacheSpec { layers, n_blocks, n_slots };
        let (has_states, mut backend) = (spec.has_states(), Tokens::default());
        let kv = KvCache::new(&mut backend, spec).expect("memory");
        let (texts, rows, plan) = (Vec::new(), Vec::new(), Plan::default());
        Player { random, backend, kv, has_states, texts, rows, plan, next: 0, refused: (0, 0) }
    }

    fn play(&mut self) {
        let which = (!self.texts.is_empty()).then(|| self.random.below(self.texts.len()));
        match (self.random.below(13), which) {
            (0, _) | (_, None) => {
                let seq = self.kv.new_seq();
                self.texts.push(Text { seq, tokens: Vec::new(), kept: Vec::new(), passed: 0..0, planned: Vec::new() });
            }
            (1 | 2, Some(which)) => self.fork(which),
            (3, Some(which)) => self.truncate(which),
            (4, Some(which)) => {
                let text = self.texts.swap_remove(which);
                self.kv.free(text.seq);
            }
            (5 | 6, Some(which)) => self.checkpoint(which),
            (7, Some(which)) => {
                let text = &mut self.texts[which];
                assert_eq!(self.kv.forget_checkpoint(text.seq), !text.kept.is_empty());
                text.kept.drain(..text.kept.len().min(1));
            }
            (8, _) => self.kv.shrink(&mut self.backend).expect("memory"),
            _ => self.step(),
        }
        self.check();
    }

    fn fork(&mut self, which: usize) {
        let text = &self.texts[which];
        let len = self.random.below(text.tokens.len() + 1);
        let expected = text.forkable(self.has_states, len);
        assert_eq!(self.kv.forkable(text.seq, len), expected);
        let seq = self.kv.fork(text.seq, len).expect("a shorter one");
        let kept = text.kept.iter().copied().filter(|&kept| kept <= expected).collect();
        let tokens = text.tokens[..expected].to_vec();
        let passed = if expected == text.tokens.len() { text.passed.clone() } else { 0..0 };
        assert_eq!(self.kv.fork(text.seq, text.tokens.len() + 1).expect_err("longer").kind(), Kind::InvalidRequest);
        self.texts.push(Text { seq, tokens, kept, passed, planned: Vec::new() });
    }

    fn truncate(&mut self, which: usize) {
        let text = &mut self.texts[which];
        let len = self.random.below(text.tokens.len() + 2);
        text.planned.clear();
        let expected = text.forkable(self.has_states, len);
        assert_eq!(self.kv.truncate(text.seq, len).expect("a known one"), expected);
        if expected < text.tokens.len() {
            text.passed = 0..0;
        }
        text.tokens.truncate(expected);
        text.kept.retain(|&kept| kept <= expected);
    }

    fn checkpoint(&mut self, which: usize) {
        let text = &mut self.texts[which];
        let whole = self.random.below(2) == 0;
        let len = if whole { text.tokens.len() } else { self.random.below(text.tokens.len() + 2) };
        let is_there = match len == text.tokens.len() {
            true => len > 0,
            false => text.passed.contains(&len) && self.kv.free_slots() > 0,
        };
        self.kv.checkpoint(text.seq, len).expect("a known one");
        if self.has_states && is_there && text.planned.is_empty() && text.kept.last().is_none_or(|last| *last < len) {
            text.kept.push(len);
        }
    }

    /// Plans some tokens for some sequences, and keeps some of them.
    fn step(&mut self) {
        let mut batch = Batch::new();
        let mut planned = Vec::new();
        let mut order: Vec<usize> = (0..self.texts.len()).filter(|_| self.random.below(3) > 0).collect();
        order.sort_by_cached_key(|_| self.random.bits());
        for &which in &order {
            let (first, n, tree) = (batch.len(), 1 + self.random.below(40), self.random.below(2) == 0);
            let mut rows = Vec::new();
            for i in 0..n {
                let before = if tree { self.random.below(i + 1) } else { i };
                let parent = before.checked_sub(1).map(|p| (first + p) as u32);
                self.next += 1;
                rows.push((
                    batch.push(BatchToken { token: self.next, seq: self.texts[which].seq, parent, output: false }),
                    parent,
                ));
            }
            planned.push((which, rows));
        }
        if batch.is_empty() {
            return;
        }
        let before = (self.kv.free_blocks(), self.kv.free_slots());
        self.refused.1 += 1;
        if let Err(error) = self.kv.plan(&mut self.backend, &batch, &mut self.plan) {
            assert_eq!(error.kind(), Kind::OutOfMemory);
            assert_eq!((self.kv.free_blocks(), self.kv.free_slots()), before, "a refused plan takes nothing");
            self.refused.0 += 1;
            return;
        }
        self.forward();
        self.see_checkpoints();
        self.texts.iter_mut().for_each(|text| text.passed = 0..0);
        if self.has_states {
            self.texts.iter_mut().for_each(|text| text.planned.clear());
        }
        for (which, rows) in planned {
            self.texts[which].planned = rows;
            self.see(which);
        }
        for which in order {
            match self.random.below(4) {
                0 => {}
                _ => self.commit(which),
            }
        }
    }

    /// What a model does: brings the states up to date, then writes the rows.
    fn forward(&mut self) {
        for step in std::mem::take(&mut self.plan.states) {
            match step {
                StateStep::Clear { slot } => self.backend.states[slot as usize].clear(),
                StateStep::Copy { from, to } => {
                    self.backend.states[to as usize] = self.backend.states[from as usize].clone()
                }
                StateStep::Advance { slot, rows } => {
                    let tokens = rows.iter().map(|&row| self.rows[row as usize]);
                    self.backend.states[slot as usize].extend(tokens);
                }
            }
        }
        self.rows.clone_from(&self.plan.tokens);
        for (&cell, &token) in self.plan.cells.iter().zip(&self.plan.tokens) {
            self.backend.cells[cell as usize] = token;
        }
    }

    /// The states that were kept are those of the beginnings.
    fn see_checkpoints(&self) {
        for text in &self.texts {
            for kept in self.kv.checkpoints(text.seq) {
                assert_eq!(self.backend.states[kept.slot as usize], text.tokens[..kept.len]);
            }
        }
    }

    /// The path from the committed text to a row, the row included.
    fn path(&self, which: usize, row: u32) -> Vec<u32> {
        let mut path = vec![row];
        while let (_, Some(parent)) = self.texts[which].planned[(path[0] - self.texts[which].planned[0].0) as usize] {
            path.insert(0, parent);
        }
        path
    }

    /// Each row sees the committed text and its ancestors, and the state is that of the committed text.
    fn see(&self, which: usize) {
        let text = &self.texts[which];
        if self.has_states {
            let slot = self.kv.slot(text.seq).expect("a state");
            assert_eq!(self.backend.states[slot as usize], text.tokens, "the state in front of the rows");
        }
        for &(row, _) in &text.planned {
            let span = self.plan.spans[row as usize];
            let block = |position: usize| self.plan.blocks[span.table as usize + position / BLOCK] as usize;
            let prefix = (0..span.prefix as usize).map(|position| block(position) * BLOCK + position % BLOCK);
            let extras = &self.plan.extras[span.extra as usize..][..span.n_extra as usize];
            let cells = prefix.chain(extras.iter().map(|&cell| cell as usize));
            let seen: Vec<u32> = cells.map(|cell| self.backend.cells[cell]).collect();
            let path = self.path(which, row).into_iter().map(|row| self.plan.tokens[row as usize]);
            let expected: Vec<u32> = text.tokens.iter().copied().chain(path).collect();
            assert_eq!(seen, expected);
            assert_eq!(self.plan.positions[row as usize] as usize + 1, expected.len());
        }
    }

    fn commit(&mut self, which: usize) {
        let text = &self.texts[which];
        let (seq, rows) = (text.seq, &text.planned);
        let linear = rows.iter().all(|&(row, parent)| parent.is_none_or(|p| p + 1 == row))
            && rows.iter().filter(|(_, parent)| parent.is_none()).count() == 1;
        let last = rows[self.random.below(rows.len())].0;
        let path = match linear && self.random.below(2) == 0 {
            true => {
                self.kv.commit_run(seq).expect("a known one");
                rows.iter().map(|&(row, _)| row).collect()
            }
            false => {
                let path = self.path(which, last);
                self.kv.commit(&mut self.backend, seq, &path).expect("a path");
                path
            }
        };
        let text = &mut self.texts[which];
        text.passed = text.tokens.len() + 1..text.tokens.len() + path.len();
        text.tokens.extend(path.iter().map(|&row| self.rows[row as usize]));
        text.planned.clear();
    }

    /// Lengths and cells are those of the texts; blocks and slots are held by as many as use them, or free.
    fn check(&self) {
        let (mut blocks, mut slots) = (Vec::new(), Vec::new());
        for text in &self.texts {
            assert_eq!(self.kv.len(text.seq), text.tokens.len());
            let kept: Vec<usize> = self.kv.checkpoints(text.seq).iter().map(|c| c.len).collect();
            assert_eq!(kept, text.kept);
            assert_eq!(self.kv.forkable(text.seq, usize::MAX), text.forkable(self.has_states, usize::MAX));
            for (i, &token) in text.tokens.iter().enumerate() {
                let cell = self.kv.blocks(text.seq)[i / BLOCK] as usize * BLOCK + i % BLOCK;
                assert_eq!(self.backend.cells[cell], token);
            }
            blocks.extend_from_slice(self.kv.blocks(text.seq));
            slots.extend(self.kv.slot(text.seq));
            slots.extend(self.kv.checkpoints(text.seq).iter().map(|c| c.slot));
        }
        assert!(blocks.iter().all(|&b| self.kv.holders(b) as usize == blocks.iter().filter(|&&h| h == b).count()));
        for (mut held, free, all) in [
            (blocks, self.kv.free_blocks(), self.kv.spec().n_blocks),
            (slots, self.kv.free_slots(), self.kv.spec().n_slots),
        ] {
            held.sort_unstable();
            held.dedup();
            assert_eq!(held.len() + free, all, "held and free");
        }
    }
}

fn play(layers: &[LayerCache]) {
    let (mut refused, mut plans) = (0, 0);
    for seed in 0..60 {
        let mut player = Player::new(seed, layers.to_vec());
        (0..400).for_each(|_| player.play());
        while let Some(text) = player.texts.pop() {
            player.kv.free(text.seq);
        }
        player.check();
        (refused, plans) = (refused + player.refused.0, plans + player.refused.1);
    }
    assert!(refused * 20 > plans && refused < plans * 19 / 20, "{refused} of {plans} plans were refused");
}

const SHAPE: CellShape = CellShape { n_kv_heads: 1, head_dim: 32, ty: CacheType::F16 };

#[test]
fn sequences_over_blocks_are_those_that_keep_every_token() {
    play(&[LayerCache::Paged(SHAPE), LayerCache::SharedWith(0)]);
}

#[test]
fn sequences_with_states_are_those_that_keep_every_token() {
    play(&[LayerCache::State { floats: 8 }, LayerCache::Paged(SHAPE)]);
}

#[test]
fn memory_grows_with_what_is_held_and_is_given_back() {
    let mut backend = Tokens::default();
    let mut kv = KvCache::new(&mut backend, CacheSpec::paged(1, SHAPE, 256)).expect("memory");
    let (mut batch, mut plan) = (Batch::new(), Plan::default());
    assert!(backend.cells.len() <= 128, "{} cells before there are tokens", backend.cells.len());
    let seq = kv.new_seq();
    let mut copied = 0;
    for token in 0..8192 {
        let before = backend.cells.len();
        batch.clear();
        batch.push_run(seq, &[token], false);
        kv.plan(&mut backend, &batch, &mut plan).expect("room");
        kv.commit_run(seq).expect("a known one");
        copied += if backend.cells.len() == before { 0 } else { before };
        let (len, cells) = (token as usize + 1, backend.cells.len());
        // Half as much again, in pieces of 128 tokens.
        assert!((len..=len + len / 2 + 128).contains(&cells), "{cells} cells for {len} tokens");
        assert_eq!(kv.free_blocks(), 256 - len.div_ceil(BLOCK));
    }
    assert!(copied < 3 * 8192, "{copied} cells were copied");
    let few = kv.fork(seq, 300).expect("a beginning");
    kv.shrink(&mut backend).expect("memory");
    assert_eq!(backend.cells.len(), 8192, "all are in use");
    kv.free(seq);
    kv.shrink(&mut backend).expect("memory");
    assert_eq!(backend.cells.len(), 512);
    assert_eq!(kv.free_blocks(), 256 - 10);
    kv.free(few);
    kv.shrink(&mut backend).expect("memory");
    assert!(backend.cells.len() <= 128, "{} cells without tokens", backend.cells.len());
}

#[test]
fn layers_share_what_an_earlier_one_keeps() {
    let other = CellShape { head_dim: 64, ..SHAPE };
    let layers = vec![
        LayerCache::Paged(SHAPE),
        LayerCache::Paged(other),
        LayerCache::SharedWith(0),
        LayerCache::SharedWith(1),
        LayerCache::SharedWith(2),
    ];
    let spec = CacheSpec { layers, n_blocks: 1, n_slots: 0 };
    assert_eq!(spec.paged_layers().expect("earlier ones"), (vec![SHAPE, other], vec![0, 1, 0, 1, 0]));
    assert_eq!(spec.bytes_per_token(), 2 * 32 * 2 + 2 * 64 * 2);
    for wrong in [0, 1, 7] {
        let layers = vec![LayerCache::State { floats: 1 }, LayerCache::SharedWith(wrong)];
        let spec = CacheSpec { layers, n_blocks: 1, n_slots: 1 };
        assert_eq!(spec.paged_layers().expect_err("no layer to share with").kind(), Kind::Unsupported);
    }
}

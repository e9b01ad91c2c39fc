//! Seeded inputs: floats, weights in file form, and plans.

use foreword::backend::{BLOCK, Plan, Span};
use foreword::quant::TensorType;

/// Xorshift; good enough for test data.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.bits() >> 11) % n.max(1) as u64) as usize
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Random valid blocks of `n` weights, with scales around 0.01.
    pub fn weights(&mut self, ty: TensorType, n: usize) -> Vec<u8> {
        let halves: &[usize] = match ty {
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 | TensorType::F16 => &[0],
            TensorType::IQ4_NL | TensorType::IQ4_XS | TensorType::IQ3_S | TensorType::IQ3_XXS => &[0],
            TensorType::IQ2_S | TensorType::IQ2_XS | TensorType::IQ2_XXS | TensorType::IQ1_S => &[0],
            TensorType::Q1_0 | TensorType::Q2_0 => &[0],
            TensorType::TQ1_0 => &[52],
            TensorType::TQ2_0 => &[64],
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::Q6_K => &[208],
            _ => &[],
        };
        let mut out = Vec::new();
        for _ in 0..n / ty.block_len() {
            let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| self.bits() as u8).collect();
            for &at in halves {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(self.float() * 0.02).to_le_bytes());
            }
            match ty {
                TensorType::F32 => block.copy_from_slice(&self.float().to_le_bytes()),
                TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(self.float()).to_le_bytes()),
                TensorType::IQ1_M => {
                    let bits = half::f16::from_f32(self.float() * 0.02).to_bits();
                    for i in 0..4 {
                        block[49 + 2 * i] = block[49 + 2 * i] & 15 | (bits >> (4 * i) << 4) as u8;
                    }
                }
                // About 0.01, as others.
                TensorType::NVFP4 => block[..4].iter_mut().for_each(|b| *b &= 15),
                TensorType::MXFP4 => block[0] = 118 + (block[0] & 7),
                _ => {}
            }
            out.extend(block);
        }
        out
    }

    /// `0..n` in random order.
    pub fn shuffled(&mut self, n: usize) -> Vec<u32> {
        let mut items: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            items.swap(i, self.below(i + 1));
        }
        items
    }
}

/// One sequence of a [`Steps`]: `past` committed tokens, then `new` ones.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub past: usize,
    pub new: usize,
    pub form: Form,
}

/// How the new tokens of a sequence hang together.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Chain,
    /// Random, thus shallow.
    Tree,
    /// Two branches, whose tokens take turns.
    Branches,
}

/// Plans that first fill the cache with the past of all sequences and then run their new tokens as one batch.
pub struct Steps {
    pub fill: Vec<Plan>,
    pub step: Plan,
    pub n_blocks: usize,
    /// Most rows of a plan.
    pub rows: usize,
}

/// Rows of the plans that fill the cache.
const FILL: usize = 64;

impl Steps {
    pub fn new(random: &mut Random, sequences: &[Sequence]) -> Self {
        let n_blocks: usize = sequences.iter().map(|s| (s.past + s.new).div_ceil(BLOCK)).sum();
        let mut free = random.shuffled(n_blocks);
        let (mut fill, mut step) = (Vec::new(), Plan::default());
        for sequence in sequences {
            let table = free.split_off(free.len() - (sequence.past + sequence.new).div_ceil(BLOCK));
            for first in (0..sequence.past).step_by(FILL) {
                let mut plan = Plan { blocks: table.clone(), ..Plan::default() };
                let rows = first..(first + FILL).min(sequence.past);
                rows.for_each(|at| push(&mut plan, &table, at, Span { prefix: at as u32 + 1, ..Span::default() }));
                fill.push(plan);
            }
            let start = step.blocks.len() as u32;
            step.blocks.extend(&table);
            let mut chains: Vec<Vec<usize>> = Vec::new();
            for i in 0..sequence.new {
                let parent = match sequence.form {
                    Form::Chain => i.checked_sub(1),
                    Form::Tree => random.below(i + 1).checked_sub(1),
                    Form::Branches => i.checked_sub(2),
                };
                let mut chain = parent.map_or(Vec::new(), |p| chains[p].clone());
                chain.push(i);
                let lead = chain.iter().zip(0..).take_while(|(c, at)| *c == at).count();
                let span = Span {
                    table: start,
                    prefix: (sequence.past + lead) as u32,
                    extra: step.extras.len() as u32,
                    n_extra: (chain.len() - lead) as u32,
                };
                step.extras.extend(chain[lead..].iter().map(|&c| cell(&table, sequence.past + c)));
                push(&mut step, &table, sequence.past + i, span);
                chains.push(chain);
            }
        }
        let rows = fill.iter().chain([&step]).map(|p| p.tokens.len()).max().unwrap_or(0);
        Steps { fill, step, n_blocks, rows }
    }
}

fn push(plan: &mut Plan, table: &[u32], at: usize, span: Span) {
    plan.tokens.push(0);
    plan.positions.push(span.len() as u32 - 1);
    plan.cells.push(cell(table, at));
    plan.spans.push(span);
}

fn cell(table: &[u32], position: usize) -> u32 {
    table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32
}

/// A plan of `n` rows for ops that look at no cache.
pub fn rows(n: usize) -> Plan {
    let spans = (0..n).map(|i| Span { prefix: i as u32 + 1, ..Span::default() }).collect();
    Plan { tokens: vec![0; n], positions: vec![0; n], cells: vec![0; n], spans, blocks: vec![0], ..Plan::default() }
}

//! Ops as launches: which kernel, grid and parameters each one takes.

use super::super::{
    Activation, Attend, Buf, Cache, Gate, Norm, Operand, Product, RopeAppend, RopePairs, Rows, Select, Weight,
};
use super::Cuda;
use super::device::Address;
use super::link::{Kernel, is_float, max_queries};
use super::memory::CacheData;
use super::step::Params;
use crate::error::Result;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL};

/// Products of a launch; the fixed size of an array in `shaders/cuda/epilogue.cuh`.
const MAX_PRODUCTS: usize = 4;

/// Rows that `matmul_few` takes: as many as are still bound by memory.
const MAX_FEW: usize = 32;

/// Blocks of columns that the logits of a row are cut into: few enough for one block of threads to search, and to count in 16
/// bits.
const MAX_BLOCKS: usize = 4096;

/// Positions that a part of an attention has at least.
const MIN_PART: usize = 128;

/// Cosines and sines `[n, rope_dim / 2]` of a step's positions.
pub(super) struct Angles {
    freqs: Buf,
    rope_dim: usize,
    magnitude: u32,
    address: Address,
    rows: usize,
    /// Whether their launch is recorded in this step.
    pub(super) filled: bool,
}

/// Memory that grows with what steps need of it.
#[derive(Default)]
pub(super) struct Scratch {
    address: Address,
    bytes: usize,
}

impl Cuda {
    fn address(&self, buf: Buf) -> Address {
        self.memory.bufs[buf.0 as usize].address
    }

    /// 0, a null pointer, for none.
    fn optional(&self, buf: Option<Buf>) -> Address {
        buf.map_or(0, |b| self.address(b))
    }

    pub(super) fn record_embed(&mut self, table: Weight, scale: f32, out: Buf) {
        let (table, out) = (&self.memory.weights[table.0 as usize], self.address(out));
        let (groups, kernel) = (table.cols.div_ceil(GROUP_COLS), Kernel::Embed { layout: table.layout });
        let chosen = self.step.plan.chosen;
        let chosen_cols = chosen.map_or(0, |buf| self.memory.bufs[buf.0 as usize].cols);
        let params = Params::default()
            .addresses([self.step.address(), table.address, self.optional(chosen), out])
            .words([groups as u32, table.cols as u32, chosen_cols as u32])
            .floats([scale]);
        let grid = [(groups * 4).div_ceil(kernel.threads() as usize), self.step.n_rows(Rows::All), 1];
        self.step.record(kernel, grid, params);
    }

    pub(super) fn record_norm(&mut self, op: &Norm) {
        let dim = self.memory.bufs[op.x.0 as usize].cols;
        let delta = op.delta.map(|d| d.buf);
        let params = Params::default()
            .addresses([self.step.address(), self.address(op.x), self.address(op.weight)])
            .addresses([self.optional(delta), self.optional(op.delta.and_then(|d| d.norm))])
            .operand(&self.memory.operands[op.out.0 as usize])
            .words([dim as u32, u32::from(op.rows == Rows::Outputs)])
            .floats([op.eps, op.delta.map_or(0.0, |d| d.scale)]);
        self.step.record(Kernel::Norm, [self.step.n_rows(op.rows), 1, 1], params);
    }

    pub(super) fn record_matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        let n = self.step.n_rows(rows);
        let layout = |p: &Product| self.memory.weights[p.weight.0 as usize].layout;
        // Neighbours that one launch can make: of one layout, and each output written once.
        let joins = |a: &Product, b: &Product| layout(a) == layout(b) && a.out != b.out;
        let mut launches = Vec::new();
        for products in products.chunk_by(joins).flat_map(|run| run.chunks(MAX_PRODUCTS)) {
            let (params, n_panels) = self.product_params(x, rows, products);
            let (kernel, grid) = self.product_kernel(layout(&products[0]), n, n_panels);
            launches.push((kernel, grid, params));
        }
        for (kernel, grid, params) in launches {
            self.step.record(kernel, grid, params);
        }
    }

    fn product_kernel(&self, layout: Layout, n: usize, n_panels: usize) -> (Kernel, [usize; 3]) {
        let dots = self.dots;
        if is_float(layout) {
            let tokens = if n == 1 { 1 } else { 8 };
            (Kernel::MatmulFloat { layout, tokens }, [n_panels, n.div_ceil(tokens.into()), 1])
        } else if n <= MAX_FEW {
            let tiles = n.div_ceil(8).next_power_of_two() as u8;
            (Kernel::MatmulFew { layout, dots, tiles }, [n_panels, 1, 1])
        } else {
            (Kernel::Matmul { layout, dots }, [n_panels.div_ceil(8), n.div_ceil(64), 1])
        }
    }

    /// `Params` of `shaders/cuda/epilogue.cuh`, and the panels of all products.
    fn product_params(&self, x: Operand, rows: Rows, products: &[Product]) -> (Params, usize) {
        let x = &self.memory.operands[x.0 as usize];
        let mut params = Params::default().address(self.step.address()).operand(x);
        let mut end = 0;
        for i in 0..MAX_PRODUCTS {
            let Some(product) = products.get(i) else {
                params = params.addresses([0; 3]).words([end as u32, 0, 0, 0, 0, 0]);
                continue;
            };
            let (weight, epilogue) = (&self.memory.weights[product.weight.0 as usize], product.epilogue);
            let out = &self.memory.bufs[product.out.0 as usize];
            end += weight.rows.div_ceil(PANEL);
            params = params
                .addresses([weight.address, self.optional(epilogue.bias), out.address])
                .words([end, weight.rows, out.cols].map(|v| v as u32))
                .words([u32::from(epilogue.accumulate)])
                .floats([epilogue.scale, epilogue.softcap]);
        }
        (params.words([end as u32, u32::from(rows == Rows::Outputs)]), end)
    }

    /// The memory of this step's angles; records their launch when they are first asked for.
    fn angles(&mut self, op: &RopeAppend) -> Result<Address> {
        let (n, half) = (self.step.n_rows(Rows::All), op.rope_dim / 2);
        let is_it = |a: &Angles| (a.freqs, a.rope_dim, a.magnitude) == (op.freqs, op.rope_dim, op.magnitude.to_bits());
        let index = match self.angles.iter().position(is_it) {
            Some(index) => index,
            None => {
                let (freqs, rope_dim, magnitude) = (op.freqs, op.rope_dim, op.magnitude.to_bits());
                self.angles.push(Angles { freqs, rope_dim, magnitude, address: 0, rows: 0, filled: false });
                self.angles.len() - 1
            }
        };
        if self.angles[index].rows < n {
            let rows = n.next_power_of_two();
            let old = std::mem::replace(&mut self.angles[index].address, self.device.alloc(rows * op.rope_dim * 4)?);
            self.angles[index].rows = rows;
            if old != 0 {
                self.step.flush(&mut self.device)?;
                self.device.free(old)?;
            }
        }
        let address = self.angles[index].address;
        if !std::mem::replace(&mut self.angles[index].filled, true) {
            let params = Params::default()
                .addresses([self.step.address(), self.address(op.freqs), address])
                .words([half as u32])
                .floats([op.magnitude]);
            let grid = [(n * half).div_ceil(Kernel::Angles.threads() as usize), 1, 1];
            self.step.record(Kernel::Angles, grid, params);
        }
        Ok(address)
    }

    pub(super) fn record_rope_append(&mut self, op: &RopeAppend) -> Result<()> {
        let angles = self.angles(op)?;
        let cache = &self.memory.caches[op.cache.0 as usize];
        let shape = cache.shape;
        let params = Params::default()
            .addresses([self.step.address(), self.optional(op.q), self.address(op.k), self.address(op.v)])
            .addresses([self.optional(op.q_norm), self.optional(op.k_norm), angles, cache.layer(op.layer)])
            .words([op.n_heads, shape.n_kv_heads, op.rope_dim / 2].map(|v| v as u32))
            .words([u32::from(op.pairs == RopePairs::Adjacent)])
            .floats([op.eps]);
        let kernel = Kernel::RopeAppend { cells: shape.ty, head_dim: shape.head_dim as u16 };
        let heads = 2 * shape.n_kv_heads + if op.q.is_some() { op.n_heads } else { 0 };
        self.step.record(kernel, [heads, self.step.n_rows(Rows::All), 1], params);
        Ok(())
    }

    pub(super) fn record_attend(&mut self, op: &Attend) -> Result<()> {
        let shape = self.memory.caches[op.cache.0 as usize].shape;
        let sharing = op.n_heads / shape.n_kv_heads;
        let most = max_queries(shape.head_dim);
        let group = (1..=sharing.min(most)).rev().find(|g| sharing.is_multiple_of(*g)).unwrap_or(1);
        let (n_tiles, longest) = self.step.cut_tiles(&mut self.device, most / group)?;
        let n = self.step.n_rows(Rows::All);
        let n_parts = self.attention_parts(op, op.n_heads / group * n_tiles);
        let partials = self.grow(|c| &mut c.partials, n_parts * n * op.n_heads * (shape.head_dim + 2) * 4)?;
        let cells = self.memory.caches[op.cache.0 as usize].layer(op.layer);
        let params = Params::default()
            .addresses([self.step.address(), self.address(op.q), cells, partials])
            .words([op.n_heads, shape.n_kv_heads, group].map(|v| v as u32))
            .words([op.window.unwrap_or(0)])
            .floats([op.scale, op.softcap]);
        let queries = (longest * group).next_power_of_two() as u8;
        let kernel = Kernel::Attend { cells: shape.ty, queries, head_dim: shape.head_dim as u16 };
        self.step.record(kernel, [op.n_heads / group, n_tiles, n_parts], params);
        let out = &self.memory.operands[op.out.0 as usize];
        let params = Params::default()
            .addresses([self.step.address(), partials])
            .operand(out)
            .words([n_parts, op.n_heads, shape.head_dim].map(|v| v as u32));
        let grid = [(out.groups * 32).div_ceil(Kernel::Combine.threads() as usize), n, 1];
        self.step.record(Kernel::Combine, grid, params);
        Ok(())
    }

    /// Parts that the positions are cut into, so that few rows keep the device busy too.
    fn attention_parts(&self, op: &Attend, n_blocks: usize) -> usize {
        let seen = |len: usize| op.window.map_or(len, |w| len.min(w as usize));
        let longest = self.step.plan.spans.iter().map(|s| seen(s.len())).max().unwrap_or(0);
        (2 * self.device.n_processors / n_blocks.max(1)).min(longest.div_ceil(MIN_PART)).max(1)
    }

    /// The address of a scratch, at least `bytes` long.
    fn grow(&mut self, scratch: fn(&mut Cuda) -> &mut Scratch, bytes: usize) -> Result<Address> {
        if scratch(self).bytes < bytes {
            let size = bytes.next_power_of_two();
            let new = Scratch { address: self.device.alloc(size)?, bytes: size };
            let old = std::mem::replace(scratch(self), new);
            if old.bytes > 0 {
                self.step.flush(&mut self.device)?;
                self.device.free(old.address)?;
            }
        }
        Ok(scratch(self).address)
    }

    pub(super) fn record_gate(&mut self, op: &Gate) {
        let (dim, out) = (self.memory.bufs[op.gate.0 as usize].cols, &self.memory.operands[op.out.0 as usize]);
        let params = Params::default()
            .addresses([self.address(op.gate), self.address(op.up)])
            .operand(out)
            .words([dim as u32, u32::from(op.activation == Activation::GeluTanh)]);
        let grid = [(out.groups * 32).div_ceil(Kernel::Gate.threads() as usize), self.step.n_rows(Rows::All), 1];
        self.step.record(Kernel::Gate, grid, params);
    }

    pub(super) fn record_select(&mut self, op: &Select) -> Result<()> {
        let (n, out) = (self.memory.bufs[op.logits.0 as usize].cols, &self.memory.bufs[op.out.0 as usize]);
        let (n_rows, k) = (self.step.n_rows(Rows::Outputs), out.cols / 2);
        let block = n.div_ceil(MAX_BLOCKS).next_power_of_two().max(64);
        let n_blocks = n.div_ceil(block);
        let blocks = self.grow(|c| &mut c.blocks, n_rows * n_blocks * 8)?;
        let (logits, out) = (self.address(op.logits), self.address(op.out));
        let words = [n, block, n_blocks, k].map(|v| v as u32);
        let params = Params::default().addresses([logits, blocks]).words([words[0], words[1], words[2]]);
        let warps = Kernel::SelectBlocks.threads() as usize / 32;
        self.step.record(Kernel::SelectBlocks, [n_blocks.div_ceil(warps), n_rows, 1], params);
        let params = Params::default().addresses([logits, blocks, out]).words(words);
        self.step.record(Kernel::Select, [n_rows, 1, 1], params);
        Ok(())
    }

    pub(super) fn record_move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) -> Result<()> {
        let list: Vec<u32> = moves.iter().flat_map(|&(from, to)| [from, to]).collect();
        // Behind everything that was recorded, and before the next list overwrites this one.
        self.step.flush(&mut self.device)?;
        if self.moves.bytes < list.len() * 4 {
            if self.moves.bytes > 0 {
                self.device.free(self.moves.address)?;
            }
            let bytes = (list.len() * 4).next_power_of_two().max(1024);
            self.moves = Scratch { address: self.device.alloc(bytes)?, bytes };
        }
        self.device.upload(self.moves.address, &list)?;
        let data = &self.memory.caches[cache.0 as usize];
        let (words, layer) = (CacheData::cell_words(&data.shape), data.layer_words() as u64);
        let params = Params::default()
            .addresses([self.moves.address, data.address, layer])
            .words([moves.len(), words].map(|v| v as u32));
        let grid = [words.div_ceil(Kernel::MoveCells.threads() as usize), data.shape.n_layers, 1];
        self.step.record(Kernel::MoveCells, grid, params);
        self.step.flush(&mut self.device)
    }
}

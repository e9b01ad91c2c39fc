//! Ops as launches: which kernel, grid and parameters each one takes.

use super::super::gpu::{
    LayerData, Recorder, Routes, StepPlan, Work, activation, cell_words, group_of, tile_of_experts,
};
use super::super::{
    Attend, Buf, Cache, Gate, GatedNorm, Norm, Operand, Product, ReadCells, RopeAppend, RopePairs, Rows, Stack,
    Temperature, Weight,
};
use super::Cuda;
use super::device::Address;
use super::link::{Kernel, THREADS, is_float, max_queries};
use super::memory::OperandData;
use super::step::Params;
use crate::error::Result;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL};
use std::ops::Range;

/// Products of a launch; the fixed size of an array in `shaders/cuda/epilogue.cuh`.
const MAX_PRODUCTS: usize = 4;

/// Pairs of a row and an expert that a block takes where they are sorted: as many as a matrix instruction.
const TILE: usize = 8;

/// Rows that `matmul_few` takes: as many as are still bound by memory.
const MAX_FEW: usize = 32;

/// Positions that a part of an attention has at least.
const MIN_PART: usize = 128;

impl Cuda {
    pub(super) fn record_embed(&mut self, table: Weight, scale: f32, out: Buf) -> Result<()> {
        let (table, out) = (&self.memory.weights[table], self.place(out));
        let (groups, kernel) = (table.cols.div_ceil(GROUP_COLS), Kernel::Embed { layout: table.layout });
        let chosen = self.step.plan.get().chosen;
        let chosen_cols = chosen.map_or(0, |buf| self.memory.bufs[buf].cols);
        let params = Params::default()
            .addresses([self.step.address(), table.address, self.place_or_none(chosen), out])
            .words([groups as u32, table.cols as u32, chosen_cols as u32])
            .floats([scale]);
        let grid = [(groups * 4).div_ceil(kernel.threads() as usize), self.step.plan.n_rows(Rows::All), 1];
        self.step.record(kernel, grid, params);
        Ok(())
    }

    pub(super) fn record_norm(&mut self, op: &Norm) -> Result<()> {
        let dim = self.memory.bufs[op.x].cols;
        let Range { start, end } = self.step.plan.get().places(op.rows);
        let delta = op.delta.map_or(0, |d| self.memory.bufs[d.buf].row(start));
        let (weight, bias) = (op.norm.map(|n| n.weight), op.norm.and_then(|n| n.bias));
        let (centered, replaces) = op.norm.map_or((false, false), |n| (n.centered, n.replaces));
        let out = op.out.map_or(OperandData::default(), |out| self.memory.operands[out].at_row(start));
        let params = Params::default()
            .addresses([self.step.address(), self.memory.bufs[op.x].row(start), self.place_or_none(weight)])
            .addresses([delta, self.place_or_none(op.delta.and_then(|d| d.norm)), self.place_or_none(bias)])
            .operand(&out)
            .words([dim as u32, u32::from(op.rows == Rows::Outputs), u32::from(centered)])
            .words([u32::from(replaces || op.out.is_none())])
            .floats([op.eps])
            .floats(op.delta.map_or([0.0, 1.0], |d| [d.scale, d.gain]));
        self.step.record(Kernel::Norm, [end - start, 1, 1], params);
        Ok(())
    }

    pub(super) fn record_pack(&mut self, x: Buf, rows: Rows, out: Operand) -> Result<()> {
        let (x, out) = (&self.memory.bufs[x], &self.memory.operands[out]);
        let Range { start, end } = self.step.plan.get().places(rows);
        let params = Params::default()
            .addresses([self.step.address(), x.row(start)])
            .operand(&out.at_row(start))
            .words([x.cols as u32, u32::from(rows == Rows::Outputs)]);
        let grid = [(out.groups * 32).div_ceil(Kernel::Pack.threads() as usize), end - start, 1];
        self.step.record(Kernel::Pack, grid, params);
        Ok(())
    }

    pub(super) fn record_matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) -> Result<()> {
        let rows = self.step.plan.get().places(rows);
        if rows.is_empty() {
            return Ok(());
        }
        let layout = |p: &Product| self.memory.weights[p.weight].layout;
        // Neighbours that one launch can make: of one layout, and each output written once.
        let joins = |a: &Product, b: &Product| layout(a) == layout(b) && a.out != b.out;
        let mut launches = Vec::new();
        for products in products.chunk_by(joins).flat_map(|run| run.chunks(MAX_PRODUCTS)) {
            let (params, n_panels) = self.product_params(x, &rows, products);
            let (kernel, grid) = self.product_kernel(layout(&products[0]), rows.len(), n_panels);
            launches.push((kernel, grid, params));
        }
        for (kernel, grid, params) in launches {
            self.step.record(kernel, grid, params);
        }
        Ok(())
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
    fn product_params(&self, x: Operand, rows: &Range<usize>, products: &[Product]) -> (Params, usize) {
        let mut params = Params::default().operand(&self.memory.operands[x].at_row(rows.start));
        let mut end = 0;
        for i in 0..MAX_PRODUCTS {
            let Some(product) = products.get(i) else {
                params = params.addresses([0; 3]).words([end as u32, 0, 0, 0, 0, 0]);
                continue;
            };
            let (weight, epilogue) = (&self.memory.weights[product.weight], product.epilogue);
            let out = &self.memory.bufs[product.out];
            end += weight.rows.div_ceil(PANEL);
            params = params
                .addresses([weight.address, self.place_or_none(epilogue.bias), out.row(rows.start)])
                .words([end, weight.rows, out.cols].map(|v| v as u32))
                .words([u32::from(epilogue.accumulate)])
                .floats([epilogue.scale, epilogue.softcap]);
        }
        (params.words([end as u32, rows.len() as u32]), end)
    }

    /// The memory of this step's angles; records their launch when they are first asked for.
    fn angles(&mut self, op: &RopeAppend) -> Result<Address> {
        let (n, half) = (self.step.plan.n_rows(Rows::All), op.rope_dim / 2);
        let angles = self.angles.of(op);
        let address = self.step.scratch(&mut self.device, &mut angles.memory, n * op.rope_dim * 4)?;
        if !std::mem::replace(&mut angles.filled, true) {
            let params = Params::default()
                .addresses([self.step.address(), self.place(op.freqs), address])
                .words([half as u32])
                .floats([op.magnitude]);
            let grid = [(n * half).div_ceil(Kernel::Angles.threads() as usize), 1, 1];
            self.step.record(Kernel::Angles, grid, params);
        }
        Ok(address)
    }

    /// Keys and values of a layer.
    fn cells(&self, cache: Cache, layer: usize) -> LayerData<Address> {
        self.memory.caches[cache].layer(layer)
    }

    pub(super) fn record_rope_append(&mut self, op: &RopeAppend) -> Result<()> {
        let angles = self.angles(op)?;
        let temperature = op.temperature.unwrap_or(Temperature { scale: 0.0, length: 1 });
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let [k, v] = [0, 1].map(|i| self.place_or_none(op.kv.map(|kv| kv[i])));
        let params = Params::default()
            .addresses([self.step.address(), self.place_or_none(op.q), k, v])
            .addresses([self.place_or_none(op.q_norm), self.place_or_none(op.k_norm), angles, cells])
            .words([op.n_heads, shape.n_kv_heads, op.rope_dim / 2].map(|v| v as u32))
            .words([u32::from(op.pairs == RopePairs::Adjacent)])
            .floats([op.eps])
            .words([u32::from(op.norm_last)])
            .floats([temperature.scale])
            .words([temperature.length, u32::from(op.norm_values)]);
        let kernel = Kernel::RopeAppend { cells: shape.ty, head_dim: shape.head_dim as u16 };
        let heads = op.kv.map_or(0, |_| 2 * shape.n_kv_heads) + op.q.map_or(0, |_| op.n_heads);
        self.step.record(kernel, [heads, self.step.plan.n_rows(Rows::All), 1], params);
        Ok(())
    }

    pub(super) fn record_attend(&mut self, op: &Attend) -> Result<()> {
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let most = max_queries(shape.head_dim);
        let group = group_of(op.n_heads, shape.n_kv_heads, most);
        let (n_tiles, longest) = self.step.cut_tiles(&mut self.device, most / group)?;
        let n = self.step.plan.n_rows(Rows::All);
        let n_parts = self.attention_parts(op, op.n_heads / group * n_tiles);
        let bytes = n_parts * n * op.n_heads * (shape.head_dim + 2) * 4;
        let partials = self.scratch(Work::Partials, bytes)?;
        let params = Params::default()
            .addresses([self.step.address(), self.place(op.q), cells, partials])
            .words([op.n_heads, shape.n_kv_heads, group].map(|v| v as u32))
            .words([op.window.unwrap_or(0), u32::from(op.centered)])
            .floats([op.scale, op.softcap]);
        let queries = (longest * group).next_power_of_two() as u8;
        let kernel = Kernel::Attend { cells: shape.ty, queries, head_dim: shape.head_dim as u16 };
        self.step.record(kernel, [op.n_heads / group, n_tiles, n_parts], params);
        let out = &self.memory.operands[op.out];
        let params = Params::default()
            .addresses([self.step.address(), partials, self.place_or_none(op.sinks), self.place_or_none(op.gate)])
            .operand(out)
            .words([n_parts, op.n_heads, shape.head_dim].map(|v| v as u32));
        let grid = [(out.groups * 32).div_ceil(Kernel::Combine.threads() as usize), n, 1];
        self.step.record(Kernel::Combine, grid, params);
        Ok(())
    }

    /// Parts that the positions are cut into, so that few rows keep the device busy too.
    fn attention_parts(&self, op: &Attend, n_blocks: usize) -> usize {
        let seen = |len: usize| op.window.map_or(len, |w| len.min(w as usize));
        let longest = self.step.plan.get().spans.iter().map(|s| seen(s.len())).max().unwrap_or(0);
        (2 * self.device.n_processors / n_blocks.max(1)).min(longest.div_ceil(MIN_PART)).max(1)
    }

    pub(super) fn record_gated_norm(&mut self, op: &GatedNorm) -> Result<()> {
        let (most, dim) = self.shape(op.x);
        // For any number of rows, so that what was recorded for one serves another.
        let scales = self.scratch(Work::Scales, most * dim / op.group * 4)?;
        let params = Params::default()
            .addresses([self.place(op.x), self.place(op.gate), self.place(op.weight), scales])
            .operand(&self.memory.operands[op.out])
            .words([dim as u32, op.group as u32, u32::from(op.gate_first)])
            .floats([op.eps]);
        self.step.record(Kernel::GatedNorm, [self.step.plan.n_rows(Rows::All), 1, 1], params);
        Ok(())
    }

    pub(super) fn record_read_cells(&mut self, op: &ReadCells) -> Result<()> {
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let params = Params::default()
            .addresses([self.step.address(), cells, self.place(op.k), self.place(op.v)])
            .words([shape.n_kv_heads as u32]);
        let kernel = Kernel::ReadCells { cells: shape.ty, head_dim: shape.head_dim as u16 };
        self.step.record(kernel, [2 * shape.n_kv_heads, self.step.plan.n_rows(Rows::All), 1], params);
        Ok(())
    }

    pub(super) fn record_move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) -> Result<()> {
        let list: Vec<u32> = moves.iter().flat_map(|&(from, to)| [from, to]).collect();
        // Behind everything that was recorded, and before the next list overwrites this one.
        self.step.flush(&mut self.device)?;
        let address = self.scratch(Work::Moves, list.len() * 4)?;
        self.device.upload(address, &list)?;
        let layers = &self.memory.caches[cache].layers;
        for alike in layers.chunk_by(|a, b| a.shape == b.shape) {
            let (words, first) = (cell_words(&alike[0].shape), alike[0].place);
            let layer_words = alike.get(1).map_or(0, |second| (second.place - first) / 4);
            let params = Params::default()
                .addresses([address, first, layer_words])
                .words([moves.len(), words].map(|v| v as u32));
            let grid = [words.div_ceil(Kernel::MoveCells.threads() as usize), alike.len(), 1];
            self.step.record(Kernel::MoveCells, grid, params);
        }
        self.step.flush(&mut self.device)
    }
}

impl Recorder for Cuda {
    type Place = Address;
    type Kernel = Kernel;

    const SHORT_CONV: Kernel = Kernel::ShortConv;
    const LINEAR_ROWS: Kernel = Kernel::LinearRows;
    const LINEAR_ATTEND: Kernel = Kernel::LinearAttend;
    const ROUTE: Kernel = Kernel::Route;
    const SUM_EXPERTS: Kernel = Kernel::SumExperts;
    const SELECT_BLOCKS: Kernel = Kernel::SelectBlocks;
    const SELECT: Kernel = Kernel::Select;

    const THREADS: usize = THREADS as usize;
    /// A warp searches a block.
    const BLOCKS_OF_GROUP: usize = Self::THREADS / 32;

    fn plan(&self) -> &StepPlan {
        &self.step.plan
    }

    fn plan_place(&self) -> Address {
        self.step.address()
    }

    fn place(&self, buf: Buf) -> Address {
        self.memory.bufs[buf].address
    }

    /// 0, a null pointer, for none.
    fn place_or_none(&self, buf: Option<Buf>) -> Address {
        buf.map_or(0, |b| self.place(b))
    }

    fn shape(&self, buf: Buf) -> (usize, usize) {
        let matrix = &self.memory.bufs[buf];
        (matrix.rows, matrix.cols)
    }

    fn states(&self, cache: Cache, layer: usize) -> Address {
        self.memory.caches[cache].states(layer)
    }

    fn scratch(&mut self, work: Work, bytes: usize) -> Result<Address> {
        self.step.scratch(&mut self.device, &mut self.work[work as usize], bytes)
    }

    fn record(&mut self, kernel: Kernel, buffers: &[Address], words: &[u32], groups: [usize; 3]) {
        let params = buffers.iter().copied().fold(Params::default(), Params::address);
        self.step.record(kernel, groups, words.iter().fold(params, |params, word| params.words([*word])));
    }

    fn record_gate_of(&mut self, op: &Gate, n: usize) {
        let (dim, out) = (self.memory.bufs[op.gate].cols, &self.memory.operands[op.out]);
        let params = Params::default()
            .addresses([self.place(op.gate), self.place_or_none(op.up)])
            .operand(out)
            .words([dim as u32, activation(op.activation)]);
        let grid = [(out.groups * 32).div_ceil(Kernel::Gate.threads() as usize), n, 1];
        self.step.record(Kernel::Gate, grid, params);
    }

    fn tile_of(&self, n_pairs: usize, n_experts: usize) -> usize {
        if tile_of_experts(n_pairs, n_experts, TILE) == 1 { 1 } else { TILE }
    }

    fn record_sort(&mut self, routes: &Routes<Address>) {
        let words = [routes.n_pairs, routes.n_experts, routes.tile, routes.n_tiles].map(|v| v as u32);
        let params = Params::default().addresses([routes.chosen, routes.tiles]).words(words);
        self.step.record(Kernel::SortExperts, [1; 3], params);
    }

    fn record_stack(&mut self, stack: &Stack, (x, share): (Operand, usize), out: Buf, routes: &Routes<Address>) {
        let weight = &self.memory.weights[stack.weight];
        let (layout, n_panels) = (weight.layout, Stack::pitch(stack.rows) / PANEL);
        let (bias, scale) = (self.place_or_none(stack.bias), self.place_or_none(stack.scale));
        let tiles = if routes.tile == 1 { 0 } else { routes.tiles };
        let params = Params::default()
            .operand(&self.memory.operands[x])
            .addresses([weight.address, bias, scale, self.place(out), routes.chosen, tiles])
            .words([routes.n_pairs, n_panels, stack.rows, share].map(|v| v as u32));
        let kernel = match is_float(layout) {
            true => Kernel::ExpertsFloat { layout, tokens: routes.tile as u8 },
            false => Kernel::Experts { layout, dots: self.dots },
        };
        self.step.record(kernel, [n_panels, routes.n_tiles, 1], params);
    }
}

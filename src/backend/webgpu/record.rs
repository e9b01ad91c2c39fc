//! Ops as dispatches: which kernel, constants and buffers each one takes.

use super::super::gpu::{
    LayerData, Recorder, Routes, StepPlan, Work, activation, cell_words, group_of, tile_of_experts,
};
use super::super::{
    Attend, Buf, Cache, Gate, GatedNorm, Norm, Operand, Product, ReadCells, RopeAppend, RopePairs, Rows, Stack,
    Temperature, Weight, Workload,
};
use super::WebGpu;
use super::link::{Kernel, MAX_QUERIES};
use super::memory::{BufferId, Part};
use crate::error::Result;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL};
use std::ops::Range;

/// Products of a dispatch; the fixed size of an array in `shaders/epilogue.wgsl`.
const MAX_PRODUCTS: usize = 3;

/// Most pairs of a row and an expert that a workgroup takes.
const MAX_TILE: usize = 8;

/// Threads of a workgroup.
const THREADS: usize = 64;

/// A part of a product that becomes one entry of a dispatch.
struct Piece<'a> {
    product: &'a Product,
    part: &'a Part,
    layout: Layout,
}

impl WebGpu {
    pub(super) fn record_embed(&mut self, table: Weight, scale: f32, out: Buf) -> Result<()> {
        let n = self.step.plan.n_rows(Rows::All) as u32;
        let (plan, out) = (self.step.plan_buffer(), self.place(out));
        let weight = &self.memory.weights[table];
        let groups = weight.cols.div_ceil(GROUP_COLS);
        let grid = [(groups * 2).div_ceil(THREADS) as u32, n, 1];
        let chosen = self.step.plan.get().chosen;
        let chosen_cols = chosen.map_or(0, |buf| self.memory.bufs[buf].cols);
        let chosen = self.place_or_none(chosen);
        for part in &weight.parts {
            let [first, rows, at] = [part.rows.start, part.rows.len(), part.at].map(|v| v as u32);
            let params = [first, rows, at, groups as u32, weight.cols as u32, scale.to_bits(), chosen_cols as u32];
            let kernel = Kernel::Embed { layout: weight.layout };
            self.step.record(&self.memory, kernel, &params, &[plan, part.buffer, chosen, out], grid);
        }
        Ok(())
    }

    pub(super) fn record_norm(&mut self, op: &Norm) -> Result<()> {
        let (dim, out) = (self.memory.bufs[op.x].cols, op.out.map(|out| &self.memory.operands[out]));
        let post = op.delta.and_then(|d| d.norm);
        let (weight, bias) = (op.norm.map(|n| n.weight), op.norm.and_then(|n| n.bias));
        let (centered, replaces) = op.norm.map_or((false, false), |n| (n.centered, n.replaces));
        let (has_delta, is_outputs, no_out) = (op.delta.is_some(), op.rows == Rows::Outputs, out.is_none());
        let (replaces, no_norm) = (replaces || no_out, op.norm.is_none());
        let flags = [has_delta, post.is_some(), is_outputs, centered, bias.is_some(), replaces, no_norm, no_out];
        let flags = flags.into_iter().rev().fold(0, |bits, flag| bits << 1 | u32::from(flag));
        let [scale, gain] = op.delta.map_or([0.0, 1.0], |d| [d.scale, d.gain]);
        let first = self.step.plan.get().places(op.rows).start;
        let stride = out.map_or(dim, |out| out.stride);
        let params =
            [dim as u32, stride as u32, flags, op.eps.to_bits(), scale.to_bits(), gain.to_bits(), first as u32];
        let buffers = [
            self.step.plan_buffer(),
            self.place(op.x),
            self.place_or_none(weight),
            self.place_or_none(op.delta.map(|d| d.buf)),
            self.place_or_none(post),
            self.place_or_none(bias),
            out.map_or(self.step.dummies[1], |out| out.buffer),
        ];
        let n = self.step.plan.n_rows(op.rows) as u32;
        self.step.record(&self.memory, Kernel::Norm, &params, &buffers, [n, 1, 1]);
        Ok(())
    }

    pub(super) fn record_pack(&mut self, x: Buf, rows: Rows, out: Operand) -> Result<()> {
        let (dim, out) = (self.memory.bufs[x].cols, &self.memory.operands[out]);
        let Range { start, end } = self.step.plan.get().places(rows);
        let params = [dim, out.stride, usize::from(rows == Rows::Outputs), start].map(|v| v as u32);
        let buffers = [self.step.plan_buffer(), self.place(x), out.buffer];
        let grid = [dim.div_ceil(THREADS) as u32, (end - start) as u32, 1];
        self.step.record(&self.memory, Kernel::Pack, &params, &buffers, grid);
        Ok(())
    }

    pub(super) fn record_matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) -> Result<()> {
        if self.step.plan.n_rows(rows) == 0 {
            return Ok(());
        }
        let weights = &self.memory.weights;
        let pieces: Vec<Piece<'_>> = products
            .iter()
            .flat_map(|product| {
                let weight = &weights[product.weight];
                weight.parts.iter().map(move |part| Piece { product, part, layout: weight.layout })
            })
            .collect();
        // Neighbours that one dispatch can make: one buffer of one layout, and each output bound once.
        let joins = |a: &Piece<'_>, b: &Piece<'_>| {
            a.layout == b.layout && a.part.buffer == b.part.buffer && a.product.out != b.product.out
        };
        let mut records = Vec::new();
        for run in pieces.chunk_by(joins) {
            for pieces in run.chunks(MAX_PRODUCTS) {
                records.push(self.dispatch_of(x, rows, pieces));
            }
        }
        for (kernel, params, buffers, grid) in records {
            self.step.record(&self.memory, kernel, &params, &buffers, grid);
        }
        Ok(())
    }

    fn dispatch_of(
        &self,
        x: Operand,
        rows: Rows,
        pieces: &[Piece<'_>],
    ) -> (Kernel, [u32; 28], [BufferId; 8], [u32; 3]) {
        let n = self.step.plan.n_rows(rows);
        let x = &self.memory.operands[x];
        let dummies = &self.step.dummies;
        let mut params = [0; 28];
        let mut buffers =
            [x.buffer, pieces[0].part.buffer, dummies[1], dummies[2], dummies[3], dummies[0], dummies[0], dummies[0]];
        let mut end = 0;
        for i in 0..MAX_PRODUCTS {
            if let Some(piece) = pieces.get(i) {
                let (out, epilogue) = (&self.memory.bufs[piece.product.out], piece.product.epilogue);
                end += piece.part.rows.len().div_ceil(PANEL);
                buffers[2 + i] = out.buffer;
                buffers[5 + i] = self.place_or_none(epilogue.bias);
                let flags = u32::from(epilogue.bias.is_some()) | u32::from(epilogue.accumulate) << 1;
                let words =
                    [end, piece.part.at, piece.part.rows.len(), piece.part.rows.start, out.cols].map(|v| v as u32);
                params[i * 8..i * 8 + 5].copy_from_slice(&words);
                params[i * 8 + 5..][..3].copy_from_slice(&[
                    flags,
                    epilogue.scale.to_bits(),
                    epilogue.softcap.to_bits(),
                ]);
            } else {
                params[i * 8] = end as u32;
            }
        }
        params[24] = (x.stride / GROUP_COLS) as u32;
        params[25] = u32::from(rows == Rows::Outputs);
        if let Rows::Run { start, end } = rows {
            params[26..].copy_from_slice(&[start, end]);
        }
        let kernel = self.product(pieces[0].layout, n);
        let grid = match kernel {
            Kernel::Matvec { .. } => [end.div_ceil(16), n],
            Kernel::MatmulFlat { .. } => [end.div_ceil(8), n.div_ceil(4)],
            Kernel::Matmul { tokens, .. } => [end.div_ceil(4), n.div_ceil(usize::from(tokens))],
            _ => [end, 1],
        };
        (kernel, params, buffers, [grid[0] as u32, grid[1] as u32, 1])
    }

    /// The kernel of products with `n` rows.
    fn product(&self, layout: Layout, n: usize) -> Kernel {
        let floats = self.floats.of(layout);
        match (self.is_processor, n) {
            (true, ..3) => Kernel::Matvec { layout },
            (true, _) => Kernel::MatmulFlat { layout },
            (false, ..9) => Kernel::MatmulFew { layout, tokens: n.next_power_of_two() as u8 },
            (false, ..33) => Kernel::Matmul { layout, tokens: 32, floats },
            (false, _) => Kernel::Matmul { layout, tokens: 64, floats },
        }
    }

    /// Kernels of an answer to a prompt; rarer ones are compiled when they are used.
    pub(super) fn kernels_of(&self, workload: &Workload) -> Vec<Kernel> {
        let Workload { types, attention } = workload;
        let layouts = types.iter().map(|&ty| Layout::of(ty));
        let mut kernels: Vec<Kernel> = layouts.clone().take(1).map(|layout| Kernel::Embed { layout }).collect();
        kernels.push(Kernel::Norm);
        // A long prompt, a short one, an answer.
        kernels.extend(layouts.flat_map(|layout| [64, 32, 1].map(|n| self.product(layout, n))));
        for (n_heads, shape) in attention {
            kernels.push(Kernel::RopeAppend { cells: shape.ty });
            let group = group_of(*n_heads, shape.n_kv_heads, MAX_QUERIES);
            for tokens in [MAX_QUERIES / group, 1] {
                let (queries, quads) = ((tokens * group) as u8, (shape.head_dim / 4) as u8);
                kernels.push(Kernel::Attend { cells: shape.ty, queries, quads });
            }
        }
        kernels.extend([Kernel::Gate, Kernel::SelectBlocks, Kernel::Select]);
        kernels
    }

    /// Keys and values of a layer.
    fn cells(&self, cache: Cache, layer: usize) -> LayerData<BufferId> {
        self.memory.caches[cache].layer(layer)
    }

    /// The buffer of this step's angles, filled: they are made on the host, since WGSL promises no accuracy for large angles.
    fn angles(&mut self, op: &RopeAppend) -> Result<BufferId> {
        let bytes = self.step.plan.n_rows(Rows::All) * op.rope_dim * 4;
        let angles = self.angles.of(op);
        let buffer = self.step.scratch(&mut self.memory, &mut angles.memory, bytes)?;
        if !std::mem::replace(&mut angles.filled, true) {
            let freqs = &self.memory.bufs[op.freqs].host;
            let mut values = Vec::with_capacity(bytes);
            for &position in &self.step.plan.get().positions {
                for &freq in &freqs[..op.rope_dim / 2] {
                    let (sin, cos) = (f64::from(position) * f64::from(freq)).sin_cos();
                    values.extend((cos as f32 * op.magnitude).to_le_bytes());
                    values.extend((sin as f32 * op.magnitude).to_le_bytes());
                }
            }
            self.memory.queue.write_buffer(self.memory.buffer(buffer), 0, &values);
        }
        Ok(buffer)
    }

    pub(super) fn record_rope_append(&mut self, op: &RopeAppend) -> Result<()> {
        let angles = self.angles(op)?;
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let flags = u32::from(op.pairs == RopePairs::Adjacent)
            | u32::from(op.q_norm.is_some()) << 1
            | u32::from(op.k_norm.is_some()) << 2
            | u32::from(op.q.is_none()) << 3
            | u32::from(op.norm_last) << 4
            | u32::from(op.norm_values) << 5;
        let Temperature { scale, length } = op.temperature.unwrap_or(Temperature { scale: 0.0, length: 1 });
        let words = [op.n_heads, shape.n_kv_heads, shape.head_dim, op.rope_dim / 2].map(|v| v as u32);
        let params = [words[0], words[1], words[2], words[3], flags, op.eps.to_bits(), scale.to_bits(), length];
        let buffers = [
            self.step.plan_buffer(),
            op.q.map_or(self.step.dummies[1], |q| self.place(q)),
            self.place_or_none(op.kv.map(|[k, _]| k)),
            self.place_or_none(op.kv.map(|[_, v]| v)),
            self.place_or_none(op.q_norm),
            self.place_or_none(op.k_norm),
            angles,
            cells,
        ];
        let heads = op.kv.map_or(0, |_| 2 * shape.n_kv_heads) + op.q.map_or(0, |_| op.n_heads);
        let grid = [heads as u32, self.step.plan.n_rows(Rows::All) as u32, 1];
        self.step.record(&self.memory, Kernel::RopeAppend { cells: shape.ty }, &params, &buffers, grid);
        Ok(())
    }

    pub(super) fn record_attend(&mut self, op: &Attend) -> Result<()> {
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let group = group_of(op.n_heads, shape.n_kv_heads, MAX_QUERIES);
        let (n_tiles, longest) = self.step.cut_tiles(&mut self.memory, MAX_QUERIES / group)?;
        let out = &self.memory.operands[op.out];
        let words = [op.n_heads, shape.n_kv_heads, group, shape.head_dim, out.stride].map(|v| v as u32);
        let mut params = [0; 11];
        params[..5].copy_from_slice(&words);
        params[5..8].copy_from_slice(&[op.window.unwrap_or(0), op.scale.to_bits(), op.softcap.to_bits()]);
        params[8..].copy_from_slice(&[op.centered, op.sinks.is_some(), op.gate.is_some()].map(u32::from));
        let (sinks, gate) = (self.place_or_none(op.sinks), self.place_or_none(op.gate));
        let buffers = [self.step.plan_buffer(), self.place(op.q), cells, out.buffer, sinks, gate];
        let kernel =
            Kernel::Attend { cells: shape.ty, queries: (longest * group) as u8, quads: (shape.head_dim / 4) as u8 };
        self.step.record(&self.memory, kernel, &params, &buffers, [(op.n_heads / group) as u32, n_tiles as u32, 1]);
        Ok(())
    }

    pub(super) fn record_gated_norm(&mut self, op: &GatedNorm) -> Result<()> {
        let (dim, out) = (self.memory.bufs[op.x].cols, &self.memory.operands[op.out]);
        let params = [dim as u32, out.stride as u32, op.group as u32, u32::from(op.gate_first), op.eps.to_bits()];
        let buffers = [self.place(op.x), self.place(op.gate), self.place(op.weight), out.buffer];
        let grid = [(dim / op.group) as u32, self.step.plan.n_rows(Rows::All) as u32, 1];
        self.step.record(&self.memory, Kernel::GatedNorm, &params, &buffers, grid);
        Ok(())
    }

    pub(super) fn record_read_cells(&mut self, op: &ReadCells) -> Result<()> {
        let LayerData { shape, place: cells } = self.cells(op.cache, op.layer);
        let params = [shape.n_kv_heads, shape.head_dim].map(|v| v as u32);
        let buffers = [self.step.plan_buffer(), cells, self.place(op.k), self.place(op.v)];
        let grid = [2 * shape.n_kv_heads as u32, self.step.plan.n_rows(Rows::All) as u32, 1];
        self.step.record(&self.memory, Kernel::ReadCells { cells: shape.ty }, &params, &buffers, grid);
        Ok(())
    }

    pub(super) fn record_move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) -> Result<()> {
        let list: Vec<u32> =
            [moves.len() as u32].into_iter().chain(moves.iter().flat_map(|&(from, to)| [from, to])).collect();
        // Overwritten only after what reads it was sent.
        self.step.flush(&self.memory);
        let buffer = self.scratch(Work::Moves, list.len() * 4)?;
        self.memory.queue.write_buffer(self.memory.buffer(buffer), 0, &super::step::bytes(&list));
        for layer in &self.memory.caches[cache].layers {
            let words = cell_words(&layer.shape);
            let grid = [words.div_ceil(THREADS) as u32, 1, 1];
            self.step.record(&self.memory, Kernel::MoveCells, &[words as u32], &[buffer, layer.place], grid);
        }
        Ok(())
    }
}

impl Recorder for WebGpu {
    type Place = BufferId;
    type Kernel = Kernel;

    const SHORT_CONV: Kernel = Kernel::ShortConv;
    const LINEAR_ROWS: Kernel = Kernel::LinearRows;
    const LINEAR_ATTEND: Kernel = Kernel::LinearAttend;
    const ROUTE: Kernel = Kernel::Route;
    const SUM_EXPERTS: Kernel = Kernel::SumExperts;
    const SELECT_BLOCKS: Kernel = Kernel::SelectBlocks;
    const SELECT: Kernel = Kernel::Select;

    const THREADS: usize = THREADS;
    const BLOCKS_OF_GROUP: usize = THREADS;

    fn plan(&self) -> &StepPlan {
        &self.step.plan
    }

    fn plan_place(&self) -> BufferId {
        self.step.plan_buffer()
    }

    fn place(&self, buf: Buf) -> BufferId {
        self.memory.bufs[buf].buffer
    }

    fn place_or_none(&self, buf: Option<Buf>) -> BufferId {
        buf.map_or(self.step.dummies[0], |b| self.place(b))
    }

    fn shape(&self, buf: Buf) -> (usize, usize) {
        let matrix = &self.memory.bufs[buf];
        (matrix.rows, matrix.cols)
    }

    fn states(&self, cache: Cache, layer: usize) -> BufferId {
        self.memory.caches[cache].states(layer)
    }

    fn scratch(&mut self, work: Work, bytes: usize) -> Result<BufferId> {
        self.step.scratch(&mut self.memory, &mut self.work[work as usize], bytes)
    }

    fn record(&mut self, kernel: Kernel, buffers: &[BufferId], words: &[u32], groups: [usize; 3]) {
        self.step.record(&self.memory, kernel, words, buffers, groups.map(|n| n as u32));
    }

    fn record_gate_of(&mut self, op: &Gate, n: usize) {
        let (dim, out) = (self.memory.bufs[op.gate].cols, &self.memory.operands[op.out]);
        let params = [dim as u32, out.stride as u32, activation(op.activation), u32::from(op.up.is_some())];
        let buffers = [self.place(op.gate), self.place_or_none(op.up), out.buffer];
        let grid = [dim.div_ceil(THREADS) as u32, n as u32, 1];
        self.step.record(&self.memory, Kernel::Gate, &params, &buffers, grid);
    }

    fn tile_of(&self, n_pairs: usize, n_experts: usize) -> usize {
        tile_of_experts(n_pairs, n_experts, MAX_TILE)
    }

    fn record_sort(&mut self, routes: &Routes<BufferId>) {
        let words = [routes.n_experts, routes.used, routes.tile].map(|v| v as u32);
        self.record(Kernel::SortExperts, &[routes.chosen, routes.tiles], &words, [1; 3]);
    }

    fn record_stack(&mut self, stack: &Stack, (x, share): (Operand, usize), out: Buf, routes: &Routes<BufferId>) {
        let weight = &self.memory.weights[stack.weight];
        let x = &self.memory.operands[x];
        let (n_panels, groups) = (Stack::pitch(stack.rows) / PANEL, x.stride / GROUP_COLS);
        let flags =
            u32::from(stack.bias.is_some()) | u32::from(stack.scale.is_some()) << 1 | u32::from(routes.tile > 1) << 2;
        let kernel = Kernel::Experts { layout: weight.layout, tokens: routes.tile as u8 };
        for part in &weight.parts {
            let panels = [part.rows.start / PANEL, part.rows.end.div_ceil(PANEL), part.at];
            let words = [groups, n_panels, stack.rows, routes.used, share, panels[0], panels[1], panels[2]];
            let mut params = [flags; 9];
            params[..8].copy_from_slice(&words.map(|v| v as u32));
            let buffers = [
                x.buffer,
                part.buffer,
                self.place(out),
                routes.chosen,
                routes.tiles,
                self.place_or_none(stack.bias),
                self.place_or_none(stack.scale),
            ];
            let grid = [n_panels as u32, routes.n_tiles as u32, 1];
            self.step.record(&self.memory, kernel, &params, &buffers, grid);
        }
    }
}

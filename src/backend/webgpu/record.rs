//! Ops as dispatches: which kernel, constants and buffers each one takes.

use super::super::{
    Activation, Attend, Buf, Cache, CacheShape, Gate, Norm, Operand, Product, RopeAppend, RopePairs, Rows, Select,
    Weight, Workload,
};
use super::WebGpu;
use super::link::{Kernel, MAX_QUERIES};
use super::memory::{BufferId, Part};
use crate::error::Result;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL};

/// Products of a dispatch; the fixed size of an array in `shaders/epilogue.wgsl`.
const MAX_PRODUCTS: usize = 3;

/// Threads of a workgroup.
const THREADS: usize = 64;

/// Blocks of columns that the logits of a row are cut into: few enough for one workgroup to search, and to count in 16 bits.
const MAX_BLOCKS: usize = 4096;

/// Cosines and sines `[n, rope_dim / 2]` of a step's positions, made on the host: WGSL promises no accuracy for large
/// angles.
pub(super) struct Angles {
    freqs: Buf,
    rope_dim: usize,
    magnitude: u32,
    buffer: BufferId,
    rows: usize,
    filled: bool,
}

impl Angles {
    pub(super) fn forget(&mut self) {
        self.filled = false;
    }

    pub(super) fn freqs(&self) -> Buf {
        self.freqs
    }
}

/// A part of a product that becomes one entry of a dispatch.
struct Piece<'a> {
    product: &'a Product,
    part: &'a Part,
    layout: Layout,
}

/// Query heads of an attention tile: those that share a key/value head, or an equal part of them.
fn group_of(n_heads: usize, n_kv_heads: usize) -> usize {
    let sharing = n_heads / n_kv_heads.max(1);
    (1..=sharing.min(MAX_QUERIES)).rev().find(|g| sharing.is_multiple_of(*g)).unwrap_or(1)
}

impl WebGpu {
    fn buffer(&self, buf: Buf) -> BufferId {
        self.memory.bufs[buf.0 as usize].buffer
    }

    fn buffer_or_dummy(&self, buf: Option<Buf>) -> BufferId {
        buf.map_or(self.step.dummies[0], |b| self.buffer(b))
    }

    pub(super) fn record_embed(&mut self, table: Weight, scale: f32, out: Buf) {
        let n = self.step.n_rows(Rows::All) as u32;
        let (plan, out) = (self.step.plan_buffer(), self.buffer(out));
        let weight = &self.memory.weights[table.0 as usize];
        let groups = weight.cols.div_ceil(GROUP_COLS);
        let grid = [(groups * 2).div_ceil(THREADS) as u32, n, 1];
        let chosen = self.step.plan.chosen;
        let chosen_cols = chosen.map_or(0, |buf| self.memory.bufs[buf.0 as usize].cols);
        let chosen = self.buffer_or_dummy(chosen);
        for part in &weight.parts {
            let [first, rows, at] = [part.rows.start, part.rows.len(), part.at].map(|v| v as u32);
            let params = [first, rows, at, groups as u32, weight.cols as u32, scale.to_bits(), chosen_cols as u32];
            let kernel = Kernel::Embed { layout: weight.layout };
            self.step.record(&self.memory, kernel, &params, &[plan, part.buffer, chosen, out], grid);
        }
    }

    pub(super) fn record_norm(&mut self, op: &Norm) {
        let (dim, out) = (self.memory.bufs[op.x.0 as usize].cols, &self.memory.operands[op.out.0 as usize]);
        let post = op.delta.and_then(|d| d.norm);
        let flags =
            u32::from(op.delta.is_some()) | u32::from(post.is_some()) << 1 | u32::from(op.rows == Rows::Outputs) << 2;
        let scale = op.delta.map_or(0.0, |d| d.scale);
        let params = [dim as u32, out.stride as u32, flags, op.eps.to_bits(), scale.to_bits()];
        let buffers = [
            self.step.plan_buffer(),
            self.buffer(op.x),
            self.buffer(op.weight),
            self.buffer_or_dummy(op.delta.map(|d| d.buf)),
            self.buffer_or_dummy(post),
            out.buffer,
        ];
        let n = self.step.n_rows(op.rows) as u32;
        self.step.record(&self.memory, Kernel::Norm, &params, &buffers, [n, 1, 1]);
    }

    pub(super) fn record_matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        let weights = &self.memory.weights;
        let pieces: Vec<Piece<'_>> = products
            .iter()
            .flat_map(|product| {
                let weight = &weights[product.weight.0 as usize];
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
    }

    fn dispatch_of(
        &self,
        x: Operand,
        rows: Rows,
        pieces: &[Piece<'_>],
    ) -> (Kernel, [u32; 26], [BufferId; 8], [u32; 3]) {
        let n = self.step.n_rows(rows);
        let x = &self.memory.operands[x.0 as usize];
        let dummies = &self.step.dummies;
        let mut params = [0; 26];
        let mut buffers =
            [x.buffer, pieces[0].part.buffer, dummies[1], dummies[2], dummies[3], dummies[0], dummies[0], dummies[0]];
        let mut end = 0;
        for i in 0..MAX_PRODUCTS {
            if let Some(piece) = pieces.get(i) {
                let (out, epilogue) = (&self.memory.bufs[piece.product.out.0 as usize], piece.product.epilogue);
                end += piece.part.rows.len().div_ceil(PANEL);
                buffers[2 + i] = out.buffer;
                buffers[5 + i] = self.buffer_or_dummy(epilogue.bias);
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
        let Workload { types, cache, n_heads } = workload;
        let layouts = types.iter().map(|&ty| Layout::of(ty));
        let mut kernels: Vec<Kernel> = layouts.clone().take(1).map(|layout| Kernel::Embed { layout }).collect();
        kernels.extend([Kernel::Norm, Kernel::RopeAppend { cells: cache.ty }]);
        // A long prompt, a short one, an answer.
        kernels.extend(layouts.flat_map(|layout| [64, 32, 1].map(|n| self.product(layout, n))));
        let group = group_of(*n_heads, cache.n_kv_heads);
        for tokens in [MAX_QUERIES / group, 1] {
            let (queries, quads) = ((tokens * group) as u8, (cache.head_dim / 4) as u8);
            kernels.push(Kernel::Attend { cells: cache.ty, queries, quads });
        }
        kernels.extend([Kernel::Gate, Kernel::SelectBlocks, Kernel::Select]);
        kernels
    }

    fn shape(&self, cache: Cache) -> CacheShape {
        self.memory.caches[cache.0 as usize].shape
    }

    /// The buffer of this step's angles, filled.
    fn angles(&mut self, op: &RopeAppend) -> Result<BufferId> {
        let positions = &self.step.plan.positions;
        let found = |a: &Angles| (a.freqs, a.rope_dim, a.magnitude) == (op.freqs, op.rope_dim, op.magnitude.to_bits());
        let index = match self.angles.iter().position(|a| found(a) && a.rows >= positions.len()) {
            Some(index) => index,
            None => {
                let rows = positions.len().next_power_of_two();
                let buffer = self.memory.storage("rotary angles", rows * op.rope_dim * 4)?;
                self.angles.retain(|a| !found(a));
                let magnitude = op.magnitude.to_bits();
                self.angles.push(Angles {
                    freqs: op.freqs,
                    rope_dim: op.rope_dim,
                    magnitude,
                    buffer,
                    rows,
                    filled: false,
                });
                self.angles.len() - 1
            }
        };
        let angles = &mut self.angles[index];
        if !angles.filled {
            let freqs = &self.memory.bufs[op.freqs.0 as usize].host;
            let mut bytes = Vec::with_capacity(positions.len() * op.rope_dim * 4);
            for &position in positions {
                for &freq in &freqs[..op.rope_dim / 2] {
                    let (sin, cos) = (f64::from(position) * f64::from(freq)).sin_cos();
                    bytes.extend((cos as f32 * op.magnitude).to_le_bytes());
                    bytes.extend((sin as f32 * op.magnitude).to_le_bytes());
                }
            }
            self.memory.queue.write_buffer(self.memory.buffer(angles.buffer), 0, &bytes);
            angles.filled = true;
        }
        Ok(angles.buffer)
    }

    pub(super) fn record_rope_append(&mut self, op: &RopeAppend) -> Result<()> {
        let angles = self.angles(op)?;
        let shape = self.shape(op.cache);
        let flags = u32::from(op.pairs == RopePairs::Adjacent)
            | u32::from(op.q_norm.is_some()) << 1
            | u32::from(op.k_norm.is_some()) << 2
            | u32::from(op.q.is_none()) << 3;
        let words = [op.n_heads, shape.n_kv_heads, shape.head_dim, op.rope_dim / 2].map(|v| v as u32);
        let params = [words[0], words[1], words[2], words[3], flags, op.eps.to_bits()];
        let buffers = [
            self.step.plan_buffer(),
            op.q.map_or(self.step.dummies[1], |q| self.buffer(q)),
            self.buffer(op.k),
            self.buffer(op.v),
            self.buffer_or_dummy(op.q_norm),
            self.buffer_or_dummy(op.k_norm),
            angles,
            self.memory.caches[op.cache.0 as usize].layers[op.layer],
        ];
        let heads = 2 * shape.n_kv_heads + if op.q.is_some() { op.n_heads } else { 0 };
        let grid = [heads as u32, self.step.n_rows(Rows::All) as u32, 1];
        self.step.record(&self.memory, Kernel::RopeAppend { cells: shape.ty }, &params, &buffers, grid);
        Ok(())
    }

    pub(super) fn record_attend(&mut self, op: &Attend) -> Result<()> {
        let shape = self.shape(op.cache);
        let group = group_of(op.n_heads, shape.n_kv_heads);
        let (n_tiles, longest) = self.step.cut_tiles(&mut self.memory, MAX_QUERIES / group)?;
        let out = &self.memory.operands[op.out.0 as usize];
        let words = [op.n_heads, shape.n_kv_heads, group, shape.head_dim, out.stride].map(|v| v as u32);
        let mut params = [0; 8];
        params[..5].copy_from_slice(&words);
        params[5..].copy_from_slice(&[op.window.unwrap_or(0), op.scale.to_bits(), op.softcap.to_bits()]);
        let cells = self.memory.caches[op.cache.0 as usize].layers[op.layer];
        let buffers = [self.step.plan_buffer(), self.buffer(op.q), cells, out.buffer];
        let kernel =
            Kernel::Attend { cells: shape.ty, queries: (longest * group) as u8, quads: (shape.head_dim / 4) as u8 };
        self.step.record(&self.memory, kernel, &params, &buffers, [(op.n_heads / group) as u32, n_tiles as u32, 1]);
        Ok(())
    }

    pub(super) fn record_gate(&mut self, op: &Gate) {
        let (dim, out) = (self.memory.bufs[op.gate.0 as usize].cols, &self.memory.operands[op.out.0 as usize]);
        let params = [dim as u32, out.stride as u32, u32::from(op.activation == Activation::GeluTanh)];
        let buffers = [self.buffer(op.gate), self.buffer(op.up), out.buffer];
        let grid = [dim.div_ceil(THREADS) as u32, self.step.n_rows(Rows::All) as u32, 1];
        self.step.record(&self.memory, Kernel::Gate, &params, &buffers, grid);
    }

    pub(super) fn record_select(&mut self, op: &Select) -> Result<()> {
        let (n, out) = (self.memory.bufs[op.logits.0 as usize].cols, &self.memory.bufs[op.out.0 as usize]);
        let (n_rows, k) = (self.step.n_rows(Rows::Outputs), out.cols / 2);
        let block = n.div_ceil(MAX_BLOCKS).next_power_of_two().max(64);
        let n_blocks = n.div_ceil(block);
        let blocks = self.memory.scratch(&mut self.blocks, "maxima", out.rows * n_blocks * 8)?;
        let params = [n, block, n_blocks, k].map(|v| v as u32);
        let (logits, out) = (self.buffer(op.logits), self.buffer(op.out));
        let grid = [n_blocks.div_ceil(THREADS) as u32, n_rows as u32, 1];
        self.step.record(&self.memory, Kernel::SelectBlocks, &params[..3], &[logits, blocks], grid);
        let grid = [n_rows as u32, 1, 1];
        self.step.record(&self.memory, Kernel::Select, &params, &[logits, blocks, out], grid);
        Ok(())
    }

    pub(super) fn record_move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) -> Result<()> {
        let list: Vec<u32> =
            [moves.len() as u32].into_iter().chain(moves.iter().flat_map(|&(from, to)| [from, to])).collect();
        // Overwritten only after what reads it was sent.
        self.step.flush(&self.memory);
        let buffer = self.memory.scratch(&mut self.moves, "moves", list.len() * 4)?;
        self.memory.queue.write_buffer(self.memory.buffer(buffer), 0, &super::step::bytes(&list));
        let data = &self.memory.caches[cache.0 as usize];
        let words = data.cell_words();
        for layer in data.layers.clone() {
            let grid = [words.div_ceil(THREADS) as u32, 1, 1];
            self.step.record(&self.memory, Kernel::MoveCells, &[words as u32], &[buffer, layer], grid);
        }
        Ok(())
    }
}

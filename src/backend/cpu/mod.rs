//! The CPU backend: ops run at once, on one pool of threads, with kernels for the best instruction set of the processor.

use super::handles::{Scopes, Table};
use super::scan::{self, Scan};
use super::{
    Attend, Backend, Buf, Cache, CacheSpec, ConvForm, DeviceInfo, Epilogue, Experts, Gate, GatedNorm, LinearAttend,
    MemoryUse, Norm, Operand, Plan, Product, ReadCells, RopeAppend, Rows, Rule, Scope, Select, Sent, ShortConv,
    Temperature, Weight,
};
use crate::error::{Result, resize};
use crate::quant::TensorType;
use arrayvec::ArrayVec;
use std::ops::Range;
use std::sync::Mutex;
use std::task::{Context, Poll};

mod attend;
mod cache;
mod experts;
mod layouts;
mod linear;
mod matmul;
mod memory;
mod operand;
// For the crate's own tests and benchmarks, and for WASM's workers.
#[doc(hidden)]
pub mod pool;
mod rows;
mod select;
mod short_conv;
pub mod simd;
mod weight;
mod words;

use cache::CacheData;
use matmul::{Finish, Job};
use operand::OperandData;
use pool::{Columns, Pool, none};
use rows::{DeltaRow, GateRow, GatedNormRow, NormHead, NormRow, QuantizeRow, RopeRow, RopeTable};
use simd::Level;
use weight::WeightData;

/// Products that share a parallel region.
const MAX_PRODUCTS: usize = 4;

/// See the module text.
pub struct Cpu {
    pool: Pool,
    level: Level,
    scopes: Scopes,
    bufs: Table<Buf, Matrix>,
    weights: Table<Weight, WeightData>,
    operands: Table<Operand, OperandData>,
    caches: Table<Cache, CacheData>,
    step: StepData,
    scratch: Vec<Mutex<attend::Scratch>>,
    tiles: Vec<Range<usize>>,
    routes: experts::Routes,
    #[cfg(not(target_arch = "wasm32"))]
    watch: Option<super::Watch>,
}

/// An f32 matrix.
struct Matrix {
    cols: usize,
    data: Vec<f32>,
}

/// What the ops of a step share.
#[derive(Default)]
struct StepData {
    plan: Plan,
    /// `(cell, row)`, by cell.
    writes: Vec<(u32, u32)>,
    /// Blocks of the written cells, ascending.
    blocks: Vec<u32>,
    ropes: Vec<RopeTable>,
    /// What is done to the states of each layer.
    scan: Vec<Scan>,
    /// Steps of `scan` before those of the plan's rows.
    n_moves: usize,
}

impl Cpu {
    /// A backend on `threads` threads, the caller's included, at the best level of the processor.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// A backend that uses the instruction set `level`.
    pub fn with_level(threads: usize, level: Level) -> Self {
        let pool = Pool::new(threads.max(1));
        let scratch = (0..pool.len()).map(|_| Mutex::default()).collect();
        Cpu {
            pool,
            level,
            scopes: Scopes::default(),
            bufs: Table::default(),
            weights: Table::default(),
            operands: Table::default(),
            caches: Table::default(),
            step: StepData::default(),
            scratch,
            tiles: Vec::new(),
            routes: experts::Routes::default(),
            #[cfg(not(target_arch = "wasm32"))]
            watch: None,
        }
    }

    /// What the page's workers pass to [`pool::worker_main`], one each.
    #[cfg(target_arch = "wasm32")]
    pub fn worker_addresses(&self) -> impl Iterator<Item = usize> {
        (1..self.pool.len()).map(|_| self.pool.address())
    }

    fn buf(&self, buf: Buf) -> &Matrix {
        &self.bufs[buf]
    }

    /// Takes a matrix out while an op writes it; [`Cpu::put`] brings it back.
    fn take(&mut self, buf: Buf) -> Vec<f32> {
        std::mem::take(&mut self.bufs[buf].data)
    }

    fn put(&mut self, buf: Buf, data: Vec<f32>) {
        self.bufs[buf].data = data;
    }

    fn job(&self, product: &Product, rows: Range<usize>) -> Job<'_> {
        let Epilogue { scale, bias, softcap, accumulate } = product.epilogue;
        let bias = bias.map(|b| &self.buf(b).data[..]);
        let weight = &self.weights[product.weight];
        let finish = Finish { scale, bias, softcap, accumulate };
        Job { weight, panels: 0..weight.n_panels(), rows, pick: None, finish }
    }

    fn n_rows(&self, rows: Rows) -> usize {
        self.step.plan.places(rows).len()
    }

    /// The rows of a matrix that an op reads, where they do not lie one behind the other.
    fn pick(&self, rows: Rows) -> Option<&[u32]> {
        (rows == Rows::Outputs).then_some(&self.step.plan.outputs[..])
    }

    /// The first `n` rows.
    fn gate_rows(&mut self, op: &Gate, n: usize) {
        let level = self.level;
        let (gate, up) = (&self.bufs[op.gate], op.up.map(|up| &self.bufs[up]));
        let out = &mut self.operands[op.out];
        let (cols, n_groups) = (out.cols(), out.n_groups());
        let (floats, groups) = out.parts();
        self.pool.rows(n, (floats, cols, None), (groups, n_groups), none(), &|i, out, groups, _| {
            let (gate, up) = (&gate.data[i * cols..][..cols], up.map(|up| &up.data[i * cols..][..cols]));
            level.run(GateRow { gate, up, activation: op.activation, out, groups });
        });
    }

    /// Index of the table for these frequencies, filled for this step.
    fn rope_table(&mut self, op: &RopeAppend) -> usize {
        let key = Some((op.freqs, op.rope_dim, op.magnitude.to_bits()));
        let ropes = &mut self.step.ropes;
        if let Some(found) = ropes.iter().position(|t| t.key == key) {
            return found;
        }
        let index = ropes.iter().position(|t| t.key.is_none()).unwrap_or_else(|| {
            ropes.push(RopeTable::default());
            ropes.len() - 1
        });
        let freqs = &self.bufs[op.freqs].data[..op.rope_dim / 2];
        ropes[index].fill(&self.step.plan.positions, freqs, op.magnitude);
        ropes[index].key = key;
        index
    }

    /// Norm and rotary embedding of every row of `buf`; `temperature` is that of queries.
    fn rope(
        &mut self,
        (buf, norm, temperature): (Buf, Option<Buf>, Option<Temperature>),
        head_dim: usize,
        table: usize,
        op: &RopeAppend,
    ) {
        let (mut data, cols, n) = (self.take(buf), self.buf(buf).cols, self.n_rows(Rows::All));
        let (level, half) = (self.level, op.rope_dim / 2);
        let norm = norm.map(|b| &self.buf(b).data[..head_dim]);
        let (table, positions) = (&self.step.ropes[table], &self.step.plan.positions);
        self.pool.rows(n, (&mut data, cols, None), none(), none(), &|i, row, _, _| {
            let (cos, sin) = (&table.cos[i * half..][..half], &table.sin[i * half..][..half]);
            let growth = temperature.map_or(1.0, |t| t.at(positions[i]));
            let (norm_last, eps, pairs) = (op.norm_last, op.eps, op.pairs);
            level.run(RopeRow { row, head_dim, norm, norm_last, eps, growth, cos, sin, pairs });
        });
        self.put(buf, data);
    }
}

/// `vec![value; n]`, which would abort where memory cannot be had.
fn filled<T: Clone>(value: T, n: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    resize(&mut data, n, value, "a work buffer")?;
    Ok(data)
}

impl Backend for Cpu {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { backend: "cpu", device: self.level.name().to_string(), threads: self.pool.len() }
    }

    fn memory(&self) -> MemoryUse {
        let buffers = self.bufs.iter().map(|b| size_of_val(&b.data[..]));
        let operands = self.operands.iter().map(OperandData::bytes);
        let ropes = self.step.ropes.iter().map(RopeTable::bytes);
        MemoryUse {
            weights: self.weights.iter().map(WeightData::bytes).sum(),
            cache: self.caches.iter().map(CacheData::bytes).sum(),
            buffers: buffers.chain(operands).chain(ropes).chain(self.scratch.iter().map(attend::bytes)).sum(),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn watch(&mut self, watch: super::Watch) -> Result<()> {
        self.watch = Some(watch);
        Ok(())
    }

    fn begin_scope(&mut self) -> Scope {
        self.scopes.begin()
    }

    fn end_scope(&mut self) {
        self.scopes.end();
    }

    fn release(&mut self, scope: Scope) {
        self.bufs.release(scope);
        self.weights.release(scope);
        self.operands.release(scope);
        self.caches.release(scope);
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        let weight = WeightData::new(ty, rows, cols)?;
        Ok(self.weights.insert(self.scopes.current(), weight))
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.weights[weight].load_rows(&self.pool, first_row, bytes)
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        let data = filled(0.0, rows.saturating_mul(cols))?;
        Ok(self.bufs.insert(self.scopes.current(), Matrix { cols, data }))
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        let matrix = &mut self.bufs[buf];
        matrix.data[first_row * matrix.cols..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        let quantized = readers.iter().any(|&w| !self.weights[w].ty().is_float());
        let operand = OperandData::new(rows, cols, quantized)?;
        Ok(self.operands.insert(self.scopes.current(), operand))
    }

    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        let cache = CacheData::new(spec, self.level)?;
        Ok(self.caches.insert(self.scopes.current(), cache))
    }

    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        self.caches[cache].resize(n_blocks)
    }

    fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()> {
        self.caches[cache].resize_states(n_slots)
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        let step = &mut self.step;
        step.plan.clone_from(plan);
        step.writes.clear();
        step.writes.extend(plan.cells.iter().zip(0..).map(|(&cell, row)| (cell, row)));
        step.writes.sort_unstable();
        step.blocks.clear();
        step.blocks.extend(step.writes.iter().map(|(cell, _)| cell / super::BLOCK as u32));
        step.blocks.dedup();
        step.ropes.iter_mut().for_each(|table| table.key = None);
        step.n_moves = scan::lay_out(plan, &mut step.scan);
        Ok(())
    }

    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        let (mut data, cols) = (self.take(out), self.buf(out).cols);
        let (table, plan) = (&self.weights[table], &self.step.plan);
        let chosen = plan.chosen.map(|buf| self.buf(buf));
        self.pool.rows(plan.tokens.len(), (&mut data, cols, None), none(), none(), &|i, row, _, _| {
            let token = plan.tokens[i] as usize;
            // As `Select` lays a row out: the logit, then its column.
            let token = chosen.map_or(token, |c| c.data[token * c.cols + 1] as usize);
            table.decode_row(token, row);
            row.iter_mut().for_each(|v| *v *= scale);
        });
        self.put(out, data);
    }

    fn norm(&mut self, op: &Norm) {
        let (mut x, dim, level) = (self.take(op.x), self.buf(op.x).cols, self.level);
        let mut out = op.out.map(|out| std::mem::take(&mut self.operands[out]));
        let (Range { start, end }, pick) = (self.step.plan.places(op.rows), self.pick(op.rows));
        let weight = op.norm.map(|n| &self.buf(n.weight).data[..]);
        let bias = op.norm.and_then(|n| n.bias).map(|b| &self.buf(b).data[..]);
        let (centered, replaces) = op.norm.map_or((false, false), |n| (n.centered, n.replaces));
        let delta = op.delta.map(|d| (&self.buf(d.buf).data, d.norm.map(|w| &self.buf(w).data[..]), (d.scale, d.gain)));
        let outs = match &mut out {
            Some(out) => {
                let n_groups = out.n_groups();
                let (floats, groups) = out.parts();
                ((&mut floats[start * dim..], dim), (&mut groups[start * n_groups..], n_groups))
            }
            None => ((&mut [][..], 0), (&mut [][..], 0)),
        };
        let x_rows = &mut x[start * dim..];
        self.pool.rows(end - start, (x_rows, dim, pick), outs.0, outs.1, &|i, x, out, groups| {
            let row = pick.map_or(start + i, |p| p[i] as usize);
            let delta = delta.map(|(data, norm, factors)| DeltaRow { row: &data[row * dim..][..dim], norm, factors });
            level.run(NormRow { x, delta, weight, bias, centered, replaces, eps: op.eps, out, groups });
        });
        if let Some((place, out)) = op.out.zip(out) {
            self.operands[place] = out;
        }
        self.put(op.x, x);
    }

    fn pack(&mut self, x: Buf, rows: Rows, out: Operand) {
        let mut operand = std::mem::take(&mut self.operands[out]);
        let (Range { start, end }, pick) = (self.step.plan.places(rows), self.pick(rows));
        let (level, x, cols, n_groups) = (self.level, &self.bufs[x].data, operand.cols(), operand.n_groups());
        let (floats, groups) = operand.parts();
        let (floats, groups) = (&mut floats[start * cols..], &mut groups[start * n_groups..]);
        self.pool.rows(end - start, (floats, cols, None), (groups, n_groups), none(), &|i, floats, groups, _| {
            let row = pick.map_or(start + i, |p| p[i] as usize);
            floats.copy_from_slice(&x[row * cols..][..cols]);
            level.run(QuantizeRow { floats, groups });
        });
        self.operands[out] = operand;
    }

    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        let rows = self.step.plan.places(rows);
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(watch) = &mut self.watch {
            let x = &self.operands[x];
            watch(products, x.all_floats(rows.clone()), x.cols());
        }
        for products in products.chunks(MAX_PRODUCTS) {
            let mut data: ArrayVec<Vec<f32>, MAX_PRODUCTS> = products.iter().map(|p| self.take(p.out)).collect();
            let jobs: ArrayVec<Job<'_>, MAX_PRODUCTS> = products.iter().map(|p| self.job(p, rows.clone())).collect();
            let mut outs: ArrayVec<Columns<'_>, MAX_PRODUCTS> = data
                .iter_mut()
                .zip(products)
                .map(|(data, p)| (data, self.buf(p.out).cols))
                .map(|(data, cols)| Columns::new(&mut data[rows.start * cols..rows.end * cols], cols))
                .collect();
            matmul::matmul(&self.pool, self.level, &self.operands[x], &jobs, &mut outs);
            drop((jobs, outs));
            for (data, product) in data.into_iter().zip(products) {
                self.put(product.out, data);
            }
        }
    }

    fn rope_append(&mut self, op: &RopeAppend) {
        let head_dim = self.caches[op.cache].layer(op.layer).shape().head_dim;
        let table = self.rope_table(op);
        if let Some(q) = op.q {
            self.rope((q, op.q_norm, op.temperature), head_dim, table, op);
        }
        let Some([k, v]) = op.kv else { return };
        self.rope((k, op.k_norm, None), head_dim, table, op);
        if op.norm_values {
            let (mut data, cols, level) = (self.take(v), self.buf(v).cols, self.level);
            self.pool.rows(self.n_rows(Rows::All), (&mut data, cols, None), none(), none(), &|_, row, _, _| {
                row.chunks_exact_mut(head_dim).for_each(|head| level.run(NormHead { head, eps: op.eps }));
            });
            self.put(v, data);
        }
        let kv = [k, v].map(|buf| &self.bufs[buf].data[..]);
        let cache = self.caches[op.cache].layer_mut(op.layer);
        cache.append((&self.pool, self.level), &self.step.blocks, &self.step.writes, kv);
    }

    fn attend(&mut self, op: &Attend) {
        let n = self.n_rows(Rows::All);
        let out = &mut self.operands[op.out];
        let cache = self.caches[op.cache].layer(op.layer);
        let (cols, n_groups, level) = (out.cols(), out.n_groups(), self.level);
        let (floats, groups) = out.parts();
        let (q, sinks) = (&self.bufs[op.q].data, op.sinks.map(|sinks| &self.bufs[sinks].data[..]));
        let work = (&mut self.tiles, &self.scratch[..]);
        attend::attend((&self.pool, level), op, (&self.step.plan, cache), (q, sinks), &mut floats[..n * cols], work);
        let gate = op.gate.map(|gate| &self.bufs[gate].data[..]);
        self.pool.rows(n, (groups, n_groups, None), (floats, cols), none(), &|i, groups, floats, _| {
            for (out, g) in floats.iter_mut().zip(gate.iter().flat_map(|gate| &gate[i * cols..])) {
                *out /= 1.0 + (-g).exp();
            }
            level.run(QuantizeRow { floats, groups });
        });
    }

    fn short_conv(&mut self, op: &ShortConv) {
        let (mut kept, mut out) = (self.take(op.kept), self.take(op.out));
        let states = self.caches[op.cache].states(op.layer);
        let (x, weight) = (&self.bufs[op.x].data[..], &self.bufs[op.weight].data[..]);
        let dim = self.bufs[op.out].cols;
        let form = match op.form {
            ConvForm::Gated => short_conv::Form::Gated,
            ConvForm::Silu { bias } => short_conv::Form::Silu { bias: bias.map(|bias| &self.bufs[bias].data[..]) },
        };
        short_conv::short_conv(&self.pool, &self.step.scan, (x, weight), form, [&mut kept, states, &mut out], dim);
        self.put(op.kept, kept);
        self.put(op.out, out);
    }

    fn linear_attend(&mut self, op: &LinearAttend) {
        let (mut kept, mut out) = (self.take(op.kept), self.take(op.out));
        let states = self.caches[op.cache].states(op.layer);
        let floats = |buf: Buf| &self.bufs[buf].data[..];
        let (gains, skip) = match op.rule {
            Rule::Delta { gains, .. } => (Some(floats(gains)), None),
            Rule::Mamba { skip } => (None, Some(floats(skip))),
        };
        let of_rows = linear::OfRows { x: floats(op.x), steps: floats(op.steps), rates: floats(op.rates), gains, skip };
        let moves = self.step.scan.split_at(self.step.n_moves);
        let n = self.step.plan.tokens.len();
        linear::linear_attend((&self.pool, self.level), op, (moves, n), of_rows, [&mut kept, states, &mut out]);
        self.put(op.kept, kept);
        self.put(op.out, out);
    }

    fn gated_norm(&mut self, op: &GatedNorm) {
        let (n, level) = (self.n_rows(Rows::All), self.level);
        let [x, gate, weight] = [op.x, op.gate, op.weight].map(|buf| &self.bufs[buf].data);
        let out = &mut self.operands[op.out];
        let (cols, n_groups) = (out.cols(), out.n_groups());
        let (floats, groups) = out.parts();
        self.pool.rows(n, (floats, cols, None), (groups, n_groups), none(), &|i, out, groups, _| {
            let [x, gate] = [x, gate].map(|data| &data[i * cols..][..cols]);
            let (group, gate_first, eps) = (op.group, op.gate_first, op.eps);
            level.run(GatedNormRow { x, gate, weight, group, gate_first, eps, out, groups });
        });
    }

    fn gate(&mut self, op: &Gate) {
        self.gate_rows(op, self.n_rows(Rows::All));
    }

    fn experts(&mut self, op: &Experts) {
        self.run_experts(op);
    }

    fn select(&mut self, op: &Select) {
        let (mut out, cols, n) = (self.take(op.out), self.buf(op.out).cols, self.n_rows(Rows::Outputs));
        let logits = self.buf(op.logits);
        self.pool.rows(n, (&mut out, cols, None), none(), none(), &|i, out, _, _| {
            select::select_row(&logits.data[i * logits.cols..][..logits.cols], op.sum, out);
        });
        self.put(op.out, out);
    }

    fn read_cells(&mut self, op: &ReadCells) {
        let (mut k, mut v) = (self.take(op.k), self.take(op.v));
        let layer = self.caches[op.cache].layer(op.layer);
        for (row, &cell) in self.step.plan.cells.iter().enumerate() {
            layer.read(cell, row, [&mut k, &mut v]);
        }
        self.put(op.k, k);
        self.put(op.v, v);
    }

    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        self.caches[cache].move_cells(moves);
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        let (matrix, rows) = (self.buf(sent.src), &sent.rows);
        dst.copy_from_slice(&matrix.data[rows.start * matrix.cols..rows.end * matrix.cols]);
        Poll::Ready(Ok(()))
    }
}

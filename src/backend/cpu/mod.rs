//! The CPU backend: ops run at once, on one pool of threads, with kernels for the best instruction set of the processor.

use super::{
    Attend, Backend, Buf, Cache, CacheShape, DeviceInfo, Epilogue, Gate, MemoryUse, Norm, Operand, Plan, Product,
    RopeAppend, Rows, Select, Sent, Weight,
};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use arrayvec::ArrayVec;
use std::ops::Range;
use std::sync::Mutex;
use std::task::{Context, Poll};

mod attend;
mod cache;
mod layouts;
mod matmul;
mod operand;
pub mod pool;
mod rows;
mod select;
pub mod simd;
mod weight;

use cache::CacheData;
use matmul::{Finish, Job};
use operand::OperandData;
use pool::{Columns, Pool, none};
use rows::{DeltaRow, GateRow, NormRow, QuantizeRow, RopeRow, RopeTable};
use simd::Level;
use weight::WeightData;

/// Products that share a parallel region.
const MAX_PRODUCTS: usize = 4;

/// See the module text.
pub struct Cpu {
    pool: Pool,
    level: Level,
    bufs: Vec<Matrix>,
    weights: Vec<WeightData>,
    operands: Vec<OperandData>,
    caches: Vec<CacheData>,
    step: StepData,
    scratch: Vec<Mutex<attend::Scratch>>,
    tiles: Vec<Range<usize>>,
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
            bufs: Vec::new(),
            weights: Vec::new(),
            operands: Vec::new(),
            caches: Vec::new(),
            step: StepData::default(),
            scratch,
            tiles: Vec::new(),
        }
    }

    /// The worker pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    fn buf(&self, buf: Buf) -> &Matrix {
        &self.bufs[buf.0 as usize]
    }

    /// Takes a matrix out while an op writes it; [`Cpu::put`] brings it back.
    fn take(&mut self, buf: Buf) -> Vec<f32> {
        std::mem::take(&mut self.bufs[buf.0 as usize].data)
    }

    fn put(&mut self, buf: Buf, data: Vec<f32>) {
        self.bufs[buf.0 as usize].data = data;
    }

    fn job(&self, product: &Product) -> Job<'_> {
        let Epilogue { scale, bias, softcap, accumulate } = product.epilogue;
        let bias = bias.map(|b| &self.buf(b).data[..]);
        Job { weight: &self.weights[product.weight.0 as usize], finish: Finish { scale, bias, softcap, accumulate } }
    }

    fn n_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::All => self.step.plan.tokens.len(),
            Rows::Outputs => self.step.plan.outputs.len(),
        }
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
        let freqs = &self.bufs[op.freqs.0 as usize].data[..op.rope_dim / 2];
        ropes[index].fill(&self.step.plan.positions, freqs, op.magnitude);
        ropes[index].key = key;
        index
    }

    /// Norm and rotary embedding of every row of `buf`.
    fn rope(&mut self, buf: Buf, norm: Option<Buf>, head_dim: usize, table: usize, op: &RopeAppend) {
        let (mut data, cols, n) = (self.take(buf), self.buf(buf).cols, self.n_rows(Rows::All));
        let (level, half) = (self.level, op.rope_dim / 2);
        let norm = norm.map(|b| &self.buf(b).data[..head_dim]);
        let table = &self.step.ropes[table];
        self.pool.rows(n, (&mut data, cols, None), none(), none(), &|i, row, _, _| {
            let (cos, sin) = (&table.cos[i * half..][..half], &table.sin[i * half..][..half]);
            level.run(RopeRow { row, head_dim, norm, eps: op.eps, cos, sin, pairs: op.pairs });
        });
        self.put(buf, data);
    }
}

fn push<T, H>(items: &mut Vec<T>, item: T, handle: impl Fn(u32) -> H) -> H {
    items.push(item);
    handle(items.len() as u32 - 1)
}

fn zeros(n: usize) -> Result<Vec<f32>> {
    let mut data = Vec::new();
    data.try_reserve_exact(n).map_err(|e| {
        Error::out_of_memory(format!("no memory for a work buffer of {} bytes", n.saturating_mul(4))).caused_by(e)
    })?;
    data.resize(n, 0.0);
    Ok(data)
}

impl Backend for Cpu {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { backend: "cpu", device: self.level.name().to_string(), threads: self.pool.len() }
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weights: self.weights.iter().map(WeightData::bytes).sum(),
            cache: self.caches.iter().map(CacheData::bytes).sum(),
            buffers: self.bufs.iter().map(|b| size_of_val(&b.data[..])).sum::<usize>()
                + self.operands.iter().map(OperandData::bytes).sum::<usize>(),
        }
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        let weight = WeightData::new(ty, rows, cols)?;
        Ok(push(&mut self.weights, weight, Weight))
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.weights[weight.0 as usize].load_rows(&self.pool, first_row, bytes)
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        let data = zeros(rows.saturating_mul(cols))?;
        Ok(push(&mut self.bufs, Matrix { cols, data }, Buf))
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        let matrix = &mut self.bufs[buf.0 as usize];
        matrix.data[first_row * matrix.cols..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        let quantized = readers.iter().any(|w| !self.weights[w.0 as usize].ty().is_float());
        Ok(push(&mut self.operands, OperandData::new(rows, cols, quantized), Operand))
    }

    fn new_cache(&mut self, shape: CacheShape) -> Result<Cache> {
        let cache = CacheData::new(shape)?;
        Ok(push(&mut self.caches, cache, Cache))
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
        Ok(())
    }

    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        let (mut data, cols) = (self.take(out), self.buf(out).cols);
        let (table, plan) = (&self.weights[table.0 as usize], &self.step.plan);
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
        let (mut x, dim, n, level) = (self.take(op.x), self.buf(op.x).cols, self.n_rows(op.rows), self.level);
        let mut out = std::mem::replace(&mut self.operands[op.out.0 as usize], OperandData::new(0, 0, false));
        let pick = (op.rows == Rows::Outputs).then_some(&self.step.plan.outputs[..]);
        let weight = &self.buf(op.weight).data;
        let delta = op.delta.map(|d| (&self.buf(d.buf).data, d.norm.map(|w| &self.buf(w).data[..]), d.scale));
        let n_groups = out.n_groups();
        let (floats, groups) = out.parts();
        self.pool.rows(n, (&mut x, dim, pick), (floats, dim), (groups, n_groups), &|i, x, out, groups| {
            let row = pick.map_or(i, |p| p[i] as usize);
            let delta = delta.map(|(data, norm, scale)| DeltaRow { row: &data[row * dim..][..dim], norm, scale });
            level.run(NormRow { x, delta, weight, eps: op.eps, out, groups });
        });
        self.operands[op.out.0 as usize] = out;
        self.put(op.x, x);
    }

    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        let n = self.n_rows(rows);
        for products in products.chunks(MAX_PRODUCTS) {
            let mut data: ArrayVec<Vec<f32>, MAX_PRODUCTS> = products.iter().map(|p| self.take(p.out)).collect();
            let jobs: ArrayVec<Job<'_>, MAX_PRODUCTS> = products.iter().map(|p| self.job(p)).collect();
            let mut outs: ArrayVec<Columns<'_>, MAX_PRODUCTS> = data
                .iter_mut()
                .zip(products)
                .map(|(data, p)| (data, self.buf(p.out).cols))
                .map(|(data, cols)| Columns::new(&mut data[..n * cols], cols))
                .collect();
            matmul::matmul(&self.pool, self.level, &self.operands[x.0 as usize], n, &jobs, &mut outs);
            drop((jobs, outs));
            for (data, product) in data.into_iter().zip(products) {
                self.put(product.out, data);
            }
        }
    }

    fn rope_append(&mut self, op: &RopeAppend) {
        let head_dim = self.caches[op.cache.0 as usize].shape().head_dim;
        let table = self.rope_table(op);
        if let Some(q) = op.q {
            self.rope(q, op.q_norm, head_dim, table, op);
        }
        self.rope(op.k, op.k_norm, head_dim, table, op);
        let kv = [&self.bufs[op.k.0 as usize].data[..], &self.bufs[op.v.0 as usize].data[..]];
        let cache = &mut self.caches[op.cache.0 as usize];
        cache.append(&self.pool, op.layer, &self.step.blocks, &self.step.writes, kv);
    }

    fn attend(&mut self, op: &Attend) {
        let n = self.n_rows(Rows::All);
        let out = &mut self.operands[op.out.0 as usize];
        let cache = &self.caches[op.cache.0 as usize];
        let (cols, n_groups, level) = (out.cols(), out.n_groups(), self.level);
        let (floats, groups) = out.parts();
        let q = &self.bufs[op.q.0 as usize].data;
        let work = (&mut self.tiles, &self.scratch[..]);
        attend::attend((&self.pool, level), op, (&self.step.plan, cache), q, &mut floats[..n * cols], work);
        let floats = &*floats;
        self.pool.rows(n, (groups, n_groups, None), none(), none(), &|i, groups, _, _| {
            level.run(QuantizeRow { floats: &floats[i * cols..][..cols], groups });
        });
    }

    fn gate(&mut self, op: &Gate) {
        let (n, level) = (self.n_rows(Rows::All), self.level);
        let (gate, up) = (&self.bufs[op.gate.0 as usize], &self.bufs[op.up.0 as usize]);
        let out = &mut self.operands[op.out.0 as usize];
        let (cols, n_groups) = (out.cols(), out.n_groups());
        let (floats, groups) = out.parts();
        self.pool.rows(n, (floats, cols, None), (groups, n_groups), none(), &|i, out, groups, _| {
            let (gate, up) = (&gate.data[i * cols..][..cols], &up.data[i * cols..][..cols]);
            level.run(GateRow { gate, up, activation: op.activation, out, groups });
        });
    }

    fn select(&mut self, op: &Select) {
        let (mut out, cols, n) = (self.take(op.out), self.buf(op.out).cols, self.n_rows(Rows::Outputs));
        let logits = self.buf(op.logits);
        self.pool.rows(n, (&mut out, cols, None), none(), none(), &|i, out, _, _| {
            select::select_row(&logits.data[i * logits.cols..][..logits.cols], op.sum, out);
        });
        self.put(op.out, out);
    }

    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        self.caches[cache.0 as usize].move_cells(moves);
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

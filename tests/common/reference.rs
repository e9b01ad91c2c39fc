//! The ops' definition: a naive backend in 64-bit floats, without quantized operands.
//!
//! Weights are decoded by [`decode`]; cache entries are rounded to the cache's number format, everything else is exact. One
//! loop an op, in the words of the trait's documentation.

use foreword::backend::{
    Activation, Attend, BLOCK, Backend, Buf, Cache, CacheShape, CacheType, DeviceInfo, Gate, MemoryUse, Norm, Operand,
    Plan, Product, RopeAppend, RopePairs, Rows, Select, Sent, Weight,
};
use foreword::error::Result;
use foreword::quant::{TensorType, decode};
use half::f16;
use std::ops::Range;
use std::task::{Context, Poll};

/// A matrix `[_, cols]`.
struct Matrix {
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    fn zeros(rows: usize, cols: usize) -> Self {
        Matrix { cols, data: vec![0.0; rows * cols] }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..][..self.cols]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.cols..][..self.cols]
    }
}

/// Keys and values, `[n_layers, n_cells, n_kv_heads * head_dim]`.
struct Cells {
    shape: CacheShape,
    keys: Vec<f64>,
    values: Vec<f64>,
}

impl Cells {
    fn range(&self, layer: usize, cell: u32) -> Range<usize> {
        let width = self.shape.n_kv_heads * self.shape.head_dim;
        let at = (layer * self.shape.n_blocks * BLOCK + cell as usize) * width;
        at..at + width
    }
}

/// See the module text.
#[derive(Default)]
pub struct Reference {
    weights: Vec<(TensorType, Matrix)>,
    bufs: Vec<Matrix>,
    operands: Vec<Matrix>,
    caches: Vec<Cells>,
    plan: Plan,
}

impl Reference {
    /// Step rows that an op covers.
    fn rows(&self, rows: Rows) -> Vec<usize> {
        match rows {
            Rows::All => (0..self.plan.tokens.len()).collect(),
            Rows::Outputs => self.plan.outputs.iter().map(|&r| r as usize).collect(),
        }
    }

    fn floats(&self, buf: Option<Buf>) -> Option<Vec<f64>> {
        buf.map(|b| self.bufs[b.0 as usize].data.clone())
    }

    /// Norm and rotary embedding of the heads of every row.
    fn rope(&mut self, buf: Buf, norm: Option<Buf>, head_dim: usize, op: &RopeAppend) {
        let norm = self.floats(norm);
        let freqs = self.bufs[op.freqs.0 as usize].data.clone();
        for row in 0..self.plan.tokens.len() {
            let position = f64::from(self.plan.positions[row]);
            for head in self.bufs[buf.0 as usize].row_mut(row).chunks_exact_mut(head_dim) {
                if let Some(norm) = &norm {
                    rms_norm(head, norm, op.eps);
                }
                for (j, &freq) in freqs.iter().enumerate().take(op.rope_dim / 2) {
                    let (a, b) = match op.pairs {
                        RopePairs::Adjacent => (2 * j, 2 * j + 1),
                        RopePairs::Halves => (j, j + op.rope_dim / 2),
                    };
                    let (sin, cos) = (position * freq).sin_cos();
                    let (sin, cos) = (sin * f64::from(op.magnitude), cos * f64::from(op.magnitude));
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
    }
}

/// `x = x / rms(x) * weight`.
fn rms_norm(x: &mut [f64], weight: &[f64], eps: f32) {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x *= scale * w;
    }
}

/// What is left of the values of one head in a cache.
fn rounded(ty: CacheType, head: &[f64]) -> Vec<f64> {
    let half = |v: f64| f16::from_f64(v).to_f64();
    match ty {
        CacheType::F32 => head.iter().map(|&v| f64::from(v as f32)).collect(),
        CacheType::F16 => head.iter().map(|&v| half(v)).collect(),
        CacheType::Q8_0 => head
            .chunks(32)
            .flat_map(|group| {
                let scale = half(group.iter().fold(0.0, |m: f64, v| m.max(v.abs())) / 127.0);
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                group.iter().map(move |v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) * scale)
            })
            .collect(),
    }
}

fn softcapped(v: f64, cap: f32) -> f64 {
    if cap == 0.0 { v } else { f64::from(cap) * (v / f64::from(cap)).tanh() }
}

impl Backend for Reference {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { backend: "reference", device: "f64".to_string(), threads: 1 }
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        self.weights.push((ty, Matrix::zeros(rows, cols)));
        Ok(Weight(self.weights.len() as u32 - 1))
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        let (ty, matrix) = &mut self.weights[weight.0 as usize];
        let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
        decode(*ty, bytes, &mut values)?;
        for (to, from) in matrix.data[first_row * matrix.cols..].iter_mut().zip(values) {
            *to = f64::from(from);
        }
        Ok(())
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        self.bufs.push(Matrix::zeros(rows, cols));
        Ok(Buf(self.bufs.len() as u32 - 1))
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        let matrix = &mut self.bufs[buf.0 as usize];
        for (to, &from) in matrix.data[first_row * matrix.cols..].iter_mut().zip(data) {
            *to = f64::from(from);
        }
        Ok(())
    }

    fn new_operand(&mut self, rows: usize, cols: usize, _: &[Weight]) -> Result<Operand> {
        self.operands.push(Matrix::zeros(rows, cols));
        Ok(Operand(self.operands.len() as u32 - 1))
    }

    fn new_cache(&mut self, shape: CacheShape) -> Result<Cache> {
        let n = shape.n_layers * shape.n_blocks * BLOCK * shape.n_kv_heads * shape.head_dim;
        self.caches.push(Cells { shape, keys: vec![0.0; n], values: vec![0.0; n] });
        Ok(Cache(self.caches.len() as u32 - 1))
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.plan.clone_from(plan);
        Ok(())
    }

    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        for (row, &token) in self.plan.tokens.iter().enumerate() {
            let chosen = self.plan.chosen.map(|buf| self.bufs[buf.0 as usize].row(token as usize)[1] as usize);
            let table = self.weights[table.0 as usize].1.row(chosen.unwrap_or(token as usize));
            for (out, w) in self.bufs[out.0 as usize].row_mut(row).iter_mut().zip(table) {
                *out = f64::from(scale) * w;
            }
        }
    }

    fn norm(&mut self, op: &Norm) {
        let weight = self.bufs[op.weight.0 as usize].data.clone();
        for (i, row) in self.rows(op.rows).into_iter().enumerate() {
            if let Some(delta) = op.delta {
                let mut values = self.bufs[delta.buf.0 as usize].row(row).to_vec();
                if let Some(norm) = self.floats(delta.norm) {
                    rms_norm(&mut values, &norm, op.eps);
                }
                for (x, v) in self.bufs[op.x.0 as usize].row_mut(row).iter_mut().zip(values) {
                    *x += f64::from(delta.scale) * v;
                }
            }
            let mut values = self.bufs[op.x.0 as usize].row(row).to_vec();
            rms_norm(&mut values, &weight, op.eps);
            self.operands[op.out.0 as usize].row_mut(i).copy_from_slice(&values);
        }
    }

    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        for product in products {
            let epilogue = product.epilogue;
            let bias = self.floats(epilogue.bias);
            let weight = &self.weights[product.weight.0 as usize].1;
            for row in 0..self.rows(rows).len() {
                let x = self.operands[x.0 as usize].row(row);
                for (i, out) in self.bufs[product.out.0 as usize].row_mut(row).iter_mut().enumerate() {
                    let dot: f64 = weight.row(i).iter().zip(x).map(|(w, x)| w * x).sum();
                    let y = f64::from(epilogue.scale) * dot + bias.as_ref().map_or(0.0, |b| b[i]);
                    let y = softcapped(y, epilogue.softcap);
                    *out = if epilogue.accumulate { *out + y } else { y };
                }
            }
        }
    }

    fn rope_append(&mut self, op: &RopeAppend) {
        let shape = self.caches[op.cache.0 as usize].shape;
        if let Some(q) = op.q {
            self.rope(q, op.q_norm, shape.head_dim, op);
        }
        self.rope(op.k, op.k_norm, shape.head_dim, op);
        let cache = &mut self.caches[op.cache.0 as usize];
        for (row, &cell) in self.plan.cells.iter().enumerate() {
            let range = cache.range(op.layer, cell);
            let stored = |buf: Buf| -> Vec<f64> {
                self.bufs[buf.0 as usize]
                    .row(row)
                    .chunks(shape.head_dim)
                    .flat_map(|head| rounded(shape.ty, head))
                    .collect()
            };
            cache.keys[range.clone()].copy_from_slice(&stored(op.k));
            cache.values[range].copy_from_slice(&stored(op.v));
        }
    }

    fn attend(&mut self, op: &Attend) {
        let cache = &self.caches[op.cache.0 as usize];
        let (dim, group) = (cache.shape.head_dim, op.n_heads / cache.shape.n_kv_heads);
        for (row, span) in self.plan.spans.iter().enumerate() {
            let prefix = (0..span.prefix as usize).map(|position| {
                let block = self.plan.blocks[span.table as usize + position / BLOCK];
                block * BLOCK as u32 + (position % BLOCK) as u32
            });
            let extras = &self.plan.extras[span.extra as usize..][..span.n_extra as usize];
            let cells: Vec<u32> = prefix.chain(extras.iter().copied()).collect();
            let visible = &cells[op.window.map_or(0, |w| cells.len().saturating_sub(w as usize))..];
            for head in 0..op.n_heads {
                let query = &self.bufs[op.q.0 as usize].row(row)[head * dim..][..dim];
                let of_cell = |values: &'_ [f64], cell: u32| -> Vec<f64> {
                    values[cache.range(op.layer, cell)][head / group * dim..][..dim].to_vec()
                };
                let scores: Vec<f64> = visible
                    .iter()
                    .map(|&cell| {
                        let dot: f64 = of_cell(&cache.keys, cell).iter().zip(query).map(|(k, q)| k * q).sum();
                        softcapped(f64::from(op.scale) * dot, op.softcap)
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let out = &mut self.operands[op.out.0 as usize].row_mut(row)[head * dim..][..dim];
                out.fill(0.0);
                for (&cell, score) in visible.iter().zip(&scores) {
                    for (out, v) in out.iter_mut().zip(of_cell(&cache.values, cell)) {
                        *out += (score - largest).exp() / sum * v;
                    }
                }
            }
        }
    }

    fn gate(&mut self, op: &Gate) {
        for row in 0..self.plan.tokens.len() {
            let (gate, up) = (self.bufs[op.gate.0 as usize].row(row), self.bufs[op.up.0 as usize].row(row));
            let out = self.operands[op.out.0 as usize].row_mut(row);
            for ((out, &x), up) in out.iter_mut().zip(gate).zip(up) {
                let activated = match op.activation {
                    Activation::Silu => x / (1.0 + (-x).exp()),
                    Activation::GeluTanh => {
                        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                        0.5 * x * (1.0 + inner.tanh())
                    }
                };
                *out = activated * up;
            }
        }
    }

    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        let cache = &mut self.caches[cache.0 as usize];
        for layer in 0..cache.shape.n_layers {
            for &(from, to) in moves {
                let (from, to) = (cache.range(layer, from), cache.range(layer, to).start);
                cache.keys.copy_within(from.clone(), to);
                cache.values.copy_within(from, to);
            }
        }
    }

    fn select(&mut self, op: &Select) {
        for row in 0..self.plan.outputs.len() {
            let logits = self.bufs[op.logits.0 as usize].row(row);
            let mut columns: Vec<usize> = (0..logits.len()).collect();
            // Stable: equal ones stay in order.
            columns.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("a number"));
            let sum = logits.iter().map(|l| (l - logits[columns[0]]).exp()).sum();
            let k = self.bufs[op.out.0 as usize].cols / 2;
            let largest = columns[..k].iter().map(|&c| logits[c]);
            let values: Vec<f64> = largest.chain(columns[..k].iter().map(|&c| c as f64)).chain([sum]).collect();
            self.bufs[op.out.0 as usize].row_mut(row).copy_from_slice(&values);
        }
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        let (matrix, rows) = (&self.bufs[sent.src.0 as usize], &sent.rows);
        for (to, from) in dst.iter_mut().zip(&matrix.data[rows.start * matrix.cols..rows.end * matrix.cols]) {
            *to = *from as f32;
        }
        Poll::Ready(Ok(()))
    }
}

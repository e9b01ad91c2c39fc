//! The ops' definition: a naive backend in 64-bit floats, without quantized operands.
//!
//! Weights are decoded by [`decode`]; cache entries are rounded to the cache's number format, everything else is exact. One
//! loop an op, in the words of the trait's documentation.

use foreword::backend::{
    Activation, Attend, BLOCK, Backend, Before, Buf, Cache, CacheSpec, CacheType, CellShape, ConvForm, DeviceInfo,
    Experts, Gate, GatedNorm, LinearAttend, MemoryUse, Norm, Operand, Plan, Product, ReadCells, RopeAppend, RopePairs,
    Routing, Rows, Rule, Scope, Scores, Select, Sent, Shared, ShortConv, Stack, StateStep, Temperature, Weight,
};
use foreword::error::Result;
use foreword::quant::{TensorType, decode};
use half::f16;
use slotmap::SlotMap;
use std::collections::HashMap;
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

/// The rows that a state stands for.
type Text = Vec<Vec<f64>>;

/// Keys and values of a layer, `[n_cells, n_kv_heads * head_dim]`.
struct Cells {
    shape: CellShape,
    keys: Vec<f64>,
    values: Vec<f64>,
}

impl Cells {
    fn range(&self, cell: u32) -> Range<usize> {
        let width = self.shape.n_kv_heads * self.shape.head_dim;
        let at = cell as usize * width;
        at..at + width
    }
}

/// See the module text.
pub struct Reference {
    weights: SlotMap<Weight, (TensorType, Matrix)>,
    bufs: SlotMap<Buf, Matrix>,
    operands: SlotMap<Operand, Matrix>,
    /// The paged layers of each cache, and which of these a layer attends to.
    caches: SlotMap<Cache, (Vec<Cells>, Vec<usize>)>,
    /// What states stand for, by layer and slot.
    states: HashMap<(Cache, usize), HashMap<u32, Text>>,
    plan: Plan,
}

impl Default for Reference {
    fn default() -> Self {
        let (weights, bufs) = (SlotMap::with_key(), SlotMap::with_key());
        let (operands, caches) = (SlotMap::with_key(), SlotMap::with_key());
        let states = HashMap::new();
        Reference { weights, bufs, operands, caches, states, plan: Plan::default() }
    }
}

impl Reference {
    /// Step rows that an op covers.
    fn rows(&self, rows: Rows) -> Vec<usize> {
        match rows {
            Rows::All => (0..self.plan.tokens.len()).collect(),
            Rows::Outputs => self.plan.outputs.iter().map(|&r| r as usize).collect(),
            Rows::Run { start, end } => (start as usize..end as usize).collect(),
        }
    }

    fn floats(&self, buf: Option<Buf>) -> Option<Vec<f64>> {
        buf.map(|b| self.bufs[b].data.clone())
    }

    /// Norm and rotary embedding of the heads of every row.
    fn rope(&mut self, buf: Buf, norm: Option<Buf>, head_dim: usize, op: &RopeAppend) {
        let norm = self.floats(norm);
        let freqs = self.bufs[op.freqs].data.clone();
        for row in 0..self.plan.tokens.len() {
            let position = f64::from(self.plan.positions[row]);
            for head in self.bufs[buf].row_mut(row).chunks_exact_mut(head_dim) {
                if let (Some(norm), false) = (&norm, op.norm_last) {
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
                if let (Some(norm), true) = (&norm, op.norm_last) {
                    rms_norm(head, norm, op.eps);
                }
            }
        }
    }
}

impl Reference {
    /// Does to states what the plan says, which is told of rows of `kept`.
    fn move_states(&mut self, cache: Cache, layer: usize, kept: Buf) {
        let row = |row: &u32| self.bufs[kept].row(*row as usize).to_vec();
        let states = self.states.entry((cache, layer)).or_default();
        for step in &self.plan.states {
            match step {
                StateStep::Clear { slot } => _ = states.insert(*slot, Text::new()),
                StateStep::Copy { from, to } => _ = states.insert(*to, states[from].clone()),
                StateStep::Advance { slot, rows } => {
                    states.get_mut(slot).expect("a state").extend(rows.iter().map(row));
                }
            }
        }
    }

    /// What a row comes behind, and it itself, as rows of `kept`, the oldest first.
    fn text(&self, cache: Cache, layer: usize, kept: Buf, row: usize) -> Text {
        let (mut text, mut at) = (Text::new(), Before::Row(row as u32));
        while let Before::Row(before) = at {
            text.insert(0, self.bufs[kept].row(before as usize).to_vec());
            at = self.plan.before[before as usize];
        }
        let Before::Slot(slot) = at else { return text };
        [self.states[&(cache, layer)].get(&slot).cloned().unwrap_or_default(), text].concat()
    }

    /// What an expert's matrix makes of a row.
    fn expert(&self, stack: &Stack, expert: usize, x: &[f64]) -> Vec<f64> {
        let weight = &self.weights[stack.weight].1;
        let scale = self.floats(stack.scale).map_or(1.0, |scales| scales[expert]);
        let bias = self.floats(stack.bias).unwrap_or_else(|| vec![0.0; weight.data.len()]);
        let dot = |row: usize| -> f64 {
            let weights = weight.row(expert * Stack::pitch(stack.rows) + row);
            weights.iter().zip(x).map(|(w, x)| w * x).sum()
        };
        (0..stack.rows).map(|row| scale * (dot(row) + bias[expert * stack.rows + row])).collect()
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A row's experts, and what each counts.
fn chosen(routing: &Routing, logits: &[f64], bias: Option<Vec<f64>>) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
    let score = |e: usize| match routing.scores {
        Scores::Softmax => (logits[e] - largest).exp() / all,
        Scores::Sigmoid => sigmoid(logits[e]),
    };
    let value = |e: usize| score(e) + bias.as_ref().map_or(0.0, |b| b[e]);
    let mut experts: Vec<usize> = (0..logits.len()).collect();
    // Stable: equal ones stay in order.
    experts.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).expect("a number"));
    experts.truncate(routing.used);
    let sum: f64 = experts.iter().map(|&e| score(e)).sum();
    let by = if routing.normalized { sum.max(f64::from(Routing::LEAST_SUM)) } else { 1.0 };
    experts.iter().map(|&e| (e, f64::from(routing.scale) * score(e) / by)).collect()
}

/// `activation(gate) * up`.
fn gated(activation: Activation, x: f64, up: Option<f64>) -> f64 {
    match activation {
        Activation::Silu => x * sigmoid(x) * up.unwrap_or(1.0),
        Activation::Gelu => x * normal(x) * up.unwrap_or(1.0),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh()) * up.unwrap_or(1.0)
        }
        Activation::ClampedSwish => {
            let x = x.min(7.0);
            x * sigmoid(1.702 * x) * up.map_or(1.0, |up| up.clamp(-7.0, 7.0) + 1.0)
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

/// The normal distribution, by the series of its integral (Abramowitz and Stegun 26.2.11).
fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn softcapped(v: f64, cap: f32) -> f64 {
    if cap == 0.0 { v } else { f64::from(cap) * (v / f64::from(cap)).tanh() }
}

/// What the queries of the last row find in the state that the rows before and it have made, `width` values each.
fn linear_head(op: &LinearAttend, head: usize, text: &[Vec<f64>], width: usize) -> Vec<f64> {
    let (keys, values) = (op.n_key_heads * op.key_dim, op.n_heads * op.head_dim);
    let key_head = match op.rule {
        Rule::Delta { .. } => head % op.n_key_heads,
        Rule::Mamba { .. } => head * op.n_key_heads / op.n_heads,
    };
    let mut state = vec![vec![0.0; op.head_dim]; op.key_dim];
    for row in text {
        assert_eq!(row.len(), width, "a row of another layer");
        let (k, v) = (&row[keys + key_head * op.key_dim..], &row[2 * keys + head * op.head_dim..]);
        let (decay, gain) = (row[2 * keys + values + head], row[2 * keys + values + op.n_heads + head]);
        state.iter_mut().flatten().for_each(|s| *s *= decay);
        for c in 0..op.head_dim {
            let known: f64 = match op.rule {
                Rule::Delta { .. } => (0..op.key_dim).map(|i| k[i] * state[i][c]).sum(),
                Rule::Mamba { .. } => 0.0,
            };
            (0..op.key_dim).for_each(|i| state[i][c] += k[i] * gain * (v[c] - known));
        }
    }
    let q = &text[text.len() - 1][key_head * op.key_dim..];
    (0..op.head_dim).map(|c| (0..op.key_dim).map(|i| q[i] * state[i][c]).sum()).collect()
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

impl Backend for Reference {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { backend: "reference", device: "f64".to_string(), threads: 1 }
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }

    fn begin_scope(&mut self) -> Scope {
        Scope::default()
    }

    fn end_scope(&mut self) {}

    /// What is released stays: a definition needs no memory management.
    fn release(&mut self, _: Scope) {}

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        Ok(self.weights.insert((ty, Matrix::zeros(rows, cols))))
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        let (ty, matrix) = &mut self.weights[weight];
        let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
        decode(*ty, bytes, &mut values)?;
        for (to, from) in matrix.data[first_row * matrix.cols..].iter_mut().zip(values) {
            *to = f64::from(from);
        }
        Ok(())
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        Ok(self.bufs.insert(Matrix::zeros(rows, cols)))
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        let matrix = &mut self.bufs[buf];
        for (to, &from) in matrix.data[first_row * matrix.cols..].iter_mut().zip(data) {
            *to = f64::from(from);
        }
        Ok(())
    }

    fn new_operand(&mut self, rows: usize, cols: usize, _: &[Weight]) -> Result<Operand> {
        Ok(self.operands.insert(Matrix::zeros(rows, cols)))
    }

    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        let (shapes, index) = spec.paged_layers()?;
        let cells = |shape: CellShape| {
            let n = spec.n_blocks * BLOCK * shape.n_kv_heads * shape.head_dim;
            Cells { shape, keys: vec![0.0; n], values: vec![0.0; n] }
        };
        Ok(self.caches.insert((shapes.into_iter().map(cells).collect(), index)))
    }

    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        for Cells { shape, keys, values } in &mut self.caches[cache].0 {
            let n = n_blocks * BLOCK * shape.n_kv_heads * shape.head_dim;
            keys.resize(n, 0.0);
            values.resize(n, 0.0);
        }
        Ok(())
    }

    fn resize_states(&mut self, _: Cache, _: usize) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.plan.clone_from(plan);
        Ok(())
    }

    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        for (row, &token) in self.plan.tokens.iter().enumerate() {
            let chosen = self.plan.chosen.map(|buf| self.bufs[buf].row(token as usize)[1] as usize);
            let table = self.weights[table].1.row(chosen.unwrap_or(token as usize));
            for (out, w) in self.bufs[out].row_mut(row).iter_mut().zip(table) {
                *out = f64::from(scale) * w;
            }
        }
    }

    fn norm(&mut self, op: &Norm) {
        let (weight, bias) = (self.floats(op.norm.map(|n| n.weight)), self.floats(op.norm.and_then(|n| n.bias)));
        let (centered, replaces) = op.norm.map_or((false, false), |n| (n.centered, n.replaces));
        for (row, i) in self.rows(op.rows).into_iter().zip(self.plan.places(op.rows)) {
            if let Some(delta) = op.delta {
                let mut values = self.bufs[delta.buf].row(row).to_vec();
                if let Some(norm) = self.floats(delta.norm) {
                    rms_norm(&mut values, &norm, op.eps);
                }
                for (x, v) in self.bufs[op.x].row_mut(row).iter_mut().zip(values) {
                    *x = (*x + f64::from(delta.scale) * v) * f64::from(delta.gain);
                }
            }
            let mut values = self.bufs[op.x].row(row).to_vec();
            if centered {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                values.iter_mut().for_each(|v| *v -= mean);
            }
            if let Some(weight) = &weight {
                rms_norm(&mut values, weight, op.eps);
            }
            values.iter_mut().zip(bias.iter().flatten()).for_each(|(v, b)| *v += b);
            if replaces || op.out.is_none() {
                self.bufs[op.x].row_mut(row).copy_from_slice(&values);
            }
            if let Some(out) = op.out {
                self.operands[out].row_mut(i).copy_from_slice(&values);
            }
        }
    }

    fn pack(&mut self, x: Buf, rows: Rows, out: Operand) {
        for (row, i) in self.rows(rows).into_iter().zip(self.plan.places(rows)) {
            self.operands[out].row_mut(i).copy_from_slice(self.bufs[x].row(row));
        }
    }

    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        for product in products {
            let epilogue = product.epilogue;
            let bias = self.floats(epilogue.bias);
            let weight = &self.weights[product.weight].1;
            for row in self.plan.places(rows) {
                let x = self.operands[x].row(row);
                for (i, out) in self.bufs[product.out].row_mut(row).iter_mut().enumerate() {
                    let dot: f64 = weight.row(i).iter().zip(x).map(|(w, x)| w * x).sum();
                    let y = f64::from(epilogue.scale) * (dot + bias.as_ref().map_or(0.0, |b| b[i]));
                    let y = softcapped(y, epilogue.softcap);
                    *out = if epilogue.accumulate { *out + y } else { y };
                }
            }
        }
    }

    fn rope_append(&mut self, op: &RopeAppend) {
        let (layers, index) = &self.caches[op.cache];
        let (at, shape) = (index[op.layer], layers[index[op.layer]].shape);
        if let Some(q) = op.q {
            self.rope(q, op.q_norm, shape.head_dim, op);
            if let Some(Temperature { scale, length }) = op.temperature {
                for row in 0..self.plan.tokens.len() {
                    let steps = f64::from(self.plan.positions[row] / length);
                    self.bufs[q]
                        .row_mut(row)
                        .iter_mut()
                        .for_each(|v| *v *= 1.0 + f64::from(scale) * (1.0 + steps).ln());
                }
            }
        }
        let Some([k, v]) = op.kv else { return };
        self.rope(k, op.k_norm, shape.head_dim, op);
        for row in (0..self.plan.tokens.len()).filter(|_| op.norm_values) {
            let ones = vec![1.0; shape.head_dim];
            self.bufs[v].row_mut(row).chunks_mut(shape.head_dim).for_each(|head| rms_norm(head, &ones, op.eps));
        }
        let cache = &mut self.caches[op.cache].0[at];
        for (row, &cell) in self.plan.cells.iter().enumerate() {
            let range = cache.range(cell);
            let stored = |buf: Buf| -> Vec<f64> {
                self.bufs[buf].row(row).chunks(shape.head_dim).flat_map(|head| rounded(shape.ty, head)).collect()
            };
            cache.keys[range.clone()].copy_from_slice(&stored(k));
            cache.values[range].copy_from_slice(&stored(v));
        }
    }

    fn attend(&mut self, op: &Attend) {
        let (layers, index) = &self.caches[op.cache];
        let cache = &layers[index[op.layer]];
        let (dim, group) = (cache.shape.head_dim, op.n_heads / cache.shape.n_kv_heads);
        for (row, span) in self.plan.spans.iter().enumerate() {
            let prefix = (0..span.prefix as usize).map(|position| {
                let block = self.plan.blocks[span.table as usize + position / BLOCK];
                block * BLOCK as u32 + (position % BLOCK) as u32
            });
            let extras = &self.plan.extras[span.extra as usize..][..span.n_extra as usize];
            let cells: Vec<u32> = prefix.chain(extras.iter().copied()).collect();
            let own = self.plan.positions[row] as usize;
            let visible = match op.window.map(|w| w as usize) {
                None => 0..cells.len(),
                Some(window) if op.centered => own.saturating_sub(window / 2)..cells.len().min(own + window / 2 + 1),
                Some(window) => cells.len().saturating_sub(window)..cells.len(),
            };
            let visible = &cells[visible];
            for head in 0..op.n_heads {
                let query = &self.bufs[op.q].row(row)[head * dim..][..dim];
                let of_cell = |values: &'_ [f64], cell: u32| -> Vec<f64> {
                    values[cache.range(cell)][head / group * dim..][..dim].to_vec()
                };
                let scores: Vec<f64> = visible
                    .iter()
                    .map(|&cell| {
                        let dot: f64 = of_cell(&cache.keys, cell).iter().zip(query).map(|(k, q)| k * q).sum();
                        softcapped(f64::from(op.scale) * dot, op.softcap)
                    })
                    .collect();
                let sink = op.sinks.map(|sinks| self.bufs[sinks].data[head]);
                let all = || scores.iter().copied().chain(sink);
                let largest = all().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = all().map(|s| (s - largest).exp()).sum();
                let out = &mut self.operands[op.out].row_mut(row)[head * dim..][..dim];
                out.fill(0.0);
                for (&cell, score) in visible.iter().zip(&scores) {
                    for (out, v) in out.iter_mut().zip(of_cell(&cache.values, cell)) {
                        *out += (score - largest).exp() / sum * v;
                    }
                }
                if let Some(gate) = op.gate {
                    let gate = &self.bufs[gate].row(row)[head * dim..];
                    out.iter_mut().zip(gate).for_each(|(out, &g)| *out *= sigmoid(g));
                }
            }
        }
    }

    fn short_conv(&mut self, op: &ShortConv) {
        let dim = self.bufs[op.out].cols;
        self.move_states(op.cache, op.layer, op.kept);
        let bias = match op.form {
            ConvForm::Silu { bias } => self.floats(bias),
            ConvForm::Gated => None,
        };
        for row in 0..self.plan.tokens.len() {
            let x = self.bufs[op.x].row(row).to_vec();
            let z: Vec<f64> = match op.form {
                ConvForm::Gated => (0..dim).map(|i| x[i] * x[2 * dim + i]).collect(),
                ConvForm::Silu { .. } => x.clone(),
            };
            self.bufs[op.kept].row_mut(row).copy_from_slice(&z);
            let text = self.text(op.cache, op.layer, op.kept, row);
            for i in 0..dim {
                let sum: f64 = (0..op.taps.min(text.len()))
                    .map(|tap| self.bufs[op.weight].row(op.taps - 1 - tap)[i] * text[text.len() - 1 - tap][i])
                    .sum();
                self.bufs[op.out].row_mut(row)[i] = match op.form {
                    ConvForm::Gated => x[dim + i] * sum,
                    ConvForm::Silu { .. } => silu(sum + bias.as_ref().map_or(0.0, |bias| bias[i])),
                };
            }
        }
    }

    fn linear_attend(&mut self, op: &LinearAttend) {
        let (keys, values) = (op.n_key_heads * op.key_dim, op.n_heads * op.head_dim);
        self.move_states(op.cache, op.layer, op.kept);
        for row in 0..self.plan.tokens.len() {
            let (x, steps) = (self.bufs[op.x].row(row).to_vec(), self.bufs[op.steps].row(row).to_vec());
            let mut kept = match op.rule {
                Rule::Delta { .. } => x,
                Rule::Mamba { .. } => [&x[values + keys..], &x[values..values + keys], &x[..values]].concat(),
            };
            if let Rule::Delta { eps, .. } = op.rule {
                for (i, head) in kept[..2 * keys].chunks_exact_mut(op.key_dim).enumerate() {
                    let size = (head.iter().map(|v| v * v).sum::<f64>() + f64::from(eps)).sqrt();
                    let size = if i < op.n_key_heads { size * (op.key_dim as f64).sqrt() } else { size };
                    head.iter_mut().for_each(|v| *v /= size);
                }
            }
            let dts: Vec<f64> = steps.iter().map(|x| x.exp().ln_1p()).collect();
            kept.extend(dts.iter().zip(&self.bufs[op.rates].data).map(|(dt, rate)| (rate * dt).exp()));
            match op.rule {
                Rule::Delta { gains, .. } => kept.extend(self.bufs[gains].row(row).iter().map(|&x| sigmoid(x))),
                Rule::Mamba { .. } => kept.extend(dts),
            }
            self.bufs[op.kept].row_mut(row).copy_from_slice(&kept);
            let text = self.text(op.cache, op.layer, op.kept, row);
            for head in 0..op.n_heads {
                let out = linear_head(op, head, &text, self.bufs[op.kept].cols);
                let skip = match op.rule {
                    Rule::Mamba { skip } => self.bufs[skip].data[head],
                    Rule::Delta { .. } => 0.0,
                };
                let v = &kept[2 * keys + head * op.head_dim..];
                let to = &mut self.bufs[op.out].row_mut(row)[head * op.head_dim..];
                (0..op.head_dim).for_each(|c| to[c] = out[c] + skip * v[c]);
            }
        }
    }

    fn gated_norm(&mut self, op: &GatedNorm) {
        for row in 0..self.plan.tokens.len() {
            let (x, gate) = (self.bufs[op.x].row(row), self.bufs[op.gate].row(row));
            let gate: Vec<f64> = gate.iter().map(|&z| silu(z)).collect();
            let mut y: Vec<f64> = match op.gate_first {
                true => x.iter().zip(&gate).map(|(x, g)| x * g).collect(),
                false => x.to_vec(),
            };
            let weight = &self.bufs[op.weight].data;
            for (y, weight) in y.chunks_exact_mut(op.group).zip(weight.chunks_exact(op.group)) {
                rms_norm(y, weight, op.eps);
            }
            if !op.gate_first {
                y.iter_mut().zip(&gate).for_each(|(y, g)| *y *= g);
            }
            self.operands[op.out].row_mut(row).copy_from_slice(&y);
        }
    }

    fn gate(&mut self, op: &Gate) {
        for row in 0..self.plan.tokens.len() {
            let (gate, up) = (self.bufs[op.gate].row(row), op.up.map(|up| self.bufs[up].row(row)));
            let out = self.operands[op.out].row_mut(row);
            for (i, (out, &x)) in out.iter_mut().zip(gate).enumerate() {
                *out = gated(op.activation, x, up.map(|up| up[i]));
            }
        }
    }

    fn read_cells(&mut self, op: &ReadCells) {
        let (layers, index) = &self.caches[op.cache];
        let cache = &layers[index[op.layer]];
        for (row, &cell) in self.plan.cells.iter().enumerate() {
            self.bufs[op.k].row_mut(row).copy_from_slice(&cache.keys[cache.range(cell)]);
            self.bufs[op.v].row_mut(row).copy_from_slice(&cache.values[cache.range(cell)]);
        }
    }

    fn experts(&mut self, op: &Experts) {
        for row in 0..self.plan.tokens.len() {
            let x = self.operands[op.x].row(row);
            let logits = self.bufs[op.logits].row(row);
            let mut sum: Vec<f64> = match op.shared {
                Shared::Nothing => vec![0.0; op.down.rows],
                Shared::Whole => self.bufs[op.out].row(row).to_vec(),
                Shared::Gated(gate) => {
                    let factor = sigmoid(self.bufs[gate].row(row)[0]);
                    self.bufs[op.out].row(row).iter().map(|v| v * factor).collect()
                }
            };
            for (expert, score) in chosen(&op.routing, logits, self.floats(op.routing.bias)) {
                let (gate, up) = (self.expert(&op.gate, expert, x), self.expert(&op.up, expert, x));
                let hidden: Vec<f64> =
                    gate.iter().zip(up).map(|(&gate, up)| gated(op.activation, gate, Some(up))).collect();
                let made = self.expert(&op.down, expert, &hidden);
                sum.iter_mut().zip(made).for_each(|(sum, v)| *sum += score * v);
            }
            self.bufs[op.out].row_mut(row).copy_from_slice(&sum);
        }
    }

    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        for cache in &mut self.caches[cache].0 {
            for &(from, to) in moves {
                let (from, to) = (cache.range(from), cache.range(to).start);
                cache.keys.copy_within(from.clone(), to);
                cache.values.copy_within(from, to);
            }
        }
    }

    fn select(&mut self, op: &Select) {
        for row in 0..self.plan.outputs.len() {
            let logits = self.bufs[op.logits].row(row);
            let mut columns: Vec<usize> = (0..logits.len()).collect();
            // Stable: equal ones stay in order.
            columns.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("a number"));
            let sum = logits.iter().map(|l| (l - logits[columns[0]]).exp()).sum();
            let k = self.bufs[op.out].cols / 2;
            let largest = columns[..k].iter().map(|&c| logits[c]);
            let values: Vec<f64> = largest.chain(columns[..k].iter().map(|&c| c as f64)).chain([sum]).collect();
            self.bufs[op.out].row_mut(row).copy_from_slice(&values);
        }
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        let (matrix, rows) = (&self.bufs[sent.src], &sent.rows);
        for (to, from) in dst.iter_mut().zip(&matrix.data[rows.start * matrix.cols..rows.end * matrix.cols]) {
            *to = *from as f32;
        }
        Poll::Ready(Ok(()))
    }
}

//! Mixtures of experts: tokens are sorted by their experts, so that the panels of an expert are read once for all of them, and
//! those of an expert that nobody chose are not read.

use super::super::{Experts, Gate, Routing, Rows, Scores, Shared, Stack};
use super::matmul::{self, Finish, Job};
use super::pool::{Columns, none};
use super::{Cpu, OperandData};
use crate::backend::Buf;
use crate::quant::layout::PANEL;
use arrayvec::ArrayVec;
use std::ops::Range;

/// Experts whose products share a parallel region.
const MAX_PRODUCTS: usize = 16;

/// Which experts the rows of a step have.
#[derive(Default)]
pub(super) struct Routes {
    /// `[n, used]`.
    chosen: Vec<u32>,
    /// `[n, used]`.
    scores: Vec<f32>,
    /// Experts, and places in `chosen`, by expert.
    order: Vec<(u32, u32)>,
    /// Rows of the tokens in this order.
    rows: Vec<u32>,
    /// Where each place in `chosen` comes in this order.
    places: Vec<u32>,
}

impl Routes {
    fn sort(&mut self, used: usize) {
        let Routes { chosen, order, rows, places, .. } = self;
        order.clear();
        order.extend(chosen.iter().copied().zip(0..));
        order.sort_unstable();
        rows.clear();
        rows.extend(order.iter().map(|(_, place)| place / used as u32));
        places.resize(order.len(), 0);
        order.iter().zip(0..).for_each(|(&(_, place), i)| places[place as usize] = i);
    }

    /// Experts that are used, and their ranges of `order`.
    fn experts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut end = 0;
        self.order.chunk_by(|a, b| a.0 == b.0).map(move |of_one| {
            end += of_one.len();
            (of_one[0].0 as usize, end - of_one.len()..end)
        })
    }
}

impl Cpu {
    /// See [`Experts`].
    pub(super) fn run_experts(&mut self, op: &Experts) {
        let (n, used) = (self.n_rows(Rows::All), op.routing.used);
        let mut routes = std::mem::take(&mut self.routes);
        self.route(op, n, &mut routes);
        routes.sort(used);
        let [gate, up] = op.hidden;
        let x = std::mem::take(&mut self.operands[op.x]);
        self.products(&routes, &x, Some(&routes.rows), &[(&op.gate, gate), (&op.up, up)]);
        self.operands[op.x] = x;
        self.gate_rows(&Gate { gate, up: Some(up), activation: op.activation, out: op.gated }, n * used);
        let gated = std::mem::take(&mut self.operands[op.gated]);
        self.products(&routes, &gated, None, &[(&op.down, op.parts)]);
        self.operands[op.gated] = gated;
        self.sum_parts(op, n, &routes);
        self.routes = routes;
    }

    /// Chooses the experts of every row.
    fn route(&mut self, op: &Experts, n: usize, routes: &mut Routes) {
        let (mut logits, n_experts, used) = (self.take(op.logits), self.buf(op.logits).cols, op.routing.used);
        let bias = op.routing.bias.map(|b| &self.buf(b).data[..]);
        routes.scores.resize(n * used, 0.0);
        routes.chosen.resize(n * used, 0);
        let (scores, chosen) = ((&mut routes.scores[..], used), (&mut routes.chosen[..], used));
        self.pool.rows(n, (&mut logits, n_experts, None), scores, chosen, &|_, logits, scores, chosen| {
            choose(&op.routing, logits, bias, scores, chosen);
        });
        self.put(op.logits, logits);
    }

    /// Products of each expert with its rows, in the order of `routes`; `pick` are their rows of `x`.
    fn products(&mut self, routes: &Routes, x: &OperandData, pick: Option<&[u32]>, stacks: &[(&Stack, Buf)]) {
        for &(stack, out) in stacks {
            let mut data = self.take(out);
            let mut rest = &mut data[..];
            let mut experts = routes.experts().peekable();
            while experts.peek().is_some() {
                let mut jobs = ArrayVec::<Job<'_>, MAX_PRODUCTS>::new();
                let mut outs = ArrayVec::<Columns<'_>, MAX_PRODUCTS>::new();
                for (expert, rows) in experts.by_ref().take(MAX_PRODUCTS) {
                    let (own, behind) = rest.split_at_mut(rows.len() * stack.rows);
                    rest = behind;
                    jobs.push(self.expert_job(stack, expert, rows, pick));
                    outs.push(Columns::new(own, stack.rows));
                }
                matmul::matmul(&self.pool, self.level, x, &jobs, &mut outs);
            }
            self.put(out, data);
        }
    }

    fn expert_job<'a>(&'a self, stack: &Stack, expert: usize, rows: Range<usize>, pick: Option<&'a [u32]>) -> Job<'a> {
        let n_panels = Stack::pitch(stack.rows) / PANEL;
        let scale = stack.scale.map_or(1.0, |scales| self.buf(scales).data[expert]);
        let bias = stack.bias.map(|bias| &self.buf(bias).data[expert * stack.rows..][..stack.rows]);
        let finish = Finish { scale, bias, softcap: 0.0, accumulate: false };
        let panels = expert * n_panels..(expert + 1) * n_panels;
        Job { weight: &self.weights[stack.weight], panels, rows, pick, finish }
    }

    /// Adds up what the experts of each row made.
    fn sum_parts(&mut self, op: &Experts, n: usize, routes: &Routes) {
        let (mut out, dim, used) = (self.take(op.out), op.down.rows, op.routing.used);
        let parts = &self.buf(op.parts).data;
        let gate = if let Shared::Gated(gate) = op.shared { Some(&self.buf(gate).data) } else { None };
        self.pool.rows(n, (&mut out, dim, None), none(), none(), &|row, out, _, _| {
            match (op.shared, gate) {
                (Shared::Nothing, _) => out.fill(0.0),
                (_, Some(gate)) => out.iter_mut().for_each(|v| *v *= sigmoid(gate[row])),
                _ => {}
            }
            for i in row * used..(row + 1) * used {
                let part = &parts[routes.places[i] as usize * dim..][..dim];
                out.iter_mut().zip(part).for_each(|(out, v)| *out += routes.scores[i] * v);
            }
        });
        self.put(op.out, out);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Chooses the experts of one row. `logits` become scores, `scores` those of the chosen ones as they count.
fn choose(routing: &Routing, logits: &mut [f32], bias: Option<&[f32]>, scores: &mut [f32], chosen: &mut [u32]) {
    match routing.scores {
        Scores::Softmax => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            logits.iter_mut().for_each(|l| *l = (*l - largest).exp());
            let sum: f32 = logits.iter().sum();
            logits.iter_mut().for_each(|l| *l /= sum);
        }
        Scores::Sigmoid => logits.iter_mut().for_each(|l| *l = sigmoid(*l)),
    }
    let all = &*logits;
    let value = |e: usize| all[e] + bias.map_or(0.0, |b| b[e]);
    // By value from the largest down, then by number; a total order, whatever the values are.
    let order = |a: usize, b: usize| value(b).total_cmp(&value(a)).then(a.cmp(&b));
    let mut last = None;
    for (score, chosen) in scores.iter_mut().zip(chosen) {
        let left = (0..all.len()).filter(|&e| last.is_none_or(|last| order(last, e).is_lt()));
        let best = left.min_by(|&a, &b| order(a, b)).unwrap_or(0);
        (*score, *chosen, last) = (all[best], best as u32, Some(best));
    }
    let sum = if routing.normalized { scores.iter().sum::<f32>().max(Routing::LEAST_SUM) } else { 1.0 };
    scores.iter_mut().for_each(|s| *s *= routing.scale / sum);
}

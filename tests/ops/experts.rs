//! Mixtures of experts.

use super::common::random::{Random, rows};
use super::{Named, Topic, backends, buf, check, get};
use foreword::backend::{Activation, Backend, Experts, Routing, Rows, Scores, Shared, Stack};
use foreword::quant::TensorType;

/// A mixture of experts and some tokens.
#[derive(Clone, Copy)]
struct Mixture {
    /// Of gate and up, and of down.
    types: [TensorType; 2],
    n: usize,
    dim: usize,
    ff_dim: usize,
    n_experts: usize,
    used: usize,
    scores: Scores,
    normalized: bool,
    choice_bias: bool,
    /// Experts' biases and factors.
    biases: bool,
    activation: Activation,
    /// Number of a form of [`Shared`].
    shared: usize,
}

const PLAIN: Mixture = Mixture {
    types: [TensorType::F32; 2],
    n: 5,
    dim: 64,
    ff_dim: 32,
    n_experts: 6,
    used: 2,
    scores: Scores::Softmax,
    normalized: true,
    choice_bias: false,
    biases: false,
    activation: Activation::Silu,
    shared: 0,
};

impl Mixture {
    /// A stack of random weights.
    fn stack(&self, b: &mut dyn Backend, r: &mut Random, ty: TensorType, rows: usize, cols: usize) -> Stack {
        let pitch = Stack::pitch(rows);
        let weight = b.new_weight(ty, self.n_experts * pitch, cols).unwrap();
        for expert in 0..self.n_experts {
            b.load_rows(weight, expert * pitch, &r.weights(ty, rows * cols)).unwrap();
        }
        let (biases, scales) = (r.floats(self.n_experts * rows), r.floats(self.n_experts));
        let scales: Vec<f32> = scales.iter().map(|v| 0.75 + 0.25 * v).collect();
        Stack {
            weight,
            rows,
            scale: self.biases.then(|| buf(b, self.n_experts, &scales)),
            bias: self.biases.then(|| buf(b, self.n_experts * rows, &biases)),
        }
    }

    /// What two steps make: one of `n` tokens, then one of its first token alone.
    async fn run(&self, b: &mut dyn Backend) -> Vec<f32> {
        let Mixture { types: [wide, narrow], n, dim, ff_dim, n_experts, used, .. } = *self;
        let mut r = Random::new((n * 7 + dim + n_experts) as u64);
        let (x, logits, kept) = (r.floats(n * dim), r.floats(n * n_experts), r.floats(n * dim));
        // Well apart, so that rounding never changes a choice; one pair is equal.
        let mut logits: Vec<f32> = logits.iter().map(|l| 4.0 * l).collect();
        logits[1] = logits[0];
        let gate = self.stack(b, &mut r, wide, ff_dim, dim);
        let up = self.stack(b, &mut r, wide, ff_dim, dim);
        let down = self.stack(b, &mut r, narrow, dim, ff_dim);
        let operand = b.new_operand(n, dim, &[gate.weight, up.weight]).unwrap();
        let gated = b.new_operand(n * used, ff_dim, &[down.weight]).unwrap();
        let (x, kept_gate) = (buf(b, dim, &x), buf(b, 1, &r.floats(n)));
        let choice_bias = r.floats(n_experts);
        let op = Experts {
            x: operand,
            logits: b.new_buf(n, n_experts).unwrap(),
            routing: Routing {
                scores: self.scores,
                used,
                bias: self.choice_bias.then(|| buf(b, n_experts, &choice_bias)),
                normalized: self.normalized,
                scale: 1.5,
            },
            gate,
            up,
            down,
            activation: self.activation,
            hidden: [0; 2].map(|_| b.new_buf(n * used, ff_dim).unwrap()),
            gated,
            parts: b.new_buf(n * used, dim).unwrap(),
            out: b.new_buf(n, dim).unwrap(),
            shared: [Shared::Nothing, Shared::Whole, Shared::Gated(kept_gate)][self.shared],
        };
        let mut got = Vec::new();
        for n in [n, 1] {
            b.write(op.logits, 0, &logits).unwrap();
            b.write(op.out, 0, &kept).unwrap();
            b.begin(&rows(n)).unwrap();
            b.pack(x, Rows::All, operand);
            b.experts(&op);
            got.extend(get(b, op.out, n, dim).await);
        }
        got
    }

    async fn check(&self, backends: &mut [Named], what: &str) {
        // Two products on operands of 8 bits, of some tens of columns.
        let bound = if self.types[0].is_float() { 1e-4 } else { 0.03 };
        let what = format!("{what}: {} tokens, {} of {} experts, {:?}", self.n, self.used, self.n_experts, self.types);
        let case = async |b: &mut dyn Backend| self.run(b).await;
        check(backends, &what, case, |_, largest| bound * largest + 1e-6).await;
    }
}

/// Numbers of tokens of all kernels, more experts than a region has, panels that are not full.
async fn experts_of_all_shapes() {
    let mut backends = backends(Topic::Other).await;
    for n in [1, 2, 9, 40] {
        for (dim, ff_dim, n_experts, used) in [(64, 32, 6, 2), (96, 40, 3, 3), (32, 96, 70, 8), (160, 16, 128, 1)] {
            let case = Mixture { n, dim, ff_dim, n_experts, used, ..PLAIN };
            case.check(&mut backends, "shapes").await;
        }
    }
}

async fn experts_of_every_type() {
    let mut backends = backends(Topic::Other).await;
    for &ty in TensorType::ALL {
        for n in [1, 19] {
            let types = [ty, if ty.is_float() { ty } else { TensorType::Q8_0 }];
            let case = Mixture { types, n, dim: 256, ff_dim: 64, ..PLAIN };
            case.check(backends.of_type(ty, true), "types").await;
        }
    }
}

/// Scores, biases, activations, and experts that all tokens use.
async fn experts_of_all_forms() {
    let mut backends = backends(Topic::Other).await;
    for form in 0..24 {
        let case = Mixture {
            n: [1, 12][form % 2],
            scores: if form / 2 % 2 == 0 { Scores::Softmax } else { Scores::Sigmoid },
            normalized: form / 4 % 2 == 0,
            choice_bias: form % 3 == 1,
            biases: form % 5 > 1,
            activation: [Activation::Silu, Activation::ClampedSwish, Activation::GeluTanh][form / 8],
            shared: form % 7 % 3,
            ..PLAIN
        };
        case.check(&mut backends, &format!("form {form}")).await;
    }
}

tests![experts_of_all_shapes, experts_of_every_type, experts_of_all_forms];

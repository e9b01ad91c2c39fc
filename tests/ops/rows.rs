//! What each row undergoes by itself.

use super::common::random::{Random, rows};
use super::{Topic, backends, buf, check, float_bound, float_operand, get, tolerance};
use foreword::backend::{Activation, Backend, Delta, Gate, MAX_SELECTED, Norm, Plan, Rows, Select};
use foreword::quant::TensorType;

async fn embed_of_every_type() {
    let mut backends = backends(Topic::Other).await;
    for &ty in TensorType::ALL {
        for (n_rows, cols, n) in [(40, 256, 1), (100, 768, 9)] {
            let mut random = Random::new(n as u64);
            let bytes = random.weights(ty, n_rows * cols);
            let tokens: Vec<u32> = (0..n).map(|_| random.below(n_rows) as u32).collect();
            let case = async |b: &mut dyn Backend| {
                let table = b.new_weight(ty, n_rows, cols).unwrap();
                b.load_rows(table, 0, &bytes).unwrap();
                let out = b.new_buf(n, cols).unwrap();
                b.begin(&Plan { tokens: tokens.clone(), ..rows(n) }).unwrap();
                b.embed(table, 1.5, out);
                get(b, out, n, cols).await
            };
            let bound = |_: usize, largest: f64| tolerance::SCALES * largest + 1e-6;
            check(&mut backends, &format!("embed {ty:?}"), case, bound).await;
            // Of what `select` found in the step before, which the host has not seen; rows come in another order.
            let logits = random.floats(n * n_rows);
            let case = async |b: &mut dyn Backend| {
                let table = b.new_weight(ty, n_rows, cols).unwrap();
                b.load_rows(table, 0, &bytes).unwrap();
                let (logits, chosen) = (buf(b, n_rows, &logits), b.new_buf(n, 3).unwrap());
                let out = b.new_buf(n, cols).unwrap();
                b.begin(&Plan { outputs: (0..n as u32).collect(), ..rows(n) }).unwrap();
                b.select(&Select { logits, out: chosen, sum: false });
                b.begin(&Plan { tokens: (0..n as u32).rev().collect(), chosen: Some(chosen), ..rows(n) }).unwrap();
                b.embed(table, 1.5, out);
                get(b, out, n, cols).await
            };
            check(&mut backends, &format!("embed {ty:?} of chosen tokens"), case, bound).await;
        }
    }
}

async fn norm_of_all_forms() {
    let mut backends = backends(Topic::Lanes).await;
    for (n, dim) in [(1, 32), (3, 96), (16, 256), (7, 576), (33, 50)] {
        for form in 0..6 {
            let mut random = Random::new((n + dim + form) as u64);
            let (x, delta) = (random.floats(n * dim), random.floats(n * dim));
            let (weight, post) = (random.floats(dim), random.floats(dim));
            let outputs: Vec<u32> = (0..n as u32).filter(|_| random.below(2) == 0).chain([n as u32 - 1]).collect();
            let plan = Plan {
                outputs: {
                    let mut o = outputs;
                    o.dedup();
                    o
                },
                ..rows(n)
            };
            let covered = if form % 2 == 0 { Rows::All } else { Rows::Outputs };
            let case = async |b: &mut dyn Backend| {
                let (xb, weight) = (buf(b, dim, &x), buf(b, dim, &weight));
                let (delta, norm) = (buf(b, dim, &delta), buf(b, dim, &post));
                let delta = match form / 2 {
                    0 => None,
                    1 => Some(Delta { buf: delta, norm: None, scale: 0.3 }),
                    _ => Some(Delta { buf: delta, norm: Some(norm), scale: -1.2 }),
                };
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&plan).unwrap();
                b.norm(&Norm { x: xb, delta, weight, eps: 1e-5, out, rows: covered });
                let n_out = if covered == Rows::All { n } else { plan.outputs.len() };
                let mut got = reader.read(b, covered, n_out).await;
                got.extend(get(b, xb, n, dim).await);
                got
            };
            check(&mut backends, &format!("norm [{n}, {dim}], form {form}"), case, float_bound).await;
        }
    }
}

async fn gate_with_both_activations() {
    let mut backends = backends(Topic::Other).await;
    for (n, dim) in [(1, 32), (3, 96), (33, 257), (2, 1536)] {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut random = Random::new((n + dim) as u64);
            let gate: Vec<f32> = random.floats(n * dim).iter().map(|v| v * 12.0).collect();
            let up = random.floats(n * dim);
            let case = async |b: &mut dyn Backend| {
                let (gate, up) = (buf(b, dim, &gate), buf(b, dim, &up));
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&rows(n)).unwrap();
                b.gate(&Gate { gate, up, activation, out });
                reader.read(b, Rows::All, n).await
            };
            check(&mut backends, &format!("{activation:?} [{n}, {dim}]"), case, float_bound).await;
        }
    }
}

async fn select_the_largest() {
    let mut backends = backends(Topic::Other).await;
    for (n_vocab, k, n) in
        [(1, 1, 1), (5, 5, 2), (300, 1, 3), (300, MAX_SELECTED, 1), (64, 64, 8), (5000, 20, 3), (49157, 64, 8)]
    {
        for kind in 0..3 {
            let mut random = Random::new((n_vocab + k + kind) as u64);
            let mut logits: Vec<f32> = random.floats(n * n_vocab).iter().map(|v| v * 20.0).collect();
            match kind {
                // Many equal ones: those with the lowest columns count.
                1 => logits.iter_mut().for_each(|v| *v = v.round()),
                // The largest side by side, at the end.
                2 => (n_vocab.saturating_sub(300)..n_vocab).for_each(|i| logits[i] += 50.0),
                _ => {}
            }
            let outputs: Vec<u32> = (0..n as u32).map(|i| 2 * i).collect();
            let case = async |b: &mut dyn Backend| {
                let (logits, out) = (buf(b, n_vocab, &logits), b.new_buf(n, 2 * k + 1).unwrap());
                b.begin(&Plan { outputs: outputs.clone(), ..rows(2 * n) }).unwrap();
                b.select(&Select { logits, out, sum: true });
                let mut got = get(b, out, n, 2 * k + 1).await;
                got.iter_mut().skip(2 * k).step_by(2 * k + 1).for_each(|sum| *sum = sum.ln());
                got
            };
            let bound = |i: usize, _| if i % (2 * k + 1) == 2 * k { 1e-5 } else { 0.0 };
            check(&mut backends, &format!("select {k} of {n_vocab} x {n}, {kind}"), case, bound).await;
        }
    }
}

tests![embed_of_every_type, norm_of_all_forms, gate_with_both_activations, select_the_largest];

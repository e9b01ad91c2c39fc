//! What each row undergoes by itself.

use super::common::random::{Random, rows};
use super::{Topic, backends, buf, check, float_bound, float_operand, get, tolerance};
use foreword::backend::{Activation, Backend, Delta, Gate, MAX_SELECTED, Norm, NormWeights, Plan, Rows, Select};
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
        for form in 0..18 * 4 {
            let (form, has_norm, has_out) = (form / 4, form & 1 == 0, form & 2 == 0);
            let mut random = Random::new((n + dim + form) as u64);
            let (x, delta) = (random.floats(n * dim), random.floats(n * dim));
            let (weight, post, bias) = (random.floats(dim), random.floats(dim), random.floats(dim));
            let outputs: Vec<u32> = (0..n as u32).filter(|_| random.below(2) == 0).chain([n as u32 - 1]).collect();
            let plan = Plan {
                outputs: {
                    let mut o = outputs;
                    o.dedup();
                    o
                },
                ..rows(n)
            };
            let run = Rows::Run { start: n as u32 / 3, end: (n - n / 4) as u32 };
            let covered = [Rows::All, Rows::Outputs, run][form % 3];
            let case = async |b: &mut dyn Backend| {
                let (xb, weight) = (buf(b, dim, &x), buf(b, dim, &weight));
                let (delta, post) = (buf(b, dim, &delta), buf(b, dim, &post));
                let bias = (form % 2 == 1).then(|| buf(b, dim, &bias));
                let norm = NormWeights { weight, bias, centered: form >= 9, replaces: form % 5 > 2 };
                let delta = match form / 3 % 3 {
                    0 => None,
                    1 => Some(Delta { buf: delta, norm: None, scale: 0.3, gain: 1.0 }),
                    _ => Some(Delta { buf: delta, norm: Some(post), scale: -1.2, gain: 0.7 }),
                };
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&plan).unwrap();
                let (norm, out) = (has_norm.then_some(norm), has_out.then_some(out));
                b.norm(&Norm { x: xb, delta, norm, eps: 1e-5, out, rows: covered });
                let mut got = Vec::new();
                if has_out {
                    got = reader.read(b, covered, plan.places(covered).end).await;
                }
                got.extend(get(b, xb, n, dim).await);
                got
            };
            check(&mut backends, &format!("norm [{n}, {dim}], form {form}, {has_norm}, {has_out}"), case, float_bound)
                .await;
        }
    }
}

async fn pack_rows_of_a_matrix() {
    let mut backends = backends(Topic::Other).await;
    for (n, dim) in [(1, 32), (5, 50), (33, 96), (3, 257)] {
        let outputs: Vec<u32> = (0..n as u32).filter(|row| row % 3 != 1).collect();
        for covered in [Rows::All, Rows::Outputs, Rows::Run { start: n as u32 / 3, end: (n - n / 4) as u32 }] {
            let x = Random::new((n + dim) as u64).floats(n * dim);
            let case = async |b: &mut dyn Backend| {
                let x = buf(b, dim, &x);
                let (out, reader) = float_operand(b, n, dim);
                let plan = Plan { outputs: outputs.clone(), ..rows(n) };
                b.begin(&plan).unwrap();
                b.pack(x, covered, out);
                reader.read(b, covered, plan.places(covered).end).await
            };
            check(&mut backends, &format!("pack [{n}, {dim}], {covered:?}"), case, |_, _| 0.0).await;
        }
    }
}

async fn gate_with_all_activations() {
    let mut backends = backends(Topic::Other).await;
    for (n, dim) in [(1, 32), (3, 96), (33, 257), (2, 1536)] {
        let activations = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::ClampedSwish];
        for (activation, gated) in activations.into_iter().flat_map(|a| [(a, true), (a, false)]) {
            let mut random = Random::new((n + dim) as u64);
            let gate: Vec<f32> = random.floats(n * dim).iter().map(|v| v * 12.0).collect();
            let up = random.floats(n * dim);
            let case = async |b: &mut dyn Backend| {
                let (gate, up) = (buf(b, dim, &gate), gated.then(|| buf(b, dim, &up)));
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&rows(n)).unwrap();
                b.gate(&Gate { gate, up, activation, out });
                reader.read(b, Rows::All, n).await
            };
            check(&mut backends, &format!("{activation:?} [{n}, {dim}], with up: {gated}"), case, float_bound).await;
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

tests![embed_of_every_type, norm_of_all_forms, pack_rows_of_a_matrix, gate_with_all_activations, select_the_largest];

//! Ops of layers that keep states.

use super::common::random::{Random, rows};
use super::{Named, Topic, backends, buf, check, float_bound, float_operand, get};
use foreword::backend::Before::{Row, Slot};
use foreword::backend::{
    Backend, CacheSpec, ConvForm, GatedNorm, LayerCache, LinearAttend, Plan, Rows, Rule, ShortConv, StateStep,
};

/// Two steps of 12 rows: sequences and branches of drafts behind states, which are then moved on by some of their rows, copied and
/// begun anew.
fn steps() -> [Plan; 2] {
    let chain =
        |slot: u32, first: u32, n: u32| (0..n).map(move |i| if i == 0 { Slot(slot) } else { Row(first + i - 1) });
    let (clear, advance) =
        (|slot| StateStep::Clear { slot }, |slot, rows: &[u32]| StateStep::Advance { slot, rows: rows.to_vec() });
    [
        Plan {
            states: vec![clear(0), clear(2)],
            // A run, and a tree whose branches take turns.
            before: chain(0, 0, 5).chain([Slot(2), Slot(2), Row(5), Row(6), Row(5), Row(8), Row(7)]).collect(),
            ..rows(12)
        },
        Plan {
            states: vec![
                advance(0, &[0, 1]),
                StateStep::Copy { from: 0, to: 1 },
                advance(0, &[2, 3, 4]),
                advance(2, &[5, 7, 11]),
                clear(3),
                advance(3, &[]),
            ],
            before: chain(1, 0, 3).chain(chain(0, 3, 4)).chain(chain(3, 7, 3)).chain(chain(2, 10, 2)).collect(),
            ..rows(12)
        },
    ]
}

async fn short_conv_with_states() {
    let mut backends = backends(Topic::Other).await;
    for (dim, taps) in [(32, 3), (200, 2), (65, 8), (1024, 3)] {
        check_conv(&mut backends, (dim, taps), true, false).await;
    }
    for (dim, taps, biased) in [(96, 4, false), (65, 2, true), (200, 8, true)] {
        check_conv(&mut backends, (dim, taps), false, biased).await;
    }
}

async fn check_conv(backends: &mut [Named], (dim, taps): (usize, usize), gated: bool, biased: bool) {
    let mut random = Random::new((dim + taps) as u64);
    let width = if gated { 3 * dim } else { dim };
    let xs: Vec<Vec<f32>> = (0..2).map(|_| random.floats(12 * width)).collect();
    let (weight, bias) = (random.floats(taps * dim), random.floats(dim));
    let case = async |b: &mut dyn Backend| {
        let layers = vec![LayerCache::State { floats: 1 }, LayerCache::State { floats: (taps - 1) * dim }];
        let cache = b.new_cache(&CacheSpec { layers, n_blocks: 1, n_slots: 4 }).unwrap();
        let [x, kept, out] = [width, dim, dim].map(|cols| b.new_buf(12, cols).unwrap());
        let (weight, mut all) = (buf(b, dim, &weight), Vec::new());
        let form = match gated {
            true => ConvForm::Gated,
            false => ConvForm::Silu { bias: biased.then(|| buf(b, dim, &bias)) },
        };
        for (plan, values) in steps().iter().zip(&xs) {
            b.begin(plan).unwrap();
            b.write(x, 0, values).unwrap();
            b.short_conv(&ShortConv { x, form, weight, taps, kept, cache, layer: 1, out });
            all.extend(get(b, out, 12, dim).await);
        }
        all
    };
    check(backends, &format!("short_conv [12, {dim}], {taps} taps, gated: {gated}"), case, float_bound).await;
}

/// Heads of key and value, their widths, and whether the rule is DeltaNet's.
async fn linear_attention_with_states() {
    let mut backends = backends(Topic::Other).await;
    for (n_key_heads, key_dim, n_heads, head_dim) in
        [(1, 16, 1, 32), (2, 20, 6, 24), (1, 40, 2, 33), (3, 128, 3, 128), (2, 256, 4, 5)]
    {
        for delta in [true, false] {
            check_linear(&mut backends, (n_key_heads, key_dim), (n_heads, head_dim), delta).await;
        }
    }
}

async fn check_linear(
    backends: &mut [Named],
    (n_key_heads, key_dim): (usize, usize),
    (n_heads, head_dim): (usize, usize),
    delta: bool,
) {
    let mut random = Random::new((key_dim + head_dim) as u64);
    let (values, keys) = (n_heads * head_dim, n_key_heads * key_dim);
    let width = 2 * keys + values;
    // Steps far from zero, too: logarithms and logistic functions of what is large.
    let mut floats = |n: usize, scale: f32| -> Vec<f32> { random.floats(n).iter().map(|v| scale * v).collect() };
    let xs: Vec<[Vec<f32>; 3]> =
        (0..2).map(|_| [floats(12 * width, 1.0), floats(12 * n_heads, 9.0), floats(12 * n_heads, 9.0)]).collect();
    let rates: Vec<f32> = floats(n_heads, 1.0).iter().map(|v| -v.abs()).collect();
    let skip = floats(n_heads, 1.0);
    let case = async |b: &mut dyn Backend| {
        let layers = vec![LayerCache::State { floats: 1 }, LayerCache::State { floats: key_dim * values }];
        let cache = b.new_cache(&CacheSpec { layers, n_blocks: 1, n_slots: 4 }).unwrap();
        let kept_width = LinearAttend::kept_width(n_key_heads, key_dim, n_heads, head_dim);
        let [x, steps_buf, gains, kept, out] =
            [width, n_heads, n_heads, kept_width, values].map(|cols| b.new_buf(12, cols).unwrap());
        let (rates, skip, mut all) = (buf(b, n_heads, &rates), buf(b, n_heads, &skip), Vec::new());
        let rule = if delta { Rule::Delta { gains, eps: 1e-5 } } else { Rule::Mamba { skip } };
        for (plan, [x_values, step_values, gain_values]) in steps().iter().zip(&xs) {
            b.begin(plan).unwrap();
            b.write(x, 0, x_values).unwrap();
            b.write(steps_buf, 0, step_values).unwrap();
            b.write(gains, 0, gain_values).unwrap();
            let (steps, layer) = (steps_buf, 1);
            b.linear_attend(&LinearAttend {
                x,
                steps,
                rates,
                rule,
                n_key_heads,
                key_dim,
                n_heads,
                head_dim,
                kept,
                cache,
                layer,
                out,
            });
            all.extend(get(b, out, 12, values).await);
        }
        all
    };
    let what = format!("linear_attend {n_key_heads} x {key_dim}, {n_heads} x {head_dim}, delta: {delta}");
    check(backends, &what, case, float_bound).await;
}

async fn gated_norm_of_groups() {
    let mut backends = backends(Topic::Lanes).await;
    for (n, dim, group) in [(1, 32, 32), (5, 96, 24), (3, 50, 5), (2, 1024, 128)] {
        for gate_first in [true, false] {
            let mut random = Random::new((n + dim) as u64);
            let (x, weight) = (random.floats(n * dim), random.floats(dim));
            let gate: Vec<f32> = random.floats(n * dim).iter().map(|v| v * 12.0).collect();
            let case = async |b: &mut dyn Backend| {
                let [x, gate, weight] = [&x, &gate, &weight].map(|values| buf(b, dim, values));
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&rows(n)).unwrap();
                b.gated_norm(&GatedNorm { x, gate, weight, group, gate_first, eps: 1e-5, out });
                reader.read(b, Rows::All, n).await
            };
            let what = format!("gated_norm [{n}, {dim}], groups of {group}, gate first: {gate_first}");
            check(&mut backends, &what, case, float_bound).await;
        }
    }
}

tests![short_conv_with_states, linear_attention_with_states, gated_norm_of_groups];

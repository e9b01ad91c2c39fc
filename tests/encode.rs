//! Floats to tensor types: bit for bit as the PyPI package gguf does, where it can (`data/make_quantized.py`), and elsewhere at least as
//! well as plain rounding in 64 bits.

mod common;

use common::random::Random;
use foreword::Kind;
use foreword::quant::encode::gptq::Hessian;
use foreword::quant::encode::{TYPES, encode};
use foreword::quant::{TensorType, decode, group_len};

fn encoded(ty: TensorType, rows: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = Vec::new();
    rows.chunks_exact(cols).for_each(|row| encode(ty, row, importance, &mut out).expect("a sound row"));
    out
}

fn decoded(ty: TensorType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    decode(ty, bytes, &mut out).expect("whole blocks");
    out
}

#[test]
fn plain_rounding_is_the_references_bit_for_bit() {
    let (gguf, mut sources) = common::open(&common::data("quantized.gguf"));
    let mut read = |name: &str| {
        let info = gguf.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let mut bytes = vec![0; info.n_bytes as usize];
        pollster::block_on(sources[0].read_at(info.offset, &mut bytes)).expect("the data");
        bytes
    };
    let rows: Vec<f32> = read("input").as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for tensor in gguf.tensors.iter().filter(|t| t.name != "input") {
        let (ty, wanted) = (tensor.ty, read(&tensor.name));
        let found = encoded(ty, &rows, 256, None);
        assert_eq!(found.len(), wanted.len());
        for (i, (found, wanted)) in
            found.chunks_exact(ty.block_bytes()).zip(wanted.chunks_exact(ty.block_bytes())).enumerate()
        {
            assert_eq!(found, wanted, "{} row {}, block {i}", ty.name(), i * ty.block_len() / 256);
        }
    }
}

/// Bell-shaped weights with a few large ones, as models have them.
fn weights(rows: usize) -> Vec<f32> {
    let mut r = Random::new(5);
    let mut weight = || (0..6).map(|_| r.float()).sum::<f32>() * if r.below(100) == 0 { 2.0 } else { 0.4 };
    (0..rows * 256).map(|_| weight()).collect()
}

fn squares(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let square = |(i, (x, y)): (usize, (&f32, &f32))| {
        f64::from(importance[i % importance.len()]) * (f64::from(*x) - f64::from(*y)).powi(2)
    };
    x.iter().zip(y).enumerate().map(square).sum()
}

/// Plain rounding in 64 bits with scales that cost nothing: what types whose scales are rounded themselves have to reach. Where a type
/// has minima, steps go from the least to the largest weight of a group; where not, as far as the largest on either side.
#[test]
fn searched_scales_are_as_good_as_plain_rounding_in_64_bits() {
    let x = weights(64);
    for (ty, steps, has_minima) in [
        (TensorType::Q6_K, 64.0, false),
        (TensorType::Q5_K, 32.0, true),
        (TensorType::Q4_K, 16.0, true),
        (TensorType::Q3_K, 8.0, false),
        (TensorType::Q2_K, 4.0, true),
        (TensorType::IQ4_NL, 16.0, false),
        (TensorType::IQ4_XS, 16.0, false),
        (TensorType::NVFP4, 16.0, false),
    ] {
        let plain: f64 = x.chunks_exact(group_len(ty)).map(|group| plain_error(group, steps, has_minima)).sum();
        let bytes = encoded(ty, &x, 256, None);
        let found = squares(&x, &decoded(ty, &bytes, x.len()), &[1.0]);
        println!("searched {}: {:.3}", ty.name(), found / plain);
        assert!(found <= plain, "{}: {} of plain rounding's error", ty.name(), found / plain);
    }
}

fn plain_error(group: &[f32], steps: f64, has_minima: bool) -> f64 {
    let group = group.iter().map(|&x| f64::from(x));
    let low = group.clone().fold(f64::INFINITY, f64::min);
    let high = group.clone().fold(f64::NEG_INFINITY, f64::max);
    let largest = high.max(-low);
    let (low, step) = match has_minima {
        true => (low, (high - low) / (steps - 1.0)),
        false => (0.0, largest / (steps / 2.0 - 1.0)),
    };
    group.map(|x| (x - (low + step * ((x - low) / step).round())).powi(2)).sum()
}

/// Columns that matter more get less of the error, in every type that leaves scales open.
#[test]
fn importance_lowers_the_error_where_it_counts() {
    let (x, mut r) = (weights(32), Random::new(9));
    let importance: Vec<f32> = (0..256).map(|_| if r.below(8) == 0 { 30.0 } else { 0.1 + r.float().abs() }).collect();
    for &ty in TYPES.iter().filter(|ty| !ty.is_float() && **ty != TensorType::Q8_0) {
        let error = |importance_given: Option<&[f32]>| {
            let bytes = encoded(ty, &x, 256, importance_given);
            squares(&x, &decoded(ty, &bytes, x.len()), &importance)
        };
        let (with, without) = (error(Some(&importance)), error(None));
        println!("{}: {:.3}", ty.name(), with / without);
        assert!(with < 0.97 * without, "{}: {with} with, {without} without", ty.name());
    }
}

/// Zeros, rows of one value and single weights come back as near as a type can say them.
#[test]
fn strange_rows_are_encoded() {
    let mut rows = vec![vec![0.0; 256], vec![0.3; 256], vec![-0.3; 256], vec![1e-12; 256]];
    let mut one = vec![0.0; 256];
    one[77] = -2.0;
    rows.push(one);
    rows.push((0..256).map(|i| if i < 128 { 0.0 } else { 1.0 }).collect());
    for &ty in TYPES {
        for (i, row) in rows.iter().enumerate() {
            for importance in [None, Some(&vec![0.0; 256][..]), Some(&vec![1.0; 256][..])] {
                let back = decoded(ty, &encoded(ty, row, 256, importance), 256);
                let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                for (x, y) in row.iter().zip(&back) {
                    // Half floats end at tiny numbers, and NVFP4's own scales before those.
                    let bound = 0.3 * largest + 1e-6 + 2e-3 * f32::from(u8::from(ty == TensorType::NVFP4));
                    assert!((x - y).abs() <= bound, "{} row {i}: {y} for {x}", ty.name());
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let refused = |ty, row: &[f32], importance: Option<&[f32]>| {
        let error = encode(ty, row, importance, &mut Vec::new()).expect_err("a refusal");
        (error.kind(), error.to_string())
    };
    for &ty in TYPES {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![0.5; 256];
            row[200] = wrong;
            let (kind, text) = refused(ty, &row, None);
            assert!(kind == Kind::BadFile && text.contains("no number"), "{}: {text}", ty.name());
        }
    }
    for ty in [TensorType::F16, TensorType::Q4_0, TensorType::Q6_K, TensorType::Q2_K] {
        let (kind, text) = refused(ty, &[3e9; 256], None);
        assert!(kind == Kind::BadFile && text.contains("too large"), "{}: {text}", ty.name());
    }
    assert_eq!(refused(TensorType::Q4_K, &[0.0; 32], None).0, Kind::InvalidRequest);
    assert_eq!(refused(TensorType::Q4_0, &[0.0; 32], Some(&[1.0; 31])).0, Kind::InvalidRequest);
    assert_eq!(refused(TensorType::IQ2_XS, &[0.0; 256], None).0, Kind::InvalidRequest);
}

/// Inputs of which neighbouring columns go together, and some are larger than others.
fn inputs(n: usize, rows: usize) -> Vec<f32> {
    let mut r = Random::new(3);
    let mut x = Vec::new();
    for _ in 0..rows {
        let mut last = 0.0;
        for i in 0..n {
            last = 0.8 * last + r.float();
            x.push(last * if i % 7 == 0 { 4.0 } else { 1.0 });
        }
    }
    x
}

/// Sums of squares of products with what is left of the weights.
fn left(x: &[f32], w: &[f32], found: &[f32], n: usize) -> f64 {
    let errors: Vec<f64> = w.iter().zip(found).map(|(w, f)| f64::from(*w) - f64::from(*f)).collect();
    let square = |x: &[f32], e: &[f64]| x.iter().zip(e).map(|(x, e)| f64::from(*x) * e).sum::<f64>().powi(2);
    x.chunks_exact(n).map(|x| errors.chunks_exact(n).map(|e| square(x, e)).sum::<f64>()).sum()
}

#[test]
fn gptq_leaves_less_of_an_error_in_products() {
    let (n, w) = (256, weights(24));
    let x = inputs(n, 600);
    let mut hessian = Hessian::new(n);
    x.chunks(37 * n).for_each(|x| hessian.add(x, 2));
    let factors = hessian.factors(0.01).expect("sound inputs");
    for &ty in TYPES.iter().filter(|ty| !ty.is_float()) {
        let mut bytes = Vec::new();
        factors.encode(ty, &w, &mut bytes).expect("sound rows");
        let error = |bytes: &[u8]| left(&x, &w, &decoded(ty, bytes, w.len()), n);
        let (found, plain) = (error(&bytes), error(&encoded(ty, &w, n, None)));
        println!("{}: {:.3}", ty.name(), found / plain);
        assert!(found < 0.6 * plain, "{}: {found}, plain {plain}", ty.name());
    }
}

/// The published algorithm, in 64 bits and with the inverse of the Hessian: each column's error is taken over by all that are not yet
/// rounded, and the column leaves the inverse.
#[test]
fn gptq_is_that_of_its_definition() {
    let n = 32;
    let (w, x) = (&weights(16)[..], inputs(n, 200));
    let mut hessian = Hessian::new(n);
    hessian.add(&x, 1);
    let mut bytes = Vec::new();
    hessian.factors(0.01).expect("sound inputs").encode(TensorType::Q4_0, w, &mut bytes).expect("sound rows");

    let mut h = vec![vec![0.0; n]; n];
    for x in x.chunks_exact(n) {
        (0..n * n).for_each(|at| h[at / n][at % n] += f64::from(x[at / n]) * f64::from(x[at % n]));
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| h[b][b].total_cmp(&h[a][a]));
    let mean = (0..n).map(|i| h[i][i]).sum::<f64>() / n as f64;
    (0..n).for_each(|i| h[i][i] += 0.01 * mean);
    let inverse = inverse(h);
    let (mut same, mut all) = (0, 0);
    for (w, block) in w.chunks_exact(n).zip(bytes.chunks_exact(18)) {
        let scale = f64::from(half::f16::from_le_bytes([block[0], block[1]]));
        let mut w: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
        let mut inverse = inverse.clone();
        for &k in &order {
            let code = (w[k] / scale).round().clamp(-8.0, 7.0);
            let found = block[2 + k % 16] >> (k / 16 * 4) & 15;
            same += usize::from(f64::from(found) - 8.0 == code);
            all += 1;
            let error = (w[k] - scale * code) / inverse[k][k];
            (0..n).for_each(|j| w[j] -= error * inverse[k][j]);
            let (row, pivot) = (inverse[k].clone(), inverse[k][k]);
            (0..n * n).for_each(|at| inverse[at / n][at % n] -= row[at / n] * row[at % n] / pivot);
        }
    }
    assert!(all == 16 * 256 && same >= all - 4, "{same} of {all} codes are the same");
}

fn inverse(mut h: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = h.len();
    let mut out: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for k in 0..n {
        let pivot = h[k][k];
        for j in 0..n {
            h[k][j] /= pivot;
            out[k][j] /= pivot;
        }
        for i in (0..n).filter(|&i| i != k) {
            let factor = h[i][k];
            for j in 0..n {
                h[i][j] -= factor * h[k][j];
                out[i][j] -= factor * out[k][j];
            }
        }
    }
    out
}

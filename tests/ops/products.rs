//! Matrix products.

use super::common::random::{Random, rows};
use super::{Named, Topic, backends, buf, check, get, tolerance};
use foreword::backend::{Backend, Epilogue, Norm, NormWeights, Product, Rows};
use foreword::quant::{TensorType, decode};

/// Rows divided by their root mean square and multiplied by `weight`.
fn normalised(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let cols = weight.len();
    let rms = |row: &[f32]| (row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64).sqrt();
    x.chunks(cols)
        .map(|row| (row, rms(row)))
        .flat_map(|(row, rms)| row.iter().zip(weight).map(move |(&v, &w)| f64::from(v) / rms * f64::from(w)))
        .collect()
}

/// Bound on `weight · x` when `x` is quantized: per 32 columns, the largest `|x|` times the sum of `|w|`.
fn product_bounds(ty: TensorType, decoded: &[f32], x: &[f64], cols: usize) -> Vec<f64> {
    let relative = if ty.is_float() { 1e-5 } else { tolerance::ACTIVATIONS + tolerance::SCALES };
    let bound = |x: &[f64], w: &[f32]| -> f64 {
        let groups = x.chunks(32).zip(w.chunks(32));
        let sum: f64 = groups
            .map(|(x, w)| {
                x.iter().fold(0.0, |m: f64, v| m.max(v.abs())) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
            })
            .sum();
        sum * relative + 1e-5
    };
    x.chunks(cols).flat_map(|x| decoded.chunks(cols).map(move |w| bound(x, w))).collect()
}

struct Shape {
    ty: TensorType,
    rows: usize,
    cols: usize,
    n: usize,
    /// Weight of the norm before the product, by column.
    norm: fn(usize) -> f32,
}

const ONES: fn(usize) -> f32 = |_| 1.0;

/// Norm, then a product.
async fn matmul_case(backends: &mut [Named], shape: &Shape, epilogue: &dyn Fn(&mut dyn Backend) -> Epilogue) {
    let &Shape { ty, rows: n_rows, cols, n, norm } = shape;
    let norm: Vec<f32> = (0..cols).map(norm).collect();
    let mut random = Random::new((n_rows * 31 + cols * 7 + n) as u64);
    let bytes = random.weights(ty, n_rows * cols);
    let (x, before) = (random.floats(n * cols), random.floats(n * n_rows));
    let mut decoded = vec![0.0; n_rows * cols];
    decode(ty, &bytes, &mut decoded).unwrap();
    let bounds = product_bounds(ty, &decoded, &normalised(&x, &norm), cols);
    let case = async |b: &mut dyn Backend| {
        let weight = b.new_weight(ty, n_rows, cols).unwrap();
        // In two parts, the second one ragged.
        let cut = (n_rows / 2).next_multiple_of(16).min(n_rows);
        let (first, second) = bytes.split_at(ty.row_bytes(cut * cols).unwrap());
        b.load_rows(weight, 0, first).unwrap();
        if !second.is_empty() {
            b.load_rows(weight, cut, second).unwrap();
        }
        let (x, weights, out) = (buf(b, cols, &x), buf(b, cols, &norm), buf(b, n_rows, &before));
        let operand = b.new_operand(n, cols, &[weight]).unwrap();
        let epilogue = epilogue(b);
        b.begin(&rows(n)).unwrap();
        b.norm(&Norm {
            x,
            delta: None,
            norm: Some(NormWeights::rms(weights)),
            eps: 0.0,
            out: Some(operand),
            rows: Rows::All,
        });
        b.matmul(operand, Rows::All, &[Product { weight, out, epilogue }]);
        get(b, out, n, n_rows).await
    };
    // Factors of the epilogues below are at most 1, and a soft-cap only flattens.
    check(backends, &format!("matmul {ty:?} [{n_rows}, {cols}] x {n}"), case, |i, _| bounds[i]).await;
}

async fn matmul_of_every_type() {
    let mut backends = backends(Topic::Other).await;
    for &ty in TensorType::ALL {
        for (n_rows, cols, n) in [
            (1, 32, 1),
            (17, 96, 2),
            (16, 256, 1),
            (37, 256, 3),
            (70, 576, 7),
            (64, 512, 33),
            (130, 768, 100),
            (49, 64, 16),
        ] {
            // Of kernels that differ by a number of tokens only, one sees all types.
            let backends = backends.of_type(ty, !matches!(n, 2 | 3 | 16));
            if cols % ty.block_len() == 0 {
                matmul_case(backends, &Shape { ty, rows: n_rows, cols, n, norm: ONES }, &|_| Epilogue::STORE).await;
            }
        }
    }
    for (n_rows, cols, n) in [(5, 7, 1), (33, 50, 3), (65, 33, 40)] {
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            matmul_case(&mut backends, &Shape { ty, rows: n_rows, cols, n, norm: ONES }, &|_| Epilogue::STORE).await;
        }
    }
}

/// Beyond what half floats hold: a few columns are far larger than the others, as in real models.
async fn matmul_of_inputs_far_apart() {
    let mut backends = backends(Topic::Other).await;
    let norm: fn(usize) -> f32 = |column| if column % 77 == 5 { 1e6 } else { 10.0 };
    for ty in [TensorType::Q4_1, TensorType::Q6_K, TensorType::Q8_0, TensorType::MXFP4] {
        matmul_case(&mut backends, &Shape { ty, rows: 37, cols: 256, n: 40, norm }, &|_| Epilogue::STORE).await;
    }
}

async fn matmul_epilogues() {
    let mut backends = backends(Topic::Other).await;
    for n in [1, 3, 40] {
        for i in 0..16 {
            let shape = Shape { ty: [TensorType::Q4_1, TensorType::F32][i % 2], rows: 50, cols: 96, n, norm: ONES };
            matmul_case(&mut backends, &shape, &move |b| Epilogue {
                scale: if i & 8 == 0 { 1.0 } else { -0.7 },
                bias: (i & 1 == 0).then(|| buf(b, 50, &Random::new(5).floats(50))),
                softcap: if i & 2 == 0 { 0.0 } else { 0.8 },
                accumulate: i & 4 == 0,
            })
            .await;
        }
    }
}

async fn matmul_of_several_weights() {
    let mut backends = backends(Topic::Other).await;
    let types = [TensorType::Q4_0, TensorType::Q4_0, TensorType::Q6_K, TensorType::Q8_0, TensorType::Q4_0];
    let (sizes, cols) = ([48, 16, 33, 5, 100], 256);
    for n in [1, 7, 50] {
        let mut random = Random::new(n as u64);
        let x = random.floats(n * cols);
        let bytes: Vec<Vec<u8>> = types.iter().zip(sizes).map(|(&ty, rows)| random.weights(ty, rows * cols)).collect();
        let scaled = normalised(&x, &vec![1.0; cols]);
        let mut bounds = Vec::new();
        for ((&ty, rows), bytes) in types.iter().zip(sizes).zip(&bytes) {
            let mut decoded = vec![0.0; rows * cols];
            decode(ty, bytes, &mut decoded).unwrap();
            bounds.extend(product_bounds(ty, &decoded, &scaled, cols));
        }
        let case = async |b: &mut dyn Backend| {
            let mut weights = Vec::new();
            for ((&ty, rows), bytes) in types.iter().zip(sizes).zip(&bytes) {
                let weight = b.new_weight(ty, rows, cols).unwrap();
                b.load_rows(weight, 0, bytes).unwrap();
                weights.push(weight);
            }
            let (x, ones) = (buf(b, cols, &x), buf(b, cols, &vec![1.0; cols]));
            let operand = b.new_operand(n, cols, &weights).unwrap();
            let product =
                |(&weight, rows)| Product { weight, out: b.new_buf(n, rows).unwrap(), epilogue: Epilogue::STORE };
            let products: Vec<Product> = weights.iter().zip(sizes).map(product).collect();
            b.begin(&rows(n)).unwrap();
            b.norm(&Norm {
                x,
                delta: None,
                norm: Some(NormWeights::rms(ones)),
                eps: 0.0,
                out: Some(operand),
                rows: Rows::All,
            });
            b.matmul(operand, Rows::All, &products);
            let mut got = Vec::new();
            for (p, rows) in products.iter().zip(sizes) {
                got.extend(get(b, p.out, n, rows).await);
            }
            got
        };
        check(&mut backends, &format!("matmul of five weights x {n}"), case, |i, _| bounds[i]).await;
    }
}

/// As adapters do in a batch: each run of rows has weights of its own, which add to what is there.
async fn matmul_of_runs_of_rows() {
    let mut backends = backends(Topic::Other).await;
    let (n, n_rows, cols, runs) = (60, 50, 96, [0..0, 0..3, 3..4, 4..20, 20..59]);
    for ty in [TensorType::Q4_1, TensorType::F16] {
        let mut random = Random::new(11);
        let (x, before) = (random.floats(n * cols), random.floats(n * n_rows));
        let bytes = runs.clone().map(|_| random.weights(ty, n_rows * cols));
        // The last row belongs to no run and keeps what it has.
        let mut bounds = vec![1e-5; n * n_rows];
        for (run, bytes) in runs.iter().zip(&bytes) {
            let mut decoded = vec![0.0; n_rows * cols];
            decode(ty, bytes, &mut decoded).unwrap();
            let x: Vec<f64> = x[run.start * cols..run.end * cols].iter().map(|&v| f64::from(v)).collect();
            bounds[run.start * n_rows..run.end * n_rows].copy_from_slice(&product_bounds(ty, &decoded, &x, cols));
        }
        let case = async |b: &mut dyn Backend| {
            let (x, out) = (buf(b, cols, &x), buf(b, n_rows, &before));
            let weights = bytes.clone().map(|bytes| {
                let weight = b.new_weight(ty, n_rows, cols).unwrap();
                b.load_rows(weight, 0, &bytes).unwrap();
                weight
            });
            let operand = b.new_operand(n, cols, &weights).unwrap();
            b.begin(&rows(n)).unwrap();
            for (run, weight) in runs.iter().zip(weights) {
                let rows = Rows::Run { start: run.start as u32, end: run.end as u32 };
                b.pack(x, rows, operand);
                let epilogue = Epilogue { accumulate: true, ..Epilogue::STORE };
                b.matmul(operand, rows, &[Product { weight, out, epilogue }]);
            }
            get(b, out, n, n_rows).await
        };
        check(&mut backends, &format!("matmul {ty:?} of runs of rows"), case, |i, _| bounds[i]).await;
    }
}

tests![
    matmul_of_every_type,
    matmul_of_inputs_far_apart,
    matmul_epilogues,
    matmul_of_several_weights,
    matmul_of_runs_of_rows
];

//! A short trial of a backend, by which one is chosen: products of the sizes of a small model, on weights that mean nothing.

use super::{Backend, Epilogue, Norm, NormWeights, Plan, Product, Rows, Span, read};
use crate::error::Result;
use crate::quant::TensorType;

/// Rows and columns of each weight.
const DIM: usize = 1536;
/// Weights; 16 MB in all, more than processors and GPUs keep near.
const WEIGHTS: usize = 12;
/// How often a step of one token passes over all weights, so that what a step costs by itself weighs as in a real model.
const PASSES: usize = 4;
/// Tokens of the step that stands for prompts.
const ROWS: usize = 32;
/// Steps of each kind; the first one also compiles kernels.
const STEPS: usize = 3;

/// Milliseconds that stand for a prompt and an answer of as many tokens; to be compared with those of other backends only.
/// `clock` gives milliseconds.
///
/// # Errors
/// [`crate::Kind::OutOfMemory`], [`crate::Kind::DeviceLost`].
pub async fn trial(backend: &mut dyn Backend, clock: fn() -> f64) -> Result<f64> {
    let row_bytes = TensorType::Q4_0.row_bytes(DIM).unwrap_or(0);
    // As scales of half floats these bytes are small numbers.
    let bytes = vec![0x2c; DIM * row_bytes];
    let mut weights = Vec::new();
    for _ in 0..WEIGHTS {
        let weight = backend.new_weight(TensorType::Q4_0, DIM, DIM)?;
        backend.load_rows(weight, 0, &bytes)?;
        weights.push(weight);
    }
    let (x, out) = (backend.new_buf(ROWS, DIM)?, backend.new_buf(ROWS, DIM)?);
    backend.write(x, 0, &vec![0.5; ROWS * DIM])?;
    let ones = backend.new_buf(1, DIM)?;
    backend.write(ones, 0, &vec![1.0; DIM])?;
    let operand = backend.new_operand(ROWS, DIM, &weights)?;
    let norm =
        Norm { x, delta: None, norm: Some(NormWeights::rms(ones)), eps: 1e-5, out: Some(operand), rows: Rows::All };
    let mut result = vec![0.0; DIM];
    let mut total = 0.0;
    // A prompt of 256 tokens is 8 steps of 32 in 4 passes; the same number of answered tokens is 256 steps: 1 to 8.
    for (rows, passes, weight_of_step) in [(1, PASSES, 8.0), (ROWS, 1, 1.0)] {
        let plan = plan_of(rows);
        let mut best = f64::INFINITY;
        for _ in 0..STEPS {
            let started = clock();
            backend.begin(&plan)?;
            for &weight in weights.iter().cycle().take(passes * WEIGHTS) {
                backend.norm(&norm);
                backend.matmul(operand, Rows::All, &[Product { weight, out, epilogue: Epilogue::STORE }]);
            }
            read(backend, out, 1, &mut result).await?;
            best = f64::min(best, clock() - started);
        }
        total += best * weight_of_step;
    }
    Ok(total)
}

/// A run of tokens of one sequence.
fn plan_of(n: usize) -> Plan {
    let run = || 0..n as u32;
    Plan {
        tokens: vec![0; n],
        positions: run().collect(),
        cells: run().collect(),
        spans: run().map(|i| Span { prefix: i + 1, ..Span::default() }).collect(),
        blocks: vec![0],
        outputs: vec![0],
        ..Plan::default()
    }
}

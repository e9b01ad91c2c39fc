//! Products of the CPU backend against decoded weights in f64, every type and instruction set.

use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{Backend, Epilogue, Norm, Plan, Product, Rows, Span};
use foreword::quant::{TensorType, decode};

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn float(seed: &mut u64) -> f32 {
    (random(seed) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// Random valid blocks with scales around 0.01.
fn weights(ty: TensorType, n: usize, seed: &mut u64) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..n / ty.block_len() {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| random(seed) as u8).collect();
        let halves: &[usize] = match ty {
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 | TensorType::IQ4_NL => &[0],
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::Q6_K => &[208],
            TensorType::F16 => &[0],
            _ => &[],
        };
        for &at in halves {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(float(seed) * 0.02).to_le_bytes());
        }
        match ty {
            TensorType::F32 => block.copy_from_slice(&float(seed).to_le_bytes()),
            TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(float(seed)).to_le_bytes()),
            TensorType::MXFP4 => block[0] = 118 + (block[0] & 7),
            _ => {}
        }
        out.extend(block);
    }
    out
}

fn check(level: Level, ty: TensorType, rows: usize, cols: usize, n: usize, threads: usize) {
    let mut seed = 0x1234_5678_9abc_def1 ^ (rows * 31 + cols * 7 + n) as u64;
    let mut cpu = Cpu::with_level(threads, level);
    let bytes = weights(ty, rows * cols, &mut seed);
    let weight = cpu.new_weight(ty, rows, cols).unwrap();
    cpu.load_rows(weight, 0, &bytes).unwrap();
    let mut decoded = vec![0.0; rows * cols];
    decode(ty, &bytes, &mut decoded).unwrap();

    let x: Vec<f32> = (0..n * cols).map(|_| float(&mut seed)).collect();
    let (xb, ones) = (cpu.new_buf(n, cols).unwrap(), cpu.new_buf(1, cols).unwrap());
    cpu.write(xb, 0, &x).unwrap();
    cpu.write(ones, 0, &vec![1.0; cols]).unwrap();
    let operand = cpu.new_operand(n, cols, &[weight]).unwrap();
    let out = cpu.new_buf(n, rows).unwrap();
    let spans = (0..n).map(|i| Span { prefix: i as u32 + 1, ..Span::default() }).collect();
    let plan = Plan { tokens: vec![0; n], positions: vec![0; n], cells: vec![0; n], spans, ..Plan::default() };
    cpu.begin(&plan).unwrap();
    cpu.norm(&Norm { x: xb, delta: None, weight: ones, eps: 0.0, out: operand, rows: Rows::All });
    cpu.matmul(operand, Rows::All, &[Product { weight, out, epilogue: Epilogue::STORE }]);
    let mut got = vec![0.0; n * rows];
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(cpu.poll_read(&mut cx, out, 0..n, &mut got).is_ready());

    for t in 0..n {
        let row = &x[t * cols..][..cols];
        let rms = (row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64).sqrt();
        for r in 0..rows {
            let w = &decoded[r * cols..][..cols];
            let want: f64 = w.iter().zip(row).map(|(&w, &x)| f64::from(w) * f64::from(x) / rms).sum();
            // Half a step of the activations' 8 bits, and the half-float rounding of scales.
            let bound: f64 = w
                .chunks(32)
                .zip(row.chunks(32))
                .map(|(w, x)| {
                    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    w.iter().map(|w| f64::from(w.abs() * largest)).sum::<f64>() / rms
                })
                .sum();
            let bound = bound * if ty.is_float() { 1e-5 } else { 0.5 / 127.0 + 1e-3 } + 1e-5;
            let diff = (f64::from(got[t * rows + r]) - want).abs();
            assert!(diff <= bound, "{} {ty:?} [{rows}, {cols}] x {n}: {diff} > {bound} at {t}, {r}", level.name());
        }
    }
    // Embedding rows decode exactly up to the half-float rounding of scales.
    let table = cpu.new_buf(n, cols).unwrap();
    cpu.embed(weight, 1.0, table);
    let mut row = vec![0.0; cols];
    assert!(cpu.poll_read(&mut cx, table, 0..1, &mut row).is_ready());
    for (got, want) in row.iter().zip(&decoded) {
        assert!((got - want).abs() <= want.abs() * 1e-3 + 2e-3, "{ty:?}: embedding {got} for {want}");
    }
}

#[test]
fn products_are_within_the_bound_of_activation_quantization() {
    for level in Level::available() {
        for &ty in TensorType::ALL {
            let unit = ty.block_len().max(32);
            for (rows, cols, n) in [(1, unit, 1), (16, 2 * unit, 2), (37, 3 * unit, 5), (64, 18 * 32, 33)] {
                if cols % ty.block_len() == 0 {
                    check(level, ty, rows, cols, n, 2);
                }
            }
        }
    }
}

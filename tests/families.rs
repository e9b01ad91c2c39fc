//! A tiny random model of every architecture against independent logits (`tests/data/make_models.py`), at every
//! instruction set, read token by token and as one batch.

mod common;

use common::{data, exact_options, json_lines, load};
use foreword::backend::cpu::Cpu;
use foreword::backend::cpu::simd::Level;
use foreword::batch::{Batch, BatchToken};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Largest difference of a logit; the logits are of the order of 1.
const TOLERANCE: f32 = 1e-3;

fn check(case: &serde_json::Value, level: Level, step: usize) {
    let name = case["model"].as_str().expect("a name");
    let ints = |v: &serde_json::Value| -> Vec<u32> { serde_json::from_value(v.clone()).expect("integers") };
    let (tokens, positions) = (ints(&case["tokens"]), ints(&case["positions"]));
    let mut model = load(&data(&format!("models/{name}.gguf")), &exact_options(256), Cpu::with_level(2, level));
    let seq = model.kv_mut().new_seq();
    let (mut batch, mut logits, mut got) = (Batch::new(), Vec::new(), Vec::new());
    for (i, chunk) in tokens.chunks(step).enumerate() {
        batch.clear();
        for (j, &token) in chunk.iter().enumerate() {
            let output = positions.contains(&((i * step + j) as u32));
            batch.push(BatchToken { token, seq, parent: j.checked_sub(1).map(|p| p as u32), output });
        }
        pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
        model.kv_mut().commit_run(seq).expect("a commit");
        got.extend_from_slice(&logits);
    }
    let want: Vec<f32> = case["logits"]
        .as_array()
        .expect("rows")
        .iter()
        .flat_map(|row| row.as_array().expect("a row"))
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect();
    assert_eq!(got.len(), want.len(), "{name}");
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{name} {} {step} at a time: {worst:.1e}", level.name());
    assert!(worst <= TOLERANCE, "{name}, {}, {step} tokens at a time: logits are off by {worst}", level.name());
}

#[test]
fn every_architecture_equals_its_reference() {
    for case in json_lines("models/logits.jsonl") {
        for level in Level::available() {
            check(&case, level, 1);
            check(&case, level, 17);
            check(&case, level, 40);
        }
    }
}

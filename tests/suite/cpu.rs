//! What only the CPU backend has: memory that the system may refuse, and threads whose tasks may panic.

use foreword::Kind;
use foreword::backend::cpu::Cpu;
use foreword::backend::{Attend, Backend, Buf, Cache, CacheSpec, CacheType, CellShape, Operand, Plan, Span};
use foreword::engine::{Engine, Request};
use foreword::gguf::source::BytesSource;
use foreword::model::ModelOptions;
use foreword::quant::TensorType;
use pollster::block_on;
use std::panic::{AssertUnwindSafe, catch_unwind};

const HEADS: usize = 4;
const DIM: usize = 32;
const ROWS: usize = 8;

/// A backend with a cache of one block, and what attention over it takes.
fn with_cache() -> (Cpu, Cache, Buf, Operand) {
    let mut cpu = Cpu::new(2);
    let shape = CellShape { n_kv_heads: HEADS, head_dim: DIM, ty: CacheType::F32 };
    let cache = cpu.new_cache(&CacheSpec::paged(1, shape, 1)).expect("memory");
    let q = cpu.new_buf(ROWS, HEADS * DIM).expect("memory");
    let out = cpu.new_operand(ROWS, HEADS * DIM, &[]).expect("memory");
    (cpu, cache, q, out)
}

/// Attention of the rows of a sequence in `block`.
fn attend((cpu, cache, q, out): &mut (Cpu, Cache, Buf, Operand), block: u32) {
    let rows = 0..ROWS as u32;
    let plan = Plan {
        tokens: vec![0; ROWS],
        positions: rows.clone().collect(),
        cells: rows.clone().collect(),
        spans: rows.map(|i| Span { prefix: i + 1, ..Span::default() }).collect(),
        blocks: vec![block],
        ..Plan::default()
    };
    let (q, cache, out) = (*q, *cache, *out);
    cpu.begin(&plan).expect("a plan");
    cpu.attend(&Attend {
        q,
        cache,
        layer: 0,
        n_heads: HEADS,
        scale: 1.0,
        softcap: 0.0,
        window: None,
        centered: false,
        sinks: None,
        gate: None,
        out,
    });
}

#[test]
fn attention_goes_on_after_tasks_that_panicked() {
    let mut all = with_cache();
    for _ in 0..3 {
        // A block that is not there; more often than there are threads, each of which leaves its work memory behind.
        assert!(catch_unwind(AssertUnwindSafe(|| attend(&mut all, 7))).is_err());
    }
    attend(&mut all, 0);
}

#[test]
fn work_memory_is_counted() {
    let mut all = with_cache();
    let before = all.0.memory();
    attend(&mut all, 0);
    let after = all.0.memory();
    // At least a block of keys as floats.
    assert!(after.buffers >= before.buffers + DIM * 32 * 4, "{before:?}, then {after:?}");
    assert_eq!((after.weights, after.cache), (before.weights, before.cache));
}

#[test]
fn logits_on_the_host_are_counted() {
    let source = BytesSource(include_bytes!("../data/models/llama.gguf").to_vec());
    let (options, mut progress) = (ModelOptions::default(), |_| {});
    let load = Engine::load(vec![Box::new(source)], Box::new(Cpu::new(1)), &options, || 0.0, &mut progress);
    let mut engine = block_on(load).expect("a sound model");
    assert_eq!(engine.memory(), engine.model().backend().memory());
    engine.submit(Request { prompt: vec![1, 2], max_tokens: Some(2), ..Request::default() }).expect("a sound request");
    while !engine.is_idle() {
        block_on(engine.step(&mut Vec::new())).expect("a step");
    }
    let (all, backend) = (engine.memory(), engine.model().backend().memory());
    assert!(all.buffers > backend.buffers, "{all:?} with {backend:?} of the backend");
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let mut cpu = Cpu::new(1);
    let weight = cpu.new_weight(TensorType::Q8_0, 1, 32).expect("memory");
    let shape = CellShape { n_kv_heads: 1, head_dim: 32, ty: CacheType::F16 };
    let n_blocks = usize::MAX >> 14;
    for rows in [usize::MAX >> 12, usize::MAX] {
        let errors = [
            cpu.new_weight(TensorType::F32, rows, 32).map(drop),
            cpu.new_buf(rows, 32).map(drop),
            cpu.new_operand(rows, 32, &[]).map(drop),
            cpu.new_operand(rows, 32, &[weight]).map(drop),
            cpu.new_cache(&CacheSpec::paged(1, shape, n_blocks.min(rows))).map(drop),
        ];
        for (i, result) in errors.into_iter().enumerate() {
            let error = result.expect_err("no machine has that much");
            assert_eq!(error.kind(), Kind::OutOfMemory, "{i}: {error}");
        }
    }
}

//! Speed of each CPU kernel beside what the machine can do: `cargo bench -p foreword --bench kernels`.
//!
//! `FOREWORD_THREADS` sets the threads (default 1). The peaks are measured at the start: reading a large buffer, and
//! dot-product instructions on registers.

use criterion::{BenchmarkId, Criterion, Throughput};
use foreword::backend::cpu::Cpu;
use foreword::backend::cpu::pool::{Pool, none};
use foreword::backend::cpu::simd::{Kernel, Level, Simd};
use foreword::backend::{
    Activation, Attend, BLOCK, Backend, CacheShape, CacheType, Epilogue, Gate, Norm, Plan, Product, Rows, Span,
};
use foreword::quant::TensorType;
use std::hint::black_box;
use std::time::{Duration, Instant};

#[path = "../common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod random;

fn threads() -> usize {
    std::env::var("FOREWORD_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Best of a few runs, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..10).map(|_| time(&mut f)).fold(f64::INFINITY, f64::min)
}

/// GB/s of reading memory with all threads.
fn read_peak(pool: &Pool) -> f64 {
    let len = 64 << 20;
    let data = vec![1u64; len / 8];
    let n = 256;
    let mut sums = vec![0u64; n];
    let seconds = best(|| {
        pool.rows(n, (&mut sums, 1, None), none(), none(), &|i, sum, _, _| {
            let part = &data[i * (data.len() / n)..][..data.len() / n];
            sum[0] = part.iter().fold(0, |a, b| a ^ b);
        });
        black_box(&sums);
    });
    len as f64 / seconds / 1e9
}

/// Dot products on registers: 12 chains of `rounds`.
struct Dots {
    rounds: usize,
}

impl Kernel for Dots {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (w, x) = (s.splat_u8(black_box(3)), s.splat_u8(black_box(5)));
        let mut sums = [s.zero(); 12];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = s.dot(*sum, w, x);
            }
        }
        let mut out = [0.0; 16];
        for sum in sums {
            s.store_f(s.to_f(sum), &mut out);
            black_box(&out);
        }
    }
}

/// GMAC/s of 8-bit dot products with all threads.
fn dot_peak(pool: &Pool, level: Level, lanes: usize) -> f64 {
    let rounds = 1_000_000;
    let seconds = best(|| pool.run(pool.len(), &|_| level.run(Dots { rounds })));
    (pool.len() * rounds * 12 * lanes * 4) as f64 / seconds / 1e9
}

/// Lanes of a level.
struct Lanes<'a>(&'a mut usize);

impl Kernel for Lanes<'_> {
    fn run<S: Simd>(self, _: S) {
        *self.0 = S::LANES;
    }
}

fn plan(n: usize, context: usize) -> Plan {
    let blocks: Vec<u32> = (0..(context + n).div_ceil(BLOCK) as u32).collect();
    Plan {
        tokens: vec![0; n],
        positions: (0..n).map(|i| (context + i) as u32).collect(),
        cells: (0..n).map(|i| (context + i) as u32).collect(),
        spans: (0..n).map(|i| Span { prefix: (context + i + 1) as u32, ..Span::default() }).collect(),
        blocks,
        ..Plan::default()
    }
}

/// A feed-forward matrix of a small model, decode and prefill.
fn matmul(c: &mut Criterion, read_peak: f64, dot_peak: f64) {
    let (rows, cols) = (6144, 2048);
    let mut r = random::Random::new(1);
    for &ty in TensorType::ALL {
        let mut cpu = Cpu::new(threads());
        let weight = cpu.new_weight(ty, rows, cols).expect("memory");
        cpu.load_rows(weight, 0, &r.weights(ty, rows * cols)).expect("a weight");
        let bytes = cpu.memory().weights;
        for n in [1, 8, 128] {
            let (x, ones) = (cpu.new_buf(n, cols).expect("memory"), cpu.new_buf(1, cols).expect("memory"));
            cpu.write(x, 0, &r.floats(n * cols)).expect("a buffer");
            let operand = cpu.new_operand(n, cols, &[weight]).expect("memory");
            let out = cpu.new_buf(n, rows).expect("memory");
            cpu.begin(&plan(n, 0)).expect("a plan");
            cpu.norm(&Norm { x, delta: None, weight: ones, eps: 1e-5, out: operand, rows: Rows::All });
            let product = [Product { weight, out, epilogue: Epilogue::STORE }];
            let seconds = best(|| cpu.matmul(operand, Rows::All, &product));
            let (gbs, gmacs) = (bytes as f64 / seconds / 1e9, (rows * cols * n) as f64 / seconds / 1e9);
            println!(
                "{:<7} x {n:<3} {gbs:7.1} GB/s ({:3.0} % of reading)  {gmacs:7.1} GMAC/s ({:3.0} % of dot products)",
                ty.name(),
                gbs / read_peak * 100.0,
                gmacs / dot_peak * 100.0
            );
            let mut group = c.benchmark_group("matmul");
            group.throughput(Throughput::Elements((rows * cols * n) as u64));
            group.bench_function(BenchmarkId::new(ty.name(), n), |b| {
                b.iter(|| cpu.matmul(operand, Rows::All, &product))
            });
        }
    }
}

/// Attention of a small model over 1,024 positions, and the ops between the products.
fn others(c: &mut Criterion) {
    let (heads, kv_heads, dim, context) = (9, 3, 64, 1024usize);
    let mut r = random::Random::new(2);
    for (n, ty) in [(1, CacheType::F16), (64, CacheType::F16), (1, CacheType::Q8_0), (1, CacheType::F32)] {
        let mut cpu = Cpu::new(threads());
        let n_blocks = (context + n).div_ceil(BLOCK);
        let shape = CacheShape { n_layers: 1, n_kv_heads: kv_heads, head_dim: dim, ty, n_blocks };
        let cache = cpu.new_cache(shape).expect("memory");
        let q = cpu.new_buf(n, heads * dim).expect("memory");
        cpu.write(q, 0, &r.floats(n * heads * dim)).expect("a buffer");
        let weight = cpu.new_weight(TensorType::Q8_0, 16, heads * dim).expect("memory");
        let out = cpu.new_operand(n, heads * dim, &[weight]).expect("memory");
        cpu.begin(&plan(n, context)).expect("a plan");
        let op = Attend { q, cache, layer: 0, n_heads: heads, scale: 0.125, softcap: 0.0, window: None, out };
        let macs = 2 * n * heads * dim * (context + n / 2);
        let seconds = best(|| cpu.attend(&op));
        println!("attend {ty:?} x {n}: {:.1} GMAC/s", macs as f64 / seconds / 1e9);
        let mut group = c.benchmark_group("attend");
        group.throughput(Throughput::Elements(macs as u64));
        group.bench_function(BenchmarkId::new(format!("{ty:?}"), n), |b| b.iter(|| cpu.attend(&op)));
    }
    let (n, width) = (128, 1536);
    let mut cpu = Cpu::new(threads());
    let weight = cpu.new_weight(TensorType::Q8_0, 16, width).expect("memory");
    let out = cpu.new_operand(n, width, &[weight]).expect("memory");
    let [a, b, ones] = [n, n, 1].map(|rows| cpu.new_buf(rows, width).expect("memory"));
    cpu.write(a, 0, &r.floats(n * width)).expect("a buffer");
    cpu.begin(&plan(n, 0)).expect("a plan");
    let gate = Gate { gate: a, up: b, activation: Activation::Silu, out };
    let norm = Norm { x: a, delta: None, weight: ones, eps: 1e-5, out, rows: Rows::All };
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Elements((n * width) as u64));
    group.bench_function("gate", |bench| bench.iter(|| cpu.gate(&gate)));
    group.bench_function("norm", |bench| bench.iter(|| cpu.norm(&norm)));
}

fn main() {
    let level = Level::detect();
    let mut lanes = 0;
    level.run(Lanes(&mut lanes));
    let pool = Pool::new(threads());
    let (read, dot) = (read_peak(&pool), dot_peak(&pool, level, lanes));
    drop(pool);
    println!("{}, {} threads: reading {read:.1} GB/s, dot products {dot:.0} GMAC/s", level.name(), threads());
    let mut c = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(10)
        .configure_from_args();
    matmul(&mut c, read, dot);
    others(&mut c);
    c.final_summary();
}

//! Speed of each CPU kernel beside what the machine can do: `cargo bench -p foreword --bench kernels`.
//!
//! `FOREWORD_THREADS` sets the threads (default 1), `FOREWORD_LEVEL` the instruction set; `-- matmul/Q4_1/8` measures what has
//! that in its name. The peaks are measured at the start: reading a large buffer, dot-product instructions on registers, and
//! sums of products of floats.

use criterion::{BenchmarkId, Criterion, Throughput};
use foreword::backend::cpu::Cpu;
use foreword::backend::cpu::pool::{Pool, none};
use foreword::backend::cpu::simd::{Kernel, Level, Simd};
use foreword::backend::{
    Activation, Attend, BLOCK, Backend, CacheSpec, CacheType, CellShape, Epilogue, Gate, Norm, NormWeights, Plan,
    Product, Rows, Span,
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

fn level() -> Level {
    std::env::var("FOREWORD_LEVEL").map_or(Level::detect(), |name| Level::named(&name).expect("a level"))
}

/// Whether the command line asks for this measurement, as criterion takes it.
fn wanted(name: &str) -> bool {
    std::env::args().skip(1).find(|arg| !arg.starts_with('-')).is_none_or(|filter| name.contains(&filter))
}

/// Best of a few runs, in seconds: as many as half a second has room for, ten at least.
fn best(mut f: impl FnMut()) -> f64 {
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    for i in 0.. {
        let run = Instant::now();
        f();
        least = least.min(run.elapsed().as_secs_f64());
        if i >= 10 && start.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    least
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

/// Sums of products of floats on registers: 12 chains of `rounds`.
struct Floats {
    rounds: usize,
}

impl Kernel for Floats {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (w, x) = (s.splat(black_box(0.5)), s.splat(black_box(0.25)));
        let mut sums = [s.splat(0.0); 12];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = s.mul_add(w, x, *sum);
            }
        }
        let mut out = [0.0; 16];
        for sum in sums {
            s.store_f(sum, &mut out);
            black_box(&out);
        }
    }
}

/// GMAC/s of floats with all threads.
fn float_peak(pool: &Pool, level: Level, lanes: usize) -> f64 {
    let rounds = 1_000_000;
    let seconds = best(|| pool.run(pool.len(), &|_| level.run(Floats { rounds })));
    (pool.len() * rounds * 12 * lanes) as f64 / seconds / 1e9
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

/// Rows of a batch.
const SIZES: [usize; 6] = [1, 2, 4, 8, 16, 128];

/// A feed-forward matrix of a small model: decode, drafts and prefill.
fn matmul(c: &mut Criterion, read_peak: f64, dot_peak: f64, float_peak: f64) {
    let (rows, cols) = (6144, 2048);
    let mut r = random::Random::new(1);
    for &ty in TensorType::ALL {
        let name = |n: usize| format!("matmul/{}/{n}", ty.name());
        if !SIZES.iter().any(|&n| wanted(&name(n))) {
            continue;
        }
        let mut cpu = Cpu::with_level(threads(), level());
        let weight = cpu.new_weight(ty, rows, cols).expect("memory");
        let file = r.weights(ty, rows * cols);
        let seconds = best(|| cpu.load_rows(weight, 0, &file).expect("a weight"));
        println!("{:<7} repacked at {:.2} GB/s of the file", ty.name(), file.len() as f64 / seconds / 1e9);
        let bytes = cpu.memory().weights;
        for n in SIZES.into_iter().filter(|&n| wanted(&name(n))) {
            let (x, ones) = (cpu.new_buf(n, cols).expect("memory"), cpu.new_buf(1, cols).expect("memory"));
            cpu.write(x, 0, &r.floats(n * cols)).expect("a buffer");
            let operand = cpu.new_operand(n, cols, &[weight]).expect("memory");
            let out = cpu.new_buf(n, rows).expect("memory");
            cpu.begin(&plan(n, 0)).expect("a plan");
            cpu.norm(&Norm {
                x,
                delta: None,
                norm: Some(NormWeights::rms(ones)),
                eps: 1e-5,
                out: Some(operand),
                rows: Rows::All,
            });
            let product = [Product { weight, out, epilogue: Epilogue::STORE }];
            let seconds = best(|| cpu.matmul(operand, Rows::All, &product));
            let (gbs, gmacs) = (bytes as f64 / seconds / 1e9, (rows * cols * n) as f64 / seconds / 1e9);
            println!(
                "{:<7} x {n:<3} {gbs:7.1} GB/s ({:3.0} % of reading)  {gmacs:7.1} GMAC/s ({:3.0} % of {})",
                ty.name(),
                gbs / read_peak * 100.0,
                gmacs / if ty.is_float() { float_peak } else { dot_peak } * 100.0,
                if ty.is_float() { "floats" } else { "dot products" }
            );
            let mut group = c.benchmark_group("matmul");
            group.throughput(Throughput::Elements((rows * cols * n) as u64));
            group.bench_function(BenchmarkId::new(ty.name(), n), |b| {
                b.iter(|| cpu.matmul(operand, Rows::All, &product))
            });
        }
    }
}

/// Attention of a small model, over 1,024 and 8,192 positions.
fn attend(c: &mut Criterion, float_peak: f64) {
    let (heads, kv_heads, dim) = (9, 3, 64);
    let mut r = random::Random::new(2);
    let types = [CacheType::F16, CacheType::Q8_0, CacheType::F32];
    for (context, ty, n) in
        [1024usize, 8192].into_iter().flat_map(|c| types.map(|ty| [(c, ty, 1), (c, ty, 64)])).flatten()
    {
        let name = format!("{ty:?}/{context}/{n}");
        if !wanted(&format!("attend/{name}")) {
            continue;
        }
        let mut cpu = Cpu::with_level(threads(), level());
        let n_blocks = (context + n).div_ceil(BLOCK);
        let shape = CellShape { n_kv_heads: kv_heads, head_dim: dim, ty };
        let cache = cpu.new_cache(&CacheSpec::paged(1, shape, n_blocks)).expect("memory");
        let q = cpu.new_buf(n, heads * dim).expect("memory");
        cpu.write(q, 0, &r.floats(n * heads * dim)).expect("a buffer");
        let weight = cpu.new_weight(TensorType::Q8_0, 16, heads * dim).expect("memory");
        let out = cpu.new_operand(n, heads * dim, &[weight]).expect("memory");
        cpu.begin(&plan(n, context)).expect("a plan");
        let op = Attend {
            q,
            cache,
            layer: 0,
            n_heads: heads,
            scale: 0.125,
            softcap: 0.0,
            window: None,
            centered: false,
            sinks: None,
            gate: None,
            out,
        };
        let macs = 2 * n * heads * dim * (context + n / 2);
        let seconds = best(|| cpu.attend(&op));
        let gmacs = macs as f64 / seconds / 1e9;
        println!("attend {name}: {gmacs:.1} GMAC/s ({:.0} % of floats)", gmacs / float_peak * 100.0);
        let mut group = c.benchmark_group("attend");
        group.throughput(Throughput::Elements(macs as u64));
        group.bench_function(BenchmarkId::new(format!("{ty:?}/{context}"), n), |b| b.iter(|| cpu.attend(&op)));
    }
}

/// The ops between the products.
fn rows(c: &mut Criterion) {
    let (n, width) = (128, 1536);
    let mut r = random::Random::new(2);
    let mut cpu = Cpu::with_level(threads(), level());
    let weight = cpu.new_weight(TensorType::Q8_0, 16, width).expect("memory");
    let out = cpu.new_operand(n, width, &[weight]).expect("memory");
    let [a, b, ones] = [n, n, 1].map(|rows| cpu.new_buf(rows, width).expect("memory"));
    cpu.write(a, 0, &r.floats(n * width)).expect("a buffer");
    cpu.begin(&plan(n, 0)).expect("a plan");
    let gate = Gate { gate: a, up: Some(b), activation: Activation::Silu, out };
    let norm =
        Norm { x: a, delta: None, norm: Some(NormWeights::rms(ones)), eps: 1e-5, out: Some(out), rows: Rows::All };
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Elements((n * width) as u64));
    group.bench_function("gate", |bench| bench.iter(|| cpu.gate(&gate)));
    group.bench_function("norm", |bench| bench.iter(|| cpu.norm(&norm)));
}

fn main() {
    let level = level();
    let mut lanes = 0;
    level.run(Lanes(&mut lanes));
    let pool = Pool::new(threads());
    let (read, dot, float) = (read_peak(&pool), dot_peak(&pool, level, lanes), float_peak(&pool, level, lanes));
    drop(pool);
    println!(
        "{}, {} threads: reading {read:.1} GB/s, dot products {dot:.0} GMAC/s, floats {float:.0} GMAC/s",
        level.name(),
        threads()
    );
    let mut c = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(10)
        .configure_from_args();
    matmul(&mut c, read, dot, float);
    attend(&mut c, float);
    rows(&mut c);
    c.final_summary();
}

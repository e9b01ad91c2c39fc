//! What a parallel region costs beside rayon: `cargo bench -p foreword --bench pool`.
//!
//! A region of a decode step has some 16 tasks of a microsecond or two, so handing over decides. `FOREWORD_THREADS` sets
//! the threads (default 2).

use criterion::{BenchmarkId, Criterion};
use foreword::backend::cpu::pool::Pool;
use rayon::prelude::*;
use std::hint::black_box;

const TASKS: usize = 16;

fn work(rounds: usize) {
    for i in 0..rounds {
        black_box(i);
    }
}

fn main() {
    let threads = std::env::var("FOREWORD_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let mut c = Criterion::default().configure_from_args();
    let mut group = c.benchmark_group("region of 16 tasks");
    for rounds in [0, 1_000, 10_000] {
        group.bench_function(BenchmarkId::new("own pool", rounds), |b| b.iter(|| pool.run(TASKS, &|_| work(rounds))));
        group.bench_function(BenchmarkId::new("rayon", rounds), |b| {
            rayon.install(|| b.iter(|| (0..TASKS).into_par_iter().with_max_len(1).for_each(|_| work(rounds))));
        });
    }
    group.finish();
}

//! The protocol between the threads of the CPU's pool (`src/backend/cpu/pool/region.rs`), compiled with loom's types: loom
//! runs each test in every order in which the threads may see each other's writes, those of weak memory included, and
//! fails when threads touch a cell at the same time, or all wait.
#![cfg(not(target_arch = "wasm32"))]

/// What `src/backend/cpu/pool/sync.rs` takes from std.
mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;

    /// One look at the epoch, then sleep: more looks would show no other orders.
    pub(crate) const SPINS: u32 = 1;
}

#[path = "../src/backend/cpu/pool/region.rs"]
mod region;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};
use region::Shared;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Something that one thread at a time must touch, by the pool's doing alone.
struct Owned(loom::cell::UnsafeCell<usize>);

// SAFETY: loom checks each access, and fails the test where two are not ordered.
#[allow(unsafe_code, reason = "what is tested is that accesses are ordered")]
unsafe impl Sync for Owned {}

impl Owned {
    fn new() -> Self {
        Owned(loom::cell::UnsafeCell::new(0))
    }

    fn add(&self) {
        // SAFETY: as for `Sync`.
        #[allow(unsafe_code, reason = "what is tested is that accesses are ordered")]
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    fn get(&self) -> usize {
        // SAFETY: as for `Sync`.
        #[allow(unsafe_code, reason = "what is tested is that accesses are ordered")]
        self.0.with(|value| unsafe { *value })
    }
}

/// Runs `test` in all orders with at most so many switches from a thread that could go on.
fn explore(switches: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 20_000;
    builder.check(test);
}

fn start(n_workers: usize) -> (Arc<Shared>, Vec<JoinHandle<()>>) {
    let shared = Arc::new(Shared::new(n_workers + 1));
    let worker = |shared: Arc<Shared>| thread::spawn(move || shared.worker());
    let workers = (0..n_workers).map(|_| worker(shared.clone())).collect();
    (shared, workers)
}

fn end(shared: &Shared, workers: Vec<JoinHandle<()>>) {
    shared.stop();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker that lives"));
}

/// A region of `n` tasks, each with a value of its own; all are there when `run` has returned.
fn region(shared: &Shared, n: usize) {
    let values: Vec<Owned> = (0..n).map(|_| Owned::new()).collect();
    shared.run(n, &|task| values[task].add());
    assert!(values.iter().all(|value| value.get() == 1));
}

#[test]
fn tasks_run_once_and_are_over_when_the_region_is() {
    explore(3, || {
        let (shared, workers) = start(1);
        region(&shared, 2);
        region(&shared, 3);
        end(&shared, workers);
    });
}

#[test]
fn two_workers_share_a_region() {
    explore(2, || {
        let (shared, workers) = start(2);
        region(&shared, 2);
        end(&shared, workers);
    });
}

#[test]
fn a_second_caller_runs_its_region_alone() {
    explore(2, || {
        let (shared, workers) = start(1);
        let other = {
            let shared = shared.clone();
            thread::spawn(move || region(&shared, 2))
        };
        region(&shared, 2);
        other.join().expect("the other caller");
        end(&shared, workers);
    });
}

#[test]
fn a_task_runs_a_region_alone() {
    explore(2, || {
        let (shared, workers) = start(1);
        shared.run(2, &|_| region(&shared, 2));
        end(&shared, workers);
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_worker_lives() {
    explore(2, || {
        let (shared, workers) = start(1);
        let values = [Owned::new(), Owned::new()];
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            shared.run(2, &|task| {
                values[task].add();
                if task == 1 {
                    resume_unwind(Box::new("task 1"));
                }
            });
        }));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"task 1"));
        assert!(values.iter().all(|value| value.get() == 1));
        region(&shared, 2);
        end(&shared, workers);
    });
}

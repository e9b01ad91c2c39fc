//! Worker threads for short parallel regions.
//!
//! A decode step has some 150 regions of a few dozen microseconds, so what matters is how fast work is handed over:
//! workers spin on an epoch counter for a moment before they sleep, and the caller works too. Every thread has a share of
//! neighbouring tasks, because processors read ahead in memory that is read in one go; who is done takes from the shares
//! of others, so an uneven split or a busy core costs little.
//!
//! Natively the pool owns its threads. On WASM it cannot start any: the page starts workers on the same memory, and each
//! calls `worker_main`.

mod parts;
mod region;
mod sync;

pub use parts::{Columns, ColumnsPart, RowsJob, none};

use region::Shared;
use std::sync::Arc;

/// A fixed set of worker threads; see the module text.
pub struct Pool {
    shared: Arc<Shared>,
    n_workers: usize,
    #[cfg(not(target_arch = "wasm32"))]
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Pool {
    /// A pool of `n` threads, the caller's included. Fewer when the system refuses more.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new(n: usize) -> Self {
        let shared = Arc::new(Shared::new(n));
        let threads: Vec<_> = (1..n)
            .map_while(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("foreword-{i}")).spawn(move || shared.worker()).ok()
            })
            .collect();
        Pool { shared, n_workers: threads.len(), threads }
    }

    /// A pool for `n - 1` workers that call [`worker_main`] with a [`Pool::address`], and the caller. Regions that begin
    /// before a worker has come are done by the others.
    #[cfg(target_arch = "wasm32")]
    pub fn new(n: usize) -> Self {
        Pool { shared: Arc::new(Shared::new(n)), n_workers: n.max(1) - 1 }
    }

    /// What a WASM worker passes to [`worker_main`]; every call is good for one worker.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn address(&self) -> usize {
        Arc::into_raw(self.shared.clone()) as usize
    }

    /// Threads that work on a region, the caller's included.
    pub fn len(&self) -> usize {
        self.n_workers + 1
    }

    /// Whether the caller works alone.
    pub fn is_empty(&self) -> bool {
        self.n_workers == 0
    }

    /// Calls `job` with each of `0..n_tasks` once and returns when all calls have. All threads take part, unless they are in
    /// a region already: a task that calls this, or a second thread, does all of its region itself.
    ///
    /// # Panics
    /// When a task does, with the same payload; not every task has run then. The pool works on.
    pub fn run(&self, n_tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.n_workers == 0 {
            return (0..n_tasks).for_each(job);
        }
        self.shared.run(n_tasks, job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop();
        #[cfg(not(target_arch = "wasm32"))]
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A WASM worker's life: works for a pool until that is dropped.
///
/// # Safety
/// `address` is one of [`super::Cpu::worker_addresses`], and no other call got this one.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the only way to hand a pool to a worker that JavaScript starts")]
pub unsafe fn worker_main(address: usize) {
    // SAFETY: by this function's contract the address came from `Arc::into_raw`, with a reference count for this call.
    let shared = unsafe { Arc::from_raw(address as *const Shared) };
    shared.worker();
}

/// Tells the pool that a WASM worker has ended in a trap, so that the caller of the region does not wait for it.
///
/// # Safety
/// A call of [`worker_main`] with this `address` has trapped.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "the only way to hand a pool to a worker that JavaScript starts")]
pub unsafe fn worker_failed(address: usize) {
    // SAFETY: the call that trapped never gave its reference count back, so the pool is still there.
    unsafe { &*(address as *const Shared) }.fail();
}

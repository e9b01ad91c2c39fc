//! How the threads of a pool work through a region together: the part where the order of memory accesses matters.
//!
//! `tests/pool_loom.rs` compiles this file with loom's types and tries out every order in which threads may see each
//! other's writes.

use super::sync::{AtomicBool, AtomicU32, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, SPINS, UnsafeCell};
use super::sync::{spin_loop, yield_now};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Set in [`Shared::inside`] outside of regions.
const CLOSED: usize = 1 << 31;

/// Set in [`Shared::inside`] when a worker's task panicked.
const FAILED: usize = 1 << 30;

/// A parallel region: called with every task number once.
type Job = *const (dyn Fn(usize) + Sync);

/// What a task panicked with.
type Panic = Box<dyn Any + Send>;

/// The next task of a thread's share, on a cache line of its own.
#[repr(align(64))]
struct Next(AtomicUsize);

/// What the caller and the workers share.
pub(super) struct Shared {
    /// Counts regions; a change is the signal to start.
    epoch: AtomicU32,
    /// Set while a thread runs a region with the workers.
    busy: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    n_tasks: AtomicUsize,
    /// One share a thread, the caller's first.
    shares: Box<[Next]>,
    /// Threads that took a share for their own.
    started: AtomicUsize,
    /// Workers inside the current region, [`CLOSED`] once nobody may enter any more, and [`FAILED`]. A worker that comes late,
    /// because the system ran something else, is not waited for.
    inside: AtomicUsize,
    stop: AtomicBool,
    /// Of the workers in the current region.
    panics: Mutex<Vec<Panic>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the thread that set `busy`, while `inside` is `CLOSED` and no worker is counted in it that
// came before the close; workers read it only after they entered and saw it open, which synchronises with the opening. The
// closure behind it is `Sync`. Everything else is atomic or behind a lock.
#[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
unsafe impl Sync for Shared {}

impl Shared {
    /// For `n_threads` threads, the caller's included.
    pub(super) fn new(n_threads: usize) -> Self {
        Shared {
            epoch: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            n_tasks: AtomicUsize::new(0),
            shares: (0..n_threads.max(1)).map(|_| Next(AtomicUsize::new(0))).collect(),
            started: AtomicUsize::new(1),
            inside: AtomicUsize::new(CLOSED),
            stop: AtomicBool::new(false),
            panics: Mutex::new(Vec::new()),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// Calls `job` with each of `0..n` once, and returns when all calls have. The workers help, unless they are in a region
    /// already: then the caller is one of their tasks or another thread, and does everything itself.
    ///
    /// # Panics
    /// With what a task panicked with. Not every task has run then.
    pub(super) fn run(&self, n: usize, job: &(dyn Fn(usize) + Sync)) {
        if self.busy.swap(true, Ordering::Acquire) {
            return (0..n).for_each(job);
        }
        // SAFETY: only the lifetime changes. This function does not return before every worker is done with the closure, also
        // when a task panics.
        #[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
        let erased = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        self.job.with_mut(|slot| {
            // SAFETY: `busy` keeps other callers out, and the region is closed and empty, so no worker reads `job`.
            #[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
            unsafe {
                *slot = Some(erased);
            }
        });
        self.deal(n);
        self.inside.fetch_and(!CLOSED, Ordering::Release);
        self.advance();
        let own = catch_unwind(AssertUnwindSafe(|| self.work(0, job)));
        let of_workers = self.close();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = own.err().or(of_workers) {
            resume_unwind(panic);
        }
    }

    /// Where share `i` of `n` tasks begins.
    fn start(&self, n: usize, i: usize) -> usize {
        (n as u64 * i as u64 / self.shares.len() as u64) as usize
    }

    /// Deals out `n` tasks. Only while the region is closed and empty.
    fn deal(&self, n: usize) {
        self.n_tasks.store(n, Ordering::Relaxed);
        for (i, next) in self.shares.iter().enumerate() {
            next.0.store(self.start(n, i), Ordering::Relaxed);
        }
    }

    /// Works through share `own`, then through what is left of the others.
    fn work(&self, own: usize, job: &(dyn Fn(usize) + Sync)) {
        let n = self.n_tasks.load(Ordering::Relaxed);
        for i in (own..self.shares.len()).chain(0..own) {
            let end = self.start(n, i + 1);
            loop {
                let task = self.shares[i].0.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                job(task);
            }
        }
    }

    /// Closes the region, waits until everybody inside has left, and returns what a worker's task panicked with.
    fn close(&self) -> Option<Panic> {
        self.inside.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0u32;
        loop {
            match self.inside.load(Ordering::Acquire) {
                CLOSED => return None,
                inside if inside == CLOSED | FAILED => break,
                // Where panics end a thread (WASM), one that failed never leaves. It may hold what the job borrowed, so
                // this thread must not go on.
                inside => assert!(cfg!(panic = "unwind") || inside & FAILED == 0, "a thread of the pool has failed"),
            }
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) {
                yield_now();
            }
            spin_loop();
        }
        self.inside.fetch_and(!FAILED, Ordering::Relaxed);
        lock(&self.panics).drain(..).next()
    }

    /// Waits for the epoch to move on from `seen`; spins first, then sleeps.
    fn wait(&self, seen: u32) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            spin_loop();
        }
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                *sleepers -= 1;
                return epoch;
            }
            sleepers = self.wake.wait(sleepers).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Begins an epoch. Only for the thread that set `busy`, or once no other can.
    fn advance(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(epoch.wrapping_add(1), Ordering::Release);
        // Taking the lock orders this after a worker's last look at the epoch, so no wake-up is lost.
        if *lock(&self.sleepers) > 0 {
            self.wake.notify_all();
        }
    }

    /// Ends the workers. No region may begin afterwards.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.advance();
    }

    /// A worker's life: works in every region that it does not come too late for, until [`Shared::stop`].
    pub(super) fn worker(&self) {
        let own = self.started.fetch_add(1, Ordering::Relaxed) % self.shares.len();
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if self.inside.fetch_add(1, Ordering::Acquire) & CLOSED == 0 {
                // SAFETY: the caller of `run` keeps the closure alive and does not touch `job` before it has closed the region
                // and everybody inside has left, and this worker leaves below.
                #[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
                let job = self.job.with(|slot| unsafe { (*slot).map(|job| &*job) });
                if let Some(job) = job
                    && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(own, job)))
                {
                    lock(&self.panics).push(panic);
                    self.fail();
                }
            }
            self.inside.fetch_sub(1, Ordering::Release);
        }
    }

    /// Tells the caller of the current region that a worker has failed.
    pub(super) fn fail(&self) {
        self.inside.fetch_or(FAILED, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

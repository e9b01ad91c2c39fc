//! Worker threads for short parallel regions, and the only place that hands one buffer to several of them.
//!
//! A decode step has some 150 regions of a few dozen microseconds, so what matters is how fast work is handed over:
//! workers spin on an epoch counter for a moment before they sleep, and the caller works too. Every thread has a share of
//! neighbouring tasks, because processors read ahead in memory that is read in one go; who is done takes from the shares
//! of others, so an uneven split or a busy core costs little.
//!
//! Natively the pool owns its threads. On WASM it cannot start any: the page starts workers on the same memory, and each
//! calls `worker_main`.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Rounds of spinning before a worker sleeps: some 100 µs, longer than the serial stretches of a decode step. WASM has no
/// instruction to pause with, so a round is shorter.
const SPINS: u32 = if cfg!(target_arch = "wasm32") { 100_000 } else { 20_000 };

/// Set in [`Shared::inside`] outside of regions.
const CLOSED: usize = 1 << 31;

/// A parallel region: called with every task number once.
type Job = *const (dyn Fn(usize) + Sync);

/// The next task of a thread's share, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Next(AtomicUsize);

struct Shared {
    /// Counts regions; a change is the signal to start.
    epoch: AtomicU32,
    job: std::cell::UnsafeCell<Option<Job>>,
    n_tasks: AtomicUsize,
    /// One share a thread, the caller's first.
    shares: Box<[Next]>,
    /// Threads that took a share for their own.
    started: AtomicUsize,
    /// Workers inside the current region, and [`CLOSED`] once nobody may enter any more. A worker that comes late, because
    /// the system ran something else, is not waited for.
    inside: AtomicUsize,
    stop: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the caller of `Pool::run` while `inside` is `CLOSED` and no worker is counted in it that
// came before the close; workers read it only after they entered and saw it open, which synchronises with the opening.
// Everything else is atomic.
#[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
unsafe impl Sync for Shared {}

impl Shared {
    fn new(n_threads: usize) -> Self {
        Shared {
            epoch: AtomicU32::new(0),
            job: std::cell::UnsafeCell::new(None),
            n_tasks: AtomicUsize::new(0),
            shares: (0..n_threads.max(1)).map(|_| Next::default()).collect(),
            started: AtomicUsize::new(1),
            inside: AtomicUsize::new(CLOSED),
            stop: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// Where share `i` of `n` tasks begins.
    fn start(&self, n: usize, i: usize) -> usize {
        n * i / self.shares.len()
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

    /// Waits for the epoch to move on from `seen`; spins first, then sleeps.
    fn wait(&self, seen: u32) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
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

    fn advance(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        // Taking the lock orders this after a worker's last look at the epoch, so no wake-up is lost.
        if *lock(&self.sleepers) > 0 {
            self.wake.notify_all();
        }
    }

    fn worker(&self) {
        let own = self.started.fetch_add(1, Ordering::Relaxed) % self.shares.len();
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let left = Leave(&self.inside);
            if self.inside.fetch_add(1, Ordering::Acquire) & CLOSED == 0 {
                // SAFETY: the caller of `run` keeps the closure alive and does not touch `job` before it has closed the region
                // and everybody inside has left, and this worker leaves when `left` is dropped.
                #[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
                let job = unsafe { (*self.job.get()).map(|job| &*job) };
                if let Some(job) = job {
                    self.work(own, job);
                }
            }
            drop(left);
        }
    }
}

fn lock(mutex: &Mutex<usize>) -> std::sync::MutexGuard<'_, usize> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Counts a worker out of a region, even when a task panics.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Called with a row's number and its part of each of the matrices of [`Pool::rows`].
pub type RowsJob<'a, A, B, C> = &'a (dyn Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync);

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

    /// A pool that counts on `n - 1` workers calling [`worker_main`] with [`Pool::address`]; the first parallel region
    /// waits for them.
    #[cfg(target_arch = "wasm32")]
    pub fn new(n: usize) -> Self {
        Pool { shared: Arc::new(Shared::new(n)), n_workers: n.max(1) - 1 }
    }

    /// What a WASM worker passes to [`worker_main`]; every call is good for one worker.
    #[cfg(target_arch = "wasm32")]
    pub fn address(&self) -> usize {
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

    /// Calls `job` with each of `0..n_tasks` once, on all threads, and returns when all calls have.
    pub fn run(&self, n_tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.n_workers == 0 {
            return (0..n_tasks).for_each(job);
        }
        let shared = &*self.shared;
        // SAFETY: the region is closed and empty, so no worker reads `job`; the lifetime is erased, but this function does not
        // return before every worker is done with it (`Close` waits even when a task of this thread panics).
        #[allow(unsafe_code, reason = "the hand-over of a borrowed closure to other threads")]
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job));
        }
        shared.deal(n_tasks);
        let close = Close(&shared.inside);
        shared.inside.fetch_and(!CLOSED, Ordering::Release);
        shared.advance();
        shared.work(0, job);
        drop(close);
    }

    /// Shares out the first `n` rows of three matrices, `(data, row length)` each: `job(row, a, b, c)`. The rows of `a` may be
    /// picked from a larger matrix.
    ///
    /// # Panics
    /// If `pick` is not strictly ascending or a matrix is too short.
    pub fn rows<A: Send, B: Send, C: Send>(
        &self,
        n: usize,
        (a, a_len, pick): (&mut [A], usize, Option<&[u32]>),
        (b, b_len): (&mut [B], usize),
        (c, c_len): (&mut [C], usize),
        job: RowsJob<'_, A, B, C>,
    ) {
        assert!(pick.is_none_or(|p| p.len() == n && p.is_sorted_by(|a, b| a < b)), "rows must be distinct and sorted");
        let (a, b, c) = (Parts::new(a), Parts::new(b), Parts::new(c));
        self.run(n, &|row| {
            let a_row = pick.map_or(row, |p| p[row] as usize);
            // SAFETY: each row belongs to one task, rows do not overlap, and picked rows are distinct.
            #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
            let (a, b, c) = unsafe {
                (
                    a.part(a_row * a_len..(a_row + 1) * a_len),
                    b.part(row * b_len..(row + 1) * b_len),
                    c.part(row * c_len..(row + 1) * c_len),
                )
            };
            job(row, a, b, c);
        });
    }

    /// Gives task `i` the chunk `chunks[i]` of `data`, `len` long.
    ///
    /// # Panics
    /// If `chunks` is not strictly ascending: two threads would share a chunk.
    pub fn chunks<T: Send>(&self, data: &mut [T], len: usize, chunks: &[u32], job: &(dyn Fn(usize, &mut [T]) + Sync)) {
        assert!(chunks.is_sorted_by(|a, b| a < b), "chunks must be distinct and sorted");
        let shared = Parts::new(data);
        self.run(chunks.len(), &|i| {
            let start = chunks[i] as usize * len;
            // SAFETY: `chunks` is strictly ascending, so no two tasks have the same chunk; `part` checks the bounds.
            #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
            job(i, unsafe { shared.part(start..start + len) });
        });
    }

    /// Splits the columns of several matrices into panels of `width` columns and shares `grain` panels at a time:
    /// `job(matrix, panels, columns)`.
    pub fn columns(
        &self,
        outs: &mut [Columns<'_>],
        width: usize,
        grain: usize,
        job: &(dyn Fn(usize, Range<usize>, &mut ColumnsPart<'_>) + Sync),
    ) {
        let n_tasks = outs.iter().map(|o| o.n_cols.div_ceil(width).div_ceil(grain)).sum();
        let outs: &[Columns<'_>] = outs;
        self.run(n_tasks, &|mut task| {
            for (which, out) in outs.iter().enumerate() {
                let n_panels = out.n_cols.div_ceil(width);
                let n = n_panels.div_ceil(grain);
                if task >= n {
                    task -= n;
                    continue;
                }
                let panels = task * grain..((task + 1) * grain).min(n_panels);
                let cols = panels.start * width..(panels.end * width).min(out.n_cols);
                let rows = 0..out.data.len / out.n_cols;
                return job(which, panels, &mut ColumnsPart { data: &out.data, n_cols: out.n_cols, rows, cols });
            }
        });
    }

    /// Splits a matrix into tiles of `rows[i]` times `width` columns: `job(i, panel, tile)`.
    ///
    /// # Panics
    /// If `rows` are not ascending and disjoint.
    pub fn grid(
        &self,
        out: &mut Columns<'_>,
        rows: &[Range<usize>],
        width: usize,
        job: &(dyn Fn(usize, usize, &mut ColumnsPart<'_>) + Sync),
    ) {
        assert!(rows.is_sorted_by(|a, b| a.end <= b.start), "row ranges must be disjoint and sorted");
        let n_panels = out.n_cols.div_ceil(width);
        let out: &Columns<'_> = out;
        self.run(rows.len() * n_panels, &|task| {
            let (tile, panel) = (task / n_panels, task % n_panels);
            let cols = panel * width..((panel + 1) * width).min(out.n_cols);
            let rows = rows[tile].clone();
            job(tile, panel, &mut ColumnsPart { data: &out.data, n_cols: out.n_cols, rows, cols });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.advance();
        #[cfg(not(target_arch = "wasm32"))]
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// No matrix, for [`Pool::rows`].
pub fn none() -> (&'static mut [u8], usize) {
    (&mut [], 0)
}

/// Ends a region: closes it and waits until everybody inside has left.
struct Close<'a>(&'a AtomicUsize);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.0.load(Ordering::Acquire) != CLOSED {
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// A WASM worker's life: works for the pool whose [`Pool::address`] it got, until the pool is dropped.
#[cfg(target_arch = "wasm32")]
pub fn worker_main(address: usize) {
    // SAFETY: `address` came from `Pool::address`, which gave one reference count away for this call.
    #[allow(unsafe_code, reason = "the only way to hand a pool to a worker that JavaScript starts")]
    let shared = unsafe { Arc::from_raw(address as *const Shared) };
    shared.worker();
}

/// A buffer of which several threads write disjoint parts.
struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: threads get disjoint parts only (the contract of `part`), and `T: Send`.
#[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Parts { start: data.as_mut_ptr(), len: data.len(), owner: std::marker::PhantomData }
    }

    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "disjoint parts of one buffer for several threads")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part out of bounds");
        // SAFETY: in bounds by the assertion, exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// A matrix `[rows, n_cols]` whose columns [`Pool::columns`] shares out.
pub struct Columns<'a> {
    data: Parts<'a, f32>,
    n_cols: usize,
}

impl<'a> Columns<'a> {
    /// `data` is row-major with `n_cols` columns.
    pub fn new(data: &'a mut [f32], n_cols: usize) -> Self {
        Columns { data: Parts::new(data), n_cols }
    }
}

/// Some rows and columns of a matrix, for one thread.
pub struct ColumnsPart<'a> {
    data: &'a Parts<'a, f32>,
    n_cols: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl ColumnsPart<'_> {
    /// This part of a row of the matrix.
    ///
    /// # Panics
    /// If the row is not one of this part.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row of another part");
        let start = row * self.n_cols;
        // SAFETY: `Pool` made this part for one thread, and its rows and columns overlap with no other part's; `&mut self`
        // keeps this thread from holding two rows at once.
        #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
        unsafe {
            self.data.part(start + self.cols.start..start + self.cols.end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_thousands_of_regions() {
        let pool = Pool::new(2);
        let counts: Vec<AtomicUsize> = (0..37).map(|_| AtomicUsize::new(0)).collect();
        for n in (0..20_000).map(|i| i % 38) {
            pool.run(n, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
        }
        let total: usize = counts.iter().map(|c| c.load(Ordering::Relaxed)).sum();
        assert_eq!(total, (0..20_000).map(|i| i % 38).sum::<usize>());
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mut data = vec![0u32; 64];
            pool.rows(64, (&mut data, 1, None), none(), none(), &|row, out, _, _| out[0] = row as u32);
            assert!(data.iter().enumerate().all(|(i, &v)| v == i as u32));
        }
    }

    #[test]
    fn columns_are_shared_out_completely() {
        let pool = Pool::new(3);
        let (mut a, mut b) = (vec![0.0f32; 3 * 50], vec![0.0f32; 3 * 7]);
        let mut outs = [Columns::new(&mut a, 50), Columns::new(&mut b, 7)];
        pool.columns(&mut outs, 16, 2, &|which, _, part| {
            for row in 0..3 {
                part.row(row).iter_mut().for_each(|v| *v += (which + 1) as f32);
            }
        });
        assert!(a.iter().all(|&v| v == 1.0) && b.iter().all(|&v| v == 2.0));
    }

    #[test]
    fn a_grid_covers_its_rows() {
        let pool = Pool::new(2);
        let mut a = vec![0.0f32; 5 * 12];
        pool.grid(&mut Columns::new(&mut a, 12), &[0..2, 3..5], 4, &|_, _, tile| {
            for r in tile.rows.clone() {
                tile.row(r).iter_mut().for_each(|v| *v += 1.0);
            }
        });
        assert!(a.chunks(12).enumerate().all(|(r, row)| row.iter().all(|&v| v == if r == 2 { 0.0 } else { 1.0 })));
    }

    #[test]
    #[should_panic(expected = "distinct")]
    fn shared_chunks_are_refused() {
        Pool::new(1).chunks(&mut [0u8; 8], 4, &[1, 1], &|_, _| {});
    }
}

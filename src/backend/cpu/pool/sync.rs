//! What `region.rs` synchronises by. `tests/pool_loom.rs` compiles that file with loom's types in the place of these.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
pub(super) use std::thread::yield_now;

/// Rounds of spinning before a worker sleeps: some 100 µs, longer than the serial stretches of a decode step. WASM has no
/// instruction to pause with, so a round is shorter. Miri takes microseconds for one.
pub(super) const SPINS: u32 = match () {
    () if cfg!(miri) => 10,
    () if cfg!(target_arch = "wasm32") => 100_000,
    () => 20_000,
};

/// A cell with loom's interface: loom has to see where an access begins and ends.
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
        access(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

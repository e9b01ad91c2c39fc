//! A decode step allocates nothing, and models that are dropped leave nothing behind. A program without the test harness, whose own thread allocates beside a test's.
#![allow(unsafe_code, reason = "a counting allocator")]

mod common;

use common::{data, load};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::Batch;
use foreword::model::{Model, ModelOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bytes that were not given back.
static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations in 20 decode steps of a new sequence.
fn allocations(model: &mut Model) -> usize {
    let seq = model.kv_mut().new_seq();
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    let mut before = 0;
    for token in 0..30 {
        // The first block of 32 positions: growth to the next one may allocate.
        if token == 10 {
            before = COUNT.load(Ordering::Relaxed);
        }
        batch.clear();
        batch.push_run(seq, &[3 + token], true);
        let mut cx = Context::from_waker(Waker::noop());
        let done = pin!(model.forward(&batch, &mut logits)).as_mut().poll(&mut cx);
        assert!(matches!(done, Poll::Ready(Ok(()))), "the CPU never waits");
        model.kv_mut().commit_run(seq).expect("a commit");
    }
    let allocations = COUNT.load(Ordering::Relaxed) - before;
    model.kv_mut().free(seq);
    allocations
}

fn main() {
    let options = ModelOptions {
        context_length: Some(128),
        cache_type: CacheType::F16,
        cache_tokens: None,
        max_batch: 16,
        kv_memory: None,
    };
    let mut model = load(&data("models/gemma3.gguf"), &options, Cpu::new(2));
    // Time for the helper thread to start, which allocates.
    std::thread::sleep(std::time::Duration::from_millis(200));
    // On a busy machine it may help, and size its scratch memory, for the first time in the middle of a sequence; but once.
    let counts: Vec<usize> = (0..5).map(|_| allocations(&mut model)).collect();
    let allocating = counts.iter().filter(|&&n| n > 0).count();
    assert!(allocating <= 1, "{counts:?} allocations in 20 decode steps each");
    println!("a decode step allocates nothing: ok");
    // One thread: others end when they like.
    let live = || {
        drop(load(&data("models/gemma3.gguf"), &options, Cpu::new(1)));
        LIVE.load(Ordering::Relaxed)
    };
    let first = live();
    assert!((0..100).all(|_| live() == first), "{first} bytes are left of one model, another number of more");
    println!("a hundred models leave nothing behind: ok");
}

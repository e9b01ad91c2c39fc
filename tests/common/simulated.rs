//! A CPU backend that fails on demand and whose time is simulated.

use super::random::Random;
use foreword::backend::cpu::Cpu;
use foreword::backend::*;
use foreword::error::{Error, Result};
use foreword::quant::TensorType;
use slotmap::SecondaryMap;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};

thread_local! {
    static NOW: Cell<f64> = const { Cell::new(0.0) };
    static ODDS: Cell<usize> = const { Cell::new(0) };
    static STALLS: Cell<usize> = const { Cell::new(0) };
    static MEMORY_TOO: Cell<bool> = const { Cell::new(true) };
    static LOADED: Cell<usize> = const { Cell::new(0) };
    static LOST: Cell<bool> = const { Cell::new(false) };
    static FAULTS: Cell<[usize; 3]> = const { Cell::new([0; 3]) };
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(77));
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

/// What a device was told of its cache.
pub enum Seen {
    Plan(Plan),
    Moves(Vec<(u32, u32)>),
}

/// What devices of this thread were told of their caches since the last call, in order.
pub fn take_seen() -> Vec<Seen> {
    SEEN.take()
}

/// Simulated milliseconds of this thread.
pub fn clock() -> f64 {
    NOW.get()
}

/// One in so many steps of this thread fails, for want of memory or of the device; none for 0.
pub fn fail_one_in(steps: usize) {
    ODDS.set(steps);
    MEMORY_TOO.set(true);
}

/// The device is lost in one of `2 * steps` steps of this thread; nothing else fails.
pub fn lose_one_in(steps: usize) {
    ODDS.set(steps);
    MEMORY_TOO.set(false);
}

/// A result is not there yet in one of so many polls of this thread; for 0 it always is.
pub fn stall_one_in(polls: usize) {
    STALLS.set(polls);
}

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device is lost instead of giving a result; nothing works on this thread until [`another`] is there.
    Lost,
    /// No memory for a step, or for what is written.
    Memory,
    /// No memory for a weight, a buffer, an operand or a cache.
    Allocation,
}

/// Has a fault happen at the `n`-th operation of its kind from here on, from 1; never for 0.
pub fn inject(fault: Fault, n: usize) {
    let mut faults = FAULTS.get();
    faults[fault as usize] = n;
    FAULTS.set(faults);
}

/// Whether the device is lost.
pub fn is_lost() -> bool {
    LOST.get()
}

/// From here on there is another device, without faults to come; what is random begins anew.
pub fn another(seed: u64) {
    LOST.set(false);
    FAULTS.set([0; 3]);
    RANDOM.set(Random::new(seed));
}

/// Counts an operation; fails where a fault was to happen.
fn operation(fault: Fault) -> Result<()> {
    let mut faults = FAULTS.get();
    let left = &mut faults[fault as usize];
    let now = *left == 1;
    *left = left.saturating_sub(1);
    FAULTS.set(faults);
    LOST.set(LOST.get() || now && fault == Fault::Lost);
    match LOST.get() {
        true => Err(Error::device_lost("injected: the device is gone")),
        false if now => Err(Error::out_of_memory(format!("injected: {fault:?}"))),
        false => Ok(()),
    }
}

/// Whether a result is to be polled once more.
pub fn stalls() -> bool {
    STALLS.get() > 0 && RANDOM.with_borrow_mut(|r| r.below(STALLS.get())) == 0
}

/// Backends of this thread that hold weights.
pub fn loaded() -> usize {
    LOADED.get()
}

/// A forward takes `fixed + per_row * rows + per_cell * visible positions` milliseconds.
pub struct Simulated {
    pub cpu: Cpu,
    pub fixed: f64,
    pub per_row: f64,
    pub per_cell: f64,
    /// Whether steps may be sent ahead, as on a GPU.
    pub ahead: bool,
    /// Whether [`take_seen`] gets what happens; there may be layers with states then, which are the watcher's.
    pub watched: bool,
    /// Columns of each matrix.
    cols: SecondaryMap<Buf, usize>,
    /// What was sent last, with its numbers.
    sent: VecDeque<(u64, Vec<f32>)>,
    /// Whether there are weights.
    loaded: bool,
}

impl Drop for Simulated {
    fn drop(&mut self) {
        LOADED.set(LOADED.get() - usize::from(self.loaded));
    }
}

impl Simulated {
    pub fn new(fixed: f64, per_row: f64, per_cell: f64) -> Self {
        let (cpu, sent) = (Cpu::new(1), VecDeque::new());
        let (cols, ahead, watched, loaded) = (SecondaryMap::new(), false, false, false);
        Simulated { cpu, fixed, per_row, per_cell, ahead, watched, cols, sent, loaded }
    }
}

fn fails() -> bool {
    ODDS.get() > 0 && RANDOM.with_borrow_mut(|r| r.below(2 * ODDS.get())) == 0
}

impl Backend for Simulated {
    fn begin(&mut self, plan: &Plan) -> Result<()> {
        let seen: usize = plan.spans.iter().map(Span::len).sum();
        NOW.set(NOW.get() + self.fixed + self.per_row * plan.tokens.len() as f64 + self.per_cell * seen as f64);
        operation(Fault::Memory)?;
        if MEMORY_TOO.get() && fails() {
            return Err(Error::out_of_memory("injected: no memory"));
        }
        if self.watched {
            SEEN.with_borrow_mut(|seen| seen.push(Seen::Plan(plan.clone())));
        }
        self.cpu.begin(plan)
    }

    fn runs_ahead(&self) -> bool {
        self.ahead
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        let sent = self.cpu.send(src, rows);
        if !self.ahead {
            return sent;
        }
        let number = self.sent.back().map_or(0, |(last, _)| *last) + 1;
        let mut values = vec![0.0; sent.rows.len() * self.cols[src]];
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(self.cpu.poll_sent(&mut context, &sent, &mut values).is_ready());
        self.sent.push_back((number, values));
        if self.sent.len() > 2 {
            self.sent.pop_front();
        }
        Sent { number, ..sent }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        if stalls() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Err(error) = operation(Fault::Lost) {
            return Poll::Ready(Err(error));
        }
        if fails() {
            return Poll::Ready(Err(Error::device_lost("injected: the device is gone")));
        }
        if !self.ahead {
            return self.cpu.poll_sent(cx, sent, dst);
        }
        let (_, values) = self.sent.iter().find(|(number, _)| *number == sent.number).expect("sent");
        dst.copy_from_slice(values);
        Poll::Ready(Ok(()))
    }

    fn info(&self) -> DeviceInfo {
        self.cpu.info()
    }
    fn memory(&self) -> MemoryUse {
        self.cpu.memory()
    }
    fn begin_scope(&mut self) -> Scope {
        self.cpu.begin_scope()
    }
    fn end_scope(&mut self) {
        self.cpu.end_scope();
    }
    fn release(&mut self, scope: Scope) {
        self.cpu.release(scope);
    }
    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        operation(Fault::Allocation)?;
        LOADED.set(LOADED.get() + usize::from(!self.loaded));
        self.loaded = true;
        self.cpu.new_weight(ty, rows, cols)
    }
    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.cpu.load_rows(weight, first_row, bytes)
    }
    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        operation(Fault::Allocation)?;
        let buf = self.cpu.new_buf(rows, cols)?;
        self.cols.insert(buf, cols);
        Ok(buf)
    }
    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        operation(Fault::Memory)?;
        self.cpu.write(buf, first_row, data)
    }
    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        operation(Fault::Allocation)?;
        self.cpu.new_operand(rows, cols, readers)
    }
    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        operation(Fault::Allocation)?;
        let mut layers = spec.layers.clone();
        layers.retain(|layer| !self.watched || !matches!(layer, LayerCache::State { .. }));
        self.cpu.new_cache(&CacheSpec { layers, ..*spec })
    }
    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        operation(Fault::Allocation)?;
        self.cpu.resize_cache(cache, n_blocks)
    }
    fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()> {
        operation(Fault::Allocation)?;
        self.cpu.resize_states(cache, n_slots)
    }
    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        self.cpu.embed(table, scale, out);
    }
    fn norm(&mut self, op: &Norm) {
        self.cpu.norm(op);
    }
    fn pack(&mut self, x: Buf, rows: Rows, out: Operand) {
        self.cpu.pack(x, rows, out);
    }
    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        self.cpu.matmul(x, rows, products);
    }
    fn rope_append(&mut self, op: &RopeAppend) {
        self.cpu.rope_append(op);
    }
    fn attend(&mut self, op: &Attend) {
        self.cpu.attend(op);
    }
    fn short_conv(&mut self, op: &ShortConv) {
        self.cpu.short_conv(op);
    }
    fn linear_attend(&mut self, op: &LinearAttend) {
        self.cpu.linear_attend(op);
    }
    fn gated_norm(&mut self, op: &GatedNorm) {
        self.cpu.gated_norm(op);
    }
    fn gate(&mut self, op: &Gate) {
        self.cpu.gate(op);
    }
    fn experts(&mut self, op: &Experts) {
        self.cpu.experts(op);
    }
    fn select(&mut self, op: &Select) {
        self.cpu.select(op);
    }
    fn read_cells(&mut self, op: &ReadCells) {
        self.cpu.read_cells(op);
    }
    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        if self.watched {
            SEEN.with_borrow_mut(|seen| seen.push(Seen::Moves(moves.to_vec())));
        }
        self.cpu.move_cells(cache, moves);
    }
}

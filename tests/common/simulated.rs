//! A CPU backend that fails on demand and whose time is simulated.

use super::random::Random;
use foreword::backend::cpu::Cpu;
use foreword::backend::*;
use foreword::error::{Error, Result};
use foreword::quant::TensorType;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};

thread_local! {
    static NOW: Cell<f64> = const { Cell::new(0.0) };
    static ODDS: Cell<usize> = const { Cell::new(0) };
    static STALLS: Cell<usize> = const { Cell::new(0) };
    static MEMORY_TOO: Cell<bool> = const { Cell::new(true) };
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(77));
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

/// A forward takes `fixed + per_row * rows + per_cell * visible positions` milliseconds.
pub struct Simulated {
    pub cpu: Cpu,
    pub fixed: f64,
    pub per_row: f64,
    pub per_cell: f64,
    /// Whether steps may be sent ahead, as on a GPU.
    pub ahead: bool,
    /// Columns of each matrix.
    cols: Vec<usize>,
    /// What was sent last, with its numbers.
    sent: VecDeque<(u64, Vec<f32>)>,
}

impl Simulated {
    pub fn new(fixed: f64, per_row: f64, per_cell: f64) -> Self {
        let (cpu, sent) = (Cpu::new(1), VecDeque::new());
        Simulated { cpu, fixed, per_row, per_cell, ahead: false, cols: Vec::new(), sent }
    }
}

fn fails() -> bool {
    ODDS.get() > 0 && RANDOM.with_borrow_mut(|r| r.below(2 * ODDS.get())) == 0
}

impl Backend for Simulated {
    fn begin(&mut self, plan: &Plan) -> Result<()> {
        let seen: usize = plan.spans.iter().map(Span::len).sum();
        NOW.set(NOW.get() + self.fixed + self.per_row * plan.tokens.len() as f64 + self.per_cell * seen as f64);
        if MEMORY_TOO.get() && fails() {
            return Err(Error::out_of_memory("injected: no memory"));
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
        let mut values = vec![0.0; sent.rows.len() * self.cols[src.0 as usize]];
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(self.cpu.poll_sent(&mut context, &sent, &mut values).is_ready());
        self.sent.push_back((number, values));
        if self.sent.len() > 2 {
            self.sent.pop_front();
        }
        Sent { number, ..sent }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        if fails() {
            return Poll::Ready(Err(Error::device_lost("injected: the device is gone")));
        }
        if STALLS.get() > 0 && RANDOM.with_borrow_mut(|r| r.below(STALLS.get())) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
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
    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        self.cpu.new_weight(ty, rows, cols)
    }
    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.cpu.load_rows(weight, first_row, bytes)
    }
    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        self.cols.push(cols);
        self.cpu.new_buf(rows, cols)
    }
    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        self.cpu.write(buf, first_row, data)
    }
    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        self.cpu.new_operand(rows, cols, readers)
    }
    fn new_cache(&mut self, shape: CacheShape) -> Result<Cache> {
        self.cpu.new_cache(shape)
    }
    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        self.cpu.embed(table, scale, out);
    }
    fn norm(&mut self, op: &Norm) {
        self.cpu.norm(op);
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
    fn gate(&mut self, op: &Gate) {
        self.cpu.gate(op);
    }
    fn select(&mut self, op: &Select) {
        self.cpu.select(op);
    }
    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        self.cpu.move_cells(cache, moves);
    }
}

//! The CUDA backend: NVIDIA GPUs through the driver, with kernels of our own (`shaders/cuda`) that NVRTC compiles when they are
//! first used. Needs no toolkit to build and nothing but the driver and NVRTC to run.
//!
//! Weights lie in the panels of [`crate::quant::panels`], in which 16 rows by 32 columns are one tile of a matrix instruction;
//! activations are quantized to 8 bits with a scale for every 32 values, as on the CPU. Ops are recorded;
//! [`Backend::poll_sent`] sends them and waits. An op's fault is reported by the next call that can fail.

use super::{
    Attend, Backend, Buf, Cache, CacheShape, DeviceInfo, Gate, KernelTime, MemoryUse, Norm, Operand, Plan, Product,
    RopeAppend, Rows, Select, Sent, Weight,
};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use std::ops::Range;
use std::task::{Context, Poll};

mod device;
mod link;
mod memory;
mod record;
mod step;

pub use link::{Dots, INTRINSICS, Kernel};

use device::Device;
use memory::Memory;
use record::{Angles, Scratch};
use step::Step;

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Use matrix instructions where the device has them.
    pub matrix_instructions: bool,
    /// Measure kernels.
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { matrix_instructions: true, profile: false }
    }
}

/// Opens the first device.
pub(super) fn open_first(profile: bool) -> Result<Box<dyn Backend>> {
    Ok(Box::new(Cuda::open(&Options { profile, ..Options::default() })?))
}

/// See the module text.
pub struct Cuda {
    step: Step,
    memory: Memory,
    angles: Vec<Angles>,
    partials: Scratch,
    moves: Scratch,
    /// Maxima of blocks of logits.
    blocks: Scratch,
    dots: Dots,
    /// Of an op that could not report it.
    fault: Option<Error>,
    device: Device,
}

impl Cuda {
    /// Opens the first device.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] when there is no driver, no NVRTC or no fitting device.
    pub fn open(options: &Options) -> Result<Cuda> {
        let device = Device::open(options.profile)?;
        let has_mma = device.capability >= 80 && options.matrix_instructions;
        Ok(Cuda {
            step: Step::default(),
            memory: Memory::default(),
            angles: Vec::new(),
            partials: Scratch::default(),
            moves: Scratch::default(),
            blocks: Scratch::default(),
            dots: if has_mma { Dots::Mma } else { Dots::Dp4a },
            fault: None,
            device,
        })
    }

    /// Steps that the driver keeps as graphs.
    pub fn n_graphs(&self) -> usize {
        self.step.n_graphs()
    }

    fn check(&mut self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Keeps the error of an op that cannot report it, for the next call that can.
    fn note(&mut self, recorded: Result<()>) {
        if let Err(error) = recorded {
            self.fault.get_or_insert(error);
        }
    }

    fn read(&mut self, src: Buf, rows: Range<usize>, dst: &mut [f32]) -> Result<()> {
        self.check()?;
        self.step.flush(&mut self.device)?;
        let matrix = &self.memory.bufs[src.0 as usize];
        self.device.download(matrix.address + (rows.start * matrix.cols * 4) as u64, dst)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.step.clear(&self.device);
    }
}

impl Backend for Cuda {
    fn info(&self) -> DeviceInfo {
        let (major, minor) = (self.device.capability / 10, self.device.capability % 10);
        let device = format!("{} (compute capability {major}.{minor}, {:?})", self.device.name, self.dots);
        DeviceInfo { backend: "cuda", device, threads: 1 }
    }

    fn memory(&self) -> MemoryUse {
        self.memory.used
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.step.times()
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        self.memory.new_weight(&mut self.device, ty, rows, cols).map(Weight)
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.memory.load_rows(&self.device, weight.0, first_row, bytes)
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        self.memory.new_buf(&mut self.device, rows, cols).map(Buf)
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        self.check()?;
        self.step.flush(&mut self.device)?;
        let matrix = &self.memory.bufs[buf.0 as usize];
        self.device.upload(matrix.address + (first_row * matrix.cols * 4) as u64, data)
    }

    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        self.memory.new_operand(&mut self.device, rows, cols, readers).map(Operand)
    }

    fn new_cache(&mut self, shape: CacheShape) -> Result<Cache> {
        self.memory.new_cache(&mut self.device, shape).map(Cache)
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.check()?;
        self.step.begin(&mut self.device, plan)?;
        self.angles.iter_mut().for_each(|a| a.filled = false);
        Ok(())
    }

    fn embed(&mut self, table: Weight, scale: f32, out: Buf) {
        self.record_embed(table, scale, out);
    }

    fn norm(&mut self, op: &Norm) {
        self.record_norm(op);
    }

    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]) {
        self.record_matmul(x, rows, products);
    }

    fn rope_append(&mut self, op: &RopeAppend) {
        let recorded = self.record_rope_append(op);
        self.note(recorded);
    }

    fn attend(&mut self, op: &Attend) {
        let recorded = self.record_attend(op);
        self.note(recorded);
    }

    fn gate(&mut self, op: &Gate) {
        self.record_gate(op);
    }

    fn select(&mut self, op: &Select) {
        let recorded = self.record_select(op);
        self.note(recorded);
    }

    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]) {
        let recorded = self.record_move_cells(cache, moves);
        self.note(recorded);
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        Poll::Ready(self.read(sent.src, sent.rows.clone(), dst))
    }
}

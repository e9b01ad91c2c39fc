//! The CUDA backend: NVIDIA GPUs through the driver, with kernels of our own (`shaders/cuda`) that NVRTC compiles when they are
//! first used. Needs no toolkit to build and nothing but the driver and NVRTC to run.
//!
//! Weights lie in the panels of [`crate::quant::panels`], in which 16 rows by 32 columns are one tile of a matrix instruction;
//! activations are quantized to 8 bits with a scale for every 32 values, as on the CPU. Ops are recorded;
//! [`Backend::poll_sent`] sends them and waits. An op's fault is reported by the next call that can fail.

use super::gpu::{AngleTables, Recorder, Scratch, Work, recorded_ops};
use super::{
    Attend, Backend, Buf, Cache, CacheSpec, DeviceInfo, Experts, Gate, GatedNorm, KernelTime, LinearAttend, MemoryUse,
    Norm, Operand, Plan, Product, ReadCells, RoomFuture, RopeAppend, Rows, Scope, Select, Sent, ShortConv, Weight,
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

use device::{Address, Device};
use memory::Memory;
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
    angles: AngleTables<Address>,
    work: [Scratch<Address>; Work::COUNT],
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
            angles: AngleTables::default(),
            work: Default::default(),
            dots: if has_mma { Dots::Mma } else { Dots::Dp4a },
            fault: None,
            device,
        })
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

    fn release_scope(&mut self, scope: Scope) -> Result<()> {
        self.step.flush(&mut self.device)?;
        self.step.forget(&self.device)?;
        self.memory.release(&mut self.device, scope)?;
        let angles = self.angles.release(|freqs| self.memory.bufs.contains(freqs));
        angles.into_iter().try_for_each(|address| self.device.free(address))
    }

    fn read(&mut self, src: Buf, rows: Range<usize>, dst: &mut [f32]) -> Result<()> {
        self.check()?;
        self.step.flush(&mut self.device)?;
        let matrix = &self.memory.bufs[src];
        self.device.download(matrix.row(rows.start), dst)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // The device is going away in any case.
        _ = self.step.forget(&self.device);
    }
}

impl Backend for Cuda {
    fn info(&self) -> DeviceInfo {
        let (major, minor) = (self.device.capability / 10, self.device.capability % 10);
        let device = format!("{} (compute capability {major}.{minor}, {:?})", self.device.name, self.dots);
        DeviceInfo { backend: "cuda", device, threads: 1 }
    }

    fn memory(&self) -> MemoryUse {
        self.device.used()
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.step.times()
    }

    fn room(&mut self, weights: u64, cache: &CacheSpec, _: usize) -> RoomFuture<'_> {
        let bytes = cache.layer_bytes().fold(weights as usize, usize::saturating_add);
        let tried = self.device.work(bytes).and_then(|address| self.device.free(address));
        Box::pin(std::future::ready(tried))
    }

    fn begin_scope(&mut self) -> Scope {
        self.memory.scopes.begin()
    }

    fn end_scope(&mut self) {
        self.memory.scopes.end();
    }

    fn release(&mut self, scope: Scope) {
        let released = self.release_scope(scope);
        self.note(released);
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        self.memory.new_weight(&mut self.device, ty, rows, cols)
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.memory.load_rows(&self.device, weight, first_row, bytes)
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        self.memory.new_buf(&mut self.device, rows, cols)
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        self.check()?;
        self.step.flush(&mut self.device)?;
        self.angles.written(buf);
        let matrix = &self.memory.bufs[buf];
        self.device.upload(matrix.row(first_row), data)
    }

    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand> {
        self.memory.new_operand(&mut self.device, rows, cols, readers)
    }

    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        self.memory.new_cache(&mut self.device, spec)
    }

    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        self.step.flush(&mut self.device)?;
        // Its launches have the old addresses.
        self.step.forget(&self.device)?;
        self.memory.resize_cache(&mut self.device, cache, n_blocks)
    }

    fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()> {
        self.step.flush(&mut self.device)?;
        self.step.forget(&self.device)?;
        self.memory.resize_states(&mut self.device, cache, n_slots)
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.check()?;
        self.step.begin(&mut self.device, plan)?;
        self.angles.begin();
        Ok(())
    }

    recorded_ops!();

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        Sent { src, rows, number: 0 }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        Poll::Ready(self.read(sent.src, sent.rows.clone(), dst))
    }
}

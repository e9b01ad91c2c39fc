//! The WebGPU backend: the browser's GPU, and Vulkan, Metal or DirectX 12 natively, through wgpu.
//!
//! Runs on what every WebGPU device has (128 MiB bindings, 8 storage buffers, 16 KiB workgroup memory, 32-bit floats); larger
//! bindings, subgroups and half floats are used where the adapter has them. Ops are recorded; [`Backend::send`] sends them in one
//! submit and maps the result once. Faults (out of memory, device lost) come asynchronously and are reported by the next
//! call that can fail.

use super::gpu::{AngleTables, Recorder, Scratch, Work, recorded_ops};
use super::{
    Activity, Attend, Backend, Buf, Cache, CacheSpec, DeviceInfo, Experts, Gate, GatedNorm, KernelTime, LinearAttend,
    MemoryUse, Norm, Operand, Plan, Product, ReadCells, RoomFuture, RopeAppend, Rows, Scope, Select, Sent, ShortConv,
    Weight, Workload,
};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use arrayvec::ArrayVec;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

mod link;
mod memory;
mod pipelines;
mod profile;
mod record;
mod step;

pub use crate::quant::panels::Layout;
pub use link::{Floats, Kernel, Lanes};

use memory::{BufferId, Memory};
use pipelines::Pipelines;
use profile::Profile;
use step::Step;

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Use subgroup operations where the adapter has them.
    pub subgroups: bool,
    /// Use half floats where the adapter has them.
    pub half_floats: bool,
    /// Largest binding to use, in bytes; larger weights are cut into several. `None`: what the adapter allows. For up to
    /// 128 MiB the device is opened with the limits that WebGPU guarantees.
    pub max_binding: Option<u64>,
    /// Take software adapters too.
    pub software: bool,
    /// Whether the adapter is a processor that serves as a GPU, for the choice of kernels; found out when `None`.
    pub is_processor: Option<bool>,
    /// Measure kernels where the adapter has timestamps: in every step, in browsers in some.
    pub profile: bool,
    /// Gives milliseconds, by which compiling is measured.
    pub clock: fn() -> f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            subgroups: true,
            half_floats: true,
            max_binding: None,
            software: true,
            is_processor: None,
            profile: false,
            clock: || 0.0,
        }
    }
}

/// Opens the best adapter, a software one included.
pub(super) async fn open_any(profile: bool, clock: fn() -> f64) -> Result<Box<dyn Backend>> {
    Ok(Box::new(WebGpu::open(&Options { profile, clock, ..Options::default() }).await?))
}

/// Opens the best adapter that is no software one.
pub(super) async fn open_hardware(profile: bool, clock: fn() -> f64) -> Result<Box<dyn Backend>> {
    let gpu = WebGpu::open(&Options { profile, clock, software: false, ..Options::default() }).await?;
    Ok(Box::new(gpu))
}

/// What has gone wrong; filled by callbacks.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<FaultState>>);

#[derive(Default)]
struct FaultState {
    lost: Option<String>,
    error: Option<Error>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports what happened since the last check; a lost device stays lost.
    fn check(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(reason) = &state.lost {
            return Err(Error::device_lost(format!("the GPU went away ({reason})")));
        }
        state.error.take().map_or(Ok(()), Err)
    }
}

/// Results that may be on their way at the same time: those of two steps.
const MAX_SENT: usize = 2;

/// A result on its way to the host.
struct Reading {
    number: u64,
    submission: wgpu::SubmissionIndex,
    buffer: wgpu::Buffer,
    state: Arc<Mutex<MapState>>,
}

#[derive(Default)]
struct MapState {
    done: Option<Result<(), String>>,
    waker: Option<Waker>,
}

/// See the module text.
pub struct WebGpu {
    info: DeviceInfo,
    faults: Faults,
    memory: Memory,
    step: Step,
    angles: AngleTables<BufferId>,
    work: [Scratch<BufferId>; Work::COUNT],
    /// The oldest first.
    readings: ArrayVec<Reading, MAX_SENT>,
    /// Results sent so far.
    n_sent: u64,
    /// Buffers for results, kept between steps.
    spare: ArrayVec<wgpu::Buffer, MAX_SENT>,
    /// Whether kernels without barriers are the faster ones.
    is_processor: bool,
    /// Of the tiles of products.
    floats: Floats,
}

impl WebGpu {
    /// Opens the best adapter.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] when there is none, or it refuses.
    pub async fn open(options: &Options) -> Result<WebGpu> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|e| Error::unsupported(format!("no GPU can be used: {e}; use the CPU backend")))?;
        let about = adapter.get_info();
        let text = format!("{} {} {}", about.name, about.driver, about.driver_info).to_lowercase();
        // Browsers tell only by the name.
        let software =
            about.device_type == wgpu::DeviceType::Cpu || text.contains("swiftshader") || text.contains("llvmpipe");
        if software && !options.software {
            return Err(Error::unsupported(format!("{} is a software GPU; use the CPU backend", about.name)));
        }
        let is_processor = options.is_processor.unwrap_or(software);
        let max_binding = options.max_binding.unwrap_or(u64::MAX);
        let (features, limits) = (features(&adapter, options, is_processor), limits(&adapter, max_binding));
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("foreword"),
                required_features: features,
                required_limits: limits,
                ..Default::default()
            })
            .await
            .map_err(|e| {
                Error::unsupported(format!("the GPU {} cannot be used: {e}; use the CPU backend", about.name))
            })?;
        let faults = Faults::default();
        watch(&device, &faults);
        let lanes = match is_processor {
            true => Lanes::Processor,
            false if features.contains(wgpu::Features::SUBGROUP) => Lanes::Subgroup,
            false => Lanes::Workgroup,
        };
        let floats = if features.contains(wgpu::Features::SHADER_F16) { Floats::F16 } else { Floats::F32 };
        let profile = features.contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Profile::new(&device, &queue));
        let mut memory = Memory::new(device, queue, max_binding);
        let step = Step::new(&mut memory, Pipelines::new(lanes, options.clock), profile)?;
        let backend = format!("{:?}", about.backend);
        let device = format!("{} ({backend}, {lanes:?}, {floats:?})", about.name);
        let info = DeviceInfo { backend: "webgpu", device, threads: 1 };
        Ok(WebGpu {
            info,
            faults,
            memory,
            step,
            angles: AngleTables::default(),
            work: Default::default(),
            readings: ArrayVec::new(),
            n_sent: 0,
            spare: ArrayVec::new(),
            is_processor,
            floats,
        })
    }

    /// What the tiles of products hold.
    pub fn floats(&self) -> Floats {
        self.floats
    }

    /// Gives the device up, as if it had been lost; for tests of what follows.
    pub fn lose(&self) {
        self.memory.device.destroy();
    }

    /// Sends the step and begins to map rows of `source`.
    fn start_reading(&mut self, source: Buf, rows: &Range<usize>) -> Reading {
        let matrix = &self.memory.bufs[source];
        let (id, row_bytes) = (matrix.buffer, matrix.cols as u64 * 4);
        let range = rows.start as u64 * row_bytes..rows.end as u64 * row_bytes;
        let size = (range.end - range.start).max(4);
        let buffer = self.spare.pop().filter(|b| b.size() >= size).unwrap_or_else(|| {
            self.memory.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("result"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        self.step.activity.read_bytes += range.end - range.start;
        let submission = self.step.flush_and_copy(&self.memory, (id, range), &buffer);
        let state = Arc::new(Mutex::new(MapState::default()));
        let shared = state.clone();
        buffer.map_async(wgpu::MapMode::Read, 0..size, move |result| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.done = Some(result.map_err(|e| e.to_string()));
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        self.n_sent += 1;
        Reading { number: self.n_sent, submission, buffer, state }
    }
}

/// What the adapter has of what is of use.
fn features(adapter: &wgpu::Adapter, options: &Options, is_processor: bool) -> wgpu::Features {
    let wanted = [
        // The kernels for processors use neither.
        (options.subgroups && !is_processor, wgpu::Features::SUBGROUP),
        (options.half_floats && !is_processor, wgpu::Features::SHADER_F16),
        (options.profile, wgpu::Features::TIMESTAMP_QUERY),
    ];
    let wanted = wanted.into_iter().filter(|(wish, _)| *wish).map(|(_, feature)| feature);
    wanted.fold(wgpu::Features::empty(), |all, feature| all | (feature & adapter.features()))
}

/// What WebGPU guarantees, but for bindings, which may be as large as the adapter has them where `max_binding` is larger.
fn limits(adapter: &wgpu::Adapter, max_binding: u64) -> wgpu::Limits {
    let mut limits = wgpu::Limits::defaults();
    if max_binding > limits.max_storage_buffer_binding_size {
        let most = adapter.limits();
        limits.max_buffer_size = most.max_buffer_size;
        limits.max_storage_buffer_binding_size = most.max_storage_buffer_binding_size;
    }
    limits
}

/// Lets the device's callbacks fill `faults`.
fn watch(device: &wgpu::Device, faults: &Faults) {
    let shared = faults.clone();
    device.on_uncaptured_error(Arc::new(move |error| {
        let found = match error {
            wgpu::Error::OutOfMemory { .. } => {
                Error::out_of_memory("the GPU is out of memory; use a smaller model or a shorter context")
            }
            other => Error::device_fault(format!("the GPU refused a command: {other}")),
        };
        shared.lock().error.get_or_insert(found);
    }));
    let shared = faults.clone();
    device.set_device_lost_callback(move |reason, message| {
        shared.lock().lost = Some(format!("{reason:?} {message}").trim().to_string());
    });
}

/// A browser would free what the device holds only when it collects garbage.
impl Drop for WebGpu {
    fn drop(&mut self) {
        self.memory.device.destroy();
    }
}

impl Backend for WebGpu {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn memory(&self) -> MemoryUse {
        self.memory.used()
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        let totals = self.step.profile.as_ref().map(Profile::totals).unwrap_or_default();
        totals.into_iter().map(|(kernel, nanoseconds, runs)| KernelTime { kernel, nanoseconds, runs }).collect()
    }

    /// Takes that much memory and gives it back: no GPU says how much it has.
    fn room(&mut self, weights: u64, cache: &CacheSpec, largest: usize) -> RoomFuture<'_> {
        let layer = cache.layer_bytes().max().unwrap_or(0);
        let bytes = cache.layer_bytes().fold(weights, |sum, layer| sum.saturating_add(layer as u64));
        Box::pin(async move {
            self.memory.check_size("a layer of the KV cache", layer)?;
            self.memory.check_size("a work buffer", largest)?;
            let scope = self.memory.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let probes = self.memory.probe(bytes);
            let error = scope.pop().await;
            probes.iter().for_each(wgpu::Buffer::destroy);
            // Freed when the queue has seen it.
            self.memory.send();
            self.faults.check()?;
            match error {
                None => Ok(()),
                Some(_) => Err(Error::out_of_memory(format!(
                    "the GPU has no room for {} MiB of weights and KV cache; use a smaller model, a shorter context or the CPU",
                    bytes >> 20
                ))),
            }
        })
    }

    fn prepare(&mut self, workload: &Workload) {
        let kernels = self.kernels_of(workload);
        self.step.pipelines.prepare(&self.memory.device, kernels);
    }

    fn idle(&mut self) {
        self.step.pipelines.idle(&self.memory.device, &self.memory.queue);
    }

    fn activity(&self) -> Activity {
        let pipelines = &self.step.pipelines;
        Activity { pipelines: pipelines.len(), compile_ms: pipelines.compile_ms(), ..self.step.activity }
    }

    fn begin_scope(&mut self) -> Scope {
        self.memory.scopes.begin()
    }

    fn end_scope(&mut self) {
        self.memory.scopes.end();
    }

    fn release(&mut self, scope: Scope) {
        self.step.flush(&self.memory);
        self.memory.release(scope);
        for buffer in self.angles.release(|freqs| self.memory.bufs.contains(freqs)) {
            self.memory.free(buffer);
        }
        self.step.forget_freed(&self.memory);
    }

    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight> {
        let weight = self.memory.new_weight(ty, rows, cols)?;
        self.faults.check()?;
        Ok(weight)
    }

    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        self.memory.load_rows(weight, first_row, bytes)?;
        self.faults.check()
    }

    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf> {
        let buf = self.memory.new_buf(rows, cols)?;
        self.faults.check()?;
        Ok(buf)
    }

    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()> {
        if self.step.is_pending() {
            self.step.flush(&self.memory);
        }
        self.memory.write(buf, first_row, data);
        self.angles.written(buf);
        self.faults.check()
    }

    fn new_operand(&mut self, rows: usize, cols: usize, _: &[Weight]) -> Result<Operand> {
        let operand = self.memory.new_operand(rows, cols)?;
        self.faults.check()?;
        Ok(operand)
    }

    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache> {
        let cache = self.memory.new_cache(spec)?;
        self.faults.check()?;
        Ok(cache)
    }

    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()> {
        self.step.flush(&self.memory);
        let resized = self.memory.resize_cache(cache, n_blocks);
        self.step.forget_freed(&self.memory);
        // What the device says of it is for the next step: a cache that shrinks may ignore its own errors, but no step's.
        resized
    }

    fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()> {
        self.step.flush(&self.memory);
        let resized = self.memory.resize_states(cache, n_slots);
        self.step.forget_freed(&self.memory);
        resized
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.faults.check()?;
        self.step.begin(&mut self.memory, plan)?;
        self.angles.begin();
        Ok(())
    }

    recorded_ops!();

    fn runs_ahead(&self) -> bool {
        true
    }

    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent {
        let reading = self.start_reading(src, &rows);
        let number = reading.number;
        if self.readings.is_full() {
            self.readings.remove(0);
        }
        self.readings.push(reading);
        Sent { src, rows, number }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>> {
        let Some(at) = self.readings.iter().position(|r| r.number == sent.number) else {
            return Poll::Ready(Err(Error::device_lost("a result of the GPU was given up")));
        };
        // Natively the callbacks run only inside this call; in a browser it does nothing and the callback wakes the task.
        let submission_index = Some(self.readings[at].submission.clone());
        _ = self.memory.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        if let Err(error) = self.faults.check() {
            self.readings.remove(at);
            return Poll::Ready(Err(error));
        }
        let done = {
            let mut state = self.readings[at].state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.done.is_none() {
                state.waker = Some(cx.waker().clone());
            }
            state.done.take()
        };
        let Some(done) = done else { return Poll::Pending };
        let reading = self.readings.remove(at);
        Poll::Ready(match done {
            Err(message) => Err(unreadable(message)),
            Ok(()) => self.finish_reading(reading, dst),
        })
    }
}

fn unreadable(reason: impl std::fmt::Display) -> Error {
    Error::device_lost(format!("the GPU's result cannot be read: {reason}"))
}

impl WebGpu {
    fn finish_reading(&mut self, reading: Reading, dst: &mut [f32]) -> Result<()> {
        let bytes = (dst.len() as u64 * 4).max(4);
        let view = reading.buffer.get_mapped_range(0..bytes).map_err(unreadable)?;
        for (to, from) in dst.iter_mut().zip(view.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        drop(view);
        reading.buffer.unmap();
        _ = self.spare.try_push(reading.buffer);
        if let Some(profile) = &mut self.step.profile {
            profile.collect(&self.memory.device);
        }
        Ok(())
    }

    /// Keeps the error of an op that cannot report it, for the next call that can.
    fn note(&self, recorded: Result<()>) {
        if let Err(error) = recorded {
            self.faults.lock().error.get_or_insert(error);
        }
    }
}

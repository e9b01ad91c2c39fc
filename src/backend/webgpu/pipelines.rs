//! Compiled kernels: those that a model surely needs are compiled while its tensors arrive, others when they are first used.

use super::link::{Kernel, Lanes};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module text.
pub(super) struct Pipelines {
    lanes: Lanes,
    /// Milliseconds.
    clock: fn() -> f64,
    made: HashMap<Kernel, wgpu::ComputePipeline>,
    background: background::Compiler,
    /// Kernels asked for.
    n: u64,
    spent: Spent,
}

/// Microseconds of compiling.
#[derive(Clone, Default)]
struct Spent(Arc<AtomicU64>);

impl Spent {
    fn add(&self, milliseconds: f64) {
        self.0.fetch_add((milliseconds * 1e3) as u64, Ordering::Relaxed);
    }
}

impl Pipelines {
    pub(super) fn new(lanes: Lanes, clock: fn() -> f64) -> Self {
        let background = background::Compiler::default();
        Pipelines { lanes, clock, made: HashMap::new(), background, n: 0, spent: Spent::default() }
    }

    /// Begins to compile kernels; returns at once.
    pub(super) fn prepare(&mut self, device: &wgpu::Device, mut kernels: Vec<Kernel>) {
        let mut seen = std::collections::HashSet::new();
        kernels.retain(|kernel| !self.made.contains_key(kernel) && seen.insert(*kernel));
        background::start(self, device, kernels);
    }

    /// The pipeline of a kernel.
    pub(super) fn get(&mut self, device: &wgpu::Device, kernel: Kernel) -> &wgpu::ComputePipeline {
        // The thread sends its kernels one by one. A kernel that was not prepared waits until it has sent all.
        while !self.made.contains_key(&kernel) {
            let Some((kernel, pipeline)) = self.background.next() else { break };
            self.made.insert(kernel, pipeline);
        }
        self.made.entry(kernel).or_insert_with(|| {
            let begun = (self.clock)();
            let pipeline = compile(device, self.lanes, kernel);
            self.spent.add((self.clock)() - begun);
            self.n += 1;
            pipeline
        })
    }

    /// Kernels that were compiled, or are being.
    pub(super) fn len(&self) -> u64 {
        self.n
    }

    /// Milliseconds of compiling so far.
    pub(super) fn compile_ms(&self) -> f64 {
        self.spent.0.load(Ordering::Relaxed) as f64 / 1e3
    }
}

fn compile(device: &wgpu::Device, lanes: Lanes, kernel: Kernel) -> wgpu::ComputePipeline {
    let label = Some(kernel.name());
    let source = wgpu::ShaderSource::Wgsl(kernel.source(lanes).into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write workgroup memory before they read it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    })
}

/// Natively another thread compiles.
#[cfg(not(target_arch = "wasm32"))]
mod background {
    use super::{Kernel, Pipelines, compile};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{Builder, JoinHandle};

    #[derive(Default)]
    pub(super) struct Compiler {
        coming: Option<Receiver<(Kernel, wgpu::ComputePipeline)>>,
        thread: Option<JoinHandle<()>>,
    }

    impl Compiler {
        /// The next compiled kernel, waited for.
        pub(super) fn next(&mut self) -> Option<(Kernel, wgpu::ComputePipeline)> {
            self.coming.as_ref()?.recv().ok()
        }
    }

    /// Drivers do not like threads that outlive their device.
    impl Drop for Compiler {
        fn drop(&mut self) {
            self.coming = None;
            self.thread.take().map(JoinHandle::join);
        }
    }

    pub(super) fn start(pipelines: &mut Pipelines, device: &wgpu::Device, kernels: Vec<Kernel>) {
        pipelines.n += kernels.len() as u64;
        let (send, coming) = channel();
        let (device, lanes, clock, spent) = (device.clone(), pipelines.lanes, pipelines.clock, pipelines.spent.clone());
        let work = move || {
            for kernel in kernels {
                let begun = clock();
                let pipeline = compile(&device, lanes, kernel);
                spent.add(clock() - begun);
                if send.send((kernel, pipeline)).is_err() {
                    return;
                }
            }
        };
        // Without a thread each kernel is compiled when it is used.
        let thread = Builder::new().name("kernels".to_string()).spawn(work).ok();
        pipelines.background = Compiler { coming: Some(coming), thread };
    }

    impl Pipelines {
        /// The thread needs no call.
        pub(in super::super) fn idle(&mut self, _: &wgpu::Device, _: &wgpu::Queue) {}
    }
}

/// In a browser its GPU process compiles, and does nothing else meanwhile: a model that comes from near would wait for it. So
/// kernels are compiled one by one while bytes are awaited, for a third of a longer download at most.
#[cfg(target_arch = "wasm32")]
mod background {
    use super::{Kernel, Pipelines, compile};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Milliseconds of a short download.
    const SHORT: f64 = 1000.0;

    #[derive(Default)]
    pub(super) struct Compiler {
        /// The next one last.
        left: Vec<Kernel>,
        /// When they were named.
        since: f64,
        busy: Arc<AtomicBool>,
    }

    impl Compiler {
        pub(super) fn next(&mut self) -> Option<(Kernel, wgpu::ComputePipeline)> {
            None
        }
    }

    pub(super) fn start(pipelines: &mut Pipelines, _: &wgpu::Device, mut kernels: Vec<Kernel>) {
        kernels.reverse();
        (pipelines.background.left, pipelines.background.since) = (kernels, (pipelines.clock)());
    }

    impl Pipelines {
        /// Compiles the next kernel, unless the one before is not done.
        pub(in super::super) fn idle(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
            let elapsed = (self.clock)() - self.background.since;
            if self.background.busy.load(Ordering::Acquire) || elapsed < SHORT + 3.0 * self.compile_ms() {
                return;
            }
            let Some(kernel) = self.background.left.pop() else { return };
            if self.made.contains_key(&kernel) {
                return;
            }
            let (clock, spent, busy) = (self.clock, self.spent.clone(), self.background.busy.clone());
            let begun = clock();
            busy.store(true, Ordering::Release);
            self.made.insert(kernel, compile(device, self.lanes, kernel));
            self.n += 1;
            // Work behind the compilation is done when that is.
            queue.submit([]);
            queue.on_submitted_work_done(move || {
                spent.add(clock() - begun);
                busy.store(false, Ordering::Release);
            });
        }
    }
}

//! One GPU through the CUDA driver: memory, copies, compilation, launches and graphs on one stream. All `unsafe` code of the
//! backend is here.
//!
//! The driver and NVRTC are looked for when a device is opened, never linked: a build of this feature starts everywhere. All
//! work goes in order through one stream, so that nothing here waits but [`Device::download`].
#![allow(unsafe_code, reason = "calls into the CUDA driver and NVRTC")]

use super::super::gpu::{Allocation, Purpose, memory_use};
use super::super::{MemoryUse, Scope};
use super::link::{INTRINSICS, Kernel};
use crate::error::{Error, Result};
use cudarc::driver::result as cuda;
use cudarc::driver::{DriverError, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};

/// Address of device memory.
pub(super) type Address = u64;

/// A kernel's grid and the bytes of its `Params`, as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) kernel: Kernel,
    pub(super) grid: [u32; 3],
    pub(super) params: Vec<u32>,
}

/// Launches that the driver keeps.
pub(super) struct Graph(sys::CUgraphExec);

// SAFETY: the driver's handles belong to a context, not to a thread; a graph is launched by the device it came from.
unsafe impl Send for Graph {}

/// See the module text.
pub(super) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// For people.
    pub(super) name: String,
    /// Compute capability: `10 * major + minor`.
    pub(super) capability: i32,
    /// Multiprocessors.
    pub(super) n_processors: usize,
    functions: HashMap<Kernel, sys::CUfunction>,
    modules: Vec<sys::CUmodule>,
    allocations: HashMap<Address, Allocation>,
    /// Start and end of a launch, where launches are measured.
    events: Option<[sys::CUevent; 2]>,
}

// SAFETY: the driver's handles belong to the context, not to a thread, and whoever calls into it makes the context current
// on its thread first ([`Device::enter`]).
unsafe impl Send for Device {}

/// What a failed call means to the user.
fn failed(doing: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |e| match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::out_of_memory("the GPU is out of memory; use a smaller model or a shorter context").caused_by(e)
        }
        _ => Error::device_lost(format!("CUDA failed to {doing} ({e}); load the model again")),
    }
}

fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("CUDA is not available: {why}; use another backend"))
}

impl Device {
    /// Opens the first device.
    pub(super) fn open(profile: bool) -> Result<Self> {
        // SAFETY: only loads the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable("this machine has no NVIDIA driver"));
        }
        find_nvrtc()?;
        let first = || -> std::result::Result<_, DriverError> {
            cuda::init()?;
            let device = cuda::device::get(0)?;
            use sys::CUdevice_attribute::{
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
                CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as PROCESSORS,
            };
            // SAFETY: `device` is one; the context is made current before anything is made in it.
            unsafe {
                let [major, minor, processors] =
                    [MAJOR, MINOR, PROCESSORS].map(|a| cuda::device::get_attribute(device, a));
                let context = cuda::primary_ctx::retain(device)?;
                cuda::ctx::set_current(context)?;
                let stream = cuda::stream::create(cuda::stream::StreamKind::NonBlocking)?;
                let event = || cuda::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
                Ok(Device {
                    device,
                    context,
                    stream,
                    name: cuda::device::get_name(device)?,
                    capability: 10 * major? + minor?,
                    n_processors: usize::try_from(processors?).unwrap_or(1),
                    functions: HashMap::new(),
                    modules: Vec::new(),
                    allocations: HashMap::new(),
                    events: if profile { Some([event()?, event()?]) } else { None },
                })
            }
        };
        let device = first().map_err(|e| unavailable(format!("the driver reports {e}")))?;
        if device.capability < 61 {
            return Err(unavailable(format!("{} is older than compute capability 6.1", device.name)));
        }
        Ok(device)
    }

    /// Makes the context that of the calling thread.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { cuda::ctx::set_current(self.context) }.map_err(failed("be used"))
    }

    /// Zeroed memory of a scope.
    pub(super) fn alloc(&mut self, scope: Scope, purpose: Purpose, bytes: usize) -> Result<Address> {
        self.enter()?;
        // SAFETY: the memory is freed once, by `free` or `drop`, and written through the stream only.
        unsafe {
            let address = cuda::malloc_sync(bytes.max(16)).map_err(failed("reserve memory"))?;
            self.allocations.insert(address, Allocation { purpose, scope, bytes });
            cuda::memset_d8_async(address, 0, bytes.max(16), self.stream).map_err(failed("clear memory"))?;
            Ok(address)
        }
    }

    /// Zeroed memory that belongs to no file.
    pub(super) fn work(&mut self, bytes: usize) -> Result<Address> {
        self.alloc(Scope::default(), Purpose::Work, bytes)
    }

    /// What memory from `alloc` belongs to, and its bytes.
    pub(super) fn held(&self, address: Address) -> (Scope, usize) {
        self.allocations.get(&address).map_or((Scope::default(), 0), |held| (held.scope, held.bytes))
    }

    /// Copies on the device, behind what was launched.
    pub(super) fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: both places are so long, in memory that lives until the stream is idle.
        unsafe { cuda::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(failed("copy on the GPU"))
    }

    /// Gives memory back once what uses it is done.
    pub(super) fn free(&mut self, address: Address) -> Result<()> {
        self.wait()?;
        match self.allocations.remove(&address) {
            // SAFETY: `address` came from `alloc` and is freed for the first time, and the stream is idle.
            Some(_) => unsafe { cuda::free_sync(address) }.map_err(failed("free memory")),
            None => Ok(()),
        }
    }

    /// Gives all memory of a scope back once what uses it is done.
    pub(super) fn release(&mut self, scope: Scope) -> Result<()> {
        let freed: Vec<Address> = self.allocations.iter().filter(|(_, a)| a.scope == scope).map(|(&a, _)| a).collect();
        freed.into_iter().try_for_each(|address| self.free(address))
    }

    /// What all memory that was reserved takes.
    pub(super) fn used(&self) -> MemoryUse {
        memory_use(self.allocations.values().copied())
    }

    /// Copies to the device, behind what was launched.
    pub(super) fn upload<T: Copy>(&self, to: Address, data: &[T]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the callers' memory holds `data`; the driver has taken it out of pageable memory when this returns.
        unsafe { cuda::memcpy_htod_async(to, data, self.stream) }.map_err(failed("copy to the GPU"))
    }

    /// Copies from the device, behind what was launched, and waits.
    pub(super) fn download(&self, from: Address, data: &mut [f32]) -> Result<()> {
        self.enter()?;
        if !data.is_empty() {
            // SAFETY: the callers' memory is as long as `data`, which lives until the stream is idle.
            unsafe { cuda::memcpy_dtoh_async(data, from, self.stream) }.map_err(failed("copy from the GPU"))?;
        }
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { cuda::stream::synchronize(self.stream) }.map_err(failed("run a kernel"))
    }

    /// Compiles a kernel unless that is done.
    pub(super) fn prepare(&mut self, kernel: Kernel) -> Result<()> {
        if self.functions.contains_key(&kernel) {
            return Ok(());
        }
        self.enter()?;
        let image = compile(kernel, self.capability)?;
        let name = CString::new(format!("{}_kernel", kernel.name())).unwrap_or_default();
        // SAFETY: `image` is what NVRTC made, ended by a zero; the module lives as long as `self`.
        unsafe {
            let module = cuda::module::load_data(image.as_ptr().cast()).map_err(failed("load a kernel"))?;
            self.modules.push(module);
            let function = cuda::module::get_function(module, name).map_err(failed("find a kernel"))?;
            self.functions.insert(kernel, function);
        }
        Ok(())
    }

    /// Launches a kernel that is prepared; returns its time in nanoseconds where launches are measured.
    pub(super) fn launch(&self, launch: &Launch) -> Result<Option<f64>> {
        let Some(&function) = self.functions.get(&launch.kernel) else {
            return Err(Error::device_lost("a CUDA kernel was launched before it was compiled"));
        };
        let ([x, y, z], mut params) = (launch.grid, launch.params.clone());
        // SAFETY: every kernel takes one `Params` by value, which `params` holds (the op tests run each); its addresses are
        // of allocations that live until the stream is idle.
        let run = |stream| unsafe {
            let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
            cuda::launch_kernel(function, (x, y, z), (launch.kernel.threads(), 1, 1), 0, stream, &mut pointers)
        };
        let mut run = run;
        let Some([start, end]) = self.events else {
            return run(self.stream).map(|()| None).map_err(failed("launch a kernel"));
        };
        // SAFETY: events and stream live as long as `self`.
        let timed = unsafe {
            cuda::event::record(start, self.stream)
                .and_then(|()| run(self.stream))
                .and_then(|()| cuda::event::record(end, self.stream))
                .and_then(|()| cuda::event::synchronize(end))
                .and_then(|()| cuda::event::elapsed(start, end))
        };
        timed.map(|ms| Some(f64::from(ms) * 1e6)).map_err(failed("measure a kernel"))
    }

    /// Whether launches are measured.
    pub(super) fn measures(&self) -> bool {
        self.events.is_some()
    }

    /// Records launches of prepared kernels as a graph; nothing runs.
    pub(super) fn capture(&self, launches: &[Launch]) -> Result<Graph> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`; the graph is dropped once its executable form exists.
        unsafe {
            cuda::stream::begin_capture(self.stream, mode).map_err(failed("record a graph"))?;
            let launched = launches.iter().try_for_each(|launch| self.launch(launch).map(drop));
            let graph = cuda::stream::end_capture(self.stream).map_err(failed("record a graph"))?;
            let flags = sys::CUgraphInstantiate_flags(0);
            let made = launched.and_then(|()| cuda::graph::instantiate(graph, flags).map_err(failed("build a graph")));
            cuda::graph::destroy(graph).map_err(failed("build a graph"))?;
            Ok(Graph(made?))
        }
    }

    /// Launches a graph.
    pub(super) fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the graph came from `capture`, and its launches' memory is that of equal launches now.
        unsafe { cuda::graph::launch(graph.0, self.stream) }.map_err(failed("launch a graph"))
    }

    /// Gives a graph back.
    pub(super) fn discard(&self, graph: Graph) -> Result<()> {
        self.wait()?;
        // SAFETY: the graph came from `capture` and is not used again.
        unsafe { cuda::graph::exec_destroy(graph.0) }.map_err(failed("free a graph"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.wait().is_err() {
            // The context is broken; the driver frees its memory with the process.
            return;
        }
        // Nothing can be done about what fails here.
        // SAFETY: all of it was made by this object, and the stream is idle.
        unsafe {
            for &address in self.allocations.keys() {
                _ = cuda::free_sync(address);
            }
            for &module in &self.modules {
                _ = cuda::module::unload(module);
            }
            for event in self.events.into_iter().flatten() {
                _ = cuda::event::destroy(event);
            }
            _ = cuda::stream::destroy(self.stream);
            _ = cuda::primary_ctx::release(self.device);
        }
    }
}

/// Finds NVRTC: where libraries are, beside the program (folder `cuda`), or in a toolkit.
fn find_nvrtc() -> Result<()> {
    // SAFETY: only loads libraries, here and below.
    if unsafe { nvrtc_sys::is_culib_present() } {
        return Ok(());
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("cuda")));
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|v| Some(PathBuf::from(std::env::var_os(v)?)));
    let toolkits = toolkits.chain([PathBuf::from("/usr/local/cuda")]);
    let folders = beside.into_iter().chain(toolkits.flat_map(|t| ["lib64", "lib", "bin"].map(|l| t.join(l))));
    for files in folders.filter_map(|f| f.read_dir().ok()) {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_nvrtc = |path: &PathBuf| name(path).contains("nvrtc") && !name(path).ends_with(".a");
        let mut files: Vec<PathBuf> = files.flatten().map(|f| f.path()).filter(is_nvrtc).collect();
        // NVRTC looks for its builtins by name, so they come first.
        files.sort_by_key(|path| !name(path).contains("builtins"));
        for file in files {
            // SAFETY: as above. A library that is loaded is found by its name from then on.
            if let Ok(library) = unsafe { libloading::Library::new(&file) } {
                std::mem::forget(library);
            }
        }
        // SAFETY: as above.
        if unsafe { nvrtc_sys::is_culib_present() } {
            return Ok(());
        }
    }
    Err(unavailable("there is no NVRTC library (install the CUDA toolkit, or run native/cuda-build)"))
}

/// Machine code, or PTX where NVRTC is older than the device; ended by a zero.
fn compile(kernel: Kernel, capability: i32) -> Result<Vec<u8>> {
    let bug = |what: &str, e: &dyn std::fmt::Display| {
        Error::unsupported(format!("NVRTC cannot {what} the CUDA kernel {}: {e}; use another backend", kernel.name()))
    };
    let text = |s: &str| CString::new(s).map_err(|e| bug("read", &e));
    let (source, name) = (text(&kernel.source())?, text(&format!("{}.cu", kernel.name()))?);
    let header = (text(INTRINSICS.0)?, text(INTRINSICS.1)?);
    // SAFETY: the strings live until the program is destroyed; buffers are as long as NVRTC says.
    unsafe {
        let mut program = std::ptr::null_mut();
        nvrtc_sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            1,
            [header.1.as_ptr()].as_ptr(),
            [header.0.as_ptr()].as_ptr(),
        )
        .result()
        .map_err(|e| bug("read", &e))?;
        let (architecture, is_exact) = architecture(capability).map_err(|e| bug("compile", &e))?;
        let kind = if is_exact { "sm" } else { "compute" };
        let options = [format!("--gpu-architecture={kind}_{architecture}"), "--std=c++17".to_string()];
        let compiled = nvrtc::compile_program(program, &options);
        let image = match compiled {
            Ok(()) => image(program, is_exact).map_err(|e| bug("compile", &e)),
            Err(e) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
                let log = CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().into_owned());
                Err(bug("compile", &format!("{e}\n{}", log.unwrap_or_default())))
            }
        };
        nvrtc::destroy_program(program).map_err(|e| bug("compile", &e))?;
        image
    }
}

/// The newest architecture up to the device's that NVRTC knows, and whether it is the device's own.
fn architecture(capability: i32) -> std::result::Result<(i32, bool), nvrtc::NvrtcError> {
    let mut n = 0;
    // SAFETY: NVRTC writes one number, then as many as it said.
    let known = unsafe {
        nvrtc_sys::nvrtcGetNumSupportedArchs(&mut n).result()?;
        let mut known = vec![0; usize::try_from(n).unwrap_or(0)];
        nvrtc_sys::nvrtcGetSupportedArchs(known.as_mut_ptr()).result()?;
        known
    };
    let newest = known.into_iter().filter(|&a| a <= capability).max().unwrap_or(capability);
    Ok((newest, newest == capability))
}

/// The result of a compilation.
///
/// # Safety
/// `program` must be compiled.
unsafe fn image(program: nvrtc_sys::nvrtcProgram, is_code: bool) -> std::result::Result<Vec<u8>, nvrtc::NvrtcError> {
    // SAFETY: the buffer is as long as NVRTC says.
    unsafe {
        if !is_code {
            return Ok(nvrtc::get_ptx(program)?.into_iter().map(|c| c as u8).chain([0]).collect());
        }
        let mut size = 0;
        nvrtc_sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut image = vec![0u8; size + 1];
        nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

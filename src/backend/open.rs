//! Which backend runs a model.

use super::cpu::Cpu;
use super::cpu::simd::Level;
use super::{Backend, cuda, webgpu};
use crate::error::{Error, Result};
use std::str::FromStr;

/// A wish for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Choice {
    /// A GPU where there is a real one, else the CPU.
    #[default]
    Auto,
    /// Threads and vector instructions.
    Cpu,
    /// Any GPU that WebGPU reaches, software ones included.
    WebGpu,
    /// An NVIDIA GPU through its own driver.
    Cuda,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "wgpu" | "webgpu" => Ok(Choice::WebGpu),
            "cuda" => Ok(Choice::Cuda),
            _ => Err(Error::invalid_request(format!("backend {text:?} is not known; use auto, cpu, wgpu or cuda"))),
        }
    }
}

/// How a backend is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads of the CPU.
    pub threads: usize,
    /// Instruction set of the CPU; the best one where it is `None`.
    pub level: Option<Level>,
    /// Whether a GPU measures the time of each kernel.
    pub profile: bool,
    /// Milliseconds from any moment on.
    pub clock: fn() -> f64,
}

/// Opens a backend.
///
/// # Errors
/// [`crate::Kind::Unsupported`] when a wished GPU cannot be used. [`Choice::Auto`] never fails for want of one.
pub async fn open(choice: Choice, options: &Options) -> Result<Box<dyn Backend>> {
    let Options { threads, level, profile, clock } = *options;
    let cpu = || Box::new(Cpu::with_level(threads, level.unwrap_or_else(Level::detect)));
    match choice {
        Choice::Cpu => Ok(cpu()),
        Choice::WebGpu => webgpu::open_any(profile, clock).await,
        Choice::Cuda => cuda::open_first(profile),
        Choice::Auto => match cuda::open_first(profile) {
            Ok(gpu) => Ok(gpu),
            Err(_) => Ok(webgpu::open_hardware(profile, clock).await.unwrap_or_else(|_| cpu())),
        },
    }
}

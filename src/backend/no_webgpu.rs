//! Stand-in for the WebGPU backend in builds without the feature `wgpu`.

use super::Backend;
use crate::error::{Error, Result};

/// Always an error.
pub(super) async fn open_any(_: bool, _: fn() -> f64) -> Result<Box<dyn Backend>> {
    Err(Error::unsupported("this build has no GPU support (feature wgpu); use the CPU backend"))
}

/// Always an error.
pub(super) async fn open_hardware(profile: bool, clock: fn() -> f64) -> Result<Box<dyn Backend>> {
    open_any(profile, clock).await
}

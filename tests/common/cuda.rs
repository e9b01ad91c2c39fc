//! The CUDA device of a test, where there is one.

use foreword::backend::cuda::{Cuda, Options};
use std::io::Write;

/// Opens the device. Without one the test goes on without CUDA and says so, past the capture of its output;
/// under the scripts of `tests/cuda` that is a failure.
pub fn open(options: &Options) -> Option<Cuda> {
    match Cuda::open(options) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            assert!(!super::only_cuda(), "{e}");
            _ = writeln!(std::io::stderr(), "SKIPPED on CUDA: {e}");
            None
        }
    }
}

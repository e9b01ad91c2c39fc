//! Stand-in for the CUDA backend in builds without the feature `cuda`.

use super::Backend;
use crate::error::{Error, Result};

/// Always an error.
pub(super) fn open_first(_: bool) -> Result<Box<dyn Backend>> {
    Err(Error::unsupported("this build has no CUDA support (feature cuda); use another backend"))
}

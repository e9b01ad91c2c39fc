//! Where tensors lie: from the offsets of one file's header to checked, absolute ranges.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::TensorInfo;
use super::parse::Header;
use crate::error::{Error, Result};

/// Alignment of the data section where the metadata name none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// Makes the offsets of `header` absolute. Each tensor then lies, aligned, within the `file_len` bytes of the file, and no
/// two overlap.
pub(super) fn place(header: &mut Header, file_len: u64) -> Result<()> {
    let alignment = u64::from(header.metadata.opt_u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT));
    if !alignment.is_power_of_two() {
        return Err(Error::bad_file(format!("`general.alignment` is {alignment}, but must be a power of two")));
    }
    let data = header.len.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for tensor in &mut header.tensors {
        place_one(tensor, data, alignment, file_len).map_err(|e| e.at(format!("tensor {:?}", tensor.name)))?;
    }
    no_overlap(&header.tensors)
}

fn place_one(tensor: &mut TensorInfo, data: u64, alignment: u64, file_len: u64) -> Result<()> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(Error::bad_file(format!("offset {} is not a multiple of {alignment}", tensor.offset)));
    }
    let start = data.checked_add(tensor.offset);
    let end = start.and_then(|start| start.checked_add(tensor.n_bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            tensor.offset = start;
            Ok(())
        }
        _ => Err(Error::bad_file(format!(
            "its {} bytes at {} go beyond the end of the file at {file_len}; it is damaged or its download incomplete",
            tensor.n_bytes,
            data.saturating_add(tensor.offset),
        ))),
    }
}

fn no_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut sorted: Vec<&TensorInfo> = tensors.iter().collect();
    sorted.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in sorted.windows(2) {
        let [first, second] = pair else { continue };
        if first.offset.saturating_add(first.n_bytes) > second.offset {
            return Err(Error::bad_file(format!(
                "tensors {:?} and {:?} overlap; the file is damaged",
                first.name, second.name
            )));
        }
    }
    Ok(())
}

//! Split models: pieces that `gguf-split` made, found by the numbers in their metadata, joined in any order.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::Gguf;
use super::parse::Header;
use crate::error::{Error, Result};

/// One header as it is; several as the pieces of one model.
pub(super) fn join(mut headers: Vec<Header>) -> Result<Gguf> {
    let count = headers.len();
    for (part, header) in headers.iter_mut().enumerate() {
        for tensor in &mut header.tensors {
            tensor.part = part;
        }
    }
    let mut numbered = Vec::new();
    for (part, header) in headers.into_iter().enumerate() {
        let number =
            piece_number(&header, count).map_err(|e| if count > 1 { e.at(format!("file {part}")) } else { e })?;
        numbered.push((number, header));
    }
    numbered.sort_by_key(|(number, _)| *number);
    for pair in numbered.windows(2) {
        if let [(first, _), (second, _)] = pair
            && first == second
        {
            return Err(Error::invalid_request(format!(
                "piece {} of the split model is given twice",
                first.saturating_add(1)
            )));
        }
    }
    let mut pieces = numbered.into_iter().map(|(_, header)| header);
    let first = pieces.next().ok_or_else(|| Error::invalid_request("no model file is given"))?;
    let Header { version, metadata, mut tensors, .. } = first;
    tensors.extend(pieces.flat_map(|piece| piece.tensors));
    if let Some(wanted) = metadata.opt_u32("split.tensors.count")?
        && wanted as usize != tensors.len()
    {
        return Err(Error::bad_file(format!("the model should have {wanted} tensors, but has {}", tensors.len())));
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if let [first, second] = pair
            && first == second
        {
            return Err(Error::bad_file(format!("tensor {first:?} is in two of the files")));
        }
    }
    Ok(Gguf { version, metadata, tensors })
}

/// The number, from 0, of the piece that `header` begins, of a model in `given` files.
fn piece_number(header: &Header, given: usize) -> Result<u32> {
    let pieces = header.metadata.opt_u32("split.count")?.unwrap_or(1).max(1);
    let number = header.metadata.opt_u32("split.no")?.unwrap_or(0);
    if pieces == 1 && given > 1 {
        return Err(Error::invalid_request("a model of its own, not a piece of a split one; give it alone"));
    }
    if number >= pieces {
        return Err(Error::bad_file(format!(
            "it claims to be piece {} of {pieces}; it is damaged",
            number.saturating_add(1)
        )));
    }
    if pieces as usize != given {
        return Err(Error::invalid_request(format!(
            "piece {} of a model split into {pieces} files, of which {given} {} given; give all of them",
            number.saturating_add(1),
            if given == 1 { "is" } else { "are" },
        )));
    }
    Ok(number)
}

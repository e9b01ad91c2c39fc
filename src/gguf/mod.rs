//! GGUF files, versions 2 and 3: header and tensor directory from byte ranges.
//!
//! Only headers are read here; tensor data is read where it is wanted, from [`TensorInfo::offset`]. A model may be split
//! over several files (`split.no`, `split.count`). What [`Gguf::read`] returns is consistent: types are known, rows are
//! whole blocks, every tensor lies within its file and overlaps no other, names and keys are unique. Whether the tensors
//! make a model is for `model` to say.
//!
//! Specification: ggml's `docs/gguf.md`.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod directory;
mod metadata;
mod parse;
pub mod source;
mod split;
pub mod write;

pub use metadata::{Metadata, Strings, Value};

use crate::error::{Error, Result};
use crate::quant::TensorType;
use source::Source;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// As in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Number format.
    pub ty: TensorType,
    /// In ggml's order: the length of a row first.
    pub dims: Vec<u64>,
    /// Index of the source that holds it.
    pub part: usize,
    /// From the start of that source.
    pub offset: u64,
    /// Bytes of data.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Whether rows of it hold numbers that the tensor could have; see [`TensorType::are_numbers`].
    pub fn are_numbers(&self, rows: &[u8]) -> bool {
        // Gemma 4 has factors of 1e30 for pairs that do not turn.
        self.name == "rope_freqs.weight" || self.ty.are_numbers(rows)
    }
}

/// The headers of a model's files.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// GGUF version of the first file.
    pub version: u32,
    /// Metadata of the first file.
    pub metadata: Metadata,
    /// Tensors of all files.
    pub tensors: Vec<TensorInfo>,
}

/// The first range that is read of a file; each further one doubles what is there.
const FIRST_READ: u64 = 2 << 20;

impl Gguf {
    /// Reads the headers of a model: one source, or all pieces of a split file in any order.
    ///
    /// # Errors
    /// [`crate::Kind::BadFile`] for damaged or truncated files, [`crate::Kind::InvalidRequest`] for missing or foreign
    /// pieces, [`crate::Kind::Unsupported`] for what Foreword does not read, and whatever the sources report. With several
    /// sources the message names the source by its index.
    pub async fn read(sources: &mut [Box<dyn Source>]) -> Result<Gguf> {
        let many = sources.len() > 1;
        let mut headers = Vec::new();
        for (part, source) in sources.iter_mut().enumerate() {
            let header = read_header(source.as_mut()).await;
            headers.push(header.map_err(|e| if many { e.at(format!("file {part}")) } else { e })?);
        }
        split::join(headers)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// Reads and checks the header of one file, by ranges that double.
async fn read_header(source: &mut dyn Source) -> Result<parse::Header> {
    let file_len = source.len();
    let mut parser = parse::Parser::new(file_len);
    let mut prefix = Vec::new();
    while let Some(needed) = parser.advance(&prefix)? {
        let have = prefix.len();
        let doubled = (have as u64).saturating_mul(2).max(FIRST_READ).min(file_len);
        let wanted = usize::try_from(doubled).unwrap_or(needed).max(needed);
        prefix
            .try_reserve_exact(wanted.saturating_sub(have))
            .map_err(|e| Error::out_of_memory(format!("no memory for a header of {wanted} bytes")).caused_by(e))?;
        prefix.resize(wanted, 0);
        let Some(rest) = prefix.get_mut(have..) else { break };
        source.read_at(have as u64, rest).await?;
    }
    let mut header = parser.finish();
    directory::place(&mut header, file_len)?;
    Ok(header)
}

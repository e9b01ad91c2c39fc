//! GGUF files, versions 2 and 3: header and tensor directory from byte ranges.
//!
//! Only headers are read here; tensor data is read where it is wanted, from [`TensorInfo::offset`]. A model may be split
//! over several files (`split.no`, `split.count`).
//!
//! Specification: ggml's `docs/gguf.md`.

mod metadata;
mod reader;
pub mod source;

pub use metadata::{Metadata, Strings, Value};

use crate::error::{Error, Result};
use crate::quant::TensorType;
use reader::{Fault, Header};
use source::Source;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
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

/// First guess at the size of a header; most of it is the vocabulary.
const FIRST_READ: u64 = 2 << 20;
/// No header is larger; a file that announces one is damaged.
const MAX_HEADER: u64 = 1 << 30;

impl Gguf {
    /// Reads the headers of a model: one source, or all pieces of a split file in any order.
    ///
    /// # Errors
    /// [`crate::Kind::BadFile`] for damaged or truncated files and missing pieces, [`crate::Kind::Unsupported`] for what
    /// Foreword does not read, and whatever the sources report.
    pub async fn read(sources: &mut [Box<dyn Source>]) -> Result<Gguf> {
        let mut headers = Vec::new();
        let many = sources.len() > 1;
        for (part, source) in sources.iter_mut().enumerate() {
            let header = read_header(&mut **source).await.map_err(|e| if many { e.at(format!("file {part}")) } else { e })?;
            headers.push((part, header));
        }
        check_split(&headers)?;
        headers.sort_by_key(|(_, h)| h.metadata.opt_u32("split.no").ok().flatten());
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut first = None;
        for (part, header) in headers {
            let len = sources.get(part).map_or(0, |s| s.len());
            tensors.extend(place_tensors(&header, part, len)?);
            first.get_or_insert((header.version, header.metadata));
        }
        let Some((version, metadata)) = first else { return Err(Error::invalid_request("no model file was given")) };
        if let Some(total) = metadata.opt_u32("split.tensors.count")?.filter(|&n| n as usize != tensors.len()) {
            return Err(Error::bad_file(format!("the pieces hold {} tensors, not {total}", tensors.len())));
        }
        let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::bad_file(format!("tensor {} is in two pieces", twice[0])));
        }
        Ok(Gguf { version, metadata, tensors })
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// Reads ever longer beginnings of the file until the header is whole.
async fn read_header(source: &mut dyn Source) -> Result<Header> {
    let len = source.len();
    let mut bytes = Vec::new();
    let mut wanted = FIRST_READ;
    loop {
        let have = bytes.len();
        bytes.resize(wanted.min(len) as usize, 0);
        source.read_at(have as u64, &mut bytes[have..]).await?;
        match reader::parse(&bytes) {
            Ok(header) => return Ok(header),
            Err(Fault::Bad(error)) => return Err(error),
            Err(Fault::Short) if wanted < len && wanted < MAX_HEADER => wanted *= 2,
            Err(Fault::Short) if len < MAX_HEADER => {
                return Err(Error::bad_file(format!(
                    "the file ends after {len} bytes, inside its header: it is truncated; download it again"
                )));
            }
            Err(Fault::Short) => return Err(Error::bad_file("the header is larger than 1 GiB: the file is damaged")),
        }
    }
}

/// Checks that the pieces belong together and are all there.
fn check_split(headers: &[(usize, Header)]) -> Result<()> {
    let n = headers.len();
    let mut seen = vec![false; n];
    for (part, header) in headers {
        let count = header.metadata.opt_u32("split.count")?.unwrap_or(0) as usize;
        let no = header.metadata.opt_u32("split.no")?.unwrap_or(0) as usize;
        if count.max(1) != n {
            return Err(Error::bad_file(format!(
                "file {part} is piece {} of a model in {} pieces, but {n} were given; pass all pieces",
                no + 1,
                count.max(1)
            )));
        }
        match seen.get_mut(no) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(Error::bad_file(format!("piece {} was given twice", no + 1))),
            None => return Err(Error::bad_file(format!("file {part} claims to be piece {} of {n}", no + 1))),
        }
    }
    Ok(())
}

/// Turns directory entries into places in the file; checks that they lie inside it and do not overlap.
fn place_tensors(header: &Header, part: usize, len: u64) -> Result<Vec<TensorInfo>> {
    let mut placed = Vec::with_capacity(header.tensors.len());
    for entry in &header.tensors {
        let offset = header.data_start.checked_add(entry.offset);
        let end = offset.and_then(|o| o.checked_add(entry.n_bytes));
        let (Some(offset), Some(_)) = (offset, end.filter(|&end| end <= len)) else {
            return Err(Error::bad_file(format!(
                "tensor {} ({} bytes at {}) lies behind the end of the file ({len} bytes): it is truncated; download it again",
                entry.name, entry.n_bytes, entry.offset
            )));
        };
        placed.push(TensorInfo {
            name: entry.name.clone(),
            ty: entry.ty,
            dims: entry.dims.clone(),
            part,
            offset,
            n_bytes: entry.n_bytes,
        });
    }
    let mut order: Vec<&TensorInfo> = placed.iter().collect();
    order.sort_by_key(|t| t.offset);
    if let Some(pair) = order.windows(2).find(|w| w[0].offset + w[0].n_bytes > w[1].offset) {
        return Err(Error::bad_file(format!("tensors {} and {} overlap: the file is damaged", pair[0].name, pair[1].name)));
    }
    Ok(placed)
}

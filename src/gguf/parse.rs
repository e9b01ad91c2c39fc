//! The header of one GGUF file (versions 2 and 3, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), parsed from
//! a growing prefix of the file.
//!
//! [`Parser::advance`] goes on where the last call ran out of bytes, so a header is read in a few growing ranges and the
//! tensor data never. Every length is checked against the bytes that the file still has before anything is allocated.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::TensorInfo;
use super::metadata::{Metadata, Strings, Value};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use std::collections::HashSet;

/// No header in the wild is larger than a few dozen MiB; a larger one is an attack on memory.
const MAX_HEADER: u64 = 256 << 20;
/// ggml's GGML_MAX_DIMS.
const MAX_DIMS: u32 = 4;
/// Longer arrays than of any vocabulary are not kept.
const MAX_KEPT: u64 = 1 << 24;
/// Arrays of arrays of arrays …
const MAX_NESTED: u32 = 16;
/// The smallest metadata pair: key length, a one-byte key, type, a one-byte value.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
/// The smallest directory entry: name length, a one-byte name, number of dimensions, one of them, type, offset.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Why parsing stopped.
enum Stop {
    /// The prefix at hand must have at least this many bytes.
    Short(usize),
    /// The file is bad.
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Bad(error)
    }
}

type Parse<T> = Result<T, Stop>;

/// A reader of a file's prefix.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of the whole file.
    file_len: u64,
}

impl<'a> Cursor<'a> {
    /// Checks that the file has `n` more bytes, and the prefix too.
    fn need(&self, n: u64) -> Parse<usize> {
        let end = (self.at as u64).checked_add(n);
        let Some(end) = end.filter(|&end| end <= self.file_len) else {
            return Err(Stop::Bad(Error::bad_file(format!(
                "{n} bytes are needed at {}, but the file ends at {}; it is damaged or its download incomplete",
                self.at, self.file_len
            ))));
        };
        if end > MAX_HEADER {
            return Err(Stop::Bad(Error::bad_file(format!(
                "the header claims more than {} MiB; the file is damaged",
                MAX_HEADER >> 20
            ))));
        }
        match usize::try_from(end) {
            Ok(end) if end <= self.bytes.len() => Ok(end),
            Ok(end) => Err(Stop::Short(end)),
            Err(_) => Err(Stop::Bad(Error::out_of_memory(format!("a header of {end} bytes")))),
        }
    }

    fn take(&mut self, n: u64) -> Parse<&'a [u8]> {
        let end = self.need(n)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::Short(end))?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Parse<[u8; N]> {
        let bytes = self.take(N as u64)?;
        bytes.try_into().map_err(|_| Stop::Short(self.at))
    }

    fn u32(&mut self) -> Parse<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parse<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Parse<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    fn str(&mut self) -> Parse<&'a str> {
        std::str::from_utf8(self.text()?).map_err(|e| Stop::Bad(Error::bad_file("a string is not UTF-8").caused_by(e)))
    }

    /// `count` values of `N` bytes each.
    fn values<const N: usize, T>(&mut self, count: u64, value: impl Fn([u8; N]) -> T) -> Parse<Vec<T>> {
        let bytes = self.take(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect())
    }

    fn strings(&mut self, count: u64) -> Parse<Value> {
        self.need(count.saturating_mul(8))?;
        let mut strings = Some(Strings::default());
        for i in 0..count {
            let bytes = self.text().map_err(|stop| stop.at(|| format!("string {i}")))?;
            let kept = std::str::from_utf8(bytes).is_ok_and(|s| strings.as_mut().is_some_and(|all| all.push(s)));
            strings = strings.filter(|_| kept);
        }
        Ok(strings.map_or(Value::Other("an array with text that is not UTF-8"), Value::Strings))
    }

    fn value(&mut self) -> Parse<Value> {
        Ok(match self.u32()? {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => {
                let [byte] = self.array()?;
                bool_of(byte).map_or(Value::Unsigned(byte.into()), Value::Bool)
            }
            8 => match std::str::from_utf8(self.text()?) {
                Ok(text) => Value::String(text.into()),
                Err(_) => Value::Other("text that is not UTF-8"),
            },
            9 => {
                let (ty, count) = (self.u32()?, self.u64()?);
                self.value_array(ty, count, MAX_NESTED)?
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            id => return Err(no_such_type(id)),
        })
    }

    fn value_array(&mut self, ty: u32, count: u64, nested: u32) -> Parse<Value> {
        if let Some(bytes) = size_of_number(ty).filter(|_| count > MAX_KEPT) {
            self.take(count.saturating_mul(bytes))?;
            return Ok(Value::Other("an array of many millions of numbers"));
        }
        Ok(match ty {
            0 => Value::Integers(self.values(count, |b| u8::from_le_bytes(b).into())?),
            1 => Value::Integers(self.values(count, |b| i8::from_le_bytes(b).into())?),
            2 => Value::Integers(self.values(count, |b| u16::from_le_bytes(b).into())?),
            3 => Value::Integers(self.values(count, |b| i16::from_le_bytes(b).into())?),
            4 => Value::Integers(self.values(count, |b| u32::from_le_bytes(b).into())?),
            5 => Value::Integers(self.values(count, |b| i32::from_le_bytes(b).into())?),
            6 => Value::Floats(self.values(count, f32::from_le_bytes)?),
            7 => {
                let values = self.values(count, |[b]| bool_of(b))?.into_iter().collect::<Option<_>>();
                values.map_or(Value::Other("an array of booleans that are neither 0 nor 1"), Value::Bools)
            }
            8 => self.strings(count)?,
            9 => {
                let Some(nested) = nested.checked_sub(1) else {
                    return Err(Stop::Bad(Error::bad_file("arrays are nested too deep; the file is damaged")));
                };
                // Of each its type and its count.
                self.need(count.saturating_mul(12))?;
                for _ in 0..count {
                    let (ty, count) = (self.u32()?, self.u64()?);
                    self.value_array(ty, count, nested)?;
                }
                Value::Other("an array of arrays")
            }
            10 => {
                let values = self.values(count, |b| u64::from_le_bytes(b).try_into())?;
                let values = values.into_iter().collect::<std::result::Result<_, _>>();
                values.map_or(Value::Other("an array of integers beyond 2^63"), Value::Integers)
            }
            11 => Value::Integers(self.values(count, i64::from_le_bytes)?),
            12 => Value::Floats(self.values(count, |b| f64::from_le_bytes(b) as f32)?),
            _ if count == 0 => Value::Other("an empty array"),
            id => return Err(no_such_type(id)),
        })
    }
}

/// Bytes of a number or boolean in an array.
fn size_of_number(ty: u32) -> Option<u64> {
    match ty {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn no_such_type(id: u32) -> Stop {
    Stop::Bad(Error::bad_file(format!(
        "there is no value type {id}, so that what follows cannot be read; the file is damaged, or newer than Foreword"
    )))
}

fn bool_of(byte: u8) -> Option<bool> {
    (byte <= 1).then_some(byte == 1)
}

/// Magic, version and counts.
#[derive(Clone, Copy)]
struct Preamble {
    version: u32,
    n_tensors: u64,
    n_pairs: u64,
}

impl Preamble {
    const BYTES: u64 = 24;

    fn read(cursor: &mut Cursor) -> Parse<Self> {
        let magic = cursor.array()?;
        if magic != *b"GGUF" {
            return Err(Stop::Bad(not_gguf(magic)));
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Stop::Bad(bad_version(version)));
        }
        let (n_tensors, n_pairs) = (cursor.u64()?, cursor.u64()?);
        let room = cursor.file_len.min(MAX_HEADER).saturating_sub(Self::BYTES);
        let claimed = n_tensors.saturating_mul(MIN_ENTRY).saturating_add(n_pairs.saturating_mul(MIN_PAIR));
        if claimed > room {
            return Err(Stop::Bad(Error::bad_file(format!(
                "{n_tensors} tensors and {n_pairs} metadata pairs cannot fit into {room} bytes; \
                 the file is damaged or its download incomplete"
            ))));
        }
        Ok(Preamble { version, n_tensors, n_pairs })
    }
}

/// What else a file without the magic may be.
fn not_gguf(magic: [u8; 4]) -> Error {
    let guess = match &magic {
        b"vers" => "it looks like a Git LFS pointer: fetch the file itself (git lfs pull)",
        b"<!DO" | b"<!do" | b"<htm" | b"<HTM" => "it is a web page: download the file itself, not the page about it",
        b"PK\x03\x04" => "it is a zip archive (PyTorch weights are): convert the model to GGUF",
        b"tjgg" | b"lmgg" | b"fmgg" => "it is in a format older than GGUF: get the model as GGUF",
        b"FUGG" => "its magic is reversed: convert the model again on a little-endian machine",
        _ => "give the path of a .gguf file",
    };
    Error::bad_file(format!("not a GGUF file (it starts with {:?}); {guess}", magic.escape_ascii().to_string()))
}

fn bad_version(version: u32) -> Error {
    match version {
        0 => Error::bad_file("GGUF version 0 does not exist; the file is damaged"),
        1 => Error::unsupported("GGUF version 1 is not supported; get the model as version 2 or 3"),
        v if v.swap_bytes() <= 0xffff => Error::unsupported(format!(
            "this is a big-endian GGUF file (version {}); get the little-endian one",
            v.swap_bytes()
        )),
        v => Error::unsupported(format!("GGUF version {v} is not supported, only 2 and 3")),
    }
}

/// Parser of one file's header.
pub(super) struct Parser {
    file_len: u64,
    /// Where the next item begins.
    at: usize,
    preamble: Option<Preamble>,
    /// Metadata pairs that were read.
    n_pairs: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: HashSet<Box<str>>,
}

/// A parsed header. The tensors' offsets are relative to the data section yet.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    /// Bytes of the header.
    pub(super) len: u64,
}

impl Parser {
    /// For a file of `file_len` bytes.
    pub(super) fn new(file_len: u64) -> Self {
        let (metadata, tensors, names) = Default::default();
        Parser { file_len, at: 0, preamble: None, n_pairs: 0, metadata, tensors, names }
    }

    /// Parses as far as `prefix`, the first bytes of the file, goes. `Some(n)`: go on with the first `n` bytes at least,
    /// which the file has; `None`: done.
    pub(super) fn advance(&mut self, prefix: &[u8]) -> Result<Option<usize>> {
        let mut cursor = Cursor { bytes: prefix, at: self.at, file_len: self.file_len };
        loop {
            match self.item(&mut cursor) {
                Ok(true) => self.at = cursor.at,
                Ok(false) => return Ok(None),
                Err(Stop::Short(needed)) => return Ok(Some(needed)),
                Err(Stop::Bad(error)) => return Err(error),
            }
        }
    }

    /// Parses one item; `false` after the last.
    fn item(&mut self, cursor: &mut Cursor) -> Parse<bool> {
        let Some(preamble) = self.preamble else {
            self.preamble = Some(Preamble::read(cursor)?);
            return Ok(true);
        };
        if self.n_pairs < preamble.n_pairs {
            self.pair(cursor)?;
            self.n_pairs = self.n_pairs.saturating_add(1);
        } else if (self.tensors.len() as u64) < preamble.n_tensors {
            self.entry(cursor)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn pair(&mut self, cursor: &mut Cursor) -> Parse<()> {
        let (n, start) = (self.n_pairs, cursor.at as u64);
        let key = cursor.text().map_err(|stop| stop.at(|| format!("key of metadata pair {n}")))?;
        // A key that is not UTF-8 is none that anybody asks for.
        let key = String::from_utf8_lossy(key);
        if key.is_empty() {
            return Err(Stop::Bad(Error::bad_file(format!("metadata pair {n} has an empty key; the file is damaged"))));
        }
        let value = cursor.value().map_err(|stop| stop.at(|| format!("metadata {key:?}")))?;
        self.metadata.add(&key, value, start..cursor.at as u64);
        Ok(())
    }

    fn entry(&mut self, cursor: &mut Cursor) -> Parse<()> {
        let n = self.tensors.len();
        let name = cursor.str().map_err(|stop| stop.at(|| format!("name of tensor {n}")))?;
        let info = entry(cursor, name).map_err(|stop| stop.at(|| format!("tensor {name:?}")))?;
        if name.is_empty() {
            return Err(Stop::Bad(Error::bad_file(format!("tensor {n} has an empty name; the file is damaged"))));
        }
        if !self.names.insert(name.into()) {
            return Err(Stop::Bad(Error::bad_file(format!("tensor {name:?} occurs twice"))));
        }
        self.tensors.push(info);
        Ok(())
    }

    /// The header, once [`Self::advance`] is done.
    pub(super) fn finish(self) -> Header {
        let version = self.preamble.map_or(0, |preamble| preamble.version);
        Header { version, metadata: self.metadata, tensors: self.tensors, len: self.at as u64 }
    }
}

impl Stop {
    /// Puts context in front of an error's message.
    fn at(self, context: impl FnOnce() -> String) -> Self {
        match self {
            Stop::Bad(error) => Stop::Bad(error.at(context())),
            short => short,
        }
    }
}

/// The directory entry behind the tensor's name.
fn entry(cursor: &mut Cursor, name: &str) -> Parse<TensorInfo> {
    let n_dims = cursor.u32()?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(Stop::Bad(Error::bad_file(format!("{n_dims} dimensions, but there can be 1 to {MAX_DIMS}"))));
    }
    let dims = (0..n_dims).map(|_| cursor.u64()).collect::<Parse<Vec<u64>>>()?;
    let ty = TensorType::from_id(cursor.u32()?)?;
    let offset = cursor.u64()?;
    let n_bytes = n_bytes(ty, &dims)?;
    Ok(TensorInfo { name: name.into(), ty, dims, part: 0, offset, n_bytes })
}

/// Bytes of a tensor.
fn n_bytes(ty: TensorType, dims: &[u64]) -> Result<u64> {
    if dims.contains(&0) {
        return Err(Error::bad_file(format!("shape {dims:?} has no elements")));
    }
    let too_large = || Error::bad_file(format!("shape {dims:?} is absurdly large; the file is damaged"));
    let (&cols, rows) = dims.split_first().ok_or_else(too_large)?;
    let cols = usize::try_from(cols).map_err(|_| too_large())?;
    let rows = rows.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim)).ok_or_else(too_large)?;
    if cols.checked_rem(ty.block_len()) != Some(0) {
        return Err(Error::bad_file(format!(
            "rows of {cols} elements are not whole blocks of {} ({} each)",
            ty.name(),
            ty.block_len()
        )));
    }
    let row_bytes = ty.row_bytes(cols).ok_or_else(too_large)?;
    rows.checked_mul(row_bytes as u64).ok_or_else(too_large)
}

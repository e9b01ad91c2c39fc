//! A conversation's cache outside of the engine: written to a file, and read back by another process, build or backend.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `FOREWORD` |
//! | 4 | version, 2 |
//! | 4 | number type of the cache: 0 for f32, 1 for f16, 2 for q8_0 |
//! | 8 each | hashes: of the model's norms, its list of tensors, its weights, its rotations, the heads of its layers |
//! | 8 each | how many tokens, bytes of the model's name, bytes of the note |
//! | | the name, then the caller's note as JSON |
//! | 4 each | the tokens |
//! | | entries: for every run of up to 256 tokens, for every layer, keys and values of each token, in the cache's own number type |
//! | 8 | XXH64 of all before |
//!
//! All numbers are little-endian. A key or value of type `q8_0` is in blocks of 32 values as GGUF files have them: the scale as half
//! float, then 32 bytes.

use super::Engine;
use crate::backend::{BLOCK, CacheType};
use crate::error::{Error, Result};
use crate::model::KeptLayer;
use crate::sidecar::{OFFSET, fnv1a};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde_json::Value;
use std::io::{Read, Write};
use xxhash_rust::xxh64::Xxh64;

const MAGIC: &[u8; 8] = b"FOREWORD";
const VERSION: u32 = 2;

/// Number types of a cache, by their numbers in a file.
const TYPES: [(CacheType, &str); 3] = [(CacheType::F32, "f32"), (CacheType::F16, "f16"), (CacheType::Q8_0, "q8_0")];

/// Most bytes of a name and of a note that are read: the note is a conversation's text.
const MOST: u64 = 16 << 20;

/// What [`Engine::open`] found in a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Saved {
    /// What the caller of [`Engine::save`] had written with it.
    pub note: Value,
    /// Tokens whose cache is known from now on.
    pub tokens: Vec<u32>,
}

/// What has to be the same in a file and in the engine that reads it: the cache's type, three hashes of the model, those of its
/// rotations (some of which follow from the context's length) and of the heads of its layers.
type Marks = [u64; 6];

/// What stands in front of a file's tokens.
struct Header {
    marks: Marks,
    tokens: u64,
    /// Of the model, for messages.
    name: String,
    note: Value,
}

impl Engine {
    /// Writes the cache of the longest beginning of `tokens` that is known from finished answers, with a note of the caller's own.
    /// Returns how many tokens that are.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] for models whose layers keep states, [`crate::Kind::Storage`] when `out` cannot be written,
    /// [`crate::Kind::DeviceLost`].
    pub async fn save(&mut self, tokens: &[u32], note: Value, out: &mut dyn Write) -> Result<usize> {
        let layers = self.model.kept_layers()?;
        let known = self.prefixes.longest(self.model.kv(), tokens);
        let seq = self.model.kv_mut().seq_of(&known.blocks, known.len, known.slot)?;
        let mut out = Hashing::new(out);
        let name = &self.model.config().name;
        let done = match write_start(&mut out, &self.marks(&layers), name, &note, &tokens[..known.len]) {
            Ok(()) => {
                let mut bytes = Vec::new();
                let mut visit = |layer: &KeptLayer, rows: [&[f32]; 2]| {
                    bytes.clear();
                    rows.iter().for_each(|rows| encode(layer.shape.ty, rows, &mut bytes));
                    out.write(&bytes)
                };
                self.model.read_cells(seq, &mut visit).await
            }
            Err(error) => Err(error),
        };
        self.model.kv_mut().free(seq);
        done?;
        out.finish()?;
        Ok(known.len)
    }

    /// Reads what [`Engine::save`] wrote: a request that begins with these tokens reads only what is behind them.
    ///
    /// # Errors
    /// [`crate::Kind::BadFile`] for a damaged or foreign file, [`crate::Kind::InvalidRequest`] for one of another model, cache type
    /// or sidecar, or longer than this context, [`crate::Kind::Storage`] when it cannot be read, [`crate::Kind::OutOfMemory`]. The
    /// engine is as before then, but for known beginnings that gave way.
    pub fn open(&mut self, input: &mut dyn Read) -> Result<Saved> {
        let layers = self.model.kept_layers()?;
        let mut input = HashingInput { input, hash: Xxh64::new(0) };
        let header = read_header(&mut input)?;
        let n_tokens = self.check_header(&header, &layers)?;
        let mut bytes = vec![0; n_tokens * 4];
        input.read(&mut bytes)?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        self.give_way(tokens.len().div_ceil(BLOCK));
        let mut fill = |layer: &KeptLayer, rows: [&mut [f32]; 2]| {
            for rows in rows {
                bytes.resize(layer.shape.ty.bytes(rows.len()), 0);
                input.read(&mut bytes)?;
                decode(layer.shape.ty, &bytes, rows);
            }
            Ok(())
        };
        let seq = self.model.write_cells(&tokens, &mut fill)?;
        if let Err(error) = input.check() {
            self.model.kv_mut().free(seq);
            return Err(error);
        }
        self.prefixes.take(self.model.kv_mut(), seq, &tokens);
        Ok(Saved { note: header.note, tokens })
    }

    /// Has known beginnings give way until so many blocks are free, as far as that is possible.
    fn give_way(&mut self, n_blocks: usize) {
        let kv = self.model.kv_mut();
        while kv.free_blocks() < n_blocks && self.prefixes.evict(kv) {}
    }

    fn marks(&self, layers: &[KeptLayer]) -> Marks {
        let ty = layers.first().and_then(|layer| TYPES.iter().position(|(ty, _)| *ty == layer.shape.ty));
        let ropes = format!("{:?}", self.model.config().ropes);
        let heads = layers.iter().flat_map(|layer| [layer.shape.n_kv_heads, layer.shape.head_dim]);
        let heads: Vec<u8> = heads.flat_map(|n| (n as u64).to_le_bytes()).collect();
        let [ropes, heads] = [ropes.as_bytes(), &heads].map(|bytes| fnv1a(bytes, OFFSET));
        let found = self.model.fingerprint();
        [ty.unwrap_or(0) as u64, found.norms, found.tensors, found.weights, ropes, heads]
    }

    /// How many tokens there are, if this engine can go on with them.
    fn check_header(&self, header: &Header, layers: &[KeptLayer]) -> Result<usize> {
        let [ty, model @ .., ropes, heads] = header.marks;
        let [own_ty, own_model @ .., own_ropes, own_heads] = self.marks(layers);
        let room = self.room();
        let wrong = if model != own_model {
            let own = &self.model.config().name;
            format!("is one with the model {}, not with this file of {own}", header.name)
        } else if ty != own_ty {
            let name = |ty: u64| TYPES.get(ty as usize).map_or("unknown here", |(_, name)| name);
            let [theirs, own] = [ty, own_ty].map(name);
            format!("has a cache of type {theirs}, and this one is of type {own}: load the model with that type")
        } else if heads != own_heads {
            "was had with another sidecar, or without: load the same one".into()
        } else if ropes != own_ropes {
            "was had with another length of context, which rotates otherwise: load the same length".into()
        } else if header.tokens > room as u64 {
            format!("has {} tokens, but the context holds {room}: load a longer one", header.tokens)
        } else {
            return Ok(header.tokens as usize);
        };
        Err(Error::invalid_request(format!("the saved conversation {wrong}")))
    }
}

fn write_start(out: &mut Hashing<'_>, marks: &Marks, name: &str, note: &Value, tokens: &[u32]) -> Result<()> {
    let note = note.to_string();
    if note.len() as u64 > MOST {
        return Err(Error::invalid_request(format!("a note of {} bytes is too long", note.len())));
    }
    let [ty, hashes @ ..] = marks;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((*ty as u32).to_le_bytes());
    let counts = [tokens.len(), name.len(), note.len()].map(|n| n as u64);
    bytes.extend(hashes.iter().chain(&counts).flat_map(|word| word.to_le_bytes()));
    bytes.extend([name, &note].iter().flat_map(|text| text.bytes()));
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    out.write(&bytes)
}

fn read_header(input: &mut HashingInput<'_>) -> Result<Header> {
    if input.word()?.to_le_bytes() != *MAGIC {
        return Err(Error::bad_file("this is no saved conversation"));
    }
    let kind = input.word()?;
    let (version, ty) = (kind as u32, kind >> 32);
    if version != VERSION {
        return Err(Error::unsupported(format!("a saved conversation of version {version}; {VERSION} is known")));
    }
    let mut marks = [ty, 0, 0, 0, 0, 0];
    for mark in &mut marks[1..] {
        *mark = input.word()?;
    }
    let [tokens, name, note] = [input.word()?, input.word()?, input.word()?];
    let name = String::from_utf8_lossy(&input.bytes(name)?).into_owned();
    let note = serde_json::from_slice(&input.bytes(note)?).map_err(|e| damaged().caused_by(e))?;
    Ok(Header { marks, tokens, name, note })
}

fn damaged() -> Error {
    Error::bad_file("the saved conversation is damaged or cut off")
}

/// Appends values of one type; their number is a multiple of 32 for `q8_0`.
fn encode(ty: CacheType, values: &[f32], out: &mut Vec<u8>) {
    match ty {
        CacheType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        CacheType::F16 => {
            let mut halves = [f16::ZERO; 256];
            for values in values.chunks(halves.len()) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                out.extend(halves.iter().flat_map(|v| v.to_le_bytes()));
            }
        }
        CacheType::Q8_0 => {
            for block in values.chunks(32) {
                // The largest code of a block that was quantized so is 127, so this is the scale that it had.
                let scale = f16::from_f32(block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0);
                let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
                out.extend(scale.to_le_bytes());
                out.extend(block.iter().map(|v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
            }
        }
    }
}

/// The inverse of [`encode`].
fn decode(ty: CacheType, bytes: &[u8], values: &mut [f32]) {
    match ty {
        CacheType::F32 => {
            values.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(v, &b)| *v = f32::from_le_bytes(b));
        }
        CacheType::F16 => {
            values.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(v, &b)| *v = f16::from_le_bytes(b).to_f32());
        }
        CacheType::Q8_0 => {
            for (values, block) in values.chunks_mut(32).zip(bytes.chunks_exact(34)) {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                values.iter_mut().zip(&block[2..]).for_each(|(v, &code)| *v = f32::from(code as i8) * scale);
            }
        }
    }
}

/// Hashes what it writes.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hash: Xxh64,
}

impl<'a> Hashing<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Hashing { out, hash: Xxh64::new(0) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(cannot_write)
    }

    fn finish(self) -> Result<()> {
        self.out.write_all(&self.hash.digest().to_le_bytes()).and_then(|()| self.out.flush()).map_err(cannot_write)
    }
}

fn cannot_write(e: std::io::Error) -> Error {
    Error::storage(format!("cannot save the conversation: {e}")).caused_by(e)
}

/// Hashes what it reads.
struct HashingInput<'a> {
    input: &'a mut dyn Read,
    hash: Xxh64,
}

impl HashingInput<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.fetch(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn word(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// So many bytes of a text.
    fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        if n > MOST {
            return Err(damaged());
        }
        let mut bytes = vec![0; n as usize];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn fetch(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(),
            _ => Error::storage(format!("cannot read the conversation: {e}")).caused_by(e),
        })
    }

    /// Whether what was read is what was written.
    fn check(mut self) -> Result<()> {
        let mut sum = [0; 8];
        self.fetch(&mut sum)?;
        if u64::from_le_bytes(sum) == self.hash.digest() { Ok(()) } else { Err(damaged()) }
    }
}

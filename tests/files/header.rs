//! Damaged, truncated and hostile headers of GGUF files.

use crate::common;
use foreword::gguf::source::{BytesSource, Read, Source};
use foreword::gguf::{Gguf, Metadata, Strings, Value, write};
use foreword::quant::TensorType;
use foreword::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fn read(bytes: &[u8]) -> Result<Gguf> {
    read_all(&[bytes])
}

fn read_all(files: &[&[u8]]) -> Result<Gguf> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for bytes in files {
        sources.push(Box::new(BytesSource(bytes.to_vec())));
    }
    pollster::block_on(Gguf::read(&mut sources))
}

fn metadata(pairs: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in pairs {
        assert!(metadata.insert(*key, value.clone()), "{key} twice");
    }
    metadata
}

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

/// A valid file with every kind of value and three tensors, and the bytes of its header.
fn sample() -> (Vec<u8>, usize) {
    let metadata = metadata(&[
        ("general.architecture", text("llama")),
        ("unsigned", Value::Unsigned(7)),
        ("large", Value::Unsigned(1 << 40)),
        ("signed", Value::Signed(-7)),
        ("float", Value::Float(0.5)),
        ("bool", Value::Bool(true)),
        ("integers", Value::Integers(vec![1, -2, 3])),
        ("floats", Value::Floats(vec![0.5, -1.5])),
        ("bools", Value::Bools(vec![true, false])),
        ("strings", Value::Strings(Strings::from_iter(["a", "", "né"]))),
    ]);
    let data = [1_u8; 256];
    let tensors = [
        write::Tensor { name: "norm", ty: TensorType::F32, dims: &[5], data: &data[..20] },
        write::Tensor { name: "q4", ty: TensorType::Q4_0, dims: &[64, 2], data: &data[..72] },
        write::Tensor { name: "q8", ty: TensorType::Q8_0, dims: &[32, 2, 1], data: &data[..68] },
    ];
    let bytes = write::to_bytes(&metadata, &tensors).expect("a valid alignment");
    // Three tensors, each padded to 32 bytes.
    let header_len = bytes.len() - (32 + 96 + 96);
    (bytes, header_len)
}

#[test]
fn what_is_written_is_read() {
    let (bytes, header_len) = sample();
    let gguf = read(&bytes).expect("a valid file");
    assert_eq!(gguf.version, 3);
    assert_eq!(gguf.metadata.str("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.metadata.u32("unsigned").unwrap(), 7);
    assert_eq!(gguf.metadata.get("large"), Some(&Value::Unsigned(1 << 40)));
    assert_eq!(gguf.metadata.get("signed"), Some(&Value::Signed(-7)));
    assert_eq!(gguf.metadata.f32("float").unwrap(), 0.5);
    assert!(gguf.metadata.bool("bool").unwrap());
    assert_eq!(gguf.metadata.integers("integers").unwrap(), [1, -2, 3]);
    assert_eq!(gguf.metadata.floats("floats").unwrap(), [0.5, -1.5]);
    assert_eq!(gguf.metadata.bools("bools").unwrap(), [true, false]);
    let strings: Vec<&str> = gguf.metadata.strings("strings").unwrap().iter().collect();
    assert_eq!(strings, ["a", "", "né"]);
    let places: Vec<_> = gguf.tensors.iter().map(|t| (t.name.as_str(), t.offset, t.n_bytes)).collect();
    let data = header_len as u64;
    assert_eq!(places, [("norm", data, 20), ("q4", data + 32, 72), ("q8", data + 128, 68)]);
}

/// The seeds of the fuzzer come from the PyPI package gguf.
#[test]
fn files_of_another_writer_are_read() {
    let seed = |name: &str| {
        let path = common::data("../fuzz/seeds").join(name);
        read(&std::fs::read(&path).expect("a seed")).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let values = seed("gguf/values").metadata;
    assert_eq!(values.get("i16"), Some(&Value::Signed(-2)));
    assert_eq!(values.get("u64"), Some(&Value::Unsigned(4)));
    assert_eq!(values.get("f64"), Some(&Value::Float(0.25)));
    assert_eq!(values.strings("strs").unwrap().get(2), Some("né"));
    assert_eq!(values.bools("bools").unwrap(), [true, false]);
    assert_eq!(seed("gguf/types").tensors.len(), TensorType::ALL.len());
    assert_eq!(seed("gguf/types").tensor("f16").unwrap().dims, [2, 2, 2]);
    assert_eq!(seed("gguf/aligned").tensor("b").unwrap().offset % 64, 0);
    assert_eq!(seed("gguf/empty").version, 2);
    assert_eq!(seed("tokenizer/spm").metadata.floats("tokenizer.ggml.scores").unwrap().len(), 272);
}

#[test]
fn getters_name_the_key() {
    let (bytes, _) = sample();
    let metadata = read(&bytes).expect("a valid file").metadata;
    for error in [metadata.u32("float").unwrap_err(), metadata.u32("large").unwrap_err()] {
        assert_eq!(error.kind(), Kind::BadFile);
        assert!(error.to_string().contains("should be an unsigned 32-bit integer"), "{error}");
    }
    let error = metadata.str("general.nothing").unwrap_err();
    assert!(error.to_string().contains("general.nothing"), "{error}");
    assert_eq!(metadata.opt_str("general.nothing").unwrap(), None);
}

#[test]
fn every_truncation_is_noticed() {
    let (bytes, _) = sample();
    // The padding behind the last tensor may be missing.
    for len in 0..bytes.len() - 28 {
        let error = read(&bytes[..len]).expect_err("a truncated file");
        assert_eq!(error.kind(), Kind::BadFile, "{len}: {error}");
        assert!(error.to_string().contains("incomplete"), "{len}: {error}");
    }
}

#[test]
fn every_flipped_bit_of_the_header_is_read_or_refused() {
    let (mut bytes, header_len) = sample();
    let mut refused = 0;
    for bit in 0..header_len * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = read(&bytes) {
            assert!(matches!(error.kind(), Kind::BadFile | Kind::Unsupported), "bit {bit}: {error:?}");
            refused += 1;
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(refused > header_len, "only {refused} flips were noticed");
}

/// Overwrites, inserts and removes at pseudo-random places.
#[test]
fn scrambled_headers_are_read_or_refused() {
    let (original, header_len) = sample();
    let mut state = 1_u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..=random(4) {
            let at = random(header_len - 8);
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => drop(bytes.drain(at..at + random(8))),
                2 => bytes.insert(at, random(256) as u8),
                _ => bytes[at..at + 8].copy_from_slice(&u64::MAX.wrapping_shr(random(64) as u32).to_le_bytes()),
            }
        }
        if let Err(error) = read(&bytes) {
            assert!(matches!(error.kind(), Kind::BadFile | Kind::Unsupported | Kind::InvalidRequest), "{error:?}");
        }
    }
}

/// Bytes of a header, put together by hand.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, n_tensors: u64, n_pairs: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_pairs)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    fn str(self, s: impl AsRef<[u8]>) -> Self {
        self.u64(s.as_ref().len() as u64).bytes(s.as_ref())
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let with_dims = dims.iter().fold(self.str(name).u32(dims.len() as u32), |raw, &dim| raw.u64(dim));
        with_dims.u32(ty).u64(offset)
    }

    /// Enough zeros for data and for counts that are not absurd.
    fn padded(self) -> Vec<u8> {
        self.bytes(&[0; 1024]).0
    }
}

fn one_pair() -> Raw {
    Raw::new(3, 0, 1)
}

fn one_tensor(dims: &[u64], ty: u32, offset: u64) -> Raw {
    Raw::new(3, 1, 0).tensor("blk.0.w", dims, ty, offset)
}

fn two_tensors(first: (&str, u64), second: (&str, u64)) -> Raw {
    Raw::new(3, 2, 0).tensor(first.0, &[16], 0, first.1).tensor(second.0, &[16], 0, second.1)
}

fn check(name: &str, error: Error, kind: Kind, fragments: &[&str]) {
    assert_eq!(error.kind(), kind, "{name}: {error}");
    for fragment in fragments {
        assert!(error.to_string().contains(fragment), "{name}: {error:?} lacks {fragment:?}");
    }
}

#[test]
fn foreign_files_are_recognised() {
    let cases: [(&[u8], Kind, &str); 9] = [
        (b"version https://git-lfs.github.com/spec/v1", Kind::BadFile, "git lfs pull"),
        (b"<!DOCTYPE html><html>", Kind::BadFile, "web page"),
        (b"PK\x03\x04...", Kind::BadFile, "zip archive"),
        (b"tjgg\x03\0\0\0", Kind::BadFile, "older than GGUF"),
        (b"\0\0\0\0", Kind::BadFile, "not a GGUF file"),
        (&Raw::new(0, 0, 0).0, Kind::BadFile, "version 0"),
        (&Raw::new(1, 0, 0).0, Kind::Unsupported, "version 1"),
        (&Raw::new(4, 0, 0).0, Kind::Unsupported, "version 4"),
        (&Raw::new(3_u32.swap_bytes(), 0, 0).0, Kind::Unsupported, "big-endian"),
    ];
    for (bytes, kind, fragment) in cases {
        check(&bytes.escape_ascii().to_string(), read(bytes).expect_err("not a model"), kind, &[fragment]);
    }
}

/// An array in an array in an array …
fn nested(depth: usize) -> Raw {
    let outer = (0..depth).fold(one_pair().str("k").u32(9), |raw, _| raw.u32(9).u64(1));
    outer.u32(4).u64(1).u32(7)
}

/// Most keys are for people: what they hold refuses a file only where it is asked for.
#[test]
fn odd_metadata_is_refused_only_where_it_is_needed() {
    let array = |ty: u32, count: u64| one_pair().str("k").u32(9).u32(ty).u64(count);
    let huge = (1 << 24) + 1;
    let cases = [
        ("string not UTF-8", one_pair().str("k").u32(8).str([b'a', 0xc3]), "is text that is not UTF-8"),
        (
            "array string not UTF-8",
            array(8, 3).str("a").str([0x80]).str("b"),
            "is an array with text that is not UTF-8",
        ),
        ("array of arrays", array(9, 2).u32(4).u64(1).u32(7).u32(8).u64(1).str("x"), "is an array of arrays"),
        ("no arrays", array(9, 0), "is an array of arrays"),
        ("nested arrays", nested(15), "is an array of arrays"),
        ("bool 2", one_pair().str("k").u32(7).bytes(&[2]), "is an integer"),
        ("bool array", array(7, 2).bytes(&[1, 9]), "booleans that are neither 0 nor 1"),
        ("integer beyond i64", array(10, 1).u64(u64::MAX), "integers beyond 2^63"),
        ("empty array of an unknown type", array(77, 0), "is an empty array"),
        ("huge array", array(0, huge).bytes(&vec![0; huge as usize]), "many millions of numbers"),
        (
            "key twice",
            Raw::new(2, 0, 2).str("k").u32(4).u32(1).str("k").u32(4).u32(2),
            "is given twice with different values",
        ),
    ];
    for (name, raw, fragment) in cases {
        // What follows is read: a pair behind it.
        let mut bytes = raw.str("behind").u32(4).u32(5).padded();
        bytes[16] += 1;
        let metadata = read(&bytes).unwrap_or_else(|e| panic!("{name}: {e}")).metadata;
        assert_eq!(metadata.u32("behind").expect(name), 5);
        check(name, metadata.opt_bool("k").expect_err(name), Kind::BadFile, &["metadata key k", fragment]);
    }
    let same = Raw::new(2, 0, 2).str("k").u32(4).u32(1).str("k").u32(4).u32(1).padded();
    assert_eq!(read(&same).expect("the same twice").metadata.u32("k").expect("one value"), 1);
    assert!(read(&one_pair().str([0xff, 0xfe]).u32(4).u32(1).padded()).is_ok(), "a key that is not UTF-8");
}

/// Writers differ in the types of numbers.
#[test]
fn numbers_of_other_types_are_taken_where_they_are_exact() {
    let pairs = metadata(&[
        ("whole", Value::Float(4096.0)),
        ("half", Value::Float(0.5)),
        ("yes", Value::Unsigned(1)),
        ("two", Value::Unsigned(2)),
        ("many", Value::Float(f64::INFINITY)),
        ("beyond", Value::Float(1e300)),
    ]);
    assert_eq!(pairs.u32("whole").expect("a whole number"), 4096);
    assert!(pairs.bool("yes").expect("a boolean"));
    for error in [pairs.u32("half").err(), pairs.bool("two").err(), pairs.f32("many").err(), pairs.f32("beyond").err()]
    {
        assert_eq!(error.expect("an error").kind(), Kind::BadFile);
    }
}

#[test]
fn bad_metadata_is_refused() {
    let cases = [
        ("empty key", one_pair().str("").u32(4).u32(1), Kind::BadFile, ["pair 0", "empty key"]),
        ("type 13", one_pair().str("k").u32(13).u64(1), Kind::BadFile, ["\"k\"", "type 13"]),
        ("array type 13", one_pair().str("k").u32(9).u32(13).u64(1), Kind::BadFile, ["\"k\"", "type 13"]),
        ("nested too deep", nested(17), Kind::BadFile, ["\"k\"", "too deep"]),
        ("absurd array of arrays", one_pair().str("k").u32(9).u32(9).u64(1 << 60), Kind::BadFile, ["\"k\"", "ends at"]),
        ("absurd string", one_pair().str("k").u32(8).u64(u64::MAX), Kind::BadFile, ["\"k\"", "ends at"]),
        ("absurd key", one_pair().u64(u64::MAX - 7), Kind::BadFile, ["pair 0", "ends at"]),
        ("absurd f64 array", one_pair().str("k").u32(9).u32(12).u64(1 << 61), Kind::BadFile, ["\"k\"", "ends at"]),
        ("absurd string array", one_pair().str("k").u32(9).u32(8).u64(u64::MAX), Kind::BadFile, ["\"k\"", "ends at"]),
        (
            "alignment 0",
            one_pair().str("general.alignment").u32(4).u32(0),
            Kind::BadFile,
            ["alignment", "power of two"],
        ),
        ("alignment 24", one_pair().str("general.alignment").u32(4).u32(24), Kind::BadFile, ["alignment", "24"]),
        (
            "alignment text",
            one_pair().str("general.alignment").u32(8).str("x"),
            Kind::BadFile,
            ["alignment", "integer"],
        ),
    ];
    for (name, raw, kind, fragments) in cases {
        check(name, read(&raw.padded()).expect_err(name), kind, &fragments);
    }
}

#[test]
fn bad_tensors_are_refused() {
    let bad = Kind::BadFile;
    let name = "\"blk.0.w\"";
    let cases = [
        ("no dimensions", one_tensor(&[], 0, 0), bad, [name, "0 dimensions"]),
        ("five dimensions", one_tensor(&[1; 5], 0, 0), bad, [name, "5 dimensions"]),
        ("empty dimension", one_tensor(&[32, 0], 0, 0), bad, [name, "no elements"]),
        ("overflowing rows", one_tensor(&[32, 1 << 40, 1 << 40], 0, 0), bad, [name, "absurdly large"]),
        ("overflowing bytes", one_tensor(&[1 << 62, 2], 0, 0), bad, [name, "absurdly large"]),
        ("overflowing columns", one_tensor(&[u64::MAX], 1, 0), bad, [name, "absurdly large"]),
        ("half a block", one_tensor(&[48, 2], 2, 0), bad, [name, "whole blocks of Q4_0 (32"]),
        ("half a K block", one_tensor(&[128, 2], 12, 0), bad, [name, "whole blocks of Q4_K (256"]),
        ("foreign type", one_tensor(&[256], 26, 0), Kind::Unsupported, [name, "I32 (26)"]),
        ("type of a fork", one_tensor(&[256], 144, 0), Kind::Unsupported, [name, "IQ4_KS (144)"]),
        ("unknown type", one_tensor(&[256], 1000, 0), Kind::Unsupported, [name, "1000 (unknown)"]),
        ("misaligned", one_tensor(&[16], 0, 4), bad, [name, "multiple of 32"]),
        ("behind the end", one_tensor(&[16], 0, 1 << 20), bad, [name, "beyond the end"]),
        ("offset overflow", one_tensor(&[16], 0, u64::MAX - 31), bad, [name, "beyond the end"]),
        ("too long", one_tensor(&[16, 1 << 20], 0, 0), bad, [name, "beyond the end"]),
        ("no name", Raw::new(3, 1, 0).tensor("", &[16], 0, 0), bad, ["tensor 0", "empty name"]),
        ("overlap", two_tensors(("a", 0), ("b", 32)), bad, ["\"a\" and \"b\"", "overlap"]),
        ("same place", two_tensors(("a", 64), ("b", 64)), bad, ["overlap", "damaged"]),
        ("name twice", two_tensors(("a", 0), ("a", 64)), bad, ["\"a\"", "twice"]),
    ];
    for (name, raw, kind, fragments) in cases {
        check(name, read(&raw.padded()).expect_err(name), kind, &fragments);
    }
    let bytes = Raw::new(3, 1, 0).str([0xff]).u32(1).u64(16).u32(0).u64(0).padded();
    check("name not UTF-8", read(&bytes).expect_err("not UTF-8"), bad, &["name of tensor 0", "UTF-8"]);
}

#[test]
fn absurd_counts_are_refused_at_once() {
    for (n_tensors, n_pairs) in [(u64::MAX, 0), (0, u64::MAX), (1 << 32, 1 << 32), (1000, 0), (0, 1000)] {
        let error = read(&Raw::new(3, n_tensors, n_pairs).padded()).expect_err("absurd counts");
        check("counts", error, Kind::BadFile, &["cannot fit"]);
    }
}

/// A header in front of petabytes of zeros that nobody should ask for.
struct Endless {
    header: Vec<u8>,
    read: Arc<AtomicU64>,
}

impl Source for Endless {
    fn len(&self) -> u64 {
        1 << 50
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        buf.fill(0);
        if let Some(header) = self.header.get(offset as usize..) {
            let n = header.len().min(buf.len());
            buf[..n].copy_from_slice(&header[..n]);
        }
        self.read.fetch_add(buf.len() as u64, Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// In a huge file absurd lengths lie within the file; memory is bounded all the same.
#[test]
fn little_is_read_of_a_huge_file() {
    let cases = [
        one_pair().str("k").u32(8).u64(1 << 40),
        one_pair().str("k").u32(9).u32(12).u64(1 << 40),
        one_pair().str("k").u32(9).u32(8).u64(1 << 40),
        one_pair().u64(1 << 40),
        Raw::new(3, 1 << 40, 0),
        Raw::new(3, 0, 1 << 40),
    ];
    for raw in cases {
        let read = Arc::new(AtomicU64::new(0));
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Endless { header: raw.0, read: read.clone() })];
        let error = pollster::block_on(Gguf::read(&mut sources)).expect_err("absurd lengths");
        assert_eq!(error.kind(), Kind::BadFile, "{error}");
        assert!(read.load(Relaxed) <= 2 << 20, "{} bytes were read", read.load(Relaxed));
    }
}

/// Only the header is read, however long the data.
#[test]
fn tensor_data_is_not_read() {
    let read = Arc::new(AtomicU64::new(0));
    let header = Raw::new(3, 1, 0).tensor("w", &[1 << 20, 1 << 20], 0, 1 << 30).0;
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Endless { header, read: read.clone() })];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a valid header");
    assert_eq!(gguf.tensors[0].n_bytes, 1 << 42);
    assert!(read.load(Relaxed) <= 2 << 20, "{} bytes were read", read.load(Relaxed));
}

/// Piece `no` of `count` with a tensor of this name.
fn piece(no: u64, count: u64, n_tensors: u64, tensor: &str) -> Vec<u8> {
    let metadata = metadata(&[
        ("split.no", Value::Unsigned(no)),
        ("split.count", Value::Unsigned(count)),
        ("split.tensors.count", Value::Unsigned(n_tensors)),
    ]);
    let tensors = [write::Tensor { name: tensor, ty: TensorType::F32, dims: &[2], data: &[0; 8] }];
    write::to_bytes(&metadata, &tensors).expect("a valid alignment")
}

#[test]
fn pieces_are_joined_in_any_order() {
    let pieces = [piece(0, 3, 3, "a"), piece(1, 3, 3, "b"), piece(2, 3, 3, "c")];
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
        let gguf = read_all(&order.map(|i| pieces[i].as_slice())).expect("all pieces");
        assert_eq!(gguf.metadata.u32("split.no").unwrap(), 0);
        let found: Vec<_> = gguf.tensors.iter().map(|t| (t.name.as_str(), order[t.part])).collect();
        assert_eq!(found, [("a", 0), ("b", 1), ("c", 2)]);
    }
}

#[test]
fn bad_splits_are_refused() {
    let (a, b) = (piece(0, 2, 2, "a"), piece(1, 2, 2, "b"));
    let (whole, _) = sample();
    let request = Kind::InvalidRequest;
    type Case<'a> = (&'a str, &'a [&'a [u8]], Kind, &'a [&'a str]);
    let cases: [Case; 9] = [
        ("one missing", &[&b], request, &["piece 2", "split into 2 files", "1 is given"]),
        ("one too many", &[&a, &b, &a], request, &["split into 2 files", "3 are given"]),
        ("twice", &[&b, &b], request, &["piece 2", "twice"]),
        ("whole and piece", &[&a, &whole], request, &["file 1", "a model of its own"]),
        ("no such piece", &[&a, &piece(7, 2, 2, "b")], Kind::BadFile, &["file 1", "piece 8 of 2"]),
        ("same tensor", &[&a, &piece(1, 2, 2, "a")], Kind::BadFile, &["\"a\"", "two of the files"]),
        ("tensors missing", &[&piece(0, 2, 5, "a"), &b], Kind::BadFile, &["5 tensors", "has 2"]),
        ("damaged piece", &[&a, &b[..40]], Kind::BadFile, &["file 1", "incomplete"]),
        ("nothing", &[], request, &["no model file"]),
    ];
    for (name, files, kind, fragments) in cases {
        check(name, read_all(files).expect_err(name), kind, fragments);
    }
}

#[test]
fn missing_files_and_folders_are_errors() {
    use foreword::gguf::source::FileSource;
    let error = FileSource::open(&common::data("no such file")).expect_err("there is no such file");
    assert!(error.to_string().contains("no such file"), "{error}");
    assert!(FileSource::open(&common::data("")).is_err(), "a folder is no file");
}

/// Every finding of the fuzzer, kept as a file under `tests/data/fuzz`.
#[test]
fn fuzzer_findings_stay_fixed() {
    let folder = std::fs::read_dir(common::data("fuzz/gguf")).expect("the findings");
    let mut n = 0;
    for file in folder {
        let path = file.expect("a folder entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        if let Err(error) = read(&bytes) {
            assert!(!error.to_string().is_empty(), "{}", path.display());
        }
        n += 1;
    }
    assert!(n > 0, "no findings");
}

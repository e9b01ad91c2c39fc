//! Models in other types: what is written is read again, and nothing is left of what fails.

use crate::{TINY, clean, files, finish, foreword, run};
use foreword::gguf::write::{self, Entry, Pair};
use foreword::gguf::{Gguf, Value};
use foreword::quant::TensorType;
use std::path::Path;
use std::process::Command;

fn header(path: &Path) -> Gguf {
    let mut sources = foreword::gguf::source::open(path).expect("a file");
    pollster::block_on(Gguf::read(&mut sources)).expect("a sound header")
}

fn quantize(folder: &Path, args: &[&str]) -> crate::Run {
    finish(&mut foreword(folder, &[&["quantize"], args].concat()))
}

/// Every type is written, loads, and is the nearer to the source the more bits it has.
#[test]
fn models_are_quantized_to_every_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let logits = folder.path().join("logits");
    let text = ["--file", "Cargo.toml", "--context", "64", "--chunks", "4", "--json"];
    let perplexity = |model: &str, more: [&str; 2]| run(&[&["perplexity", model], &text[..], &more].concat()).json();
    perplexity(TINY, ["--save-logits", &logits.to_string_lossy()]);
    let source = header(Path::new(TINY));
    // Rows of 32 and 64 fit no block of 256.
    let cases = [
        ("f16", "F16", 0.0001),
        ("q8_0", "Q8_0", 0.005),
        ("q6_k", "Q8_0", 0.005),
        ("Q5_1", "Q5_1", 0.15),
        ("q4_k", "Q5_0", 0.2),
        ("iq4_xs", "IQ4_NL", 0.4),
        ("q4_0", "Q4_0", 0.5),
        ("q2_k", "Q4_0", 0.5),
        ("mxfp4", "MXFP4", 0.7),
    ];
    for (ty, wanted, kl) in cases {
        let out = folder.path().join(format!("{ty}.gguf"));
        let report = quantize(folder.path(), &[TINY, &out.to_string_lossy(), "--type", ty, "--json"]).json();
        let found = header(&out);
        assert_eq!(report["bytes"], std::fs::metadata(&out).expect("the file").len());
        for info in &source.tensors {
            let tensor = found.tensor(&info.name).expect("the same tensors");
            let is_head = info.name == "output.weight" && wanted != "F16";
            let is_matrix = info.dims.len() > 1;
            let ty = if is_head {
                "Q8_0"
            } else if is_matrix {
                wanted
            } else {
                "F32"
            };
            assert_eq!((tensor.ty.name(), &tensor.dims), (ty, &info.dims), "{}", info.name);
        }
        for (key, value) in source.metadata.iter().filter(|(key, _)| *key != "general.file_type") {
            assert_eq!(found.metadata.get(key), Some(value), "{key}");
        }
        assert_eq!(found.metadata.u32("general.quantization_version").expect("a number"), 2);
        let compared = perplexity(&out.to_string_lossy(), ["--against", &logits.to_string_lossy()]);
        let divergence = compared["kl_mean"].as_f64().expect("a number");
        println!("{ty}: {divergence}");
        assert!(divergence < kl, "{ty}: {divergence}");
    }
}

/// Tables of embeddings have no factor beside them; Gemma 4's second one is in its file while the model runs.
#[test]
fn models_with_tables_run_in_nvfp4() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.gguf");
    let out = out.to_string_lossy();
    assert_eq!(quantize(folder.path(), &["../tests/data/models/gemma4.gguf", &out, "--type", "nvfp4"]).code, 0);
    assert_eq!(header(Path::new(&*out)).tensor("per_layer_token_embd.weight").expect("a table").ty, TensorType::Q8_0);
    let run = run(&["run", &out, "Hi", "--raw", "--max-tokens", "2"]);
    assert_eq!(run.code, 0, "{}", run.err);
}

#[test]
fn what_quantizing_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.gguf");
    let out = out.to_string_lossy();
    quantize(folder.path(), &[TINY, &out, "--type", "q4_k"]).is("quantize");
    quantize(folder.path(), &[TINY, "model.gguf", "--type", "q9"]).is("quantize-type");
    let again = quantize(folder.path(), &[TINY, &out, "--type", "q4_k"]);
    assert!(again.code == 2 && again.err.contains("is there already"), "{}", again.err);
    let threads = quantize(folder.path(), &[TINY, "model.gguf", "--type", "q4_k", "--threads", "100000"]);
    assert!(threads.code == 2 && threads.err.contains("from 1 to 256"), "{}", threads.err);
    let unread = quantize(folder.path(), &[TINY, "model.gguf", "--type", "q4_k", "--file", "Cargo.toml"]);
    assert!(unread.code == 2 && unread.err.contains("--method gptq"), "{}", unread.err);
    let nothing = quantize(folder.path(), &[TINY, "model.gguf", "--type", "f32"]);
    assert!(nothing.code == 2 && nothing.err.contains("nothing to do"), "{}", nothing.err);
}

/// A file of one tensor, and a value whose type is another once it has been read.
fn file(ty: TensorType, cols: u64, data: &[u8]) -> Vec<u8> {
    let architecture = Value::String("llama".into());
    let pairs = [Pair::New("general.architecture", &architecture), Pair::Copied(BYTES)];
    let dims = [cols, data.len() as u64 * ty.block_len() as u64 / (ty.block_bytes() as u64 * cols)];
    let entry = Entry { name: "blk.0.attn_q.weight", ty, dims: &dims, n_bytes: data.len() as u64 };
    [write::header(&pairs, 32, &[entry]), data.to_vec()].concat()
}

/// An array of three bytes.
const BYTES: &[u8] = b"\x05\0\0\0\0\0\0\0a.map\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x01\x02\xff";

#[test]
fn metadata_keep_their_types() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, out) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let floats: Vec<u8> = (0..256).flat_map(|i| (i as f32 * 0.01 - 1.0).to_le_bytes()).collect();
    std::fs::write(&source, file(TensorType::F32, 64, &floats)).expect("a file");
    let run = quantize(folder.path(), &[&source.to_string_lossy(), &out.to_string_lossy(), "--type", "nvfp4"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let bytes = std::fs::read(&out).expect("the file");
    assert!(bytes.windows(BYTES.len()).any(|window| window == BYTES), "the array has another type");
    // NVFP4 has the factor that brings its scales into their range.
    let (gguf, mut sources) = (header(&out), foreword::gguf::source::open(&out).expect("the file"));
    let mut read = |name: &str| {
        let info = gguf.tensor(name).expect("the tensor");
        let mut bytes = vec![0; info.n_bytes as usize];
        pollster::block_on(sources[info.part].read_at(info.offset, &mut bytes)).expect("the data");
        let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
        foreword::quant::decode(info.ty, &bytes, &mut values).expect("whole blocks");
        values
    };
    let scale = read("blk.0.attn_q.scale")[0];
    for (i, value) in read("blk.0.attn_q.weight").into_iter().enumerate() {
        let wanted = i as f32 * 0.01 - 1.0;
        assert!((value * scale - wanted).abs() < 0.2 * wanted.abs().max(0.1), "{} for {wanted}", value * scale);
    }
}

#[test]
fn nothing_is_left_of_what_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("in.gguf");
    let mut floats: Vec<u8> = (0..256).flat_map(|i| (i as f32).to_le_bytes()).collect();
    floats[512..516].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&source, file(TensorType::F32, 64, &floats)).expect("a file");
    let source = source.to_string_lossy();
    let out = folder.path().join("out.gguf");
    let out = out.to_string_lossy();
    let run = quantize(folder.path(), &[&source, &out, "--type", "q4_0"]);
    assert!(run.code == 3 && run.err.contains("attn_q.weight") && run.err.contains("no number"), "{}", run.err);
    assert_eq!(files(folder.path()), ["in.gguf"]);
    let nowhere = quantize(folder.path(), &[TINY, "/nowhere/out.gguf", "--type", "q4_0"]);
    assert_eq!(nowhere.code, 6, "{}", nowhere.err);
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_no_half_file() {
    let folder = tempfile::tempdir().expect("a folder");
    // Files may have 8 KiB, and writing more is an error instead of a signal.
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" quantize \"$1\" \"$2\" --type f16"]);
    limited.args([env!("CARGO_BIN_EXE_foreword"), TINY, &folder.path().join("out.gguf").to_string_lossy()]);
    let run = finish(clean(&mut limited, folder.path()));
    assert!(run.code == 6 && run.err.contains("cannot write"), "{}", run.err);
    assert!(files(folder.path()).is_empty());
}

/// The text that the commands below read.
const TEXT: [&str; 6] = ["--file", "Cargo.toml", "--context", "64", "--chunks", "8"];

#[test]
fn importance_is_found_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (matrix, out) = (path("tiny.imatrix.gguf"), path("out.gguf"));
    let found = finish(&mut foreword(folder.path(), &[&["imatrix", TINY, "-o", &matrix], &TEXT[..]].concat()));
    assert_eq!((found.code, found.out.as_str()), (0, "inputs of 14 matrices over 512 tokens\n"), "{}", found.err);
    let gguf = header(Path::new(&matrix));
    assert_eq!(gguf.metadata.str("general.type").expect("a text"), "imatrix");
    assert_eq!(gguf.metadata.u32("imatrix.chunk_count").expect("a number"), 8);
    assert_eq!(gguf.metadata.u32("imatrix.chunk_size").expect("a number"), 64);
    let sums = gguf.tensor("blk.1.ffn_down.weight.in_sum2").expect("sums");
    assert_eq!((sums.ty, &sums.dims[..]), (TensorType::F32, &[64, 1][..]));
    assert_eq!(gguf.tensor("blk.1.ffn_down.weight.counts").expect("counts").dims, [1, 1]);
    let run = quantize(folder.path(), &[TINY, &out, "--type", "q4_0", "--imatrix", &matrix]);
    assert_eq!(run.code, 0, "{}", run.err);
    let plain = path("plain.gguf");
    assert_eq!(quantize(folder.path(), &[TINY, &plain, "--type", "q4_0"]).code, 0);
    assert_ne!(std::fs::read(&out).expect("a file"), std::fs::read(&plain).expect("a file"));

    let refused = |model: &str, matrix: &str, why: &str| {
        let run = quantize(folder.path(), &[model, &path("other.gguf"), "--type", "q4_0", "--imatrix", matrix]);
        assert!(run.code == 2 && run.err.contains(why), "{}", run.err);
        assert!(!files(folder.path()).iter().any(|name| name.starts_with("other")));
    };
    refused("../tests/data/models/lfm2.gguf", &matrix, "an importance matrix of another model");
    refused(TINY, TINY, "no importance matrix");
}

#[test]
fn gptq_makes_a_model_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let logits = path("logits");
    let perplexity = |model: &str, more: [&str; 2]| run(&[&["perplexity", model, "--json"], &TEXT[..], &more].concat());
    assert_eq!(perplexity(TINY, ["--save-logits", &logits]).code, 0);
    let [plain, better] = [&[][..], &[&["--method", "gptq"], &TEXT[..]].concat()].map(|more: &[&str]| {
        let out = path(&format!("{}.gguf", more.len()));
        let run = quantize(folder.path(), &[&[TINY, &out, "--type", "q4_0"], more].concat());
        assert_eq!(run.code, 0, "{}", run.err);
        perplexity(&out, ["--against", &logits]).json()["kl_mean"].as_f64().expect("a number")
    });
    println!("{better} of {plain}");
    assert!(better < 0.8 * plain, "{better}, plain {plain}");
    let without = quantize(folder.path(), &[TINY, &path("out.gguf"), "--type", "q4_0", "--method", "gptq"]);
    assert!(without.code == 2 && without.err.contains("--file"), "{}", without.err);
}

//! Checkpoints of Hugging Face's as GGUF: what comes of each family equals what llama.cpp's converter makes, and computes what the
//! checkpoint does (`tests/data/make_checkpoints.py`); and what is refused.

use crate::server::Server;
use crate::{Run, clean, files, finish, foreword};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken};
use foreword::gguf::{Gguf, Value};
use foreword::model::{Model, ModelOptions, Text};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FAMILIES: [&str; 9] =
    ["llama", "llama3", "llama-spm", "qwen2", "qwen3", "gemma3", "lfm2", "bert", "gemma-embedding"];

fn checkpoint(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/checkpoints").join(name)
}

fn convert(folder: &Path, out: &Path, more: &[&str]) -> Run {
    let cache = tempfile::tempdir().expect("a folder");
    let (folder, out) = (folder.to_string_lossy(), out.to_string_lossy());
    finish(&mut foreword(cache.path(), &[&["convert", &*folder, "-o", &*out], more].concat()))
}

fn expected(name: &str) -> serde_json::Value {
    let text = fs::read_to_string(checkpoint(name).join("expected.json")).expect("what is expected");
    serde_json::from_str(&text).expect("JSON")
}

/// A value as `expected.json` has it: floats of 32 bits in as many digits as they need.
fn as_json(value: &Value) -> serde_json::Value {
    let float = |v: f32| v.to_string().parse::<f64>().expect("a number");
    match value {
        Value::Unsigned(v) => (*v).into(),
        Value::Signed(v) => (*v).into(),
        Value::Float(v) => float(*v as f32).into(),
        Value::Bool(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        Value::Integers(v) => v.clone().into(),
        Value::Floats(v) => v.iter().map(|&v| float(v)).collect::<Vec<_>>().into(),
        Value::Bools(v) => v.clone().into(),
        Value::Strings(v) => v.iter().collect::<Vec<_>>().into(),
        Value::Other(what) => panic!("{what}"),
    }
}

fn open(path: &Path) -> (Gguf, Vec<Box<dyn foreword::gguf::source::Source>>) {
    let mut sources = foreword::gguf::source::open(path).expect("a file");
    (pollster::block_on(Gguf::read(&mut sources)).expect("a sound header"), sources)
}

#[test]
fn what_is_converted_equals_the_reference_converter_s() {
    let work = tempfile::tempdir().expect("a folder");
    for name in FAMILIES {
        let (wanted, out) = (expected(name), work.path().join(format!("{name}.gguf")));
        let ty = wanted["type"].as_str().expect("a type");
        let run = convert(&checkpoint(name), &out, &["--type", ty]);
        assert_eq!(run.code, 0, "{name}: {}", run.err);
        let (gguf, mut sources) = open(&out);
        let pairs = wanted["metadata"].as_object().expect("pairs");
        for (key, value) in pairs {
            let found = gguf.metadata.get(key).map(as_json);
            assert_eq!(found.as_ref(), Some(value), "{name}: {key}");
        }
        for (key, value) in gguf.metadata.iter() {
            assert!(pairs.contains_key(key), "{name}: {key} = {} besides", as_json(value));
        }
        let tensors = wanted["tensors"].as_object().expect("tensors");
        assert_eq!(gguf.tensors.len(), tensors.len(), "{name}");
        for info in &gguf.tensors {
            let wanted = &tensors[&info.name];
            assert_eq!(wanted["type"], info.ty.name(), "{name}: {}", info.name);
            assert_eq!(wanted["dims"], serde_json::json!(info.dims), "{name}: {}", info.name);
            let mut bytes = vec![0; info.n_bytes as usize];
            pollster::block_on(sources[info.part].read_at(info.offset, &mut bytes)).expect("the data");
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(wanted["sha256"], hash, "{name}: {}", info.name);
        }
    }
}

/// Largest difference of a logit; the logits are of the order of 1.
const TOLERANCE: f32 = 1e-3;

#[test]
fn what_is_converted_computes_what_the_checkpoint_does() {
    let work = tempfile::tempdir().expect("a folder");
    for name in FAMILIES {
        let (wanted, out) = (expected(name), work.path().join(format!("{name}.gguf")));
        // Types of 16 bits would round what some of these hold.
        convert(&checkpoint(name), &out, &["--type", "f32"]);
        let (gguf, sources) = open(&out);
        let options = ModelOptions { cache_type: CacheType::F32, ..ModelOptions::default() };
        let mut quiet = |_| {};
        let loaded = Model::load(&gguf, sources, Box::new(Cpu::new(1)), &options, &mut quiet);
        let mut model = pollster::block_on(loaded).expect("a sound model");
        let tokens: Vec<u32> = serde_json::from_value(wanted["tokens"].clone()).expect("tokens");
        let (key, got) = match model.config().pooling {
            Some(pooling) => ("vector", vector(&mut model, &tokens, pooling)),
            None => ("logits", logits(&mut model, &tokens)),
        };
        let wanted: Vec<f32> = serde_json::from_value(wanted[key].clone()).expect("numbers");
        assert_eq!(got.len(), wanted.len(), "{name}");
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {worst:.1e}");
        assert!(worst <= TOLERANCE, "{name}: off by {worst}");
    }
}

/// Those of the last token.
fn logits(model: &mut Model, tokens: &[u32]) -> Vec<f32> {
    let seq = model.kv_mut().new_seq();
    let mut batch = Batch::new();
    for (i, &token) in tokens.iter().enumerate() {
        let parent = i.checked_sub(1).map(|parent| parent as u32);
        batch.push(BatchToken { token, seq, parent, output: i + 1 == tokens.len() });
    }
    let mut logits = Vec::new();
    pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
    logits
}

/// A text's vector, of length 1.
fn vector(model: &mut Model, tokens: &[u32], pooling: foreword::model::Pooling) -> Vec<f32> {
    let vectors = pollster::block_on(model.embed(&[Text::one(tokens)], pooling)).expect("a vector");
    let length = vectors[0].iter().map(|v| v * v).sum::<f32>().sqrt();
    vectors[0].iter().map(|v| v / length).collect()
}

/// A copy of a checkpoint that may be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let copied = |from: &Path, to: &Path| fs::copy(from, to).expect("a copy");
    for entry in fs::read_dir(checkpoint(name)).expect("the checkpoint").flatten() {
        if entry.path().is_file() {
            copied(&entry.path(), &folder.path().join(entry.file_name()));
        }
    }
    folder
}

/// Changes a JSON file.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).expect("the file")).expect("JSON");
    change(&mut value);
    fs::write(&path, value.to_string()).expect("the file");
}

/// Changes the header of a file of tensors; its length stays.
fn edit_header(path: &Path, change: impl FnOnce(String) -> String) {
    let bytes = fs::read(path).expect("the file");
    let n = u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    let header = change(String::from_utf8(bytes[8..8 + n].to_vec()).expect("text"));
    assert!(header.len() <= n, "the header grew");
    fs::write(path, [&bytes[..8], format!("{header:n$}").as_bytes(), &bytes[8 + n..]].concat()).expect("the file");
}

/// Each is refused with a reason that names what is wrong, and leaves nothing behind.
#[test]
fn checkpoints_that_make_no_model_are_refused() {
    type Break = fn(&Path);
    let cases: &[(&str, Break, i32, &str)] = &[
        ("llama", |f| fs::remove_file(f.join("model-00002-of-00002.safetensors")).expect("gone"), 6, "00002-of-00002"),
        (
            "llama",
            |f| edit(f, INDEX, |v| v["weight_map"]["x.weight"] = "model-00001-of-00002.safetensors".into()),
            3,
            "x.weight",
        ),
        (
            "llama",
            |f| edit(f, INDEX, |v| v["weight_map"]["model.norm.weight"] = "../model.safetensors".into()),
            3,
            "names no file of the folder",
        ),
        ("llama", |f| edit(f, INDEX, |v| *v = serde_json::json!([])), 3, "index.json"),
        (
            "llama",
            |f| fs::remove_file(f.join("tokenizer.json")).expect("gone"),
            6,
            "neither tokenizer.json nor tokenizer.model",
        ),
        ("llama", |f| fs::write(f.join("tokenizer.json"), "{").expect("written"), 3, "tokenizer.json"),
        ("llama", |f| fs::remove_file(f.join("config.json")).expect("gone"), 6, "config.json is missing"),
        (
            "llama",
            |f| edit(f, "config.json", |v| v["architectures"] = serde_json::json!(["WideForCausalLM"])),
            4,
            "WideForCausalLM",
        ),
        (
            "llama",
            |f| edit(f, "config.json", |v| v["architectures"] = serde_json::json!("LlamaForCausalLM")),
            3,
            "architectures",
        ),
        ("llama", |f| edit(f, "config.json", |v| v["hidden_size"] = 32.into()), 3, "by config.json it should be"),
        ("llama", |f| edit(f, "config.json", |v| v["hidden_size"] = (-1).into()), 3, "hidden_size is -1"),
        ("llama", |f| edit(f, "config.json", |v| v["hidden_size"] = 0.into()), 3, "hidden_size is 0"),
        ("llama", |f| edit(f, "config.json", |v| v["num_attention_heads"] = 3.into()), 3, "leaves a rest"),
        ("llama", |f| edit(f, "config.json", |v| v["vocab_size"] = u64::MAX.into()), 3, "vocab_size"),
        ("llama", |f| edit(f, "config.json", |v| v["num_hidden_layers"] = 3.into()), 3, "layers.2.input_layernorm"),
        ("llama", |f| edit(f, "config.json", |v| v["num_hidden_layers"] = 1.into()), 3, "num_hidden_layers is 1"),
        (
            "llama",
            |f| edit(f, "config.json", |v| v["rope_scaling"] = serde_json::json!({"rope_type": "dynamic"})),
            4,
            "dynamic",
        ),
        (
            "lfm2",
            |f| edit(f, "config.json", |v| v["layer_types"] = serde_json::json!(["conv"])),
            3,
            "layer_types names 1",
        ),
        ("lfm2", |f| edit(f, "config.json", |v| v["conv_L_cache"] = 0.into()), 3, "conv.conv"),
        // The vocabulary.
        (
            "llama",
            |f| {
                edit(f, "tokenizer.json", |v| {
                    v["model"] = serde_json::json!({"type": "Unigram", "vocab": [["a", -1.0]]})
                })
            },
            4,
            "Unigram",
        ),
        ("llama", |f| edit(f, "tokenizer.json", |v| v["model"]["vocab"]["t"] = 1000.into()), 3, "vocab_size is"),
        ("llama", |f| edit(f, "tokenizer.json", |v| v["model"]["vocab"]["t"] = 80.into()), 3, "have the same id, 80"),
        ("llama", |f| edit(f, "tokenizer.json", |v| v["model"]["vocab"]["t"] = (-1).into()), 3, "the id -1"),
        ("llama", |f| edit(f, "tokenizer.json", |v| v["model"]["merges"][0] = 5.into()), 3, "is no pair"),
        (
            "llama",
            |f| edit(f, "tokenizer.json", |v| v["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"})),
            4,
            "Whitespace",
        ),
        (
            "llama-spm",
            |f| fs::write(f.join("tokenizer.model"), b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f").expect("written"),
            3,
            "no file of SentencePiece's",
        ),
        (
            "llama-spm",
            |f| fs::write(f.join("tokenizer.model"), b"version https://git-lfs").expect("written"),
            3,
            "tokenizer.model",
        ),
        // The tensors.
        ("qwen2", |f| cut(f, 4), 3, "a safetensors file of 4 bytes"),
        ("qwen2", |f| cut(f, 100), 3, "download incomplete"),
        ("qwen2", |f| cut(f, 9000), 3, "download incomplete"),
        (
            "qwen2",
            |f| fs::write(f.join("model.safetensors"), [0xff; 64]).expect("written"),
            3,
            "should have 18446744073709551615 bytes",
        ),
        ("qwen2", |f| edit_header(&f.join("model.safetensors"), |h| h.replacen('{', "[", 1)), 3, "its header"),
        ("qwen2", |f| edit_header(&f.join("model.safetensors"), |h| h.replacen("[0,", "[4,", 1)), 3, "its header"),
        ("qwen2", |f| edit_header(&f.join("model.safetensors"), |h| h.replacen("\"F32\"", "\"I32\"", 1)), 4, "I32"),
        (
            "qwen2",
            |f| edit_header(&f.join("model.safetensors"), |h| h.replacen("mlp.up_proj", "mlp.ux_proj", 1)),
            4,
            "ux_proj",
        ),
        ("qwen2", |f| put_first(f, f32::NAN), 3, "a weight is NaN"),
        ("qwen2", |f| put_first(f, 1e30), 3, "too large for F16"),
        ("gemma-embedding", |_| {}, 6, "2_Dense/config.json is missing"),
    ];
    for (name, break_it, code, why) in cases {
        let (folder, work) = (copy(name), tempfile::tempdir().expect("a folder"));
        break_it(folder.path());
        let run = convert(folder.path(), &work.path().join("out.gguf"), &[]);
        assert!(run.code == *code && run.err.contains(why), "{why}: {} {}", run.code, run.err);
        let left: Vec<_> = fs::read_dir(work.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
        assert!(left.is_empty(), "{why}: {left:?} is left");
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// Leaves the first `n` bytes of the weights.
fn cut(folder: &Path, n: usize) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).expect("the file");
    fs::write(&path, &bytes[..n]).expect("the file");
}

/// Makes the first weight of a file another one.
fn put_first(folder: &Path, weight: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the file");
    let at = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    bytes[at..at + 4].copy_from_slice(&weight.to_le_bytes());
    fs::write(&path, bytes).expect("the file");
}

/// No text can have a token without a row of embeddings, as Gemma 3's for pictures is where there are none.
#[test]
fn an_added_token_behind_the_vocabulary_is_passed_over() {
    let (folder, work) = (copy("llama"), tempfile::tempdir().expect("a folder"));
    let token = serde_json::json!({"id": 5000, "content": "<picture>", "special": true});
    edit(folder.path(), "tokenizer.json", |v| v["added_tokens"].as_array_mut().expect("a list").push(token));
    let (with, without) = (work.path().join("with.gguf"), work.path().join("without.gguf"));
    assert_eq!(convert(folder.path(), &with, &[]).code, 0);
    convert(&checkpoint("llama"), &without, &[]);
    let tokens = |path: &Path| open(path).0.metadata.get("tokenizer.ggml.tokens").cloned();
    assert_eq!(tokens(&with), tokens(&without));
}

/// Trainers often leave out SentencePiece's own file: its pieces and merges are in tokenizer.json, too, but without scores.
#[test]
fn a_vocabulary_of_sentencepiece_s_needs_no_file_of_its_own() {
    let (folder, work) = (copy("llama-spm"), tempfile::tempdir().expect("a folder"));
    let (own, json) = (work.path().join("own.gguf"), work.path().join("json.gguf"));
    assert_eq!(convert(folder.path(), &own, &[]).code, 0);
    let (gguf, _) = open(&own);
    let tokens: Vec<&str> = gguf.metadata.strings("tokenizer.ggml.tokens").expect("tokens").iter().collect();
    let types = gguf.metadata.integers("tokenizer.ggml.token_type").expect("types");
    let scores = gguf.metadata.floats("tokenizer.ggml.scores").expect("scores");
    let is_piece = |text: &str| tokens.iter().zip(types).any(|(token, ty)| *token == text && *ty == 1);
    let mut merges: Vec<(f32, [&str; 2])> = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| types[*id] == 1) {
        let halves = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        merges.extend(halves.filter(|(l, r)| is_piece(l) && is_piece(r)).map(|(l, r)| (scores[id], [l, r])));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let added = (0..tokens.len()).filter(|&id| types[id] != 1);
    let added = added.map(|id| serde_json::json!({"id": id, "content": tokens[id], "special": true}));
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, t)| (t.to_string(), id.into())).collect();
    let merges: Vec<_> = merges.iter().map(|(_, pair)| pair).collect();
    let model = serde_json::json!({"type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": merges});
    let tokenizer = serde_json::json!({"added_tokens": added.collect::<Vec<_>>(), "model": model});
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
    fs::remove_file(folder.path().join("tokenizer.model")).expect("gone");
    let run = convert(folder.path(), &json, &[]);
    assert_eq!(run.code, 0, "{}", run.err);
    let text = "the licensor shall mean the owner or entity that is granting the license, and others under its terms";
    let ids = |path: &Path| crate::run(&["tokenize", &path.to_string_lossy(), "--text", text, "--json"]).json();
    assert_eq!(ids(&json), ids(&own));
    assert!(ids(&own)["tokens"].as_array().expect("a list").len() < text.len() * 3 / 4, "nothing was merged");
}

/// Ids that no token has are tokens that no text has.
#[test]
fn gaps_in_a_vocabulary_are_filled() {
    let work = tempfile::tempdir().expect("a folder");
    let out = work.path().join("out.gguf");
    convert(&checkpoint("llama"), &out, &[]);
    let (gguf, _) = open(&out);
    let tokens = gguf.metadata.strings("tokenizer.ggml.tokens").expect("tokens");
    let types = gguf.metadata.integers("tokenizer.ggml.token_type").expect("types");
    let n = tokens.len();
    let behind: Vec<_> = (n - 5..n).map(|i| (tokens.get(i).expect("a token"), types[i])).collect();
    let pad = |i: usize| format!("[PAD{i}]");
    let wanted = [(pad(n - 5), 5), (pad(n - 4), 5), ("<tool>".into(), 4), (pad(n - 2), 5), (pad(n - 1), 5)];
    assert!(behind.iter().zip(&wanted).all(|(a, b)| a.0 == b.0 && a.1 == b.1), "{behind:?}");
}

#[test]
fn what_converting_says() {
    let work = tempfile::tempdir().expect("a folder");
    let out = work.path().join("out.gguf");
    convert(&checkpoint("llama"), &out, &[]).is("convert");
    let report = convert(&checkpoint("llama"), &work.path().join("json.gguf"), &["--json"]).json();
    assert_eq!((&report["architecture"], &report["type"]), (&"llama".into(), &"BF16".into()));
    assert_eq!(report["bytes"], fs::metadata(&out).expect("the file").len());
    // Whatever there is to convert: it may have to be downloaded.
    let again = convert(Path::new("no-such-folder"), &out, &[]);
    assert!(again.code == 2 && again.err.contains("is there already"), "{}", again.err);
    let nowhere = convert(Path::new("no-such-folder"), &work.path().join("x.gguf"), &[]);
    assert!(nowhere.code == 6 && nowhere.err.contains("is no folder"), "{}", nowhere.err);
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_no_half_of_what_is_converted() {
    let work = tempfile::tempdir().expect("a folder");
    // Files may have 8 KiB, and writing more is an error instead of a signal.
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" convert \"$1\" -o \"$2\""]);
    let (folder, out) = (checkpoint("llama"), work.path().join("out.gguf"));
    limited.args([env!("CARGO_BIN_EXE_foreword"), &folder.to_string_lossy(), &out.to_string_lossy()]);
    let run = finish(clean(&mut limited, work.path()));
    assert!(run.code == 6 && run.err.contains("cannot write"), "{}", run.err);
    assert!(files(work.path()).is_empty());
}

/// A checkpoint of the hub is fetched once, with the files beside it that it has; then no server is needed.
#[test]
fn checkpoints_are_fetched_from_the_hub() {
    let server = Server::start(Vec::new());
    let work = tempfile::tempdir().expect("a folder");
    let cache = work.path().join("cache");
    let fetched = |name: &str, out: &str, endpoint: &str| {
        let (model, out) = (format!("hf:checkpoints/{name}"), work.path().join(out).to_string_lossy().into_owned());
        finish(foreword(&cache, &["convert", &model, "-o", &out]).env("HF_ENDPOINT", endpoint))
    };
    for name in ["llama", "bert"] {
        let run = fetched(name, name, &server.address);
        assert_eq!(run.code, 0, "{}", run.err);
        convert(&checkpoint(name), &work.path().join("local"), &[]);
        let read = |file: &str| fs::read(work.path().join(file)).expect("the file");
        assert!(read(name) == read("local"), "{name}");
        fs::remove_file(work.path().join("local")).expect("gone");
    }
    let again = fetched("llama", "again", "http://127.0.0.1:1");
    assert_eq!(again.code, 0, "{}", again.err);
    let missing = fetched("nothing", "nothing", &server.address);
    assert!(missing.code == 5 && missing.err.contains("no such file"), "{}", missing.err);
    let spec = finish(&mut foreword(&cache, &["convert", "hf:checkpoints", "-o", "out.gguf"]));
    assert!(spec.code == 2 && spec.err.contains("hf:owner/repo"), "{}", spec.err);
}

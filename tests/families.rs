//! A tiny random model of every architecture against independent logits (`tests/data/make_models.py`), at every
//! instruction set, read token by token and as one batch.

mod common;

use common::sidecars::{Owned, file, model, source, tensors};
use common::{data, exact_options, json_lines, load, open};
use foreword::backend::cpu::Cpu;
use foreword::backend::cpu::simd::Level;
use foreword::batch::{Batch, BatchToken};
use foreword::error::{Error, Kind};
use foreword::gguf::source::{BytesSource, Read, Source};
use foreword::gguf::{Gguf, Metadata, Value};
use foreword::model::{DEFAULT_CONTEXT, Model, ModelConfig, Pooling, Text, config_of};
use foreword::quant::TensorType;
use std::sync::{Arc, Mutex};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Largest difference of a logit; the logits are of the order of 1.
const TOLERANCE: f32 = 1e-3;

/// The largest difference of a logit.
fn worst(case: &serde_json::Value, level: Level, step: usize) -> f32 {
    let name = case["model"].as_str().expect("a name");
    let ints = |v: &serde_json::Value| -> Vec<u32> { serde_json::from_value(v.clone()).expect("integers") };
    let (tokens, positions) = (ints(&case["tokens"]), ints(&case["positions"]));
    let mut model = load(&data(&format!("models/{name}.gguf")), &exact_options(256), Cpu::with_level(2, level));
    let seq = model.kv_mut().new_seq();
    let (mut batch, mut logits, mut got) = (Batch::new(), Vec::new(), Vec::new());
    for (i, chunk) in tokens.chunks(step).enumerate() {
        batch.clear();
        for (j, &token) in chunk.iter().enumerate() {
            let output = positions.contains(&((i * step + j) as u32));
            batch.push(BatchToken { token, seq, parent: j.checked_sub(1).map(|p| p as u32), output });
        }
        pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
        model.kv_mut().commit_run(seq).expect("a commit");
        got.extend_from_slice(&logits);
    }
    let want: Vec<f32> = case["logits"]
        .as_array()
        .expect("rows")
        .iter()
        .flat_map(|row| row.as_array().expect("a row"))
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect();
    assert_eq!(got.len(), want.len(), "{name}");
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{name} {} {step} at a time: {worst:.1e}", level.name());
    worst
}

#[test]
fn every_architecture_equals_its_reference() {
    let mut wrong = Vec::new();
    for case in json_lines("models/logits.jsonl").into_iter().chain(json_lines("models/hybrids.jsonl")) {
        for level in Level::available() {
            let off = [1, 17, 40].map(|step| worst(&case, level, step));
            if off.iter().any(|&off| off.is_nan() || off > TOLERANCE) {
                wrong.push(format!("{}, {}: logits are off by {off:?}", case["model"], level.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model whose matrices are of all the types that only mixtures of types have. Weights of few bits read activations of 8 bits,
/// and rounding these moves the logits by up to 0.16; any one matrix read a column off moves them by 2.7 and more.
#[test]
fn a_model_of_mixed_types_equals_its_reference() {
    for case in json_lines("models/mixed.jsonl") {
        for level in Level::available() {
            let off = [1, 40].map(|step| worst(&case, level, step));
            assert!(off.iter().all(|&off| off <= 0.25), "{}: logits are off by {off:?}", level.name());
        }
    }
}

/// A tiny model's config with other metadata; `None` takes a key away.
fn config_with(name: &str, context: Option<usize>, changes: &[(&str, Option<Value>)]) -> Result<ModelConfig, Error> {
    let (mut gguf, _) = open(&data(&format!("models/{name}.gguf")));
    let mut metadata = Metadata::default();
    let kept = gguf.metadata.iter().filter(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
    let added = changes.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)));
    for (key, value) in kept.chain(added) {
        metadata.insert(key, value.clone());
    }
    gguf.metadata = metadata;
    config_of(&gguf, context)
}

/// LongRoPE's factors are those of the context that the model is given, not of the longest that it was trained for. Files of
/// the first days have the factors and do not say what they are.
#[test]
fn longrope_goes_by_the_context_that_is_used() {
    let number = |n: usize| Some(Value::Unsigned(n as u64));
    let long = [
        ("phi3.context_length", number(16 * DEFAULT_CONTEXT)),
        ("phi3.rope.scaling.original_context_length", number(DEFAULT_CONTEXT)),
        ("phi3.rope.scaling.type", None),
    ];
    for (context, expected) in [
        (None, "rope_factors_short.weight"),
        (Some(DEFAULT_CONTEXT), "rope_factors_short.weight"),
        (Some(DEFAULT_CONTEXT + 1), "rope_factors_long.weight"),
    ] {
        for changes in [&long[..2], &long[..]] {
            let config = config_with("phi3-long", context, changes).expect("a config");
            assert_eq!(config.ropes[0].factors, Some(expected), "{context:?}");
        }
    }
}

/// Converters write such keys for families that do not use them.
#[test]
fn soft_caps_are_for_families_that_have_them() {
    let caps = |name: &str| {
        let [attention, last] =
            ["attn_logit_softcapping", "final_logit_softcapping"].map(|key| format!("{name}.{key}"));
        let changes = [(&*attention, Some(Value::Float(5.0))), (&*last, Some(Value::Float(10.0)))];
        let config = config_with(name, None, &changes).expect("a config");
        (config.attention(0).expect("attention").softcap, config.logit_softcap)
    };
    assert_eq!(caps("gemma2"), (5.0, 10.0));
    assert_eq!(caps("gemma3"), (0.0, 10.0));
    let absurd = [("gemma3.final_logit_softcapping", Some(Value::Float(1e30)))];
    assert_eq!(config_with("gemma3", None, &absurd).expect_err("absurd").kind(), Kind::BadFile);
    for name in ["llama", "qwen3", "granite", "phi3"] {
        assert_eq!(caps(name), (0.0, 0.0), "{name}");
    }
}

/// One for each layer, or a period.
#[test]
fn patterns_of_windows_are_the_file_s() {
    let windows = |pattern: Value| {
        let changes = [("gemma3.attention.sliding_window_pattern", Some(pattern))];
        config_with("gemma3-pattern", None, &changes)
            .map(|config| (0..3).map(|i| config.attention(i).is_some_and(|a| a.window.is_some())).collect::<Vec<_>>())
    };
    for (pattern, expected) in [
        (Value::Bools(vec![true, false, true]), [true, false, true]),
        (Value::Integers(vec![0, 1, 1]), [false, true, true]),
        (Value::Unsigned(2), [true, false, true]),
        (Value::Unsigned(1), [false; 3]),
        (Value::Unsigned(0), [true; 3]),
    ] {
        assert_eq!(windows(pattern.clone()).expect("a config"), expected, "{pattern:?}");
    }
    for wrong in [Value::Bools(vec![true]), Value::Integers(vec![1; 4]), Value::String("LLG".into())] {
        assert_eq!(windows(wrong.clone()).expect_err("wrong").kind(), Kind::BadFile, "{wrong:?}");
    }
}

/// A file without the norms that its family must have: an answer without them would only look like one.
#[test]
fn missing_norms_are_refused() {
    for (name, norm) in [
        ("llama", "attn_norm"),
        ("exaone4", "post_attention_norm"),
        ("olmo2", "post_ffw_norm"),
        ("minicpm", "ffn_norm"),
    ] {
        let (gguf, mut all) = tensors(name);
        all.retain(|tensor| tensor.0 != format!("blk.1.{norm}.weight"));
        let mut sources = source(file(&gguf.metadata, &all));
        let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
        let (cpu, mut progress) = (Box::new(Cpu::new(1)), |_| {});
        let loaded = pollster::block_on(Model::load(&gguf, sources, cpu, &exact_options(256), &mut progress));
        let error = loaded.err().expect("a norm is missing").to_string();
        assert!(error.contains(norm), "{name}: {error}");
    }
}

/// Forms of hybrids that no op here computes.
#[test]
fn unknown_forms_of_lfm2_are_refused() {
    for (key, value, fragment) in [
        ("lfm2.shortconv.l_cache", Value::Unsigned(9), "convolutions of 9"),
        ("lfm2.shortconv.l_cache", Value::Unsigned(1), "convolutions of 1"),
        ("lfm2.attention.causal", Value::Bool(false), "encoder"),
    ] {
        let error = config_with("lfm2", None, &[(key, Some(value))]).expect_err(key);
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(fragment), "{error}");
    }
    let zeros = [("llama.attention.head_count_kv", Some(Value::Integers(vec![2, 0])))];
    assert_eq!(config_with("llama", None, &zeros).expect_err("no mixer").kind(), Kind::BadFile);
}

/// The same for Qwen3.5, and layers that foretell further tokens, of which there must be fewer than layers.
#[test]
fn unknown_forms_of_qwen35_are_refused() {
    let bools = |n: usize| Value::Bools(vec![true; n]);
    for (key, value, kind, fragment) in [
        ("ssm.conv_kernel", Value::Unsigned(9), Kind::BadFile, "behind 9 tokens"),
        ("ssm.group_count", Value::Unsigned(3), Kind::BadFile, "4 heads on 3 keys"),
        ("ssm.state_size", Value::Unsigned(257), Kind::BadFile, "keys of 257"),
        ("ssm.inner_size", Value::Unsigned(63), Kind::BadFile, "4 heads cannot share 63"),
        ("nextn_predict_layers", Value::Unsigned(4), Kind::BadFile, "beyond any real model"),
        ("attention.recurrent_layers", bools(3), Kind::BadFile, "one for each of 4 layers"),
    ] {
        let key = format!("qwen35.{key}");
        let error = config_with("qwen35", None, &[(&key, Some(value))]).expect_err(&key);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(fragment), "{error}");
    }
    assert_eq!(config_with("qwen35-foretelling", None, &[]).expect("a config").layers.len(), 3);
}

/// Forms of Gemma 4 that are not known.
#[test]
fn unknown_forms_of_gemma4_are_refused() {
    for (key, value, kind, fragment) in [
        ("expert_count", Value::Unsigned(8), Kind::Unsupported, "8 experts"),
        ("attention.value_length_swa", Value::Unsigned(8), Kind::Unsupported, "different width"),
        ("attention.shared_kv_layers", Value::Unsigned(3), Kind::BadFile, "none of its kind"),
        ("attention.shared_kv_layers", Value::Unsigned(9), Kind::BadFile, "none of its kind"),
        ("rope.dimension_count_swa", Value::Unsigned(32), Kind::BadFile, "32 rotated dimensions of a head of 16"),
    ] {
        let key = format!("gemma4.{key}");
        let error = config_with("gemma4", None, &[(&key, Some(value))]).expect_err(&key);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(fragment), "{error}");
    }
}

/// Sizes that no tensor is compared with before memory is taken for them: of rotations that no layer uses, of states, of tables.
#[test]
fn absurd_sizes_are_refused_before_there_is_memory_for_them() {
    const MOST: Value = Value::Unsigned(u32::MAX as u64 - 1);
    let unused = [("gemma4.attention.sliding_window", Some(Value::Unsigned(0)))];
    for (name, changes) in [
        ("mamba2", vec![("mamba2.rope.dimension_count", Some(MOST))]),
        ("gemma4", [&unused[..], &[("gemma4.rope.dimension_count_swa", Some(MOST))]].concat()),
        ("gemma4", vec![("gemma4.embedding_length_per_layer_input", Some(MOST))]),
        ("mamba2", vec![("mamba2.ssm.inner_size", Some(Value::Unsigned(1 << 22)))]),
    ] {
        let error = config_with(name, None, &changes).expect_err(name);
        assert!(error.to_string().contains("beyond any real model"), "{changes:?}: {error}");
    }
}

/// Layers that keep states know nothing of what comes next.
#[test]
fn hybrids_are_no_encoders() {
    for name in ["qwen35", "granitehybrid", "falcon-h1", "mamba2", "lfm2"] {
        let key = format!("{name}.attention.causal");
        let error = config_with(name, None, &[(&key, Some(Value::Bool(false)))]).expect_err(name);
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains("as an encoder"), "{error}");
    }
}

/// Tensors that other families have, and that nothing here applies: an answer without them would only look like one.
#[test]
fn tensors_that_a_hybrid_would_pass_over_are_refused() {
    for (model, parts, len) in [
        ("falcon-h1", &["post_attention_norm.weight", "post_ffw_norm.weight"][..], 32),
        ("mamba2", &["post_ffw_norm.weight"], 32),
        ("mamba2", &["ssm_in.bias"], 196),
    ] {
        let (gguf, mut all) = tensors(model);
        for part in parts {
            let ones = 1.0_f32.to_le_bytes().repeat(len);
            all.push((format!("blk.0.{part}"), TensorType::F32, vec![len as u64], ones));
        }
        let mut sources = source(file(&gguf.metadata, &all));
        let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
        let cpu = Box::new(Cpu::new(1));
        let loaded = pollster::block_on(Model::load(&gguf, sources, cpu, &exact_options(256), &mut |_| {}));
        let error = loaded.err().unwrap_or_else(|| panic!("{model} is loaded with {parts:?}"));
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
}

/// Reads of a file, each with its length, and whether it can still be read.
type Reads = Arc<Mutex<(Vec<(u64, usize)>, bool)>>;

struct Watched(BytesSource, Reads);

impl Source for Watched {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        let mut reads = self.1.lock().expect("reads");
        reads.0.push((offset, buf.len()));
        match reads.1 {
            true => Box::pin(std::future::ready(Err(Error::storage("the file went away")))),
            false => self.0.read_at(offset, buf),
        }
    }
}

/// The table of per-layer embeddings stays in the file: a forward reads the rows of its tokens, and fails where it cannot; the next
/// one is as it would have been.
#[test]
fn per_layer_embeddings_are_read_by_rows() {
    let reads = Reads::default();
    let bytes = BytesSource(common::read(&data("models/gemma4.gguf")));
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Watched(bytes, reads.clone()))];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
    let info = gguf.tensor("per_layer_token_embd.weight").expect("a table");
    let (table, row) = (info.offset..info.offset + info.n_bytes, info.n_bytes / info.dims[1]);
    let of_table = || -> Vec<(u64, usize)> {
        let all = std::mem::take(&mut reads.lock().expect("reads").0);
        all.into_iter().filter(|(offset, _)| table.contains(offset)).collect()
    };
    let (cpu, mut progress) = (Box::new(Cpu::new(1)), |_| {});
    let loaded = pollster::block_on(Model::load(&gguf, sources, cpu, &exact_options(256), &mut progress));
    let mut model = loaded.expect("a sound model");
    assert_eq!(of_table(), [(table.start, row as usize)]);
    let seq = model.kv_mut().new_seq();
    let (mut batch, mut logits, mut again) = (Batch::new(), Vec::new(), Vec::new());
    batch.push_run(seq, &[7, 3, 7], true);
    pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
    assert_eq!(of_table(), [7, 3, 7].map(|token| (table.start + token * row, row as usize)));
    reads.lock().expect("reads").1 = true;
    let error = pollster::block_on(model.forward(&batch, &mut again)).expect_err("no file");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
    reads.lock().expect("reads").1 = false;
    pollster::block_on(model.forward(&batch, &mut again)).expect("a forward");
    assert_eq!(again, logits);
}

/// What a text's last token becomes is what its logits are made of: also where layers get more of a token than the stream.
#[test]
fn embeddings_are_what_logits_are_made_of() {
    for (name, head, cap) in [("llama", "output.weight", None), ("gemma4", "token_embd.weight", Some(30.0))] {
        let head = tensors(name).1.into_iter().find(|t| t.0 == head).expect("a head");
        let mut model = load(&data(&format!("models/{name}.gguf")), &exact_options(256), Cpu::new(1));
        let (tokens, mut logits) = ([7, 3, 9, 5], Vec::new());
        // Also behind a forward, of which nothing must be left.
        for _ in 0..2 {
            let vectors = pollster::block_on(model.embed(&[Text::one(&tokens)], Pooling::Last)).expect("a vector");
            let seq = model.kv_mut().new_seq();
            let mut batch = Batch::new();
            batch.push_run(seq, &tokens, true);
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            model.kv_mut().free(seq);
            for (row, &logit) in rows(&head).iter().zip(&logits) {
                let dot: f32 = row.iter().zip(&vectors[0]).map(|(w, v)| w * v).sum();
                let wanted = cap.map_or(dot, |cap: f32| cap * (dot / cap).tanh());
                assert!((logit - wanted).abs() < TOLERANCE, "{name}: {logit}, not {wanted}");
            }
        }
    }
}

/// Closed once the model is loaded, as files are in a browser; their tensors need not be there yet.
struct Closed(BytesSource, u64);

impl Source for Closed {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn stays_open(&self) -> bool {
        false
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        assert!(offset < self.1, "tensors are read of a model that does not run here");
        self.0.read_at(offset, buf)
    }
}

/// A model that needs its file while it runs is refused before its tensors are downloaded where the file is closed.
#[test]
fn per_layer_embeddings_in_a_file_that_is_closed_are_refused_at_once() {
    let bytes = common::read(&data("models/gemma4.gguf"));
    let gguf = pollster::block_on(Gguf::read(&mut source(bytes.clone()))).expect("a header");
    let first = gguf.tensors.iter().map(|t| t.offset).min().expect("tensors");
    let sources: Vec<Box<dyn Source>> = vec![Box::new(Closed(BytesSource(bytes), first))];
    let cpu = Box::new(Cpu::new(1));
    let loaded = pollster::block_on(Model::load(&gguf, sources, cpu, &exact_options(256), &mut |_| {}));
    assert_eq!(loaded.err().map(|error| error.kind()), Some(Kind::Unsupported));
}

/// Loops beyond any real model.
#[test]
fn absurd_loops_are_refused() {
    for loops in [0, 1 << 20, u64::from(u32::MAX)] {
        let changes = [("nanbeige.num_loops", Some(Value::Unsigned(loops)))];
        assert_eq!(config_with("nanbeige", None, &changes).expect_err("absurd").kind(), Kind::BadFile, "{loops}");
    }
}

/// Rows of a matrix of floats.
fn rows(tensor: &Owned) -> Vec<Vec<f32>> {
    let floats: Vec<f32> = tensor.3.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    floats.chunks(tensor.2[0] as usize).map(<[f32]>::to_vec).collect()
}

fn set_rows(tensor: &mut Owned, rows: &[Vec<f32>]) {
    tensor.2 = vec![rows[0].len() as u64, rows.len() as u64];
    tensor.3 = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
}

/// The tiny llama with a second layer of twice the heads, twice the key heads and a wider feed-forward that computes the same:
/// keys and values are there twice, and what is new of queries and feed-forward is multiplied by nothing.
fn widened() -> Model {
    let (gguf, mut all) = tensors("llama");
    let config = config_of(&gguf, None).expect("a config");
    let attention = *config.attention(1).expect("attention");
    let (n_heads, n_kv_heads, d) = (attention.n_heads, attention.n_kv_heads, attention.head_dim);
    // Query heads 0, 1 of a pair go to the first and the second copy of their key head, each with a new one behind it.
    for tensor in all.iter_mut().filter(|t| t.0.starts_with("blk.1.")) {
        let old = rows(tensor);
        let heads = old.chunks(d);
        let new: Vec<Vec<f32>> = match tensor.0.as_str() {
            "blk.1.attn_q.weight" => {
                heads.flat_map(|h| [h.to_vec(), vec![vec![0.5; h[0].len()]; d]].concat()).collect()
            }
            "blk.1.attn_k.weight" | "blk.1.attn_v.weight" => heads.flat_map(|h| [h, h].concat()).collect(),
            "blk.1.attn_output.weight" => old
                .iter()
                .map(|row| row.chunks(d).flat_map(|h| [h.to_vec(), vec![0.0; d]].concat()).collect())
                .collect(),
            "blk.1.ffn_gate.weight" | "blk.1.ffn_up.weight" => {
                [old.clone(), vec![vec![0.5; old[0].len()]; 32]].concat()
            }
            "blk.1.ffn_down.weight" => old.iter().map(|row| [row.clone(), vec![0.0; 32]].concat()).collect(),
            _ => continue,
        };
        set_rows(tensor, &new);
    }
    let ff_dim = all.iter().find(|t| t.0 == "blk.0.ffn_gate.weight").expect("a gate").2[1] as i64;
    let mut metadata = Metadata::default();
    for (key, value) in gguf.metadata.iter() {
        let counts = |n: i64, wide: i64| Value::Integers(vec![n, wide]);
        let changed = match key {
            "llama.attention.head_count" => counts(n_heads as i64, 2 * n_heads as i64),
            "llama.attention.head_count_kv" => counts(n_kv_heads as i64, 2 * n_kv_heads as i64),
            "llama.feed_forward_length" => counts(ff_dim, ff_dim + 32),
            _ => value.clone(),
        };
        metadata.insert(key, changed);
    }
    model(source(file(&metadata, &all)))
}

/// Numbers of heads and widths that differ from layer to layer, given as arrays.
#[test]
fn layers_may_differ_in_heads_and_widths() {
    let mut plain = model(vec![common::open_source(&data("models/llama.gguf"))]);
    let mut widened = widened();
    let [a, b] = [0, 1].map(|layer| *widened.config().attention(layer).expect("attention"));
    assert_eq!((b.n_heads, b.n_kv_heads), (2 * a.n_heads, 2 * a.n_kv_heads));
    let logits = |model: &mut Model| {
        let (seq, mut batch, mut logits, mut all) =
            (model.kv_mut().new_seq(), Batch::new(), Vec::new(), Vec::<f32>::new());
        for chunk in (3..80).collect::<Vec<u32>>().chunks(33) {
            batch.clear();
            batch.push_run(seq, chunk, true);
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            model.kv_mut().commit_run(seq).expect("a commit");
            all.extend_from_slice(&logits);
        }
        all
    };
    let (wanted, got) = (logits(&mut plain), logits(&mut widened));
    let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "logits are off by {worst}");
}

/// An array that has no number for each layer, or a 0 among them.
#[test]
fn arrays_of_another_length_are_refused() {
    let (mut gguf, _) = open(&data("models/llama.gguf"));
    let original = gguf.metadata.clone();
    for wrong in [vec![4], vec![4, 4, 4], vec![4, 0], vec![4, -1], vec![]] {
        let mut metadata = Metadata::default();
        for (key, value) in original.iter() {
            let is_heads = key == "llama.attention.head_count";
            metadata.insert(key, if is_heads { Value::Integers(wrong.clone()) } else { value.clone() });
        }
        gguf.metadata = metadata;
        assert_eq!(config_of(&gguf, None).expect_err("wrong").kind(), Kind::BadFile, "{wrong:?}");
    }
}

/// Files that say of their experts what cannot be, or lack a part of them: an answer would only look like one.
#[test]
fn damaged_mixtures_of_experts_are_refused() {
    let number = |n: u64| Some(Value::Unsigned(n));
    for (key, value, kind) in [
        ("expert_used_count", number(7), Kind::BadFile),
        ("expert_used_count", number(0), Kind::BadFile),
        ("expert_used_count", None, Kind::BadFile),
        ("expert_count", number(0), Kind::BadFile),
        ("expert_count", None, Kind::BadFile),
        ("expert_count", number(513), Kind::BadFile),
        ("expert_feed_forward_length", number(1 << 30), Kind::BadFile),
        ("expert_weights_scale", Some(Value::Float(-1.0)), Kind::BadFile),
        ("expert_gating_func", number(9), Kind::Unsupported),
        ("expert_group_count", number(4), Kind::Unsupported),
    ] {
        let changes = [(&*format!("qwen3moe.{key}"), value.clone())];
        assert_eq!(config_with("qwen3moe", None, &changes).expect_err("wrong").kind(), kind, "{key} {value:?}");
    }
    let refused = |name: &str, tensor: &str, change: &dyn Fn(&mut Owned)| {
        let (gguf, mut all) = tensors(name);
        let place = all.iter().position(|t| t.0 == tensor).expect(tensor);
        change(&mut all[place]);
        let mut sources = source(file(&gguf.metadata, &all));
        let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
        let (cpu, mut progress) = (Box::new(Cpu::new(1)), |_| {});
        let loaded = pollster::block_on(Model::load(&gguf, sources, cpu, &exact_options(256), &mut progress));
        let error = loaded.err().expect("a damaged tensor");
        assert!(error.to_string().contains(tensor), "{name}: {error}");
    };
    for (name, tensor) in [
        ("qwen3moe", "blk.1.ffn_gate_inp.weight"),
        ("olmoe", "blk.0.ffn_gate_exps.weight"),
        ("granitemoe", "blk.1.ffn_up_shexp.weight"),
        ("gpt-oss", "blk.1.ffn_down_exps.weight"),
        ("gpt-oss", "blk.0.attn_sinks.weight"),
    ] {
        // Missing; of another shape.
        refused(name, tensor, &|t| t.0 = "unknown.weight".into());
        refused(name, tensor, &|t| {
            let last = t.2.len() - 1;
            t.2[last] -= 1;
            t.3.truncate(t.2.iter().product::<u64>() as usize * 4);
        });
    }
}

//! Sound GGUF files that are no sound models: what the metadata claim and what the tensors are does not fit.

use foreword::backend::cpu::Cpu;
use foreword::batch::Batch;
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::{Gguf, Metadata, Value, write};
use foreword::model::{Model, ModelOptions};
use foreword::quant::TensorType;
use foreword::{Kind, Result};

const DIM: u64 = 32;
const VOCAB: u64 = 40;
const FF: u64 = 64;

/// A tiny llama of one layer, two query heads and one key head, to be damaged.
#[derive(Clone)]
struct Tiny {
    pairs: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>)>,
    /// Type and data of tensors that are not of one float.
    special: Vec<(String, TensorType, Vec<u8>)>,
}

impl Tiny {
    fn new() -> Self {
        let pairs = [
            ("general.architecture", Value::String("llama".into())),
            ("llama.context_length", Value::Unsigned(64)),
            ("llama.embedding_length", Value::Unsigned(DIM)),
            ("llama.feed_forward_length", Value::Unsigned(FF)),
            ("llama.block_count", Value::Unsigned(1)),
            ("llama.attention.head_count", Value::Unsigned(2)),
            ("llama.attention.head_count_kv", Value::Unsigned(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
        ];
        let tensors = [
            ("token_embd.weight", vec![DIM, VOCAB]),
            ("output_norm.weight", vec![DIM]),
            ("blk.0.attn_norm.weight", vec![DIM]),
            ("blk.0.attn_q.weight", vec![DIM, DIM]),
            ("blk.0.attn_k.weight", vec![DIM, DIM / 2]),
            ("blk.0.attn_v.weight", vec![DIM, DIM / 2]),
            ("blk.0.attn_output.weight", vec![DIM, DIM]),
            ("blk.0.ffn_norm.weight", vec![DIM]),
            ("blk.0.ffn_gate.weight", vec![DIM, FF]),
            ("blk.0.ffn_up.weight", vec![DIM, FF]),
            ("blk.0.ffn_down.weight", vec![FF, DIM]),
        ];
        let owned = |(name, value): (&str, _)| (name.to_owned(), value);
        Tiny {
            pairs: pairs.into_iter().map(owned).collect(),
            tensors: tensors.into_iter().map(|(name, dims)| (name.to_owned(), dims)).collect(),
            special: Vec::new(),
        }
    }

    /// Fills a tensor with a value.
    fn filled(mut self, name: &str, value: f32) -> Self {
        let n = self.tensors.iter().find(|t| t.0 == name).map_or(0, |t| t.1.iter().product::<u64>());
        self.special.push((name.to_owned(), TensorType::F32, value.to_le_bytes().repeat(n as usize)));
        self
    }

    /// Sets or adds a metadata pair.
    fn with(mut self, key: &str, value: Value) -> Self {
        self.pairs.retain(|(k, _)| k != key);
        self.pairs.push((key.to_owned(), value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.pairs.retain(|(k, _)| k != name);
        self.tensors.retain(|(k, _)| k != name);
        self
    }

    /// Sets or adds a tensor.
    fn shaped(mut self, name: &str, dims: &[u64]) -> Self {
        self.tensors.retain(|(k, _)| k != name);
        self.tensors.push((name.to_owned(), dims.to_vec()));
        self
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut metadata = Metadata::default();
        for (key, value) in &self.pairs {
            metadata.insert(key.as_str(), value.clone());
        }
        let n_bytes = |dims: &[u64]| dims.iter().product::<u64>() as usize * 4;
        let data = 0.125_f32.to_le_bytes().repeat(self.tensors.iter().map(|t| n_bytes(&t.1) / 4).max().unwrap_or(0));
        let tensor = |(name, dims): &(String, Vec<u64>)| match self.special.iter().find(|s| s.0 == *name) {
            Some((_, ty, data)) => (name.clone(), *ty, dims.clone(), data.clone()),
            None => (name.clone(), TensorType::F32, dims.clone(), data[..n_bytes(dims)].to_vec()),
        };
        let tensors: Vec<_> = self.tensors.iter().map(tensor).collect();
        let tensors: Vec<_> =
            tensors.iter().map(|(name, ty, dims, data)| write::Tensor { name, ty: *ty, dims, data }).collect();
        write::to_bytes(&metadata, &tensors)
    }

    /// Loads the model and reads three tokens.
    fn run(&self) -> Result<Vec<f32>> {
        Tiny::run_bytes(self.bytes()?)
    }

    fn run_bytes(bytes: Vec<u8>) -> Result<Vec<f32>> {
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes))];
        let gguf = pollster::block_on(Gguf::read(&mut sources))?;
        let options = ModelOptions { max_batch: 4, ..ModelOptions::default() };
        let cpu = Box::new(Cpu::new(1));
        let mut model = pollster::block_on(Model::load(&gguf, sources, cpu, &options, &mut |_| {}))?;
        let seq = model.kv_mut().new_seq();
        let mut batch = Batch::new();
        batch.push_run(seq, &[1, 2, 3], true);
        let mut logits = Vec::new();
        pollster::block_on(model.forward(&batch, &mut logits))?;
        Ok(logits)
    }

    fn refused(&self, what: &str, kind: Kind, fragment: &str) {
        let error = self.run().expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(fragment), "{what}: {error:?} lacks {fragment:?}");
    }
}

#[test]
fn the_undamaged_model_runs() {
    let logits = Tiny::new().run().expect("a sound model");
    assert_eq!(logits.len(), VOCAB as usize);
    assert!(logits.iter().all(|l| l.is_finite()));
}

#[test]
fn unknown_architectures_are_named() {
    let tiny = Tiny::new().with("general.architecture", Value::String("rwkv7".into()));
    tiny.refused("architecture", Kind::Unsupported, "rwkv7");
    Tiny::new().without("general.architecture").refused("no architecture", Kind::BadFile, "general.architecture");
    let scaled = Tiny::new().with("llama.rope.scaling.type", Value::String("spiral".into()));
    scaled.refused("rope scaling", Kind::Unsupported, "spiral");
}

#[test]
fn every_missing_part_is_named() {
    let tiny = Tiny::new();
    for (name, _) in &tiny.tensors {
        tiny.clone().without(name).refused(
            "a missing tensor",
            Kind::BadFile,
            if name.contains("gate") { "ffn_up" } else { name },
        );
    }
    for (key, _) in tiny.pairs.iter().filter(|(key, _)| key != "llama.attention.head_count_kv") {
        tiny.clone().without(key).refused("a missing key", Kind::BadFile, key);
    }
}

#[test]
fn every_wrong_shape_is_named() {
    let tiny = Tiny::new();
    for (name, dims) in &tiny.tensors {
        for axis in 0..dims.len() {
            for wrong in [1, dims[axis] - 1, dims[axis] + 1, dims[axis] * 2] {
                // Any number of embeddings is a vocabulary.
                if name == "token_embd.weight" && axis == 1 {
                    continue;
                }
                let mut dims = dims.clone();
                dims[axis] = wrong;
                tiny.clone().shaped(name, &dims).refused("a wrong shape", Kind::BadFile, name);
            }
        }
        let mut dims = dims.clone();
        dims.push(2);
        tiny.clone().shaped(name, &dims).refused("one axis too many", Kind::BadFile, name);
    }
    for extra in ["blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "blk.0.post_ffw_norm.weight", "output.weight"] {
        tiny.clone().shaped(extra, &[7]).refused("a wrong optional tensor", Kind::BadFile, extra);
    }
}

/// Any number under any key: an error, or a model that runs.
#[test]
fn absurd_numbers_are_refused_or_run() {
    let keys = [
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "attention.sliding_window",
        "rope.scaling.original_context_length",
    ];
    let numbers = [0, 1, 2, 3, 7, 16, 31, 33, 1 << 20, (1 << 31) - 1, u64::from(u32::MAX)];
    for key in keys {
        for number in numbers {
            let result = Tiny::new().with(&format!("llama.{key}"), Value::Unsigned(number)).run();
            if let Err(error) = result {
                assert!(matches!(error.kind(), Kind::BadFile | Kind::Unsupported), "{key} = {number}: {error:?}");
            }
        }
        let wrong = Tiny::new().with(&format!("llama.{key}"), Value::String("many".into()));
        if let Err(error) = wrong.run() {
            assert!(error.to_string().contains(key), "{key}: {error}");
        }
    }
}

#[test]
fn absurd_floats_are_refused() {
    let eps = "attention.layer_norm_rms_epsilon";
    let keys = [eps, "rope.freq_base", "rope.scaling.factor", "rope.scaling.attn_factor"];
    for key in keys {
        for number in [-1.0, 1e30, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let tiny = Tiny::new().with("llama.rope.scaling.type", Value::String("yarn".into()));
            let words = if number.is_finite() { "llama: " } else { key };
            tiny.with(&format!("llama.{key}"), Value::Float(number)).refused(key, Kind::BadFile, words);
        }
    }
    Tiny::new().with("llama.rope.freq_base", Value::Float(0.0)).refused("base 0", Kind::BadFile, "rotation");
    Tiny::new().with(&format!("llama.{eps}"), Value::Float(0.0)).run().expect("norms without an epsilon");
    for factor in [0.0, -2.0, f32::INFINITY] {
        let tiny = Tiny::new().shaped("rope_freqs.weight", &[DIM / 4]).filled("rope_freqs.weight", factor);
        tiny.refused("factors of a rotation", Kind::BadFile, "rope_freqs.weight");
    }
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    let tiny = Tiny::new();
    for (name, _) in &tiny.tensors {
        for value in [f32::NAN, f32::INFINITY, f32::MIN] {
            tiny.clone().filled(name, value).refused(name, Kind::BadFile, name);
        }
    }
    let mut bias = tiny.clone().shaped("blk.0.attn_v.bias", &[DIM / 2]);
    bias = bias.filled("blk.0.attn_v.bias", f32::NEG_INFINITY);
    bias.refused("a bias", Kind::BadFile, "attn_v.bias");
    // A block of 8-bit weights under a scale that is none.
    let block = [&0x7e00_u16.to_le_bytes()[..], &[1; 32]].concat();
    let mut quantized = tiny.clone();
    quantized.special.push(("blk.0.ffn_down.weight".into(), TensorType::Q8_0, block.repeat((FF / 32 * DIM) as usize)));
    quantized.refused("a scale", Kind::BadFile, "blk.0.ffn_down.weight holds values that are not numbers");
    // Numbers whose products are none.
    let names = ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"];
    let large = names.iter().fold(tiny, |tiny, name| tiny.filled(name, 1e17));
    large.refused("a product", Kind::BadFile, "the logits are not numbers");
}

#[test]
fn every_tensor_is_used_or_named() {
    let tiny = Tiny::new();
    let extra = |name: &str, kind, words: &str| tiny.clone().shaped(name, &[DIM]).refused(name, kind, words);
    extra("blk.1.attn_norm.weight", Kind::BadFile, "block_count is 1, but there is a tensor blk.1.attn_norm.weight");
    extra("blk.0.attn_sinks.weight", Kind::Unsupported, "blk.0.attn_sinks.weight");
    extra("token_embd_norm.weight", Kind::Unsupported, "token_embd_norm.weight");
    let plain = tiny.run().expect("a sound model");
    for name in ["rope_factors_long.weight", "rope_factors_short.weight", "blk.0.attn_rot_embd.weight"] {
        assert_eq!(tiny.clone().shaped(name, &[DIM / 4]).run().expect(name), plain);
    }
}

#[test]
fn what_is_no_dense_model_is_unsupported() {
    let tiny = Tiny::new();
    let experts = tiny.clone().with("llama.expert_count", Value::Unsigned(8));
    experts.refused("a key", Kind::Unsupported, "a mixture of 8 experts");
    let mut mixture = tiny.clone();
    mixture.tensors.retain(|(name, _)| !name.contains("ffn_up"));
    for name in ["blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_inp.weight"] {
        mixture.clone().shaped(name, &[DIM, FF, 2]).refused(name, Kind::Unsupported, "experts");
    }
    tiny.clone().with("llama.expert_count", Value::Unsigned(0)).run().expect("no experts");
    let adapter = tiny.with("general.type", Value::String("adapter".into()));
    adapter.refused("an adapter", Kind::Unsupported, "\"adapter\"");
}

#[test]
fn embeddings_without_a_token_are_not_chosen() {
    let tiny = Tiny::new();
    let plain = tiny.run().expect("a sound model");
    let texts: Vec<String> = (0..VOCAB - 7).map(|i| i.to_string()).collect();
    let tokens = Value::Strings(texts.iter().map(String::as_str).collect());
    let fewer = tiny.with("tokenizer.ggml.tokens", tokens);
    for model in [fewer.clone(), fewer.shaped("output.weight", &[DIM, VOCAB]).shaped("output.bias", &[VOCAB])] {
        let logits = model.run().expect("a model with more embeddings than tokens");
        assert_eq!(logits.len(), texts.len());
        // All weights are the same, and a bias moves all logits.
        assert!(logits.iter().zip(&plain).all(|(a, b)| a == b || *a == b + 0.125));
    }
}

/// Values that no key that is read may hold, byte by byte, in front of the others.
#[test]
fn metadata_that_nobody_needs_changes_nothing() {
    let tiny = Tiny::new();
    let plain = tiny.run().expect("a sound model");
    let named = tiny.clone().with("general.name", Value::Unsigned(7)).with("general.tags", Value::Float(f64::NAN));
    assert_eq!(named.run().expect("a name that is a number"), plain);
    let bytes = tiny.bytes().expect("a file");
    let array =
        |ty: u32, count: u64| [9_u32.to_le_bytes(), ty.to_le_bytes()].concat().into_iter().chain(count.to_le_bytes());
    let values: [Vec<u8>; 5] = [
        array(9, 0).collect(),
        array(9, 1).chain(6_u32.to_le_bytes()).chain(1_u64.to_le_bytes()).chain([0; 4]).collect(),
        [&7_u32.to_le_bytes()[..], &[3]].concat(),
        [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[0xff, 0xc0]].concat(),
        array(10, 1).chain([0xff; 8]).collect(),
    ];
    for value in values {
        // So long that the data keep their alignment.
        let key = "k".repeat(64 - (8 + value.len()) % 32);
        let pair = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &value].concat();
        for times in [1, 2] {
            let mut odd = bytes.clone();
            odd[16] += times;
            odd.splice(24..24, pair.repeat(times.into()));
            assert_eq!(Tiny::run_bytes(odd).unwrap_or_else(|e| panic!("{value:?}: {e}")), plain);
        }
    }
}

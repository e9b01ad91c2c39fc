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
        }
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

    /// Loads the model and reads three tokens.
    fn run(&self) -> Result<Vec<f32>> {
        let mut metadata = Metadata::default();
        for (key, value) in &self.pairs {
            metadata.insert(key.as_str(), value.clone());
        }
        let n_bytes = |dims: &[u64]| dims.iter().product::<u64>() as usize * 4;
        let data = 0.125_f32.to_le_bytes().repeat(self.tensors.iter().map(|t| n_bytes(&t.1) / 4).max().unwrap_or(0));
        let tensor = |(name, dims)| write::Tensor { name, ty: TensorType::F32, dims, data: &data[..n_bytes(dims)] };
        let tensors: Vec<_> =
            self.tensors.iter().map(|(name, dims)| tensor((name.as_str(), dims.as_slice()))).collect();
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(write::to_bytes(&metadata, &tensors)?))];
        let gguf = pollster::block_on(Gguf::read(&mut sources))?;
        let options = ModelOptions { max_batch: 4, ..ModelOptions::default() };
        let cpu = Box::new(Cpu::new(1));
        let mut model = pollster::block_on(Model::load(&gguf, &mut sources, cpu, &options, &mut |_| {}))?;
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
fn absurd_floats_are_refused_or_run() {
    let keys =
        ["attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor", "rope.scaling.attn_factor"];
    for key in keys {
        for number in [0.0, -1.0, 1e-30, 1e30, f64::INFINITY, f64::NAN] {
            for scaling in ["linear", "yarn", "none"] {
                let tiny = Tiny::new().with("llama.rope.scaling.type", Value::String(scaling.into()));
                // What a model with such numbers says is its own affair.
                let _ = tiny.with(&format!("llama.{key}"), Value::Float(number)).run();
            }
        }
    }
}

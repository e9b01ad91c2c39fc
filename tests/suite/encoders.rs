//! Tiny random models of every architecture that makes embeddings, against plain forward passes of the makers' mathematics
//! (`tests/data/make_encoders.py`), on every backend; and what embedding promises whatever the model is.

use crate::common::{data, json_lines, load};
use foreword::Kind;
use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{Backend, CacheType};
use foreword::batch::Batch;
use foreword::model::{Model, ModelOptions, Pooling, Text};
use foreword::tokenizer::Tokenizer;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Largest difference of a value; the values are of the order of 1.
const TOLERANCE: f32 = 1e-3;

/// A text of a case: its tokens, where the second of a pair begins, and its vector.
struct Case {
    tokens: Vec<u32>,
    second: usize,
    vector: Vec<f32>,
}

impl Case {
    fn text(&self) -> Text<'_> {
        Text { tokens: &self.tokens, second: self.second }
    }
}

/// The models and their texts.
fn cases() -> impl Iterator<Item = (String, Vec<Case>)> {
    json_lines("encoders/vectors.jsonl").into_iter().map(|line| {
        let text = |v: &serde_json::Value| Case {
            tokens: serde_json::from_value(v["tokens"].clone()).expect("tokens"),
            second: v["second"].as_u64().expect("a number") as usize,
            vector: serde_json::from_value(v["vector"].clone()).expect("a vector"),
        };
        (
            line["model"].as_str().expect("a name").to_string(),
            line["texts"].as_array().expect("texts").iter().map(text).collect(),
        )
    })
}

/// Those that a GPU is tested with: between them they have all that encoders ask of one.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn cases_for_gpus() -> impl Iterator<Item = (String, Vec<Case>)> {
    cases().filter(|(name, _)| ["bert-rank", "modern-bert", "gemma-embedding"].contains(&&**name))
}

fn open(name: &str, max_batch: usize, backend: impl Backend + 'static) -> Model {
    let options = ModelOptions { cache_type: CacheType::F32, max_batch, ..ModelOptions::default() };
    load(&data(&format!("encoders/{name}.gguf")), &options, backend)
}

fn embed(model: &mut Model, texts: &[Text<'_>]) -> Vec<Vec<f32>> {
    let pooling = model.config().pooling.expect("a pooling");
    pollster::block_on(model.embed(texts, pooling)).expect("embeddings")
}

fn check(what: &str, got: &[Vec<f32>], texts: &[Case]) {
    assert_eq!(got.len(), texts.len(), "{what}");
    for (got, text) in got.iter().zip(texts) {
        assert_eq!(got.len(), text.vector.len(), "{what}");
        let worst = got.iter().zip(&text.vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{what}: a text of {} tokens is off by {worst}", text.tokens.len());
    }
}

#[test]
fn every_encoder_equals_its_reference() {
    for (name, texts) in cases() {
        for level in Level::available() {
            // All texts of an encoder fit into 256 rows; causal models read the longest in pieces of 48.
            for max_batch in [256, 48] {
                let mut model = open(&name, max_batch, Cpu::with_level(2, level));
                let packed = embed(&mut model, &texts.iter().map(Case::text).collect::<Vec<_>>());
                check(&format!("{name}, {}, {max_batch}", level.name()), &packed, &texts);
                assert_eq!(model.kv().free_blocks(), model.kv().spec().n_blocks, "{name} keeps blocks");
            }
        }
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn webgpu_equals_the_reference() {
    use foreword::backend::webgpu::{Options, WebGpu};
    if crate::common::only_cuda() {
        return;
    }
    for (name, texts) in cases_for_gpus() {
        let gpu =
            pollster::block_on(WebGpu::open(&Options::default())).expect("an adapter; ./test installs a software one");
        let got = embed(&mut open(&name, 256, gpu), &texts.iter().map(Case::text).collect::<Vec<_>>());
        check(&format!("{name}, webgpu"), &got, &texts);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_equals_the_reference() {
    for (name, texts) in cases_for_gpus() {
        let Some(gpu) = crate::common::cuda::open(&Default::default()) else { return };
        let got = embed(&mut open(&name, 256, gpu), &texts.iter().map(Case::text).collect::<Vec<_>>());
        check(&format!("{name}, cuda"), &got, &texts);
    }
}

/// To the last bit: on the CPU a token's numbers do not depend on what is beside it.
#[test]
fn neighbours_in_a_forward_change_nothing() {
    for (name, texts) in cases() {
        let mut model = open(&name, 256, Cpu::new(2));
        let packed = embed(&mut model, &texts.iter().map(Case::text).collect::<Vec<_>>());
        for (text, packed) in texts.iter().zip(packed) {
            assert_eq!(embed(&mut model, &[text.text()]), [packed], "{name}, {} tokens", text.tokens.len());
        }
    }
}

#[test]
fn texts_that_cannot_be_embedded_are_refused() {
    let mut model = open("bert", 256, Cpu::new(1));
    let (long, unknown) = (vec![3; 129], vec![3, 1 << 20]);
    for (tokens, kind) in
        [(&[][..], Kind::InvalidRequest), (&long, Kind::PromptTooLong), (&unknown, Kind::InvalidRequest)]
    {
        let refused = pollster::block_on(model.embed(&[Text::one(tokens)], Pooling::Mean)).expect_err("refused");
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    assert_eq!(embed(&mut model, &[]).len(), 0);
}

/// What sees the whole text cannot go on with it.
#[test]
fn encoders_make_no_logits() {
    let mut model = open("bert", 256, Cpu::new(1));
    let mut batch = Batch::new();
    batch.push_run(model.kv_mut().new_seq(), &[3, 4], true);
    let refused = pollster::block_on(model.forward(&batch, &mut Vec::new())).expect_err("refused");
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
}

/// All cells that texts need are those of one layer, as none is read again.
#[test]
fn layers_of_an_encoder_share_their_cells() {
    let model = open("bert", 256, Cpu::new(1));
    let spec = model.kv().spec();
    assert_eq!(spec.bytes_per_token(), 2 * 32 * 4, "keys and values of one layer");
}

/// A model whose file is not here, or tokens of a vocabulary alone: the lines of `tests/large/embeddings`.
#[cfg(not(target_arch = "wasm32"))]
#[test]
#[ignore = "tests/large/embeddings fetches the models and runs this"]
fn real_models_equal_their_reference() {
    let path = std::env::var("FOREWORD_EMBEDDINGS").expect("FOREWORD_EMBEDDINGS, as tests/large/embeddings sets it");
    let text = std::fs::read_to_string(path).expect("a file of references");
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let file = std::path::Path::new(line["file"].as_str().expect("a path"));
        let tokenizer = Tokenizer::from_gguf(&crate::common::open(file).0.metadata).expect("a tokenizer");
        let ids = |v: &serde_json::Value| serde_json::from_value::<Vec<u32>>(v.clone()).expect("ids");
        let texts = line["texts"].as_array().expect("texts");
        for case in texts {
            let text = case["text"].as_str().expect("text");
            match case.get("ids") {
                Some(wanted) => assert_eq!(tokenizer.encode(text, false), ids(wanted), "{}: {text:?}", file.display()),
                None => assert_eq!(tokenizer.encode_whole(text), ids(&case["tokens"]), "{}: {text:?}", file.display()),
            }
        }
        let Some(least) = line["cosine"].as_f64() else { continue };
        let mut model = load(file, &ModelOptions::default(), Cpu::new(2));
        let tokens: Vec<Vec<u32>> = texts.iter().map(|case| ids(&case["tokens"])).collect();
        let got = embed(&mut model, &tokens.iter().map(|tokens| Text::one(tokens)).collect::<Vec<_>>());
        for (got, case) in got.iter().zip(texts) {
            let wanted: Vec<f64> = serde_json::from_value(case["vector"].clone()).expect("a vector");
            let dot: f64 = got.iter().zip(&wanted).map(|(a, b)| f64::from(*a) * b).sum();
            let cosine = dot / got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            println!("{}: cosine {cosine:.6} of {:?}", file.display(), case["text"].as_str().unwrap_or_default());
            assert!(cosine >= least, "{}: cosine {cosine} of {}", file.display(), case["text"]);
        }
    }
}

//! What a model shows of its layers: entries that are put into a cache are those of reading; queries and keys are rotated.

use crate::common::data;
use crate::common::random::Random;
use foreword::Kind;
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, SeqId};
use foreword::model::{Entries, Model, ModelOptions};
use pollster::block_on;
use std::sync::{Arc, Mutex};

fn model(name: &str) -> Model {
    let options = ModelOptions {
        context_length: Some(256),
        cache_type: CacheType::F32,
        cache_tokens: Some(512),
        ..ModelOptions::default()
    };
    crate::common::load(&data(&format!("models/{name}.gguf")), &options, Cpu::new(2))
}

fn run(seq: SeqId, tokens: &[u32]) -> Batch {
    let mut batch = Batch::new();
    batch.push_run(seq, tokens, true);
    batch
}

#[test]
fn what_is_observed_and_put_is_what_reading_leaves() {
    for name in ["llama", "gemma3", "qwen3", "olmo2", "hunyuan-dense", "nanbeige"] {
        let mut model = model(name);
        let layers = model.config().layers.len();
        let mut r = Random::new(11);
        let text: Vec<u32> = (0..90).map(|_| 3 + r.below(250) as u32).collect();
        let [read, put, seen] = [(); 3].map(|()| model.kv_mut().new_seq());
        let (mut wanted, mut logits) = (Vec::new(), Vec::new());
        for (i, chunk) in text[..89].chunks(50).enumerate() {
            block_on(model.forward(&run(read, chunk), &mut logits)).expect("a forward");
            model.kv_mut().commit_run(read).expect("a commit");
            let entries = block_on(model.observe(&run(seen, chunk), layers, false)).expect("entries");
            model.kv_mut().commit_run(seen).expect("a commit");
            assert_eq!(entries.len(), layers);
            model.put_entries(&run(put, chunk), &entries).expect("room");
            model.kv_mut().commit_run(put).expect("a commit");
            assert_eq!(model.kv().len(put), [50, 89][i]);
        }
        block_on(model.forward(&run(read, &text[89..]), &mut wanted)).expect("a forward");
        // The sequence that was observed has been read as well.
        for seq in [put, seen] {
            block_on(model.forward(&run(seq, &text[89..]), &mut logits)).expect("a forward");
            assert_eq!(logits, wanted, "{name}");
        }
    }
}

#[test]
fn products_of_queries_and_keys_depend_on_distances() {
    for name in ["llama", "gemma3", "qwen3", "olmo2"] {
        let mut model = model(name);
        let (seq, n) = (model.kv_mut().new_seq(), 24);
        // The same token everywhere: before rotation all rows of the first layer are alike.
        let batch = run(seq, &vec![17; n]);
        let plain = block_on(model.observe(&batch, 1, false)).expect("entries").remove(0);
        let rotated = block_on(model.observe(&batch, 1, true)).expect("entries").remove(0);
        let attention = model.config().attention(0).expect("attention");
        let (d, q_width, k_width) = (attention.head_dim, attention.q_dim(), attention.kv_dim());
        let product = |e: &Entries, i: usize, j: usize| -> f32 {
            e.q[i * q_width..][..d].iter().zip(&e.k[j * k_width..][..d]).map(|(q, k)| q * k).sum()
        };
        assert_eq!(plain.q[..q_width], plain.q[(n - 1) * q_width..], "{name}");
        let mut different = false;
        for i in 1..n {
            let near = (product(&rotated, i, i - 1) - product(&rotated, 1, 0)).abs();
            let size = product(&rotated, 0, 0).abs().max(0.01);
            assert!(near < 1e-3 * size, "{name}: {near} of {size} at {i}");
            different |= (product(&rotated, i, 0) - product(&rotated, 0, 0)).abs() > 0.01 * size;
        }
        assert!(different, "{name}: nothing is rotated");
        assert_eq!(rotated.v, plain.v);
    }
}

#[test]
fn wrong_entries_are_refused() {
    let mut model = model("llama");
    let seq = model.kv_mut().new_seq();
    let layers = model.config().layers.len();
    let error = block_on(model.observe(&run(seq, &[5, 6]), layers + 1, false)).expect_err("too many layers");
    assert_eq!(error.kind(), Kind::InvalidRequest);
    let entries = block_on(model.observe(&run(seq, &[5, 6]), layers, false)).expect("entries");
    for (tokens, entries) in [(&[5, 6, 7][..], &entries[..]), (&[5, 6][..], &entries[1..])] {
        let error = model.put_entries(&run(seq, tokens), entries).expect_err("others");
        assert_eq!(error.kind(), Kind::InvalidRequest);
    }
}

/// What is said to be read by a matrix, times that matrix, is what the model makes of it.
#[test]
fn watched_rows_are_what_products_read() {
    let path = data("models/llama.gguf");
    let (gguf, mut sources) = crate::common::open(&path);
    let mut model = model("llama");
    let (seq, text) = (model.kv_mut().new_seq(), [5, 77, 130, 9]);
    let entries = block_on(model.observe(&run(seq, &text), 2, false)).expect("entries");
    // Tensors, what they read, and columns.
    let seen = Arc::new(Mutex::new(Vec::<(String, Vec<f32>, usize)>::new()));
    let keep = seen.clone();
    model
        .watch(move |tensors, x, cols| {
            let mut seen = keep.lock().expect("no panic");
            tensors.iter().for_each(|tensor| seen.push((tensor.to_string(), x.to_vec(), cols)));
        })
        .expect("the CPU");
    let seq = model.kv_mut().new_seq();
    block_on(model.forward(&run(seq, &text), &mut Vec::new())).expect("a forward");
    let seen = seen.lock().expect("no panic");
    let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    assert_eq!(seen.len(), 2 * parts.len());
    for (layer, entries) in entries.iter().enumerate() {
        for (part, wanted) in [("attn_q", &entries.q), ("attn_k", &entries.k), ("attn_v", &entries.v)] {
            let name = format!("blk.{layer}.{part}.weight");
            let (_, x, cols) = seen.iter().find(|(tensor, ..)| *tensor == name).expect("it is read");
            let info = gguf.tensor(&name).expect("the tensor");
            let mut bytes = vec![0; info.n_bytes as usize];
            block_on(sources[0].read_at(info.offset, &mut bytes)).expect("the data");
            let mut weights = vec![0.0; bytes.len() / 4];
            foreword::quant::decode(info.ty, &bytes, &mut weights).expect("floats");
            let product = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
            let found = x.chunks_exact(*cols).flat_map(|x| weights.chunks_exact(*cols).map(move |w| product(x, w)));
            let found: Vec<f32> = found.collect();
            assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{name}: {found} for {wanted}");
            }
        }
    }
}

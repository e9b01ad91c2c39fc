//! A llama of random weights for speed tests: `cargo bench -p foreword --bench synthetic -- 1b|3b q4_k|q8_0 OUT.gguf`.
//!
//! Shapes of Llama 3.2; every tensor holds the same random blocks, since only the bytes cost time.

use foreword::gguf::write::{Tensor, to_bytes};
use foreword::gguf::{Metadata, Strings, Value};
use foreword::quant::TensorType;
use std::fs;

#[path = "../common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod random;

const VOCAB: u64 = 32000;

/// Layers, width, feed-forward width, heads and key/value heads.
struct Shape {
    layers: u64,
    dim: u64,
    ff: u64,
    heads: u64,
    kv_heads: u64,
}

fn metadata(shape: &Shape) -> Metadata {
    let mut m = Metadata::default();
    let text = |s: &str| Value::String(s.to_string());
    m.insert("general.architecture", text("llama"));
    let head_dim = shape.dim / shape.heads;
    for (key, value) in [
        ("context_length", 8192),
        ("embedding_length", shape.dim),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.ff),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("rope.dimension_count", head_dim),
        ("vocab_size", VOCAB),
    ] {
        m.insert(format!("llama.{key}"), Value::Unsigned(value));
    }
    m.insert("llama.attention.layer_norm_rms_epsilon", Value::Float(f64::from(1e-5f32)));
    m.insert("llama.rope.freq_base", Value::Float(10000.0));
    m.insert("tokenizer.ggml.model", text("llama"));
    let mut tokens = Strings::default();
    let named = ["<unk>".to_string(), "<s>".to_string(), "</s>".to_string()];
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    for token in named.into_iter().chain(bytes).chain((259..VOCAB).map(|i| format!("t{i}"))) {
        tokens.push(&token);
    }
    m.insert("tokenizer.ggml.tokens", Value::Strings(tokens));
    m.insert("tokenizer.ggml.scores", Value::Floats((0..VOCAB).map(|i| -(i as f32)).collect()));
    let kind = |i| {
        if i == 0 {
            2
        } else if i < 3 {
            3
        } else if i < 259 {
            6
        } else {
            1
        }
    };
    m.insert("tokenizer.ggml.token_type", Value::Integers((0..VOCAB).map(kind).collect()));
    m.insert("tokenizer.ggml.bos_token_id", Value::Unsigned(1));
    m.insert("tokenizer.ggml.eos_token_id", Value::Unsigned(2));
    m
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let (size, ty, out) = match &arguments[..] {
        [size, ty, out] => (size.as_str(), ty.as_str(), out),
        _ => return eprintln!("usage: cargo bench -p foreword --bench synthetic -- 1b|3b q4_k|q8_0 OUT.gguf"),
    };
    let shape = match size {
        "1b" => Shape { layers: 16, dim: 2048, ff: 8192, heads: 32, kv_heads: 8 },
        "3b" => Shape { layers: 28, dim: 3072, ff: 8192, heads: 24, kv_heads: 8 },
        _ => return eprintln!("{size} is not known; use 1b or 3b"),
    };
    let ty = if ty == "q8_0" { TensorType::Q8_0 } else { TensorType::Q4_K };
    let kv_dim = shape.dim / shape.heads * shape.kv_heads;
    let ones: Vec<u8> = (0..shape.dim).flat_map(|_| 1f32.to_le_bytes()).collect();
    let mut random = random::Random::new(1);
    let blocks = random.weights(ty, (VOCAB.max(shape.ff) * shape.dim) as usize);

    let mut names = vec![("token_embd.weight".to_string(), vec![shape.dim, VOCAB])];
    names.push(("output_norm.weight".to_string(), vec![shape.dim]));
    names.push(("output.weight".to_string(), vec![shape.dim, VOCAB]));
    for layer in 0..shape.layers {
        for (name, dims) in [
            ("attn_norm", vec![shape.dim]),
            ("attn_q", vec![shape.dim, shape.dim]),
            ("attn_k", vec![shape.dim, kv_dim]),
            ("attn_v", vec![shape.dim, kv_dim]),
            ("attn_output", vec![shape.dim, shape.dim]),
            ("ffn_norm", vec![shape.dim]),
            ("ffn_gate", vec![shape.dim, shape.ff]),
            ("ffn_up", vec![shape.dim, shape.ff]),
            ("ffn_down", vec![shape.ff, shape.dim]),
        ] {
            names.push((format!("blk.{layer}.{name}.weight"), dims));
        }
    }
    let tensor = |(name, dims): &'_ (String, Vec<u64>)| -> (TensorType, usize) {
        let n = dims.iter().product::<u64>() as usize;
        let ty = if dims.len() == 1 { TensorType::F32 } else { ty };
        (ty, ty.row_bytes(n).unwrap_or_else(|| panic!("{name} is not whole blocks")))
    };
    let tensors: Vec<Tensor<'_>> = names
        .iter()
        .map(|entry| {
            let (ty, bytes) = tensor(entry);
            let data = if ty == TensorType::F32 { &ones[..bytes] } else { &blocks[..bytes] };
            Tensor { name: &entry.0, ty, dims: &entry.1, data }
        })
        .collect();
    let bytes = to_bytes(&metadata(&shape), &tensors).expect("sound metadata");
    fs::write(out, bytes).unwrap_or_else(|e| panic!("{out}: {e}"));
}

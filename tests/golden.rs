//! Log-probabilities of llama.cpp along its greedy answers (`tests/data/README.md`).

mod common;
// It needs nothing else of the command line.
#[path = "../native/src/windows.rs"]
mod windows;

use common::{GEMMA3, SMOLLM2, exact_options, json_lines, load, log_softmax, model_path, open};
use foreword::backend::cpu::Cpu;
use foreword::batch::Batch;
use foreword::gguf::source::{BytesSource, Source};
use foreword::model::{Model, ModelOptions};
use foreword::quant::{TensorType, decode};
use foreword::tokenizer::Tokenizer;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use windows::{Perplexity, measure, windows};

/// How far a model is from a reference, in natural log-probability.
#[derive(Debug)]
struct Distance {
    /// Largest and mean difference at the reference's choice.
    worst: f64,
    mean: f64,
    /// Mean difference over its ten most probable tokens.
    tail: f64,
    /// Share of steps with the same most probable token.
    agreement: f64,
}

fn distance(model: &mut Model, golden: &str) -> Distance {
    let mut d = Distance { worst: 0.0, mean: 0.0, tail: 0.0, agreement: 0.0 };
    let (mut steps, mut n) = (0.0, 0.0);
    for line in json_lines(golden) {
        let ids = |v: &serde_json::Value| v.as_u64().expect("an id") as u32;
        let mut next: Vec<u32> = line["prompt_tokens"].as_array().expect("tokens").iter().map(ids).collect();
        let seq = model.kv_mut().new_seq();
        let (mut batch, mut logits) = (Batch::new(), Vec::new());
        for step in line["steps"].as_array().expect("steps") {
            batch.clear();
            batch.push_run(seq, &next, true);
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            model.kv_mut().commit_run(seq).expect("a commit");
            let ours = log_softmax(&logits);
            let chosen = ids(&step["id"]);
            let diff = (ours[chosen as usize] - step["logprob"].as_f64().expect("a number")).abs();
            d.worst = d.worst.max(diff);
            d.mean += diff;
            let top = step["top"].as_array().expect("pairs");
            for pair in top {
                d.tail += (ours[ids(&pair[0]) as usize] - pair[1].as_f64().expect("a number")).abs();
                n += 1.0;
            }
            let best = (0..ours.len()).max_by(|&a, &b| ours[a].total_cmp(&ours[b])).expect("a vocabulary");
            d.agreement += if best == ids(&top[0][0]) as usize { 1.0 } else { 0.0 };
            steps += 1.0;
            next = vec![chosen];
        }
        model.kv_mut().free(seq);
    }
    Distance { worst: d.worst, mean: d.mean / steps, tail: d.tail / n, agreement: d.agreement / steps }
}

/// Quantized activations differ between implementations: llama.cpp 0.3.36's Python build differs from these files by 0.21
/// at the worst choice of SmolLM2 and 0.24 of Gemma, and by 0.10 and 0.12 in the tail.
fn follows(file: &str, golden: &str) {
    let d = distance(&mut load(&model_path(file), &exact_options(512), Cpu::new(2)), golden);
    println!("{file}: {d:?}");
    assert!(d.mean <= 0.05 && d.worst <= 0.3 && d.tail <= 0.15 && d.agreement >= 0.95, "{file}: {d:?}");
}

#[test]
fn smollm2_follows_llama_cpp() {
    follows(SMOLLM2, "smollm2-135m-instruct-q4_1-logprobs.jsonl");
}

#[test]
fn gemma3_follows_llama_cpp() {
    follows(GEMMA3, "gemma-3-270m-q4_k_m-logprobs.jsonl");
}

/// The model with all weights decoded, so that activations stay floats too.
fn float_model(file: &str, options: &ModelOptions) -> Model {
    let (mut gguf, mut sources) = open(&model_path(file));
    let mut floats = Vec::new();
    for tensor in &mut gguf.tensors {
        let mut bytes = vec![0; tensor.n_bytes as usize];
        pollster::block_on(sources[tensor.part].read_at(tensor.offset, &mut bytes)).expect("the tensor");
        let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        decode(tensor.ty, &bytes, &mut values).expect("a sound tensor");
        tensor.ty = TensorType::F32;
        tensor.offset = floats.len() as u64;
        tensor.n_bytes = values.len() as u64 * 4;
        floats.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    let sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(floats))];
    let cpu = Box::new(Cpu::new(2));
    pollster::block_on(Model::load(&gguf, sources, cpu, options, &mut |_| {})).expect("a sound model")
}

#[test]
fn on_plain_floats_nothing_differs() {
    let mut model = float_model(SMOLLM2, &exact_options(512));
    let d = distance(&mut model, "smollm2-135m-instruct-f32-logprobs.jsonl");
    println!("{d:?}");
    assert!(d.worst <= 2e-3 && d.tail <= 1e-3 && d.agreement == 1.0, "{d:?}");
}

/// Tokens of the texts in the tokenizer's golden file.
fn some_text(file: &str) -> Vec<u32> {
    let (gguf, _) = open(&model_path(file));
    let tokenizer = Tokenizer::from_gguf(&gguf.metadata).expect("a tokenizer");
    let text: String = json_lines("smollm2-135m-instruct-q4_1-tokens.jsonl")
        .iter()
        .map(|l| l["text"].as_str().expect("text").to_string() + "\n")
        .collect();
    tokenizer.encode(&text, false)
}

/// Over two windows.
fn perplexity(model: &mut Model, tokens: &[u32], bos: Option<u32>, context: usize) -> Perplexity {
    let two = windows(tokens, context, 2, model.context_length()).expect("a text of two windows");
    let (mut row, mut progress) = (|_: &[f32]| Ok(()), || {});
    let measured = measure(model, two.chunks_exact(context), bos, &mut row, &mut progress);
    pollster::block_on(measured).expect("a perplexity")
}

/// Two windows of the forty that `tests/data/README.md` gives; `foreword perplexity` does them all.
#[test]
fn perplexity_runs_and_is_that_of_the_windows() {
    let tokens = some_text(SMOLLM2);
    let mut model = load(&model_path(SMOLLM2), &exact_options(256), Cpu::new(2));
    let measured = perplexity(&mut model, &tokens, None, 128);
    // The same by hand: logits of each window read at once.
    let (mut sum, mut n) = (0.0, 0);
    for window in tokens.chunks(128).take(2) {
        let seq = model.kv_mut().new_seq();
        let (mut batch, mut logits) = (Batch::new(), Vec::new());
        for (i, &token) in window.iter().enumerate() {
            batch.push(foreword::batch::BatchToken {
                token,
                seq,
                parent: i.checked_sub(1).map(|p| p as u32),
                output: true,
            });
        }
        pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
        model.kv_mut().free(seq);
        for i in 64..127 {
            let row = &logits[i * model.config().n_vocab..][..model.config().n_vocab];
            sum -= log_softmax(row)[window[i + 1] as usize];
            n += 1;
        }
    }
    assert_eq!(measured.tokens, n);
    assert!((measured.perplexity.ln() - sum / f64::from(n as u32)).abs() < 1e-9, "{measured:?}");
}

/// On the GPU activations stay floats and these files' weights are exact, so the float reference is met from the quantized
/// file; Gemma's K-quants have rounded scales and only a quantized reference. For the browser see `pkg/test/webgpu.test.mjs`.
#[cfg(all(feature = "wgpu", not(target_arch = "wasm32")))]
mod webgpu {
    use super::*;
    use foreword::backend::webgpu::{Floats, Options, WebGpu};

    fn gpu() -> WebGpu {
        pollster::block_on(WebGpu::open(&Options::default())).expect("an adapter; ./test installs a software one")
    }

    #[test]
    fn smollm2_follows_the_float_reference() {
        let mut model = load(&model_path(SMOLLM2), &exact_options(512), gpu());
        let d = distance(&mut model, "smollm2-135m-instruct-f32-logprobs.jsonl");
        println!("{d:?}");
        assert!(d.worst <= 2e-3 && d.tail <= 1e-3 && d.agreement == 1.0, "{d:?}");
    }

    /// A GPU whose products take half floats, as real ones do; none where the adapter has no such feature.
    fn half_floats() -> Option<WebGpu> {
        let options = Options { is_processor: Some(false), ..Options::default() };
        let gpu = pollster::block_on(WebGpu::open(&options)).expect("an adapter; ./test installs a software one");
        let has = gpu.floats() == Floats::F16;
        if !has {
            println!("not tested: the adapter has no half floats");
        }
        has.then_some(gpu)
    }

    #[test]
    fn smollm2_follows_the_float_reference_in_half_floats() {
        let Some(gpu) = half_floats() else { return };
        let mut model = load(&model_path(SMOLLM2), &exact_options(512), gpu);
        let d = distance(&mut model, "smollm2-135m-instruct-f32-logprobs.jsonl");
        println!("{d:?}");
        // Prompts only; inputs are rounded to 11 bits there, weights to 11 bits of their 32 columns.
        assert!(d.worst <= 5e-3 && d.tail <= 1e-3 && d.agreement == 1.0, "{d:?}");
    }

    /// Mean log-probability over two windows: its head has a row for each of 262,144 tokens, of which software makes one token a
    /// second.
    fn mean(mut model: Model) -> f64 {
        let tokens = some_text(GEMMA3);
        -perplexity(&mut model, &tokens, Some(2), 40).perplexity.ln()
    }

    /// The float reference tells apart what the CPU's 8-bit activations would hide.
    #[test]
    fn gemma3_is_that_of_float_activations() {
        let options = exact_options(40);
        let on_gpu = mean(load(&model_path(GEMMA3), &options, gpu()));
        let floats = mean(float_model(GEMMA3, &options));
        println!("{on_gpu} on the GPU, {floats} with plain floats");
        assert!((on_gpu - floats).abs() < 1e-3, "{on_gpu} for {floats}");
        let Some(half) = half_floats() else { return };
        let in_half = mean(load(&model_path(GEMMA3), &options, half));
        println!("{in_half} on the GPU in half floats");
        assert!((in_half - floats).abs() < 1e-3, "{in_half} for {floats}");
    }
}

/// On CUDA activations are quantized as on the CPU, so the bounds are those of the CPU.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    fn follows_on_cuda(file: &str, golden: &str) {
        let Some(gpu) = common::cuda::open(&Default::default()) else { return };
        let d = distance(&mut load(&model_path(file), &exact_options(512), gpu), golden);
        println!("{file}: {d:?}");
        assert!(d.mean <= 0.05 && d.worst <= 0.3 && d.tail <= 0.15 && d.agreement >= 0.95, "{file}: {d:?}");
    }

    #[test]
    fn cuda_smollm2_follows_llama_cpp() {
        follows_on_cuda(SMOLLM2, "smollm2-135m-instruct-q4_1-logprobs.jsonl");
    }

    #[test]
    fn cuda_gemma3_follows_llama_cpp() {
        follows_on_cuda(GEMMA3, "gemma-3-270m-q4_k_m-logprobs.jsonl");
    }
}

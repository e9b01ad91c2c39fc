//! Prefill and decode tokens a second of candle's quantized llama: `candle-peer MODEL.gguf PROMPT GENERATED REPS`, one JSON
//! object. Medians, after a warm-up; each run begins with an empty cache, as in `foreword bench`.

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use std::fs::File;
use std::time::Instant;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds of one forward, its logits on the host included.
fn forward(model: &mut ModelWeights, device: &Device, n: usize, position: usize) -> Result<f64> {
    let tokens: Vec<u32> = (0..n as u32).map(|i| 300 + (i * 7919 + position as u32) % 10_000).collect();
    let start = Instant::now();
    let logits = model.forward(&Tensor::new(tokens.as_slice(), device)?.unsqueeze(0)?, position)?;
    logits.flatten_all()?.to_vec1::<f32>()?;
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, rest @ ..] = &arguments[..] else { candle_core::bail!("usage: candle-peer MODEL.gguf PROMPT GENERATED REPS") };
    let number = |i: usize, default: usize| rest.get(i).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (prompt, generated, reps) = (number(0, 512), number(1, 128), number(2, 5));
    let device = Device::cuda_if_available(0)?;
    let mut file = File::open(path)?;
    let mut model = ModelWeights::from_gguf(Content::read(&mut file)?, &mut file, &device)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for rep in 0..=reps {
        // Position 0 begins a new cache.
        let first = forward(&mut model, &device, prompt, 0)?;
        forward(&mut model, &device, 1, 0)?;
        let mut seconds = 0.0;
        for i in 1..=generated {
            seconds += forward(&mut model, &device, 1, i)?;
        }
        if rep > 0 {
            prefill.push(prompt as f64 / first);
            decode.push(generated as f64 / seconds);
        }
    }
    let (prefill, decode) = (median(prefill), median(decode));
    let backend = if device.is_cuda() { "cuda" } else { "cpu" };
    println!("{{\"backend\": \"candle {backend}\", \"prefill_tok_s\": {prefill:.1}, \"decode_tok_s\": {decode:.1}}}");
    Ok(())
}

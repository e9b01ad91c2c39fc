//! Perplexity by llama.cpp's chunking: windows of the text side by side, the second half of each is scored.

use foreword::batch::{Batch, BatchToken};
use foreword::error::{Error, Result};
use foreword::model::Model;

/// The tokens of at most so many windows of `context` tokens.
///
/// # Errors
/// [`foreword::Kind::InvalidRequest`] when the text is shorter than two windows.
pub(crate) fn windows(tokens: &[u32], context: usize, windows: usize, longest: usize) -> Result<&[u32]> {
    if context < 4 || context > longest || tokens.len() < 2 * context || windows == 0 {
        return Err(Error::invalid_request(format!(
            "there has to be a window of 4 to {longest} tokens, and a text of two windows; this text has {} tokens and the window \
             {context}",
            tokens.len()
        )));
    }
    Ok(&tokens[..windows.min(tokens.len() / context) * context])
}

/// A measured perplexity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Perplexity {
    /// `exp(mean negative log-likelihood)`.
    pub(crate) perplexity: f64,
    /// Standard error of it.
    pub(crate) stderr: f64,
    /// Tokens scored.
    pub(crate) tokens: usize,
}

/// Measures the perplexity of windows. `bos` replaces the first token of every window where the model wants one. `row` gets the
/// logits of every scored token, `progress` is called behind every window.
///
/// # Errors
/// What [`Model::forward`] reports, and `row`.
pub(crate) async fn measure(
    model: &mut Model,
    windows: impl Iterator<Item = &[u32]>,
    bos: Option<u32>,
    row: &mut dyn FnMut(&[f32]) -> Result<()>,
    progress: &mut dyn FnMut(),
) -> Result<Perplexity> {
    let n_vocab = model.config().n_vocab;
    let (mut sum, mut squares, mut n) = (0.0, 0.0, 0usize);
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    for window in windows {
        let mut window = window.to_vec();
        let (context, first) = (window.len(), window.len() / 2);
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let seq = model.kv_mut().new_seq();
        // Few rows a forward where logits are wanted: a vocabulary of 262,144 takes a megabyte a row.
        let mut at = 0;
        while at < context {
            let scored = at >= first;
            let step = if scored { 64 } else { first - at }.min(model.max_batch()).min(context - at);
            batch.clear();
            for (i, &token) in window[at..at + step].iter().enumerate() {
                let parent = i.checked_sub(1).map(|p| p as u32);
                let output = scored && at + i + 1 < context;
                batch.push(BatchToken { token, seq, parent, output });
            }
            model.forward(&batch, &mut logits).await?;
            model.kv_mut().commit_run(seq)?;
            for (i, logits) in logits.chunks_exact(n_vocab).enumerate() {
                row(logits)?;
                let nll = -log_probability(logits, window[at + i + 1] as usize);
                sum += nll;
                squares += nll * nll;
                n += 1;
            }
            at += step;
        }
        model.kv_mut().free(seq);
        progress();
    }
    let mean = sum / n as f64;
    let variance = (squares / n as f64 - mean * mean).max(0.0);
    let perplexity = mean.exp();
    Ok(Perplexity { perplexity, stderr: perplexity * (variance / (n as f64 - 1.0)).sqrt(), tokens: n })
}

/// Natural logarithm of the softmax probability of one token.
fn log_probability(logits: &[f32], token: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    f64::from(logits[token] - largest) - sum.ln()
}

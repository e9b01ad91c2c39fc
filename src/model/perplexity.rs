//! Perplexity by llama.cpp's chunking: windows of the text side by side, the second half of each is scored.

use super::Model;
use crate::batch::Batch;
use crate::error::{Error, Result};

/// A measured perplexity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp(mean negative log-likelihood)`.
    pub perplexity: f64,
    /// Standard error of it.
    pub stderr: f64,
    /// Tokens scored.
    pub tokens: usize,
}

/// Measures the perplexity of `tokens` in at most `chunks` windows of `context` tokens. `bos` replaces the first token of
/// every window where the model wants one. `progress` gets the windows done and in all.
///
/// # Errors
/// [`crate::Kind::InvalidRequest`] when the text is shorter than two windows, and what [`Model::forward`] reports.
pub async fn perplexity(
    model: &mut Model,
    tokens: &[u32],
    bos: Option<u32>,
    (context, chunks): (usize, usize),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity> {
    if context < 4 || context > model.context_length() || tokens.len() < 2 * context || chunks == 0 {
        return Err(Error::invalid_request(format!(
            "perplexity needs at least one window of 4 to {} tokens and a text of two windows; this text has {} tokens and \
             the window {context}",
            model.context_length(),
            tokens.len()
        )));
    }
    let n_chunks = chunks.min(tokens.len() / context);
    let n_vocab = model.config().n_vocab;
    let first = context / 2;
    let (mut sum, mut squares, mut n) = (0.0, 0.0, 0usize);
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    for (done, window) in tokens.chunks_exact(context).take(n_chunks).enumerate() {
        let mut window = window.to_vec();
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
                batch.push(crate::batch::BatchToken { token, seq, parent, output });
            }
            model.forward(&batch, &mut logits).await?;
            model.kv_mut().commit_run(seq)?;
            for (row, logits) in logits.chunks_exact(n_vocab).enumerate() {
                let nll = -log_probability(logits, window[at + row + 1] as usize);
                sum += nll;
                squares += nll * nll;
                n += 1;
            }
            at += step;
        }
        model.kv_mut().free(seq);
        progress(done + 1, n_chunks);
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

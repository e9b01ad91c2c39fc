//! Requests and answers in the shapes of OpenAI's API (chat completions, completions, embeddings): what the command line's batches
//! and the browser package stand on.
//!
//! Every field of a request is honoured, passed over because it says nothing about the answer, or refused by its name
//! (`body.rs` has the list).

mod answer;
mod body;
mod choice;
mod contrast;
mod embeddings;
mod fields;
mod form;
mod makers;
mod message;
mod prepare;
mod service;

pub use body::{Body, Ending, Prompt};
pub use contrast::Contrasted;
pub use embeddings::{normalize, numbers};
pub use fields::whole_characters;
pub use makers::makers_settings;
pub use prepare::{Prepared, Preparer};
pub use service::{Reply, Service, Stamp};

use super::Usage;
use crate::error::Error;
use serde_json::{Value, json};

/// `usage`, with times beside OpenAI's fields.
pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "predicted_tokens": usage.predicted_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted_tokens,
            "forced_tokens": usage.forced_tokens,
            "rejected_prediction_tokens": usage.guessed_tokens - usage.accepted_tokens,
            "drafter_failed": usage.drafter_failed,
            "forwards": usage.forwards,
        },
        "timings": {
            "ttft_ms": usage.ttft_ms,
            "decode_ms": usage.decode_ms,
            "prefill_tok_s": finite(usage.prefill_tok_s()),
            "decode_tok_s": finite(usage.decode_tok_s()),
        },
    })
}

fn finite(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// The body that OpenAI's API answers errors with; `param` is the field that is wrong.
pub fn error_body(error: &Error) -> Value {
    let row = error.kind().row();
    let kind = if row.http < 500 { "invalid_request_error" } else { "server_error" };
    json!({"error": {"message": error.to_string(), "type": kind, "param": error.param(), "code": row.code}})
}

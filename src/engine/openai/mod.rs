//! Requests and answers in the shapes of OpenAI's API (chat completions and completions), for the HTTP server and the
//! browser package alike.
//!
//! Unknown fields are ignored, as OpenAI clients send many; known ones that cannot be honoured are refused.

mod answer;
mod answers;

pub use answer::Answer;
pub use answers::{Answers, Reply};

use super::{Engine, Request, Usage};
use crate::chat::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result};
use crate::sample::Params;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Most alternatives of `top_logprobs` and `logprobs`.
const MOST_LOGPROBS: usize = 20;

/// A request for a chat completion or a completion: `messages` or `prompt`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    /// The conversation (chat completions).
    pub messages: Option<Vec<Message>>,
    /// The text to go on with (completions); a string or tokens, or several of them.
    pub prompt: Option<Prompt>,
    /// Name that answers carry.
    pub model: Option<String>,
    /// Answers a prompt; only 1.
    pub n: Option<usize>,
    /// Whether chunks are wanted.
    pub stream: Option<bool>,
    /// See [`StreamOptions`].
    pub stream_options: Option<StreamOptions>,
    /// Most tokens of the answer.
    pub max_tokens: Option<usize>,
    /// The newer name of `max_tokens`.
    pub max_completion_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop: Option<Stop>,
    /// See [`Params`]; OpenAI's default is 1.
    pub temperature: Option<f32>,
    /// See [`Params`].
    pub top_p: Option<f32>,
    /// See [`Params`].
    pub top_k: Option<usize>,
    /// See [`Params`].
    pub min_p: Option<f32>,
    /// See [`Params`].
    pub typical_p: Option<f32>,
    /// See [`Params`].
    pub repetition_penalty: Option<f32>,
    /// See [`Params`].
    pub presence_penalty: Option<f32>,
    /// See [`Params`].
    pub frequency_penalty: Option<f32>,
    /// Token ids (as text) to what is added to their logits.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Makes choices repeatable.
    pub seed: Option<u64>,
    /// `true` for chat completions, a number of alternatives for completions.
    pub logprobs: Option<Logprobs>,
    /// Alternatives of each token (chat completions).
    pub top_logprobs: Option<usize>,
    /// Tools for the chat template.
    pub tools: Option<Value>,
    /// Further variables for the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Go on after end-of-generation tokens.
    pub ignore_eos: bool,
    /// Higher ones are admitted and read first; 0 by default.
    pub priority: Option<i32>,
    /// `exact`, `fast`, `progressive` or `auto`; see [`crate::predict::Prefill`].
    pub prefill: Option<String>,
    /// `false`: without guesses, where the engine guesses.
    pub speculate: Option<bool>,
}

/// The prompt of a completion.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text; BOS is added where the model wants one.
    Text(String),
    /// Tokens, as they are.
    Tokens(Vec<u32>),
    /// Several prompts; each has a choice in the answer.
    Texts(Vec<String>),
    /// Several prompts as tokens.
    Lists(Vec<Vec<u32>>),
}

/// One stop text, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The two forms of `logprobs`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum Logprobs {
    /// Of chat completions.
    Flag(bool),
    /// Of completions.
    Count(usize),
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Ends the stream with a chunk that has the usage and no choice.
    pub include_usage: bool,
}

impl Body {
    /// Parses a request.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] with the parser's words.
    pub fn parse(json: &str) -> Result<Body> {
        serde_json::from_str(json).map_err(|e| Error::invalid_request(format!("the request does not parse: {e}")))
    }

    /// The engine's requests, one a prompt. `template` is that of the model; `seed` is taken where the body has none.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for what cannot be honoured, and what [`ChatTemplate::render_with`] reports.
    pub fn request(&self, engine: &Engine, template: Result<&ChatTemplate>, seed: u64) -> Result<Vec<Request>> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(Error::invalid_request("n must be 1; send several requests instead"));
        }
        let stop = match self.stop.clone() {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        let logprobs = self.n_logprobs();
        if logprobs.is_some_and(|n| n > MOST_LOGPROBS) {
            return Err(Error::invalid_request(format!(
                "at most {MOST_LOGPROBS} alternatives of a token can be listed"
            )));
        }
        let request = Request {
            prompt: Vec::new(),
            params: self.params(seed)?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            stop,
            logprobs,
            ignore_eos: self.ignore_eos,
            priority: self.priority.unwrap_or(0),
            prefill: self.prefill.as_deref().map(str::parse).transpose()?,
            plain: self.speculate == Some(false),
        };
        let prompts = self.tokens(engine, template)?;
        Ok(prompts.into_iter().map(|prompt| Request { prompt, ..request.clone() }).collect())
    }

    fn tokens(&self, engine: &Engine, template: Result<&ChatTemplate>) -> Result<Vec<Vec<u32>>> {
        if let Some(messages) = &self.messages {
            let options = RenderOptions {
                tools: self.tools.as_ref(),
                add_generation_prompt: true,
                variables: self.chat_template_kwargs.as_ref(),
            };
            return Ok(vec![engine.prompt(&template?.render_with(messages, &options)?, true)]);
        }
        match &self.prompt {
            Some(Prompt::Text(text)) => Ok(vec![engine.prompt(text, false)]),
            Some(Prompt::Tokens(tokens)) => Ok(vec![tokens.clone()]),
            Some(Prompt::Texts(texts)) => Ok(texts.iter().map(|text| engine.prompt(text, false)).collect()),
            Some(Prompt::Lists(lists)) => Ok(lists.clone()),
            None => Err(Error::invalid_request("the request has neither messages nor a prompt")),
        }
    }

    /// Number of prompts, each of which has a choice in the answer.
    fn n_prompts(&self) -> usize {
        match &self.prompt {
            Some(Prompt::Texts(texts)) if self.messages.is_none() => texts.len(),
            Some(Prompt::Lists(lists)) if self.messages.is_none() => lists.len(),
            _ => 1,
        }
    }

    fn params(&self, seed: u64) -> Result<Params> {
        let plain = Params::default();
        let logit_bias = self.logit_bias.iter().flatten().map(|(id, bias)| match id.parse() {
            Ok(id) => Ok((id, *bias)),
            Err(_) => Err(Error::invalid_request(format!("logit_bias for {id:?}, which is no token number"))),
        });
        Ok(Params {
            logit_bias: logit_bias.collect::<Result<_>>()?,
            repetition_penalty: self.repetition_penalty.unwrap_or(plain.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
            top_k: self.top_k.unwrap_or(plain.top_k),
            typical_p: self.typical_p.unwrap_or(plain.typical_p),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            temperature: self.temperature.unwrap_or(plain.temperature),
            seed: self.seed.unwrap_or(seed),
            ..plain
        })
    }

    fn n_logprobs(&self) -> Option<usize> {
        match self.logprobs? {
            Logprobs::Flag(true) => Some(self.top_logprobs.unwrap_or(0)),
            Logprobs::Flag(false) => None,
            Logprobs::Count(n) => Some(n),
        }
    }
}

/// `usage`, with times beside OpenAI's fields.
pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "predicted_tokens": usage.predicted_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted_tokens,
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

/// The body that OpenAI's API answers errors with.
pub fn error_body(error: &Error) -> Value {
    let row = error.kind().row();
    let kind = if row.http < 500 { "invalid_request_error" } else { "server_error" };
    json!({"error": {"message": error.to_string(), "type": kind, "param": null, "code": row.code}})
}

//! Requests and answers in the shapes of OpenAI's API (chat completions and completions), for the HTTP server and the
//! browser package alike.
//!
//! Unknown fields are ignored, as OpenAI clients send many; known ones that cannot be honoured are refused.

use super::{Engine, Event, FinishReason, Request, TokenEvent, Usage};
use crate::chat::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result};
use crate::sample::Params;
use crate::tokenizer::Tokenizer;
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
    /// The text to go on with (completions); a string, or tokens.
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
}

/// The prompt of a completion.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text; BOS is added where the model wants one.
    Text(String),
    /// Tokens, as they are.
    Tokens(Vec<u32>),
    /// Several prompts; only one is accepted.
    Texts(Vec<String>),
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

    /// The engine's request. `template` is that of the model; `seed` is taken where the body has none.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for what cannot be honoured, and what [`ChatTemplate::render_with`] reports.
    pub fn request(&self, engine: &Engine, template: Result<&ChatTemplate>, seed: u64) -> Result<Request> {
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
        Ok(Request {
            prompt: self.tokens(engine, template)?,
            params: self.params(seed)?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            stop,
            logprobs,
            ignore_eos: self.ignore_eos,
            priority: self.priority.unwrap_or(0),
        })
    }

    fn tokens(&self, engine: &Engine, template: Result<&ChatTemplate>) -> Result<Vec<u32>> {
        if let Some(messages) = &self.messages {
            let options = RenderOptions {
                tools: self.tools.as_ref(),
                add_generation_prompt: true,
                variables: self.chat_template_kwargs.as_ref(),
            };
            return Ok(engine.prompt(&template?.render_with(messages, &options)?, true));
        }
        match &self.prompt {
            Some(Prompt::Text(text)) => Ok(engine.prompt(text, false)),
            Some(Prompt::Tokens(tokens)) => Ok(tokens.clone()),
            Some(Prompt::Texts(texts)) if texts.len() == 1 => Ok(engine.prompt(&texts[0], false)),
            Some(Prompt::Texts(_)) => {
                Err(Error::invalid_request("one prompt a request; send several requests instead"))
            }
            None => Err(Error::invalid_request("the request has neither messages nor a prompt")),
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

/// Turns the events of one request into chunks, or into one response.
#[derive(Debug)]
pub struct Answer {
    id: String,
    model: String,
    created: u64,
    chat: bool,
    include_usage: bool,
    begun: bool,
    text: String,
    logprobs: Option<Vec<Value>>,
}

impl Answer {
    /// For a request. `id` is unique, `model` the name where the body has none, `created` in seconds since 1970.
    pub fn new(body: &Body, id: &str, model: &str, created: u64) -> Self {
        let chat = body.messages.is_some();
        Answer {
            id: format!("{}-{id}", if chat { "chatcmpl" } else { "cmpl" }),
            model: body.model.clone().unwrap_or_else(|| model.to_string()),
            created,
            chat,
            include_usage: body.stream_options.is_some_and(|o| o.include_usage),
            begun: false,
            text: String::new(),
            logprobs: body.n_logprobs().map(|_| Vec::new()),
        }
    }

    /// The chunks that an event makes; none for failures.
    pub fn chunks(&mut self, tokenizer: &Tokenizer, event: &Event) -> Vec<Value> {
        match event {
            Event::Token(_, token) => {
                let logprobs = token.logprobs.as_ref().map(|_| self.logprobs(vec![entry(tokenizer, token)]));
                if token.text.is_empty() && logprobs.is_none() && self.begun {
                    return Vec::new();
                }
                vec![self.chunk(&token.text, logprobs, None)]
            }
            Event::Done(_, done) => {
                let mut last = self.chunk(&done.text, None, Some(done.reason));
                let usage = usage(&done.usage);
                if !self.include_usage {
                    last["usage"] = usage;
                    return vec![last];
                }
                let mut end = self.envelope(if self.chat { "chat.completion.chunk" } else { "text_completion" });
                end["choices"] = json!([]);
                end["usage"] = usage;
                vec![last, end]
            }
            Event::Failed(..) => Vec::new(),
        }
    }

    /// Takes an event in; the response once the answer is over.
    pub fn response(&mut self, tokenizer: &Tokenizer, event: &Event) -> Option<Value> {
        match event {
            Event::Token(_, token) => {
                self.text.push_str(&token.text);
                if let Some(list) = &mut self.logprobs {
                    list.push(entry(tokenizer, token));
                }
                None
            }
            Event::Done(_, done) => {
                self.text.push_str(&done.text);
                let logprobs = self.logprobs.take().map(|list| self.logprobs(list));
                let text = std::mem::take(&mut self.text);
                let mut choice = match self.chat {
                    true => json!({"index": 0, "message": {"role": "assistant", "content": text}}),
                    false => json!({"index": 0, "text": text}),
                };
                choice["logprobs"] = logprobs.unwrap_or(Value::Null);
                choice["finish_reason"] = done.reason.name().into();
                let mut response = self.envelope(if self.chat { "chat.completion" } else { "text_completion" });
                response["choices"] = json!([choice]);
                response["usage"] = usage(&done.usage);
                Some(response)
            }
            Event::Failed(..) => None,
        }
    }

    fn envelope(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    fn chunk(&mut self, text: &str, logprobs: Option<Value>, finish: Option<FinishReason>) -> Value {
        let mut choice = json!({"index": 0});
        if self.chat {
            let mut delta = Map::new();
            if !self.begun {
                delta.insert("role".into(), "assistant".into());
            }
            if !text.is_empty() || !self.begun {
                delta.insert("content".into(), text.into());
            }
            choice["delta"] = delta.into();
        } else {
            choice["text"] = text.into();
        }
        self.begun = true;
        choice["logprobs"] = logprobs.unwrap_or(Value::Null);
        choice["finish_reason"] = finish.map_or(Value::Null, |f| f.name().into());
        let mut chunk = self.envelope(if self.chat { "chat.completion.chunk" } else { "text_completion" });
        chunk["choices"] = json!([choice]);
        chunk
    }

    /// Entries of tokens in the form of this interface.
    fn logprobs(&self, entries: Vec<Value>) -> Value {
        if self.chat {
            return json!({"content": entries});
        }
        let column = |key: &str| entries.iter().map(|e| e[key].clone()).collect::<Vec<_>>();
        let top = entries.iter().map(|e| {
            let alternatives = e["top_logprobs"].as_array().into_iter().flatten();
            let pairs =
                alternatives.map(|a| (a["token"].as_str().unwrap_or_default().to_string(), a["logprob"].clone()));
            Value::Object(pairs.collect())
        });
        let top: Vec<Value> = top.collect();
        json!({"tokens": column("token"), "token_logprobs": column("logprob"), "top_logprobs": top})
    }
}

/// A token with its log-probabilities, in the form of chat completions.
fn entry(tokenizer: &Tokenizer, token: &TokenEvent) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": &*bytes})
    };
    let (logprob, top) = token.logprobs.as_ref().map_or((0.0, &[][..]), |(own, top)| (*own, top));
    let mut value = one(token.token, logprob);
    value["top_logprobs"] = top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
    value
}

/// `usage`, with times beside OpenAI's fields.
pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
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

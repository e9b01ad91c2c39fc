//! Requests in OpenAI's JSON: which fields there are, and what becomes of each.
//!
//! A field is honoured, or passed over because it says nothing about the answer, or refused by its name: [`Body::set`] is the
//! list. Null is the same as no field, as many clients send nulls.

use super::contrast::{Contrasted, OtherPrompt, contrasted};
use super::fields::{count, flag, integer, json_of, list, number, object, only_if, parsed, text, token, wrong};
use super::{form, message};
use crate::chat::{CallRules, Message};
use crate::engine::{Overflow, Request};
use crate::error::{Error, Result};
use crate::sample::{Constraint, Params};
use serde_json::{Map, Value};

/// Texts that end a repetition for DRY where a request has DRY and names none.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Most choices of a prompt.
const MOST_CHOICES: usize = 128;

/// Most alternatives of `top_logprobs` and `logprobs`.
const MOST_LOGPROBS: usize = 20;

/// A request for a chat completion or a completion: `messages` or `prompt`.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The conversation (chat completions).
    pub messages: Option<Vec<Message>>,
    /// What to go on with (completions); each prompt has a choice in the answer.
    pub prompts: Option<Vec<Prompt>>,
    /// Name that answers carry.
    pub model: Option<String>,
    /// Whether chunks are wanted.
    pub stream: bool,
    /// Whether a stream ends with a chunk that has the usage and no choice.
    pub include_usage: bool,
    /// Tools for the chat template.
    pub tools: Option<Value>,
    /// Further variables for the chat template (`chat_template_kwargs`).
    pub variables: Option<Map<String, Value>>,
    /// Makes choices repeatable.
    pub seed: Option<u64>,
    /// Choices of each prompt.
    pub choices: usize,
    /// Whether an answer has one call of a tool at most.
    pub one_call: bool,
    /// Which calls the answer makes, where that is not left to the model (`tool_choice`, strict tools).
    pub calls: Option<CallRules>,
    /// How much the model thinks (`reasoning_effort`).
    pub effort: Option<String>,
    /// Most tokens of a thought.
    pub thinking_token_budget: Option<usize>,
    /// Texts whose tokens end a repetition for DRY.
    pub breakers: Option<Vec<String>>,
    /// What the answer is expected to be.
    pub prediction: Option<String>,
    /// What the answer is to differ from.
    pub contrast: Option<Contrasted>,
    /// How the prompt of a chat ends.
    pub ending: Ending,
    /// What becomes of a chat that is longer than the context.
    pub overflow: Overflow,
    /// What the answer has to look like.
    pub constraint: Option<Constraint>,
    /// What the engine is asked, but for prompt and seed.
    pub request: Request,
}

/// How the prompt of a chat ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Where the assistant begins to answer.
    #[default]
    Answer,
    /// Behind the last message (`add_generation_prompt: false`).
    Message,
    /// In the last message, which is gone on with (`continue_final_message`).
    Within,
}

/// The prompt of a completion.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Text; BOS is added where the model wants one.
    Text(String),
    /// Tokens, as they are.
    Tokens(Vec<u32>),
}

/// Fields that mean something only together with others.
#[derive(Default)]
struct Together {
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    top_logprobs: Option<usize>,
    /// `tool_choice: "none"`
    without_tools: bool,
    best_of: Option<usize>,
    no_generation_prompt: bool,
    continues: bool,
    stop_at_repetition: Option<bool>,
    /// Any field of DRY.
    has_dry: bool,
}

impl Body {
    /// Parses a request.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] with the parser's words, or as [`Body::from_value`].
    pub fn parse(json: &str) -> Result<Body> {
        Body::from_value(&json_of(json)?)
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] that names the field which is wrong or cannot be honoured.
    pub fn from_value(value: &Value) -> Result<Body> {
        Body::over(value, &Params::default())
    }

    /// Reads a request; `defaults` are the settings that it need not name.
    ///
    /// # Errors
    /// As [`Body::from_value`].
    pub fn over(value: &Value, defaults: &Params) -> Result<Body> {
        let fields = value.as_object().ok_or_else(|| Error::invalid_request("the request is no JSON object"))?;
        let (mut body, mut together) = (Body { choices: 1, ..Body::default() }, Together::default());
        body.request.params = defaults.clone();
        together.has_dry = fields.iter().any(|(name, value)| name.starts_with("dry_") && !value.is_null());
        if together.has_dry {
            body.without_dry();
        }
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            body.set(name, value, &mut together)?;
        }
        body.join(together)?;
        Ok(body)
    }

    /// Takes a field. Here, and only here, it is decided which there are.
    fn set(&mut self, name: &str, value: &Value, together: &mut Together) -> Result<()> {
        let Request { params, .. } = &mut self.request;
        match name {
            "messages" => self.messages = Some(message::messages(value, name)?),
            "prompt" => self.prompts = Some(prompts(value, name)?),
            "model" => self.model = Some(text(value, name)?.to_string()),
            "stream" => self.stream = flag(value, name)?,
            "stream_options" => self.include_usage = include_usage(value)?,
            "max_tokens" => together.max_tokens = Some(count(value, name)?),
            "max_completion_tokens" => together.max_completion_tokens = Some(count(value, name)?),
            "stop" => self.request.stop = texts(value, name)?,
            "temperature" => params.temperature = number(value, name)?,
            "top_p" => params.top_p = number(value, name)?,
            "top_k" => params.top_k = count(value, name)?,
            "min_p" => params.min_p = number(value, name)?,
            "typical_p" => params.typical_p = number(value, name)?,
            "repetition_penalty" => params.repetition_penalty = number(value, name)?,
            "presence_penalty" => params.presence_penalty = number(value, name)?,
            "frequency_penalty" => params.frequency_penalty = number(value, name)?,
            "logit_bias" => params.logit_bias = logit_bias(value)?,
            // A negative seed counts by its bits.
            "seed" => self.seed = Some(value.as_u64().map_or_else(|| integer(value, name).map(|n| n as u64), Ok)?),
            "logprobs" => self.request.logprobs = logprobs(value)?,
            "top_logprobs" => together.top_logprobs = Some(alternatives(value, name)?),
            "tools" => self.tools = message::tools(value)?,
            "chat_template_kwargs" => self.variables = Some(object(value, name)?.clone()),
            "dry_multiplier" => {
                params.dry_multiplier = number(value, name)?;
                self.breakers.get_or_insert_with(|| BREAKERS.map(str::to_owned).to_vec());
            }
            "dry_base" => params.dry_base = number(value, name)?,
            "dry_allowed_length" => params.dry_allowed_length = count(value, name)?,
            "dry_penalty_last_n" => params.dry_range = usize::try_from(integer(value, name)?).unwrap_or(usize::MAX),
            "dry_sequence_breakers" => self.breakers = Some(texts(value, name)?),
            "top_n_sigma" => params.top_n_sigma = number(value, name)?.max(0.0),
            "xtc_probability" => params.xtc_probability = number(value, name)?,
            "xtc_threshold" => params.xtc_threshold = number(value, name)?,
            "dynatemp_range" => params.dynatemp_range = number(value, name)?,
            "dynatemp_exponent" => params.dynatemp_exponent = number(value, name)?,
            "mirostat" => {
                let version = count(value, name)?;
                only_if(version == 0 || version == 2, name, "must be 0 or 2; version 1 is not there")?;
                params.mirostat = version == 2;
            }
            "mirostat_tau" => params.mirostat_tau = number(value, name)?,
            "mirostat_eta" => params.mirostat_eta = number(value, name)?,
            "stop_at_repetition" => together.stop_at_repetition = Some(flag(value, name)?),
            "prediction" => self.prediction = Some(message::prediction(value)?),
            "contrast" => self.contrast = Some(contrasted(value)?),
            "n" => self.choices = count(value, name)?,
            "tool_choice" => match value.as_str() {
                Some("none") => together.without_tools = true,
                _ => self.calls = message::tool_choice(value)?,
            },
            "parallel_tool_calls" => self.one_call = !flag(value, name)?,
            "reasoning_effort" => self.effort = Some(effort(value, name)?.to_string()),
            "thinking_token_budget" => self.thinking_token_budget = Some(count(value, name)?),
            "add_generation_prompt" => together.no_generation_prompt = !flag(value, name)?,
            "continue_final_message" => together.continues = flag(value, name)?,
            "overflow" => self.overflow = parsed(value, name)?,
            "response_format" => self.constrain(form::response_format(value)?, name)?,
            "grammar" => self.constrain(Some(Constraint::Lark(text(value, name)?.to_string())), name)?,
            "regex" => self.constrain(Some(Constraint::Regex(text(value, name)?.to_string())), name)?,
            "ignore_eos" => self.request.ignore_eos = flag(value, name)?,
            "priority" => {
                let n = integer(value, name)?;
                self.request.priority = n.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            }
            "prefill" => self.request.prefill = Some(parsed(value, name)?),
            "speculate" => self.request.plain = !flag(value, name)?,

            // These would change the answer, and cannot be honoured: only the value that changes nothing passes.
            "best_of" => together.best_of = Some(count(value, name)?),
            "functions" => only_if(value.as_array().is_some_and(Vec::is_empty), name, "give tools instead")?,
            "function_call" => only_if(value == "auto" || value == "none", name, "no function can be forced")?,
            "modalities" => {
                let text_only = value.as_array().is_some_and(|list| list.iter().all(|m| m == "text"));
                only_if(text_only, name, "answers are text; no other is made")?;
            }
            "echo" => only_if(!flag(value, name)?, name, "the prompt is not part of the answer")?,
            "suffix" => only_if(text(value, name)?.is_empty(), name, "nothing is filled in before a text")?,
            "verbosity" => only_if(value == "medium", name, "how much is said cannot be set")?,
            "audio" => return Err(wrong(name, "answers are text; no other is made")),
            "moderation" => return Err(wrong(name, "nothing is moderated here")),
            "web_search_options" => return Err(wrong(name, "nothing is looked up in the web")),

            // These are for OpenAI's own service, and change nothing about the answer.
            "user"
            | "metadata"
            | "store"
            | "service_tier"
            | "safety_identifier"
            | "prompt_cache_key"
            | "prompt_cache_options"
            | "prompt_cache_retention" => {}

            _ => return Err(wrong(name, "there is no such field; is it misspelt?")),
        }
        Ok(())
    }

    /// A request that says something of DRY says all of it.
    fn without_dry(&mut self) {
        let Params { dry_multiplier, dry_base, dry_allowed_length, dry_range, dry_breakers, .. } = Params::default();
        let params = self.request.params.clone();
        self.request.params =
            Params { dry_multiplier, dry_base, dry_allowed_length, dry_range, dry_breakers, ..params };
    }

    /// Says what the answer has to look like.
    fn constrain(&mut self, constraint: Option<Constraint>, name: &str) -> Result<()> {
        let one = self.constraint.is_none() || constraint.is_none();
        only_if(one, name, "an answer has one form; give one of response_format, grammar and regex")?;
        self.constraint = constraint.or(self.constraint.take());
        Ok(())
    }

    /// What follows from several fields.
    fn join(&mut self, fields: Together) -> Result<()> {
        let Together { max_tokens, max_completion_tokens, top_logprobs, without_tools, .. } = fields;
        if self.messages.is_some() && self.prompts.is_some() {
            return Err(wrong("prompt", "a request has messages or a prompt, not both"));
        }
        if let (Some(old), Some(new)) = (max_tokens, max_completion_tokens) {
            only_if(old == new, "max_tokens", "max_completion_tokens is another number; give one of them")?;
        }
        self.request.max_tokens = max_completion_tokens.or(max_tokens);
        let name = if max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        only_if(self.request.max_tokens != Some(0), name, "an answer has at least 1 token")?;
        match (&mut self.request.logprobs, top_logprobs) {
            (_, None) | (None, Some(0)) => {}
            (Some(alternatives), Some(n)) => *alternatives = n,
            (None, Some(_)) => return Err(wrong("top_logprobs", "logprobs must be true with it")),
        }
        if without_tools {
            self.tools = None;
        }
        if self.calls.is_none() && self.tools.as_ref().and_then(message::first_strict).is_some() {
            self.calls = Some(CallRules::default());
        }
        if let Some(calls) = &mut self.calls {
            calls.one |= self.one_call;
            let tools = self.tools.as_ref().and_then(Value::as_array);
            let known = |name: &String| tools.is_some_and(|t| t.iter().any(|tool| tool["function"]["name"] == **name));
            let all = tools.is_some() && calls.names.iter().all(known);
            only_if(all, "tool_choice", "there is no such tool; tools lists those that there are")?;
            let what =
                "an answer has one form; a call that is forced is one, so leave response_format, grammar and regex out";
            only_if(self.constraint.is_none() || !calls.required, "tool_choice", what)?;
        }
        only_if((1..=MOST_CHOICES).contains(&self.choices), "n", "must be from 1 to 128")?;
        let best = fields.best_of.is_none_or(|best_of| best_of == self.choices);
        only_if(best, "best_of", "must be n: no answer is thrown away")?;
        self.ending = match (fields.continues, fields.no_generation_prompt) {
            (true, _) => Ending::Within,
            (false, true) => Ending::Message,
            _ => Ending::Answer,
        };
        // Whoever asks for the most probable tokens gets them, unless a request has DRY of its own.
        if self.request.params.temperature == 0.0 && !fields.has_dry {
            self.without_dry();
        }
        // A benchmark's answer may be what it likes; so may a text that is gone on with, but a form has an end.
        let by_default = (self.messages.is_some() || self.constraint.is_some()) && !self.request.ignore_eos;
        self.request.stop_at_repetition = fields.stop_at_repetition.unwrap_or(by_default);
        let chat = self.messages.is_some();
        only_if(chat || self.tools.is_none(), "tools", "only a chat has tools; give messages")?;
        let alike =
            self.contrast.as_ref().is_none_or(|contrasted| matches!(contrasted.from, OtherPrompt::Messages(_)) == chat);
        only_if(alike, "contrast", "a chat differs from other messages, a completion from another prompt")?;
        for (name, unset) in [
            ("chat_template_kwargs", self.variables.is_none()),
            ("reasoning_effort", self.effort.is_none()),
            ("thinking_token_budget", self.thinking_token_budget.is_none()),
            ("continue_final_message", !fields.continues),
            ("add_generation_prompt", !fields.no_generation_prompt),
            ("overflow", self.overflow == Overflow::Error),
        ] {
            only_if(chat || unset, name, "only for a chat; give messages")?;
        }
        Ok(())
    }

    /// Whether the answer has to look like something.
    pub fn is_constrained(&self) -> bool {
        self.constraint.is_some() || self.calls.is_some()
    }

    /// Number of choices in the answer.
    pub(super) fn n_choices(&self) -> usize {
        self.prompts.as_ref().map_or(1, Vec::len).saturating_mul(self.choices.max(1))
    }
}

/// A string or tokens, or several of them.
pub(super) fn prompts(value: &Value, name: &str) -> Result<Vec<Prompt>> {
    let tokens = |value: &Value, at: &str| list(value, at)?.map(|(t, at)| token(t, &at)).collect::<Result<_>>();
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(all) if all.first().is_some_and(Value::is_number) => {
            Ok(vec![Prompt::Tokens(tokens(value, name)?)])
        }
        _ => list(value, name)?
            .map(|(one, at)| match one {
                Value::Array(_) => tokens(one, &at).map(Prompt::Tokens),
                _ => Ok(Prompt::Text(text(one, at)?.to_string())),
            })
            .collect(),
    }
}

/// One text or several.
fn texts(value: &Value, at: &str) -> Result<Vec<String>> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(texts) if texts.is_empty() => Ok(Vec::new()),
        _ => list(value, at)?.map(|(one, at)| Ok(text(one, at)?.to_string())).collect(),
    }
}

fn include_usage(value: &Value) -> Result<bool> {
    let mut include_usage = false;
    for (name, value) in object(value, "stream_options")?.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "include_usage" => include_usage = flag(value, "stream_options.include_usage")?,
            // Padding against listeners on the line.
            "include_obfuscation" => {}
            _ => return Err(wrong(format!("stream_options.{name}"), "there is no such field; is it misspelt?")),
        }
    }
    Ok(include_usage)
}

/// Token ids (as text) to what is added to their logits.
fn logit_bias(value: &Value) -> Result<Vec<(u32, f32)>> {
    let bias = |(id, bias): (&String, &Value)| {
        let at = format!("logit_bias.{id}");
        let id = id.parse().map_err(|_| wrong(&at, "the name is no token number"))?;
        Ok((id, number(bias, &at)?))
    };
    object(value, "logit_bias")?.iter().map(bias).collect()
}

/// `true` for chat completions, a number of alternatives for completions.
fn logprobs(value: &Value) -> Result<Option<usize>> {
    match value.as_bool() {
        Some(wanted) => Ok(wanted.then_some(0)),
        None => alternatives(value, "logprobs").map(Some),
    }
}

/// How much a model thinks, in OpenAI's words.
fn effort<'a>(value: &'a Value, at: &str) -> Result<&'a str> {
    const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    let effort = text(value, at)?;
    only_if(EFFORTS.contains(&effort), at, &format!("must be one of {}", EFFORTS.join(", "))).map(|()| effort)
}

/// How many alternatives of a token are listed.
fn alternatives(value: &Value, at: &str) -> Result<usize> {
    let n = count(value, at)?;
    only_if(n <= MOST_LOGPROBS, at, "at most 20 alternatives of a token can be listed").map(|()| n)
}

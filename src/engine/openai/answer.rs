//! Events of the engine to chunks and responses.

use super::super::{Event, Request, TokenEvent, Usage};
use super::choice::{Choice, Delta};
use super::prepare::Asked;
use super::{Body, Stamp, usage};
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Turns the events of a body's requests, one a choice, into chunks or into one response.
#[derive(Debug)]
pub(super) struct Answer {
    id: String,
    model: String,
    created: u64,
    chat: bool,
    include_usage: bool,
    /// Choices of a prompt.
    n: usize,
    choices: Vec<Choice>,
    /// Of the choices that are over.
    usage: Usage,
    /// Tokens of thoughts in them.
    reasoning_tokens: usize,
    /// Messages that were left out of the prompt.
    dropped: usize,
}

impl Answer {
    /// For a body. `model` is the name where the body has none.
    pub(super) fn new(body: &Body, stamp: &Stamp<'_>, model: &str) -> Self {
        let chat = body.messages.is_some();
        let logprobs = body.request.logprobs.is_some();
        Answer {
            id: format!("{}-{}", if chat { "chatcmpl" } else { "cmpl" }, stamp.id),
            model: body.model.clone().unwrap_or_else(|| model.to_string()),
            created: stamp.created,
            chat,
            include_usage: body.include_usage,
            n: body.choices.max(1),
            choices: (0..body.n_choices()).map(|i| Choice::new(stamp.id, i, logprobs, body.one_call)).collect(),
            usage: Usage::default(),
            reasoning_tokens: 0,
            dropped: 0,
        }
    }

    /// Takes note of what is asked, one request a choice, and of what tells thoughts and calls from text; returns the requests.
    pub(super) fn of(&mut self, asked: Vec<Asked>) -> Vec<Request> {
        let take = |(choice, Asked { request, reader, dropped }): (&mut Choice, Asked)| {
            choice.read_by(reader);
            self.dropped = dropped;
            request
        };
        self.choices.iter_mut().zip(asked).map(take).collect()
    }

    /// The chunks that an event of choice `index` makes; none for failures.
    pub(super) fn chunks(&mut self, tokenizer: &Tokenizer, index: usize, event: &Event) -> Vec<Value> {
        match event {
            Event::Token(_, token) => {
                let deltas = self.choices[index].token(token);
                let logprobs = token.logprobs.as_ref().map(|_| self.logprobs(vec![entry(tokenizer, token)]));
                if deltas.is_empty() && logprobs.is_none() && self.choices[index].begun {
                    return Vec::new();
                }
                self.chunks_of(index, deltas, logprobs)
            }
            Event::Done(_, done) => {
                let deltas = self.choices[index].end(&done.text, &done.accepted, done.reason);
                let mut chunks = self.chunks_of(index, deltas, None);
                if let Some(last) = chunks.last_mut() {
                    self.choices[index].say_why(&mut last["choices"][0]);
                }
                if !self.end(index, done.usage) {
                    return chunks;
                }
                if self.include_usage {
                    let mut end = self.envelope(if self.chat { "chat.completion.chunk" } else { "text_completion" });
                    end["choices"] = json!([]);
                    chunks.push(end);
                }
                if let Some(last) = chunks.last_mut() {
                    last["usage"] = self.usage();
                }
                chunks
            }
            Event::Failed(..) => Vec::new(),
        }
    }

    /// Takes an event of choice `index` in; the response once all choices are over.
    pub(super) fn response(&mut self, tokenizer: &Tokenizer, index: usize, event: &Event) -> Option<Value> {
        let choice = &mut self.choices[index];
        let deltas = match event {
            Event::Token(_, token) => {
                if let Some(list) = &mut choice.logprobs {
                    list.push(entry(tokenizer, token));
                }
                choice.token(token)
            }
            Event::Done(_, done) => choice.end(&done.text, &done.accepted, done.reason),
            Event::Failed(..) => return None,
        };
        deltas.into_iter().for_each(|(delta, _)| choice.add(delta));
        match event {
            Event::Done(_, done) => self.end(index, done.usage).then(|| self.whole()),
            _ => None,
        }
    }

    /// Notes the end of a choice; whether it was the last one.
    fn end(&mut self, index: usize, mut usage: Usage) -> bool {
        // Of several choices of a prompt, one has read it.
        if !index.is_multiple_of(self.n) {
            (usage.prompt_tokens, usage.cached_tokens, usage.predicted_tokens) = (0, 0, 0);
        }
        self.usage.join(usage);
        self.reasoning_tokens += self.choices[index].reasoning_tokens;
        self.choices.iter().all(|c| c.finish.is_some())
    }

    fn usage(&self) -> Value {
        let mut usage = usage(&self.usage);
        usage["completion_tokens_details"]["reasoning_tokens"] = self.reasoning_tokens.into();
        if self.dropped > 0 {
            usage["prompt_tokens_details"]["dropped_messages"] = self.dropped.into();
        }
        usage
    }

    fn whole(&mut self) -> Value {
        let mut choices = Vec::new();
        for (index, mut choice) in std::mem::take(&mut self.choices).into_iter().enumerate() {
            let logprobs = choice.logprobs.take().map(|list| self.logprobs(list));
            let mut value = match self.chat {
                true => json!({"index": index, "message": choice.take_message()}),
                false => json!({"index": index, "text": choice.take_text()}),
            };
            value["logprobs"] = logprobs.unwrap_or(Value::Null);
            choice.say_why(&mut value);
            choices.push(value);
        }
        let mut response = self.envelope(if self.chat { "chat.completion" } else { "text_completion" });
        response["choices"] = choices.into();
        response["usage"] = self.usage();
        response
    }

    fn envelope(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    /// A chunk for each delta; what is said besides is in the last one.
    fn chunks_of(&mut self, index: usize, deltas: Vec<(Delta, bool)>, logprobs: Option<Value>) -> Vec<Value> {
        let mut chunks: Vec<Value> =
            deltas.into_iter().map(|(delta, accepted)| self.chunk(index, Some(delta), accepted)).collect();
        if chunks.is_empty() {
            chunks.push(self.chunk(index, None, false));
        }
        if let (Some(last), Some(logprobs)) = (chunks.last_mut(), logprobs) {
            last["choices"][0]["logprobs"] = logprobs;
        }
        chunks
    }

    fn chunk(&mut self, index: usize, delta: Option<Delta>, accepted: bool) -> Value {
        let mut value = json!({"index": index});
        if accepted {
            value["accepted"] = true.into();
        }
        let choice = &mut self.choices[index];
        if self.chat {
            value["delta"] = choice.delta_object(delta).into();
        } else {
            choice.begun = true;
            value["text"] = delta.map_or("".into(), |delta| delta.field().1);
        }
        value["logprobs"] = Value::Null;
        value["finish_reason"] = Value::Null;
        let mut chunk = self.envelope(if self.chat { "chat.completion.chunk" } else { "text_completion" });
        chunk["choices"] = json!([value]);
        chunk
    }

    /// Entries of tokens in the form of this interface.
    fn logprobs(&self, entries: Vec<Value>) -> Value {
        if self.chat {
            return json!({"content": entries, "refusal": null});
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

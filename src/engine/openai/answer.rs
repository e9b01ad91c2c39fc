//! Events of the engine to chunks and responses.

use super::super::{Done, Event, FinishReason, TokenEvent, Usage};
use super::{Body, usage};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Turns the events of a body's requests, one a choice, into chunks or into one response.
#[derive(Debug)]
pub struct Answer {
    id: String,
    model: String,
    created: u64,
    chat: bool,
    include_usage: bool,
    choices: Vec<Choice>,
    /// Of the choices that are over.
    usage: Usage,
}

#[derive(Debug)]
struct Choice {
    begun: bool,
    text: String,
    logprobs: Option<Vec<Value>>,
    finish: Option<FinishReason>,
}

impl Answer {
    /// For a body. `id` is unique, `model` the name where the body has none, `created` in seconds since 1970.
    pub fn new(body: &Body, id: &str, model: &str, created: u64) -> Self {
        let chat = body.messages.is_some();
        let choice = || Choice {
            begun: false,
            text: String::new(),
            logprobs: body.n_logprobs().map(|_| Vec::new()),
            finish: None,
        };
        Answer {
            id: format!("{}-{id}", if chat { "chatcmpl" } else { "cmpl" }),
            model: body.model.clone().unwrap_or_else(|| model.to_string()),
            created,
            chat,
            include_usage: body.stream_options.is_some_and(|o| o.include_usage),
            choices: (0..body.n_prompts()).map(|_| choice()).collect(),
            usage: Usage::default(),
        }
    }

    /// The chunks that an event of choice `index` makes; none for failures.
    pub fn chunks(&mut self, tokenizer: &Tokenizer, index: usize, event: &Event) -> Vec<Value> {
        match event {
            Event::Token(_, token) => {
                let logprobs = token.logprobs.as_ref().map(|_| self.logprobs(vec![entry(tokenizer, token)]));
                if token.text.is_empty() && logprobs.is_none() && self.choices[index].begun {
                    return Vec::new();
                }
                self.chunks_of(index, (&token.text, &token.accepted), logprobs, None)
            }
            Event::Done(_, done) => {
                let mut chunks = self.chunks_of(index, (&done.text, &done.accepted), None, Some(done.reason));
                if !self.end(index, done) {
                    return chunks;
                }
                if self.include_usage {
                    let mut end = self.envelope(if self.chat { "chat.completion.chunk" } else { "text_completion" });
                    end["choices"] = json!([]);
                    chunks.push(end);
                }
                if let Some(last) = chunks.last_mut() {
                    last["usage"] = usage(&self.usage);
                }
                chunks
            }
            Event::Failed(..) => Vec::new(),
        }
    }

    /// Takes an event of choice `index` in; the response once all choices are over.
    pub fn response(&mut self, tokenizer: &Tokenizer, index: usize, event: &Event) -> Option<Value> {
        match event {
            Event::Token(_, token) => {
                let choice = &mut self.choices[index];
                choice.text.push_str(&token.text);
                if let Some(list) = &mut choice.logprobs {
                    list.push(entry(tokenizer, token));
                }
                None
            }
            Event::Done(_, done) => {
                self.choices[index].text.push_str(&done.text);
                self.end(index, done).then(|| self.whole())
            }
            Event::Failed(..) => None,
        }
    }

    /// Notes the end of a choice; whether it was the last one.
    fn end(&mut self, index: usize, done: &Done) -> bool {
        self.choices[index].finish = Some(done.reason);
        self.usage.join(done.usage);
        self.choices.iter().all(|c| c.finish.is_some())
    }

    fn whole(&mut self) -> Value {
        let mut choices = Vec::new();
        for (index, choice) in std::mem::take(&mut self.choices).into_iter().enumerate() {
            let logprobs = choice.logprobs.map(|list| self.logprobs(list));
            let mut value = match self.chat {
                true => json!({"index": index, "message": {"role": "assistant", "content": choice.text}}),
                false => json!({"index": index, "text": choice.text}),
            };
            value["logprobs"] = logprobs.unwrap_or(Value::Null);
            value["finish_reason"] = choice.finish.map_or(Value::Null, |f| f.name().into());
            choices.push(value);
        }
        let mut response = self.envelope(if self.chat { "chat.completion" } else { "text_completion" });
        response["choices"] = choices.into();
        response["usage"] = usage(&self.usage);
        response
    }

    fn envelope(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    /// A chunk for each piece of the text; what is said besides is in the last one.
    fn chunks_of(
        &mut self,
        index: usize,
        (text, accepted): (&str, &[Range<usize>]),
        logprobs: Option<Value>,
        finish: Option<FinishReason>,
    ) -> Vec<Value> {
        let mut pieces = pieces(text, accepted);
        let last = pieces.pop().unwrap_or_default();
        let mut chunks: Vec<Value> = pieces.into_iter().map(|piece| self.chunk(index, piece, None, None)).collect();
        chunks.push(self.chunk(index, last, logprobs, finish));
        chunks
    }

    fn chunk(
        &mut self,
        index: usize,
        (text, accepted): (&str, bool),
        logprobs: Option<Value>,
        finish: Option<FinishReason>,
    ) -> Value {
        let mut choice = json!({"index": index});
        if accepted {
            choice["accepted"] = true.into();
        }
        let begun = std::mem::replace(&mut self.choices[index].begun, true);
        if self.chat {
            let mut delta = Map::new();
            if !begun {
                delta.insert("role".into(), "assistant".into());
            }
            if !text.is_empty() || !begun {
                delta.insert("content".into(), text.into());
            }
            choice["delta"] = delta.into();
        } else {
            choice["text"] = text.into();
        }
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

/// Cuts a text into pieces that accepted guesses wrote (`true`), and such that they did not.
fn pieces<'a>(text: &'a str, accepted: &[Range<usize>]) -> Vec<(&'a str, bool)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for stretch in accepted {
        pieces.push((&text[at..stretch.start], false));
        pieces.push((&text[stretch.clone()], true));
        at = stretch.end;
    }
    pieces.push((&text[at..], false));
    pieces.retain(|(piece, _)| !piece.is_empty());
    pieces
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

//! All bodies that one engine is answering.

use super::super::{Engine, Event, Request, RequestId};
use super::{Answer, Body};
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;

/// Bodies go in, replies come out; between them lie the engine's requests and events.
#[derive(Debug, Default)]
pub struct Answers {
    /// The body of each request, by the body's first request, and the request's place among its choices.
    choices: HashMap<RequestId, (RequestId, usize)>,
    open: HashMap<RequestId, Open>,
}

#[derive(Debug)]
struct Open {
    answer: Answer,
    stream: bool,
    requests: Vec<RequestId>,
}

/// A response, a chunk of one, or why there is none.
#[derive(Debug)]
pub struct Reply {
    /// What [`Answers::submit`] gave.
    pub id: RequestId,
    /// In the shape of OpenAI's API.
    pub value: Result<Value>,
    /// Whether nothing comes after it.
    pub done: bool,
}

impl Answers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bodies under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no body is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Queues a body. `answer` is made of it; `seed` is taken where it has none.
    ///
    /// # Errors
    /// See [`Body::request`] and [`Engine::submit`].
    pub fn submit(
        &mut self,
        engine: &mut Engine,
        body: &Body,
        template: Result<&ChatTemplate>,
        answer: Answer,
        seed: u64,
    ) -> Result<RequestId> {
        let requests = body.request(engine, template, seed)?;
        self.submit_requests(engine, requests, answer, body.stream == Some(true))
    }

    /// Queues requests, one for each choice of `answer`.
    ///
    /// # Errors
    /// See [`Engine::submit`]; none is queued then.
    pub fn submit_requests(
        &mut self,
        engine: &mut Engine,
        requests: Vec<Request>,
        answer: Answer,
        stream: bool,
    ) -> Result<RequestId> {
        let mut ids = Vec::new();
        for request in requests {
            match engine.submit(request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| engine.cancel(id));
                    return Err(error);
                }
            }
        }
        let Some(&first) = ids.first() else { return Err(Error::invalid_request("the request has no prompt")) };
        self.choices.extend(ids.iter().enumerate().map(|(i, &id)| (id, (first, i))));
        self.open.insert(first, Open { answer, stream, requests: ids });
        Ok(first)
    }

    /// Ends the requests of a body; the next step's events say so.
    pub fn cancel(&self, engine: &mut Engine, id: RequestId) {
        self.open.get(&id).into_iter().flat_map(|open| &open.requests).for_each(|&id| engine.cancel(id));
    }

    /// Takes an event in. After a failure of one choice, the others are cancelled.
    pub fn take(&mut self, engine: &mut Engine, event: Event, replies: &mut Vec<Reply>) {
        let (request, over) = match &event {
            Event::Token(id, _) => (*id, false),
            Event::Done(id, _) | Event::Failed(id, _) => (*id, true),
        };
        let Some(&(id, index)) = self.choices.get(&request) else { return };
        if over {
            self.choices.remove(&request);
        }
        if let Event::Failed(_, error) = event {
            for other in self.open.remove(&id).into_iter().flat_map(|open| open.requests) {
                self.choices.remove(&other);
                engine.cancel(other);
            }
            return replies.push(Reply { id, value: Err(error), done: true });
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        let last = over && !open.requests.iter().any(|r| self.choices.contains_key(r));
        let tokenizer = engine.tokenizer();
        if open.stream {
            let chunks = open.answer.chunks(tokenizer, index, &event);
            let n = chunks.len();
            let reply = |(value, i)| Reply { id, value: Ok(value), done: last && i == n };
            replies.extend(chunks.into_iter().zip(1..).map(reply));
        } else if let Some(value) = open.answer.response(tokenizer, index, &event) {
            replies.push(Reply { id, value: Ok(value), done: true });
        }
        if last {
            self.open.remove(&id);
        }
    }
}

//! One service for all doors: requests go in as OpenAI's JSON, replies come out; between them lie the engine's requests and
//! events.

use super::super::{Engine, Event, Request, RequestId};
use super::answer::Answer;
use super::embeddings::{Reading, is_reading};
use super::fields::json_of;
use super::{Body, Prepared, Preparer};
use crate::chat::ChatTemplate;
use crate::error::{Error, Kind, Result};
use crate::sample::{Compiler, Params};
use crate::speculate::Mode;
use crate::speculate::draft::Ngram;
use serde_json::Value;
use std::collections::HashMap;

/// An engine that is asked and answers in OpenAI's JSON. [`Service::submit`] queues, [`Service::step`] works.
pub struct Service {
    engine: Engine,
    preparer: Preparer,
    /// Whether only requests with a prediction are guessed for.
    only_predictions: bool,
    /// The body of each request, by the body's first request, and the request's place among its choices.
    choices: HashMap<RequestId, (RequestId, usize)>,
    open: HashMap<RequestId, Open>,
    /// Requests for embeddings and scores, the oldest first.
    readings: Vec<(RequestId, Reading)>,
    events: Vec<Event>,
    replies: Vec<Reply>,
}

/// A body under way.
struct Open {
    answer: Answer,
    stream: bool,
    requests: Vec<RequestId>,
}

/// What a request gets from the door that it came through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp<'a> {
    /// Unique; part of the answer's `id`.
    pub id: &'a str,
    /// `created` of the answer, in seconds since 1970.
    pub created: u64,
    /// Taken where the request has none.
    pub seed: u64,
}

/// A response, a chunk of one, or why there is none.
#[derive(Debug)]
pub struct Reply {
    /// What [`Service::submit`] gave.
    pub id: RequestId,
    /// In the shape of OpenAI's API; [`super::error_body`] gives an error that shape.
    pub value: Result<Value>,
    /// Whether nothing comes after it.
    pub done: bool,
}

impl Service {
    /// A service over `engine`. Without a `template` its error answers chats; completions work all the same. Answers carry
    /// `name` where a request names no model.
    pub fn new(engine: Engine, template: Result<ChatTemplate>, name: &str) -> Self {
        Service {
            preparer: Preparer::new(&engine, template, name),
            engine,
            only_predictions: false,
            choices: HashMap::new(),
            open: HashMap::new(),
            readings: Vec::new(),
            events: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be set up; requests submitted to it directly are answered to nobody.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The chat template, or why there is none.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.preparer.template()
    }

    /// What prepares requests for this service, also on another thread.
    pub fn preparer(&self) -> &Preparer {
        &self.preparer
    }

    /// Sets what requests in JSON are read over: [`super::makers_settings`], say.
    pub fn set_defaults(&mut self, params: Params) {
        self.preparer.defaults = params;
    }

    /// Lets answers be kept to what requests say that they have to look like; without a compiler such requests are refused.
    pub fn set_compiler(&mut self, compiler: Box<dyn Compiler>) {
        self.preparer.set_compiler(compiler);
    }

    /// How many choices may be under way at once, waiting ones included; more are refused. Any number by default.
    pub fn set_limit(&mut self, choices: usize) {
        self.preparer.limit = choices;
    }

    /// Bodies under way.
    pub fn len(&self) -> usize {
        self.open.len() + self.readings.len()
    }

    /// Whether no body is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is nothing to do and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle() && self.readings.is_empty() && self.replies.is_empty()
    }

    /// Queues a request: the JSON of OpenAI's chat completions (`messages`), completions (`prompt`) or embeddings (`input`), or
    /// of Jina's rerank (`query` and `documents`).
    ///
    /// # Errors
    /// See [`Body::parse`], [`Service::submit_body`] and [`Service::submit_texts`].
    pub fn submit(&mut self, json: &str, stamp: &Stamp<'_>) -> Result<RequestId> {
        let value = json_of(json)?;
        match value.as_object().is_some_and(is_reading) {
            true => self.submit_texts(&value),
            false => self.submit_body(Body::over(&value, &self.preparer.defaults)?, stamp),
        }
    }

    /// Queues a request for embeddings or scores: an object with `input`, or with `query` and `documents`.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] that names the field which is wrong, [`Kind::PromptTooLong`] for a text that is too long.
    pub fn submit_texts(&mut self, request: &Value) -> Result<RequestId> {
        let fields = request.as_object().ok_or_else(|| Error::invalid_request("the request is no JSON object"))?;
        let reading = Reading::new(fields, &self.engine, &self.preparer.name)?;
        let id = self.engine.new_id();
        self.readings.push((id, reading));
        Ok(id)
    }

    /// Queues a request that is parsed.
    ///
    /// # Errors
    /// See [`Preparer::prepare`] and [`Service::submit_prepared`]. Nothing is queued then.
    pub fn submit_body(&mut self, body: Body, stamp: &Stamp<'_>) -> Result<RequestId> {
        self.preparer.check(&body)?;
        self.check_room(body.n_choices())?;
        let prepared = self.preparer.prepare(body, stamp)?;
        self.submit_prepared(prepared)
    }

    /// Queues a request that was [prepared](Preparer::prepare) for this model.
    ///
    /// # Errors
    /// [`Kind::Busy`] above the limit; see also [`Engine::submit`]. Nothing is queued then.
    pub fn submit_prepared(&mut self, prepared: Prepared) -> Result<RequestId> {
        let Prepared { mut requests, answer, stream } = prepared;
        self.check_room(requests.len())?;
        self.guess_from_predictions(&mut requests)?;
        self.queue(requests, answer, stream)
    }

    /// How many tokens the prompts of a request have, as [`Service::submit`] would read them; choices share theirs. Nothing is queued.
    ///
    /// # Errors
    /// See [`Body::parse`] and [`Preparer::count_tokens`].
    pub fn count_tokens(&self, json: &str) -> Result<usize> {
        self.preparer.count_tokens(&json_of(json)?)
    }

    /// Writes the cache of a request's conversation, whose last message is the answer, as far as it is known, with the request as
    /// the note; see [`Engine::save`]. Returns how many tokens that are.
    ///
    /// # Errors
    /// See [`Service::count_tokens`] and [`Engine::save`]; [`Kind::InvalidRequest`] for several prompts.
    pub async fn save(&mut self, json: &str, out: &mut dyn std::io::Write) -> Result<usize> {
        let request = json_of(json)?;
        let tokens = self.preparer.tokens(&request)?;
        self.engine.save(&tokens, request, out).await
    }

    /// Where nothing else guesses, the text itself does, for requests with a prediction.
    fn guess_from_predictions(&mut self, requests: &mut [Request]) -> Result<()> {
        let predicted = |request: &Request| !request.prediction.is_empty();
        if self.engine.speculation().is_none() && requests.iter().any(|r| predicted(r) && !r.plain) {
            self.engine.speculate(Box::new(Ngram), Mode::Auto)?;
            self.only_predictions = true;
        }
        if self.only_predictions {
            requests.iter_mut().for_each(|request| request.plain |= !predicted(request));
        }
        Ok(())
    }

    fn check_room(&self, choices: usize) -> Result<()> {
        if self.choices.len() + choices > self.preparer.limit {
            let message =
                format!("{} answers are being written, and no more may wait; try again later", self.choices.len());
            return Err(Error::new(Kind::Busy, message));
        }
        Ok(())
    }

    /// Queues a request of the engine's own form; its answer is that of a completion.
    ///
    /// # Errors
    /// [`Kind::Busy`] above the limit; see also [`Engine::submit`].
    pub fn submit_request(&mut self, request: Request, stamp: &Stamp<'_>) -> Result<RequestId> {
        self.check_room(1)?;
        self.queue(vec![request], Answer::new(&Body::default(), stamp, &self.preparer.name), false)
    }

    /// Queues requests, one for each choice of `answer`.
    fn queue(&mut self, requests: Vec<Request>, answer: Answer, stream: bool) -> Result<RequestId> {
        let mut ids = Vec::new();
        for request in requests {
            match self.engine.submit(request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| self.engine.cancel(id));
                    return Err(error);
                }
            }
        }
        let Some(&first) = ids.first() else { return Err(Error::invalid_request("the request has no prompt")) };
        self.choices.extend(ids.iter().enumerate().map(|(i, &id)| (id, (first, i))));
        self.open.insert(first, Open { answer, stream, requests: ids });
        Ok(first)
    }

    /// Ends a body; the next step's replies say so.
    pub fn cancel(&mut self, id: RequestId) {
        self.open.get(&id).into_iter().flat_map(|open| &open.requests).for_each(|&id| self.engine.cancel(id));
        for (id, _) in self.readings.extract_if(.., |(reading, _)| *reading == id) {
            let error = Error::new(Kind::Cancelled, "the request was cancelled");
            self.replies.push(Reply { id, value: Err(error), done: true });
        }
    }

    /// One step of the engine, and what came of it.
    ///
    /// # Errors
    /// As [`Engine::step`]. Replies from before the error come with the next step.
    pub async fn step(&mut self) -> Result<Vec<Reply>> {
        let outcome = self.engine.step(&mut self.events).await;
        let mut events = std::mem::take(&mut self.events);
        events.drain(..).for_each(|event| self.take(event));
        self.events = events;
        outcome?;
        self.read_texts().await?;
        Ok(std::mem::take(&mut self.replies))
    }

    /// Reads as many texts as a forward holds, of the oldest request that has any.
    async fn read_texts(&mut self) -> Result<()> {
        if !self.engine.lets_embed(!self.readings.is_empty()) {
            return Ok(());
        }
        let Some((_, reading)) = self.readings.first_mut() else { return Ok(()) };
        let value = match reading.step(&mut self.engine).await {
            Ok(None) => return Ok(()),
            Ok(Some(value)) => Ok(value),
            // The texts are read once more by another device.
            Err(error) if matches!(error.kind(), Kind::DeviceLost | Kind::DeviceFault) => return Err(error),
            Err(error) if error.kind() == Kind::OutOfMemory && !self.engine.is_idle() => return Ok(()),
            Err(error) => Err(error),
        };
        let (id, _) = self.readings.remove(0);
        self.replies.push(Reply { id, value, done: true });
        Ok(())
    }

    /// Takes an event in. After a failure of one choice, the others are cancelled.
    fn take(&mut self, event: Event) {
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
                self.engine.cancel(other);
            }
            return self.replies.push(Reply { id, value: Err(error), done: true });
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        let last = over && !open.requests.iter().any(|r| self.choices.contains_key(r));
        let tokenizer = self.engine.tokenizer();
        if open.stream {
            let chunks = open.answer.chunks(tokenizer, index, &event);
            let n = chunks.len();
            let reply = |(value, i)| Reply { id, value: Ok(value), done: last && i == n };
            self.replies.extend(chunks.into_iter().zip(1..).map(reply));
        } else if let Some(value) = open.answer.response(tokenizer, index, &event) {
            self.replies.push(Reply { id, value: Ok(value), done: true });
        }
        if last {
            self.open.remove(&id);
        }
    }
}

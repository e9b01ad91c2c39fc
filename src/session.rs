//! The way in for apps: a file becomes a [`Session`], a conversation an [`Answer`] that is read piece by piece.
//!
//! A session answers one request at a time. Whoever wants many at once, sidecars or guesses takes its [`Engine`].

use crate::backend::{Choice, Options, open};
use crate::chat::{ChatTemplate, Message};
use crate::engine::{Done, Engine, Event, Request, RequestId};
use crate::error::{Error, Result};
use crate::gguf::source::{BytesSource, Source};
use crate::model::ModelOptions;
use crate::send::BoxFuture;
use futures_core::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A model that is ready to answer.
pub struct Session {
    engine: Engine,
    /// The file's, or why there is none.
    template: Result<ChatTemplate>,
    /// The request before, which ends when the next one begins.
    last: Option<RequestId>,
}

impl Session {
    /// Opens a GGUF file, or the first file of a model in pieces, on the device that suits it: a GPU where this build supports
    /// one, else all cores.
    ///
    /// # Errors
    /// [`crate::Kind::Storage`] when a file cannot be read, else those of [`Session::load`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Session> {
        let path = path.as_ref();
        let sources = crate::gguf::source::open(path)?;
        wait(Session::load(sources, Choice::Auto, &ModelOptions::default()))?.map_err(|e| e.at(path.display()))
    }

    /// Opens the bytes of a GGUF file on the CPU. Works in WebAssembly, too.
    ///
    /// # Errors
    /// As for [`Session::load`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Session> {
        wait(Session::load(vec![Box::new(BytesSource(bytes))], Choice::Cpu, &ModelOptions::default()))?
    }

    /// Loads a model from its files.
    ///
    /// # Errors
    /// Those of [`open`] and [`Engine::load`].
    pub async fn load(sources: Vec<Box<dyn Source>>, backend: Choice, options: &ModelOptions) -> Result<Session> {
        let backend = open(backend, &Options { threads: threads(), level: None, profile: false, clock }).await?;
        let engine = Engine::load(sources, backend, options, clock, &mut |_| {}).await?;
        let mut template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer());
        template.iter_mut().for_each(set_clock);
        Ok(Session { engine, template, last: None })
    }

    /// The engine, for everything that this type does not do.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Answers a conversation, by the chat template in the model's file.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] when the file has no template or it refuses the messages,
    /// [`crate::Kind::PromptTooLong`].
    pub fn chat(&mut self, messages: &[Message]) -> Result<Answer<'_>> {
        let template = self.template.as_ref().map_err(Error::clone)?;
        let prompt = self.engine.prompt(&template.render(messages, None, true)?, true);
        self.answer(Request { prompt, ..Request::default() })
    }

    /// Goes on with a text.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] for an empty text, [`crate::Kind::PromptTooLong`].
    pub fn complete(&mut self, text: &str) -> Result<Answer<'_>> {
        let prompt = self.engine.prompt(text, false);
        self.answer(Request { prompt, ..Request::default() })
    }

    /// Answers a request with settings of its own.
    ///
    /// # Errors
    /// As for [`Engine::submit`].
    pub fn answer(&mut self, request: Request) -> Result<Answer<'_>> {
        if let Some(last) = self.last.take() {
            self.engine.cancel(last);
        }
        let id = self.engine.submit(request)?;
        self.last = Some(id);
        Ok(Answer { id, state: State::Between(&mut self.engine, Vec::new()), pieces: VecDeque::new(), done: None })
    }
}

/// An answer on its way: an iterator, which waits for each piece of text, and a [`Stream`] of the same pieces, which does not
/// block. It ends when it is dropped.
pub struct Answer<'a> {
    id: RequestId,
    state: State<'a>,
    pieces: VecDeque<Result<String>>,
    done: Option<Done>,
}

/// Where the engine is.
enum State<'a> {
    Between(&'a mut Engine, Vec<Event>),
    /// In a step.
    Stepping(BoxFuture<'a, (&'a mut Engine, Vec<Event>, Result<()>)>),
    Over,
}

impl Answer<'_> {
    /// Waits for the whole answer.
    ///
    /// # Errors
    /// What ended it too early.
    pub fn text(self) -> Result<String> {
        self.collect()
    }

    /// Why the answer ended, tokens and times; nothing before the end.
    pub fn done(&self) -> Option<&Done> {
        self.done.as_ref()
    }

    /// Takes note of what happened in a step; whether the answer is over.
    fn note(&mut self, event: Event) -> bool {
        let (id, text, over) = match event {
            Event::Token(id, token) => (id, Ok(token.text), false),
            Event::Done(id, done) => {
                let text = done.text.clone();
                if id == self.id {
                    self.done = Some(done);
                }
                (id, Ok(text), true)
            }
            Event::Failed(id, error) => (id, Err(error), true),
        };
        if id == self.id && text.as_ref().is_ok_and(|text| !text.is_empty()) | text.is_err() {
            self.pieces.push_back(text);
        }
        id == self.id && over
    }
}

impl Stream for Answer<'_> {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<String>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(piece));
            }
            match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Poll::Ready(None),
                State::Between(engine, mut events) => {
                    self.state = State::Stepping(Box::pin(async move {
                        let outcome = engine.step(&mut events).await;
                        (engine, events, outcome)
                    }));
                }
                State::Stepping(mut step) => {
                    let Poll::Ready((engine, mut events, outcome)) = step.as_mut().poll(cx) else {
                        self.state = State::Stepping(step);
                        return Poll::Pending;
                    };
                    let over = events.drain(..).fold(false, |over, event| self.note(event) | over);
                    match outcome {
                        Err(error) => self.pieces.push_back(Err(error)),
                        Ok(()) if !over => self.state = State::Between(engine, events),
                        Ok(()) => {}
                    }
                }
            }
        }
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let next = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx));
        wait(next).unwrap_or_else(|error| Some(Err(error)))
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // In the middle of a step the engine is out of reach; the next request ends this one then.
        if let State::Between(engine, _) = &mut self.state {
            engine.cancel(self.id);
        }
    }
}

/// Waits for a future on this thread.
#[cfg(not(target_arch = "wasm32"))]
fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(pollster::block_on(future))
}

/// WebAssembly cannot wait; on the CPU it never has to.
#[cfg(target_arch = "wasm32")]
fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => {
            Err(Error::invalid_request("a GPU in a browser cannot be waited for; await the stream instead"))
        }
    }
}

/// Milliseconds since the first call.
#[cfg(not(target_arch = "wasm32"))]
fn clock() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64() * 1e3
}

/// Templates may ask for the date: that of UTC, as the standard library knows no time zones.
#[cfg(not(target_arch = "wasm32"))]
fn set_clock(template: &mut ChatTemplate) {
    template.set_clock(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0.0, |since| since.as_secs_f64() * 1e3)
    });
}

/// There is no date without a browser's clock.
#[cfg(target_arch = "wasm32")]
fn set_clock(_: &mut ChatTemplate) {}

/// There is no clock without a browser's; times are 0 then, and nothing depends on them for a request alone.
#[cfg(target_arch = "wasm32")]
fn clock() -> f64 {
    0.0
}

#[cfg(not(target_arch = "wasm32"))]
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Threads of WebAssembly are started by whoever has a worker to run them in.
#[cfg(target_arch = "wasm32")]
fn threads() -> usize {
    1
}

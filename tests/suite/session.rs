//! The crate's front door: a file opened in one line, answers as iterator and as stream, and what may move between threads.

use crate::common::sidecars::{file, tensors};
use foreword::engine::{Engine, Event, FinishReason, Request};
use foreword::gguf::Value;
use foreword::sample::Params;
use foreword::{Error, Kind, Session};
use futures_core::Stream;
use std::pin::Pin;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models/llama.gguf");

fn request(session: &mut Session, n: usize) -> Request {
    let prompt = session.engine().prompt("the other thing", false);
    let params = Params { temperature: 0.0, ..Params::default() };
    Request { prompt, params, max_tokens: Some(n), ignore_eos: true, ..Request::default() }
}

#[test]
fn iterator_and_stream_give_the_same_pieces() {
    let mut session = Session::open(TINY).expect("a sound model");
    let asked = request(&mut session, 12);
    let mut answer = session.answer(asked.clone()).expect("a request");
    let pieces: Vec<String> = answer.by_ref().map(|piece| piece.expect("a piece")).collect();
    let done = answer.done().expect("the end").clone();
    assert_eq!((done.reason, done.usage.completion_tokens), (FinishReason::Length, 12));
    drop(answer);

    let mut streamed = Vec::new();
    let mut answer = session.answer(asked).expect("a request");
    pollster::block_on(async {
        while let Some(piece) = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_next(cx)).await {
            streamed.push(piece.expect("a piece"));
        }
    });
    assert_eq!(pieces, streamed);
}

#[test]
fn templates_may_ask_for_the_date() {
    let (gguf, all) = tensors("llama");
    let mut metadata = gguf.metadata;
    let template = "{{ messages[0].content }} {{ strftime_now('%Y') | int > 2025 }}".to_string();
    metadata.insert("tokenizer.chat_template", Value::String(template));
    let mut session = Session::from_bytes(file(&metadata, &all)).expect("a sound model");
    session.chat(&[foreword::chat::Message::new("user", "hello")]).expect("a prompt with a date");
}

#[test]
fn an_answer_that_is_dropped_ends() {
    let mut session = Session::open(TINY).expect("a sound model");
    let asked = request(&mut session, 200);
    let mut answer = session.answer(asked.clone()).expect("a request");
    answer.next().expect("a piece").expect("text");
    drop(answer);
    let mut events = Vec::new();
    pollster::block_on(session.engine().step(&mut events)).expect("a step");
    assert!(matches!(&events[..], [Event::Done(_, done)] if done.reason == FinishReason::Cancelled), "{events:?}");
    assert!(session.engine().is_idle());

    let few = Request { max_tokens: Some(2), ..asked };
    assert!(!session.answer(few).expect("a request").text().expect("an answer").is_empty());
}

#[test]
fn what_cannot_be_answered_is_said() {
    let mut session = Session::open(TINY).expect("a sound model");
    let chat = session.chat(&[foreword::chat::Message::new("user", "hello")]).map(|_| ()).expect_err("no template");
    assert_eq!(chat.kind(), Kind::InvalidRequest);
    let long = session.complete(&"th".repeat(400)).map(|_| ()).expect_err("256 tokens of context");
    assert_eq!(long.kind(), Kind::PromptTooLong);
    let missing = Session::open("no such file.gguf").map(|_| ()).expect_err("no file");
    assert_eq!(missing.kind(), Kind::Storage);
    let nonsense = Session::from_bytes(b"no model".to_vec()).map(|_| ()).expect_err("no model");
    assert_eq!(nonsense.kind(), Kind::BadFile);
}

#[test]
fn engine_session_and_the_future_of_a_step_move_between_threads() {
    fn sendable<T: Send>(_: &T) {}
    let mut session = Session::open(TINY).expect("a sound model");
    sendable(&session);
    let asked = request(&mut session, 4);
    let text = std::thread::spawn(move || session.answer(asked)?.text()).join().expect("a thread");
    assert!(!text.expect("an answer").is_empty());
    let step = |engine: &mut Engine| {
        let mut events = Vec::new();
        let future = engine.step(&mut events);
        sendable(&future);
    };
    step(Session::open(TINY).expect("a sound model").engine());
}

#[test]
fn a_cloned_error_keeps_kind_message_and_cause() {
    use std::error::Error as _;
    let error = Error::storage("cannot read").caused_by(std::io::Error::other("the disk is on fire")).at("m.gguf");
    let clone = error.clone();
    assert_eq!((clone.kind(), clone.to_string()), (Kind::Storage, "m.gguf: cannot read".to_string()));
    let cause = clone.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    assert_eq!(cause.map(ToString::to_string).as_deref(), Some("the disk is on fire"));
}

//! Many requests at once, in one forward a step: `cargo run --release --example batch -- [MODEL.gguf]`.

use foreword::Session;
use foreword::engine::{Event, Request};
use std::collections::HashMap;

fn main() -> foreword::Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "tests/data/models/llama.gguf".into());
    let mut session = Session::open(model)?;
    let engine = session.engine();
    let mut answers = HashMap::new();
    for text in ["The capital of France is", "Water boils at", "One, two, three,", "To be or not to"] {
        let request = Request { prompt: engine.prompt(text, false), max_tokens: Some(16), ..Request::default() };
        answers.insert(engine.submit(request)?, text.to_string());
    }
    let mut events = Vec::new();
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events))?;
        for event in events.drain(..) {
            match event {
                Event::Token(id, token) => answers.entry(id).or_default().push_str(&token.text),
                Event::Done(id, done) => {
                    let text = answers.remove(&id).unwrap_or_default();
                    println!("{text}{} ({})", done.text, done.reason.name());
                }
                Event::Failed(_, error) => return Err(error),
            }
        }
    }
    Ok(())
}

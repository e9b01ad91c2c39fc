//! Goes on with a text: `cargo run --release --example complete -- [MODEL.gguf] [TEXT]`.

use foreword::Session;
use foreword::engine::Request;
use foreword::sample::Params;
use std::io::Write;

fn main() -> foreword::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "tests/data/models/llama.gguf".into());
    let text = args.next().unwrap_or_else(|| "Once upon a time".into());

    let mut session = Session::open(model)?;
    let prompt = session.engine().prompt(&text, false);
    let params = Params { temperature: 0.7, top_p: 0.9, seed: 1, ..Params::default() };
    let mut answer = session.answer(Request { prompt, params, max_tokens: Some(64), ..Request::default() })?;
    print!("{text}");
    for piece in answer.by_ref() {
        print!("{}", piece?);
        // Whoever reads along does not want to wait for the end of the line.
        let _ = std::io::stdout().flush();
    }
    if let Some(done) = answer.done() {
        let usage = &done.usage;
        println!("\n{} tokens, the first after {:.0} ms", usage.completion_tokens, usage.ttft_ms);
    }
    Ok(())
}

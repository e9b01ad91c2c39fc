//! A drafter of one's own: phrases that answers are known to use. The answer stays the same, it only comes in fewer forwards.
//! `cargo run --release --example own_drafter -- [MODEL.gguf]`.

use foreword::Session;
use foreword::engine::Request;
use foreword::sample::Params;
use foreword::speculate::draft::{Context, Drafter, Proposal, Proposals};
use foreword::speculate::{Mode, Probs};

/// Guesses that a phrase goes on once its first tokens have been written.
struct Phrases(Vec<Vec<u32>>);

impl Phrases {
    /// What follows `text` in a phrase.
    fn next(&self, text: &[u32]) -> Option<u32> {
        self.0.iter().find_map(|phrase| {
            let begun = (1..phrase.len()).rev().find(|&n| text.ends_with(&phrase[..n]))?;
            Some(phrase[begun])
        })
    }
}

impl Drafter for Phrases {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        let proposal = |&slot: &usize| {
            let text = [context.text, &context.tree.path(slot)].concat();
            let sure = |token| Proposal { law: Probs::from_weights(vec![(token, 1.0)]), class: 14 };
            self.next(&text).map_or_else(Proposal::default, sure)
        };
        let proposals = slots.iter().map(proposal).collect();
        Box::pin(std::future::ready(Ok(proposals)))
    }

    fn end(&mut self, _request: u64) {}

    fn is_model(&self) -> bool {
        false
    }
}

fn main() -> foreword::Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "tests/data/models/llama.gguf".into());
    let mut session = Session::open(model)?;
    let prompt = session.engine().prompt("Once upon a time", false);
    let params = Params { temperature: 0.0, ..Params::default() };
    let request = Request { prompt, params, max_tokens: Some(48), ..Request::default() };

    // What a program knows beforehand; here, the answer itself.
    let text = session.answer(request.clone())?.text()?;
    let phrase = session.engine().tokenizer().encode(&text, false);
    session.engine().speculate(Box::new(Phrases(vec![phrase])), Mode::Auto)?;

    let mut answer = session.answer(request)?;
    for piece in answer.by_ref() {
        print!("{}", piece?);
    }
    if let Some(done) = answer.done() {
        let usage = &done.usage;
        println!("\n{} tokens in {} forwards", usage.completion_tokens, usage.forwards);
    }
    Ok(())
}

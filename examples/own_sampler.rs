//! A rule of one's own about what may come next: an answer without the letter "e".
//! `cargo run --release --example own_sampler -- [MODEL.gguf]`.

use foreword::Session;
use foreword::engine::Request;
use foreword::sample::{Effect, LogitsMut, Rule};

/// Forbids tokens.
#[derive(Clone, Debug)]
struct Without(Vec<u32>);

impl Rule for Without {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(self.0.len())
    }

    fn adjust(&self, _ahead: &[u32], logits: &mut LogitsMut<'_>) {
        for &token in &self.0 {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    // What may come does not depend on what has come.
    fn accept(&mut self, _token: u32) {}

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

fn main() -> foreword::Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "tests/data/models/llama.gguf".into());
    let mut session = Session::open(model)?;
    let tokenizer = session.engine().tokenizer();
    let with_e = (0..tokenizer.n_vocab() as u32).filter(|&token| tokenizer.token_bytes(token).contains(&b'e'));
    let rule = Without(with_e.collect());
    let prompt = session.engine().prompt("Once upon a time", false);
    let request = Request { prompt, rules: vec![Box::new(rule)], max_tokens: Some(48), ..Request::default() };
    for piece in session.answer(request)? {
        print!("{}", piece?);
    }
    println!();
    Ok(())
}

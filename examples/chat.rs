//! A conversation in the terminal: `cargo run --release --example chat -- MODEL.gguf`. Lines are questions; an empty one ends it.

use foreword::Session;
use foreword::chat::Message;
use std::io::{BufRead, Write};

fn main() -> foreword::Result<()> {
    let Some(model) = std::env::args().nth(1) else {
        eprintln!("usage: chat MODEL.gguf");
        std::process::exit(2);
    };
    let mut session = Session::open(model)?;
    let mut messages = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        messages.push(Message::new("user", line));
        let mut text = String::new();
        for piece in session.chat(&messages)? {
            let piece = piece?;
            print!("{piece}");
            let _ = std::io::stdout().flush();
            text.push_str(&piece);
        }
        println!();
        messages.push(Message::new("assistant", text));
    }
    Ok(())
}

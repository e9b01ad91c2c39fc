//! The example on the crate's front page, with the model inside.

use foreword::Session;

/// How many pieces of text the first example gives, or 0.
#[unsafe(no_mangle)]
pub extern "C" fn pieces() -> usize {
    complete().map_or(0, |pieces| pieces.len())
}

/// Goes on with a text.
pub fn complete() -> foreword::Result<Vec<String>> {
    let mut session = Session::from_bytes(include_bytes!("../../data/models/llama.gguf").to_vec())?;
    session.complete("Once upon a time")?.take(8).collect()
}

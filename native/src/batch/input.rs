//! The requests of a batch.

use foreword::engine::openai::whole_characters;
use foreword::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// A line of the input.
#[derive(Deserialize)]
pub(super) struct Line {
    pub(super) custom_id: String,
    pub(super) method: Option<String>,
    pub(super) url: String,
    pub(super) body: Value,
}

/// The requests of a file; `custom_id`s occur once.
///
/// # Errors
/// When any line is no request: a file that is answered in part would hide what it lacks.
pub(super) fn read_lines(path: &Path) -> Result<Vec<Line>> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e))?;
    if is_utf16(&bytes) {
        return Err(Error::invalid_request(format!("{} is UTF-16 text; save it as UTF-8", path.display())));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let wrong = |what: String| Error::invalid_request(format!("{} line {}: {what}", path.display(), i + 1));
        let text = std::str::from_utf8(line)
            .map_err(|e| wrong(format!("byte {} is no UTF-8 text", e.valid_up_to() + 1)).caused_by(e))?;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&whole_characters(text)).map_err(|e| wrong(in_line(&e)).caused_by(e))?;
        if !seen.insert(line.custom_id.clone()) {
            return Err(wrong(format!("the custom_id {:?} was there before", line.custom_id)));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Whether the bytes begin as UTF-16 does: with its mark, or with a NUL beside a character of ASCII.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0x7f, ..] | [1..=0x7f, 0, ..])
}

/// What the parser says of a text of one line.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} (column {})", error.column())
}

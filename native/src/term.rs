//! Standard output and error.

use foreword::{Error, Kind, Result};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Writes a path and a line break, byte for byte: it need not be UTF-8.
pub(crate) fn print_path(path: &Path) -> Result<()> {
    write(&[path.as_os_str().as_encoded_bytes(), b"\n"].concat())
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| Error::storage(format!("cannot write to standard output: {e}")).caused_by(e))
}

/// Writes one JSON object and a line break.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Whether the reader of standard output went away, which is no failure.
pub(crate) fn is_closed_pipe(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    cause.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// A dim line on standard error, for people only.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", dim(text));
}

/// Dims text on a terminal that has colours.
pub(crate) fn dim(text: &str) -> String {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal();
    if colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_string() }
}

/// An error, what led to it, and what to do.
pub(crate) fn print_error(error: &Error) {
    print_error_with(error, hint(error.kind()));
}

/// The same with a hint of the caller's own.
pub(crate) fn print_error_with(error: &Error, hint: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        // Messages that quote their cause are not followed by it once more.
        let text = e.to_string();
        if !error.to_string().contains(&text) {
            let _ = writeln!(err, "  because: {text}");
        }
        cause = e.source();
    }
    let _ = writeln!(err, "hint: {hint}");
}

fn hint(kind: Kind) -> &'static str {
    match kind {
        Kind::BadFile => "check where the file comes from, or pull it again",
        Kind::Unsupported => "`foreword inspect MODEL` shows what a file needs, `--backend auto` takes what is there",
        Kind::Download => "check the name and the connection; `foreword pull` goes on where it stopped",
        Kind::Storage => "check the path, its permissions and the space on the disk",
        Kind::PromptTooLong => "raise --context, or shorten the prompt",
        Kind::OutOfMemory => "lower --context, use --cache-type q8_0, or take a smaller model",
        _ => "`foreword --help` and `foreword COMMAND --help` show what is possible",
    }
}

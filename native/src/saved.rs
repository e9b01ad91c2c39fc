//! Conversations that are kept in a file, with what the model has read of them.

use crate::load;
use foreword::chat::Message;
use foreword::engine::Engine;
use foreword::{Error, Result};
use serde_json::json;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

/// Reads a conversation into the engine: its messages, that of the system first, and how many tokens are known. `None` where there
/// is no file yet.
///
/// # Errors
/// See [`Engine::open`]; [`foreword::Kind::Storage`], [`foreword::Kind::InvalidRequest`] where `system` is wanted and it has another one.
pub(crate) fn open(engine: &mut Engine, path: &Path, system: Option<&String>) -> Result<Option<(Vec<Message>, usize)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e)),
    };
    let saved = engine.open(&mut BufReader::with_capacity(1 << 20, file)).map_err(|e| e.at(path.display()))?;
    let messages: Vec<Message> = serde_json::from_value(saved.note["messages"].clone())
        .map_err(|e| Error::bad_file("it holds no messages of a chat").caused_by(e).at(path.display()))?;
    let own = messages.first().filter(|first| first.role == "system").map(|first| first.content.text()).transpose()?;
    if system.is_some() && system != own.as_ref() {
        return Err(Error::invalid_request("the chat of this file has another system message").in_field("system"));
    }
    Ok(Some((messages, saved.tokens.len())))
}

/// Writes a conversation to `path`, all of it or nothing, with what is known of `read`, its messages that were in the context. What
/// was there before stays until the new file is whole.
///
/// # Errors
/// See [`Engine::save`].
pub(crate) fn save(engine: &mut Engine, path: &Path, read: &[Message], messages: &[Message]) -> Result<()> {
    let tokens = engine.prompt(&load::chat_template(engine)?.render(read, None, false)?, true);
    let cannot = |e: std::io::Error| Error::storage(format!("cannot save {}: {e}", path.display())).caused_by(e);
    let note = json!({ "messages": messages });
    let part = path.with_added_extension("part");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&part).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(cannot)?,
        Err(TryLockError::WouldBlock) => {
            return Err(Error::storage(format!("another program is saving {}", path.display())));
        }
        // Where files cannot be locked.
        Err(TryLockError::Error(_)) => file.set_len(0).map_err(cannot)?,
    }
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    pollster::block_on(engine.save(&tokens, note, &mut out))?;
    out.flush().and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&part, path)).map_err(cannot)
}

//! The answers of a batch.
//!
//! A file that is there already is written to only if all its lines are answers of a batch, and by one run at a time. What
//! is no file (a pipe, a device, standard output) gets the answers and holds none of an earlier run.

use super::answer_id;
use foreword::{Error, Kind, Result};
use same_file::Handle;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How each line of ours begins.
const BEGIN: &[u8] = br#"{"id":"batch_req_"#;

/// Where answers go.
pub(super) struct Output {
    to: Handle,
    /// Where the file is; none of what keeps nothing.
    path: Option<PathBuf>,
    /// `custom_id`s that have a line.
    pub(super) known: HashSet<String>,
}

impl Output {
    /// Opens a file of answers to go on with it, or begins one; `-` is standard output. A last line that was not written
    /// whole is dropped.
    ///
    /// # Errors
    /// [`Kind::InvalidRequest`] when the file is `input`, in use by another run, or holds anything but answers: it is left
    /// as it is then. [`Kind::Storage`] when it cannot be written.
    pub(super) fn open(path: &Path, input: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::storage(format!("cannot open {}: {e}", path.display())).caused_by(e);
        let standard = path == Path::new("-");
        let handle = if standard { Handle::stdout() } else { create(path).and_then(Handle::from_file) };
        let handle = handle.map_err(failed)?;
        let is_file = handle.as_file().metadata().map_err(failed)?.is_file();
        // Opening a pipe to look at it would wait for its other end.
        if is_file && input.is_file() && Handle::from_path(input).map_err(failed)? == handle {
            return Err(refused(path, "is the file of requests, too; name another one for the answers"));
        }
        let kept = is_file && !standard;
        let mut output = Output { to: handle, path: kept.then(|| path.to_path_buf()), known: HashSet::new() };
        if kept {
            match output.to.as_file().try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(refused(path, "is being written by another run; let it end, or name another file"));
                }
                // File systems without locks do without.
                Ok(()) | Err(TryLockError::Error(_)) => output.take_up(path)?,
            }
        }
        Ok(output)
    }

    /// Learns what was answered by an earlier run, and goes to where its last whole line ends.
    fn take_up(&mut self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e);
        let mut file = self.to.as_file();
        let mut reader = BufReader::new(file);
        // A large file of somebody else is not read to its end.
        let mut line = Vec::new();
        reader.by_ref().take(2 * BEGIN.len() as u64).read_to_end(&mut line).map_err(failed)?;
        if !line.is_empty() && (line.len() < BEGIN.len() || !begins_as_answer(&line)) {
            return Err(stranger(path, 1));
        }
        let mut whole = 0;
        for number in 1.. {
            reader.read_until(b'\n', &mut line).map_err(failed)?;
            match custom_id(&line) {
                Some(id) => {
                    self.known.insert(id);
                    if !line.ends_with(b"\n") {
                        return file.write_all(b"\n").map_err(failed);
                    }
                }
                None if line.ends_with(b"\n") && line.trim_ascii().is_empty() => {}
                None if !line.ends_with(b"\n") && begins_as_answer(&line) => break,
                None => return Err(stranger(path, number)),
            }
            whole += line.len() as u64;
            line.clear();
        }
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole))).map_err(failed)?;
        Ok(())
    }

    /// Writes whole lines, to the disk.
    pub(super) fn append(&mut self, lines: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let failed = |e: std::io::Error| Error::storage(format!("cannot write answers: {e}")).caused_by(e);
        self.to.as_file_mut().write_all(lines.as_bytes()).map_err(failed)?;
        let Some(path) = &self.path else { return Ok(()) };
        self.to.as_file().sync_data().map_err(failed)?;
        // Editors save by putting another file in its place.
        if !Handle::from_path(path).is_ok_and(|there| there == self.to) {
            return Err(Error::storage(format!(
                "{} was removed or replaced while answers were written",
                path.display()
            )));
        }
        Ok(())
    }
}

/// Opens what is at `path` for writing; a file, which may be new, for reading, too.
fn create(path: &Path) -> std::io::Result<File> {
    let is_file = std::fs::metadata(path).map_or(true, |m| m.is_file());
    File::options().write(true).read(is_file).create(is_file).truncate(false).open(path)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("{} {why}", path.display()))
}

fn stranger(path: &Path, line: usize) -> Error {
    refused(path, &format!("line {line} is no answer of a batch; the file is left as it is, name another one"))
}

/// The `custom_id` of a line that a batch wrote.
fn custom_id(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let id = value.get("custom_id")?.as_str()?;
    let ours = value.get("id")?.as_str()? == answer_id(id) && value.get("response").is_some();
    ours.then(|| id.to_string())
}

/// Whether a line breaks off within an answer of ours. Power that fails may leave zeros behind what was written.
fn begins_as_answer(line: &[u8]) -> bool {
    let text = line.split(|&b| b == 0).next().unwrap_or_default();
    let mut begin = text.iter().filter(|&&b| b != b' ').zip(BEGIN);
    let breaks_off = serde_json::from_slice::<IgnoredAny>(text).is_err_and(|e| e.is_eof());
    breaks_off && begin.all(|(a, b)| a == b) && line[text.len()..].iter().all(|&b| b == 0)
}

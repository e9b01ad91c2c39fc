//! Files of the cache that are being fetched: where they grow, how they are checked, and how they get into place.

use foreword::gguf::Gguf;
use foreword::gguf::source::{FileSource, Source};
use foreword::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What a file must be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<&'a str>,
    /// No GGUF file, so its header tells nothing: what the server says of its length has to do.
    pub(crate) is_other: bool,
}

/// A file that is not whole yet: `NAME.part`, and the server's name for its content in `NAME.part.etag`.
pub(crate) struct Part {
    path: PathBuf,
    etag: PathBuf,
}

impl Part {
    pub(crate) fn new(path: &Path) -> Self {
        Part { path: with_suffix(path, ".part"), etag: with_suffix(path, ".part.etag") }
    }

    pub(crate) fn len(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    pub(crate) fn etag(&self) -> Option<String> {
        std::fs::read_to_string(&self.etag).ok().filter(|e| !e.is_empty())
    }

    pub(crate) fn remember_etag(&self, etag: Option<&str>) -> Result<()> {
        std::fs::write(&self.etag, etag.unwrap_or_default()).map_err(cannot_write)
    }

    /// Opens the file for writing behind its first `start` bytes.
    pub(crate) fn open(&self, start: u64) -> Result<File> {
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
            file.set_len(start)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        open().map_err(cannot_write)
    }

    /// A new, empty file.
    pub(crate) fn create(&self) -> Result<File> {
        File::create(&self.path).map_err(cannot_write)
    }

    pub(crate) fn discard(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.etag);
    }

    /// Checks the file, moves it to `path`, and keeps its checksum beside it. What was there before is replaced.
    pub(crate) fn finish(&self, path: &Path, expected: Expected<'_>) -> Result<()> {
        let sha256 = self.check(expected).inspect_err(|_| self.discard())?;
        let moved = File::open(&self.path).and_then(|f| f.sync_all()).and_then(|()| std::fs::rename(&self.path, path));
        moved.map_err(cannot_write)?;
        let _ = std::fs::remove_file(&self.etag);
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        // The file is good without its checksum.
        let _ = std::fs::write(checksum(path), format!("{sha256}  {name}\n"));
        Ok(())
    }

    /// Checks the file; returns its SHA-256.
    fn check(&self, expected: Expected<'_>) -> Result<String> {
        if let Some(bytes) = expected.bytes.filter(|&b| b != self.len()) {
            return Err(Error::download(format!("{} bytes were downloaded, not {bytes}", self.len())));
        }
        let found = sha256(&self.path).map_err(cannot_write)?;
        match expected.sha256 {
            Some(sha256) if sha256 != found => {
                Err(Error::download(format!("the download is damaged: its SHA-256 is {found}, not {sha256}")))
            }
            Some(_) => Ok(found),
            None if expected.is_other => Ok(found),
            None => self.check_whole().map(|()| found),
        }
    }

    /// Whether all that the file's header names is there. An error page would otherwise stay in the cache as a model.
    pub(crate) fn check_whole(&self) -> Result<()> {
        let mut magic = [0; 4];
        match File::open(&self.path).and_then(|mut f| f.read_exact(&mut magic)) {
            Ok(()) if &magic == b"GGUF" => {
                header_is_whole(&self.path).map_err(|e| Error::download(format!("the download is damaged: {e}")))
            }
            _ => Err(Error::download("what the server sent is no GGUF file; check the address")),
        }
    }
}

/// Whether a file of the cache is what was fetched: by the checksum that is known or lies beside it, else by its header.
pub(crate) fn is_sound(path: &Path, known: Option<&str>) -> bool {
    let kept = || std::fs::read_to_string(checksum(path)).ok()?.get(..64).map(str::to_string);
    match known.map(str::to_string).or_else(kept) {
        Some(known) => sha256(path).is_ok_and(|found| found == known),
        None => header_is_whole(path).is_ok(),
    }
}

/// Reads the header, which fails when tensors lie behind the end. Whether the file makes a model is for others to say.
fn header_is_whole(path: &Path) -> Result<()> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(FileSource::open(path)?)];
    match pollster::block_on(Gguf::read(&mut sources)) {
        Err(e) if matches!(e.kind(), Kind::BadFile | Kind::Storage) => Err(e),
        _ => Ok(()),
    }
}

/// Where the checksum of a file is kept, in the form of `sha256sum`.
fn checksum(path: &Path) -> PathBuf {
    with_suffix(path, ".sha256")
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut hash, mut file, mut buffer) = (Sha256::new(), File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn cannot_write(e: std::io::Error) -> Error {
    Error::storage(format!("cannot write the download: {e}")).caused_by(e)
}

/// A bar on standard error; invisible when that is no terminal.
pub(crate) fn progress_bar(total: u64, path: &Path) -> ProgressBar {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(total).with_message(name);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

//! Downloads over HTTP: with progress, resumed, checked, and moved into place only when whole.

use crate::store::Expected;
use foreword::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts in a row without a single byte before giving up.
const ATTEMPTS: u32 = 5;

/// Downloads `url` to `path`. What is there already of an earlier attempt (`path.part`) is not fetched again while the
/// server still has the same file.
pub(crate) fn fetch(url: &str, token: Option<&str>, path: &Path, expected: Expected<'_>) -> Result<()> {
    let part = Part::new(path);
    let bar = progress_bar(expected.bytes.unwrap_or(0), path);
    let mut failures = 0;
    loop {
        let before = part.len();
        match attempt(url, token, &part, expected, &bar) {
            Ok(()) => break,
            Err(Failure::Final(error)) => {
                // A full disk gets its space back.
                if error.kind() == Kind::Storage {
                    part.discard();
                }
                return Err(error);
            }
            Err(Failure::Again(error)) => {
                failures = if part.len() > before { 1 } else { failures + 1 };
                if failures >= ATTEMPTS {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(250 << failures));
            }
        }
    }
    bar.finish_and_clear();
    part.finish(path, expected)
}

enum Failure {
    /// Trying again may help.
    Again(Error),
    Final(Error),
}

fn attempt(
    url: &str,
    token: Option<&str>,
    part: &Part,
    expected: Expected<'_>,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let have = part.len();
    let mut request = agent().get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(etag) = part.etag().filter(|_| have > 0) {
        request = request.header("range", format!("bytes={have}-")).header("if-range", etag);
    }
    // Lengths are those of the bytes on the wire.
    request = request.header("accept-encoding", "identity");
    let response = request.call().map_err(|e| {
        let again = have > 0 || !never_reached(&e);
        let error = Error::download(format!("cannot download {url}: {e}")).caused_by(e);
        if again { Failure::Again(error) } else { Failure::Final(error) }
    })?;
    let status = response.status().as_u16();
    let resumed = status == 206;
    match status {
        200 | 206 => {}
        416 if expected.bytes == Some(have) => return Ok(()),
        416 => {
            part.discard();
            return Err(Failure::Again(Error::download(format!("{url}: the server cannot resume the download"))));
        }
        429 | 500..=599 => return Err(Failure::Again(refused(url, status))),
        _ => return Err(Failure::Final(refused(url, status))),
    }
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
    let rest = header("content-length").and_then(|v| v.parse::<u64>().ok());
    let start = if resumed { have } else { 0 };
    let total = rest.map(|rest| start + rest);
    if let (Some(total), Some(expected)) = (total, expected.bytes.filter(|&e| Some(e) != total)) {
        let message = format!("{url} has {total} bytes, not {expected}: it is not the file that was asked for");
        return Err(Failure::Final(Error::download(message)));
    }
    part.remember_etag(header("etag"))?;
    bar.set_length(total.unwrap_or(0));
    let mut file = part.open(start)?;
    copy(&mut response.into_body().into_reader(), &mut file, start, bar, url)?;
    let len = part.len();
    match total {
        Some(total) if len < total => {
            Err(Failure::Again(Error::download(format!("{url}: the connection broke after {len} of {total} bytes"))))
        }
        _ => Ok(()),
    }
}

/// Whether there is nobody at the address: more attempts will not change that.
fn never_reached(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    match error {
        E::HostNotFound | E::ConnectionFailed | E::BadUri(_) | E::Timeout(ureq::Timeout::Connect) => true,
        // The standard library has no kind for names that nobody knows.
        E::Io(e) => e.kind() == std::io::ErrorKind::ConnectionRefused || e.to_string().contains("failed to lookup"),
        _ => false,
    }
}

/// SHA-256 of a file of the model hub, which the hub tells before it redirects to where the bytes lie.
///
/// # Errors
/// When the hub cannot be reached.
pub(crate) fn hub_sha256(url: &str, token: Option<&str>) -> Result<Option<String>> {
    let mut request = agent().head(url).config().max_redirects(0).max_redirects_will_error(false).build();
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match request.call() {
        Ok(response) => {
            let etag = response.headers().get("x-linked-etag").and_then(|v| v.to_str().ok());
            let is_hash = |e: &&str| e.len() == 64 && e.bytes().all(|b| b.is_ascii_hexdigit());
            Ok(etag.map(|e| e.trim_matches('"')).filter(is_hash).map(str::to_lowercase))
        }
        Err(e) if never_reached(&e) => Err(Error::download(format!("cannot reach {url}: {e}")).caused_by(e)),
        Err(_) => Ok(None),
    }
}

fn refused(url: &str, status: u16) -> Error {
    let why = match status {
        401 | 403 => " (access refused; a token may be needed: HF_TOKEN)",
        404 => " (no such file)",
        _ => "",
    };
    Error::download(format!("{url}: the server answered {status}{why}"))
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(3)))
        .timeout_recv_response(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .build();
    config.into()
}

fn copy(from: &mut dyn Read, to: &mut File, start: u64, bar: &ProgressBar, url: &str) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = start;
    loop {
        let n = from.read(&mut buffer).map_err(|e| {
            Failure::Again(Error::download(format!("{url}: the connection broke after {done} bytes: {e}")).caused_by(e))
        })?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n]).map_err(|e| Failure::Final(full(e)))?;
        done += n as u64;
        bar.set_position(done);
    }
}

fn full(e: std::io::Error) -> Error {
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

/// A file that is not whole yet.
pub(crate) struct Part {
    path: PathBuf,
    etag: PathBuf,
}

impl Part {
    pub(crate) fn new(path: &Path) -> Self {
        let with = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Part { path: with(".part"), etag: with(".part.etag") }
    }

    fn len(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    fn etag(&self) -> Option<String> {
        std::fs::read_to_string(&self.etag).ok().filter(|e| !e.is_empty())
    }

    fn remember_etag(&self, etag: Option<String>) -> Result<(), Failure> {
        std::fs::write(&self.etag, etag.unwrap_or_default()).map_err(|e| Failure::Final(full(e)))
    }

    /// Opens the file for writing behind its first `start` bytes.
    fn open(&self, start: u64) -> Result<File, Failure> {
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
            file.set_len(start)?;
            file.seek(std::io::SeekFrom::End(0))?;
            Ok(file)
        };
        open().map_err(|e| Failure::Final(full(e)))
    }

    /// A new, empty file.
    pub(crate) fn create(&self) -> Result<File> {
        File::create(&self.path).map_err(full)
    }

    pub(crate) fn discard(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.etag);
    }

    /// Checks the file and moves it into place.
    pub(crate) fn finish(&self, path: &Path, expected: Expected<'_>) -> Result<()> {
        if let Err(error) = self.check(expected) {
            self.discard();
            return Err(error);
        }
        let moved = File::open(&self.path).and_then(|f| f.sync_all()).and_then(|()| std::fs::rename(&self.path, path));
        moved.map_err(full)?;
        let _ = std::fs::remove_file(&self.etag);
        Ok(())
    }

    fn check(&self, expected: Expected<'_>) -> Result<()> {
        if let Some(bytes) = expected.bytes.filter(|&b| b != self.len()) {
            return Err(Error::download(format!("{} bytes were downloaded, not {bytes}", self.len())));
        }
        let Some(sha256) = expected.sha256 else { return self.check_magic() };
        let mut hash = Sha256::new();
        let mut file = File::open(&self.path).map_err(full)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(full)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found != sha256 {
            return Err(Error::download(format!("the download is damaged: its SHA-256 is {found}, not {sha256}")));
        }
        Ok(())
    }

    /// An error page would otherwise stay in the cache as a model.
    fn check_magic(&self) -> Result<()> {
        let mut magic = [0; 4];
        match File::open(&self.path).and_then(|mut f| f.read_exact(&mut magic)) {
            Ok(()) if &magic == b"GGUF" => Ok(()),
            _ => Err(Error::download("what the server sent is no GGUF file; check the address")),
        }
    }
}

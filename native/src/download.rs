//! Downloads over HTTP: with progress, resumed, checked, and moved into place only when whole.

use crate::part::{Expected, Part, cannot_write, progress_bar};
use crate::proxy::Proxies;
use crate::term;
use foreword::{Error, Kind, Result};
use indicatif::ProgressBar;
use reqwest::blocking::{Client, Response};
use reqwest::redirect::Policy;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Attempts in a row without a single new byte before giving up.
const ATTEMPTS: u32 = 5;

/// The longest that a server's wish to be left alone is heeded.
const PATIENCE: Duration = Duration::from_secs(120);

/// Downloads `url` to `path`. What is there already of an earlier attempt (`path.part`) is not fetched again while the
/// server still has the same file.
pub(crate) fn fetch(url: &str, token: Option<&str>, path: &Path, expected: Expected<'_>) -> Result<()> {
    let part = Part::new(path);
    let client = client(Policy::default())?;
    let bar = progress_bar(expected.bytes.unwrap_or(0), path);
    let (mut failures, mut most) = (0, part.len());
    loop {
        match attempt(&client, (url, token), &part, expected, &bar) {
            Ok(()) => break,
            Err(Failure::Final(error)) => {
                // A full disk gets its space back.
                if error.kind() == Kind::Storage {
                    part.discard();
                }
                return Err(error);
            }
            Err(Failure::Retry(error, wait)) => {
                failures = if part.len() > most { 1 } else { failures + 1 };
                most = most.max(part.len());
                if failures >= ATTEMPTS {
                    return Err(error);
                }
                std::thread::sleep(wait.max(Duration::from_millis(250 << failures)));
            }
        }
    }
    bar.finish_and_clear();
    part.finish(path, expected)
}

enum Failure {
    /// Trying again may help, but not at once.
    Retry(Error, Duration),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

fn retry(message: String) -> Failure {
    Failure::Retry(Error::download(message), Duration::ZERO)
}

fn attempt(
    client: &Client,
    (url, token): (&str, Option<&str>),
    part: &Part,
    expected: Expected<'_>,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let have = part.len();
    // Lengths are those of the bytes on the wire.
    let mut request = client.get(url).header("accept-encoding", "identity");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(etag) = part.etag().filter(|_| have > 0) {
        request = request.header("range", format!("bytes={have}-")).header("if-range", etag);
    }
    let mut response = request.send().map_err(|e| {
        // Nobody is at the address: more attempts will not change that.
        let nobody = have == 0 && (e.is_connect() || e.is_builder());
        let error = Error::download(format!("cannot download {url}: {}", why(&e)));
        if nobody { Failure::Final(error) } else { Failure::Retry(error, Duration::ZERO) }
    })?;
    let status = response.status().as_u16();
    let range = match status {
        200 => None,
        206 => match content_range(&response).filter(|range| range.first == have) {
            Some(range) => Some(range),
            None => {
                part.discard();
                return Err(retry(format!("{url}: the server sent another part of the file than was asked for")));
            }
        },
        416 if expected.bytes == Some(have) => return Ok(()),
        416 => {
            part.discard();
            return Err(retry(format!("{url}: the server cannot resume the download")));
        }
        429 | 500..=599 => return Err(busy(url, &response)),
        _ => return Err(Failure::Final(refused(url, status))),
    };
    let start = if range.is_some() { have } else { 0 };
    let total = range.map_or(response.content_length(), |range| range.total);
    if let (Some(total), Some(expected)) = (total, expected.bytes.filter(|&e| Some(e) != total)) {
        let message = format!("{url} has {total} bytes, not {expected}: it is not the file that was asked for");
        return Err(Failure::Final(Error::download(message)));
    }
    part.remember_etag(header(&response, "etag"))?;
    bar.set_length(total.unwrap_or(0));
    let mut file = part.open(start)?;
    copy(&mut response, &mut file, start, bar, url)?;
    let len = part.len();
    match total {
        Some(total) if len != total => Err(retry(format!("{url}: the connection broke after {len} of {total} bytes"))),
        // Without a length, a broken connection looks like the end.
        None if expected.bytes.is_none() && !expected.is_other => {
            part.check_whole().map_err(|e| Failure::Retry(e, Duration::ZERO))
        }
        _ => Ok(()),
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The part of a file that a server sends.
struct Range {
    first: u64,
    /// Bytes of the whole file, if the server knows.
    total: Option<u64>,
}

/// `Content-Range`, if it agrees with itself and with the length of the body.
fn content_range(response: &Response) -> Option<Range> {
    let (range, total) = header(response, "content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    let len = last.checked_sub(first)?.checked_add(1)?;
    let agrees = total.is_none_or(|total| last < total) && response.content_length().is_none_or(|l| l == len);
    agrees.then_some(Range { first, total })
}

/// A server that cannot answer at the moment, and may say when it can.
fn busy(url: &str, response: &Response) -> Failure {
    let error = refused(url, response.status().as_u16());
    let wait = header(response, "retry-after").and_then(retry_after).unwrap_or_default();
    if wait > PATIENCE {
        let seconds = wait.as_secs();
        return Failure::Final(Error::download(format!("{error}, and asks to come back in {seconds} seconds")));
    }
    if !wait.is_zero() {
        term::note(&format!("the server is busy; trying again in {} seconds", wait.as_secs()));
    }
    Failure::Retry(error, wait)
}

/// `Retry-After`: seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let date = || httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok();
    text.trim().parse().ok().map(Duration::from_secs).or_else(date)
}

/// What lies at the bottom of an error; what is above says only that there was one.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// SHA-256 of a file of the model hub, which the hub tells before it redirects to where the bytes lie.
///
/// # Errors
/// When the hub cannot be reached.
pub(crate) fn hub_sha256(url: &str, token: Option<&str>) -> Result<Option<String>> {
    let mut request = client(Policy::none())?.head(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    match request.send() {
        Ok(response) => {
            let is_hash = |e: &&str| e.len() == 64 && e.bytes().all(|b| b.is_ascii_hexdigit());
            let etag = header(&response, "x-linked-etag").map(|e| e.trim_matches('"'));
            Ok(etag.filter(is_hash).map(str::to_lowercase))
        }
        Err(e) if e.is_connect() => Err(Error::download(format!("cannot reach {url}: {}", why(&e)))),
        Err(_) => Ok(None),
    }
}

/// Whether there is a file at an address.
///
/// # Errors
/// When the server cannot be reached, or refuses to say.
pub(crate) fn exists(url: &str, token: Option<&str>) -> Result<bool> {
    let mut request = client(Policy::default())?.head(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().map_err(|e| Error::download(format!("cannot reach {url}: {}", why(&e))))?;
    match response.status().as_u16() {
        200..=299 => Ok(true),
        404 => Ok(false),
        status => Err(refused(url, status)),
    }
}

fn refused(url: &str, status: u16) -> Error {
    let why = match status {
        401 | 403 => " (access refused; a token may be needed: HF_TOKEN)",
        404 => " (no such file)",
        407 => " (the proxy asks for a name and a password)",
        _ => "",
    };
    Error::download(format!("{url}: the server answered {status}{why}"))
}

/// How long a server may be silent (`FOREWORD_DOWNLOAD_TIMEOUT`, in seconds).
fn silence() -> Duration {
    let wanted = std::env::var("FOREWORD_DOWNLOAD_TIMEOUT").ok().and_then(|v| v.parse::<f64>().ok());
    let wanted = wanted.filter(|&s| s > 0.0).and_then(|s| Duration::try_from_secs_f64(s).ok());
    wanted.unwrap_or(Duration::from_secs(20))
}

fn client(redirects: Policy) -> Result<Client> {
    // Set already by an earlier call, it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let proxies = Proxies::from_env()?;
    // Of Mozilla, for systems that come without.
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|c| reqwest::Certificate::from_der(c).ok());
    Client::builder()
        .user_agent(concat!("foreword/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .referer(false)
        .connect_timeout(Duration::from_secs(10))
        // Of each read, not of all together.
        .timeout(silence())
        .pool_max_idle_per_host(0)
        .tls_certs_merge(roots)
        .proxy(reqwest::Proxy::custom(move |url| proxies.to(url)))
        .build()
        .map_err(|e| Error::download(format!("cannot set up downloads: {}", why(&e))).caused_by(e))
}

fn copy(from: &mut Response, to: &mut File, start: u64, bar: &ProgressBar, url: &str) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = start;
    loop {
        let n = from
            .read(&mut buffer)
            .map_err(|e| retry(format!("{url}: the connection broke after {done} bytes: {}", why(&e))))?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n]).map_err(cannot_write)?;
        done += n as u64;
        bar.set_position(done);
    }
}

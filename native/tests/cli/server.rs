//! A web server that misbehaves as its paths say.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a request looked like.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// Serves one file under paths that say how.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn start(file: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is none of the server's business.
                let _ = answer(stream, &file, &log);
            }
        });
        Server { address, seen }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    Ok(Seen { method, path, headers })
}

fn answer(mut stream: TcpStream, file: &[u8], log: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let seen = read_request(&stream)?;
    let how = seen.path.split('/').nth(1).unwrap_or_default().to_string();
    let before = {
        let mut log = log.lock().expect("no panic");
        log.push(seen.clone());
        log.iter().filter(|s| s.path == seen.path).count() - 1
    };
    // A file that changes has another tag from the second request on.
    let etag = if how == "changing" { format!("\"{}\"", before.min(1)) } else { "\"one\"".to_string() };
    let resumes = !matches!(how.as_str(), "dropping");
    let range = seen.headers.get("range").filter(|_| resumes && seen.headers.get("if-range") == Some(&etag));
    let start = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0usize);
    let sent = match how.as_str() {
        // The second half of what is left never comes, twice.
        "flaky" if before < 2 => (file.len() - start) / 2,
        "changing" if before == 0 => file.len() / 2,
        "dropping" => 1000,
        _ => file.len() - start,
    };
    let plain = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}\r\n");
    let (head, body): (String, &[u8]) = match how.as_str() {
        "busy" if before < 2 => (plain("503 Service Unavailable", "content-length: 0\r\n"), &[]),
        "missing" => (plain("404 Not Found", "content-length: 0\r\n"), &[]),
        "secret" => (plain("401 Unauthorized", "content-length: 0\r\n"), &[]),
        "page" => (plain("200 OK", "content-length: 15\r\n"), b"<html>no</html>"),
        "moved" => (plain("302 Found", "content-length: 0\r\nlocation: /whole/model.gguf\r\n"), &[]),
        // As the hub does: what the file is, and where its bytes lie.
        "owner" | "liar" => {
            let sha256 = if how == "owner" { sha256(file) } else { "0".repeat(64) };
            let headers =
                format!("content-length: 0\r\nx-linked-etag: \"{sha256}\"\r\nlocation: /whole/model.gguf\r\n");
            (plain("302 Found", &headers), &[])
        }
        _ => {
            let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
            let headers = format!("content-length: {}\r\netag: {etag}\r\n", file.len() - start);
            (plain(status, &headers), &file[start..start + sent])
        }
    };
    stream.write_all(head.as_bytes())?;
    if seen.method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

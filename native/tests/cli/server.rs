//! A web server that misbehaves as its paths say. It is a proxy, too: it takes addresses of other servers for its own paths,
//! by HTTP and behind the greetings of SOCKS 4 and 5.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
                let (file, log) = (file.clone(), log.clone());
                // A client that goes away is none of the server's business.
                std::thread::spawn(move || greet(&stream, &log).and_then(|()| answer(stream, &file, &log)));
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

/// Gets through the greetings of SOCKS, of which the log keeps the version and the host that was asked for.
fn greet(mut stream: &TcpStream, log: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut first = [0];
    stream.peek(&mut first)?;
    let (path, reply): (String, &[u8]) = match first[0] {
        4 => {
            let head = read(stream, 8)?;
            let mut text = Vec::new();
            // The user, and the host where the address says that it follows.
            for _ in 0..if head[4..7] == [0; 3] { 2 } else { 1 } {
                text.clear();
                while let [byte @ 1..=255] = read(stream, 1)?[..] {
                    text.push(byte);
                }
            }
            let host = if head[4..7] == [0; 3] { String::from_utf8_lossy(&text).into() } else { dotted(&head[4..8]) };
            (host, &[0, 0x5a, 0, 0, 0, 0, 0, 0])
        }
        5 => {
            let n = read(stream, 2)?[1];
            let with_password = read(stream, n.into())?.contains(&2);
            stream.write_all(&[5, if with_password { 2 } else { 0 }])?;
            let mut user = String::new();
            if with_password {
                let n = read(stream, 2)?[1];
                user = String::from_utf8_lossy(&read(stream, n.into())?).into_owned() + ":";
                let n = read(stream, 1)?[0];
                user += &(String::from_utf8_lossy(&read(stream, n.into())?).into_owned() + "@");
                stream.write_all(&[1, 0])?;
            }
            let host = match read(stream, 4)?[3] {
                1 => dotted(&read(stream, 4)?),
                _ => {
                    let n = read(stream, 1)?[0];
                    String::from_utf8_lossy(&read(stream, n.into())?).into_owned()
                }
            };
            read(stream, 2)?;
            (user + &host, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        }
        _ => return Ok(()),
    };
    log.lock().expect("no panic").push(Seen { method: format!("SOCKS{}", first[0]), path, headers: HashMap::new() });
    stream.write_all(reply)
}

fn read(mut stream: &TcpStream, n: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn dotted(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(".")
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
    // A proxy is asked for whole addresses.
    let own = seen.path.strip_prefix("http://").map_or(seen.path.as_str(), |rest| &rest[rest.find('/').unwrap_or(0)..]);
    let how = own.split('/').nth(1).unwrap_or_default().to_string();
    // A hub of tiny checkpoints: /checkpoints/NAME/resolve/main/FILE.
    let stored = || std::fs::read(format!("../tests/data{}", own.replace("/resolve/main", ""))).ok();
    let stored = if how == "checkpoints" { stored() } else { None };
    let file = stored.as_deref().unwrap_or(file);
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
        "changing" | "silent" | "cut" | "from-zero" | "rangeless" if before == 0 => file.len() / 2,
        "mute" if before == 0 => 0,
        "dropping" => 1000,
        _ => file.len() - start,
    };
    let plain = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}\r\n");
    let (head, body): (String, &[u8]) = match how.as_str() {
        "busy" if before < 2 => (plain("503 Service Unavailable", "content-length: 0\r\n"), &[]),
        "limited" if before == 0 => (plain("429 Too Many", "content-length: 0\r\nretry-after: 1\r\n"), &[]),
        "overrun" => (plain("503 Busy", "content-length: 0\r\nretry-after: 86400\r\n"), &[]),
        "checkpoints" if stored.is_none() => (plain("404 Not Found", "content-length: 0\r\n"), &[]),
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
        "mute" if before == 0 => (String::new(), &[]),
        "cut" => (plain("200 OK", ""), &file[..sent]),
        "from-zero" if start > 0 => {
            let range = format!("content-range: bytes 0-{}/{}\r\n", file.len() - 1, file.len());
            (plain("206 Partial Content", &format!("content-length: {}\r\n{range}", file.len())), file)
        }
        _ => {
            let range = format!("content-range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
            let (status, range) = match how.as_str() {
                _ if start == 0 => ("200 OK", ""),
                "rangeless" => ("206 Partial Content", ""),
                _ => ("206 Partial Content", range.as_str()),
            };
            let headers = format!("content-length: {}\r\netag: {etag}\r\n{range}", file.len() - start);
            (plain(status, &headers), &file[start..start + sent])
        }
    };
    if how == "slow" {
        std::thread::sleep(Duration::from_millis(300));
    }
    stream.write_all(head.as_bytes())?;
    if seen.method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()?;
    if matches!(how.as_str(), "silent" | "mute") && before == 0 {
        // Until the client has had enough.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

//! A server that runs, and the few lines of HTTP that it takes to ask it.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that serves. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    address: String,
}

/// An answer over HTTP, without its chunks' sizes.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    body: String,
}

/// A request that is being answered.
pub(crate) struct Open(TcpStream);

/// A tiny model that chats: those of the repository have no template.
pub(crate) fn model() -> &'static str {
    static MODEL: LazyLock<(tempfile::TempDir, String)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        let plain = std::fs::read("../tests/data/models/llama.gguf").expect("a model");
        std::fs::write(&path, with_template(&plain)).expect("a file");
        let path = path.to_str().expect("a path").to_string();
        (folder, path)
    });
    &MODEL.1
}

/// A model file with a chat template in its header, of such a length that the tensors' places stay aligned.
fn with_template(file: &[u8]) -> Vec<u8> {
    let text = include_str!("template.jinja");
    let name = "tokenizer.chat_template";
    let rest = (8 + name.len() + 4 + 8 + text.len()) % 32;
    let text = format!("{text}{{#{}#}}", " ".repeat(60 - rest));
    let mut entry = (name.len() as u64).to_le_bytes().to_vec();
    entry.extend(name.as_bytes());
    entry.extend(8u32.to_le_bytes());
    entry.extend((text.len() as u64).to_le_bytes());
    entry.extend(text.as_bytes());
    assert_eq!(entry.len() % 32, 0);
    let entries = u64::from_le_bytes(file[16..24].try_into().expect("eight bytes")) + 1;
    [&file[..16], &entries.to_le_bytes(), &entry, &file[24..]].concat()
}

/// A chat with `fields` besides.
pub(crate) fn chat(fields: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

/// A header's value.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
    command.args(["serve", "--port", "0", "--threads", "1"]).args(args).env_remove("FOREWORD_API_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Server {
    /// Serves the model that chats.
    pub(crate) fn start(args: &[&str]) -> Server {
        Self::start_with(&[model()], args)
    }

    /// Serves models.
    pub(crate) fn start_with(models: &[&str], args: &[&str]) -> Server {
        let mut child = program(&[models, args].concat()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim_end().strip_prefix("listening on http://").expect("an address").to_string();
        Server { child, address }
    }

    /// What a server of the model that chats says which does not start.
    pub(crate) fn start_failing(args: &[&str]) -> String {
        Self::start_failing_with(&[&[model()], args].concat())
    }

    /// What a server says that does not start.
    pub(crate) fn start_failing_with(args: &[&str]) -> String {
        let output = program(args).output().expect("the program starts");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "", body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let headers = format!("{headers}content-length: {}\r\n", body.len());
        Reply::of(&self.connect(method, path, &headers, body).all())
    }

    /// Sends the head of a request only.
    pub(crate) fn send_head(&self, method: &str, path: &str, headers: &str) -> Reply {
        Reply::of(&self.connect(method, path, headers, b"").all())
    }

    /// Asks, without waiting for the answer.
    pub(crate) fn open(&self, path: &str, body: &Value) -> Open {
        let body = body.to_string();
        self.connect("POST", path, &format!("content-length: {}\r\n", body.len()), body.as_bytes())
    }

    fn connect(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Open {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let host = if headers.starts_with("host: ") { String::new() } else { format!("host: {}\r\n", self.address) };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).expect("the server reads");
        Open(stream)
    }

    /// A value of `/metrics`; 0 for one that is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for(&self, name: &str, value: f64) {
        let begun = Instant::now();
        while self.metric(name) != value {
            assert!(begun.elapsed() < PATIENCE, "{name} is {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells the program to end.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.child.wait().expect("an end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Open {
    pub(crate) fn read_until(&mut self, text: &str) {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) {
            self.0.read_exact(&mut byte).expect("the server goes on");
            seen.push(byte[0]);
        }
    }

    /// Everything else.
    pub(crate) fn rest(mut self) -> String {
        String::from_utf8(self.all()).expect("text")
    }

    fn all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).expect("an answer");
        all
    }
}

impl Reply {
    fn of(bytes: &[u8]) -> Reply {
        let text = std::str::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let chunked = field(head, "transfer-encoding") == Some("chunked");
        let body = if chunked { whole(body) } else { body.to_string() };
        Reply { status, head: head.to_string(), body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Server-sent events: names and data.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        let value = |event: &str, name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_string()
        };
        events.map(|event| (value(event, "event"), value(event, "data"))).collect()
    }
}

/// A body that came in chunks.
fn whole(mut body: &str) -> String {
    let mut all = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        all.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    all
}

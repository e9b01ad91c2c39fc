//! Batches of requests: their lines, and runs that were killed.

use crate::{Run, TINY, finish, foreword, run};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn completion(id: usize, prompt: &Value, max_tokens: usize) -> String {
    let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 1.0, "ignore_eos": true});
    json!({"custom_id": format!("r{id}"), "method": "POST", "url": "/v1/completions", "body": body}).to_string()
}

/// The texts of the answers by their ids; every line is whole, and no id occurs twice.
fn answers(path: &Path) -> HashMap<String, Vec<String>> {
    let text = std::fs::read_to_string(path).expect("answers");
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut answers = HashMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a whole line");
        let choices = line["response"]["body"]["choices"].as_array().expect("choices");
        let texts = choices.iter().map(|c| c["text"].as_str().expect("a text").to_string()).collect();
        let id = line["custom_id"].as_str().expect("an id").to_string();
        assert!(answers.insert(id, texts).is_none(), "two answers to one request");
    }
    answers
}

#[test]
fn lines_are_those_of_openai() {
    let folder = tempfile::tempdir().expect("a folder");
    let (prompts, out) = (folder.path().join("prompts.jsonl"), folder.path().join("out.jsonl"));
    let lines = [
        completion(0, &"Once upon".into(), 5),
        completion(1, &json!(["One", "Two", "Three"]), 4),
        json!({"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}})
            .to_string(),
        json!({"custom_id": "url", "method": "POST", "url": "/v1/embeddings", "body": {}}).to_string(),
        completion(2, &"x".repeat(5000).into(), 5),
    ];
    std::fs::write(&prompts, lines.join("\n")).expect("a file");
    let args = ["batch", TINY, prompts.to_str().expect("a path"), "-o", out.to_str().expect("a path")];
    assert_eq!(run(&args).code, 0);
    let text = std::fs::read_to_string(&out).expect("answers");
    let by_id: HashMap<String, Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .map(|line: Value| (line["custom_id"].as_str().expect("an id").to_string(), line))
        .collect();
    assert_eq!(by_id.len(), lines.len());
    let good = &by_id["r0"];
    assert_eq!((&good["response"]["status_code"], &good["error"]), (&200.into(), &Value::Null));
    assert_eq!(good["response"]["body"]["usage"]["completion_tokens"], 5);
    let many = &by_id["r1"]["response"]["body"];
    let indices: Vec<_> = many["choices"].as_array().expect("choices").iter().map(|c| c["index"].as_u64()).collect();
    assert_eq!(indices, [Some(0), Some(1), Some(2)]);
    assert_eq!(many["usage"]["completion_tokens"], 12);
    for (id, code) in [("chat", "invalid_request"), ("url", "invalid_request"), ("r2", "context_length_exceeded")] {
        let status = 400;
        let line = &by_id[id];
        assert_eq!(
            (&line["error"]["code"], &line["response"]["status_code"]),
            (&code.into(), &status.into()),
            "{line}"
        );
        assert_eq!(line["response"]["body"]["error"]["code"], code);
    }
}

#[test]
fn all_choices_are_answered_and_too_many_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (prompts, out) = (folder.path().join("prompts.jsonl"), folder.path().join("out.jsonl"));
    let with = |id: &str, n: usize, prompt: Value| {
        let body = json!({"prompt": prompt, "n": n, "max_tokens": 3, "temperature": 1.0, "ignore_eos": true});
        json!({"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body}).to_string()
    };
    // More than are under way at once: the later ones wait.
    let mut lines: Vec<String> = (0..66).map(|i| with(&format!("wide{i}"), 128, "Hi".into())).collect();
    lines.push(with("three", 3, "Once upon".into()));
    lines.push(with("both", 2, json!(["One", "Two"])));
    lines.push(with("many", 128, json!(vec!["a"; 65])));
    lines.push(with("none", 0, "a".into()));
    std::fs::write(&prompts, lines.join("\n")).expect("a file");
    let args = ["batch", TINY, prompts.to_str().expect("a path"), "-o", out.to_str().expect("a path")];
    assert_eq!(run(&args).code, 0);
    let text = std::fs::read_to_string(&out).expect("answers");
    let by_id: HashMap<String, Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .map(|line: Value| (line["custom_id"].as_str().expect("an id").to_string(), line["response"]["body"].clone()))
        .collect();
    assert_eq!(by_id.len(), lines.len());
    let choices = |id: &str| by_id[id]["choices"].as_array().map_or(0, Vec::len);
    assert!((0..66).all(|i| choices(&format!("wide{i}")) == 128));
    assert_eq!((choices("three"), choices("both")), (3, 4));
    assert_eq!(by_id["both"]["usage"]["completion_tokens"], 12);
    for (id, field) in [("many", "prompt"), ("none", "n")] {
        assert_eq!(by_id[id]["error"]["param"], field, "{}", by_id[id]);
    }
}

#[test]
fn a_killed_run_goes_on_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let prompts = folder.path().join("prompts.jsonl");
    let lines: Vec<String> =
        (0..300).map(|i| completion(i, &format!("Request number {i} asks").into(), 60 + i % 40)).collect();
    std::fs::write(&prompts, lines.join("\n")).expect("a file");
    let command = |out: &Path| {
        let args = ["batch", TINY, prompts.to_str().expect("a path"), "-o", out.to_str().expect("a path")];
        foreword(folder.path(), &args)
    };
    let whole = folder.path().join("whole.jsonl");
    assert_eq!(finish(&mut command(&whole)).code, 0);
    let expected = answers(&whole);
    assert_eq!(expected.len(), 300);

    let out = folder.path().join("out.jsonl");
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let mut kills = 0;
    for _ in 0..5 {
        let before = len(&out);
        let mut child = command(&out).stderr(Stdio::null()).spawn().expect("the program starts");
        // The first thing that it does is to drop the torn line; killed once it wrote some of its own.
        while len(&out) <= before && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        kills += usize::from(child.try_wait().expect("a child").is_none());
        // A child that has ended cannot be killed any more.
        let _ = child.kill();
        child.wait().expect("an end");
        // As if the power had failed inside a line.
        let mut text = std::fs::read(&out).expect("answers");
        text.extend_from_slice(br#"{"id": "batch_req_1", "custom_"#);
        std::fs::write(&out, text).expect("a file");
    }
    assert!(kills > 1, "runs ended before they were killed");
    assert_eq!(finish(&mut command(&out)).code, 0);
    assert_eq!(answers(&out), expected);
    let again = finish(&mut command(&out));
    assert!(again.code == 0 && again.err.contains("all 300 answers"), "{}", again.err);
}

#[test]
fn mistakes_in_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_string()
    };
    let one = completion(1, &"Hi".into(), 1);
    let good = path("good.jsonl", &one);
    let fails = |prompts: &str, out: &str, words: &str| {
        let run = run(&["batch", TINY, prompts, "-o", out]);
        assert!(run.code != 0 && run.err.contains(words), "{}", run.err);
    };
    let out = path("out.jsonl", "");
    fails("/nowhere/prompts.jsonl", &out, "cannot read");
    fails(folder.path().to_str().expect("a path"), &out, "cannot read");
    fails(&path("twice.jsonl", &format!("{one}\n{one}\n")), &out, "line 2: the custom_id \"r1\" was there before");
    fails(&path("torn.jsonl", &one[..20]), &out, "line 1");
    let nameless = one.replace("custom_id", "name");
    fails(&path("nameless.jsonl", &format!("{one}\n{nameless}")), &out, "line 2: missing field `custom_id` (column ");
    let number = one.replace("\"r1\"", "1");
    fails(&path("number.jsonl", &number), &out, "line 1: invalid type: integer `1`, expected a string");
    fails(&good, "/nowhere/out.jsonl", "cannot open /nowhere/out.jsonl");
    fails(&good, folder.path().to_str().expect("a path"), "cannot open");
    assert_eq!(std::fs::read(&out).expect("the file"), b"");
}

/// A folder with a file of one request, and what runs it.
struct One {
    folder: tempfile::TempDir,
}

impl One {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("in.jsonl"), completion(1, &"Hi".into(), 2)).expect("a file");
        One { folder }
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).expect("a file")
    }

    /// The program in the folder.
    fn command(&self, input: &str, output: &str) -> Command {
        let model = std::path::absolute(TINY).expect("a path");
        let mut command = foreword(self.folder.path(), &["batch"]);
        command.arg(model).args([input, "-o", output]).current_dir(self.folder.path());
        command
    }

    fn run(&self, input: &str, output: &str) -> Run {
        finish(&mut self.command(input, output))
    }

    /// The run fails with these words.
    fn fails(&self, input: &str, output: &str, words: &str) {
        let run = self.run(input, output);
        assert!(run.code != 0 && run.err.contains(words), "{input} to {output}: {} {}", run.code, run.err);
    }

    /// The one answer of a text.
    fn answer(text: &[u8]) -> Value {
        let text = std::str::from_utf8(text).expect("text");
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        let line: Value = serde_json::from_str(text).expect("a line");
        assert_eq!((&line["custom_id"], &line["error"]), (&"r1".into(), &Value::Null));
        line
    }
}

#[test]
fn a_strangers_file_as_output_is_left_alone() {
    let one = One::new();
    assert_eq!(one.run("in.jsonl", "ours.jsonl").code, 0);
    let ours = one.read("ours.jsonl");
    let request = one.read("in.jsonl");
    let theirs = String::from_utf8(ours.clone()).expect("text").replace("batch_req_", "batch_req_0");
    let strangers: [&[u8]; 13] = [
        b"notes of somebody, one line and no line end",
        b"shopping\nlist",
        b"\n\n",
        b"{",
        b"{}",
        b"[1, 2]\n",
        b"\x00\x01\xff\xfe",
        b"GGUF\x03\0\0\0",
        &request,
        theirs.as_bytes(),
        theirs.trim_end().as_bytes(),
        &[&ours[..], b"and a remark"].concat(),
        &[&ours[..], &request, b"\n", &ours[..40]].concat(),
    ];
    for bytes in strangers {
        one.file("notes.txt", bytes);
        one.fails("in.jsonl", "notes.txt", "is no answer of a batch; the file is left as it is");
        assert_eq!(one.read("notes.txt"), bytes);
    }
}

#[test]
fn a_torn_last_line_of_ours_is_written_again_and_a_whole_one_is_kept() {
    let one = One::new();
    assert_eq!(one.run("in.jsonl", "out.jsonl").code, 0);
    let whole = one.read("out.jsonl");
    for cut in [&whole[..30], &whole[..whole.len() - 2], &[&whole[..50], &[0; 20]].concat()] {
        one.file("out.jsonl", cut);
        assert_eq!(one.run("in.jsonl", "out.jsonl").code, 0);
        One::answer(&one.read("out.jsonl"));
    }
    // Only the line end is missing.
    let before = one.read("out.jsonl");
    one.file("out.jsonl", &before[..before.len() - 1]);
    let run = one.run("in.jsonl", "out.jsonl");
    assert!(run.code == 0 && run.err.contains("all 1 answers"), "{}", run.err);
    assert_eq!(one.read("out.jsonl"), before);
}

#[test]
fn the_input_is_no_output() {
    let one = One::new();
    let request = one.read("in.jsonl");
    std::fs::hard_link(one.folder.path().join("in.jsonl"), one.folder.path().join("hard.jsonl")).expect("a link");
    std::fs::create_dir(one.folder.path().join("sub")).expect("a folder");
    #[cfg(unix)]
    std::os::unix::fs::symlink("in.jsonl", one.folder.path().join("soft.jsonl")).expect("a link");
    for name in ["in.jsonl", "./sub/../in.jsonl", "hard.jsonl", if cfg!(unix) { "soft.jsonl" } else { "in.jsonl" }] {
        one.fails("in.jsonl", name, "is the file of requests, too");
    }
    let file = std::fs::File::options().append(true).open(one.folder.path().join("in.jsonl")).expect("a file");
    let run = one.command("in.jsonl", "-").stdout(file).output().expect("the program runs");
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(one.read("in.jsonl"), request);
}

#[test]
fn a_second_run_at_once_is_refused() {
    let one = One::new();
    one.file("out.jsonl", b"");
    let file = std::fs::File::options().write(true).open(one.folder.path().join("out.jsonl")).expect("a file");
    file.try_lock().expect("a lock");
    one.fails("in.jsonl", "out.jsonl", "is being written by another run");
    file.unlock().expect("no lock");
    assert_eq!(one.run("in.jsonl", "out.jsonl").code, 0);
    One::answer(&one.read("out.jsonl"));
}

#[test]
fn answers_that_go_nowhere_are_an_error() {
    let one = One::new();
    // So many that the file is moved before they are answered; the run ends with the first answer.
    let requests: Vec<String> = (0..2000).map(|i| completion(i, &"Hi".into(), 100)).collect();
    one.file("many.jsonl", requests.join("\n").as_bytes());
    let mut child = one.command("many.jsonl", "out.jsonl").stderr(Stdio::piped()).spawn().expect("the program starts");
    let out = one.folder.path().join("out.jsonl");
    while !out.exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::rename(&out, one.folder.path().join("moved.jsonl")).expect("a file");
    let output = child.wait_with_output().expect("an end");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(6) && words.contains("out.jsonl was removed or replaced"), "{words}");
}

#[test]
fn answers_to_standard_output() {
    let one = One::new();
    One::answer(one.run("in.jsonl", "-").out.as_bytes());
    assert!(!one.folder.path().join("-").exists());
}

#[test]
#[cfg(unix)]
fn answers_to_pipes_and_devices() {
    let one = One::new();
    One::answer(one.run("in.jsonl", "/dev/stdout").out.as_bytes());
    assert_eq!(one.run("in.jsonl", "/dev/null").code, 0);
    let made = Command::new("mkfifo").arg(one.folder.path().join("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    let mut child = one.command("in.jsonl", "pipe").stderr(Stdio::null()).spawn().expect("the program starts");
    One::answer(&one.read("pipe"));
    assert!(child.wait().expect("an end").success());
    if cfg!(target_os = "linux") {
        one.fails("in.jsonl", "/dev/full", "cannot write answers: No space left");
    }
}

#[test]
fn requests_as_editors_save_them() {
    let one = One::new();
    let text = completion(1, &"Hi".into(), 2);
    let two = completion(2, &"Hi".into(), 2);
    for bytes in [format!("\u{feff}{text}\n"), format!("\r\n{text}\r\n\n \t\n"), format!("{text}\n\n")] {
        one.file("edited.jsonl", bytes.as_bytes());
        One::answer(one.run("edited.jsonl", "-").out.as_bytes());
    }
    let wide = |bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        format!("{mark}{text}").encode_utf16().flat_map(bytes).collect()
    };
    for bytes in [wide(u16::to_le_bytes, "\u{feff}"), wide(u16::to_be_bytes, "\u{feff}"), wide(u16::to_le_bytes, "")] {
        one.file("wide.jsonl", &bytes);
        one.fails("wide.jsonl", "out.jsonl", "is UTF-16 text; save it as UTF-8");
    }
    let mut latin = format!("{text}\n{}", two.replace("Hi", "H#")).into_bytes();
    let at = latin.iter().position(|&b| b == b'#').expect("the sign");
    latin[at] = 0xe9;
    one.file("latin.jsonl", &latin);
    let byte = at - text.len();
    one.fails("latin.jsonl", "out.jsonl", &format!("latin.jsonl line 2: byte {byte} is no UTF-8 text"));
    assert!(!one.folder.path().join("out.jsonl").exists());
}

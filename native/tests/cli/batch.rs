//! Batches of requests: their lines, and runs that were killed.

use crate::{TINY, finish, foreword, run};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
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
    for (id, code) in [("chat", "invalid_request"), ("url", "invalid_request"), ("r2", "prompt_too_long")] {
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
    fails(&path("twice.jsonl", &format!("{one}\n{one}\n")), &out, "line 2: the custom_id \"r1\" was there before");
    fails(&path("torn.jsonl", &one[..20]), &out, "line 1");
    // A file that is something else is left as it is.
    let notes = path("notes.txt", "shopping\nlist");
    fails(&good, &notes, "line 1 is no answer of a batch");
    assert_eq!(std::fs::read_to_string(&notes).expect("the file"), "shopping\nlist");
}

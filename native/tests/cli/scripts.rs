//! Chats by script: what they print, and that nothing is read twice, also where layers keep states.

use crate::{TINY, run};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Capital letters, so that no two of them are one token of the tiny vocabulary, and a token is a byte.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role | upper }}>{{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}<ASSISTANT>{% endif %}";

/// A copy of a tiny model with a chat template.
fn with_template(folder: &Path, model: &str) -> PathBuf {
    let mut bytes = std::fs::read(model).expect("a model");
    let key = "tokenizer.chat_template";
    // The data keep their alignment.
    let head = 8 + key.len() + 4 + 8;
    let padded = (head + TEMPLATE.len() + 6).next_multiple_of(32) - head;
    let template = format!("{TEMPLATE}{{#{}#}}", " ".repeat(padded - TEMPLATE.len() - 4));
    let [n_key, n_template] = [key, &template].map(|text| (text.len() as u64).to_le_bytes());
    let pair = [&n_key[..], key.as_bytes(), &8_u32.to_le_bytes(), &n_template, template.as_bytes()].concat();
    bytes.splice(24..24, pair);
    bytes[16] += 1;
    let path = folder.join("chat.gguf");
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// Plays a script with answers of `AAAAA`; returns what each turn printed.
fn play(model: &str, script: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let model = with_template(folder.path(), model);
    let path = folder.path().join("script.jsonl");
    std::fs::write(&path, script.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("a file");
    let [model, path] = [&model, &path].map(|path| path.to_str().expect("a path"));
    let a = format!("{}=90", 3 + u32::from(b'A'));
    let done = run(&[
        "chat",
        model,
        "--script",
        path,
        "--json",
        "--context",
        "4096",
        "--max-tokens",
        "5",
        "--temperature",
        "0",
        "--logit-bias",
        &a,
    ]);
    assert_eq!(done.code, 0, "{}", done.err);
    done.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// Ten turns, then the last question changed, its answer made anew, and the chat gone on with behind the fifth turn.
#[test]
fn a_chat_with_edits_and_branches_reads_what_is_new() {
    // Without a space, which would be three bytes.
    let question = |i: usize| format!("Q{i}.{}", "WXYZ".repeat(50));
    let mut script: Vec<Value> = (0..10).map(|i| serde_json::json!({ "say": question(i) })).collect();
    script.push(serde_json::json!({"edit": 10, "say": question(10)}));
    script.push(serde_json::json!({"regenerate": true}));
    script.push(serde_json::json!({"branch": 5}));
    script.push(serde_json::json!({ "say": question(11) }));
    // Questions of all turns that are answered.
    let linear = |n: usize| (0..n).collect::<Vec<_>>();
    let mut chats: Vec<Vec<usize>> = (1..=10).map(linear).collect();
    let edited = [linear(9), vec![10]].concat();
    chats.extend([edited.clone(), edited, [linear(5), vec![11]].concat()]);
    let hybrids = ["lfm2", "qwen35", "granitehybrid"].map(|name| format!("../tests/data/models/{name}.gguf"));
    for model in [TINY].into_iter().chain(hybrids.iter().map(String::as_str)) {
        let turns = play(model, &script);
        assert_eq!(turns.len(), chats.len());
        let (mut known, mut new, mut read): (Vec<String>, usize, usize) = (Vec::new(), 0, 0);
        for (turn, questions) in turns.iter().zip(&chats) {
            assert_eq!((&turn["text"], &turn["turn"]), (&"AAAAA".into(), &questions.len().into()));
            let asked: Vec<String> = questions.iter().map(|&i| format!("<USER>{}\n<ASSISTANT>", question(i))).collect();
            let prompt = asked.join("AAAAA\n");
            let count = |name: &str| turn["usage"][name].as_u64().expect("a number") as usize;
            assert_eq!(count("prompt_tokens"), 1 + prompt.len(), "the first token, then one for each byte");
            let common = |text: &String| text.bytes().zip(prompt.bytes()).take_while(|(a, b)| a == b).count();
            new += prompt.len() - known.iter().map(common).max().unwrap_or(0);
            read += count("prompt_tokens") - count("cached_tokens");
            known.push(prompt + "AAAAA");
        }
        println!("{model}: {read} tokens read, {new} of them new");
        assert!(new > 2000 && read <= new + new / 20, "{model}: {read} tokens read, {new} of them new");
    }
}

#[test]
fn scripts_that_cannot_be_played_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = with_template(folder.path(), TINY);
    let path = folder.path().join("script.jsonl");
    let [model, script] = [&model, &path].map(|path| path.to_str().expect("a path").to_string());
    for (text, words) in [
        ("{\"say\": \"A\"}\n\n{\"tell\": \"B\"}", "line 3"),
        ("{\"branch\": 1}", "turn 1 of a chat of 0 turns"),
        ("{\"say\": \"A\"}\n{\"edit\": 2, \"say\": \"B\"}", "turn 2 of a chat of 1 turns"),
    ] {
        std::fs::write(&path, text).expect("a file");
        let done = run(&["chat", &model, "--script", &script, "--max-tokens", "1"]);
        assert!(done.code == 2 && done.err.contains(words), "{text}: {} {}", done.code, done.err);
    }
    let missing = run(&["chat", &model, "--script", "/nowhere/script.jsonl"]);
    assert!(missing.code != 0 && missing.err.contains("cannot read the script"), "{}", missing.err);
    assert_eq!(run(&["chat", &model, "--json"]).code, 2, "JSON is for scripts");
}

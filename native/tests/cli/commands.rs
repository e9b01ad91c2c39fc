//! Help, and what is answered to mistakes.

use crate::{TINY, files, foreword, run, run_with_input};
use std::process::Stdio;

#[test]
fn help_shows_examples() {
    run(&["--help"]).is("help");
    for command in ["pull", "run", "chat", "batch", "bench", "perplexity", "tokenize", "inspect"] {
        let help = run(&[command, "--help"]);
        assert!(help.out.contains("Example") && help.out.contains(&format!("foreword {command}")), "{}", help.out);
        help.is(&format!("help-{command}"));
    }
    run(&["bench", "prefill", "--help"]).is("help-bench-prefill");
    run(&["bench", "speculate", "--help"]).is("help-bench-speculate");
    run(&["bench", "ttft", "--help"]).is("help-bench-ttft");
    run(&["eval", "kv-prediction", "--help"]).is("help-eval-kv-prediction");
}

#[test]
fn nothing_typed_is_a_question_for_help() {
    let run = run(&[]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.contains("Usage: foreword"), "{}", run.err);
}

#[test]
fn models_that_do_not_exist() {
    run(&["run", "smollm3", "Hello"]).is("unknown-model");
    run(&["inspect", "/nowhere/model.gguf"]).is("missing-file");
    run(&["inspect", "../tests/data"]).is("folder");
    run(&["pull", "hf:owner/model.gguf"]).is("hub-without-file");
    run(&["pull", "hf:owner/../model.gguf"]).is("hub-outside");
}

#[test]
fn damaged_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let sound = std::fs::read(TINY).expect("a model");
    let mut flipped = sound.clone();
    flipped[8..16].fill(0xff);
    let cases = [
        ("truncated", &sound[..sound.len() / 2]),
        ("empty", &[]),
        ("text", b"This is no model, but it is long enough to hold a header."),
        ("absurd-count", &flipped),
    ];
    for (name, bytes) in cases {
        std::fs::write(folder.path().join("model.gguf"), bytes).expect("a file");
        let run = crate::finish(foreword(folder.path(), &["run", "model.gguf", "Hi"]).current_dir(folder.path()));
        run.is(&format!("damaged-{name}"));
    }
    assert_eq!(files(folder.path()), ["model.gguf"]);
}

#[test]
fn mistakes_in_arguments() {
    run(&["run", TINY, "Hi", "--raw", "--temperature", "-1"]).is("temperature");
    run(&["run", TINY, "Hi", "--raw", "--threads", "0"]).is("threads");
    run(&["run", TINY, "Hi", "--raw", "--max-tokens", "0"]).is("max-tokens");
    run(&["run", TINY, "Hi", "--raw", "--logit-bias", "x"]).is("logit-bias");
    run(&["run", TINY, "Hi", "--raw", "--logit-bias", "99999=1"]).is("logit-bias-outside");
    run(&["run", TINY, "Hi", "--logprobs", "3"]).is("logprobs-without-json");
    run(&["run", TINY, "Hi"]).is("no-template");
    run(&["chat", TINY]).is("chat-no-template");
    run(&["run", TINY, &"long ".repeat(60), "--raw", "--context", "64"]).is("too-long");
    run(&["bench", TINY, "--reps", "0"]).is("bench-reps");
    run(&["bench", "prefill", TINY, "--dataset", "/nowhere/prompts"]).is("bench-prefill-no-file");
    run(&["bench", "prefill", TINY, "--dataset", "Cargo.toml"]).is("bench-prefill-no-lines");
    run(&["run", TINY, "Hi", "--raw", "--speculate", "rsd-s:0"]).is("speculate-nothing");
    run(&["run", TINY, "Hi", "--raw", "--speculate", "rsd-s:300"]).is("speculate-too-much");
    run(&["run", TINY, "Hi", "--raw", "--speculate", "guessing"]).is("speculate-unknown");
    run(&["run", TINY, "Hi", "--raw", "--speculate", "auto", "--draft", "layers:99"]).is("draft-layers");
    run(&["perplexity", TINY, "--file", "/nowhere/text"]).is("perplexity-no-file");
    run(&["perplexity", TINY, "--file", "Cargo.toml", "--context", "99999"]).is("perplexity-context");
    run_with_input(&["tokenize", TINY], b"\xff\xfe no text").is("tokenize-bytes");
}

#[test]
fn a_closed_pipe_is_success() {
    let cache = tempfile::tempdir().expect("a folder");
    for args in [&["inspect", TINY, "--tensors"][..], &["run", TINY, "Hi", "--raw", "--max-tokens", "20"], &["--help"]]
    {
        let mut child = foreword(cache.path(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("error"), "{args:?}: {err}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output_is_an_error() {
    let cache = tempfile::tempdir().expect("a folder");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the device");
    let output = foreword(cache.path(), &["inspect", TINY]).stdout(full).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(6));
}

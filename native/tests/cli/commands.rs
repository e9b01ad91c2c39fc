//! Help, and what is answered to mistakes.

use crate::{TINY, files, foreword, run, run_with_input};
use std::path::{Path, PathBuf};
use std::process::Stdio;

#[test]
fn help_shows_examples() {
    run(&["--help"]).is("help");
    for command in [
        "pull",
        "models",
        "run",
        "chat",
        "batch",
        "serve",
        "bench",
        "embed",
        "perplexity",
        "convert",
        "imatrix",
        "quantize",
        "tokenize",
        "inspect",
    ] {
        let help = run(&[command, "--help"]);
        assert!(help.out.contains("Example") && help.out.contains(&format!("foreword {command}")), "{}", help.out);
        help.is(&format!("help-{command}"));
    }
    run(&["bench", "prefill", "--help"]).is("help-bench-prefill");
    run(&["bench", "speculate", "--help"]).is("help-bench-speculate");
    run(&["bench", "constrain", "--help"]).is("help-bench-constrain");
    run(&["bench", "ttft", "--help"]).is("help-bench-ttft");
    run(&["bench", "start", "--help"]).is("help-bench-start");
    run(&["eval", "kv-prediction", "--help"]).is("help-eval-kv-prediction");
    run(&["eval", "code", "--help"]).is("help-eval-code");
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

/// A line an embedding, whether lines are read side by side or one by one; a wrong line is named.
#[test]
fn lines_are_embedded() {
    const ENCODER: &str = "../tests/data/encoders/bert.gguf";
    let lines = b"the dog runs\nunaffable\n\ncats\n";
    let report = |more: &[&str]| run_with_input(&[&["embed", ENCODER, "--json"], more].concat(), lines).json();
    let (packed, alone) = (report(&[]), report(&["--one-by-one"]));
    assert_eq!((&packed["model"], &packed["dimensions"]), (&ENCODER.into(), &32.into()));
    assert!(packed["texts_s"].as_f64().is_some_and(|n| n > 0.0));
    let embeddings = packed["embeddings"].as_array().expect("a list");
    assert!(embeddings.len() == 4 && embeddings.iter().all(|e| e.as_array().is_some_and(|e| e.len() == 32)));
    assert_eq!(packed["embeddings"], alone["embeddings"]);
    let cut = report(&["--dimensions", "3"]);
    assert!(cut["dimensions"] == 3 && cut["embeddings"][0].as_array().is_some_and(|e| e.len() == 3));
    let long = run_with_input(&["embed", ENCODER], format!("a\n{}\n", "a ".repeat(200)).as_bytes());
    assert!(long.code == 7 && long.err.contains("line 2: a text of 202 tokens"), "{}", long.err);
    let wrong = run_with_input(&["embed", ENCODER, "--dimensions", "33"], b"a");
    assert!(wrong.code == 2 && wrong.err.contains("--dimensions is 33"), "{}", wrong.err);
    let chat = run(&["run", ENCODER, "Hi", "--raw"]);
    assert!(chat.code == 2 && chat.err.contains("makes embeddings"), "{}", chat.err);
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

/// A copy of the tiny model in which the first weights of a tensor are no numbers.
fn without_numbers(folder: &Path, tensor: &str) -> PathBuf {
    use foreword::gguf::source::{BytesSource, Source};
    let mut bytes = std::fs::read(TINY).expect("a model");
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes.clone()))];
    let gguf = pollster::block_on(foreword::gguf::Gguf::read(&mut sources)).expect("a header");
    let at = gguf.tensor(tensor).expect("the tensor").offset as usize;
    // As 32-bit float, and as the 16-bit scale of a block.
    bytes[at..at + 4].copy_from_slice(&[0x00, 0x7e, 0xc0, 0x7f]);
    let path = folder.join("model.gguf");
    std::fs::write(&path, bytes).expect("a file");
    path
}

#[test]
fn weights_that_are_not_numbers_are_a_damaged_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for (tensor, words) in [("output_norm.weight", "output_norm.weight"), ("blk.0.ffn_down.weight", "not numbers")] {
        let model = without_numbers(folder.path(), tensor);
        let model = model.to_str().expect("a path");
        for args in [
            &["run", model, "ab", "--raw", "--temperature", "0"][..],
            &["run", model, "ab", "--raw", "--temperature", "1", "--top-k", "0", "--top-p", "1"],
            &["perplexity", model, "--file", "Cargo.toml", "--context", "64", "--chunks", "1"],
        ] {
            let run = run(args);
            assert!(run.code == 3 && run.err.contains(words), "{args:?}: {} {}", run.code, run.err);
        }
    }
}

#[test]
fn a_mixture_of_experts_is_unsupported_and_not_damaged() {
    let mut bytes = std::fs::read(TINY).expect("a model");
    let number = |key: &str, value: u32| -> Vec<u8> {
        let parts = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &4_u32.to_le_bytes(), &value.to_le_bytes()];
        parts.concat()
    };
    // Together of 64 bytes: the data keep their alignment.
    let pairs = [number("llama.expert_count", 8), number("fourteen bytes", 0)].concat();
    bytes.splice(24..24, pairs);
    bytes[16] += 2;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mixture.gguf");
    std::fs::write(&path, bytes).expect("a file");
    let path = path.to_str().expect("a path");
    let done = run(&["run", path, "ab", "--raw"]);
    assert!(done.code == 4 && done.err.contains("llama as a mixture of 8 experts is not supported"), "{}", done.err);
    let inspected = run(&["inspect", path]);
    assert!(
        inspected.code == 0 && inspected.out.contains("cannot run it: llama as a mixture of 8 experts"),
        "{}",
        inspected.out
    );
}

/// Names of files are bytes on Unix.
#[test]
#[cfg(target_os = "linux")]
fn paths_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().expect("a folder");
    let name = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let (model, text) = (name(b"mod\xffel.gguf"), name(b"te\xc3xt"));
    let (input, output) = (name(b"in\xff"), name(b"out\xff"));
    std::fs::copy(TINY, folder.path().join(&model)).expect("a copy");
    std::fs::write(folder.path().join(&text), "word ".repeat(200)).expect("a file");
    let request = r#"{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "ab", "max_tokens": 2}}"#;
    std::fs::write(folder.path().join(&input), request).expect("a file");
    let run = |args: &[&OsStr]| {
        let mut command = foreword(folder.path(), &[]);
        command.args(args).current_dir(folder.path());
        command.output().expect("the program starts")
    };
    let os = OsStr::new;
    for args in [
        &[os("run"), &model, os("ab"), os("--raw"), os("--max-tokens"), os("2")][..],
        &[os("run"), &model, os("ab"), os("--raw"), os("--speculate"), os("chain:2"), os("--draft"), &model],
        &[os("inspect"), &model],
        &[os("tokenize"), &model, os("--text"), os("ab")],
        &[os("bench"), &model, os("--prompt-tokens"), os("8"), os("--gen-tokens"), os("2"), os("--json")],
        &[os("perplexity"), &model, os("--file"), &text, os("--context"), os("64"), os("--chunks"), os("1")],
        &[os("batch"), &model, &input, os("-o"), &output],
    ] {
        let done = run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(folder.path().join(&output).exists());
    assert_eq!(run(&[os("pull"), &model]).stdout, b"mod\xffel.gguf\n");
    let missing = run(&[os("run"), &name(b"\xff.gguf"), os("ab")]);
    assert_eq!(missing.status.code(), Some(6));
    let words = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(words.contains("\u{fffd}.gguf is neither a file nor one of"), "{words}");
    let sidecar = run(&[os("run"), &model, os("ab"), os("--raw"), os("--sidecar"), &name(b"\xff")]);
    assert_eq!(sidecar.status.code(), Some(6));
}

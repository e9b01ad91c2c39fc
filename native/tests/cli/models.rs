//! Answers and JSON shapes, on a tiny random model and on the default one.

use crate::{TINY, finish, foreword, run, run_with_input};
use serde_json::Value;
use std::path::PathBuf;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn bench_has_the_fields_that_were_promised() {
    let args = ["bench", TINY, "--threads", "2", "--prompt-tokens", "40", "--gen-tokens", "8", "--reps", "3", "--json"];
    let report = run(&args).json();
    for key in [
        "model",
        "backend",
        "threads",
        "prompt_tokens",
        "gen_tokens",
        "prefill_tok_s",
        "decode_tok_s",
        "ttft_ms",
        "load_ms",
        "peak_rss_bytes",
        "kv_bytes_per_token",
    ] {
        assert!(
            report.get(key).is_some_and(|v| v.is_string() || v.as_f64().is_some_and(|n| n > 0.0)),
            "{key}: {report}"
        );
    }
    assert_eq!(
        (&report["threads"], &report["prompt_tokens"], &report["gen_tokens"]),
        (&2.into(), &40.into(), &8.into())
    );
}

#[test]
fn bench_speculate_has_a_row_for_every_way() {
    let dataset = "../tests/data/prompts.jsonl";
    let mut args = vec!["bench", "speculate", TINY, "--dataset", dataset, "--limit", "3", "--threads", "1", "--json"];
    args.extend(["--context", "256", "--draft", "layers:1", "--temperature", "0.5", "--max-tokens", "20"]);
    let report = run(&args).json();
    assert!(report["speedup_mean"].as_f64().is_some_and(|v| v > 0.0), "{report}");
    let rows = report["rows"].as_array().expect("a list");
    // Adaptive, and four methods with five budgets and four depths.
    assert_eq!(rows.len(), 1 + 4 * 9);
    for row in rows {
        for key in ["budget", "block_efficiency", "tok_s", "speedup", "target_forwards"] {
            assert!(row[key].as_f64().is_some_and(|v| v >= 0.0), "{key}: {row}");
        }
        let (efficiency, depth) = (row["block_efficiency"].as_f64().expect("a number"), row["depth"].as_u64());
        assert!(efficiency >= 1.0 && depth.is_none_or(|d| efficiency <= d as f64 + 1.0), "{row}");
        assert!(row["acceptance"].as_f64().is_some_and(|v| (0.0..=1.0).contains(&v)), "{row}");
    }
}

#[test]
fn greedy_answers_do_not_depend_on_guesses() {
    let answer = |how: &[&str]| {
        let args = ["run", TINY, "a b a b a b", "--raw", "--temperature", "0", "--max-tokens", "40", "--json"];
        run(&[&args[..], how].concat()).json()
    };
    let plain = answer(&[]);
    for how in [
        &["--speculate", "auto"][..],
        &["--speculate", "rsd-s:6", "--draft", "layers:1"],
        &["--speculate", "chain:4", "--draft", TINY],
    ] {
        let guessed = answer(how);
        assert_eq!(guessed["text"], plain["text"], "{how:?}");
        assert_eq!(how.len() == 2, guessed["timings"]["guessed_tokens"] == 0 || how[1] == "auto");
    }
}

#[test]
fn bench_prefill_compares_four_ways() {
    let dataset = "../tests/data/prompts.jsonl";
    let args = ["bench", "prefill", TINY, "--dataset", dataset, "--batch", "8", "--threads", "2", "--json"];
    let report = run(&args).json();
    assert_eq!(keys(&report), ["rows"]);
    let rows = report["rows"].as_array().expect("a list");
    let methods: Vec<_> = rows.iter().map(|row| row["method"].as_str().expect("a name")).collect();
    assert_eq!(methods, ["padded", "one_at_a_time", "length_sorted", "prepacked"]);
    for row in rows {
        let fields =
            ["method", "batch", "prompt_tok_s", "ttft_ms", "peak_bytes", "padding_share", "packing_efficiency"];
        assert_eq!(keys(row), fields);
        assert_eq!(keys(&row["ttft_ms"]), ["mean", "p50", "p95"]);
        assert_eq!(row["batch"], 8);
        assert!(row["prompt_tok_s"].as_f64().is_some_and(|v| v > 0.0), "{row}");
    }
    let number = |row: usize, key: &str| rows[row][key].as_f64().expect("a number");
    // Padding is what the lengths make it; packing leaves none, and its forwards are full.
    assert!(number(0, "padding_share") > 0.4, "{}", rows[0]);
    assert!(number(2, "padding_share") < number(0, "padding_share"), "{report}");
    assert_eq!((number(1, "padding_share"), number(3, "padding_share")), (0.0, 0.0));
    assert!(number(3, "packing_efficiency") >= 0.97, "{}", rows[3]);
    assert!(number(3, "peak_bytes") < number(0, "peak_bytes"), "{report}");
}

#[test]
fn run_reports_tokens_with_their_probabilities() {
    let args = ["run", TINY, "Hi", "--raw", "--temperature", "0", "--max-tokens", "5", "--logprobs", "3", "--json"];
    let report = run(&args).json();
    assert_eq!(keys(&report), ["prompt_tokens", "text", "tokens", "finish_reason", "timings"]);
    let tokens = report["tokens"].as_array().expect("a list");
    assert!(!tokens.is_empty() && tokens.len() <= 5);
    for token in tokens {
        assert_eq!(keys(token), ["id", "text", "logprob", "top"]);
        let top = token["top"].as_array().expect("a list");
        assert_eq!(top.len(), 3);
        // Greedy: the chosen token is the most probable one.
        assert_eq!((&top[0][0], &top[0][1]), (&token["id"], &token["logprob"]));
    }
    for key in ["load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(report["timings"].get(key).is_some(), "{key}: {report}");
    }
}

#[test]
fn a_seed_makes_answers_repeatable() {
    let answer = |seed: &str| {
        let args =
            ["run", TINY, "Hi", "--raw", "--temperature", "1", "--top-k", "0", "--seed", seed, "--max-tokens", "20"];
        run(&args).out
    };
    assert_eq!(answer("1"), answer("1"));
    assert_ne!(answer("1"), answer("2"));
}

#[test]
fn tokens_as_json_and_for_people() {
    let from_input = run_with_input(&["tokenize", TINY, "--json"], "Hi, wörld".as_bytes()).json();
    let from_argument = run(&["tokenize", TINY, "--text", "Hi, wörld", "--json"]).json();
    assert_eq!(keys(&from_input), ["tokens"]);
    assert_eq!(from_input, from_argument);
    run(&["tokenize", TINY, "--text", "- Hi"]).is("tokenize");
}

#[test]
fn inspect_tells_what_is_in_a_file() {
    run(&["inspect", TINY]).is("inspect");
    let report = run(&["inspect", TINY, "--json"]).json();
    assert_eq!(keys(&report), ["version", "metadata", "tensors"]);
}

#[test]
fn perplexity_has_its_three_fields() {
    let args = ["perplexity", TINY, "--file", "Cargo.toml", "--context", "64", "--chunks", "2", "--json"];
    let report = run(&args).json();
    assert_eq!(keys(&report), ["perplexity", "stderr", "tokens"]);
    assert!(report["perplexity"].as_f64().is_some_and(|p| p > 1.0));
}

/// The default model, in the cache folder of whoever runs the tests.
fn smollm2() -> PathBuf {
    let named = ["FOREWORD_MODELS", "FOREWORD_CACHE"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/foreword"));
    let file = named.chain(home).map(|f| f.join("SmolLM2-135M-Instruct.Q4_1.gguf")).find(|f| f.exists());
    file.expect("the default model; run ./test, which fetches it")
}

#[test]
fn the_default_model_answers() {
    let model = smollm2();
    let cache = model.parent().expect("a folder");
    let args = ["run", "smollm2-135m", "The capital of France is", "--raw", "--temperature", "0", "--max-tokens", "6"];
    let answer = finish(&mut foreword(cache, &args));
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("Paris"), "{}", answer.out);
    assert!(answer.err.contains("first word after"), "{}", answer.err);
}

#[test]
fn a_chat_over_a_pipe_remembers_and_obeys() {
    let model = smollm2();
    let lines = "/help\nMy name is Ada. Say hello.\nWhat is my name?\n/stats\n/nonsense\n/new\n/exit\nnever read\n";
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("input"), lines).expect("a file");
    let input = std::fs::File::open(folder.path().join("input")).expect("a file");
    let cache = model.parent().expect("a folder");
    let args = ["chat", "--temperature", "0", "--max-tokens", "16", "--system", "Be brief."];
    let chat = finish(foreword(cache, &args).stdin(input));
    assert_eq!(chat.code, 0, "{}", chat.err);
    assert!(chat.out.lines().count() >= 2, "{}", chat.out);
    // The second question finds the first one and its answer in the cache.
    assert_eq!(chat.err.matches(" 0 cached").count(), 1, "{}", chat.err);
    assert!(chat.err.contains("/new begins") && chat.err.contains("/nonsense is unknown"), "{}", chat.err);
    assert!(!chat.out.contains("> "), "a pipe gets answers only: {}", chat.out);
}

/// Ctrl-C while an answer is written stops the answer; the chat goes on.
#[test]
#[cfg(unix)]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let model = smollm2();
    let cache = model.parent().expect("a folder");
    let mut child = foreword(cache, &["chat", "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    input.write_all(b"Count from one to one thousand, in words.\n").expect("a line");
    let mut first = [0; 1];
    output.read_exact(&mut first).expect("the first word");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
    input.write_all(b"/exit\n").expect("a line");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait().expect("an end").code(), Some(0));
    assert!(rest.contains("[stopped]"), "{rest}");
}

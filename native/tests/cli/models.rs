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
fn bench_decodes_behind_other_tokens_and_at_the_level_asked_for() {
    let args = ["bench", TINY, "--depth", "50", "--gen-tokens", "4", "--prompt-tokens", "8", "--reps", "1", "--json"];
    let cache = tempfile::tempdir().expect("a folder");
    let at = |level| finish(foreword(cache.path(), &args).env("FOREWORD_LEVEL", level));
    let report = at("scalar").json();
    assert_eq!((&report["device"], &report["depth"]), (&"scalar".into(), &50.into()));
    at("abacus").is("level-unknown");
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
fn answers_have_the_form_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.into_os_string().into_string().expect("a name")
    };
    let schema = file("schema.json", r#"{"type": "array", "items": {"const": "é"}, "minItems": 2, "maxItems": 2}"#);
    let grammar = file("grammar.lark", "start: \"yes\" | \"no\"");
    let run_raw = |more: &[&str]| run(&[&["run", TINY, "Hi", "--raw", "--temperature", "1", "--json"], more].concat());
    assert_eq!(run_raw(&["--json-schema", &schema]).json()["text"], r#"["é", "é"]"#);
    let word = run_raw(&["--grammar", &grammar, "--speculate", "rsd-s:4"]).json()["text"].clone();
    assert!(word == "yes" || word == "no", "{word}");
    assert_eq!(run_raw(&["--regex", "a{5}b"]).json()["text"], "aaaaab");
    // Mistakes say where.
    run_raw(&["--json-schema", &file("wrong.json", r#"{"items": {"type": "thing"}}"#)]).is("schema-wrong");
    run_raw(&["--json-schema", &file("text.json", "{")]).is("schema-no-json");
    run_raw(&["--json-schema", "/nowhere/schema.json"]).is("schema-missing");
    run_raw(&["--regex", "("]).is("regex-wrong");
    run_raw(&["--regex", "a", "--grammar", &grammar]).is("two-forms");
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
    assert_eq!(keys(&report), ["prompt_tokens", "text", "tokens", "finish_reason", "stop_reason", "timings"]);
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

#[test]
fn the_way_to_the_first_word_is_shown_part_by_part() {
    let report = run(&["bench", "start", TINY, "--reps", "2", "--threads", "1", "--json"]).json();
    let rows = report["rows"].as_array().expect("rows");
    let sum: f64 = rows.iter().map(|row| row["warm_ms"].as_f64().expect("a time")).sum();
    assert!(rows.len() == 9 && (sum - report["warm_ms"].as_f64().expect("a time")).abs() < 1e-6, "{report}");
    assert!(rows.iter().all(|row| row["warm_ms"].as_f64().is_some_and(|ms| ms >= 0.0)), "{report}");
}

#[test]
fn perplexity_is_compared_with_what_was_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let logits = folder.path().join("logits");
    let with = |flag: &str, cache: &str, chunks: &str| {
        let logits = logits.to_str().expect("a name");
        let args = ["perplexity", TINY, "--file", "Cargo.toml", "--context", "64", "--chunks", chunks];
        run(&[&args[..], &["--cache-type", cache, flag, logits, "--json"]].concat())
    };
    with("--save-logits", "f32", "2").json();
    let same = with("--against", "f32", "2").json();
    let names = ["perplexity", "stderr", "tokens", "kl_mean", "kl_median", "kl_999", "top_agreement"];
    assert_eq!(keys(&same), names);
    assert!(same["kl_mean"].as_f64().is_some_and(|kl| kl.abs() < 1e-5) && same["top_agreement"] == 1.0, "{same}");
    let coarse = with("--against", "f16", "2").json();
    assert!(coarse["kl_mean"].as_f64().is_some_and(|kl| kl > 1e-8), "{coarse}");
    let other = with("--against", "f32", "1");
    assert!(other.code == 2 && other.err.contains("--context or --chunks"), "{}", other.err);
    let there = with("--save-logits", "f32", "2");
    assert!(there.code != 0 && there.err.contains("cannot write"), "{}", there.err);
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

#[test]
fn a_chat_that_has_filled_its_context_says_how_to_go_on() {
    let model = smollm2();
    let lines = format!("{}\n/new\nHi.\n", "one two three four five six seven eight nine ten ".repeat(10));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("input"), lines).expect("a file");
    let input = std::fs::File::open(folder.path().join("input")).expect("a file");
    let args = ["chat", "--temperature", "0", "--max-tokens", "4", "--context", "96"];
    let chat = finish(foreword(model.parent().expect("a folder"), &args).stdin(input));
    assert_eq!(chat.code, 0, "{}", chat.err);
    assert!(chat.err.contains("but the context holds 96"), "{}", chat.err);
    assert!(chat.err.contains("hint: /new begins a new chat; --context"), "{}", chat.err);
    assert_eq!(chat.err.matches("error:").count(), 1, "the new chat is answered: {}", chat.err);
}

/// Questions and answers of 20 tokens each: the fifth outgrows a context of 128, of which answers have a quarter.
#[test]
fn a_chat_that_outgrows_its_context_leaves_its_oldest_turns_out() {
    let model = smollm2();
    let lines: String = (1..=9).map(|i| format!("What is {i} and {i}?\n")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("input"), lines).expect("a file");
    let chat = |how: &str| {
        let input = std::fs::File::open(folder.path().join("input")).expect("a file");
        let args =
            ["chat", "--temperature", "0", "--max-tokens", "4", "--context", "128", "--system", "Hm.", "--overflow"];
        finish(foreword(model.parent().expect("a folder"), &args).arg(how).stdin(input))
    };
    let shifted = chat("shift");
    assert_eq!((shifted.code, shifted.err.matches("error:").count()), (0, 0), "{}", shifted.err);
    let notes = shifted.err.matches("messages are left out").count();
    assert!((1..=5).contains(&notes), "{}", shifted.err);
    let refused = chat("error");
    assert!(refused.err.contains("but the context holds 128") && !refused.err.contains("left out"), "{}", refused.err);
    assert_eq!(chat("push").code, 2);
}

/// One line of a chat with a kept conversation.
fn said(folder: &std::path::Path, session: &std::path::Path, line: &str) -> crate::Run {
    std::fs::write(folder.join("input"), format!("{line}\n")).expect("a file");
    let input = std::fs::File::open(folder.join("input")).expect("a file");
    let args = ["chat", "--temperature", "0", "--max-tokens", "8", "--system", "Be brief.", "--session"];
    let model = smollm2();
    finish(foreword(model.parent().expect("a folder"), &args).arg(session).stdin(input))
}

#[test]
fn a_chat_that_is_kept_goes_on_without_reading_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let session = folder.path().join("chat.session");
    let first = said(folder.path(), &session, "My name is Ada. Say hello.");
    assert!(first.code == 0 && first.err.contains(" 0 cached"), "{}", first.err);
    let second = said(folder.path(), &session, "What is my name?");
    assert!(second.code == 0 && second.err.contains("2 messages of "), "{}", second.err);
    assert!(!second.err.contains(" 0 cached"), "{}", second.err);
    // The same two lines in one go are answered alike.
    let whole = said(folder.path(), &folder.path().join("other"), "My name is Ada. Say hello.\nWhat is my name?");
    assert_eq!(whole.out, first.out + &second.out);
    assert!(!folder.path().join("chat.session.part").exists());

    let mut bytes = std::fs::read(&session).expect("a file");
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    for (content, code) in [(&bytes[..], 3), (&bytes[..1000], 3), (&b"my shopping list"[..], 3)] {
        std::fs::write(&session, content).expect("a file");
        let refused = said(folder.path(), &session, "Hello.");
        assert_eq!(refused.code, code, "{}", refused.err);
        assert_eq!(
            std::fs::read(&session).expect("a file"),
            content,
            "a file that is no chat of this model was overwritten"
        );
    }
}

#[test]
fn a_prompt_goes_on_with_a_chat_that_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let [session, other] = ["chat.session", "other"].map(|name| folder.path().join(name));
    let model = smollm2();
    let run = |prompt: &str, session: &std::path::Path, more: &[&str]| {
        let args = ["run", "smollm2-135m", prompt, "--temperature", "0", "--max-tokens", "8", "--session"];
        finish(foreword(model.parent().expect("a folder"), &args).arg(session).args(more))
    };
    let first = run("My name is Ada. Say hello.", &session, &["--system", "Be brief."]);
    assert_eq!(first.code, 0, "{}", first.err);
    let second = run("What is my name?", &session, &["--json"]);
    let report: Value = serde_json::from_str(&second.out).expect("JSON");
    assert!(report["timings"]["cached_tokens"].as_u64() > Some(20), "{report}");
    // It answers as a chat does, which goes on with it.
    let whole = said(folder.path(), &other, "My name is Ada. Say hello.\nWhat is my name?");
    let text = report["text"].as_str().expect("a text");
    assert_eq!(whole.out, format!("{}{text}\n", first.out));
    let third = said(folder.path(), &session, "And mine?");
    assert!(third.err.contains("4 messages of "), "{}", third.err);

    let refused = run("Hello.", &session, &["--system", "Be loud."]);
    assert!(refused.code == 2 && refused.err.contains("another system message"), "{}", refused.err);
    assert_eq!(run("Hello.", &session, &["--raw"]).code, 2);
    assert_eq!(run("Hello.", &folder.path().join("no/such/folder"), &[]).code, 6);
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
    // Of hundreds of tokens, so that the interrupt comes before its end on any machine.
    input.write_all(b"Write a long story about a ship.\n").expect("a line");
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

#[test]
fn models_are_listed_with_what_fits() {
    let list = run(&["models", "--json"]).json();
    let list = list.as_array().expect("a list");
    assert!(list.len() >= 20, "{}", list.len());
    for entry in list {
        for key in ["name", "family", "license"] {
            assert!(entry[key].is_string(), "{key}: {entry}");
        }
        for key in ["parameters", "bytes", "context"] {
            assert!(entry[key].as_u64().is_some_and(|n| n > 0), "{key}: {entry}");
        }
        assert!(entry["fits"].is_boolean() && entry["tested"].is_boolean(), "{entry}");
    }
    let text = run(&["models"]).out;
    let is_listed = |entry: &Value| text.lines().any(|l| l.split_whitespace().next() == entry["name"].as_str());
    assert!(list.iter().all(is_listed), "{text}");
}

/// Without a word on it, answers are chosen as the file advises: here always the most probable token, whatever the seed.
#[test]
fn what_a_file_advises_is_the_default() {
    use foreword::gguf::source::{BytesSource, Source};
    use foreword::gguf::{Gguf, Value as Entry, write};
    let bytes = std::fs::read(TINY).expect("a model");
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes.clone()))];
    let Gguf { mut metadata, tensors, .. } = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
    metadata.insert("general.sampling.temp", Entry::Float(0.0));
    let data = |t: &foreword::gguf::TensorInfo| &bytes[t.offset as usize..][..t.n_bytes as usize];
    let tensors: Vec<_> =
        tensors.iter().map(|t| write::Tensor { name: &t.name, ty: t.ty, dims: &t.dims, data: data(t) }).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("advised.gguf");
    std::fs::write(&path, write::to_bytes(&metadata, &tensors).expect("a file")).expect("a file");
    let answer = |model: &str, more: &[&str]| {
        run(&[&["run", model, "a b", "--raw", "--max-tokens", "30", "--json"], more].concat()).json()["text"].clone()
    };
    let advised = path.to_str().expect("a path");
    let greedy = answer(TINY, &["--temperature", "0"]);
    for seed in ["1", "2"] {
        assert_eq!(answer(advised, &["--seed", seed]), greedy);
        assert_ne!(answer(advised, &["--seed", seed, "--temperature", "3", "--top-k", "0", "--top-p", "1"]), greedy);
    }
}

/// Each sampler has its flags, by the names of a request's fields.
#[test]
fn samplers_have_flags() {
    let answer = |more: &[&str]| {
        let args = [
            "run",
            TINY,
            "a b a b a b",
            "--raw",
            "--max-tokens",
            "40",
            "--seed",
            "3",
            "--top-k",
            "0",
            "--top-p",
            "1",
            "--json",
        ];
        run(&[&args[..], more].concat()).json()["text"].clone()
    };
    let (plain, greedy) = (answer(&["--temperature", "1.5"]), answer(&["--temperature", "0"]));
    assert_ne!(plain, greedy);
    assert_eq!(answer(&["--temperature", "1.5", "--top-n-sigma", "0.0001"]), greedy);
    for flags in [
        &["--xtc-probability", "1", "--xtc-threshold", "0.001"][..],
        &["--dynatemp-range", "1.4", "--dynatemp-exponent", "2"],
        &["--mirostat", "2", "--mirostat-tau", "1", "--mirostat-eta", "0.2"],
        &["--typical-p", "0.2"],
        &["--presence-penalty", "50"],
    ] {
        assert_ne!(answer(&[&["--temperature", "1.5"], flags].concat()), plain, "{flags:?}");
    }
    // " a" over and over, which DRY ends.
    let over = ["--temperature", "0", "--logit-bias", "259=30"];
    let dry = ["--dry-multiplier", "50", "--dry-base", "2", "--dry-allowed-length", "1", "--dry-penalty-last-n", "-1"];
    assert_ne!(answer(&[&over[..], &dry].concat()), answer(&over));
    for flags in [["--mirostat", "1"], ["--xtc-probability", "2"], ["--temperature", "nan"], ["--dry-base", "0"]] {
        let wrong = run(&[&["run", TINY, "Hi", "--raw"], &flags[..]].concat());
        assert!(
            wrong.code == 2 && wrong.err.contains(&flags[0][2..].replace('-', "_")) || wrong.err.contains(flags[0]),
            "{}",
            wrong.err
        );
    }
}

/// An answer in circles ends where it is asked for, and where the answer has a form, which it fits then.
#[test]
fn an_answer_in_circles_ends_and_says_so() {
    // " a" over and over.
    let answer = |more: &[&str]| {
        let args = [
            "run",
            TINY,
            "a",
            "--raw",
            "--max-tokens",
            "100",
            "--logit-bias",
            "259=100",
            "--temperature",
            "0",
            "--json",
        ];
        run(&[&args[..], more].concat()).json()
    };
    let ends = |answer: &Value| {
        (
            answer["finish_reason"].clone(),
            answer["stop_reason"].clone(),
            answer["text"].as_str().map(|t| t.matches('a').count()),
        )
    };
    assert_eq!(ends(&answer(&[])), ("length".into(), Value::Null, Some(100)));
    let (reason, why, n) = ends(&answer(&["--stop-at-repetition", "true"]));
    assert!((reason, why) == ("stop".into(), "repetition".into()) && n < Some(45), "{n:?}");
    let (reason, why, n) = ends(&answer(&["--regex", "( a)*\\.?"]));
    assert!((reason, why) == ("stop".into(), "repetition".into()) && n < Some(45), "{n:?}");
    let (reason, why, _) = ends(&answer(&["--regex", "( a)*", "--stop-at-repetition", "false"]));
    assert_eq!((reason, why), ("length".into(), Value::Null));
}

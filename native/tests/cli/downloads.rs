//! `pull` from a server that misbehaves: whole files or none.

use crate::server::Server;
use crate::{Run, TINY, clean, files, finish, foreword};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn model() -> Vec<u8> {
    std::fs::read(TINY).expect("a model")
}

/// Pulls an address; the port and the folder are not part of what is compared.
fn pull(server: &Server, cache: &Path, model: &str) -> Run {
    let mut run = finish(foreword(cache, &["pull", model]).env("HF_ENDPOINT", &server.address));
    for text in [&mut run.out, &mut run.err] {
        *text = text.replace(&server.address, "http://SERVER").replace(&cache.display().to_string(), "CACHE");
    }
    run
}

/// Pulls and expects the whole file, and nothing besides.
fn pulls_whole(server: &Server, path: &str) {
    let cache = tempfile::tempdir().expect("a folder");
    let run = pull(server, cache.path(), &server.url(path));
    assert_eq!(run.code, 0, "{path}: {}", run.err);
    let printed = run.out.trim_end().replace("CACHE", &cache.path().display().to_string());
    assert_eq!(std::fs::read(&printed).expect("the file that was printed"), model(), "{path}");
    let [model, checksum] = &files(cache.path())[..] else { panic!("{path}: {:?}", files(cache.path())) };
    assert_eq!(*checksum, format!("{model}.sha256"));
}

/// Pulls and expects an error, and no trace.
fn fails(server: &Server, model: &str, snapshot: &str) {
    let cache = tempfile::tempdir().expect("a folder");
    pull(server, cache.path(), model).is(snapshot);
    assert_eq!(files(cache.path()), [""; 0], "{model}");
}

#[test]
fn sound_servers_and_others() {
    let server = Server::start(model());
    for path in ["whole/model.gguf", "moved/model.gguf", "busy/model.gguf", "changing/model.gguf"] {
        pulls_whole(&server, path);
    }
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let server = Server::start(model());
    for path in ["silent/model.gguf", "mute/model.gguf"] {
        let cache = tempfile::tempdir().expect("a folder");
        let mut pull = foreword(cache.path(), &["pull", &server.url(path)]);
        let run = finish(pull.env("FOREWORD_DOWNLOAD_TIMEOUT", "0.3"));
        assert_eq!(run.code, 0, "{path}: {}", run.err);
        assert_eq!(std::fs::read(run.out.trim_end()).expect("the file"), model());
    }
    let ranges: Vec<_> = server.seen().iter().map(|s| s.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some(format!("bytes={}-", model().len() / 2)), None, None]);
}

#[test]
fn a_range_that_was_not_asked_for_is_not_appended() {
    let server = Server::start(model());
    for path in ["from-zero/model.gguf", "rangeless/model.gguf"] {
        pulls_whole(&server, path);
        let ranges: Vec<_> =
            server.seen().iter().filter(|s| s.path.ends_with(path)).map(|s| s.headers.contains_key("range")).collect();
        assert_eq!(ranges, [false, true, false], "{path}");
    }
}

#[test]
fn a_cut_body_without_a_length_is_not_taken_for_whole() {
    let server = Server::start(model());
    pulls_whole(&server, "cut/model.gguf");
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let server = Server::start(model());
    let started = Instant::now();
    pulls_whole(&server, "limited/model.gguf");
    assert!(started.elapsed() >= Duration::from_secs(1));
    fails(&server, &server.url("overrun/model.gguf"), "pull-overrun");
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let server = Server::start(model());
    let cache = tempfile::tempdir().expect("a folder");
    let pulls: Vec<_> = (0..3)
        .map(|_| {
            let mut pull = foreword(cache.path(), &["pull", &server.url("slow/model.gguf")]);
            pull.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts")
        })
        .collect();
    for pull in pulls {
        let output = pull.wait_with_output().expect("an end");
        assert!(output.status.success());
        let path = String::from_utf8(output.stdout).expect("a path");
        assert_eq!(std::fs::read(path.trim_end()).expect("the file"), model());
    }
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_damaged_file_in_the_cache_is_repaired_by_another_pull() {
    let server = Server::start(model());
    for name in [server.url("whole/model.gguf"), "hf:owner/repo/model.gguf".into()] {
        let cache = tempfile::tempdir().expect("a folder");
        let path =
            pull(&server, cache.path(), &name).out.trim_end().replace("CACHE", &cache.path().display().to_string());
        let checksum = format!("{path}.sha256");
        let flipped: Vec<u8> = model().iter().enumerate().map(|(i, b)| if i == 100_000 { b ^ 1 } else { *b }).collect();
        let half = &model()[..model().len() / 2];
        // Without a checksum, the header shows that the end is missing.
        for (bytes, keep) in
            [(half, true), (&[][..], true), (&flipped, true), (half, false), (b"<html>".as_slice(), false)]
        {
            std::fs::write(&path, bytes).expect("a file");
            if !keep {
                std::fs::remove_file(&checksum).expect("a checksum");
            }
            let run = pull(&server, cache.path(), &name);
            assert!(run.code == 0 && run.err.contains("is damaged; fetching it again"), "{name}: {}", run.err);
            assert_eq!(std::fs::read(&path).expect("the file"), model());
        }
        let before = server.seen().len();
        assert_eq!(pull(&server, cache.path(), &name).code, 0);
        assert_eq!(server.seen().len(), before, "a sound file is not asked for");
    }
}

#[test]
fn a_damaged_file_is_kept_until_a_better_one_is_there() {
    let cache = tempfile::tempdir().expect("a folder");
    let server = Server::start(model());
    let url = server.url("missing/model.gguf");
    let folder = cache.path().join("hf/missing/repo");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("model.gguf"), &model()[..5000]).expect("a file");
    let run = pull(&server, cache.path(), "hf:missing/repo/model.gguf");
    assert!(run.code == 5 && run.err.contains("404"), "{url}: {}", run.err);
    assert_eq!(std::fs::read(folder.join("model.gguf")).expect("the file").len(), 5000);
    // A built-in model's size and checksum are known.
    let built_in = cache.path().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::write(&built_in, model()).expect("a file");
    let mut command = foreword(cache.path(), &["pull", "smollm2-135m"]);
    let run = finish(command.env("PATH", "").env("HF_ENDPOINT", &server.address));
    assert!(run.code == 5 && run.err.contains("Q4_1.gguf is damaged; fetching it again"), "{}", run.err);
    assert_eq!(std::fs::read(&built_in).expect("the file"), model());
}

/// Pulls by way of a proxy that the variables name; the address is nobody's.
fn pulls_through(server: &Server, variables: &[(&str, &str)]) {
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = foreword(cache.path(), &["pull", "http://127.9.9.9:9/whole/model.gguf"]);
    for (name, value) in variables {
        command.env(name, value.replace("PROXY", server.address.trim_start_matches("http://")));
    }
    let run = finish(&mut command);
    assert_eq!(run.code, 0, "{variables:?}: {}", run.err);
    assert_eq!(std::fs::read(run.out.trim_end()).expect("the file"), model());
}

#[test]
fn proxies_are_those_that_curl_would_take() {
    let server = Server::start(model());
    let last = || server.seen().pop().expect("a request");
    for variables in [
        &[("http_proxy", "http://PROXY")][..],
        &[("HTTP_PROXY", "http://PROXY/")],
        &[("ALL_PROXY", "PROXY")],
        &[("http_proxy", ""), ("HTTP_PROXY", "PROXY")],
        &[("http_proxy", "PROXY"), ("HTTP_PROXY", "127.0.0.1:1"), ("all_proxy", "127.0.0.1:1")],
        &[("http_proxy", "PROXY"), ("https_proxy", "127.0.0.1:1"), ("no_proxy", "10.0.0.0/8 example.org")],
    ] {
        pulls_through(&server, variables);
        // Without CONNECT, which many proxies allow for port 443 only.
        assert_eq!((last().method.as_str(), last().path.as_str()), ("GET", "http://127.9.9.9:9/whole/model.gguf"));
    }
    pulls_through(&server, &[("http_proxy", "http://us%40er:p%3Ass%23@PROXY")]);
    let sent = last().headers.get("proxy-authorization").cloned();
    assert_eq!(sent.as_deref(), Some("Basic dXNAZXI6cDpzcyM="));
}

#[test]
fn proxies_that_speak_socks() {
    let server = Server::start(model());
    for (proxy, seen) in [
        ("socks5://PROXY", ("SOCKS5", "127.9.9.9")),
        ("socks5h://us%40er:p%3Ass@PROXY", ("SOCKS5", "us@er:p:ss@127.9.9.9")),
        ("socks4://PROXY", ("SOCKS4", "127.9.9.9")),
        ("socks://PROXY", ("SOCKS4", "127.9.9.9")),
    ] {
        let before = server.seen().len();
        pulls_through(&server, &[("all_proxy", proxy)]);
        let first = server.seen().swap_remove(before);
        assert_eq!((first.method.as_str(), first.path.as_str()), seen, "{proxy}");
    }
    // The proxy finds the host.
    let cache = tempfile::tempdir().expect("a folder");
    let address = server.address.replace("http://", "socks5h://");
    let mut command = foreword(cache.path(), &["pull", "http://models.invalid/whole/model.gguf"]);
    assert_eq!(finish(command.env("all_proxy", address)).code, 0);
    assert!(server.seen().iter().any(|s| s.path == "models.invalid"));
}

#[test]
fn hosts_that_need_no_proxy_and_proxies_that_are_none() {
    let server = Server::start(model());
    let url = server.url("whole/model.gguf");
    let run = |variables: &[(&str, &str)], url: &str| {
        let cache = tempfile::tempdir().expect("a folder");
        finish(foreword(cache.path(), &["pull", url]).envs(variables.iter().copied()))
    };
    let port = server.address.rsplit(':').next().expect("a port").to_string();
    for list in ["*", "a.org, 127.0.0.1", "a.org 127.0.0.0/8", &format!("127.0.0.1:{port}")] {
        let direct = run(&[("http_proxy", "http://127.0.0.1:1"), ("NO_PROXY", list)], &url);
        assert_eq!(direct.code, 0, "{list}: {}", direct.err);
    }
    let empty = [("http_proxy", ""), ("HTTP_PROXY", ""), ("all_proxy", ""), ("no_proxy", "")];
    assert_eq!(run(&empty, &url).code, 0);
    for list in ["", "127.0.0.1:1", "10.0.0.0/8"] {
        let refused = run(&[("http_proxy", "http://127.0.0.1:1"), ("no_proxy", list)], &url);
        assert_eq!(refused.code, 5, "{list}: {}", refused.err);
    }
    for proxy in ["ftp://user:secret@127.0.0.1", "http://user:secret@", "http://user:secret@127.0.0.1:port"] {
        let wrong = run(&[("http_proxy", proxy)], &url);
        assert!(wrong.code == 2 && wrong.err.contains("http_proxy holds no address of a proxy"), "{}", wrong.err);
        assert!(!wrong.err.contains("secret"), "{}", wrong.err);
    }
    // Through CONNECT, which this proxy refuses.
    let refused = run(&[("https_proxy", &server.address)], "https://models.invalid/m.gguf");
    assert!(refused.code == 5 && server.seen().iter().any(|s| s.method == "CONNECT"), "{}", refused.err);
}

#[test]
fn a_cache_folder_that_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for cache in [file.clone(), file.join("below")] {
        let run = finish(&mut foreword(&cache, &["pull", "http://127.0.0.1:1/m.gguf"]));
        assert!(
            run.code == 6 && run.err.contains("cannot write to") && run.err.contains("FOREWORD_CACHE"),
            "{}",
            run.err
        );
    }
}

/// Nobody may make files in this folder, whoever the user is.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_folder_that_is_read_only() {
    for model in ["smollm2-135m", "http://127.0.0.1:1/m.gguf"] {
        let run = finish(&mut foreword(Path::new("/sys"), &["pull", model]));
        assert!(run.code == 6 && run.err.contains("cannot write to /sys"), "{}", run.err);
        assert!(run.err.contains("FOREWORD_CACHE"), "{}", run.err);
    }
}

#[test]
fn a_dropped_connection_is_resumed() {
    let server = Server::start(model());
    pulls_whole(&server, "flaky/model.gguf");
    let ranges: Vec<_> = server.seen().iter().map(|s| s.headers.get("range").cloned()).collect();
    let (half, quarter) = (model().len() / 2, model().len() - model().len() / 4);
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[1..], [Some(format!("bytes={half}-")), Some(format!("bytes={quarter}-"))]);
}

#[test]
fn a_server_that_always_drops_leaves_what_came_for_the_next_attempt() {
    let server = Server::start(model());
    let cache = tempfile::tempdir().expect("a folder");
    pull(&server, cache.path(), &server.url("dropping/model.gguf")).is("pull-dropping");
    let left = files(cache.path());
    assert!(left.iter().all(|f| f.ends_with(".part") || f.ends_with(".part.etag")), "{left:?}");
}

#[test]
fn refusals() {
    let server = Server::start(model());
    fails(&server, &server.url("missing/model.gguf"), "pull-404");
    fails(&server, &server.url("secret/model.gguf"), "pull-401");
    fails(&server, &server.url("page/model.gguf"), "pull-page");
    fails(&server, "http://127.0.0.1:1/model.gguf", "pull-refused");
    fails(&server, "hf:liar/repo/model.gguf", "pull-checksum");
}

#[test]
fn files_of_the_hub_are_checked_and_the_token_stays_with_the_hub() {
    let server = Server::start(model());
    let cache = tempfile::tempdir().expect("a folder");
    let spec = ["pull", "hf:owner/repo/model.gguf"];
    let run = finish(foreword(cache.path(), &spec).env("HF_ENDPOINT", &server.address).env("HF_TOKEN", "t0ken"));
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(std::fs::read(cache.path().join("hf/owner/repo/model.gguf")).expect("the file"), model());
    let seen = server.seen();
    assert!(seen.iter().any(|s| s.path == "/owner/repo/resolve/main/model.gguf"), "{seen:?}");
    assert_eq!(seen[0].headers.get("authorization").map(String::as_str), Some("Bearer t0ken"));

    // What is in the cache is not asked for again.
    assert_eq!(pull(&server, cache.path(), spec[1]).code, 0);
    assert_eq!(server.seen().len(), seen.len());
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing() {
    let server = Server::start(model());
    let cache = tempfile::tempdir().expect("a folder");
    // Files may have 32 KiB, and writing more is an error instead of a signal.
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$0\" pull \"$1\""]);
    limited.args([env!("CARGO_BIN_EXE_foreword"), &server.url("whole/model.gguf")]);
    finish(clean(&mut limited, cache.path())).is("pull-disk-full");
    assert_eq!(files(cache.path()), [""; 0]);
}

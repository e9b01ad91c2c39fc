//! `pull` from a server that misbehaves: whole files or none.

use crate::server::Server;
use crate::{Run, TINY, clean, files, finish, foreword};
use std::path::Path;
use std::process::Command;

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
    assert_eq!(files(cache.path()).len(), 1, "{path}: {:?}", files(cache.path()));
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

//! The command line from outside: snapshots of standard output, standard error and exit code together, JSON shapes, and
//! downloads from a server that misbehaves. `SNAPSHOTS=overwrite cargo test -p foreword-cli` writes the snapshots anew.

mod batch;
mod commands;
mod convert;
mod downloads;
mod models;
mod predict;
mod quantize;
#[cfg(unix)]
mod release;
mod scripts;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One run of the program, with a cache folder of its own.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Everything that a user sees, as text.
    fn snapshot(&self) -> String {
        format!("exit code {}\n--- standard output\n{}--- standard error\n{}", self.code, self.out, self.err)
    }

    /// Compares with `tests/snapshots/NAME.txt`; `[..]` there stands for any text.
    pub(crate) fn is(&self, name: &str) {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
        snapbox::Assert::new()
            .action_env("SNAPSHOTS")
            .eq(self.snapshot(), snapbox::Data::read_from(&file, Some(snapbox::data::DataFormat::Text)));
    }

    /// Standard output as JSON; the run must have succeeded.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.snapshot());
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.snapshot()))
    }
}

/// The program with a clean environment and `cache` as its cache folder.
pub(crate) fn foreword(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
    clean(&mut command, cache).args(args);
    command
}

/// Sets the environment of a command that runs the program.
pub(crate) fn clean<'a>(command: &'a mut Command, cache: &Path) -> &'a mut Command {
    for name in ["HF_TOKEN", "HF_ENDPOINT", "FOREWORD_DOWNLOAD_TIMEOUT", "FOREWORD_LEVEL"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("FOREWORD_CACHE", cache).env("HF_HOME", cache.join("hub")).env("COLUMNS", "100").stdin(Stdio::null())
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("the program starts");
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("standard output is text"),
        err: String::from_utf8(output.stderr).expect("standard error is text"),
    }
}

/// Runs the program with an empty cache folder.
pub(crate) fn run(args: &[&str]) -> Run {
    let cache = tempfile::tempdir().expect("a folder");
    finish(&mut foreword(cache.path(), args))
}

/// Runs the program with an empty cache folder and `input` on standard input.
pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Run {
    let cache = tempfile::tempdir().expect("a folder");
    let file = cache.path().join("input");
    std::fs::write(&file, input).expect("a file");
    finish(foreword(cache.path(), args).stdin(std::fs::File::open(&file).expect("a file")))
}

/// A tiny random model of the repository, relative to the tests' working folder.
pub(crate) const TINY: &str = "../tests/data/models/llama.gguf";

/// The names of all files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => names.push(path.strip_prefix(folder).expect("inside").to_string_lossy().into_owned()),
            }
        }
    }
    names.retain(|n| n != ".lock");
    names.sort();
    names
}

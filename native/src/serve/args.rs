//! What was typed for `foreword serve`.

use crate::args::{DEFAULT_MODEL, GuessArgs, LoadArgs, PrefillModeArgs};
use clap::Args;
use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Paths, names, addresses or hf:owner/repo/file.gguf; the first one answers requests that name no model
    #[arg(value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub(super) models: Vec<OsString>,
    /// Address to listen at; by default only this machine can reach it
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(super) host: IpAddr,
    /// Port to listen at; 0 takes any that is free
    #[arg(short, long, default_value_t = 8080, value_name = "P")]
    pub(super) port: u16,
    /// Answer only requests with this key (several times), or with the one in FOREWORD_API_KEY
    #[arg(long, value_name = "KEY")]
    pub(super) api_key: Vec<String>,
    /// Let pages of this origin in (scheme, host and port); * for all (several times)
    #[arg(long, value_name = "ORIGIN")]
    pub(super) cors: Vec<String>,
    /// Show a page for chats at /; --ui=false does not
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) ui: bool,
    /// Requests that may be under way or wait; more are refused
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) queue: u16,
    /// Longest time for an answer, waiting included
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Duration,
    /// Let a model go that nobody asked for so long; by default it stays
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) idle: Option<Duration>,
    /// Memory for all models together; those that are idle go first
    #[arg(long, value_name = "GB", value_parser = gigabytes)]
    pub(super) memory: Option<u64>,
    /// Tokens that a model's KV cache holds over all requests; by default one context
    #[arg(long, value_name = "TOKENS")]
    pub(super) cache_tokens: Option<usize>,
    /// What is written to standard error: off, error, warn, info (a line a request) or debug
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    pub(super) log: tracing::metadata::LevelFilter,
    #[command(flatten)]
    pub(super) guess: GuessArgs,
    #[command(flatten)]
    pub(super) early: PrefillModeArgs,
    #[command(flatten)]
    pub(super) load: LoadArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 300")?;
    let right = (0.001..=1e9).contains(&seconds);
    right.then(|| Duration::from_secs_f64(seconds)).ok_or_else(|| "must be from 0.001 to 1000000000".into())
}

fn gigabytes(text: &str) -> Result<u64, String> {
    let gigabytes: f64 = text.parse().map_err(|_| "write a number of gigabytes, such as 4 or 0.5")?;
    let right = (0.001..=1e9).contains(&gigabytes);
    right.then_some((gigabytes * 1e9) as u64).ok_or_else(|| "must be from 0.001 to 1000000000".into())
}

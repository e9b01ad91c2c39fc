//! The `foreword` command line. Data goes to standard output, everything else to standard error.

mod args;
mod batch;
mod bench;
mod chat;
mod download;
mod eval;
mod inspect;
mod load;
mod package;
mod run;
mod store;
mod term;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Pull(args) => store::pull(args),
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::chat(args),
        Command::Batch(args) => batch::batch(args),
        Command::Bench(args) => bench::bench(args),
        Command::Perplexity(args) => bench::perplexity(args),
        Command::Eval(args) => eval::eval(args),
        Command::Tokenize(args) => inspect::tokenize(args),
        Command::Inspect(args) => inspect::inspect(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if term::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            term::print_error(&error);
            ExitCode::from(error.kind().row().exit)
        }
    }
}

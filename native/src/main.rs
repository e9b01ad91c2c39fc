//! The `foreword` command line. Data goes to standard output, everything else to standard error.

mod args;
mod batch;
mod bench;
mod chat;
mod contrast;
mod convert;
mod divergence;
mod download;
mod embed;
mod eval;
mod form;
mod inspect;
mod load;
mod output;
mod package;
mod package_docs;
mod part;
mod perplexity;
mod proxy;
mod quantize;
mod registry;
mod run;
mod saved;
mod serve;
mod store;
mod term;
mod windows;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Pull(args) => store::pull(args),
        Command::Models(args) => registry::models(args),
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::chat(args),
        Command::Batch(args) => batch::batch(args),
        Command::Serve(args) => serve::serve(args),
        Command::Embed(args) => embed::embed(args),
        Command::Bench(args) => bench::bench(args),
        Command::Perplexity(args) => perplexity::perplexity(args),
        Command::Eval(args) => eval::eval(args),
        Command::Convert(args) => convert::convert(args),
        Command::Imatrix(args) => quantize::imatrix::imatrix(args),
        Command::Quantize(args) => quantize::quantize(args),
        Command::Tokenize(args) => inspect::tokenize(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::PackageDocs(args) => package_docs::package_docs(args),
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

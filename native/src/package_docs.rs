//! Man pages and completions for shells, which packages of systems bring along; `native/release` asks for them.

use crate::args::{Cli, PackageDocsArgs};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use foreword::{Error, Result};
use std::fs::create_dir_all;
use std::path::Path;

pub(crate) fn package_docs(args: &PackageDocsArgs) -> Result<()> {
    let failed =
        |e: std::io::Error| Error::storage(format!("cannot write into {}: {e}", args.folder.display())).caused_by(e);
    write(&args.folder).map_err(failed)
}

fn write(folder: &Path) -> std::io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    create_dir_all(&man)?;
    create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), man)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut Cli::command(), "foreword", &completions)?;
    }
    Ok(())
}

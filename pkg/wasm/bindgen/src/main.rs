//! `foreword-bindgen IN.wasm OUT_DIR NAME [--tests]`: JavaScript glue for a build of foreword-web, or for a file of tests.

use std::process::ExitCode;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (input, out_dir, name, tests) = match &args[..] {
        [input, out_dir, name] => (input, out_dir, name, false),
        [input, out_dir, name, flag] if flag == "--tests" => (input, out_dir, name, true),
        _ => {
            eprintln!("usage: foreword-bindgen IN.wasm OUT_DIR NAME [--tests]");
            return ExitCode::from(2);
        }
    };
    let generate = || {
        let mut bindgen = Bindgen::new();
        bindgen.input_path(input).out_name(name).web(true)?.typescript(!tests).omit_default_module_path(!tests);
        // The names of functions are what a failed test has for a trace; its `main` is for a terminal.
        bindgen.remove_name_section(!tests).remove_producers_section(true).emit_start(!tests);
        bindgen.generate(out_dir)
    };
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

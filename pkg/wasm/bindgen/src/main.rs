//! `foreword-bindgen IN.wasm OUT_DIR NAME`: JavaScript glue for a build of foreword-web.

use std::process::ExitCode;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, out_dir, name] = &args[..] else {
        eprintln!("usage: foreword-bindgen IN.wasm OUT_DIR NAME");
        return ExitCode::from(2);
    };
    let generate = || {
        let mut bindgen = Bindgen::new();
        bindgen.input_path(input).out_name(name).web(true)?.typescript(true).omit_default_module_path(true);
        bindgen.remove_name_section(true).remove_producers_section(true);
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

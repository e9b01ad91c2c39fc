//! Runs natively what `run` runs as WebAssembly, too.

fn main() -> foreword::Result<()> {
    println!("{}", outside::complete()?.len());
    Ok(())
}

//! The `foreword` command line.
fn main() {}

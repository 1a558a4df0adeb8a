//! Parse, load the configuration, run, exit code.
fn main() {}

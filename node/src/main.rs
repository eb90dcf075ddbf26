//! The `node` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    command::answer::exit(node::cli::run())
}

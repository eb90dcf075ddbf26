//! The `coordinator` program.
//!
//! Owns the command line and the exit code; everything that stays running belongs to the library. The one idea: a
//! command either runs the service in this process or asks the running one through the owner's local socket.

mod cli;
mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::answer::exit(cli::run())
}

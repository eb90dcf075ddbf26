//! What every Hearth command shares: settings, answers, exit codes, and the owner's local socket.
//!
//! Decides nothing about models or machines. The one idea: a command prints one answer on stdout (with `--json`
//! exactly one JSON value on one line), everything else goes to stderr, and the exit code says 0 ok, 1 failed,
//! 2 wrong usage.

pub mod answer;
pub mod local;
pub mod settings;

pub use answer::{Failure, Outcome, start_log};

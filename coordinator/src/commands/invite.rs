//! `coordinator invite`: the right to join, once, for a while.

use std::time::Duration;

use clap::Args;
use command::Outcome;
use serde_json::json;

use super::ask::{Running, text};
use super::{duration, screen};

#[derive(Debug, Args)]
#[command(
    after_help = "Run what it prints on the machine that is to join. An invite works once.

Examples:
  coordinator invite
  coordinator invite --ttl 1h
  coordinator invite --data-dir ~/hearth --json"
)]
pub(crate) struct Flags {
    /// How long the invite works, such as 90s, 10m, 2h
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    ttl: Duration,
    #[command(flatten)]
    running: Running,
}

/// Prints an invite.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let ttl_s = flags.ttl.as_secs();
    let answer = flags
        .running
        .ask(&json!({"do": "invite", "ttl_s": ttl_s}))
        .await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    screen::show(&format!(
        "On the machine that is to join, within {ttl_s} s:\n\n  node join {}\n",
        text(&answer, "url")
    ))
}

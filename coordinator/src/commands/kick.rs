//! `coordinator kick`: a machine that is no longer welcome.

use clap::Args;
use command::Outcome;
use serde_json::json;

use super::ask::{Running, text};
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "The machine's part of the model goes to the others. It needs a new invite to come back;
invites that were open are withdrawn, as it may have seen one.

Examples:
  coordinator kick den
  coordinator kick 12D3KooWQ... --json"
)]
pub(crate) struct Flags {
    /// The machine's name or id, as `coordinator nodes` shows them
    node: String,
    #[command(flatten)]
    running: Running,
}

/// Removes a machine from the household.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let answer = flags
        .running
        .ask(&json!({"do": "kick", "node": flags.node}))
        .await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    let name = text(&answer, "name");
    screen::show(&format!("{name} no longer belongs to the household\n"))
}

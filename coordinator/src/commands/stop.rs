//! `coordinator stop`: the end of the running service, in order.

use clap::Args;
use command::Outcome;
use serde_json::json;

use super::ask::Running;
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "Running answers get a few seconds to finish; new ones are refused.

Example:
  coordinator stop"
)]
pub(crate) struct Flags {
    #[command(flatten)]
    running: Running,
}

/// Asks the running service to end.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let answer = flags.running.ask(&json!({"do": "stop"})).await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    screen::show("the service finishes its answers and ends\n")
}

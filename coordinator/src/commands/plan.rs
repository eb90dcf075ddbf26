//! `coordinator plan`: what runs where, or would, and why.

use ::plan::Plan;
use clap::Args;
use command::{Failure, Outcome};
use serde_json::json;

use super::ask::Running;
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "What --json prints can be changed by hand and given to `coordinator serve --plan FILE`.

Before anything is loaded (while --expect waits for more machines, for example) the plan is shown that
the machines that are in would get.

Examples:
  coordinator plan
  coordinator plan --next
  coordinator plan --json > plan.json"
)]
pub(crate) struct Flags {
    #[command(flatten)]
    running: Running,
    /// Show what would be planned now, even if a plan runs
    #[arg(long)]
    next: bool,
}

/// Prints the plan that runs, or the one that would.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let answer = flags
        .running
        .ask(&json!({"do": "plan", "next": flags.next}))
        .await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    let plan: Plan = serde_json::from_value(answer).map_err(|error| {
        Failure::Failed(format!(
            "the service answered with a plan that this command does not know: {error}; are both of the same version?"
        ))
    })?;
    screen::show(&::plan::table::render_table(&plan))
}

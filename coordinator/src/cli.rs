//! The command line: which commands there are, and the runtime that they run in.

use clap::{Parser, Subcommand};
use command::Outcome;

use crate::commands::{
    approve, demo, invite, key, kick, model, nodes, plan, serve, status, stop, usage,
};

#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    about = "Lets the machines of a home or a small office run one large model together",
    after_help = "Examples:
  coordinator demo                                a whole household on this machine, with the bundled model
  coordinator serve --model models/big.gguf       the service; then, for each machine:
  coordinator invite                              prints what `node join` wants
  coordinator key create --name ada               a key for somebody; then the API may be opened to the network
  coordinator status                              what the running service does

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model with the machines that join
    Serve(Box<serve::Flags>),
    /// Show it all on this machine: a coordinator, several nodes and the bundled model
    Demo(demo::Flags),
    /// Print an invite for one machine
    Invite(invite::Flags),
    /// Let a device in that asks on this screen
    Approve(approve::Flags),
    /// Show what the running service does
    Status(status::Flags),
    /// List the machines of the household
    Nodes(nodes::Flags),
    /// Show what runs where, and why
    Plan(plan::Flags),
    /// Fetch models from a hub, list them, delete them
    Model(model::Flags),
    /// Make, list and revoke the keys of people
    Key(key::Flags),
    /// Show who used how much
    Usage(usage::Flags),
    /// Remove a machine from the household
    Kick(kick::Flags),
    /// Let the running service finish its answers and end
    Stop(stop::Flags),
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> Outcome {
    let cli = Cli::parse();
    command::start_log(match cli.command {
        // What a demonstration does is told on the screen.
        Command::Demo(_) => "coordinator=warn",
        _ => "coordinator=info",
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(flags) => serve::run(*flags).await,
            Command::Demo(flags) => demo::run(flags).await,
            Command::Invite(flags) => invite::run(flags).await,
            Command::Approve(flags) => approve::run(flags).await,
            Command::Status(flags) => status::run(flags).await,
            Command::Nodes(flags) => nodes::run(flags).await,
            Command::Plan(flags) => plan::run(flags).await,
            Command::Model(flags) => model::run(flags).await,
            Command::Key(flags) => key::run(flags).await,
            Command::Usage(flags) => usage::run(flags).await,
            Command::Kick(flags) => kick::run(flags).await,
            Command::Stop(flags) => stop::run(flags).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
            let call = format!("coordinator {}", command.get_name());
            assert!(help.contains(&call), "{help}");
        }
    }
}

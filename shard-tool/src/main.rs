//! `shard-tool`: looks into model files, plans their split, cuts them into shards and makes smaller ones, without any
//! service running.
//!
//! Owns the command line and the exit codes: 0 done, 1 failed, 2 used wrongly. What it prints with `--json` is one JSON
//! value on one line of stdout; errors go to stderr. It must never write to a model file that is there.

mod cut;
mod inspect;
mod offline;
mod pull;
mod quantize;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a command did not print its answer.
enum Failure {
    /// The command line asks for something impossible: exit 2.
    Usage(anyhow::Error),
    /// The files or the plan do not allow it: exit 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

#[derive(Parser)]
#[command(
    name = "shard-tool",
    version,
    about = "Looks into model files, plans their split, cuts them into shards and makes smaller ones, without any service running",
    after_help = "Examples:
  shard-tool inspect models/hearth-tiny.gguf
  shard-tool inspect models/hearth-tiny.gguf --json
  shard-tool plan big-00001-of-00003.gguf --node desk=16GiB --node laptop=8GiB
  shard-tool split models/hearth-tiny.gguf --out shards/
  shard-tool verify shards/
  shard-tool quantize checkpoints/my-model/ --type q4_k_m --out my-model-Q4_K_M.gguf
  shard-tool pull hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a model consists of: layers, experts, bytes of every part, caches
    Inspect(inspect::Arguments),
    /// Show what would go where on given machines, and how fast that should be
    Plan(offline::Arguments),
    /// Write every shard of a model as a file named by its hash, with a catalogue
    Split(cut::SplitArguments),
    /// Compare shards, a node's store or a model with its catalogue, and name what is damaged
    Verify(cut::VerifyArguments),
    /// Fetch a model from a hub: asked first, resumed, verified
    Pull(pull::Arguments),
    /// Write a smaller GGUF file from unquantised weights, and say what that costs
    Quantize(quantize::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let answer = match arguments.command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Plan(arguments) => offline::run(&arguments),
        Command::Split(arguments) => cut::split(&arguments),
        Command::Verify(arguments) => cut::verify(&arguments),
        Command::Pull(arguments) => pull::run(&arguments),
        Command::Quantize(arguments) => quantize::run(&arguments),
    };
    let (error, code) = match answer.and_then(|text| print(&text)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Failed(error)) => (error, 1),
    };
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "shard-tool: {error:#}");
    ExitCode::from(code)
}

/// Prints an answer that ends with its own line feed. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

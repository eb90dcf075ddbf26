//! `shard-tool plan`: what would go where, offline.
//!
//! Owns the way from flags to a plan request. The JSON that it prints is the plan that `--plan FILE` of the service reads:
//! the machines are then found by their names.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use plan::{KvType, Plan, PlanError, PlanMode, PlanRequest};

use crate::Failure;
use crate::words::{LinkWord, NodeWord, SpeedWord, facts, link, links, node, speed};

#[derive(Args)]
#[command(
    after_help = "Machines without --speed count as 20 GB/s and 20 billion multiply-adds per second, links without
--link as wired gigabit: good for comparing splits, not for promising a speed.

Examples:
  shard-tool plan model.gguf --node desk=16GiB --node laptop=8GiB
  shard-tool plan model.gguf --node desk=16GiB --node laptop=8GiB --mode layers --context 8192
  shard-tool plan model.gguf --node desk=9GB --node nas=30GB --speed desk=28,40 --speed nas=12,8
  shard-tool plan model.gguf --node desk=9GB --node nas=30GB --link desk,nas=2.5Gbit/0.2ms --mode experts
  shard-tool plan model.gguf --node a=8GiB --node b=8GiB --json > plan.json"
)]
pub(crate) struct Arguments {
    /// A .gguf file (the first of split files too) or a safetensors directory
    file: PathBuf,
    /// A machine and the memory that it offers for weights, caches and scratch; once per machine
    #[arg(long = "node", value_name = "NAME=MEMORY", required = true, value_parser = node)]
    nodes: Vec<NodeWord>,
    /// A machine's speed: bytes read in GB/s, multiply-adds in billions per second
    #[arg(long = "speed", value_name = "NAME=GB_PER_S,GMAC_PER_S", value_parser = speed)]
    speeds: Vec<SpeedWord>,
    /// The link between two machines: throughput and round trip, the same both ways
    #[arg(long = "link", value_name = "NAME,NAME=SPEED/ROUNDTRIP", value_parser = link)]
    links: Vec<LinkWord>,
    /// Positions per sequence [default: the model's, at most 32768, lowered to what fits]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Sequences at a time that the caches should have room for
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=512))]
    sequences: u32,
    /// Type of the attention cache: f32, f16 or q8 [default: f16 for quantised models, else f32]
    #[arg(long)]
    kv: Option<KvType>,
    /// `auto` may leave machines out, `layers` gives every one layers, `experts` layers, expert groups or head blocks
    #[arg(long, default_value = "auto")]
    mode: PlanMode,
    /// Print the plan as one JSON value on one line
    #[arg(long)]
    json: bool,
}

/// Plans, and gives the text to print.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let nodes = facts(&arguments.nodes, &arguments.speeds).map_err(Failure::Usage)?;
    let links = links(&arguments.links, &nodes).map_err(Failure::Usage)?;
    let model = model::Checkpoint::open(&arguments.file)?.facts();
    let request = PlanRequest {
        model,
        nodes,
        links,
        context: arguments.context,
        sequences: arguments.sequences,
        kv: arguments.kv,
        mode: arguments.mode,
        exchange: arguments.mode != PlanMode::Layers,
        coordinator: None,
    };
    let plan = plan::plan(&request).map_err(|error| match error {
        PlanError::Request { .. } => Failure::Usage(error.into()),
        other => Failure::Failed(other.into()),
    })?;
    if arguments.json {
        let line = serde_json::to_string(&plan).context("the plan cannot be written as JSON")?;
        return Ok(format!("{line}\n"));
    }
    Ok(table(&plan, arguments))
}

fn table(plan: &Plan, arguments: &Arguments) -> String {
    let mut text = plan::table::render_table(plan);
    let unmeasured: Vec<&str> = arguments
        .nodes
        .iter()
        .filter(|node| arguments.speeds.iter().all(|speed| speed.name != node.name))
        .map(|node| node.name.as_str())
        .collect();
    if !unmeasured.is_empty() {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "- Speeds of {} are assumed, not measured; give them with --speed.",
            unmeasured.join(", ")
        );
    }
    text
}

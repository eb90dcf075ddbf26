//! A household of real processes on loopback: load time, memory, prefill and decode speed of a split model.
//!
//! `cargo bench --profile release -p tests --bench household -- [MODEL] [nodes=N] [memory=9GiB] [threads=N] [prompt=N] [tokens=N] [rounds=N] [chats=N] [plan=layers] [link=NAME]`
//!
//! With `compare=alone,cut5,lent7` it measures these placements round by round, with one chat, with two, and with a prompt
//! of `prompt=N` tokens, beside what the planner predicts from speeds that are measured in every round, and prints ratios
//! to the first of them: `alone` is one node,
//! `cutN` puts the first N layers on one node and the others with the head on another, `lentN` all layers on one node,
//! which keeps N expert groups of each and half of the head, and lends the rest to the other; `layers`, `experts` and
//! `auto` are what the planner makes of two nodes. Each node has one core of its own (`core=N` is the first).
//! `kernels=scalar` makes arithmetic the limit, as it is not shared between the nodes of one machine while its memory is.
//!
//! `memory=1GiB,9GiB`, `kernels=`, `threads=` and `share=100,50` (percent of a processor's time; Linux, cgroups version 1,
//! root) may differ by node. `link=gigabit` puts each node on a machine of an emulated LAN.
//!
//! `fair=8 chats=9` measures so many streams at once against one, and the pauses of one stream beside a prompt of `long=N`.
//!
//! Prompts differ from round to round. Prints medians with the smallest and largest round. Resident memory is
//! RssAnon + RssFile of each node (Linux).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

use std::path::Path;
use std::time::Instant;

use tests::process::Process;
use tests::set::Set;

mod compare;
mod fair;
mod home;
mod share;
mod speeds;

use home::{Household, together};

/// RssAnon and RssFile in MiB, and major faults so far.
fn memory(process: &Process) -> (u64, u64, u64) {
    let id = process.id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|v| v.parse::<u64>().ok())
            .unwrap_or(0)
            / 1024
    };
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let faults = fields
        .split_whitespace()
        .nth(9)
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    (of("RssAnon:"), of("RssFile:"), faults)
}

fn show(what: &str, unit: &str, mut values: Vec<f64>) {
    let middle = median(&mut values);
    println!(
        "{what}: {middle:.2} {unit} ({:.2} to {:.2})",
        values[0],
        values[values.len() - 1]
    );
}

/// The middle of some values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let (mut set, named) = Set::of_command_line();
    let bundled = named.is_none();
    let model = named.unwrap_or_else(tests::fixtures::bundled);
    if let Some(names) = set.get("compare") {
        return compare::compare(&model, names, &set).await;
    }
    if bundled {
        set.or("memory", "16MiB");
    }
    let nodes = usize::try_from(set.number("nodes", 3)).expect("nodes=N");
    let rig = home::lan(&set, nodes);
    let dir = tempfile::tempdir().expect("a folder");
    let begun = Instant::now();
    let household = Household::start(&model, dir.path(), &set, rig.as_ref()).await;
    household.ready().await;
    println!(
        "{}: ready after {:.1} s",
        model.display(),
        begun.elapsed().as_secs_f64()
    );
    household.complete(0, 8, 2).await;
    if set.get("fair").is_some() {
        return fair::fair(&household, &set).await;
    }
    let before: Vec<u64> = household.nodes.iter().map(|n| memory(n).2).collect();
    speeds(&household, &set).await;
    memories(&household, &before, &model);
}

/// Prints how fast prompts are read and answers given.
async fn speeds(household: &Household, set: &Set) {
    let (prompt, tokens) = (set.number("prompt", 128), set.number("tokens", 32));
    let (rounds, chats) = (set.number("rounds", 5), set.number("chats", 1));
    let (mut first, mut decode) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let answers = household.chats(round * 64, (chats, prompt, tokens)).await;
        first.extend(answers.iter().map(|a| prompt as f64 / a.first_s()));
        decode.push(together(&answers));
    }
    show(
        &format!("prompt of {prompt}, first token included"),
        "tokens/s",
        first,
    );
    show(
        &format!("decode, chats at once {chats}"),
        "tokens/s",
        decode,
    );
}

/// Prints what the nodes take and how often they waited for the disk.
fn memories(household: &Household, before: &[u64], model: &Path) {
    let mut all = 0;
    for (node, before) in household.nodes.iter().zip(before) {
        let (anon, file, faults) = memory(node);
        all += anon + file;
        println!(
            "node: RssAnon {anon} MiB + RssFile {file} MiB, {} major faults while answering",
            faults - before
        );
    }
    println!(
        "all nodes: {all} MiB resident, model files {} MiB",
        size(model) >> 20
    );
}

fn size(model: &Path) -> u64 {
    model::Checkpoint::open(model)
        .expect("a model")
        .identity()
        .size_bytes
}

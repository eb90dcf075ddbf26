//! The commands of `node`.

mod service;
mod terms;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use command::local::{self, Listener};
use command::settings::{default_data_dir, layered, make_data_dir};
use command::{Failure, Outcome};
use kernels::{Isa, Pool, WeightType};
use proto::limits::NODE_NAME_MAX;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use transport::Identity;

use crate::daemon::{self, Making, Owner, Start};
use crate::entry::{self, Search};
use crate::hello::hello;
use crate::measure::{self, Facts};
use crate::seek::Seeker;
use crate::shelf::{self, SharedFiles};
use crate::terms::given::Given;
use crate::terms::{Machine, probe};
use crate::worker::{Tools, Worker};

/// News of the computing thread that wait for the loop.
const TOLD_MAX: usize = 64;
/// Settings that the environment may give.
const KNOWN: [&str; 13] = [
    "memory",
    "threads",
    "hours",
    "battery",
    "while_used",
    "cores",
    "name",
    "data_dir",
    "coordinator",
    "discovery",
    "kernels",
    "store_limit",
    "no_shared_files",
];

#[derive(Debug, Parser)]
#[command(
    name = "node",
    version,
    about = "Runs a part of the household's model on this machine",
    after_help = "Examples:\n  node join 384-219                pair with the code that `coordinator invite` shows, and stay\n  node join                        come back to the household this machine was paired with\n  node status                      what this machine does\n  node pause                       give the memory back and stay a member\n  node set --hours 22:00-07:00     when and how much this machine gives\n  node leave                       hand the work over and stop"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pair if needed, then stay and serve
    #[command(
        after_help = "Examples:\n  node join                         list the households of the network and ask which\n  node join 384-219\n  node join hearth://12D3.../...\n  node join --ask\n  node join --memory 8GiB --threads 4 --name den\n  node join --coordinator 192.168.1.10:7411\n\nEvery setting can also stand in the environment (HEARTH_MEMORY=8GiB) or in the file given with --config."
    )]
    Join(Box<Join>),
    /// Show what the node on this machine does
    #[command(after_help = "Example:\n  node status --json")]
    Status(Local),
    /// Hand the work over, stop the node that runs on this machine; it can join again later
    #[command(after_help = "Example:\n  node leave")]
    Leave(Local),
    /// Change what this machine gives and when; kept over restarts, and no answer breaks off for it
    #[command(
        after_help = "Examples:\n  node set --memory 4GiB --threads 2\n  node set --hours 22:00-07:00,12:00-13:00\n  node set --battery no --while-used 600"
    )]
    Set(terms::Set),
    /// Give the memory back within seconds and stay a member, until `node resume`
    #[command(after_help = "Example:\n  node pause")]
    Pause(Local),
    /// Take part again after `node pause`
    #[command(after_help = "Example:\n  node resume")]
    Resume(Local),
    /// Keep this node running by systemd, launchd or the Windows task scheduler
    #[command(
        after_help = "Examples:\n  node install-service            for you; needs no root\n  node install-service --print    show the file and write nothing\n  sudo node install-service --system --data-dir /var/lib/hearth"
    )]
    InstallService(service::Install),
    /// Stop that service and remove its file
    #[command(after_help = "Example:\n  node uninstall-service")]
    UninstallService(service::Uninstall),
    /// Measure what this machine's kernels reach
    #[command(
        after_help = "Examples:\n  node bench                        the two speeds that plans are made from, and the limits\n  node bench --full                 every type of weights\n  node bench --cores 0,2-3 --json"
    )]
    Bench(Bench),
}

#[derive(Debug, Args, Serialize)]
struct Join {
    /// Short code or URL from `coordinator invite`; not needed on a machine that was paired before
    #[arg(value_name = "CODE|URL")]
    #[serde(skip)]
    invite: Option<String>,
    /// Ask on the coordinator's screen instead: its owner says `coordinator approve`
    #[arg(long)]
    #[serde(skip)]
    ask: bool,
    /// Memory for weights, caches and scratch, such as 8GiB [default: min(75 % of all, available - 2 GiB)]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// Computing threads [default: one for each physical core that may be used]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Hours in which it serves, by the local clock, such as 22:00-07:00,12:00-13:00 [default: always]
    #[arg(long, value_name = "RANGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<String>,
    /// Whether it serves on battery: yes or no [default: yes]
    #[arg(long, value_name = "yes|no")]
    #[serde(skip_serializing_if = "Option::is_none")]
    battery: Option<String>,
    /// Whether it serves while somebody is at it: yes, no, or after so many seconds without a touch [default: yes]
    #[arg(long, value_name = "yes|no|SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    while_used: Option<String>,
    /// Cores that the computing threads stay on, such as 0,2-3 (Linux only) [default: any]
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<String>,
    /// Name of this machine in the household [default: its host name]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where key and household are kept
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Where the coordinator is, where it is not found by itself
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,
    /// Whether the coordinator is looked for on the network by multicast DNS: on or off [default: on]
    #[arg(long, value_name = "on|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    discovery: Option<String>,
    /// Instruction set: auto, scalar, avx2, avx512 or neon; all give the same answers
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<String>,
    /// Disk space for weights that come from other machines, such as 40GiB [default: half of what is free]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    store_limit: Option<String>,
    /// Open no model file of this machine, even if it is the coordinator's: fetch what is needed
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_shared_files: bool,
    /// Measured speeds to use instead of measuring: {"read_bytes_per_s": N, "macs_per_s": N}
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    facts: Option<PathBuf>,
    /// TOML file with these settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Local {
    /// Data directory of the running node
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args, Serialize)]
struct Bench {
    /// Computing threads [default: one for each physical core that may be used]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Cores that the computing threads stay on, such as 0,2-3 (Linux only) [default: any]
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<String>,
    /// Measure every type of weights instead of Q4_K alone
    #[arg(long)]
    #[serde(skip)]
    full: bool,
    /// Instruction set: auto, scalar, avx2, avx512 or neon
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<String>,
    /// Print one JSON value
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// The settings of `join` after all layers were merged.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Merged {
    memory: Option<String>,
    threads: Option<usize>,
    hours: Option<String>,
    #[serde(default, deserialize_with = "terms::seconds_or_word")]
    battery: Option<String>,
    #[serde(default, deserialize_with = "terms::seconds_or_word")]
    while_used: Option<String>,
    #[serde(default, deserialize_with = "crate::cores::setting")]
    cores: Option<String>,
    name: Option<String>,
    data_dir: Option<PathBuf>,
    coordinator: Option<String>,
    discovery: Option<String>,
    kernels: Option<String>,
    store_limit: Option<String>,
    #[serde(default)]
    no_shared_files: bool,
}

/// The settings of `bench` after flags and environment were merged.
#[derive(Debug, Deserialize)]
struct BenchMerged {
    threads: Option<usize>,
    #[serde(default, deserialize_with = "crate::cores::setting")]
    cores: Option<String>,
    kernels: Option<String>,
}

/// Parses the command line and runs the command.
///
/// # Errors
/// What failed or was asked wrongly; see [`Failure`].
pub fn run() -> Outcome {
    let cli = Cli::parse();
    command::start_log("node=info");
    match cli.command {
        Command::Bench(bench) => self::bench(&bench),
        Command::Join(flags) => runtime()?.block_on(join(*flags)),
        Command::Status(local) => runtime()?.block_on(ask(local, "status")),
        Command::Set(set) => runtime()?.block_on(terms::set(set)),
        Command::Pause(local) => runtime()?.block_on(terms::pause(local)),
        Command::Resume(local) => runtime()?.block_on(terms::resume(local)),
        Command::InstallService(install) => service::install(&install),
        Command::UninstallService(uninstall) => service::uninstall(&uninstall),
        Command::Leave(local) => runtime()?.block_on(ask(local, "leave")),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

async fn ask(local: Local, what: &str) -> Outcome {
    let dir = local.data_dir.unwrap_or_else(|| default_data_dir("node"));
    let answer = local::call(&dir, &json!({ "do": what })).await?;
    if local.json {
        return command::answer::print_json(&answer);
    }
    if what == "leave" {
        println!("left the household; `node join` brings this machine back");
        return Ok(());
    }
    show(&answer);
    Ok(())
}

/// What a node says of itself, one line for each fact that there is.
fn show(answer: &serde_json::Value) {
    let facts = answer.as_object().into_iter().flatten();
    for (key, value) in facts.filter(|(_, value)| !value.is_null()) {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        println!("{key:15} {text}");
    }
}

/// The number of computing threads: as asked, else one for each chosen core, else one for each physical core.
fn threads(wanted: Option<usize>, cores: &[usize]) -> Result<usize, Failure> {
    match wanted {
        Some(n @ (0 | 1025..)) => Err(Failure::Usage(format!(
            "{n} threads; 1 to 1024 were expected"
        ))),
        Some(n) => Ok(n),
        None if !cores.is_empty() => Ok(cores.len()),
        None => Ok(Machine::look().threads),
    }
}

fn cores(wanted: Option<&str>) -> Result<Vec<usize>, Failure> {
    let parse = |text: &str| crate::cores::parse_list(text).map_err(Failure::Usage);
    wanted.map_or(Ok(Vec::new()), parse)
}

fn exec(wanted: Option<usize>, cores: &[usize], kernels: &str) -> Result<engine::Exec, Failure> {
    let usage = |e: kernels::KernelError| Failure::Usage(e.to_string());
    let isa: Isa = kernels.parse().map_err(usage)?;
    let pool = Pool::with_affinity(threads(wanted, cores)?, cores).map_err(usage)?;
    Ok(engine::Exec {
        pool: Arc::new(pool),
        isa,
    })
}

fn bench(bench: &Bench) -> Outcome {
    let merged: BenchMerged = layered(bench, None, &KNOWN)?;
    let cores = cores(merged.cores.as_deref())?;
    let exec = exec(
        merged.threads,
        &cores,
        merged.kernels.as_deref().unwrap_or("auto"),
    )?;
    let types: &[WeightType] = if bench.full {
        &WeightType::ALL
    } else {
        &[WeightType::Q4K]
    };
    let report = measure::report(&exec, types);
    if bench.json {
        return command::answer::print_json(&serde_json::to_value(&report)?);
    }
    print!("{}", report.table());
    Ok(())
}

fn host_name() -> String {
    let name = sysinfo::System::host_name().unwrap_or_else(|| "node".to_owned());
    name.chars()
        .filter(|c| !c.is_control())
        .take(NODE_NAME_MAX)
        .collect()
}

fn name(wanted: Option<String>) -> Result<String, Failure> {
    let name = wanted.unwrap_or_else(host_name);
    if name.is_empty() || name.len() > NODE_NAME_MAX || name.chars().any(char::is_control) {
        return Err(Failure::Usage(format!(
            "a name of {} bytes came; 1 to {NODE_NAME_MAX} bytes without control characters were expected",
            name.len()
        )));
    }
    Ok(name)
}

/// Memory to offer: as said, else what this machine can spare.
fn memory(said: Option<u64>) -> Result<u64, Failure> {
    let bytes = said.unwrap_or_else(|| Machine::look().default_memory_bytes());
    if bytes == 0 {
        return Err(Failure::Failed(
            "this machine has no memory to spare: less than 2 GiB are available; close programs or say --memory".to_owned(),
        ));
    }
    Ok(bytes)
}

/// Whether the network may be asked, and where households are looked for.
fn search<'a>(
    coordinator: Option<&'a str>,
    discovery: Option<&str>,
) -> Result<Search<'a>, Failure> {
    match (coordinator, discovery) {
        (Some(place), _) => Ok(Search::At(place)),
        (None, None | Some("on")) => Ok(Search::Network),
        (None, Some("off")) => Ok(Search::Off),
        (None, Some(other)) => Err(Failure::Usage(format!(
            "--discovery {other} came; on or off was expected"
        ))),
    }
}

fn shared_files(never: bool) -> SharedFiles {
    if never {
        SharedFiles::Never
    } else {
        SharedFiles::Try
    }
}

async fn join(flags: Join) -> Outcome {
    let merged: Merged = layered(&flags, flags.config.as_deref(), &KNOWN)?;
    let said: Merged = layered(&flags, None, &KNOWN)?;
    let dir = merged.data_dir.clone();
    let dir = dir.unwrap_or_else(|| default_data_dir("node"));
    let right = entry::read_right(flags.invite.as_deref(), flags.ask)?;
    let search = search(merged.coordinator.as_deref(), merged.discovery.as_deref())?;
    let below = terms::words(&merged)?;
    let name = name(merged.name)?;
    let said = terms::words(&said)?;
    let cores = cores(merged.cores.as_deref())?;
    make_data_dir(&dir)?;
    let kept = Given::load(&dir)?;
    let given = said.over(kept.clone());
    let wanted = given.clone().over(below.clone());
    let memory_bytes = memory(wanted.memory_bytes)?;
    let kernels = merged.kernels.as_deref().unwrap_or("auto");
    let exec = exec(wanted.threads, &cores, kernels)?;
    let local = Listener::bind(&dir).await?;
    let store = Arc::new(shelf::store(&dir, merged.store_limit.as_deref())?);
    if given != kept {
        given.save(&dir)?;
    }
    let entry = entry::find(&dir, right, search).await?;
    let told_facts = flags.facts.as_deref().map(Facts::read).transpose();
    let told_facts = told_facts.map_err(Failure::Usage)?;
    let facts = told_facts.unwrap_or_else(|| measure::cached(&dir, &exec, &cores, memory_bytes));
    let making = Making {
        isa: exec.isa,
        cores,
        facts: told_facts,
    };
    let situation = probe::look(&wanted.terms()).await;
    let owner = Owner::new(given, below, situation, making);
    let identity = Identity::load_or_create(&dir.join("node.key"))?;
    let sockets = entry::open(&identity, &entry.home.addresses)?;
    entry::come_in(&entry, &sockets, &dir, &name).await?;
    let home = entry.home;
    let may_seek = merged.discovery.as_deref() != Some("off");
    let seeker = Seeker::new(may_seek && !entry::is_on_this_machine(&home.addresses));
    let (told_in, told) = mpsc::channel(TOLD_MAX);
    let files = shared_files(merged.no_shared_files);
    let (shelf, desk) = shelf::shelf(files, store, &sockets.endpoint, &told_in);
    let mut hello = hello(name, &exec, memory_bytes, facts);
    owner.duty().reason().clone_into(&mut hello.paused);
    let tools = Tools {
        shelf,
        exec,
        memory_bytes,
        mesh: sockets.mesh.clone(),
        runtime: tokio::runtime::Handle::current(),
        told: told_in,
    };
    let worker = Worker::start(tools)?;
    daemon::run(Start {
        sockets,
        household: home,
        seeker,
        hello,
        worker,
        desk,
        told,
        local,
        owner,
        data_dir: dir,
    })
    .await
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
    fn wrong_words_are_usage_errors() {
        for failed in [
            search(None, Some("maybe")).map(|_| ()),
            terms::words(&Merged {
                memory: Some("many".to_owned()),
                ..Merged::default()
            })
            .map(|_| ()),
            threads(Some(0), &[]).map(|_| ()),
            cores(Some("3-1")).map(|_| ()),
            name(Some("a\nb".to_owned())).map(|_| ()),
            exec(Some(1), &[], "sse9").map(|_| ()),
            exec(Some(1), &[1023], "auto").map(|_| ()),
        ] {
            assert!(matches!(failed, Err(Failure::Usage(_))), "{failed:?}");
        }
    }
}

//! The commands of `node`.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
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
use shards::Store;
use tokio::sync::mpsc;
use transport::{Identity, Invite, Role, Settings, Timing};

use crate::daemon::{self, Start};
use crate::fetch::{Desk, Fetcher};
use crate::hello::hello;
use crate::household::Household;
use crate::lend::StoreLender;
use crate::measure::{self, Facts};
use crate::shelf::{SharedFiles, Shelf};
use crate::terms::Machine;
use crate::worker::{Told, Tools, Worker};

/// News of the computing thread that wait for the loop.
const TOLD_MAX: usize = 64;
/// Settings that the environment may give.
const KNOWN: [&str; 9] = [
    "memory",
    "threads",
    "cores",
    "name",
    "data_dir",
    "coordinator",
    "kernels",
    "store_limit",
    "no_shared_files",
];

#[derive(Debug, Parser)]
#[command(
    name = "node",
    version,
    about = "Runs a part of the household's model on this machine",
    after_help = "Examples:\n  node join hearth://12D3.../...   pair with the invite that `coordinator invite` printed, and stay\n  node join                        come back to the household this machine was paired with\n  node status                      what this machine does\n  node leave                       hand the work over and stop"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pair if needed, then stay and serve
    #[command(
        after_help = "Examples:\n  node join hearth://12D3.../...\n  node join --memory 8GiB --threads 4 --name den\n  node join --coordinator 192.168.1.10:7411\n\nEvery setting can also stand in the environment (HEARTH_MEMORY=8GiB) or in the file given with --config."
    )]
    Join(Box<Join>),
    /// Show what the node on this machine does
    #[command(after_help = "Example:\n  node status --json")]
    Status(Local),
    /// Hand the work over, stop the node that runs on this machine; it can join again later
    #[command(after_help = "Example:\n  node leave")]
    Leave(Local),
    /// Measure what this machine's kernels reach
    #[command(
        after_help = "Examples:\n  node bench                        the two speeds that plans are made from, and the limits\n  node bench --full                 every type of weights\n  node bench --cores 0,2-3 --json"
    )]
    Bench(Bench),
}

#[derive(Debug, Args, Serialize)]
struct Join {
    /// Invite URL from `coordinator invite`; not needed on a machine that was paired before
    #[serde(skip)]
    invite: Option<String>,
    /// Memory for weights, caches and scratch, such as 8GiB [default: min(75 % of all, available - 2 GiB)]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// Computing threads [default: one for each physical core that may be used]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
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
    /// Where the coordinator is, if it moved
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coordinator: Option<String>,
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Merged {
    memory: Option<String>,
    threads: Option<usize>,
    #[serde(default, deserialize_with = "crate::cores::setting")]
    cores: Option<String>,
    name: Option<String>,
    data_dir: Option<PathBuf>,
    coordinator: Option<String>,
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
    for (key, value) in answer.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        println!("{key:15} {text}");
    }
    Ok(())
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

fn memory(wanted: Option<&str>) -> Result<u64, Failure> {
    let bytes = match wanted {
        Some(text) => {
            plan::size::parse_size(text).map_err(|e| Failure::Usage(format!("--memory: {e}")))?
        }
        None => Machine::look().default_memory_bytes(),
    };
    if bytes == 0 {
        return Err(Failure::Failed(
            "this machine has no memory to spare: less than 2 GiB are available; close programs or say --memory".to_owned(),
        ));
    }
    Ok(bytes)
}

/// Where weights from other machines are kept in the data directory.
const STORE_DIR: &str = "store";

/// The store of this node, within the limit that the owner gave.
fn store(dir: &std::path::Path, wanted: Option<&str>) -> Result<Store, Failure> {
    let parsed = wanted.map(plan::size::parse_size).transpose();
    let wanted = parsed.map_err(|e| Failure::Usage(format!("--store-limit: {e}")))?;
    let store = Store::open(&dir.join(STORE_DIR), wanted.unwrap_or(u64::MAX))?;
    Ok(match wanted {
        Some(_) => store,
        None => {
            let limit = shards::default_limit(dir, store.held_bytes());
            store.with_limit(limit)
        }
    })
}

/// The household to go to: that of the invite, or the one this machine knows.
fn household(
    dir: &std::path::Path,
    invite: Option<&Invite>,
    moved: Option<&str>,
) -> Result<Household, Failure> {
    let known = Household::load(dir)?;
    let mut home = match (invite, known) {
        (Some(invite), _) => Household {
            coordinator: invite.coordinator.clone(),
            addresses: invite.addresses.clone(),
        },
        (None, Some(known)) => known,
        (None, None) => {
            return Err(Failure::Usage(
                "this machine belongs to no household yet: run `coordinator invite` on the coordinator and give its URL here: node join hearth://...".to_owned(),
            ));
        }
    };
    if let Some(place) = moved {
        let found = place.to_socket_addrs().map_err(|e| {
            Failure::Usage(format!(
                "--coordinator {place}: {e}; HOST:PORT was expected, such as 192.168.1.10:7411"
            ))
        })?;
        home.addresses.splice(0..0, found);
        home.addresses.truncate(proto::limits::ADDRESSES_MAX);
    }
    Ok(home)
}

fn parse_invite(text: &str) -> Result<Invite, Failure> {
    let short_code = text.chars().all(|c| c.is_ascii_digit() || c == '-');
    if short_code {
        return Err(Failure::Usage(format!(
            "'{text}' looks like a short code; this version pairs by URL: give the hearth://... line that `coordinator invite` printed"
        )));
    }
    text.parse()
        .map_err(|e| Failure::Usage(format!("invite: {e}")))
}

/// Only a household on this very machine is reached over loopback alone.
fn bind_address(home: &Household) -> SocketAddr {
    let local = home.addresses.iter().all(|a| a.ip().is_loopback());
    let ip = if local {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    SocketAddr::from((ip, 0))
}

async fn join(flags: Join) -> Outcome {
    let merged: Merged = layered(&flags, flags.config.as_deref(), &KNOWN)?;
    let dir = merged
        .data_dir
        .clone()
        .unwrap_or_else(|| default_data_dir("node"));
    let invite = flags.invite.as_deref().map(parse_invite).transpose()?;
    let name = name(merged.name)?;
    let memory_bytes = memory(merged.memory.as_deref())?;
    let cores = cores(merged.cores.as_deref())?;
    let exec = exec(
        merged.threads,
        &cores,
        merged.kernels.as_deref().unwrap_or("auto"),
    )?;
    make_data_dir(&dir)?;
    let home = household(&dir, invite.as_ref(), merged.coordinator.as_deref())?;
    let local = Listener::bind(&dir).await?;
    let store = Arc::new(store(&dir, merged.store_limit.as_deref())?);
    let facts = match &flags.facts {
        Some(path) => Facts::read(path).map_err(Failure::Usage)?,
        None => measure::cached(&dir, &exec, &cores, memory_bytes),
    };
    let identity = Identity::load_or_create(&dir.join("node.key"))?;
    let timing = Timing::default();
    let settings = Settings {
        bind: bind_address(&home),
        role: Role::Node,
        timing,
    };
    let sockets = transport::open(&identity, settings)?;
    pair(&sockets, &dir, &home, invite.as_ref(), &name).await?;
    let (told_in, told) = mpsc::channel(TOLD_MAX);
    let files = if merged.no_shared_files {
        SharedFiles::Never
    } else {
        SharedFiles::Try
    };
    let (shelf, desk) = shelf(files, store, &sockets.endpoint, &told_in);
    let hello = hello(name, &exec, memory_bytes, facts);
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
        hello,
        worker,
        desk,
        told,
        local,
        data_dir: dir,
    })
    .await
}

/// Where models come from, what is told to it, and what is lent out of it.
fn shelf(
    files: SharedFiles,
    store: Arc<Store>,
    endpoint: &transport::Endpoint,
    told: &mpsc::Sender<Told>,
) -> (Shelf, Desk) {
    let (desk, news) = Desk::new(Arc::clone(&store));
    endpoint.lend(Arc::new(StoreLender {
        store: Arc::clone(&store),
        lent: Arc::clone(&desk.lent),
    }));
    let fetcher = Fetcher {
        endpoint: endpoint.clone(),
        store,
        news,
        told: told.clone(),
        runtime: tokio::runtime::Handle::current(),
        fetched: Arc::clone(&desk.fetched),
    };
    let shelf = Shelf {
        files,
        fetcher: Some(fetcher),
    };
    (shelf, desk)
}

/// Redeems the invite, unless this machine belongs to that household already.
async fn pair(
    sockets: &transport::Sockets,
    dir: &std::path::Path,
    home: &Household,
    invite: Option<&Invite>,
    name: &str,
) -> Outcome {
    let known = Household::load(dir)?.is_some_and(|h| h.coordinator == home.coordinator);
    if let Some(invite) = invite
        && !known
    {
        sockets.endpoint.pair(invite, name).await?;
        tracing::info!(coordinator = %invite.coordinator, "paired");
    }
    home.save(dir)?;
    Ok(())
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
            parse_invite("384-219").map(|_| ()),
            parse_invite("http://x").map(|_| ()),
            memory(Some("many")).map(|_| ()),
            threads(Some(0), &[]).map(|_| ()),
            cores(Some("3-1")).map(|_| ()),
            name(Some("a\nb".to_owned())).map(|_| ()),
            exec(Some(1), &[], "sse9").map(|_| ()),
            exec(Some(1), &[1023], "auto").map(|_| ()),
        ] {
            assert!(matches!(failed, Err(Failure::Usage(_))), "{failed:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let nowhere = household(dir.path(), None, None);
        assert!(matches!(nowhere, Err(Failure::Usage(_))));
    }

    #[test]
    fn a_household_on_this_machine_is_not_offered_to_the_network() {
        let home = |address: &str| Household {
            coordinator: proto::NodeId::new("a").unwrap(),
            addresses: vec![address.parse().unwrap()],
        };
        assert!(bind_address(&home("127.0.0.1:7411")).ip().is_loopback());
        assert!(
            bind_address(&home("192.168.1.2:7411"))
                .ip()
                .is_unspecified()
        );
    }
}

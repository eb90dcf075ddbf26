//! A machine without any file joins a household on an emulated LAN: what crosses its link, how fast, and beside decode.
//!
//! `cargo bench --profile release -p tests --bench fetch -- [MODEL] [link=NAME] [memory=9GiB] [sources=members|coordinator] [part=join|beside]`
//!
//! `part=join`: two machines serve and wait for a third, which is given the last third of the layers and the head. Lenders
//! are the coordinator and, with `sources=members`, the second machine, which has fetched those shards before. With
//! `sources=coordinator` both have the file itself, which is not lent.
//!
//! `part=beside`: a household fetches no weights while it answers: a machine fetches when it is in a plan, and a plan comes
//! with a new epoch. So decode is measured in one household and the transfer made by another on the same two machines:
//! frames and pieces share both links in the same direction.
//!
//! Without `part` both are measured. The relay, senders and receivers share the processors of this host: how busy they
//! were is printed as well.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shards::{Catalogue, Unit};
use tests::lan::{Link, Rig};
use tests::set::Set;
use tests::{Api, Cluster, Wanted, fixtures, plans};

/// Wi-Fi that is as even as a cable.
const LINK: &str = "good-wifi,rtt-us=500,jitter-us=0";
/// How often counters are read.
const LOOK: Duration = Duration::from_millis(5);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long decode is measured alone.
const ALONE: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() {
    let (set, named) = Set::of_command_line();
    let model = named.unwrap_or_else(fixtures::bundled);
    let words = set.of("link", LINK);
    let link: Link = words.parse().expect("a link");
    println!("{} over {words}", model.display());
    if set.get("part") != Some("beside") {
        join(&model, &set, &link).await;
    }
    if set.get("part") != Some("join") {
        beside(&model, &set, &link).await;
    }
}

/// The model's name, and the layers at which three machines share it.
fn thirds(model: &Path) -> (String, u32, [u32; 2]) {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let layers = u32::try_from(facts.layers.len()).expect("few layers");
    (facts.id, layers, [layers / 3, 2 * layers / 3])
}

fn rig(machines: usize, link: &Link) -> Arc<Rig> {
    Arc::new(Rig::new(&vec![*link; machines], 7).expect("an emulated LAN"))
}

/// The first part: a third machine comes in.
async fn join(model: &Path, set: &Set, link: &Link) {
    let (name, layers, [first, second]) = thirds(model);
    let rig = rig(3, link);
    let wanted = Wanted::model(model)
        .nodes(2)
        .memory(&set.of("memory", "9GiB"))
        .on(&rig, 0, &[0, 1, 2]);
    let three = plans::cut(&name, layers, &[first, second]);
    let mut cluster = if set.of("sources", "members") == "coordinator" {
        let mut cluster = wanted.plan(three).start().await;
        cluster.want(|wanted| wanted.join(&["--no-shared-files"]));
        cluster
    } else {
        let two = plans::cut(&name, layers, &[first]);
        let wanted = wanted.join(&["--no-shared-files"]).plan(two);
        let mut cluster = wanted.start().await;
        ready(&cluster).await;
        cluster.want(|wanted| wanted.plan(three));
        cluster.restart_coordinator().await;
        cluster
    };
    cluster
        .status("two machines", |status| status["nodes"] == 2)
        .await;
    let invite = cluster.invite().await;
    let (begun, before) = (Instant::now(), Spent::of(&cluster));
    cluster.join("n2", &set.of("memory", "9GiB"), &invite);
    let watched = Watched::of(&cluster, 2, &rig, 2).await;
    println!("ready after {:.2} s", begun.elapsed().as_secs_f64());
    let needs = needs(&cluster, 2, |unit| match unit {
        Unit::Base | Unit::Head(_) => true,
        Unit::Trunk(layer) | Unit::Group { layer, .. } => layer >= second,
        Unit::Embedding => false,
    });
    watched.print(needs, link);
    before.print(&cluster);
    for at in 0..2 {
        let status = node_status(&cluster, at).await.expect("it runs");
        println!("  n{at} lent {} bytes", status["lent_bytes"]);
    }
    lateness(&rig);
}

/// The second part: one household answers while another one's machine fetches.
async fn beside(model: &Path, set: &Set, link: &Link) {
    let rig = rig(2, link);
    let tiny = fixtures::bundled();
    let (name, layers, [first, _]) = thirds(&tiny);
    let answering = Wanted::model(&tiny)
        .nodes(2)
        .plan(plans::cut(&name, layers, &[first]))
        .on(&rig, 0, &[0, 1])
        .ready()
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let chat = tokio::spawn(chat(answering.api(), Arc::clone(&stop)));
    tokio::time::sleep(ALONE).await;
    let alone = Instant::now();
    let (name, layers, _) = thirds(model);
    let mut fetching = Wanted::model(model)
        .nodes(0)
        .memory(&set.of("memory", "9GiB"))
        .join(&["--no-shared-files"])
        .plan(plans::cut(&name, layers, &[]))
        .on(&rig, 0, &[1])
        .start()
        .await;
    let invite = fetching.invite().await;
    let before = Spent::of(&fetching);
    fetching.join("n0", &set.of("memory", "9GiB"), &invite);
    let watched = Watched::of(&fetching, 0, &rig, 1).await;
    stop.store(true, Ordering::Release);
    let tokens = chat.await.expect("the chat goes on");
    watched.print(needs(&fetching, 0, |_| true), link);
    before.print(&fetching);
    gaps("decode alone", &tokens, |at| at < alone);
    let (from, to) = watched.span();
    gaps("decode beside the transfer", &tokens, |at| {
        (from..=to).contains(&at)
    });
    lateness(&rig);
}

async fn ready(cluster: &Cluster) {
    let wait = async {
        while cluster.api().get("/readyz").await.status != 200 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.expect("ready in time");
}

/// What a node says of itself, once it does.
async fn node_status(cluster: &Cluster, at: usize) -> Option<Value> {
    let dir = &cluster.members[at].dir;
    let asked = command::local::call(dir, &json!({"do": "status"})).await;
    asked.ok()
}

/// Bytes of the shards that a node needs.
fn needs(cluster: &Cluster, at: usize, wanted: impl Fn(Unit) -> bool) -> u64 {
    let store = cluster.members[at].dir.join("store");
    let mut models = std::fs::read_dir(store).expect("a store");
    let image = models.next().expect("a model").expect("a folder").path();
    let text = std::fs::read(image.join("catalogue.json")).expect("a catalogue");
    let catalogue = Catalogue::parse(text).expect("a catalogue");
    let shards = catalogue.pick(wanted);
    let bytes = |at: &usize| catalogue.shards()[*at].bytes;
    shards.iter().map(bytes).sum()
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Bytes of shards and catalogues that the node had got.
    fetched: u64,
    /// Bytes of frames that its machine had got.
    wire: u64,
    /// Bytes of shards that it had kept.
    kept: u64,
    dropped: u64,
}

/// A node from its start until it serves.
struct Watched(Vec<Sample>);

impl Watched {
    async fn of(cluster: &Cluster, node: usize, rig: &Rig, machine: usize) -> Self {
        let begun = Instant::now();
        let mut samples = Vec::new();
        loop {
            let status = node_status(cluster, node).await;
            let number = |name: &str| {
                let value = status.as_ref().and_then(|status| status[name].as_u64());
                value.unwrap_or(0)
            };
            let counts = rig.report().counts;
            samples.push(Sample {
                at: Instant::now(),
                fetched: number("fetched_bytes"),
                wire: counts[machine].received_bytes,
                kept: number("store_bytes"),
                dropped: counts.iter().map(|count| count.dropped).sum(),
            });
            if status.is_some_and(|status| status["phase"] == "serving") {
                return Self(samples);
            }
            assert!(begun.elapsed() < PATIENCE, "not ready in time");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The last sample before the first shard came and the first one after the last.
    fn ends(&self) -> (Sample, Sample) {
        let last = self.0[self.0.len() - 1];
        let begin = self.0.iter().rev().find(|sample| sample.kept == 0);
        let end = self.0.iter().find(|sample| sample.kept == last.kept);
        (*begin.expect("nothing at first"), *end.expect("the last"))
    }

    fn span(&self) -> (Instant, Instant) {
        let (begin, end) = self.ends();
        (begin.at, end.at)
    }

    fn print(&self, needed: u64, link: &Link) {
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        let over = |bytes: u64| (bytes as f64 / needed as f64 - 1.0) * 100.0;
        println!("shards needed: {needed} bytes, kept {}", last.kept);
        println!(
            "fetched with the catalogue: {} bytes, {:+.2} %",
            last.fetched,
            over(last.fetched)
        );
        let (begin, end) = self.ends();
        let wire = end.wire - begin.wire;
        println!(
            "frames to the machine during the transfer: {wire} bytes, {:+.2} %; {} dropped at full queues on the LAN; {} bytes before (joining, measuring of links)",
            over(wire),
            end.dropped - begin.dropped,
            begin.wire - first.wire
        );
        let seconds = (end.at - begin.at).as_secs_f64().max(1e-9);
        let rate = |bytes: u64| bytes as f64 * 8.0 / seconds;
        let share = |bytes: u64| rate(bytes) / link.bits_per_s as f64 * 100.0;
        println!(
            "transfer: {seconds:.2} s, {:.0} Mbit/s of shards: {:.1} % of the link, {:.1} % with the heads of frames",
            rate(end.kept) / 1e6,
            share(end.kept),
            share(end.wire - begin.wire)
        );
    }
}

/// Processor time of all processes of a household and of the relay.
struct Spent {
    at: Instant,
    by: Vec<(String, f64)>,
}

impl Spent {
    fn of(cluster: &Cluster) -> Self {
        let mut by = vec![("relay and bench".to_owned(), seconds(std::process::id()))];
        let coordinator = cluster.coordinator.process.id().expect("it runs");
        by.push(("coordinator".to_owned(), seconds(coordinator)));
        for member in &cluster.members {
            let id = member.process.id().expect("it runs");
            by.push((member.name.clone(), seconds(id)));
        }
        Self {
            at: Instant::now(),
            by,
        }
    }

    fn print(&self, cluster: &Cluster) {
        let now = Self::of(cluster);
        let wall = (now.at - self.at).as_secs_f64();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let words = now.by.iter().map(|(name, spent)| {
            let before = self.by.iter().find(|(known, _)| known == name);
            let share = (spent - before.map_or(0.0, |(_, spent)| *spent)) / wall * 100.0;
            format!("{name} {share:.0} %")
        });
        let words: Vec<String> = words.collect();
        println!(
            "  time on one of {processors} processors, from the join on: {}",
            words.join(", ")
        );
    }
}

/// Seconds that a process has computed (Linux, at 100 ticks a second).
fn seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// When each token of one answer after the other came, with the pause before it.
async fn chat(api: Api, stop: Arc<AtomicBool>) -> Vec<(Instant, Duration)> {
    let mut tokens = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let body = json!({"prompt": [39, 279, 486, 11], "max_tokens": 400, "temperature": 0, "ignore_eos": true});
        let mut events = api.stream("/v1/completions", body).await;
        let mut before = None;
        while let Some(event) = events.next().await {
            assert!(event.get("error").is_none(), "{event}");
            let now = Instant::now();
            if let Some(before) = before {
                tokens.push((now, now - before));
            }
            before = Some(now);
        }
    }
    tokens
}

fn gaps(what: &str, tokens: &[(Instant, Duration)], counts: impl Fn(Instant) -> bool) {
    let counted = tokens.iter().filter(|(at, _)| counts(*at));
    let mut gaps: Vec<f64> = counted.map(|(_, gap)| gap.as_secs_f64() * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    let Some(last) = gaps.len().checked_sub(1) else {
        return println!("{what}: no token");
    };
    let at = |percent: usize| gaps[last * percent / 100];
    println!(
        "{what}: between tokens {:.2} ms (p50), {:.2} ms (p99), {:.2} ms (most); {} tokens",
        at(50),
        at(99),
        gaps[last],
        gaps.len()
    );
}

fn lateness(rig: &Rig) {
    let late = rig.report().lateness;
    println!(
        "  frames that the relay gave out late by less than 10, 30, 100, 300, 1000 us and more: {:?}",
        late.frames
    );
}

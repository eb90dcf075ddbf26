//! A household of real processes on loopback: load time, memory, prefill and decode speed of a split model.
//!
//! `cargo bench --profile release -p tests --bench household -- [MODEL] [nodes=N] [memory=9GiB] [threads=N] [prompt=N] [tokens=N] [rounds=N] [chats=N] [plan=layers]`
//!
//! With `compare=cut5,lent7` it measures one node alone and then each of these placements on two, with one chat and with
//! two, and prints ratios: `cutN` puts the first N layers on one node and the others with the head on the other, `lentN`
//! all layers on one node, which keeps N expert groups of each and half of the head, and lends the rest to the other.
//! Each node has one core of its own (`core=N` is the first). `kernels=scalar` makes arithmetic the limit, as it is not
//! shared between the nodes of one machine while its memory is.
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

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::process::{Process, run};
use tests::{plans, programs};

const READY_DEADLINE: Duration = Duration::from_secs(900);

struct Household {
    client: reqwest::Client,
    api: String,
    model: String,
    vocab: u64,
    nodes: Vec<Process>,
    _coordinator: Process,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

/// The arguments of `node` for the node with number `at`.
fn join(url: &str, at: u32, dir: &Path, set: &HashMap<String, String>) -> Vec<String> {
    let of = |name: &str, or: &str| set.get(name).cloned().unwrap_or_else(|| or.to_owned());
    let mut join = ["join", url, "--data-dir", text(dir)]
        .map(str::to_owned)
        .to_vec();
    for (flag, value) in [
        ("--name", format!("n{at}")),
        ("--memory", of("memory", "9GiB")),
        ("--threads", of("threads", "2")),
        ("--kernels", of("kernels", "auto")),
    ] {
        join.extend([flag.to_owned(), value]);
    }
    if let Some(core) = set.get("core") {
        let core = core.parse::<u32>().expect("core=N") + at;
        join.extend(["--cores".to_owned(), core.to_string()]);
    }
    join
}

async fn start(model: &Path, dir: &Path, set: &HashMap<String, String>) -> Household {
    let of = |name: &str, or: &str| set.get(name).cloned().unwrap_or_else(|| or.to_owned());
    let data = dir.join("coordinator");
    let nodes = of("nodes", "3");
    let serve = [
        "serve",
        "--json",
        "--api",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--model",
        text(model),
        "--data-dir",
        text(&data),
        "--expect",
        &nodes,
        "--plan",
        &of("plan", "layers"),
        "--context",
        &of("context", "2048"),
        "--sequences",
        &of("chats", "1"),
    ];
    let mut coordinator = Process::start("coordinator", &programs::coordinator(), &serve);
    let line: Value =
        serde_json::from_str(&coordinator.out_line("{").await).expect("facts in JSON");
    let mut members = Vec::new();
    for at in 0..nodes.parse::<u32>().expect("nodes=N") {
        let invite = run(
            &programs::coordinator(),
            &["invite", "--json", "--data-dir", text(&data)],
        )
        .await
        .ok()
        .json();
        let name = format!("n{at}");
        let node_dir = dir.join(&name);
        let url = invite["url"].as_str().expect("url");
        let join = join(url, at, &node_dir, set);
        members.push(Process::start(&name, &programs::node(), &join));
    }
    let checkpoint = model::Checkpoint::open(model).expect("a model");
    Household {
        client: reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client"),
        api: format!("http://{}", line["api"].as_str().expect("api")),
        model: line["model"].as_str().expect("model").to_owned(),
        vocab: checkpoint.arch().vocab as u64,
        nodes: members,
        _coordinator: coordinator,
    }
}

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

impl Household {
    async fn ready(&self) {
        let begun = Instant::now();
        loop {
            let answer = self.client.get(format!("{}/readyz", self.api)).send().await;
            if answer.is_ok_and(|a| a.status() == 200) {
                return;
            }
            assert!(begun.elapsed() < READY_DEADLINE, "not ready in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One completion: seconds to the first token, and tokens per second after it.
    async fn complete(&self, salt: u64, prompt: u64, tokens: u64) -> (f64, f64) {
        let ids: Vec<u64> = (0..prompt)
            .map(|i| (i * 7919 + salt * 104_729) % (self.vocab - 600))
            .collect();
        let body = json!({
            "model": self.model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
        });
        let begun = Instant::now();
        let sent = self
            .client
            .post(format!("{}/v1/completions", self.api))
            .json(&body)
            .send()
            .await;
        let mut answer = sent.expect("the endpoint answers");
        assert_eq!(answer.status(), 200);
        let mut times = Vec::new();
        let mut rest = String::new();
        while let Some(part) = answer.chunk().await.expect("the stream goes on") {
            rest.push_str(&String::from_utf8_lossy(&part));
            while let Some((event, after)) = rest.split_once("\n\n") {
                assert!(!event.contains("\"error\""), "{event}");
                if event.contains("\"choices\":[{") {
                    times.push(begun.elapsed().as_secs_f64());
                }
                rest = after.to_owned();
            }
        }
        assert_eq!(times.len() as u64, tokens);
        let first = times[0];
        let decode = times[times.len() - 1] - first;
        (first, (tokens - 1) as f64 / decode.max(1e-9))
    }
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

/// Tokens per second of so many chats at once, first tokens not counted: one value a round.
async fn speeds(household: &Household, chats: u64, (rounds, tokens): (u64, u64)) -> Vec<f64> {
    let mut all = Vec::new();
    for round in 1..=rounds {
        let many = (0..chats).map(|chat| household.complete(round * 64 + chat, 16, tokens));
        let each = futures::future::join_all(many).await;
        all.push(each.iter().map(|(_, speed)| speed).sum());
    }
    all
}

/// A plan for a placement by its name.
fn placement(model: &Path, name: &str) -> Value {
    let facts = model::Checkpoint::open(model).expect("a model").facts();
    let number = |text: &str| text.parse::<u32>().expect("a number behind the placement");
    let layers = u32::try_from(facts.layers.len()).expect("few layers");
    let mut plan = match (name.strip_prefix("cut"), name.strip_prefix("lent")) {
        (Some(cut), _) => plans::cut(&facts.id, layers, &[number(cut)]),
        (_, Some(kept)) => plans::lent(model, number(kept)),
        _ => plans::cut(&facts.id, layers, &[]),
    };
    let (context, slots) = (1024, 2);
    plan["kv"] = json!("f16");
    plan["context"] = json!(context);
    plan["slots"] = json!(slots);
    plan["pages"] = json!(slots * context / 64);
    plan
}

/// Measures placements beside one node alone.
async fn compare(model: &Path, names: &str, set: &HashMap<String, String>) {
    let number = |name: &str, or: u64| set.get(name).map_or(or, |v| v.parse().expect(name));
    let measure = (number("rounds", 5), number("tokens", 24));
    let mut alone = [0.0; 2];
    for name in std::iter::once("alone").chain(names.split(',')) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut set = set.clone();
        let plan = plans::write(&placement(model, name), dir.path());
        set.insert("plan".to_owned(), text(&plan).to_owned());
        let nodes = if name == "alone" { "1" } else { "2" };
        set.insert("nodes".to_owned(), nodes.to_owned());
        for (key, value) in [("threads", "1"), ("core", "0")] {
            set.entry(key.to_owned()).or_insert(value.to_owned());
        }
        let household = start(model, dir.path(), &set).await;
        household.ready().await;
        household.complete(0, 16, 4).await;
        for (chats, alone) in (1..).zip(&mut alone) {
            let mut values = speeds(&household, chats, measure).await;
            let middle = median(&mut values);
            if name == "alone" {
                *alone = middle;
            }
            println!(
                "{name}, chats at once {chats}: {middle:.2} tokens/s ({:.2} to {:.2}), {:.2} x alone",
                values[0],
                values[values.len() - 1],
                middle / *alone
            );
        }
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let set: HashMap<String, String> = arguments
        .iter()
        .filter_map(|a| a.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let named = arguments.iter().find(|a| !a.contains('='));
    let model = named.map_or_else(tests::fixtures::bundled, PathBuf::from);
    let number = |name: &str, or: u64| set.get(name).map_or(or, |v| v.parse().expect(name));
    let (prompt, tokens, rounds, chats) = (
        number("prompt", 128),
        number("tokens", 32),
        number("rounds", 5),
        number("chats", 1),
    );
    let mut set = set.clone();
    if let Some(names) = set.get("compare").cloned() {
        return compare(&model, &names, &set).await;
    }
    if named.is_none() {
        set.entry("memory".to_owned())
            .or_insert_with(|| "16MiB".to_owned());
    }
    let dir = tempfile::tempdir().expect("a folder");
    let begun = Instant::now();
    let household = start(&model, dir.path(), &set).await;
    household.ready().await;
    println!(
        "{}: ready after {:.1} s",
        model.display(),
        begun.elapsed().as_secs_f64()
    );
    household.complete(0, 8, 2).await;
    let before: Vec<u64> = household.nodes.iter().map(|n| memory(n).2).collect();
    let (mut first, mut decode) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let begun = Instant::now();
        let many = (0..chats).map(|chat| household.complete(round * 64 + chat, prompt, tokens));
        let results = futures::future::join_all(many).await;
        first.extend(results.iter().map(|r| prompt as f64 / r.0));
        if chats == 1 {
            decode.push(results[0].1);
        } else {
            decode.push((chats * tokens) as f64 / begun.elapsed().as_secs_f64());
        }
    }
    show(
        &format!("prompt of {prompt}, first token included"),
        "tokens/s",
        first,
    );
    let what = if chats == 1 {
        "decode".to_owned()
    } else {
        format!("{chats} chats at once, prompts included")
    };
    show(&what, "tokens/s", decode);
    memories(&household, &before, &model);
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

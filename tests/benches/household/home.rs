//! The processes of one household and what they do when asked.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lan::{Link, Rig};
use tests::process::{Process, run};
use tests::programs;
use tests::set::Set;

use crate::share::Share;

const READY_DEADLINE: Duration = Duration::from_secs(900);

/// A coordinator and its nodes.
pub struct Household {
    client: reqwest::Client,
    api: String,
    model: String,
    vocab: u64,
    data: String,
    pub nodes: Vec<Process>,
    _coordinator: Process,
    /// Ends after the processes in it.
    _shares: Vec<Share>,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    began: Instant,
    /// When each token came.
    tokens: Vec<Instant>,
}

impl Answer {
    /// Seconds to the first token.
    pub fn first_s(&self) -> f64 {
        (self.tokens[0] - self.began).as_secs_f64()
    }

    /// Tokens per second from the request to the last token.
    pub fn whole_tokens_per_s(&self) -> f64 {
        let last = self.tokens.last().expect("tokens");
        self.tokens.len() as f64 / (*last - self.began).as_secs_f64().max(1e-9)
    }

    /// Seconds that 99 of 100 pauses between tokens do not exceed, those before the first token of another answer where
    /// one is given.
    pub fn p99_s(&self, before: Option<&Answer>) -> f64 {
        let inside = |at: &Instant| before.is_none_or(|other| *at <= other.tokens[0]);
        let pairs = self.tokens.windows(2).filter(|two| inside(&two[1]));
        let mut pauses: Vec<f64> = pairs.map(|two| (two[1] - two[0]).as_secs_f64()).collect();
        pauses.sort_by(f64::total_cmp);
        pauses
            .get(pauses.len() * 99 / 100)
            .copied()
            .unwrap_or_default()
    }
}

/// Tokens per second of some answers while all of them are given.
pub fn together(answers: &[Answer]) -> f64 {
    let begin = answers.iter().map(|a| a.tokens[0]).max().expect("answers");
    let ends = answers.iter().filter_map(|a| a.tokens.last());
    let end = *ends.min().expect("answers");
    let all = answers.iter().flat_map(|a| &a.tokens);
    let inside = all.filter(|at| **at > begin && **at <= end).count();
    inside as f64 / (end - begin).as_secs_f64().max(1e-9)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

/// The arguments of `node` for the node with number `at`.
fn join(url: &str, at: usize, dir: &Path, set: &Set) -> Vec<String> {
    let mut join = ["join", url, "--data-dir", text(dir)]
        .map(str::to_owned)
        .to_vec();
    for (flag, value) in [
        ("--name", format!("n{at}")),
        ("--memory", set.each("memory", at, "9GiB")),
        ("--threads", set.each("threads", at, "2")),
        ("--kernels", set.each("kernels", at, "auto")),
    ] {
        join.extend([flag.to_owned(), value]);
    }
    if let Some(core) = set.get("core") {
        let core = core.parse::<usize>().expect("core=N") + at;
        join.extend(["--cores".to_owned(), core.to_string()]);
    }
    join
}

/// The emulated LAN that was asked for with `link=`, one machine for each node.
pub fn lan(set: &Set, nodes: usize) -> Option<Arc<Rig>> {
    let link: Link = set.get("link")?.parse().expect("a link");
    Some(Arc::new(
        Rig::new(&vec![link; nodes], 7).expect("an emulated LAN"),
    ))
}

/// The arguments of `coordinator`.
fn serve(model: &Path, data: &Path, set: &Set, rig: Option<&Arc<Rig>>) -> Vec<String> {
    let mesh = rig.map_or("127.0.0.1:0".to_owned(), |rig| {
        format!("{}:0", rig.address(0))
    });
    let mut serve = ["serve", "--json", "--api", "127.0.0.1:0"]
        .map(str::to_owned)
        .to_vec();
    for (flag, value) in [
        ("--mesh", mesh),
        ("--model", text(model).to_owned()),
        ("--data-dir", text(data).to_owned()),
        ("--expect", set.of("nodes", "3")),
        ("--plan", set.of("plan", "layers")),
        ("--context", set.of("context", "2048")),
        ("--sequences", set.of("chats", "1")),
    ] {
        serve.extend([flag.to_owned(), value]);
    }
    serve
}

impl Household {
    /// Starts the processes; on the machines of `rig` where there is one, the coordinator on the first node's.
    pub async fn start(model: &Path, dir: &Path, set: &Set, rig: Option<&Arc<Rig>>) -> Self {
        let data = dir.join("coordinator");
        let serve = serve(model, &data, set, rig);
        let nodes = set.number("nodes", 3);
        let on = |machine: usize, program: &Path| match rig {
            Some(rig) => rig.command(machine, program),
            None => std::process::Command::new(program),
        };
        let coordinator = on(0, &programs::coordinator());
        let mut coordinator = Process::spawn("coordinator", coordinator, &serve, &[]);
        let line: Value =
            serde_json::from_str(&coordinator.out_line("{").await).expect("facts in JSON");
        let (mut members, mut shares) = (Vec::new(), Vec::new());
        for at in 0..usize::try_from(nodes).expect("nodes=N") {
            let invite = [&["invite", "--json", "--data-dir"][..], &[text(&data)]].concat();
            let invite = run(&programs::coordinator(), &invite).await.ok().json();
            let name = format!("n{at}");
            let url = invite["url"].as_str().expect("url");
            let arguments = join(url, at, &dir.join(&name), set);
            let mut node = on(at, &programs::node());
            let of = coordinator.id().expect("it runs");
            if let Some(share) = Share::of(set, at, &of.to_string()) {
                node = share.command(&node);
                shares.push(share);
            }
            members.push(Process::spawn(&name, node, &arguments, &[]));
        }
        let api = line["api"].as_str().expect("api");
        let api = match rig {
            Some(rig) => {
                let at = api.parse().expect("an address");
                rig.forward(0, at).expect("a way in").to_string()
            }
            None => api.to_owned(),
        };
        let checkpoint = model::Checkpoint::open(model).expect("a model");
        let client = reqwest::Client::builder().no_proxy().build();
        Self {
            client: client.expect("a client"),
            api: format!("http://{api}"),
            model: line["model"].as_str().expect("model").to_owned(),
            vocab: checkpoint.arch().vocab as u64,
            data: text(&data).to_owned(),
            nodes: members,
            _coordinator: coordinator,
            _shares: shares,
        }
    }

    pub async fn ready(&self) {
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

    /// What `coordinator COMMAND --json` answers.
    pub async fn told(&self, command: &str) -> Value {
        let words = [command, "--json", "--data-dir", &self.data];
        run(&programs::coordinator(), &words).await.ok().json()
    }

    /// One completion. Prompts of different salts have no token in common at the same place.
    pub async fn complete(&self, salt: u64, prompt: u64, tokens: u64) -> Answer {
        let ids: Vec<u64> = (0..prompt)
            .map(|i| (i * 7919 + salt * 104_729) % (self.vocab - 600))
            .collect();
        let body = json!({
            "model": self.model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
        });
        let began = Instant::now();
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
                    times.push(Instant::now());
                }
                rest = after.to_owned();
            }
        }
        assert_eq!(times.len() as u64, tokens);
        Answer {
            began,
            tokens: times,
        }
    }

    /// Some completions at once.
    pub async fn chats(&self, salt: u64, (chats, prompt, tokens): (u64, u64, u64)) -> Vec<Answer> {
        let many = (0..chats).map(|chat| self.complete(salt + chat, prompt, tokens));
        futures::future::join_all(many).await
    }
}

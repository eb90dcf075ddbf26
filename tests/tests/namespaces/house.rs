//! A household of real processes on the hosts of a LAN.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::namespaces::Host;
use tests::process::{DEADLINE, Ended, Process, run};
use tests::{fixtures, programs};

/// Where clients connect on the coordinator's own host.
const API: &str = "127.0.0.1:8080";

/// A coordinator and the machines that were told to join it.
pub struct House {
    // Processes go before the folder that they work in.
    coordinator: Process,
    machines: HashMap<String, Process>,
    /// The coordinator's key.
    pub id: String,
    model: String,
    host: Host,
    arguments: Vec<String>,
    last: Value,
    used: Option<String>,
    dir: TempDir,
}

/// Another code than this one.
pub fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &code[..code.len() - 1])
}

impl House {
    /// Starts a coordinator on a host.
    pub async fn start(host: &Host, mesh: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let speeds = json!({"read_bytes_per_s": 10e9, "macs_per_s": 10e9});
        std::fs::write(dir.path().join("facts.json"), speeds.to_string()).unwrap();
        let model = fixtures::gguf("qwen3_moe");
        let data_dir = dir.path().join("coordinator");
        let mut arguments = vec!["serve", "--json", "--api", API, "--mesh", mesh];
        arguments.extend(["--plan", "layers", "--model", model.to_str().unwrap()]);
        arguments.extend(["--data-dir", data_dir.to_str().unwrap()]);
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let (coordinator, [id, model]) = serve(host, &arguments).await;
        Self {
            coordinator,
            model,
            machines: HashMap::new(),
            id,
            host: host.clone(),
            arguments,
            last: Value::Null,
            used: None,
            dir,
        }
    }

    /// Ends the coordinator.
    pub async fn stop(&mut self) {
        self.coordinator.terminate();
        let ended = self.coordinator.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Starts the coordinator again where it was.
    pub async fn restart(&mut self) {
        let (coordinator, [id, _]) = serve(&self.host, &self.arguments).await;
        assert_eq!(id, self.id);
        self.coordinator = coordinator;
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("coordinator")
    }

    /// The answer of `coordinator WORDS --json`. The owner's socket is a file, so no host is needed.
    pub async fn told(&self, words: &[&str]) -> Value {
        let data_dir = self.data_dir();
        let mut arguments = words.to_vec();
        arguments.extend(["--json", "--data-dir", data_dir.to_str().unwrap()]);
        run(&programs::coordinator(), &arguments).await.ok().json()
    }

    /// A fresh short code.
    pub async fn code(&mut self) -> String {
        self.used = self.last["url"].as_str().map(str::to_owned);
        self.last = self.told(&["invite"]).await;
        self.last_code()
    }

    pub fn last_code(&self) -> String {
        self.last["code"].as_str().expect("code").to_owned()
    }

    /// The URL of the invite before the last one.
    pub fn used_url(&self) -> String {
        self.used.clone().expect("an invite before the last")
    }

    /// The household's four words, as its owner reads them with a fresh invite.
    pub async fn words(&mut self) -> String {
        self.code().await;
        self.last["words"].as_str().expect("words").to_owned()
    }

    fn node(&self, host: &Host, name: &str, words: &[&str]) -> Process {
        let (dir, facts) = (
            self.dir.path().join(name),
            self.dir.path().join("facts.json"),
        );
        let mut arguments = vec![
            "join",
            "--name",
            name,
            "--memory",
            "64MiB",
            "--threads",
            "1",
        ];
        arguments.extend(["--facts", facts.to_str().unwrap()]);
        arguments.extend(["--data-dir", dir.to_str().unwrap()]);
        arguments.extend(words);
        host.start(name, &programs::node(), &arguments)
    }

    /// Starts a node on a host.
    pub fn join(&mut self, host: &Host, name: &str, words: &[&str]) {
        let process = self.node(host, name, words);
        self.machines.insert(name.to_owned(), process);
    }

    /// A node that is expected to end.
    pub async fn attempt(&self, host: &Host, name: &str, words: &[&str]) -> Ended {
        self.node(host, name, words).ended().await
    }

    /// A machine with another household's key file and memory that goes to this one's coordinator.
    pub async fn visit(&self, host: &Host, name: &str, home: &str) -> Ended {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let home = json!({"coordinator": self.id, "addresses": [home]});
        std::fs::write(dir.join("household.json"), home.to_string()).unwrap();
        self.attempt(host, name, &[]).await
    }

    fn machine(&mut self, name: &str) -> &mut Process {
        self.machines.get_mut(name).expect("a machine of that name")
    }

    pub async fn paired(&mut self, name: &str) {
        self.machine(name).err_line("paired").await;
    }

    pub async fn ended(&mut self, name: &str) -> Ended {
        self.machine(name).ended().await
    }

    pub async fn kill(&mut self, name: &str) {
        self.machine(name).kill();
        self.machine(name).ended().await;
    }

    /// The first address that a machine remembers.
    pub fn home(&self, name: &str) -> String {
        let path = self.dir.path().join(name).join("household.json");
        let home: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        home["addresses"][0]
            .as_str()
            .expect("an address")
            .to_owned()
    }

    /// Waits until a machine remembers this address before all others.
    pub async fn remembers(&self, name: &str, address: &str) {
        let mut looks = tokio::time::interval(tests::api::LOOK);
        let reached = tokio::time::timeout(DEADLINE, async {
            while self.home(name) != address {
                looks.tick().await;
            }
        });
        reached
            .await
            .unwrap_or_else(|_| panic!("{name} remembers {}", self.home(name)));
    }

    /// Waits until so many machines are connected.
    pub async fn nodes(&mut self, count: u64) {
        let (data_dir, request) = (self.data_dir(), json!({"do": "status"}));
        let mut looks = tokio::time::interval(tests::api::LOOK);
        let reached = tokio::time::timeout(DEADLINE, async {
            loop {
                looks.tick().await;
                let status = command::local::call(&data_dir, &request).await;
                if status.is_ok_and(|status| status["nodes"] == count) {
                    return;
                }
            }
        });
        if reached.await.is_err() {
            let said: String = self.machines.values().map(Process::all).collect();
            panic!(
                "{count} machines were not reached\n{said}{}",
                self.coordinator.all()
            );
        }
    }

    /// The answer to a prompt, asked on the coordinator's host once the service is ready.
    pub async fn complete(&self, on: &Host, prompt: &str) -> Value {
        let body =
            json!({"model": self.model, "prompt": prompt, "max_tokens": 8, "ignore_eos": true});
        let asked = on.run(async move {
            let client = reqwest::Client::new();
            let mut looks = tokio::time::interval(tests::api::LOOK);
            let answer = tokio::time::timeout(DEADLINE, async {
                loop {
                    looks.tick().await;
                    let ready = client.get(format!("http://{API}/readyz")).send().await;
                    if ready.is_ok_and(|reply| reply.status() == 200) {
                        break;
                    }
                }
                let url = format!("http://{API}/v1/completions");
                let reply = client.post(url).json(&body).send().await.unwrap();
                reply.json::<Value>().await.unwrap()
            });
            answer.await.expect("an answer in time")
        });
        let joined = tokio::task::spawn_blocking(move || asked.join());
        joined
            .await
            .unwrap()
            .unwrap_or_else(|_| panic!("{}", self.coordinator.all()))
    }
}

async fn serve(host: &Host, arguments: &[String]) -> (Process, [String; 2]) {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut process = host.start("coordinator", &programs::coordinator(), &words);
    let line = process.out_line("{").await;
    let facts: Value = serde_json::from_str(&line).expect("one JSON value");
    let text = |name: &str| facts[name].as_str().expect("a text").to_owned();
    (process, ["coordinator", "model"].map(text))
}

//! A household of real processes, on loopback or on the machines of an emulated LAN.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, LOOK};
use crate::process::{DEADLINE, Ended, Process, run};
use crate::{plans, programs};

/// Memory that a node of a test offers unless it says otherwise.
const MEMORY: &str = "256MiB";

/// Where processes run when not simply here.
#[derive(Debug, Clone, Default)]
struct Places {
    #[cfg(target_os = "linux")]
    lan: Option<Lan>,
}

/// The machines of an emulated LAN that a household runs on.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone)]
struct Lan {
    rig: Arc<crate::lan::Rig>,
    coordinator: usize,
    nodes: Vec<usize>,
}

impl Places {
    /// The coordinator's program where it has to run.
    fn coordinator(&self) -> Command {
        let program = programs::coordinator();
        #[cfg(target_os = "linux")]
        if let Some(lan) = &self.lan {
            return lan.rig.command(lan.coordinator, &program);
        }
        Command::new(program)
    }

    /// The node's program where the node of this number has to run; one more than machines were named for is on the last.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(unused_variables, reason = "there is one place")
    )]
    fn node(&self, number: usize) -> Command {
        let program = programs::node();
        #[cfg(target_os = "linux")]
        if let Some(lan) = &self.lan {
            let machine = lan.nodes.get(number).or(lan.nodes.last());
            return lan
                .rig
                .command(machine.copied().unwrap_or(lan.coordinator), &program);
        }
        Command::new(program)
    }

    /// The address here at which the coordinator's endpoint can be reached.
    fn reached(&self, api: SocketAddr) -> SocketAddr {
        #[cfg(target_os = "linux")]
        if let Some(lan) = &self.lan {
            let forwarded = lan.rig.forward(lan.coordinator, api);
            return forwarded.unwrap_or_else(|error| panic!("{error}"));
        }
        api
    }
}

/// What a test wants of a household.
#[derive(Debug, Clone)]
pub struct Wanted {
    model: PathBuf,
    nodes: usize,
    memory: String,
    mesh: String,
    plan: Option<Value>,
    arguments: Vec<String>,
    places: Places,
    join: Vec<String>,
}

impl Wanted {
    /// A household for a model, with one node.
    #[must_use]
    pub fn model(model: &Path) -> Self {
        Self {
            model: model.to_owned(),
            nodes: 1,
            memory: MEMORY.to_owned(),
            mesh: "127.0.0.1:0".to_owned(),
            plan: None,
            arguments: Vec::new(),
            places: Places::default(),
            join: Vec::new(),
        }
    }

    /// On an emulated LAN: the coordinator on this machine, the nodes `n0`, `n1`, … on those. Several may share one.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn on(mut self, rig: &Arc<crate::lan::Rig>, coordinator: usize, nodes: &[usize]) -> Self {
        self.mesh = SocketAddr::from((rig.address(coordinator), 0)).to_string();
        self.places.lan = Some(Lan {
            rig: Arc::clone(rig),
            coordinator,
            nodes: nodes.to_vec(),
        });
        self
    }

    /// So many nodes, named `n0`, `n1`, …; the plan waits for all of them.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// What each node offers, `64MiB` for example.
    #[must_use]
    pub fn memory(mut self, memory: &str) -> Self {
        memory.clone_into(&mut self.memory);
        self
    }

    /// The plan, for `--plan FILE`.
    #[must_use]
    pub fn plan(mut self, plan: Value) -> Self {
        self.plan = Some(plan);
        self
    }

    /// More arguments of `coordinator serve`.
    #[must_use]
    pub fn serve(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// More arguments of `node join`.
    #[must_use]
    pub fn join(mut self, arguments: &[&str]) -> Self {
        self.join
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Starts the coordinator and all nodes; does not wait until they are ready.
    pub async fn start(self) -> Cluster {
        let dir = Arc::new(tempfile::tempdir().expect("a folder"));
        let nodes = self.nodes;
        let coordinator = Coordinator::start(&self, dir.path()).await;
        let mut cluster = Cluster {
            wanted: self,
            coordinator,
            members: Vec::new(),
            dir,
        };
        for at in 0..nodes {
            let invite = cluster.invite().await;
            let memory = cluster.wanted.memory.clone();
            cluster.join(&format!("n{at}"), &memory, &invite);
        }
        cluster
    }

    /// Starts everything and waits until a request is answered.
    pub async fn ready(self) -> Cluster {
        let cluster = self.start().await;
        cluster.api().ready().await;
        cluster
    }

    fn serve_arguments(&self, dir: &Path) -> Vec<String> {
        let path = |path: &Path| path.to_str().expect("a path of plain text").to_owned();
        let mut arguments: Vec<String> = [
            "serve",
            "--json",
            "--api",
            "127.0.0.1:0",
            "--mesh",
            &self.mesh,
            "--model",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(path(&self.model));
        arguments.extend(["--data-dir".to_owned(), path(&dir.join("coordinator"))]);
        arguments.extend(["--expect".to_owned(), self.nodes.max(1).to_string()]);
        if let Some(plan) = &self.plan {
            arguments.extend(["--plan".to_owned(), path(&plans::write(plan, dir))]);
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }
}

/// The speeds that every node of a cluster is told, in the cluster's folder.
const FACTS: &str = "facts.json";

/// The coordinator's process and what it said about itself.
#[derive(Debug)]
pub struct Coordinator {
    /// The process.
    pub process: Process,
    /// Its endpoint.
    pub api: Api,
    /// Its mesh socket.
    pub mesh: SocketAddr,
}

impl Coordinator {
    async fn start(wanted: &Wanted, dir: &Path) -> Self {
        // Written before any node exists: one that starts meanwhile must not read it half written.
        let speeds = json!({"read_bytes_per_s": 10e9, "macs_per_s": 10e9});
        let facts = dir.join(FACTS);
        if !facts.exists() {
            std::fs::write(facts, speeds.to_string()).expect("a file");
        }
        let arguments = wanted.serve_arguments(dir);
        let program = wanted.places.coordinator();
        let mut process = Process::spawn("coordinator", program, &arguments, &[]);
        let line = process.out_line("{").await;
        let facts: Value = serde_json::from_str(&line).expect("one JSON value");
        let address = |name: &str| -> SocketAddr {
            facts[name]
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {line}"))
        };
        Self {
            api: Api::new(
                wanted.places.reached(address("api")),
                facts["model"].as_str().expect("model"),
            ),
            mesh: address("mesh"),
            process,
        }
    }
}

/// One node.
#[derive(Debug)]
pub struct Member {
    /// Its name in the household.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Its data directory.
    pub dir: PathBuf,
    memory: String,
}

/// A running household. Dropping it ends every process and removes its files.
#[derive(Debug)]
pub struct Cluster {
    // Processes go before the folder that they work in.
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The nodes, in the order of joining.
    pub members: Vec<Member>,
    wanted: Wanted,
    dir: Arc<TempDir>,
}

impl Cluster {
    /// Changes what is wanted of what is started from now on.
    pub fn want(&mut self, change: impl FnOnce(Wanted) -> Wanted) {
        self.wanted = change(self.wanted.clone());
    }

    /// A client of the endpoint.
    #[must_use]
    pub fn api(&self) -> Api {
        self.coordinator.api.clone()
    }

    /// Where the test may put files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("coordinator")
    }

    /// Runs `coordinator WORDS --data-dir .. --json`.
    pub async fn ask(&self, words: &[&str]) -> Ended {
        let data_dir = self.data_dir();
        let mut arguments = words.to_vec();
        arguments.extend([
            "--json",
            "--data-dir",
            data_dir.to_str().expect("plain text"),
        ]);
        run(&programs::coordinator(), &arguments).await
    }

    /// The answer of `coordinator WORDS --json`.
    pub async fn told(&self, words: &[&str]) -> Value {
        self.ask(words).await.ok().json()
    }

    /// A fresh invite.
    pub async fn invite(&self) -> String {
        let answer = self.told(&["invite", "--ttl", "10m"]).await;
        answer["url"].as_str().expect("url").to_owned()
    }

    /// Starts a node; an empty invite means that it is paired already.
    pub fn join(&mut self, name: &str, memory: &str, invite: &str) -> &mut Member {
        let dir = self.dir.path().join(name);
        let process = self.start_node(self.members.len(), name, memory, invite, &dir);
        self.members.push(Member {
            name: name.to_owned(),
            process,
            dir,
            memory: memory.to_owned(),
        });
        self.members.last_mut().expect("just pushed")
    }

    fn start_node(&self, at: usize, name: &str, memory: &str, invite: &str, dir: &Path) -> Process {
        let facts = self.dir.path().join(FACTS);
        // Traffic stays on loopback.
        let mut arguments = vec!["join", "--discovery", "off"];
        if !invite.is_empty() {
            arguments.push(invite);
        }
        arguments.extend(["--name", name, "--memory", memory, "--threads", "1"]);
        arguments.extend(["--data-dir", dir.to_str().expect("plain text")]);
        arguments.extend(["--facts", facts.to_str().expect("plain text")]);
        arguments.extend(self.wanted.join.iter().map(String::as_str));
        Process::spawn(name, self.wanted.places.node(at), &arguments, &[])
    }

    /// Ends a node without a word to it, and waits until it is gone.
    pub async fn kill(&mut self, at: usize) {
        let process = &mut self.members[at].process;
        process.kill();
        process.ended().await;
    }

    /// Starts a node again, with the data directory that it had.
    pub fn restart(&mut self, at: usize) {
        let (name, memory, dir) = {
            let member = &self.members[at];
            (
                member.name.clone(),
                member.memory.clone(),
                member.dir.clone(),
            )
        };
        self.members[at].process = self.start_node(at, &name, &memory, "", &dir);
    }

    /// Ends the coordinator and starts it again with the same data directory and mesh address.
    pub async fn restart_coordinator(&mut self) {
        let mesh = self.coordinator.mesh.to_string();
        self.coordinator.process.terminate();
        let ended = self.coordinator.process.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let again = Wanted {
            mesh,
            ..self.wanted.clone()
        };
        self.coordinator = Coordinator::start(&again, self.dir.path()).await;
    }

    /// Waits until the service's status satisfies `wanted`.
    pub async fn status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let data_dir = self.data_dir();
        let mut last = Value::Null;
        let reached = tokio::time::timeout(DEADLINE, async {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let asked = command::local::call(&data_dir, &json!({"do": "status"})).await;
                let status = asked.unwrap_or_else(|error| panic!("{error}"));
                if wanted(&status) {
                    return status;
                }
                last = status;
            }
        });
        match reached.await {
            Ok(status) => status,
            Err(_) => panic!("{what} was not reached; last {last}"),
        }
    }
}

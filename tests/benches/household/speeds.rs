//! How fast the nodes' machines are while a comparison runs: measured anew in every round, because shared machines drift.

use std::process::Command;

use plan::NodeFacts;
use proto::NodeId;
use serde_json::Value;
use tests::process::Process;
use tests::programs;

use crate::median;
use crate::share::Share;
use tests::set::Set;

/// What `node bench` says of one node's machine, round by round.
#[derive(Debug)]
pub struct Speeds {
    arguments: Vec<String>,
    share: Option<Share>,
    read: Vec<f64>,
    macs: Vec<f64>,
}

impl Speeds {
    pub fn new(at: usize, set: &Set) -> Self {
        let core = set.number("core", 0) + at as u64;
        let arguments = [
            "bench".to_owned(),
            "--json".to_owned(),
            format!("--threads={}", set.each("threads", at, "1")),
            format!("--kernels={}", set.each("kernels", at, "auto")),
            format!("--cores={core}"),
        ];
        Self {
            arguments: arguments.to_vec(),
            share: Share::of(set, at, "speeds"),
            read: Vec::new(),
            macs: Vec::new(),
        }
    }

    pub async fn measure(&mut self) {
        let mut node = Command::new(programs::node());
        if let Some(share) = &self.share {
            node = share.command(&node);
        }
        let mut bench = Process::spawn("node bench", node, &self.arguments, &[]);
        let line = bench.out_line("{").await;
        let facts: Value = serde_json::from_str(&line).expect("facts in JSON");
        assert_eq!(bench.ended().await.code, Some(0));
        let of = |name: &str| facts[name].as_f64().expect("a speed");
        self.read.push(of("read_bytes_per_s"));
        self.macs.push(of("macs_per_s"));
    }

    pub fn facts(&self, id: &NodeId, name: &str) -> NodeFacts {
        NodeFacts {
            id: id.clone(),
            name: name.to_owned(),
            memory_bytes: u64::MAX >> 8,
            read_bytes_per_s: median(&mut self.read.clone()),
            macs_per_s: median(&mut self.macs.clone()),
        }
    }
}

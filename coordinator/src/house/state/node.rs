//! One machine that is in: what it said about itself and how it does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use plan::NodeFacts;
use proto::control::{Beat, Held, Hello, Peer};
use proto::{Epoch, NodeId, limits};

use super::{LinkId, Newcomer};

/// A connected member.
#[derive(Debug)]
pub(crate) struct Node {
    pub id: NodeId,
    /// The current control connection.
    pub link: LinkId,
    /// Its name, unique among those that are in.
    pub name: String,
    pub hello: Hello,
    /// Its one UDP socket as the coordinator sees it.
    pub remote: SocketAddr,
    /// When it last said anything.
    pub heard: Duration,
    pub beat: Beat,
    /// Whether frames can be exchanged with it.
    pub up: bool,
    /// The epoch of the slice that it may hold.
    pub holds: Option<Epoch>,
    pub trouble: Option<Trouble>,
    pub leaving: bool,
    /// The epoch for which it seeks shards.
    pub seeks: Option<Epoch>,
    /// What it can lend, by model, the latest first.
    pub held: Vec<Held>,
}

/// Why a machine is left out for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub count: u32,
    /// When it is tried again; `None`: not before it connects anew.
    pub until: Option<Duration>,
    pub reason: String,
}

/// How far a machine has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub loaded: bool,
}

impl Node {
    pub fn new(newcomer: Newcomer, now: Duration) -> Self {
        let Newcomer {
            link,
            node: id,
            remote,
            hello,
            up,
        } = newcomer;
        let name = match printable(&hello.name) {
            name if name.is_empty() => id.as_str().chars().take(12).collect(),
            name => name,
        };
        Self {
            id,
            link,
            name,
            hello,
            remote,
            heard: now,
            beat: Beat::default(),
            up,
            holds: None,
            trouble: None,
            leaving: false,
            seeks: None,
            held: Vec::new(),
        }
    }

    /// As the planner wants it.
    pub fn facts(&self) -> NodeFacts {
        NodeFacts {
            id: self.id.clone(),
            name: self.name.clone(),
            memory_bytes: self.hello.memory_bytes,
            read_bytes_per_s: self.hello.read_bytes_per_s,
            macs_per_s: self.hello.macs_per_s,
        }
    }

    /// Whether a plan may use it now.
    pub fn usable(&self, now: Duration) -> bool {
        let resting = self
            .trouble
            .as_ref()
            .is_some_and(|t| t.until.is_none_or(|until| until > now));
        !self.leaving && !resting && self.paused().is_none()
    }

    /// Why it takes no part by its owner's terms, if it does not.
    pub fn paused(&self) -> Option<&str> {
        Some(self.hello.paused.as_str()).filter(|reason| !reason.is_empty())
    }

    /// Where other machines find it. A node on this machine may be seen on loopback; then `neighbours`, this machine's
    /// own addresses, lead to it as well.
    pub fn peer(&self, neighbours: &[IpAddr]) -> Peer {
        let mut addresses = vec![self.remote];
        if self.remote.ip().is_loopback() {
            addresses.extend(
                neighbours
                    .iter()
                    .map(|ip| SocketAddr::new(*ip, self.remote.port())),
            );
        }
        for address in &self.hello.addresses {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses.truncate(limits::ADDRESSES_MAX);
        Peer {
            node: self.id.clone(),
            addresses,
        }
    }
}

/// A name from another machine, safe to show.
fn printable(name: &str) -> String {
    let name = name
        .trim()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c });
    name.take(limits::NODE_NAME_MAX).collect()
}

/// `wanted`, with a number behind it where the name is taken.
pub(super) fn unique(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(wanted) {
        return wanted.to_owned();
    }
    for number in 2..=limits::NODES_MAX + 1 {
        let suffix = format!("-{number}");
        let room = limits::NODE_NAME_MAX.saturating_sub(suffix.len());
        let name: String = wanted.chars().take(room).chain(suffix.chars()).collect();
        if !taken(&name) {
            return name;
        }
    }
    // As many names as machines were tried, so one was free.
    wanted.to_owned()
}

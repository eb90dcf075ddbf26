//! What the owner asks on the local socket of this machine, and is answered.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use command::local::Call;
use proto::NodeId;
use proto::control::NodeMessage;
use serde::Serialize;

use super::{Daemon, End};
use crate::terms::duty::{Idle, Power};

/// How long a leaving node waits for the coordinator to let it go.
const LEAVE_WAIT: Duration = Duration::from_secs(10);

/// What `node status` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// This machine's name.
    pub name: String,
    /// This machine's key.
    pub node: NodeId,
    /// The household's coordinator.
    pub coordinator: NodeId,
    /// `connecting`, `idle`, `loading`, `serving`, `draining`, `paused` or `leaving`.
    pub phase: &'static str,
    /// Why it pauses, if it does.
    pub paused: Option<String>,
    /// Why its layers could not be loaded the last time, until they are.
    pub trouble: Option<String>,
    /// First layer and one past the last, while a slice is assigned.
    pub layers: Option<[u32; 2]>,
    /// The owner's allowance.
    pub memory_bytes: u64,
    /// Computing threads.
    pub threads: u32,
    /// When it serves, `always` or ranges of local time.
    pub hours: String,
    /// Whether it serves on battery: `yes` or `no`.
    pub battery: String,
    /// Whether it serves while somebody is at it: `yes`, or after so many seconds without a touch.
    pub while_used: String,
    /// What is known of its power: `no battery`, `mains`, `battery`, or why nothing is.
    pub power: String,
    /// Seconds since somebody touched it, or why they are not known, or that no term asks.
    pub unused: String,
    /// Weights that are read and mapped.
    pub resident_bytes: u64,
    /// Steps computed.
    pub steps: u64,
    /// Rows computed.
    pub rows: u64,
    /// Sequences that are open here.
    pub sequences: u64,
    /// Bytes of shards kept on this machine's disk, at most `store_limit_bytes`.
    pub store_bytes: u64,
    /// What the owner gives them.
    pub store_limit_bytes: u64,
    /// Bytes of shards and catalogues that came from other members.
    pub fetched_bytes: u64,
    /// Bytes of shards and catalogues that other members got from here.
    pub lent_bytes: u64,
}

impl Daemon {
    fn phase(&self) -> &'static str {
        let paused = !self.start.owner.duty().reason().is_empty();
        match (&self.leaving, &self.link, &self.assigned) {
            (Some(_), ..) => "leaving",
            (None, _, Some(_)) if paused => "draining",
            (None, _, None) if paused => "paused",
            (None, None, _) => "connecting",
            (None, Some(_), None) => "idle",
            (None, Some(_), Some(_)) if self.loaded => "serving",
            _ => "loading",
        }
    }

    pub(super) fn status(&self) -> Status {
        let (c, desk) = (&self.start.worker.counters, &self.start.desk);
        let owner = &self.start.owner;
        let (terms, now) = (owner.terms(), owner.situation());
        let layers = self.assigned.as_ref().filter(|a| !a.layers.is_empty());
        Status {
            name: self.start.hello.name.clone(),
            node: self.start.sockets.endpoint.node_id().clone(),
            coordinator: self.start.household.coordinator.clone(),
            phase: self.phase(),
            paused: Some(owner.duty().reason().to_owned()).filter(|reason| !reason.is_empty()),
            trouble: self.trouble.clone(),
            layers: layers.map(|a| [a.layers.start, a.layers.end]),
            memory_bytes: self.start.hello.memory_bytes,
            threads: self.start.hello.threads,
            hours: terms.hours.to_string(),
            battery: terms.battery.to_string(),
            while_used: terms.while_used.to_string(),
            power: match now.power {
                Power::NoBattery => "no battery".to_owned(),
                Power::Mains => "mains".to_owned(),
                Power::Battery => "battery".to_owned(),
                Power::Unknown(why) => format!("unknown: {why}"),
            },
            unused: match now.idle {
                Idle::For(idle) => format!("{} s", idle.as_secs()),
                Idle::Unknown(why) => format!("unknown: {why}"),
                Idle::NotAsked => "not asked for".to_owned(),
            },
            resident_bytes: c.resident_bytes.load(Ordering::Relaxed),
            steps: c.steps.load(Ordering::Relaxed),
            rows: c.rows.load(Ordering::Relaxed),
            sequences: c.sequences.load(Ordering::Relaxed),
            store_bytes: desk.store.held_bytes(),
            store_limit_bytes: desk.store.limit(),
            fetched_bytes: desk.fetched.load(Ordering::Relaxed),
            lent_bytes: desk.lent.load(Ordering::Relaxed),
        }
    }

    pub(super) async fn owner(&mut self, call: Call) -> Option<End> {
        let asked = call
            .request
            .get("do")
            .and_then(|v| v.as_str())
            .map(str::to_owned);
        match asked.as_deref() {
            Some("status") => {
                call.answer(&self.status());
                None
            }
            Some("leave" | "set") if self.leaving.is_some() => {
                call.refuse("this node is leaving already");
                None
            }
            Some("leave") => self.leave(Some(call)).await,
            Some("set") => self.said(call),
            other => {
                call.refuse(format!(
                    "unknown request {other:?}; status, set and leave are known"
                ));
                None
            }
        }
    }

    /// Tells the coordinator and waits until it lets this node go.
    pub(super) async fn leave(&mut self, call: Option<Call>) -> Option<End> {
        self.leaving = Some((Instant::now() + LEAVE_WAIT, call));
        match &self.link {
            None => Some(End::Left),
            Some(link) => link
                .sender
                .send(NodeMessage::Leave)
                .await
                .err()
                .map(|_| End::Left),
        }
    }
}

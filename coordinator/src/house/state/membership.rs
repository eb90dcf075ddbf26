//! Who comes, who goes, and what is heard of them.

use std::time::Duration;

use proto::control::{
    CONTROL_PROTOCOL, CoordinatorMessage, LoadFailed, LoadProgress, Loaded, NodeMessage, PeerLost,
    Refused, Welcome,
};
use proto::{Epoch, NodeId, limits};

use super::node::{Node, Trouble, unique};
use super::{Act, Farewell, Household, LinkId, Pause, Phase, TROUBLES_MAX};

/// Codes of failures to load that the machine's owner can mend while its node runs.
const MENDABLE: [&str; 1] = ["disk_full"];

/// How long a machine that fails is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A few times.
    Short,
    /// As long as it is in.
    Lasting,
}

impl Household {
    pub(super) fn joined(&mut self, now: Duration, mut node: Node) {
        let link = node.link;
        if let Err(refused) = self.acceptable(&node) {
            tracing::warn!(node = %node.id, name = node.name, code = refused.code, "machine refused: {}", refused.text);
            self.send(link, CoordinatorMessage::Refused(refused));
            self.acts.push_back(Act::Part { link });
            return;
        }
        if let Some(old) = self.nodes.get(&node.id).map(|old| old.link) {
            self.acts.push_back(Act::Part { link: old });
            self.lost(now, &node.id.clone(), "it has connected anew");
        }
        node.name = unique(&node.name, |name| {
            self.nodes.values().any(|other| other.name == name)
        });
        tracing::info!(node = %node.id, name = node.name, remote = %node.remote, "machine is in");
        let lease_ms = u64::try_from(self.rules.timing.lease.as_millis()).unwrap_or(u64::MAX);
        let household = self.rules.household.clone();
        self.send(
            link,
            CoordinatorMessage::Welcome(Welcome {
                lease_ms,
                household,
            }),
        );
        if self.last_epoch > Epoch(0) {
            // It may hold a slice from before its connection broke.
            self.send(
                link,
                CoordinatorMessage::Release {
                    epoch: self.last_epoch,
                },
            );
        }
        self.gone.remove(&node.id);
        let id = node.id.clone();
        self.nodes.insert(id.clone(), node);
        self.came_in(now, &id);
        if self.run().is_none() {
            self.consider(now, Pause::Settle);
        }
    }

    fn acceptable(&self, node: &Node) -> Result<(), Refused> {
        let refused = |code: &str, text: String| {
            Err(Refused {
                code: code.to_owned(),
                text,
            })
        };
        let hello = &node.hello;
        if hello.protocol != CONTROL_PROTOCOL {
            return refused(
                "protocol",
                format!(
                    "this machine runs Hearth {} with control protocol {}, the coordinator Hearth {} with protocol {CONTROL_PROTOCOL}: install the same version on both",
                    hello.version,
                    hello.protocol,
                    env!("CARGO_PKG_VERSION")
                ),
            );
        }
        let speeds = [hello.read_bytes_per_s, hello.macs_per_s];
        if speeds
            .iter()
            .any(|speed| !(speed.is_finite() && *speed >= 1.0))
        {
            return refused(
                "bad_facts",
                format!(
                    "it measured {} bytes read and {} multiply-adds per second; expected numbers of at least 1: measure again or correct its --facts file",
                    hello.read_bytes_per_s, hello.macs_per_s
                ),
            );
        }
        if self.nodes.len() >= limits::NODES_MAX && !self.nodes.contains_key(&node.id) {
            return refused(
                "household_full",
                format!(
                    "{} machines are connected, at most {} can be: disconnect one first",
                    self.nodes.len(),
                    limits::NODES_MAX
                ),
            );
        }
        if self.draining {
            return refused(
                "draining",
                "the coordinator is ending: try again when it is back".to_owned(),
            );
        }
        Ok(())
    }

    pub(super) fn heard(&mut self, now: Duration, link: LinkId, message: NodeMessage) {
        let Some(id) = self.by_link(link) else { return };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.heard = now;
        }
        match message {
            NodeMessage::Hello(_) => tracing::warn!(node = %id, "a second hello was ignored"),
            NodeMessage::Beat(beat) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.beat = beat;
                }
            }
            NodeMessage::Load(progress) => self.load_progress(now, &id, progress),
            NodeMessage::Loaded(loaded) => self.loaded(now, &id, loaded),
            NodeMessage::LoadFailed(failed) => self.load_failed(now, &id, failed),
            NodeMessage::PeerLost(lost) => self.peer_lost(now, &id, lost),
            NodeMessage::Leave => self.leave(now, &id),
            NodeMessage::Seek(epoch) => self.seek(&id, epoch),
            NodeMessage::Held(held) => self.holds(&id, held),
            NodeMessage::Offer(offer) => self.offered(now, &id, offer),
            // The survey's, which has taken it before.
            NodeMessage::Measured(_) => {}
        }
    }

    fn load_progress(&mut self, now: Duration, id: &NodeId, told: LoadProgress) {
        let Phase::Loading {
            run,
            progress,
            loads,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if let Some(load) = loads.get_mut(id).filter(|_| run.epoch == told.epoch) {
            if told.done_bytes > load.done_bytes {
                *progress = now;
            }
            load.done_bytes = told.done_bytes;
            load.total_bytes = told.total_bytes;
        }
    }

    fn loaded(&mut self, now: Duration, id: &NodeId, told: Loaded) {
        let Phase::Loading {
            run,
            progress,
            loads,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if let Some(load) = loads.get_mut(id).filter(|_| run.epoch == told.epoch) {
            *progress = now;
            load.loaded = true;
            if let Some(node) = self.nodes.get_mut(id)
                && node.seeks.take().is_some()
            {
                self.lend();
            }
            self.ready_if_loaded();
        }
    }

    fn load_failed(&mut self, now: Duration, id: &NodeId, told: LoadFailed) {
        let Phase::Loading { run, .. } = &self.phase else {
            return;
        };
        if run.epoch != told.epoch || !run.has(id) {
            return;
        }
        let reason = format!(
            "it could not load its layers: {} ({})",
            told.text, told.code
        );
        let patience = if MENDABLE.contains(&told.code.as_str()) {
            Patience::Lasting
        } else {
            Patience::Short
        };
        self.strike(now, id, &reason, patience);
        self.give_up_run("a machine could not load its layers");
        self.consider(now, Pause::None);
    }

    /// Leaves a machine out for a while, longer each time, at last (if patience is short) until it connects anew.
    pub(super) fn strike(&mut self, now: Duration, id: &NodeId, reason: &str, patience: Patience) {
        let first = self.rules.timing.trouble;
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let count = node
            .trouble
            .as_ref()
            .map_or(0, |t| t.count)
            .saturating_add(1);
        let pause = first.saturating_mul(1 << count.min(TROUBLES_MAX).saturating_sub(1));
        let tried = count < TROUBLES_MAX || patience == Patience::Lasting;
        let until = tried.then(|| now.saturating_add(pause));
        tracing::warn!(node = %id, name = node.name, count, "machine is left out: {reason}");
        node.trouble = Some(Trouble {
            count,
            until,
            reason: reason.to_owned(),
        });
    }

    /// A neighbour in the pipeline cannot be reached any more. While links are still being made that is nothing new.
    fn peer_lost(&mut self, now: Duration, from: &NodeId, told: PeerLost) {
        let Phase::Serving { run, .. } = &self.phase else {
            return;
        };
        if run.epoch != told.epoch || !run.has(from) || !run.has(&told.node) {
            return;
        }
        let reason = format!(
            "{} cannot be reached from {}: {}",
            self.label(&told.node),
            self.label(from),
            told.text
        );
        self.give_up_run(&reason);
        self.consider(now, Pause::Doubt(told.node));
    }

    pub(super) fn down(&mut self, now: Duration, id: &NodeId, reason: &str) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        node.up = false;
        let Phase::Serving { run, .. } = &self.phase else {
            return;
        };
        if run.has(id) {
            let reason = format!("the connection to {} broke: {reason}", self.label(id));
            self.give_up_run(&reason);
            self.consider(now, Pause::Doubt(id.clone()));
        }
    }

    pub(super) fn suspected(&mut self, now: Duration, epoch: Epoch, text: &str) {
        if matches!(&self.phase, Phase::Serving { run, .. } if run.epoch == epoch) {
            self.give_up_run(text);
            self.consider(now, Pause::Settle);
        }
    }

    /// A machine is gone: with it the epoch, if it had a part in it.
    pub(super) fn lost(&mut self, now: Duration, id: &NodeId, reason: &str) {
        let label = self.label(id);
        let Some(node) = self.nodes.remove(id) else {
            return;
        };
        tracing::warn!(node = %id, name = node.name, "machine is gone: {reason}");
        if node.seeks.is_some() {
            self.lend();
        }
        self.trials.without(now, id);
        if self.nodes.is_empty() {
            self.assembled = false;
        }
        let text = format!("{label} is gone: {reason}");
        if self.run().is_some_and(|run| run.has(id)) {
            self.kept = None;
            self.gone.insert(id.clone(), text.clone());
            self.give_up_run(&text);
            return self.consider(now, Pause::None);
        }
        match &self.phase {
            Phase::Settling {
                doubt: Some(doubt), ..
            } if doubt == id => {
                self.gone.insert(id.clone(), text);
                self.consider(now, Pause::None);
            }
            Phase::Planning { .. } => self.consider(now, Pause::None),
            Phase::Waiting { .. } | Phase::Settling { .. } => self.consider(now, Pause::Settle),
            Phase::Loading { .. } | Phase::Serving { .. } => {}
        }
    }

    fn leave(&mut self, now: Duration, id: &NodeId) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        tracing::info!(node = %id, name = node.name, "machine wants to leave");
        node.leaving = true;
        match self.farewell(now, id) {
            Some(farewell) => {
                farewell.nodes.insert(id.clone());
            }
            None => {
                self.let_go(id);
                self.lost(now, id, "it has left the household's service");
            }
        }
    }

    /// The planned change that running answers are finished for, begun if need be; nothing where the machine has no part
    /// in what is served.
    pub(super) fn farewell(&mut self, now: Duration, id: &NodeId) -> Option<&mut Farewell> {
        let until = now.saturating_add(self.rules.timing.leave);
        match &mut self.phase {
            Phase::Serving { run, farewell } if run.has(id) => {
                Some(farewell.get_or_insert_with(|| {
                    self.acts.push_back(Act::Session(session::Input::Hold));
                    Farewell {
                        nodes: Default::default(),
                        changes: Default::default(),
                        because: None,
                        until,
                    }
                }))
            }
            _ => None,
        }
    }

    /// Running answers are complete, or have had their time.
    pub(super) fn part_with_leavers(&mut self, now: Duration) {
        let Phase::Serving {
            farewell: Some(farewell),
            ..
        } = &mut self.phase
        else {
            return;
        };
        let because = farewell.because.take();
        let leavers: Vec<NodeId> = farewell.nodes.iter().cloned().collect();
        for id in leavers {
            self.let_go(&id);
            self.lost(now, &id, "it has left the household's service");
        }
        if self.wants_idle() {
            // Nobody left: machines stay that give something else from now on, or do so in another plan.
            self.give_up_run(match because {
                Some(_) => "a better plan takes its place",
                None => "a machine changes what it gives",
            });
            self.consider(now, Pause::None);
            if let Phase::Planning { because: why, .. } = &mut self.phase {
                *why = because;
            }
        }
    }

    /// The last words to a machine that leaves.
    fn let_go(&mut self, id: &NodeId) {
        let Some(link) = self.nodes.get(id).map(|node| node.link) else {
            return;
        };
        self.send(
            link,
            CoordinatorMessage::Release {
                epoch: self.last_epoch,
            },
        );
        self.acts.push_back(Act::Part { link });
    }

    pub(super) fn kicked(&mut self, now: Duration, id: &NodeId) {
        let Some(link) = self.nodes.get(id).map(|node| node.link) else {
            return;
        };
        let text = "the household's owner has removed it; a new invite brings it back".to_owned();
        self.send(link, CoordinatorMessage::Kicked { text });
        self.acts.push_back(Act::Part { link });
        self.lost(now, id, "its owner has removed it from the household");
        self.gone.remove(id);
        // No frame of it is taken from now on. The others keep their links.
        let kept = |node: &&Node| node.up || self.run().is_some_and(|run| run.has(&node.id));
        let others = self.nodes.values().filter(kept);
        let others = others
            .map(|node| node.peer(&self.rules.neighbours))
            .collect();
        self.acts.push_back(Act::Peers(others));
    }

    /// How people call a machine.
    pub(super) fn label(&self, id: &NodeId) -> String {
        match self.nodes.get(id) {
            Some(node) => format!("machine '{}'", node.name),
            None => format!("machine {id}"),
        }
    }
}

//! Weights from machine to machine: who seeks, who holds, who may lend to whom.
//!
//! The coordinator has every shard itself. A machine lends only to those that seek at the moment.

use std::time::Duration;

use proto::control::{CoordinatorMessage, Held, Source, Sources, Wares};
use proto::{Epoch, NodeId};

use super::{Act, Household, LinkId, Phase};

/// Models of which the household remembers what one machine holds.
const HELD_MAX: usize = 4;

/// How far the catalogue of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stock {
    /// Nobody has asked yet, or it could not be made.
    Unknown,
    /// It is being made.
    Making,
    /// Its hash.
    Known([u8; 32]),
}

impl Household {
    /// A machine of the epoch that loads has not got the model.
    pub(super) fn seek(&mut self, id: &NodeId, epoch: Epoch) {
        let loading =
            matches!(&self.phase, Phase::Loading { run, .. } if run.epoch == epoch && run.has(id));
        let Some(node) = self.nodes.get_mut(id).filter(|_| loading) else {
            return;
        };
        node.seeks = Some(epoch);
        match self.stock {
            Stock::Unknown => {
                self.stock = Stock::Making;
                self.acts.push_back(Act::Catalogue);
            }
            Stock::Making => {}
            Stock::Known(catalogue) => self.tell_sources(Ok(catalogue)),
        }
    }

    /// What a machine can lend.
    pub(super) fn holds(&mut self, id: &NodeId, held: Held) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        node.held.retain(|other| other.catalogue != held.catalogue);
        node.held.truncate(HELD_MAX - 1);
        if held.shards.iter().any(|byte| *byte != 0) {
            node.held.insert(0, held);
        }
    }

    /// The catalogue is there, or cannot be made.
    pub(super) fn catalogued(&mut self, now: Duration, result: Result<[u8; 32], String>) {
        self.stock = match &result {
            Ok(catalogue) => Stock::Known(*catalogue),
            Err(_) => Stock::Unknown,
        };
        // Those who waited for it have lost no time of their own.
        if let Phase::Loading { progress, .. } = &mut self.phase {
            *progress = now;
        }
        self.tell_sources(result);
    }

    /// Whether machines wait for the catalogue alone: then their silence is no fault of theirs.
    pub(super) fn waits_for_catalogue(&self) -> bool {
        self.stock == Stock::Making && !self.seekers().is_empty()
    }

    /// The machines of the standing epoch that seek, with their links.
    fn seekers(&self) -> Vec<(NodeId, LinkId)> {
        let Some(epoch) = self.run().map(|run| run.epoch) else {
            return Vec::new();
        };
        let seeking = self.nodes.values().filter(|node| node.seeks == Some(epoch));
        seeking.map(|node| (node.id.clone(), node.link)).collect()
    }

    /// Lets the holders lend to those who seek, then tells these where to ask.
    fn tell_sources(&mut self, result: Result<[u8; 32], String>) {
        let Some(epoch) = self.run().map(|run| run.epoch) else {
            return;
        };
        self.lend();
        for (id, link) in self.seekers() {
            let wares = result.clone().map(|catalogue| {
                let sources = self.nodes.values().filter(|node| node.id != id);
                let sources = sources.filter_map(|node| {
                    let held = node.held.iter().find(|held| held.catalogue == catalogue)?;
                    Some(Source {
                        peer: node.peer(&self.rules.neighbours),
                        shards: held.shards.clone(),
                    })
                });
                Wares {
                    catalogue,
                    sources: sources.collect(),
                }
            });
            self.send(link, CoordinatorMessage::Sources(Sources { epoch, wares }));
        }
    }

    /// Tells every machine that holds something to whom it may lend now.
    pub(super) fn lend(&mut self) {
        let seekers: Vec<NodeId> = self.seekers().into_iter().map(|(id, _)| id).collect();
        let holders = self.nodes.values().filter(|node| !node.held.is_empty());
        let holders: Vec<(NodeId, LinkId)> =
            holders.map(|node| (node.id.clone(), node.link)).collect();
        for (id, link) in holders {
            let others = seekers.iter().filter(|seeker| **seeker != id).cloned();
            self.send(link, CoordinatorMessage::Lend(others.collect()));
        }
    }
}

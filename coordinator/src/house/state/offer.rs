//! What a machine gives changes while it is in: it pauses by its owner's terms, comes back, gives more or less.
//!
//! A planned change, as when a machine leaves: running answers are finished first, as far as their time goes.

use std::time::Duration;

use plan::LeftOut;
use proto::NodeId;
use proto::control::Offer;

use super::{Household, Pause, Phase};

impl Household {
    pub(super) fn offered(&mut self, now: Duration, id: &NodeId, offer: Offer) {
        let speeds = [offer.read_bytes_per_s, offer.macs_per_s];
        if !speeds
            .iter()
            .all(|speed| speed.is_finite() && *speed >= 1.0)
        {
            tracing::warn!(node = %id, "an offer with speeds below 1 per second was ignored");
            return;
        }
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let hello = &mut node.hello;
        let before = hello.clone();
        hello.memory_bytes = offer.memory_bytes;
        hello.threads = offer.threads;
        hello.read_bytes_per_s = offer.read_bytes_per_s;
        hello.macs_per_s = offer.macs_per_s;
        hello.paused = offer.paused;
        if *hello == before {
            return;
        }
        match node.paused() {
            Some(reason) => {
                tracing::info!(node = %id, name = node.name, "machine pauses: {reason}")
            }
            None => tracing::info!(
                node = %id, name = node.name, memory_bytes = node.hello.memory_bytes, threads = node.hello.threads,
                "machine serves on new terms"
            ),
        }
        // What it failed at it may manage with other terms.
        node.trouble = None;
        self.gives(now, id, !before.paused.is_empty());
        self.replan_for(now, id);
    }

    fn replan_for(&mut self, now: Duration, id: &NodeId) {
        if let Some(farewell) = self.farewell(now, id) {
            farewell.changes.insert(id.clone());
            return;
        }
        match &self.phase {
            Phase::Loading { run, .. } if run.has(id) => {
                self.give_up_run("a machine changes what it gives");
                self.consider(now, Pause::None);
            }
            Phase::Planning { .. } => self.consider(now, Pause::None),
            Phase::Waiting { .. } => self.consider(now, Pause::Settle),
            // Who has no part in an epoch does not disturb it; a trial shows whether it should get one.
            Phase::Settling { .. } | Phase::Loading { .. } | Phase::Serving { .. } => {}
        }
    }

    /// Why each paused machine has no part in a plan.
    pub(super) fn paused_left_out(&self) -> impl Iterator<Item = LeftOut> {
        self.nodes.values().filter_map(|node| {
            let reason = format!("paused: {}", node.paused()?);
            Some(LeftOut {
                node: node.id.clone(),
                name: node.name.clone(),
                reason: reason.chars().take(1024).collect(),
            })
        })
    }
}

//! How far the service is, for those who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::NodeId;

use super::node::{Load, Node};
use super::{Farewell, Household, Phase};
use crate::gateway::{self, ServiceStatus};
use crate::house::serving::Door;

/// What a machine does, in one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    Serving,
    Loading,
    Spare,
    Paused,
    Leaving,
    Troubled,
}

impl NodeState {
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Serving => "serving",
            NodeState::Loading => "loading",
            NodeState::Spare => "spare",
            NodeState::Paused => "paused",
            NodeState::Leaving => "leaving",
            NodeState::Troubled => "troubled",
        }
    }
}

impl Household {
    /// What `/readyz` tells.
    pub fn status(&self, now: Duration) -> ServiceStatus {
        let mut status = ServiceStatus {
            phase: self.phase_name(),
            done_bytes: 0,
            total_bytes: 0,
            eta_s: None,
            nodes: u32::try_from(self.nodes.len()).unwrap_or(u32::MAX),
            missing_bytes: 0,
            context: self
                .kept
                .unwrap_or_else(|| self.run().map_or(0, |run| run.plan.context)),
            detail: String::new(),
        };
        match &self.phase {
            _ if self.draining => "the service is ending".clone_into(&mut status.detail),
            Phase::Waiting {
                missing_bytes,
                text,
                ..
            } => {
                status.missing_bytes = *missing_bytes;
                status.detail = self.with_troubles(text);
            }
            Phase::Settling {
                doubt: Some(node), ..
            } => {
                status.detail = format!(
                    "waiting whether {} answers before planning anew",
                    self.label(node)
                );
            }
            Phase::Settling { .. } => "machines are coming in".clone_into(&mut status.detail),
            Phase::Planning { .. } => "a plan is being made".clone_into(&mut status.detail),
            Phase::Loading {
                run, began, loads, ..
            } => {
                status.done_bytes = loads
                    .values()
                    .fold(0, |sum, load| done(load).saturating_add(sum));
                status.total_bytes = loads
                    .values()
                    .fold(0, |sum, load| load.total_bytes.saturating_add(sum));
                status.eta_s = eta_s(now.saturating_sub(*began), &status);
                status.detail = format!("{} machines are loading epoch {}", loads.len(), run.epoch);
            }
            Phase::Serving { run, farewell } => {
                let bytes = run
                    .shares
                    .iter()
                    .fold(0u64, |sum, share| sum.saturating_add(share.weight_bytes));
                status.done_bytes = bytes;
                status.total_bytes = bytes;
                status.detail = match farewell {
                    None => {
                        let better = self.better_text().unwrap_or_default();
                        format!("{} machines answer{better}", run.shares.len())
                    }
                    Some(farewell) => self.farewell_text(farewell),
                };
            }
        }
        status
    }

    fn farewell_text(&self, farewell: &Farewell) -> String {
        let names = |nodes: &BTreeSet<NodeId>| -> String {
            let labels: Vec<String> = nodes.iter().map(|node| self.label(node)).collect();
            labels.join(", ")
        };
        let mut parts = Vec::new();
        if !farewell.nodes.is_empty() {
            parts.push(format!("{} leaves", names(&farewell.nodes)));
        }
        if !farewell.changes.is_empty() {
            parts.push(format!(
                "{} changes what it gives",
                names(&farewell.changes)
            ));
        }
        if let Some(because) = &farewell.because {
            parts.push(because.found());
        }
        format!(
            "{}; running answers are being finished before planning anew",
            parts.join(" and ")
        )
    }

    /// What becomes of a request that comes now.
    pub fn door(&self) -> Door {
        match (self.phase_name(), &self.phase) {
            (gateway::Phase::Ready, Phase::Serving { farewell: None, .. }) => Door::Open,
            (gateway::Phase::Ready, _) => Door::Waiting,
            _ => Door::Shut,
        }
    }

    fn phase_name(&self) -> gateway::Phase {
        match &self.phase {
            _ if self.draining => gateway::Phase::Draining,
            Phase::Waiting { .. } => gateway::Phase::WaitingForNodes,
            _ if self.kept.is_some() => gateway::Phase::Ready,
            Phase::Settling { .. }
            | Phase::Planning { .. }
            | Phase::Serving {
                farewell: Some(_), ..
            } => gateway::Phase::Planning,
            Phase::Loading { .. } => gateway::Phase::Loading,
            Phase::Serving { farewell: None, .. } => gateway::Phase::Ready,
        }
    }

    /// A reason to wait, with the machines that are gone or left out.
    fn with_troubles(&self, text: &str) -> String {
        let gone = self.gone.values().cloned();
        let paused = self.nodes.values().filter_map(|node| {
            let reason = node.paused()?;
            Some(format!("machine '{}' is paused: {reason}", node.name))
        });
        let troubled = self.nodes.values().filter_map(|node| {
            let trouble = node.trouble.as_ref()?;
            let next = match trouble.until {
                Some(_) => "it is tried again shortly",
                None => "repair it and start `node join` there again",
            };
            Some(format!(
                "machine '{}' is left out: {}; {next}",
                node.name, trouble.reason
            ))
        });
        let parts: Vec<String> = std::iter::once(text.to_owned())
            .chain(gone)
            .chain(paused)
            .chain(troubled)
            .collect();
        parts.join(". ")
    }

    /// What a machine does now.
    pub fn state_of(&self, node: &Node, now: Duration) -> NodeState {
        let has_part = self.run().is_some_and(|run| run.has(&node.id));
        match &self.phase {
            _ if node.leaving => NodeState::Leaving,
            Phase::Loading { .. } if has_part => NodeState::Loading,
            Phase::Serving { .. } if has_part => NodeState::Serving,
            _ if node.paused().is_some() => NodeState::Paused,
            _ if !node.usable(now) => NodeState::Troubled,
            _ => NodeState::Spare,
        }
    }

    /// How far a machine has loaded.
    pub fn load_of(&self, node: &Node) -> Option<Load> {
        match &self.phase {
            Phase::Loading { loads, .. } => loads.get(&node.id).copied(),
            _ => None,
        }
    }

    /// Machines that an epoch was lost with, and why, until an epoch is ready again.
    pub fn gone(&self) -> &BTreeMap<NodeId, String> {
        &self.gone
    }

    /// One sentence on why there is no plan.
    pub fn why_no_plan(&self, now: Duration) -> String {
        format!("there is no plan yet: {}", self.status(now).detail)
    }
}

fn done(load: &Load) -> u64 {
    if load.loaded {
        load.total_bytes
    } else {
        load.done_bytes.min(load.total_bytes)
    }
}

/// From the speed so far; nothing before there is one.
fn eta_s(elapsed: Duration, status: &ServiceStatus) -> Option<f64> {
    let elapsed_s = elapsed.as_secs_f64();
    if status.done_bytes == 0 || elapsed_s < 0.2 {
        return None;
    }
    let left = status.total_bytes.saturating_sub(status.done_bytes);
    Some(elapsed_s * left as f64 / status.done_bytes as f64)
}

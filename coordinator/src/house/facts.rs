//! What `status`, `nodes` and `models` answer: JSON with stable field names.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proto::NodeId;
use serde::Serialize;

use super::state::{Household, NodeState};
use super::survey::{LinkEntry, Survey};
use crate::gateway::Phase;
use crate::models::Added;
use crate::store::Member;

/// What does not change while the household lives.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    pub coordinator: String,
    pub household: String,
    pub mesh: String,
    pub model: String,
    pub model_path: String,
    pub model_bytes: u64,
}

/// What `status` answers.
#[derive(Debug, Serialize)]
pub(super) struct StatusFacts {
    coordinator: String,
    household: String,
    mesh: String,
    model: String,
    model_path: String,
    model_bytes: u64,
    phase: &'static str,
    ready: bool,
    detail: String,
    done_bytes: u64,
    total_bytes: u64,
    eta_s: Option<f64>,
    missing_bytes: u64,
    nodes: u32,
    epoch: Option<u64>,
    stages: usize,
    context: u32,
    kv: Option<plan::KvType>,
    pages: u32,
    slots: u32,
    chunk_rows: u32,
    pages_free: u32,
    slots_free: u32,
    requests_waiting: u32,
    requests_running: u32,
    sequences: u32,
    steps_in_flight: u32,
    generated_tokens: u64,
    prompt_tokens: u64,
    prefill_steps: u64,
    decode_steps: u64,
    faults: u64,
    overdue_steps: u64,
    tokens_per_s: f64,
    uptime_s: f64,
}

/// What the session tells of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub load: session::Load,
    pub counters: session::Counters,
    pub tokens_per_s: f64,
}

impl StatusFacts {
    pub fn of(now: Duration, fixed: &Fixed, household: &Household, work: Work) -> Self {
        let status = household.status(now);
        let run = household.run();
        let plan = run.map(|run| &run.plan);
        let Work {
            load,
            counters,
            tokens_per_s,
        } = work;
        let fixed = fixed.clone();
        Self {
            coordinator: fixed.coordinator,
            household: fixed.household,
            mesh: fixed.mesh,
            model: fixed.model,
            model_path: fixed.model_path,
            model_bytes: fixed.model_bytes,
            phase: status.phase.name(),
            ready: status.phase == Phase::Ready,
            detail: status.detail,
            done_bytes: status.done_bytes,
            total_bytes: status.total_bytes,
            eta_s: status.eta_s,
            missing_bytes: status.missing_bytes,
            nodes: status.nodes,
            epoch: run.map(|run| run.epoch.0),
            stages: plan.map_or(0, |plan| plan.stages.len()),
            context: status.context,
            kv: plan.map(|plan| plan.kv),
            pages: plan.map_or(0, |plan| plan.pages),
            slots: plan.map_or(0, |plan| plan.slots),
            chunk_rows: plan.map_or(0, |plan| plan.chunk_rows),
            pages_free: load.pages_free,
            slots_free: load.slots_free,
            requests_waiting: load.requests_waiting,
            requests_running: load.requests_running,
            sequences: load.sequences,
            steps_in_flight: load.steps_in_flight,
            generated_tokens: counters.generated_tokens,
            prompt_tokens: counters.prompt_tokens,
            prefill_steps: counters.prefill_steps,
            decode_steps: counters.decode_steps,
            faults: counters.faults,
            overdue_steps: counters.overdue_steps,
            tokens_per_s,
            uptime_s: now.as_secs_f64(),
        }
    }
}

/// What `nodes` answers.
#[derive(Debug, Serialize)]
pub(super) struct NodesFacts {
    nodes: Vec<NodeEntry>,
    absent: Vec<AbsentEntry>,
    links: Vec<LinkEntry>,
    /// Machines that an epoch was lost with, and why.
    #[serde(skip)]
    gone: BTreeMap<NodeId, String>,
}

#[derive(Debug, Serialize)]
struct NodeEntry {
    node: String,
    name: String,
    state: &'static str,
    remote: String,
    os: String,
    arch: String,
    kernels: String,
    threads: u32,
    version: String,
    memory_bytes: u64,
    free_memory_bytes: u64,
    layers: Option<[u32; 2]>,
    embedding: bool,
    head: bool,
    /// Of layers of other machines.
    expert_groups: u32,
    /// Of another machine's head.
    head_blocks: u32,
    resident_bytes: u64,
    done_bytes: u64,
    total_bytes: u64,
    steps: u64,
    rows: u64,
    sequences: u32,
    busy_us: u64,
    last_beat_ms: u64,
    trouble: Option<String>,
    paused: Option<String>,
}

#[derive(Debug, Serialize)]
struct AbsentEntry {
    node: String,
    name: String,
    joined_unix_s: i64,
    /// Why it went, if the household lost a plan with it and has none since.
    lost: Option<String>,
}

/// What `models` answers.
#[derive(Debug, Serialize)]
pub(super) struct ModelsFacts {
    served: ServedEntry,
    models: Vec<ModelEntry>,
}

#[derive(Debug, Serialize)]
struct ServedEntry {
    id: String,
    path: String,
    bytes: u64,
}

/// A model that was added, as `model list` shows it.
#[derive(Debug, Serialize)]
struct ModelEntry {
    name: String,
    /// Where it comes from.
    model: String,
    commit: String,
    bytes: u64,
    missing_bytes: u64,
    served: bool,
}

impl ModelsFacts {
    pub fn of(fixed: &Fixed, added: &[Added]) -> Self {
        let served = ServedEntry {
            id: fixed.model.clone(),
            path: fixed.model_path.clone(),
            bytes: fixed.model_bytes,
        };
        let path = Path::new(&fixed.model_path);
        let models = added.iter().map(|added| ModelEntry {
            name: added.name.clone(),
            model: added.manifest.model.clone(),
            commit: added.manifest.commit.clone(),
            bytes: added.manifest.bytes(),
            missing_bytes: added.missing_bytes,
            served: std::path::absolute(&added.path).is_ok_and(|added| added == path),
        });
        Self {
            served,
            models: models.collect(),
        }
    }
}

impl NodesFacts {
    /// The machines that are in; those that are not come with [`NodesFacts::with_members`].
    pub fn of(now: Duration, household: &Household, survey: &Survey) -> Self {
        let nodes = household.nodes().map(|node| {
            let run = household.run();
            let stage =
                run.and_then(|run| run.plan.stages.iter().find(|stage| stage.node == node.id));
            let state = household.state_of(node, now);
            let share = run.and_then(|run| run.share(&node.id));
            let weight_bytes = share.map_or(0, |share| share.weight_bytes);
            let load = household.load_of(node);
            let served = if state == NodeState::Serving {
                weight_bytes
            } else {
                0
            };
            NodeEntry {
                node: node.id.to_string(),
                name: node.name.clone(),
                state: state.name(),
                remote: node.remote.to_string(),
                os: node.hello.os.clone(),
                arch: node.hello.arch.clone(),
                kernels: node.hello.kernels.clone(),
                threads: node.hello.threads,
                version: node.hello.version.clone(),
                memory_bytes: node.hello.memory_bytes,
                free_memory_bytes: node.beat.free_memory_bytes,
                layers: stage.map(|stage| [stage.first_layer, stage.end_layer]),
                embedding: stage.is_some_and(|stage| stage.embedding),
                head: stage.is_some_and(|stage| stage.head),
                expert_groups: share.map_or(0, |share| share.expert_groups),
                head_blocks: share.map_or(0, |share| share.head_blocks),
                resident_bytes: node.beat.resident_bytes,
                done_bytes: load.map_or(served, |load| load.done_bytes),
                total_bytes: load.map_or(weight_bytes, |load| load.total_bytes),
                steps: node.beat.steps,
                rows: node.beat.rows,
                sequences: node.beat.sequences,
                busy_us: node.beat.busy_us,
                last_beat_ms: u64::try_from(now.saturating_sub(node.heard).as_millis())
                    .unwrap_or(u64::MAX),
                trouble: node.trouble.as_ref().map(|trouble| trouble.reason.clone()),
                paused: node.paused().map(str::to_owned),
            }
        });
        Self {
            nodes: nodes.collect(),
            absent: Vec::new(),
            links: survey.entries(now),
            gone: household.gone().clone(),
        }
    }

    /// Adds the members that are not connected.
    pub fn with_members(mut self, members: Vec<Member>) -> Self {
        let here = |member: &Member| {
            self.nodes
                .iter()
                .any(|node| node.node == member.node.as_str())
        };
        let absent = members.into_iter().filter(|member| !here(member));
        self.absent = absent
            .map(|member| AbsentEntry {
                lost: self.gone.get(&member.node).cloned(),
                node: member.node.to_string(),
                name: member.name,
                joined_unix_s: member.joined_unix_s,
            })
            .collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_an_epoch_was_lost_with_is_shown_with_the_reason() {
        let member = |name: &str| Member {
            node: NodeId::new(name).unwrap(),
            name: name.to_owned(),
            joined_unix_s: 1,
        };
        let gone = BTreeMap::from([(
            NodeId::new("attic").unwrap(),
            "machine 'attic' is gone: unplugged".to_owned(),
        )]);
        let facts = NodesFacts {
            nodes: Vec::new(),
            absent: Vec::new(),
            links: Vec::new(),
            gone,
        };
        let facts = facts.with_members(vec![member("attic"), member("den")]);
        let answer = serde_json::to_value(&facts).unwrap();
        assert_eq!(
            answer["absent"],
            serde_json::json!([
                {"node": "attic", "name": "attic", "joined_unix_s": 1, "lost": "machine 'attic' is gone: unplugged"},
                {"node": "den", "name": "den", "joined_unix_s": 1, "lost": null},
            ])
        );
        assert!(answer.get("gone").is_none());
    }
}

//! Which node holds what of a plan.
//!
//! Owns the one walk from a plan's three lists to the nodes' parts: what the check counts, what the coordinator hands
//! out and what a person is shown come from here.

use proto::facts::ModelFacts;
use proto::{GroupSet, NodeId};

use crate::Plan;
use crate::memory::Holding;

/// One node's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its stage, as an index of [`Plan::stages`].
    pub stage: Option<usize>,
    /// What it holds.
    pub holding: Holding,
}

impl Plan {
    /// Every node's part, the stages in their order first, each node once. Groups and blocks outside the model are left
    /// out: [`crate::check`] refuses a plan that has such.
    #[must_use]
    pub fn parts(&self, model: &ModelFacts) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(self.stages.len());
        for (at, stage) in self.stages.iter().enumerate() {
            parts.push(Part {
                node: stage.node.clone(),
                name: stage.name.clone(),
                stage: Some(at),
                holding: Holding::stage(model, stage.span()),
            });
        }
        for entry in &self.experts {
            let (first, end) = (entry.first_layer as usize, entry.end_layer as usize);
            for (layer, facts) in (0u32..).zip(&model.layers).take(end).skip(first) {
                let exist = GroupSet::all(u32::try_from(facts.group_bytes.len()).unwrap_or(0));
                let moved = set(&entry.groups).common(exist);
                for part in &mut parts {
                    if part.holding.runs(layer) {
                        let kept = part.holding.groups.entry(layer).or_default();
                        *kept = kept.without(moved);
                    }
                }
                let part = part_of(&mut parts, &entry.node, &entry.name);
                let held = part.holding.groups.entry(layer).or_default();
                *held = held.and(moved);
            }
        }
        let exist = GroupSet::all(proto::facts::expert_groups(model.vocab));
        for entry in &self.head_blocks {
            let moved = set(&entry.blocks).common(exist);
            for part in &mut parts {
                if part.holding.span.as_ref().is_some_and(|span| span.head) {
                    let kept = &mut part.holding.head_blocks;
                    *kept = kept.without(moved);
                }
            }
            let part = part_of(&mut parts, &entry.node, &entry.name);
            part.holding.head_blocks = part.holding.head_blocks.and(moved);
        }
        parts
    }

    /// Whether `node` has a part.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.stages.iter().any(|stage| stage.node == *node)
            || self.experts.iter().any(|entry| entry.node == *node)
            || self.head_blocks.iter().any(|entry| entry.node == *node)
    }

    /// Whether expert groups or head blocks are away from their stages.
    #[must_use]
    pub fn exchanges(&self) -> bool {
        !(self.experts.is_empty() && self.head_blocks.is_empty())
    }
}

fn set(groups: &[u32]) -> GroupSet {
    groups
        .iter()
        .copied()
        .fold(GroupSet::none(), GroupSet::with)
}

fn part_of<'p>(parts: &'p mut Vec<Part>, node: &NodeId, name: &str) -> &'p mut Part {
    let at = match parts.iter().position(|part| part.node == *node) {
        Some(at) => at,
        None => {
            parts.push(Part {
                node: node.clone(),
                name: name.to_owned(),
                stage: None,
                holding: Holding::default(),
            });
            parts.len() - 1
        }
    };
    &mut parts[at]
}

//! The check of expert groups and head blocks that live away from their stages.

use proto::facts::{ModelFacts, expert_groups};
use proto::{GroupSet, NodeId};

use super::{known, label, node_of};
use crate::{NodeFacts, Plan, PlanError};

/// An entry of one of the two lists, for errors.
#[derive(Clone, Copy)]
struct Place {
    list: &'static str,
    entry: usize,
}

impl Place {
    fn wrong(
        self,
        what: &'static str,
        got: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> PlanError {
        PlanError::Entry {
            list: self.list,
            entry: self.entry,
            what,
            got: got.to_string(),
            expected: expected.into(),
        }
    }

    /// The id and name of the node that an entry names.
    fn owner(
        self,
        (node, name): (&mut NodeId, &mut String),
        nodes: &[NodeFacts],
    ) -> Result<(), PlanError> {
        let found = node_of(node, name, nodes).ok_or_else(|| {
            let expected = format!("a node of the household; here are: {}", known(nodes));
            self.wrong("the node", label(node, name), expected)
        })?;
        *node = found.id.clone();
        *name = found.name.clone();
        Ok(())
    }

    /// A list of groups or blocks as a set.
    fn set(self, what: &'static str, list: &[u32], exist: u32) -> Result<GroupSet, PlanError> {
        let mut set = GroupSet::none();
        for index in list {
            if *index >= exist {
                return Err(self.wrong(what, index, format!("numbers below {exist}")));
            }
            if set.contains(*index) {
                return Err(self.wrong(what, format!("{index} twice"), "each number once"));
            }
            set = set.with(*index);
        }
        if set.is_empty() {
            return Err(self.wrong(what, "empty", "at least one number"));
        }
        Ok(set)
    }
}

fn experts(entry: usize) -> Place {
    Place {
        list: "experts",
        entry,
    }
}

fn head_blocks(entry: usize) -> Place {
    Place {
        list: "head_blocks",
        entry,
    }
}

/// Gives every entry the id and name of its node.
pub(super) fn name_owners(plan: &mut Plan, nodes: &[NodeFacts]) -> Result<(), PlanError> {
    for (at, entry) in plan.experts.iter_mut().enumerate() {
        experts(at).owner((&mut entry.node, &mut entry.name), nodes)?;
    }
    for (at, entry) in plan.head_blocks.iter_mut().enumerate() {
        head_blocks(at).owner((&mut entry.node, &mut entry.name), nodes)?;
    }
    Ok(())
}

/// Checks that every group and block exists, is away from its stage, and has one owner.
pub(super) fn check(plan: &Plan, model: &ModelFacts) -> Result<(), PlanError> {
    let mut given = vec![GroupSet::none(); model.layers.len()];
    for (at, entry) in plan.experts.iter().enumerate() {
        let place = experts(at);
        let (first, end) = (entry.first_layer as usize, entry.end_layer as usize);
        if first >= end || end > model.layers.len() {
            let got = format!("{first}..{end}");
            let expected = format!("at least one layer inside 0..{}", model.layers.len());
            return Err(place.wrong("the layer range", got, expected));
        }
        let layers = (0u32..).zip(&model.layers).zip(&mut given);
        for ((layer, facts), given) in layers.take(end).skip(first) {
            let exist = u32::try_from(facts.group_bytes.len()).unwrap_or(0);
            if exist == 0 {
                let got = format!("layer {layer}");
                return Err(place.wrong("a layer", got, "layers with experts"));
            }
            let set = place.set("`groups`", &entry.groups, exist)?;
            let runs = plan
                .stages
                .iter()
                .find(|stage| (stage.first_layer..stage.end_layer).contains(&layer));
            if runs.is_some_and(|stage| stage.node == entry.node) {
                let got = label(&entry.node, &entry.name);
                let expected = format!(
                    "another node than that of the stage with layer {layer}, which has what nobody else has"
                );
                return Err(place.wrong("the node", got, expected));
            }
            let twice = given.common(set);
            if !twice.is_empty() {
                let got = format!("{twice} of layer {layer}, which an entry before has");
                return Err(place.wrong("`groups`", got, "one owner for each group"));
            }
            *given = given.and(set);
        }
    }
    check_head(plan, model)
}

fn check_head(plan: &Plan, model: &ModelFacts) -> Result<(), PlanError> {
    let mut given = GroupSet::none();
    for (at, entry) in plan.head_blocks.iter().enumerate() {
        let place = head_blocks(at);
        let set = place.set("`blocks`", &entry.blocks, expert_groups(model.vocab))?;
        if plan
            .stages
            .last()
            .is_some_and(|stage| stage.node == entry.node)
        {
            let expected = "another node than the last stage, which has what nobody else has";
            return Err(place.wrong("the node", label(&entry.node, &entry.name), expected));
        }
        let twice = given.common(set);
        if !twice.is_empty() {
            let got = format!("{twice}, which an entry before has");
            return Err(place.wrong("`blocks`", got, "one owner for each block"));
        }
        given = given.and(set);
    }
    Ok(())
}

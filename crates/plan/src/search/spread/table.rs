//! What a node takes for groups and head blocks.
//!
//! Owns the bytes by number held. They are those of [`crate::holding_bytes`], so what fits here is what loads.

use std::rc::Rc;

use proto::GroupSet;
use proto::facts::{LayerFacts, expert_groups};

use super::super::{Part, Problem};
use super::groups_of;
use crate::memory::{Holding, LayerSpan};

/// What a node takes by groups and by head blocks held: the two add up.
#[derive(Debug)]
pub(super) struct Table {
    groups: Vec<u64>,
    /// Beyond what no block takes.
    blocks: Vec<u64>,
}

impl Table {
    pub fn bytes(&self, groups: u32, blocks: u32) -> Option<u64> {
        let groups = self.groups.get(groups as usize)?;
        let blocks = self.blocks.get(blocks as usize)?;
        Some(groups.saturating_add(*blocks))
    }
}

/// The cut places of a stage; none for a node without a stage.
type Role = Option<(usize, usize)>;

/// Tables of a problem, each counted once.
#[derive(Default)]
pub(crate) struct Tables(Vec<(Role, Rc<Table>)>);

impl Tables {
    pub(super) fn of(&mut self, problem: &Problem<'_>, part: Option<&Part>) -> Rc<Table> {
        let key = part.map(|part| (part.first, part.end));
        if let Some((_, table)) = self.0.iter().find(|(known, _)| *known == key) {
            return Rc::clone(table);
        }
        let table = Rc::new(table(problem, part));
        self.0.push((key, Rc::clone(&table)));
        table
    }
}

fn table(problem: &Problem<'_>, part: Option<&Part>) -> Table {
    let span = part.map(|part| LayerSpan {
        first_layer: problem.layer(part.first),
        end_layer: problem.layer(part.end),
        embedding: part.first == 0,
        head: part.end == problem.cuts(),
    });
    let all = groups_of(problem);
    // The largest groups first, so that no choice of so many takes more.
    let mut sizes: Vec<(u64, u32)> = (0..all)
        .map(|group| {
            let of = |layer: &LayerFacts| layer.group_bytes.get(group as usize).copied();
            let bytes = problem.model.layers.iter().filter_map(of);
            (bytes.fold(0, u64::saturating_add), group)
        })
        .collect();
    sizes.sort_by(|a, b| b.cmp(a));
    let bytes = |groups: u32, blocks: u32| {
        let set = sizes
            .iter()
            .take(groups as usize)
            .fold(GroupSet::none(), |set, (_, group)| set.with(*group));
        let layers = (0u32..).zip(&problem.model.layers);
        let holding = Holding {
            span,
            groups: layers
                .filter(|(_, layer)| groups > 0 && !layer.group_bytes.is_empty())
                .map(|(at, _)| (at, set))
                .collect(),
            head_blocks: GroupSet::all(blocks),
        };
        let bytes = crate::holding_bytes(problem.model, &holding, &problem.budget);
        bytes.map_or(u64::MAX, |bytes| bytes.total())
    };
    let none = bytes(0, 0);
    let blocks = 0..=expert_groups(problem.model.vocab);
    // A stage without head blocks may need more scratch than with them, so the most counts.
    let mut beyond: Vec<u64> = blocks.map(|blocks| bytes(0, blocks)).collect();
    let least = beyond.iter().copied().min().unwrap_or(0);
    for bytes in &mut beyond {
        *bytes -= least;
    }
    let base = |groups: u32| bytes(groups, 0).saturating_sub(none.saturating_sub(least));
    Table {
        groups: (0..=all).map(base).collect(),
        blocks: beyond,
    }
}

//! From a plan to each machine's part of it, as it is told to the machine.
//!
//! Owns who may ask whom: a machine hears of the owners of what its stage lacks, and of those that lack what it owns.

use std::collections::BTreeMap;

use plan::{KvType, Part, Plan, holding_bytes};
use proto::control::{Assign, CacheType, Owner, Peer};
use proto::{Epoch, GroupSet};

use super::{Household, Share};

/// A machine's part of a plan with its place in the household.
pub(super) struct Placed {
    pub part: Part,
    pub peer: Peer,
    pub share: Share,
}

impl Placed {
    /// The groups that this machine has of layers of `stage`, and the blocks of its head.
    fn owned_of(&self, stage: &Part) -> (BTreeMap<u32, GroupSet>, GroupSet) {
        let own = &self.part.holding;
        let groups = own.groups.iter();
        let groups = groups
            .filter(|(layer, set)| stage.holding.runs(**layer) && !set.is_empty())
            .map(|(layer, set)| (*layer, *set));
        let blocks = match has_head(stage) {
            true => own.head_blocks,
            false => GroupSet::none(),
        };
        (groups.collect(), blocks)
    }
}

fn has_head(part: &Part) -> bool {
    part.holding.span.as_ref().is_some_and(|span| span.head)
}

impl Household {
    /// All parts of a plan, the stages first; None where a machine of it is not in any more.
    pub(super) fn place(&self, plan: &Plan) -> Option<Vec<Placed>> {
        let facts = &self.rules.model.facts;
        let place = |part: Part| {
            let peer = self.nodes.get(&part.node)?.peer(&self.rules.neighbours);
            let bytes = holding_bytes(facts, &part.holding, &plan.budget());
            let stage = part.stage.and_then(|at| plan.stages.get(at));
            let counted = bytes.map_or(0, |bytes| bytes.weight_bytes);
            let away = part.holding.groups.iter();
            let away = away.filter(|(layer, _)| !part.holding.runs(**layer));
            let share = Share {
                node: part.node.clone(),
                weight_bytes: stage.map_or(counted, |stage| stage.weight_bytes),
                expert_groups: away.map(|(_, set)| set.len()).sum(),
                head_blocks: match has_head(&part) {
                    true => 0,
                    false => part.holding.head_blocks.len(),
                },
            };
            Some(Placed { part, peer, share })
        };
        plan.parts(facts).into_iter().map(place).collect()
    }

    /// What the machine at `at` of `placed` is told.
    pub(super) fn assignment(
        &self,
        plan: &Plan,
        epoch: Epoch,
        placed: &[Placed],
        at: usize,
    ) -> Option<Assign> {
        let this = placed.get(at)?;
        let stage = this.part.stage.and_then(|at| plan.stages.get(at));
        let stage_peer = |at: Option<usize>| {
            let at = at.filter(|_| this.part.stage.is_some())?;
            let placed = placed.get(at).filter(|other| other.part.stage.is_some());
            placed.map(|placed| placed.peer.clone())
        };
        let others = || {
            placed
                .iter()
                .filter(|other| other.part.node != this.part.node)
        };
        let holding = &this.part.holding;
        let foreign = holding.groups.iter();
        let foreign = foreign.filter(|(layer, set)| !holding.runs(**layer) && !set.is_empty());
        let model = &self.rules.model;
        Some(Assign {
            epoch,
            model_path: model.path.clone(),
            model_bytes: model.size_bytes,
            model_blake3: model.blake3,
            layers: stage.map_or(0..0, |stage| stage.first_layer..stage.end_layer),
            embedding: stage.is_some_and(|stage| stage.embedding),
            head: stage.is_some_and(|stage| stage.head),
            kv: match plan.kv {
                KvType::F32 => CacheType::F32,
                KvType::F16 => CacheType::F16,
                KvType::Q8 => CacheType::Q8,
            },
            pages: plan.pages,
            slots: plan.slots,
            context: plan.context,
            chunk_rows: plan.chunk_rows,
            previous: stage_peer(at.checked_sub(1)),
            next: stage_peer(at.checked_add(1)),
            first: None,
            coordinator: self.rules.coordinator.clone(),
            owners: others()
                .filter_map(|other| owner(other, &this.part))
                .collect(),
            foreign: foreign.map(|(layer, set)| (*layer, *set)).collect(),
            head_blocks: match has_head(&this.part) {
                true => GroupSet::none(),
                false => holding.head_blocks,
            },
            askers: others()
                .filter(|other| owner(this, &other.part).is_some())
                .map(|other| other.peer.clone())
                .collect(),
        })
    }
}

/// `placed` as an owner of what `stage` lacks, if it has any of it.
fn owner(placed: &Placed, stage: &Part) -> Option<Owner> {
    let (groups, head_blocks) = placed.owned_of(stage);
    (!groups.is_empty() || !head_blocks.is_empty()).then(|| Owner {
        peer: placed.peer.clone(),
        groups,
        head_blocks,
    })
}

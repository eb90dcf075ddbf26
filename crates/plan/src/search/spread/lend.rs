//! Parts for nodes that would have none.
//!
//! Owns the lending of single groups of single layers. A spread gives a node the same groups of all layers, so that at
//! most one node for each group and head block has a part beside the stages. Where everybody must have one, the others
//! take single groups from those who hold them. The time of a layer is that of its slowest holder, so as few layers as
//! possible are shared out, and slow nodes meet in the same ones.

use super::super::Part;
use super::{Kind, Layout};
use crate::memory::Holding;
use crate::speed::{Holder, expected_s};
use proto::GroupSet;

/// One group of one layer that `node` holds in the place of `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lent {
    pub node: usize,
    pub layer: u32,
    pub from: usize,
}

/// A layer that groups may be taken from.
#[derive(Clone, Copy)]
struct Source {
    layer: u32,
    kind: Kind,
    group_bytes: u64,
}

/// The layers with experts, those of the stage first that the idle nodes reach at least cost.
fn sources(layout: &Layout<'_, '_>, idle: &[usize]) -> Vec<Source> {
    let problem = layout.problem;
    let links = &problem.links;
    let cost = |stage: usize| -> f64 {
        let ways = idle
            .iter()
            .map(|node| links.experts_s(stage, *node, (1.0, 1)));
        ways.sum()
    };
    let priced = layout.parts.iter().map(|part| (cost(part.node), *part));
    let mut parts: Vec<(f64, Part)> = priced.collect();
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sources = Vec::new();
    for (_, part) in parts {
        let range = problem.layer(part.first)..problem.layer(part.end);
        let layers = range.filter_map(|layer| {
            let facts = problem.model.layers.get(layer as usize)?;
            let all = facts.group_bytes.len() == layout.groups as usize;
            let group_bytes = facts.group_bytes.iter().copied().max().filter(|_| all)?;
            let kind = Kind {
                node: part.node,
                layers: 1.0,
                expert_read: facts.expert_bytes as f64,
                expert_macs: facts.expert_macs as f64,
            };
            Some(Source {
                layer,
                kind,
                group_bytes,
            })
        });
        sources.extend(layers);
    }
    sources
}

/// Bytes of a node with one group of `source`'s layer.
fn bytes(layout: &Layout<'_, '_>, source: &Source) -> u64 {
    let problem = layout.problem;
    let groups = problem.model.layers.get(source.layer as usize);
    let sizes = groups
        .into_iter()
        .flat_map(|layer| (0u32..).zip(&layer.group_bytes));
    let largest = sizes.clone().find(|(_, size)| **size == source.group_bytes);
    let set = GroupSet::none().with(largest.map_or(0, |(group, _)| group));
    let holding = Holding {
        span: None,
        groups: std::iter::once((source.layer, set)).collect(),
        head_blocks: GroupSet::none(),
    };
    let bytes = crate::holding_bytes(problem.model, &holding, &problem.budget);
    bytes.map_or(u64::MAX, |bytes| bytes.total())
}

/// A group for each of `idle` beside `groups`; None where somebody gets none.
pub(super) fn lend(layout: &Layout<'_, '_>, groups: &[u32], idle: &[usize]) -> Option<Vec<Lent>> {
    let mut lent = Vec::with_capacity(idle.len());
    if idle.is_empty() {
        return Some(lent);
    }
    let sources = sources(layout, idle);
    let nearest = sources.first()?;
    let seconds = |node: usize| {
        let holder = layout.holder(&nearest.kind, node, 1);
        holder.fixed_s + holder.expert_s
    };
    let mut waiting = idle.to_vec();
    waiting.sort_by(|a, b| seconds(*a).total_cmp(&seconds(*b)));
    for (at, source) in sources.iter().enumerate() {
        let needed_bytes = bytes(layout, source);
        let mut held = groups.to_vec();
        // Whoever has only groups keeps one, in another layer if there is one that stays whole.
        let keeps = u32::from(at + 1 == sources.len());
        let mut given = 0;
        waiting.retain(|node| {
            if given == layout.groups || layout.problem.nodes[*node].memory_bytes < needed_bytes {
                return true;
            }
            let can = |node: &usize| held[*node] > if layout.is_stage(*node) { 0 } else { keeps };
            let open = (0..held.len()).rev().filter(can);
            let Some(from) = open.max_by_key(|node| held[*node]) else {
                return true;
            };
            held[from] -= 1;
            given += 1;
            lent.push(Lent {
                node: *node,
                layer: source.layer,
                from,
            });
            false
        });
        if waiting.is_empty() {
            return Some(lent);
        }
    }
    None
}

/// What lending changes in the seconds per token.
pub(super) fn change_s(layout: &Layout<'_, '_>, groups: &[u32], lent: &[Lent]) -> f64 {
    if lent.is_empty() {
        return 0.0;
    }
    let used = layout.problem.model.experts_used;
    let mut change_s = 0.0;
    for source in sources(layout, &[]) {
        let here = lent.iter().filter(|lent| lent.layer == source.layer);
        let mut held = groups.to_vec();
        for lent in here.clone() {
            held[lent.from] = held[lent.from].saturating_sub(1);
            held[lent.node] += 1;
        }
        if here.count() == 0 {
            continue;
        }
        let seconds = |held: &[u32]| {
            let holders = held.iter().enumerate().filter(|(_, held)| **held > 0);
            let holders: Vec<Holder> = holders
                .map(|(node, held)| layout.holder(&source.kind, node, *held))
                .collect();
            expected_s(&holders, used)
        };
        change_s += seconds(&held) - seconds(groups);
    }
    change_s
}

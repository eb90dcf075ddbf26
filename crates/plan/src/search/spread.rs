//! Expert groups and head blocks for given stages.
//!
//! Owns the question "which node holds how many groups of every layer, and how many head blocks": the least predicted
//! decode seconds per token. A node holds the same groups of all layers; where everybody must have a part and these are too
//! few, single groups of single layers are lent ([`lend`]). Over few nodes every way to hand out the groups
//! is covered: a branch ends where its lower bound (what is handed out so far, with the rest taking no time) is no better
//! than the best that is known. For each way the head blocks follow by a threshold: the slowest holder decides.

use std::rc::Rc;

use proto::facts::expert_groups;

use super::{EXACT_NODES_MAX, Part, Problem};
use crate::speed::{Holder, expected_s, work_s};

mod hunt;
mod lend;
mod table;

use hunt::Hunt;
pub(crate) use lend::Lent;
use table::Table;
pub(crate) use table::Tables;

/// How many groups of every layer and how many head blocks each node holds, in the order of the problem's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spread {
    pub groups: Vec<u32>,
    pub blocks: Vec<u32>,
    /// Groups of single layers that others hold than `groups` says, each by a node without other parts.
    pub lent: Vec<Lent>,
}

impl Spread {
    /// Whether a node has groups or blocks.
    pub(crate) fn gives(&self, node: usize) -> bool {
        let some = |held: &[u32]| held.get(node).is_some_and(|held| *held > 0);
        some(&self.groups) || some(&self.blocks) || self.lent.iter().any(|lent| lent.node == node)
    }

    /// The groups of `layer` by node, `all` of them in all.
    pub(crate) fn groups_of(&self, layer: u32, all: u32) -> Vec<Vec<u32>> {
        let mut held = places(&self.groups, all);
        for lent in self.lent.iter().filter(|lent| lent.layer == layer) {
            let group = held.get_mut(lent.from).and_then(Vec::pop);
            if let Some(taker) = held.get_mut(lent.node) {
                taker.extend(group);
            }
        }
        held
    }
}

/// What a spread has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'w> {
    /// Nodes that must have a part.
    pub must: &'w [usize],
    /// Whether those of them that would have none may take single groups of single layers from others.
    pub lend: bool,
    /// Whether the first that fits is enough.
    pub any_fit: bool,
    /// Seconds per token that it has to be below.
    pub below_s: f64,
}

/// Layers of one stage whose experts have one size.
#[derive(Debug, Clone, Copy)]
struct Kind {
    node: usize,
    layers: f64,
    expert_read: f64,
    expert_macs: f64,
}

/// Stages with all that follows from them.
pub(crate) struct Layout<'p, 'a> {
    problem: &'p Problem<'a>,
    pub parts: Vec<Part>,
    /// Seconds that no group or block changes: trunks, hops, the token's way back.
    fixed_s: f64,
    kinds: Vec<Kind>,
    groups: u32,
    blocks: u32,
    /// For each node what it takes.
    bytes: Vec<Rc<Table>>,
    head: usize,
}

/// Groups of the model's layers; 0 for a dense one.
fn groups_of(problem: &Problem<'_>) -> u32 {
    let layers = problem.model.layers.iter();
    let most = layers
        .map(|layer| layer.group_bytes.len())
        .max()
        .unwrap_or(0);
    u32::try_from(most).unwrap_or(0)
}

impl<'p, 'a> Layout<'p, 'a> {
    /// None where there is no stage.
    pub(crate) fn new(
        problem: &'p Problem<'a>,
        parts: Vec<Part>,
        tables: &mut Tables,
    ) -> Option<Self> {
        let (first, last) = (parts.first()?.node, parts.last()?.node);
        let hops: f64 = parts
            .windows(2)
            .map(|pair| problem.hop_s(pair[0].node, pair[1].node))
            .sum();
        let trunks: f64 = parts
            .iter()
            .map(|part| problem.trunk_s(part.node, part.first, part.end))
            .sum();
        let mut layout = Self {
            problem,
            fixed_s: trunks + hops + problem.links.token_s(last, first),
            kinds: parts.iter().flat_map(|part| kinds(problem, part)).collect(),
            groups: groups_of(problem),
            blocks: expert_groups(problem.model.vocab),
            bytes: Vec::new(),
            head: last,
            parts,
        };
        let mut bytes = vec![tables.of(problem, None); problem.nodes.len()];
        for part in &layout.parts {
            bytes[part.node] = tables.of(problem, Some(part));
        }
        layout.bytes = bytes;
        Some(layout)
    }

    fn fits(&self, node: usize, groups: u32, blocks: u32) -> bool {
        let table = self.bytes.get(node);
        let bytes = table.and_then(|table| table.bytes(groups, blocks));
        bytes.is_some_and(|bytes| {
            bytes <= self.problem.nodes[node].memory_bytes
                || groups == 0 && blocks == 0 && !self.is_stage(node)
        })
    }

    fn is_stage(&self, node: usize) -> bool {
        self.parts.iter().any(|part| part.node == node)
    }

    fn experts(&self, groups: u32) -> u32 {
        let of = self.groups.max(1);
        (self.problem.model.experts * groups + of / 2) / of
    }

    fn holder(&self, kind: &Kind, node: usize, groups: u32) -> Holder {
        let facts = &self.problem.nodes[node];
        Holder {
            experts: self.experts(groups),
            fixed_s: if node == kind.node {
                0.0
            } else {
                let partials = groups.count_ones();
                self.problem
                    .links
                    .experts_s(kind.node, node, (1.0, partials))
            },
            expert_s: work_s(facts, kind.expert_read, kind.expert_macs),
        }
    }

    /// Seconds of all layers' experts where `groups` of them are handed out and the others take no time. Where that is
    /// not below `bar_s`, some number between `bar_s` and it: the distribution is costly, and the slowest average is a
    /// bound of it.
    fn experts_s(&self, groups: &[u32], bar_s: f64) -> f64 {
        let handed_out: u32 = groups.iter().sum();
        let rest = Holder {
            experts: self.experts(self.groups.saturating_sub(handed_out)),
            fixed_s: 0.0,
            expert_s: 0.0,
        };
        let used = self.problem.model.experts_used;
        let all: Vec<Vec<Holder>> = self
            .kinds
            .iter()
            .map(|kind| {
                let held = groups.iter().enumerate().filter(|(_, groups)| **groups > 0);
                let holders = held.map(|(node, groups)| self.holder(kind, node, *groups));
                holders.chain([rest]).filter(|h| h.experts > 0).collect()
            })
            .collect();
        let slowest = |holders: &Vec<Holder>| {
            let all = holders.iter().map(|holder| holder.experts).sum();
            let means = holders.iter().map(|holder| holder.mean_s(all, used));
            means.fold(0.0, f64::max)
        };
        let mut seconds: Vec<f64> = all
            .iter()
            .zip(&self.kinds)
            .map(|(holders, kind)| kind.layers * slowest(holders))
            .collect();
        for (at, (holders, kind)) in all.iter().zip(&self.kinds).enumerate() {
            let bound_s: f64 = seconds.iter().sum();
            // A little more than the bar, so that rounding never decides.
            if bound_s > bar_s * (1.0 + 1e-9) {
                return bound_s;
            }
            seconds[at] = kind.layers * expected_s(holders, used);
        }
        seconds.iter().sum()
    }

    fn block_s(&self, node: usize, blocks: u32) -> f64 {
        let model = self.problem.model;
        let share = f64::from(blocks) / f64::from(self.blocks.max(1));
        let facts = &self.problem.nodes[node];
        let work = work_s(
            facts,
            share * model.head_bytes as f64,
            share * model.head_macs as f64,
        );
        if node == self.head || blocks == 0 {
            work
        } else {
            work + self
                .problem
                .links
                .head_s(self.head, node, share * f64::from(model.vocab))
        }
    }

    /// The head blocks beside `groups`, and the seconds of the slowest holder. Idle nodes of `must` get at least one.
    fn blocks(&self, groups: &[u32], must: &[usize]) -> Option<(Vec<u32>, f64)> {
        let nodes = 0..self.problem.nodes.len();
        let least = |node: usize| {
            u32::from(must.contains(&node) && !self.is_stage(node) && groups[node] == 0)
        };
        let room = |node: usize| {
            let fitting = (0..=self.blocks)
                .rev()
                .find(|blocks| self.fits(node, groups[node], *blocks));
            fitting.filter(|most| *most >= least(node))
        };
        let most: Vec<u32> = nodes.clone().map(room).collect::<Option<_>>()?;
        let mut levels: Vec<f64> = nodes
            .clone()
            .flat_map(|node| (0..=most[node]).map(move |blocks| (node, blocks)))
            .map(|(node, blocks)| self.block_s(node, blocks))
            .collect();
        levels.sort_by(f64::total_cmp);
        let reach = |node: usize, level_s: f64| {
            (least(node)..=most[node])
                .rev()
                .find(|blocks| self.block_s(node, *blocks) <= level_s)
        };
        let enough = |level_s: &f64| {
            let reached: Option<Vec<u32>> =
                nodes.clone().map(|node| reach(node, *level_s)).collect();
            reached.is_some_and(|reached| reached.iter().sum::<u32>() >= self.blocks)
        };
        let at = levels.partition_point(|level_s| !enough(level_s));
        let level_s = *levels.get(at)?;
        let mut given: Vec<u32> = nodes.clone().map(least).collect();
        let mut left = self.blocks.checked_sub(given.iter().sum())?;
        // The last stage first: its blocks need no way.
        for node in std::iter::once(self.head).chain(nodes.filter(|node| *node != self.head)) {
            let more = reach(node, level_s)?.saturating_sub(given[node]).min(left);
            given[node] += more;
            left -= more;
        }
        let slowest = given
            .iter()
            .enumerate()
            .map(|(node, blocks)| self.block_s(node, *blocks));
        Some((given.clone(), slowest.fold(0.0, f64::max)))
    }

    /// Blocks and lent groups beside `groups`, with the seconds that both take.
    fn complete(&self, groups: &[u32], wanted: Wanted<'_>) -> Option<(Spread, f64)> {
        let idle = |node: &usize| !self.is_stage(*node) && groups[*node] == 0;
        let idle: Vec<usize> = wanted.must.iter().copied().filter(idle).collect();
        let with = |must: &[usize]| {
            let (blocks, head_s) = self.blocks(groups, must)?;
            let left = idle.iter().copied().filter(|node| blocks[*node] == 0);
            let left: Vec<usize> = left.collect();
            let lent = lend::lend(self, groups, &left)?;
            let change_s = lend::change_s(self, groups, &lent);
            let spread = Spread {
                groups: groups.to_vec(),
                blocks,
                lent,
            };
            Some((spread, head_s + change_s))
        };
        if !wanted.lend {
            return with(wanted.must);
        }
        // Blocks for as many as there are, or groups of layers for all who get no block anyway.
        let mut near: Vec<usize> = idle
            .iter()
            .copied()
            .filter(|n| self.fits(*n, 0, 1))
            .collect();
        near.sort_by(|a, b| self.block_s(*a, 1).total_cmp(&self.block_s(*b, 1)));
        near.truncate(self.blocks as usize);
        let both = [with(&near), with(&[])];
        both.into_iter()
            .flatten()
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The spread, unless everything is where its layers are.
    pub(crate) fn moved(&self, spread: Spread) -> Option<Spread> {
        let home = |node: usize, held: u32, all: u32| held == 0 || node == self.head && held == all;
        let one = self.parts.len() == 1;
        let groups = spread.groups.iter().enumerate();
        let blocks = spread.blocks.iter().enumerate();
        let stay = groups
            .clone()
            .all(|(node, held)| one && home(node, *held, self.groups))
            && blocks
                .clone()
                .all(|(node, held)| home(node, *held, self.blocks));
        (!stay || !spread.lent.is_empty()).then_some(spread)
    }

    /// Seconds per token of a spread.
    #[cfg(test)]
    pub(crate) fn decode_s(&self, spread: &Spread) -> f64 {
        let slowest = spread
            .blocks
            .iter()
            .enumerate()
            .map(|(node, blocks)| self.block_s(node, *blocks));
        let experts_s = self.experts_s(&spread.groups, f64::INFINITY)
            + lend::change_s(self, &spread.groups, &spread.lent);
        self.fixed_s + experts_s + slowest.fold(0.0, f64::max)
    }

    /// Whether every node has room for what the spread gives it.
    #[cfg(test)]
    pub(crate) fn holds(&self, spread: &Spread) -> bool {
        let mut nodes = spread.groups.iter().zip(&spread.blocks).enumerate();
        nodes.all(|(node, (groups, blocks))| self.fits(node, *groups, *blocks))
    }

    /// The fastest spread, with its seconds per token and the layers evaluated.
    pub(crate) fn spread(&self, wanted: Wanted<'_>, evaluated: &mut u64) -> Option<(Spread, f64)> {
        let mut hunt = Hunt::new(self, wanted)?;
        hunt.greedy();
        if !(wanted.any_fit && hunt.best.is_some()) {
            if self.problem.nodes.len() <= EXACT_NODES_MAX {
                hunt.descend(0, self.groups);
            } else {
                hunt.improve();
            }
        }
        *evaluated += hunt.evaluated;
        hunt.best
    }
}

fn kinds(problem: &Problem<'_>, part: &Part) -> Vec<Kind> {
    let range = problem.layer(part.first) as usize..problem.layer(part.end) as usize;
    let mut kinds: Vec<Kind> = Vec::new();
    for layer in problem.model.layers.get(range).unwrap_or_default() {
        if layer.group_bytes.is_empty() {
            continue;
        }
        let (read, macs) = (layer.expert_bytes as f64, layer.expert_macs as f64);
        match kinds
            .iter_mut()
            .find(|kind| (kind.expert_read, kind.expert_macs) == (read, macs))
        {
            Some(kind) => kind.layers += 1.0,
            None => kinds.push(Kind {
                node: part.node,
                layers: 1.0,
                expert_read: read,
                expert_macs: macs,
            }),
        }
    }
    kinds
}

/// Which groups or blocks each node gets when it holds so many: powers of two at places that they divide, so that
/// few partial sums are needed. `held` adds up to `all`, a power of two.
pub(crate) fn places(held: &[u32], all: u32) -> Vec<Vec<u32>> {
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); held.len()];
    let mut next = 0;
    let mut size = all.max(1);
    while size > 0 {
        for (count, places) in held.iter().zip(&mut places) {
            if count & size != 0 {
                places.extend(next..next + size);
                next += size;
            }
        }
        size /= 2;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_aligned_powers_of_two() {
        assert_eq!(places(&[16], 16), [(0..16).collect::<Vec<u32>>()]);
        let held = places(&[6, 5, 5], 16);
        assert_eq!(held[0], [0, 1, 2, 3, 12, 13]);
        assert_eq!(held[1], [4, 5, 6, 7, 14]);
        assert_eq!(held[2], [8, 9, 10, 11, 15]);
        assert_eq!(places(&[0, 0], 0), vec![Vec::<u32>::new(); 2]);
    }
}

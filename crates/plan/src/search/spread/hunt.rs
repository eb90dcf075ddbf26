//! The way to the best spread of one layout.
//!
//! Owns the order in which groups are tried on nodes and the bounds that end it. Over few nodes it covers all ways, over
//! many it improves one.

use super::super::EXACT_NODES_MAX;
use super::{Kind, Layout, Spread, Wanted};

/// Layers evaluated in one hunt before it takes what it has.
const EVALUATIONS_MAX: u64 = 12_000;
/// Ways that are looked at where any that fits is enough.
const FITS_MAX: u64 = 400;
/// Layers evaluated over many nodes, for all stages together.
const EVALUATIONS_LARGE_MAX: u64 = 1_000;
/// Nodes beside those that hold something to which a group may be moved over many nodes.
const OTHERS_MAX: usize = 6;

/// The way to the best spread of one layout.
pub(super) struct Hunt<'l, 'p, 'a> {
    layout: &'l Layout<'p, 'a>,
    wanted: Wanted<'l>,
    /// Nodes in the order in which groups are handed out: stages, then by speed.
    order: Vec<usize>,
    /// Most groups of each node, by node.
    most: Vec<u32>,
    /// Most groups of the nodes from each place of the order on.
    rest: Vec<u32>,
    groups: Vec<u32>,
    /// Seconds of the head at least.
    head_s: f64,
    pub best: Option<(Spread, f64)>,
    pub evaluated: u64,
}

impl<'l, 'p, 'a> Hunt<'l, 'p, 'a> {
    /// None where the groups find no room.
    pub fn new(layout: &'l Layout<'p, 'a>, wanted: Wanted<'l>) -> Option<Self> {
        let nodes = 0..layout.problem.nodes.len();
        let none = vec![0; nodes.len()];
        let room = |node: usize| {
            (0..=layout.groups)
                .rev()
                .find(|groups| layout.fits(node, *groups, 0))
        };
        // A stage that has no room even without groups makes the layout impossible.
        let most: Vec<u32> = nodes.clone().map(room).collect::<Option<_>>()?;
        let (_, head_s) = layout.blocks(&none, &[])?;
        let mut order: Vec<usize> = nodes.collect();
        let seconds = |node: usize| match layout.kinds.first() {
            Some(kind) => layout.holder(kind, node, 1).mean_s(
                layout.experts(layout.groups),
                layout.problem.model.experts_used,
            ),
            None => 0.0,
        };
        order.sort_by(|a, b| {
            let stage = layout.is_stage(*b).cmp(&layout.is_stage(*a));
            stage.then(seconds(*a).total_cmp(&seconds(*b)))
        });
        let mut rest = vec![0u32; order.len() + 1];
        for (at, node) in order.iter().enumerate().rev() {
            rest[at] = rest[at + 1].saturating_add(most[*node]);
        }
        (rest[0] >= layout.groups).then_some(Self {
            layout,
            wanted,
            order,
            most,
            rest,
            groups: none,
            head_s,
            best: None,
            evaluated: 0,
        })
    }

    fn bar_s(&self) -> f64 {
        let known = self.best.as_ref().map_or(f64::INFINITY, |best| best.1);
        known.min(self.wanted.below_s)
    }

    /// Seconds per token at least, with the groups that are handed out.
    fn bound_s(&mut self) -> f64 {
        self.bound_below(f64::INFINITY)
    }

    /// The same; where it is not below `bar_s`, some number that is not below either.
    fn bound_below(&mut self, bar_s: f64) -> f64 {
        self.evaluated += 1;
        let beside_s = self.layout.fixed_s + self.head_s;
        beside_s + self.layout.experts_s(&self.groups, bar_s - beside_s)
    }

    /// Keeps the groups with their best head blocks if they are better than what is known.
    fn weigh(&mut self, without_head_s: f64) {
        let Some((spread, more_s)) = self.layout.complete(&self.groups, self.wanted) else {
            return;
        };
        let decode_s = without_head_s + more_s;
        if decode_s < self.bar_s() * (1.0 - 1e-12) {
            self.best = Some((spread, decode_s));
        }
    }

    /// Hands out one group after the other, each to the node that is then done first.
    pub fn greedy(&mut self) {
        let layout = self.layout;
        let all = layout.experts(layout.groups);
        for _ in 0..layout.groups {
            let seconds = |node: usize, groups: u32| -> f64 {
                let kinds = layout.kinds.iter();
                let mean = |kind: &Kind| {
                    kind.layers
                        * layout
                            .holder(kind, node, groups)
                            .mean_s(all, layout.problem.model.experts_used)
                };
                kinds.map(mean).sum()
            };
            let open = self
                .order
                .iter()
                .filter(|node| self.groups[**node] < self.most[**node]);
            let next = open.min_by(|a, b| {
                seconds(**a, self.groups[**a] + 1).total_cmp(&seconds(**b, self.groups[**b] + 1))
            });
            match next {
                Some(node) => self.groups[*node] += 1,
                None => break,
            }
        }
        let without_head_s = self.bound_s() - self.head_s;
        self.weigh(without_head_s);
        if !self.wanted.any_fit && self.layout.problem.nodes.len() > EXACT_NODES_MAX {
            return;
        }
        self.groups.fill(0);
    }

    /// Every way to hand out `left` groups from a place of the order on.
    pub fn descend(&mut self, at: usize, left: u32) {
        let (any_fit, most) = match self.wanted.any_fit {
            true => (true, FITS_MAX),
            false => (false, EVALUATIONS_MAX),
        };
        if self.evaluated > most || any_fit && self.best.is_some() {
            return;
        }
        let Some(node) = self.order.get(at).copied() else {
            let without_head_s = self.bound_s() - self.head_s;
            return self.weigh(without_head_s);
        };
        let least = left.saturating_sub(self.rest[at + 1]);
        for groups in (least..=left.min(self.most[node])).rev() {
            self.groups[node] = groups;
            let bar_s = self.bar_s() * (1.0 - 1e-12);
            if any_fit || self.bound_below(bar_s) < bar_s {
                self.descend(at + 1, left - groups);
            }
        }
        self.groups[node] = 0;
    }

    /// Moves single groups between nodes while that helps and trials are left.
    pub fn improve(&mut self) {
        // Every kind of layer is an evaluation of its own.
        let kinds = u64::try_from(self.layout.kinds.len()).unwrap_or(u64::MAX);
        let evaluations_max = EVALUATIONS_LARGE_MAX / kinds.max(1);
        let mut moved = true;
        while moved && self.evaluated < evaluations_max {
            moved = false;
            let holds = |node: &usize| self.groups[*node] > 0 || self.layout.is_stage(*node);
            let mut takers: Vec<usize> = self.order.iter().copied().filter(holds).collect();
            let others = self.order.iter().copied().filter(|node| !holds(node));
            takers.extend(others.take(OTHERS_MAX));
            for from in self.order.clone() {
                for to in takers.iter().copied().filter(|to| *to != from) {
                    if self.groups[from] == 0 || self.groups[to] >= self.most[to] {
                        continue;
                    }
                    let before = self.bar_s();
                    self.groups[from] -= 1;
                    self.groups[to] += 1;
                    let bound_s = self.bound_below(before);
                    if bound_s < before {
                        self.weigh(bound_s - self.head_s);
                    }
                    if self.bar_s() < before {
                        moved = true;
                    } else {
                        self.groups[from] += 1;
                        self.groups[to] -= 1;
                    }
                    if self.evaluated >= evaluations_max {
                        return;
                    }
                }
            }
        }
    }
}

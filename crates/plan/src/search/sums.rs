//! A request boiled down to running sums over the places where the model may be cut.
//!
//! Owns the two questions that every search asks a million times: does a range fit a node, and how long does it take.
//! The bytes are those of [`crate::memory::slice_bytes`], summed once.

use proto::facts::ModelFacts;

use crate::memory::{CacheBudget, end_bytes, layer_cache_bytes, scratch_bytes};
use crate::speed::{Links, trunk_read_bytes, work_s};
use crate::{NodeFacts, StagePlan};

use super::{CUTS_LARGE_MAX, CUTS_MAX, EXACT_NODES_MAX, Part};

/// What a token reads and multiplies.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    read: f64,
    macs: f64,
}

impl Work {
    fn since(self, before: Self) -> Self {
        Self {
            read: self.read - before.read,
            macs: self.macs - before.macs,
        }
    }

    fn seconds(self, node: &NodeFacts) -> f64 {
        work_s(node, self.read, self.macs)
    }
}

/// One budget's view of a request. Cut place 0 is before the first layer, `cuts()` is behind the last.
pub(crate) struct Problem<'a> {
    pub model: &'a ModelFacts,
    pub nodes: &'a [NodeFacts],
    pub links: Links,
    pub budget: CacheBudget,
    /// Layer at each cut place.
    layers: Vec<u32>,
    /// Weights and caches before each cut place.
    bytes: Vec<u64>,
    /// Weights of trunks and caches before each cut place.
    trunk_bytes: Vec<u64>,
    /// What a token costs in the trunks before each cut place.
    trunk: Vec<Work>,
    /// The same in the experts that it uses.
    experts: Vec<Work>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        model: &'a ModelFacts,
        nodes: &'a [NodeFacts],
        links: Links,
        budget: CacheBudget,
    ) -> Self {
        let cuts_max = if nodes.len() <= EXACT_NODES_MAX {
            CUTS_MAX
        } else {
            CUTS_LARGE_MAX
        };
        let every = model.layers.len().div_ceil(cuts_max).max(1);
        let mut problem = Self {
            model,
            nodes,
            links,
            budget,
            layers: vec![0],
            bytes: vec![0],
            trunk_bytes: vec![0],
            trunk: vec![Work::default()],
            experts: vec![Work::default()],
        };
        let (mut bytes, mut trunk_bytes) = (0u64, 0u64);
        let (mut trunk, mut experts) = (Work::default(), Work::default());
        let used = f64::from(model.experts_used);
        for (at, layer) in model.layers.iter().enumerate() {
            let cache = layer_cache_bytes(layer, &budget);
            bytes = bytes.saturating_add(layer.bytes()).saturating_add(cache);
            trunk_bytes = trunk_bytes
                .saturating_add(layer.trunk_bytes)
                .saturating_add(cache);
            trunk.read += trunk_read_bytes(model, layer, budget.kv);
            trunk.macs += layer.trunk_macs as f64;
            experts.read += used * layer.expert_bytes as f64;
            experts.macs += used * layer.expert_macs as f64;
            if (at + 1) % every == 0 || at + 1 == model.layers.len() {
                problem
                    .layers
                    .push(u32::try_from(at + 1).unwrap_or(u32::MAX));
                problem.bytes.push(bytes);
                problem.trunk_bytes.push(trunk_bytes);
                problem.trunk.push(trunk);
                problem.experts.push(experts);
            }
        }
        problem
    }

    /// The same problem over some of its nodes: `nodes` are those with the indices `chosen`.
    pub(crate) fn over<'n>(&self, nodes: &'n [NodeFacts], chosen: &[usize]) -> Problem<'n>
    where
        'a: 'n,
    {
        Problem {
            model: self.model,
            nodes,
            links: self.links.over(chosen),
            budget: self.budget,
            layers: self.layers.clone(),
            bytes: self.bytes.clone(),
            trunk_bytes: self.trunk_bytes.clone(),
            trunk: self.trunk.clone(),
            experts: self.experts.clone(),
        }
    }

    /// The same problem where every expert is elsewhere: neither memory nor time is counted for them.
    pub(super) fn trunks(&self) -> Problem<'a> {
        let everyone: Vec<usize> = (0..self.nodes.len()).collect();
        Problem {
            model: self.model,
            nodes: self.nodes,
            links: self.links.over(&everyone),
            budget: self.budget,
            layers: self.layers.clone(),
            bytes: self.trunk_bytes.clone(),
            trunk_bytes: self.trunk_bytes.clone(),
            trunk: self.trunk.clone(),
            experts: vec![Work::default(); self.experts.len()],
        }
    }

    /// The same problem over other links.
    pub(crate) fn with_links(&self, links: Links) -> Problem<'a> {
        Problem {
            links,
            bytes: self.bytes.clone(),
            experts: self.experts.clone(),
            ..self.trunks()
        }
    }

    /// The same problem with a second node like `like`, wired to all others. `nodes` are all of them, the new one last.
    pub(crate) fn with_one_more<'n>(&self, nodes: &'n [NodeFacts], like: usize) -> Problem<'n>
    where
        'a: 'n,
    {
        let chosen: Vec<usize> = (0..self.nodes.len()).chain([like]).collect();
        let mut grown = self.over(nodes, &chosen);
        grown.links.wire_last();
        grown
    }

    /// Seconds per token of the trunks of all stages of a plan.
    pub(crate) fn trunks_s(&self, plan: &crate::Plan) -> f64 {
        let stages = plan.stages.iter().filter_map(|stage| {
            let node = self.nodes.iter().position(|node| node.id == stage.node)?;
            let cut = |layer: u32| self.layers.iter().position(|at| *at == layer);
            Some(self.trunk_s(node, cut(stage.first_layer)?, cut(stage.end_layer)?))
        });
        stages.sum()
    }

    /// The last cut place.
    pub(crate) fn cuts(&self) -> usize {
        self.layers.len() - 1
    }

    /// The layer at a cut place.
    pub(crate) fn layer(&self, cut: usize) -> u32 {
        self.layers[cut]
    }

    /// Bytes of a stage, with the ends of the model where it has them.
    pub(crate) fn stage_bytes(&self, first: usize, end: usize) -> u64 {
        let head = end == self.cuts();
        (self.bytes[end] - self.bytes[first])
            .saturating_add(end_bytes(self.model, first == 0, head))
            .saturating_add(scratch_bytes(self.model, &self.budget, head))
    }

    /// Whether a stage fits a node.
    pub(crate) fn fits(&self, node: usize, first: usize, end: usize) -> bool {
        self.stage_bytes(first, end) <= self.nodes[node].memory_bytes
    }

    /// The least bytes that any stage takes.
    pub(crate) fn least_stage_bytes(&self) -> u64 {
        (0..self.cuts())
            .map(|at| self.stage_bytes(at, at + 1))
            .min()
            .unwrap_or(0)
    }

    /// Seconds per token of a stage.
    pub(crate) fn stage_s(&self, node: usize, first: usize, end: usize) -> f64 {
        let facts = &self.nodes[node];
        let mut seconds = self.trunk_s(node, first, end)
            + self.experts[end].since(self.experts[first]).seconds(facts);
        if end == self.cuts() {
            seconds += work_s(
                facts,
                self.model.head_bytes as f64,
                self.model.head_macs as f64,
            );
        }
        seconds
    }

    /// Seconds per token of the trunks of a range.
    pub(crate) fn trunk_s(&self, node: usize, first: usize, end: usize) -> f64 {
        let work = self.trunk[end].since(self.trunk[first]);
        work.seconds(&self.nodes[node])
    }

    /// Seconds for one row from one node to another.
    pub(crate) fn hop_s(&self, from: usize, to: usize) -> f64 {
        self.links.rows_s(from, to, 1.0)
    }

    /// The parts as stages of a plan; their bytes are still to be counted.
    pub(crate) fn stages(&self, parts: &[Part]) -> Vec<StagePlan> {
        let mut stages: Vec<StagePlan> = Vec::with_capacity(parts.len());
        for part in parts {
            let node = &self.nodes[part.node];
            let stage = StagePlan {
                node: node.id.clone(),
                name: node.name.clone(),
                first_layer: self.layer(part.first),
                end_layer: self.layer(part.end),
                embedding: part.first == 0,
                head: part.end == self.cuts(),
                weight_bytes: 0,
                cache_bytes: 0,
                scratch_bytes: 0,
                allowance_bytes: node.memory_bytes,
            };
            stages.push(stage);
        }
        stages
    }
}

/// The part of the model that finds no room when the nodes are filled one after another as far as they go: bytes that one
/// more node would have to offer. Over few nodes all orders are tried. Never grows when a node offers more.
pub(crate) fn unplaced_bytes(problem: &Problem<'_>) -> u64 {
    let count = problem.nodes.len();
    let reached = if count <= EXACT_NODES_MAX {
        let mut furthest = vec![0usize; 1 << count];
        for set in 1..furthest.len() {
            furthest[set] = (0..count)
                .filter(|node| set & (1 << node) != 0)
                .map(|node| extend(problem, node, furthest[set & !(1 << node)]))
                .max()
                .unwrap_or(0);
        }
        furthest[furthest.len() - 1]
    } else {
        (0..count).fold(0, |at, node| extend(problem, node, at))
    };
    let end = problem.cuts();
    problem.stage_bytes(reached.min(end - 1), end)
}

/// The last cut place before the head that `node` reaches from `first`.
fn extend(problem: &Problem<'_>, node: usize, first: usize) -> usize {
    let mut end = first;
    while end + 1 < problem.cuts() && problem.fits(node, first, end + 1) {
        end += 1;
    }
    end
}

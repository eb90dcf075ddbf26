//! A request boiled down to running sums over the places where the model may be cut.
//!
//! Owns the two questions that every search asks a million times: does a range fit a node, and how long does it take.
//! The bytes are those of [`crate::memory::slice_bytes`], summed once.

use proto::facts::ModelFacts;

use crate::memory::{CacheBudget, end_bytes, layer_cache_bytes, scratch_bytes};
use crate::speed::{Links, layer_macs, layer_read_bytes, work_s};
use crate::{LinkFacts, NodeFacts, StagePlan};

use super::{CUTS_LARGE_MAX, CUTS_MAX, EXACT_NODES_MAX, Part};

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
    /// Bytes read per token before each cut place.
    read: Vec<f64>,
    /// Multiply-adds per token before each cut place.
    macs: Vec<f64>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        model: &'a ModelFacts,
        nodes: &'a [NodeFacts],
        links: &[LinkFacts],
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
            links: Links::new(model, nodes, links),
            budget,
            layers: vec![0],
            bytes: vec![0],
            read: vec![0.0],
            macs: vec![0.0],
        };
        let (mut bytes, mut read, mut macs) = (0u64, 0.0, 0.0);
        for (at, layer) in model.layers.iter().enumerate() {
            let cache = layer_cache_bytes(layer, &budget);
            bytes = bytes.saturating_add(layer.bytes()).saturating_add(cache);
            read += layer_read_bytes(model, layer, budget.kv);
            macs += layer_macs(model, layer);
            if (at + 1) % every == 0 || at + 1 == model.layers.len() {
                problem
                    .layers
                    .push(u32::try_from(at + 1).unwrap_or(u32::MAX));
                problem.bytes.push(bytes);
                problem.read.push(read);
                problem.macs.push(macs);
            }
        }
        problem
    }

    /// The same problem over some of its nodes: `nodes` are those with the indices `chosen`.
    pub(super) fn over<'n>(&self, nodes: &'n [NodeFacts], chosen: &[usize]) -> Problem<'n>
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
            read: self.read.clone(),
            macs: self.macs.clone(),
        }
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
        let mut read = self.read[end] - self.read[first];
        let mut macs = self.macs[end] - self.macs[first];
        if end == self.cuts() {
            read += self.model.head_bytes as f64;
            macs += self.model.head_macs as f64;
        }
        work_s(&self.nodes[node], read, macs)
    }

    /// Seconds for one row from one node to another.
    pub(crate) fn hop_s(&self, from: usize, to: usize) -> f64 {
        self.links.rows_s(from, to, 1.0)
    }

    /// The parts as stages of a plan, with the bytes that they take.
    pub(crate) fn stages(&self, parts: &[Part]) -> Vec<StagePlan> {
        let mut stages: Vec<StagePlan> = Vec::with_capacity(parts.len());
        for part in parts {
            let node = &self.nodes[part.node];
            let mut stage = StagePlan {
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
            if let Ok(bytes) = crate::slice_bytes(self.model, &stage.span(), &self.budget) {
                stage.weight_bytes = bytes.weight_bytes;
                stage.cache_bytes = bytes.cache_bytes;
                stage.scratch_bytes = bytes.scratch_bytes;
            }
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

//! The speed model: seconds per generated token and per prompt token of a split.
//!
//! Owns the formulas with which plans are compared and predictions printed. It must never look at a clock: everything
//! follows from measured facts.
//!
//! - **Decode**: the stages of one conversation work one after another. A stage takes the longer of reading its bytes and
//!   doing its multiply-adds. Bytes read are the trunk, the used experts only, the state twice (read and written), the
//!   attention cache of [`DECODE_POSITIONS`] positions, and on the last stage the head. Between stages goes one row; with
//!   more than one stage the token goes from the last stage back to the first.
//! - **A hop** takes half the round trip, its bytes at the link's speed, and [`HOP_SOFTWARE_S`].
//! - **Prefill**: chunks follow each other through the stages like through a pipe. The first passes them all, each other
//!   one adds the time of the slowest stage. A chunk reads each expert that at least one of its rows is expected to use.

use proto::NodeId;
use proto::facts::{LayerFacts, ModelFacts};

use crate::memory::CacheBudget;
use crate::{KvType, LinkFacts, NodeFacts, Prediction, StagePlan};

/// Software's share of a hop, in seconds.
pub const HOP_SOFTWARE_S: f64 = 150e-6;
/// Round-trip time of a link that nobody measured, in seconds: wired gigabit.
pub const DEFAULT_RTT_S: f64 = 0.5e-3;
/// Bytes per second of a link that nobody measured: wired gigabit.
pub const DEFAULT_LINK_BYTES_PER_S: f64 = 117e6;
/// Bytes per second of a node that nobody measured.
pub const DEFAULT_READ_BYTES_PER_S: f64 = 20e9;
/// Multiply-adds per second of a node that nobody measured.
pub const DEFAULT_MACS_PER_S: f64 = 20e9;
/// Positions in the attention cache that decode is predicted for.
pub const DECODE_POSITIONS: u64 = 1024;
/// Prompt tokens that prefill is predicted for.
const PREFILL_TOKENS: f64 = 1000.0;

/// Bytes that one token reads (and writes) of a layer.
pub(crate) fn layer_read_bytes(model: &ModelFacts, layer: &LayerFacts, kv: KvType) -> f64 {
    let cache =
        kv.bytes(layer.kv_values_per_position) * DECODE_POSITIONS.min(u64::from(model.context));
    let experts = f64::from(model.experts_used) * layer.expert_bytes as f64;
    layer.trunk_bytes as f64 + experts + 2.0 * layer.state_bytes_per_sequence as f64 + cache as f64
}

/// Multiply-adds of one row in a layer.
pub(crate) fn layer_macs(model: &ModelFacts, layer: &LayerFacts) -> f64 {
    layer.trunk_macs as f64 + f64::from(model.experts_used) * layer.expert_macs as f64
}

/// Seconds that a node takes for so many bytes and multiply-adds.
pub(crate) fn work_s(node: &NodeFacts, read_bytes: f64, macs: f64) -> f64 {
    (read_bytes / node.read_bytes_per_s).max(macs / node.macs_per_s)
}

/// What a hop costs between any two of the nodes.
pub(crate) struct Links {
    nodes: usize,
    rtt_s: Vec<f64>,
    bytes_per_s: Vec<f64>,
    row_bytes: f64,
}

impl Links {
    /// Fills the table: measured, else the other direction, else gigabit. Links of unknown nodes are ignored; where a
    /// pair was given twice, the slower figure counts, so that the order of the list does not matter.
    pub(crate) fn new(model: &ModelFacts, nodes: &[NodeFacts], links: &[LinkFacts]) -> Self {
        let count = nodes.len();
        let mut measured = vec![None; count * count];
        for link in links {
            let at = |id: &NodeId| nodes.iter().position(|node| node.id == *id);
            if let (Some(from), Some(to)) = (at(&link.from), at(&link.to)) {
                let (rtt, speed) =
                    measured[from * count + to].unwrap_or((link.rtt_s, link.bytes_per_s));
                measured[from * count + to] =
                    Some((rtt.max(link.rtt_s), speed.min(link.bytes_per_s)));
            }
        }
        let pick = |from: usize, to: usize| {
            let there = measured[from * count + to];
            there
                .or(measured[to * count + from])
                .unwrap_or((DEFAULT_RTT_S, DEFAULT_LINK_BYTES_PER_S))
        };
        let picked: Vec<(f64, f64)> = (0..count * count)
            .map(|at| pick(at / count, at % count))
            .collect();
        Self {
            nodes: count,
            rtt_s: picked.iter().map(|link| link.0).collect(),
            bytes_per_s: picked.iter().map(|link| link.1).collect(),
            row_bytes: f64::from(model.hidden) * 4.0,
        }
    }

    /// The table of some of the nodes.
    pub(crate) fn over(&self, chosen: &[usize]) -> Self {
        let pairs = || {
            let row = |from: &usize| from * self.nodes;
            chosen
                .iter()
                .flat_map(move |from| chosen.iter().map(move |to| row(from) + to))
        };
        Self {
            nodes: chosen.len(),
            rtt_s: pairs().map(|at| self.rtt_s[at]).collect(),
            bytes_per_s: pairs().map(|at| self.bytes_per_s[at]).collect(),
            row_bytes: self.row_bytes,
        }
    }

    /// Seconds for `rows` rows from one node to another.
    pub(crate) fn rows_s(&self, from: usize, to: usize, rows: f64) -> f64 {
        let at = from * self.nodes + to;
        self.rtt_s[at] / 2.0 + rows * self.row_bytes / self.bytes_per_s[at] + HOP_SOFTWARE_S
    }

    /// Seconds for the token that the last stage sends to the first; nothing where they are one.
    pub(crate) fn token_s(&self, last: usize, first: usize) -> f64 {
        if last == first {
            0.0
        } else {
            self.rtt_s[last * self.nodes + first] / 2.0 + HOP_SOFTWARE_S
        }
    }
}

/// Bytes that a chunk of `rows` rows reads of a layer: every expert that is expected to be used once.
fn chunk_read_bytes(model: &ModelFacts, layer: &LayerFacts, rows: f64) -> f64 {
    let experts = f64::from(model.experts.max(1));
    let missed = (1.0 - f64::from(model.experts_used) / experts).powf(rows);
    layer.trunk_bytes as f64 + experts * (1.0 - missed) * layer.expert_bytes as f64
}

/// Predicts the speed of `stages`. A stage whose node is not among `nodes`, or whose range is outside the model, counts
/// nothing: such plans are refused by [`crate::check`] before anybody asks for their speed.
#[must_use]
pub fn predict(
    model: &ModelFacts,
    stages: &[StagePlan],
    budget: &CacheBudget,
    nodes: &[NodeFacts],
    links: &[LinkFacts],
) -> Prediction {
    let table = Links::new(model, nodes, links);
    let rows = f64::from(budget.chunk_rows).clamp(1.0, PREFILL_TOKENS);
    let mut places = Vec::with_capacity(stages.len());
    let mut decode = Vec::with_capacity(stages.len());
    let mut chunk = Vec::with_capacity(stages.len());
    for stage in stages {
        let Some(at) = nodes.iter().position(|node| node.id == stage.node) else {
            continue;
        };
        let range = stage.first_layer as usize..stage.end_layer as usize;
        let layers = model.layers.get(range).unwrap_or(&[]);
        let sum = |of: &dyn Fn(&LayerFacts) -> f64| layers.iter().map(of).sum::<f64>();
        let mut read = sum(&|layer| layer_read_bytes(model, layer, budget.kv));
        let mut macs = sum(&|layer| layer_macs(model, layer));
        let chunk_bytes = sum(&|layer| chunk_read_bytes(model, layer, rows));
        chunk.push(work_s(&nodes[at], chunk_bytes, rows * macs));
        if stage.head {
            read += model.head_bytes as f64;
            macs += model.head_macs as f64;
        }
        decode.push(work_s(&nodes[at], read, macs));
        places.push(at);
    }
    let hops = |rows: f64| -> f64 {
        places
            .windows(2)
            .map(|pair| table.rows_s(pair[0], pair[1], rows))
            .sum()
    };
    let back = match (places.last(), places.first()) {
        (Some(last), Some(first)) => table.token_s(*last, *first),
        _ => 0.0,
    };
    let hops_s = hops(1.0) + back;
    let decode_s = decode.iter().sum::<f64>() + hops_s;
    let slowest = chunk.iter().copied().fold(0.0, f64::max);
    let later_chunks = PREFILL_TOKENS / rows - 1.0;
    Prediction {
        decode_s_per_token: decode_s,
        decode_tokens_per_s: if decode_s > 0.0 { 1.0 / decode_s } else { 0.0 },
        hops_s_per_token: hops_s,
        prefill_s_per_1k_tokens: chunk.iter().sum::<f64>() + hops(rows) + later_chunks * slowest,
        stage_s_per_token: decode,
    }
}

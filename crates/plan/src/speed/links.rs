//! What it costs to send something between two nodes.

use proto::NodeId;
use proto::facts::ModelFacts;

use super::{DEFAULT_LINK_BYTES_PER_S, DEFAULT_RTT_S, EXCHANGE_SOFTWARE_S, HOP_SOFTWARE_S};
use crate::{LinkFacts, NodeFacts};

/// Bytes of a row of 256 values as quantised experts consume it.
const QUANTISED_BYTES_PER_256: f64 = 292.0;
const VALUE_BYTES: f64 = 4.0;

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
struct Way {
    rtt_s: f64,
    bytes_per_s: f64,
}

const WIRE: Way = Way {
    rtt_s: DEFAULT_RTT_S,
    bytes_per_s: DEFAULT_LINK_BYTES_PER_S,
};

/// What is sent between any two of the nodes, and between each and the coordinator, costs.
pub(crate) struct Links {
    nodes: usize,
    ways: Vec<Way>,
    /// To and from the coordinator, by node; the seconds are 0 where it is on the same machine or not known.
    coordinator: Vec<f64>,
    row_bytes: f64,
    acts_bytes: f64,
}

/// The ways between `ends`: measured, else the other direction, else gigabit. Where a pair was given twice, the slower
/// figure counts, so that the order of the list does not matter.
fn table(ends: &[&NodeId], links: &[LinkFacts]) -> Vec<(Way, bool)> {
    let count = ends.len();
    let mut measured: Vec<Option<Way>> = vec![None; count * count];
    for link in links {
        let at = |id: &NodeId| ends.iter().position(|end| *end == id);
        if let (Some(from), Some(to)) = (at(&link.from), at(&link.to)) {
            let known = &mut measured[from * count + to];
            let before = known.unwrap_or(Way {
                rtt_s: link.rtt_s,
                bytes_per_s: link.bytes_per_s,
            });
            *known = Some(Way {
                rtt_s: before.rtt_s.max(link.rtt_s),
                bytes_per_s: before.bytes_per_s.min(link.bytes_per_s),
            });
        }
    }
    let pick = |at: usize| {
        let (from, to) = (at / count, at % count);
        let way = measured[at].or(measured[to * count + from]);
        (way.unwrap_or(WIRE), way.is_some())
    };
    (0..count * count).map(pick).collect()
}

impl Links {
    /// Fills the table. Links of unknown nodes are ignored.
    pub(crate) fn new(
        model: &ModelFacts,
        nodes: &[NodeFacts],
        links: &[LinkFacts],
        coordinator: Option<&NodeId>,
    ) -> Self {
        let ids: Vec<&NodeId> = nodes.iter().map(|node| &node.id).collect();
        let ways = table(&ids, links).into_iter().map(|(way, _)| way).collect();
        let half_s = |node: &&NodeId| {
            let Some(coordinator) = coordinator else {
                return 0.0;
            };
            match table(&[*node, coordinator], links).get(1) {
                Some((way, true)) => way.rtt_s / 2.0 + HOP_SOFTWARE_S,
                _ => 0.0,
            }
        };
        let values = f64::from(model.hidden);
        Self {
            nodes: nodes.len(),
            ways,
            coordinator: ids.iter().map(half_s).collect(),
            row_bytes: values * VALUE_BYTES,
            acts_bytes: if model.quantised {
                values / 256.0 * QUANTISED_BYTES_PER_256
            } else {
                values * VALUE_BYTES
            },
        }
    }

    /// The table of some of the nodes.
    pub(crate) fn over(&self, chosen: &[usize]) -> Self {
        let pair = |from: &usize, to: &usize| self.ways[from * self.nodes + to];
        let ways = chosen
            .iter()
            .flat_map(|from| chosen.iter().map(move |to| pair(from, to)));
        Self {
            nodes: chosen.len(),
            ways: ways.collect(),
            coordinator: chosen.iter().map(|node| self.coordinator[*node]).collect(),
            ..*self
        }
    }

    /// Whether a way between two of the nodes is much slower than a wire with these figures.
    pub(crate) fn slower_than(&self, rtt_s: f64, bytes_per_s: f64) -> bool {
        let others = (0..self.ways.len()).filter(|at| at / self.nodes != at % self.nodes);
        let mut ways = others.map(|at| self.ways[at]);
        ways.any(|way| way.rtt_s > 1.5 * rtt_s || way.bytes_per_s < bytes_per_s / 1.5)
    }

    /// The table where no way is slower than a wire with these figures.
    pub(crate) fn at_least(&self, rtt_s: f64, bytes_per_s: f64) -> Self {
        let ways = self.ways.iter().map(|way| Way {
            rtt_s: way.rtt_s.min(rtt_s),
            bytes_per_s: way.bytes_per_s.max(bytes_per_s),
        });
        Self {
            ways: ways.collect(),
            coordinator: self.coordinator.clone(),
            ..*self
        }
    }

    /// Takes the last node's ways for a gigabit wire.
    pub(crate) fn wire_last(&mut self) {
        let last = self.nodes.saturating_sub(1);
        for at in 0..self.nodes {
            self.ways[at * self.nodes + last] = WIRE;
            self.ways[last * self.nodes + at] = WIRE;
        }
    }

    fn way(&self, from: usize, to: usize) -> Way {
        self.ways[from * self.nodes + to]
    }

    fn there_and_back_s(&self, (from, to): (usize, usize), out_bytes: f64, back_bytes: f64) -> f64 {
        let (out, back) = (self.way(from, to), self.way(to, from));
        let ways = out.rtt_s / 2.0 + back.rtt_s / 2.0;
        ways + out_bytes / out.bytes_per_s + back_bytes / back.bytes_per_s + EXCHANGE_SOFTWARE_S
    }

    /// Seconds for `rows` rows from one node to another.
    pub(crate) fn rows_s(&self, from: usize, to: usize, rows: f64) -> f64 {
        let way = self.way(from, to);
        way.rtt_s / 2.0 + rows * self.row_bytes / way.bytes_per_s + HOP_SOFTWARE_S
    }

    /// Seconds for the token's way from the last stage over the coordinator to the first stage; where the coordinator's
    /// links are not known, from the last stage to the first, and nothing where they are one.
    pub(crate) fn token_s(&self, last: usize, first: usize) -> f64 {
        let over = self.coordinator[last] + self.coordinator[first];
        if over > 0.0 {
            over
        } else if last == first {
            0.0
        } else {
            self.way(last, first).rtt_s / 2.0 + HOP_SOFTWARE_S
        }
    }

    /// Seconds to ask `to` for the experts of `rows` rows and to have `partials` sums a row back, its work apart.
    pub(crate) fn experts_s(&self, from: usize, to: usize, (rows, partials): (f64, u32)) -> f64 {
        let back = rows * f64::from(partials) * self.row_bytes;
        self.there_and_back_s((from, to), rows * self.acts_bytes, back)
    }

    /// Seconds to ask `to` for `logits` rows of the head and to have them back, its work apart.
    pub(crate) fn head_s(&self, from: usize, to: usize, logits: f64) -> f64 {
        self.there_and_back_s((from, to), self.row_bytes, logits * VALUE_BYTES)
    }
}

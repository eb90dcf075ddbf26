//! The predicted speed of a whole plan, wherever its groups and head blocks are.

use proto::GroupSet;
use proto::facts::{LayerFacts, group_experts};

use super::{
    DECODE_POSITIONS, Holder, Links, PREFILL_TOKENS, UNPACK_ROWS, chunk_rows, expected_s, touched,
    trunk_read_bytes, work_s,
};
use crate::memory::{head_row_bytes, head_rows};
use crate::parts::Part;
use crate::{NodeFacts, Plan, PlanRequest, Prediction};

/// What is predicted from: the plan's parts with the places of their nodes.
struct Parts<'r> {
    request: &'r PlanRequest,
    links: Links,
    /// (place of the node, part); parts whose node is not here are left out.
    parts: Vec<(usize, Part)>,
    kv: crate::KvType,
}

/// Predicts the speed of `plan` on the nodes and links of `request`. A part whose node is not among the nodes, or whose
/// range is outside the model, counts nothing: such plans are refused by [`crate::check`] before anybody asks for
/// their speed.
#[must_use]
pub fn predict(plan: &Plan, request: &PlanRequest) -> Prediction {
    let model = &request.model;
    let place = |part: Part| {
        let at = request.nodes.iter().position(|node| node.id == part.node)?;
        Some((at, part))
    };
    let all = Parts {
        request,
        links: Links::new(
            model,
            &request.nodes,
            &request.links,
            request.coordinator.as_ref(),
        ),
        parts: plan.parts(model).into_iter().filter_map(place).collect(),
        kv: plan.kv,
    };
    let stages: Vec<&(usize, Part)> = all
        .parts
        .iter()
        .filter(|(_, part)| part.stage.is_some())
        .collect();
    let mut decode: Vec<f64> = stages.iter().map(|stage| all.decode_s(stage)).collect();
    if let (Some(last), Some(seconds)) = (stages.last(), decode.last_mut()) {
        *seconds += all.head_s(last.0);
    }
    let rows = chunk_rows(&plan.budget());
    let chunk: Vec<f64> = stages
        .iter()
        .map(|stage| all.chunk_s(stage, rows))
        .collect();
    let hops = |rows: f64| -> f64 {
        let pairs = stages.windows(2);
        pairs
            .map(|pair| all.links.rows_s(pair[0].0, pair[1].0, rows))
            .sum()
    };
    let back = match (stages.last(), stages.first()) {
        (Some(last), Some(first)) => all.links.token_s(last.0, first.0),
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
        positions: u32::try_from(DECODE_POSITIONS.min(u64::from(model.context))).unwrap_or(0),
    }
}

impl Parts<'_> {
    fn node(&self, at: usize) -> &NodeFacts {
        &self.request.nodes[at]
    }

    fn layers(&self, part: &Part) -> impl Iterator<Item = (u32, &LayerFacts)> {
        let span = part.holding.span;
        let runs = move |at: u32| span.is_some_and(|s| (s.first_layer..s.end_layer).contains(&at));
        (0u32..)
            .zip(&self.request.model.layers)
            .filter(move |(at, _)| runs(*at))
    }

    /// Who holds experts of a layer: place, set, number of experts.
    fn holders(&self, layer: u32) -> Vec<(usize, GroupSet, u32)> {
        let held = self.parts.iter().filter_map(|(at, part)| {
            let set = part.holding.groups.get(&layer).copied()?;
            let experts = set
                .iter()
                .map(|group| group_experts(self.request.model.experts, group).len());
            let experts = u32::try_from(experts.sum::<usize>()).unwrap_or(u32::MAX);
            (experts > 0).then_some((*at, set, experts))
        });
        held.collect()
    }

    /// Seconds per token of a stage without the head.
    fn decode_s(&self, (stage, part): &(usize, Part)) -> f64 {
        let model = &self.request.model;
        let (mut read, mut macs, mut experts_s) = (0.0, 0.0, 0.0);
        let (mut own_read, mut own_macs) = (0.0, 0.0);
        let mut known: Vec<(Vec<Holder>, f64)> = Vec::new();
        for (at, layer) in self.layers(part) {
            read += trunk_read_bytes(model, layer, self.kv);
            macs += layer.trunk_macs as f64;
            let held = self.holders(at);
            if held.iter().all(|(node, ..)| node == stage) {
                own_read += f64::from(model.experts_used) * layer.expert_bytes as f64;
                own_macs += f64::from(model.experts_used) * layer.expert_macs as f64;
                continue;
            }
            let holders: Vec<Holder> = held
                .iter()
                .map(|(node, set, experts)| Holder {
                    experts: *experts,
                    fixed_s: if node == stage {
                        0.0
                    } else {
                        self.links
                            .experts_s(*stage, *node, (1.0, set.len().count_ones()))
                    },
                    expert_s: work_s(
                        self.node(*node),
                        layer.expert_bytes as f64,
                        layer.expert_macs as f64,
                    ),
                })
                .collect();
            // Most layers are alike.
            experts_s += match known.iter().find(|(before, _)| *before == holders) {
                Some((_, seconds)) => *seconds,
                None => {
                    let seconds = expected_s(&holders, model.experts_used);
                    known.push((holders, seconds));
                    seconds
                }
            };
        }
        let own = self.node(*stage);
        work_s(own, read, macs) + work_s(own, own_read, own_macs) + experts_s
    }

    /// Seconds per token of the head, which is done when its slowest holder is.
    fn head_s(&self, last: usize) -> f64 {
        let model = &self.request.model;
        let seconds = self.parts.iter().map(|(at, part)| {
            let rows = head_rows(model, part.holding.head_blocks) as f64;
            let share = rows / f64::from(model.vocab.max(1));
            if rows == 0.0 {
                0.0
            } else if *at == last {
                let away = (1.0 - share) * f64::from(model.vocab) * head_row_bytes(model) as f64;
                let read = (model.head_bytes as f64 - away).max(0.0);
                work_s(self.node(*at), read, share * model.head_macs as f64)
            } else {
                let read = rows * head_row_bytes(model) as f64;
                let work = work_s(self.node(*at), read, share * model.head_macs as f64);
                work + self.links.head_s(last, *at, rows)
            }
        });
        seconds.fold(0.0, f64::max)
    }

    /// Seconds of a chunk of `rows` rows in a stage.
    fn chunk_s(&self, (stage, part): &(usize, Part), rows: f64) -> f64 {
        let model = &self.request.model;
        let (mut read, mut macs, mut experts_s) = (0.0, 0.0, 0.0);
        for (at, layer) in self.layers(part) {
            read += layer.trunk_bytes as f64;
            macs += (rows + UNPACK_ROWS) * layer.trunk_macs as f64;
            let held = self.holders(at);
            let together = held.iter().all(|(node, ..)| node == stage);
            let mut slowest = 0.0f64;
            for (node, set, experts) in held {
                let share = f64::from(experts) / f64::from(model.experts.max(1));
                let used = touched(model, f64::from(experts), rows);
                let bytes = used * layer.expert_bytes as f64;
                let pairs = rows * f64::from(model.experts_used) * share + used * UNPACK_ROWS;
                let pairs_macs = pairs * layer.expert_macs as f64;
                if together {
                    read += bytes;
                    macs += pairs_macs;
                    continue;
                }
                let way = if node == *stage {
                    0.0
                } else {
                    self.links
                        .experts_s(*stage, node, (rows, set.len().count_ones()))
                };
                slowest = slowest.max(way + work_s(self.node(node), bytes, pairs_macs));
            }
            experts_s += slowest;
        }
        work_s(self.node(*stage), read, macs) + experts_s
    }
}

//! A plan in plain language.
//!
//! Owns the sentences: why so many nodes, what limits the speed, what was lowered, who was left out. Each states facts
//! that the search or the memory model computed; none is a guess.

use crate::search::{EXACT_NODES_MAX, Found, Placement, Problem};
use crate::size::size_text;
use crate::{LeftOut, Plan, PlanMode};

/// What the sentences are made from.
pub(crate) struct Facts<'f> {
    /// The request with room for one sequence.
    pub base: &'f Problem<'f>,
    pub plan: &'f Plan,
    pub found: &'f Found,
    /// The fastest single node that holds everything.
    pub alone: Option<&'f Placement>,
    pub mode: PlanMode,
    pub context_wanted: u32,
    pub sequences_wanted: u32,
}

fn rate(seconds: f64) -> String {
    let rate = if seconds > 0.0 { 1.0 / seconds } else { 0.0 };
    if rate < 9.95 {
        format!("{rate:.2} tokens/s")
    } else {
        format!("{rate:.1} tokens/s")
    }
}

/// All sentences of a plan, the most important first.
pub(crate) fn explain(facts: &Facts<'_>) -> Vec<String> {
    let mut reasons = vec![why_these_nodes(facts)];
    reasons.extend(what_limits(facts));
    reasons.extend(what_was_lowered(facts));
    reasons.extend(about_ends(facts));
    reasons
}

fn why_these_nodes(facts: &Facts<'_>) -> String {
    let plan = facts.plan;
    let now = rate(plan.prediction.decode_s_per_token);
    if plan.stages.len() == 1 {
        let name = &plan.stages[0].name;
        return match &facts.found.best_split {
            None => format!("'{name}' runs the whole model alone."),
            Some(split) => format!(
                "One machine alone is faster: '{name}' reaches {now}; the best split over {} machines would reach {}.",
                split.parts.len(),
                rate(split.decode_s)
            ),
        };
    }
    let count = plan.stages.len();
    let Some(alone) = facts.alone else {
        let nodes = facts.base.nodes.iter();
        let largest = nodes.map(|node| node.memory_bytes).max().unwrap_or(0);
        return format!(
            "{count} machines share the model, because none holds it alone: with the caches of one conversation it takes {}, and the largest allowance is {}.",
            size_text(facts.base.stage_bytes(0, facts.base.cuts())),
            size_text(largest)
        );
    };
    let name = &facts.base.nodes[alone.parts[0].node].name;
    let single = rate(alone.decode_s);
    if facts.mode == PlanMode::Layers && alone.decode_s < plan.prediction.decode_s_per_token {
        return format!(
            "One machine alone would be faster for one conversation: '{name}' would reach {single}, these {count} reach {now}. All are used because the plan asks for every node."
        );
    }
    format!(
        "{count} machines share the model: one conversation runs at {now} (on '{name}' alone at {single}), and there is room for {} conversations at once.",
        plan.slots
    )
}

fn what_limits(facts: &Facts<'_>) -> Vec<String> {
    let prediction = &facts.plan.prediction;
    let whole = prediction.decode_s_per_token;
    if facts.plan.stages.len() < 2 || whole <= 0.0 {
        return Vec::new();
    }
    let percent = |part: f64| format!("{:.0} %", 100.0 * part / whole);
    let stages = facts.plan.stages.iter().zip(&prediction.stage_s_per_token);
    let slowest = stages.max_by(|a, b| a.1.total_cmp(b.1));
    let mut reasons = Vec::new();
    if let Some((stage, seconds)) = slowest {
        reasons.push(format!(
            "Of a token's time '{}' takes the most, {}; {} passes between the machines.",
            stage.name,
            percent(*seconds),
            percent(prediction.hops_s_per_token)
        ));
    }
    if prediction.hops_s_per_token > whole / 2.0 {
        reasons.push(
            "More than half of the time is the network: links with less delay would help most."
                .to_owned(),
        );
    }
    reasons
}

fn what_was_lowered(facts: &Facts<'_>) -> Vec<String> {
    let plan = facts.plan;
    let mut reasons = Vec::new();
    if plan.context < facts.context_wanted {
        reasons.push(format!(
            "Context lowered from {} to {} positions: that is what the memory leaves beside the weights.",
            facts.context_wanted, plan.context
        ));
    }
    let full = plan.pages / crate::fill::pages_of(plan.context).max(1);
    if full < facts.sequences_wanted {
        reasons.push(format!(
            "The cache holds {full} conversation(s) of full length at once, or up to {} shorter ones; {} of full length were wanted.",
            plan.slots, facts.sequences_wanted
        ));
    }
    reasons
}

fn about_ends(facts: &Facts<'_>) -> Option<String> {
    let model = facts.base.model;
    (model.tied_head && facts.plan.stages.len() > 1).then(|| {
        format!(
            "Embedding and head are one matrix of {}; it is held twice, by the first and the last stage.",
            size_text(model.embedding_bytes)
        )
    })
}

/// The nodes without a part, each with the reason.
pub(crate) fn left_out(base: &Problem<'_>, plan: &Plan, found: &Found) -> Vec<LeftOut> {
    let least = base.least_stage_bytes();
    let idle = base
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| plan.stages.iter().all(|stage| stage.node != node.id));
    let why = |at: usize| {
        let node = &base.nodes[at];
        if node.memory_bytes < least {
            return format!(
                "it offers {}, and the smallest possible part, one layer with caches and scratch, takes {}",
                size_text(node.memory_bytes),
                size_text(least)
            );
        }
        match found.best_with.get(at).copied().flatten() {
            Some(with_s) if with_s > found.best.decode_s * 1.0005 => format!(
                "one conversation would be slower with it: {} against {}",
                rate(with_s),
                rate(found.best.decode_s)
            ),
            Some(_) => "it is not needed: no split with it is faster".to_owned(),
            None if base.nodes.len() > EXACT_NODES_MAX => {
                "no faster split with it was found".to_owned()
            }
            None => "no split with it fits the memory".to_owned(),
        }
    };
    idle.map(|(at, node)| LeftOut {
        node: node.id.clone(),
        name: node.name.clone(),
        reason: why(at),
    })
    .collect()
}

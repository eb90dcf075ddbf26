//! Time of a plan: `cargo bench --profile release -p plan --bench plan`.
//!
//! Households of different sizes with unequal nodes and measured links; medians of five.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a measuring program"
)]

use std::time::Instant;

use plan::{LinkFacts, NodeFacts, PlanMode, PlanRequest};
use proto::NodeId;
use proto::facts::{LayerFacts, MixerKind, ModelFacts};

/// In the proportions of a mixture of 256 experts with 40 layers.
fn model() -> ModelFacts {
    let layer = |at: usize| LayerFacts {
        mixer: if at % 4 == 3 {
            MixerKind::Attention
        } else {
            MixerKind::DeltaNet
        },
        trunk_bytes: 22 << 20,
        trunk_macs: 33_000_000,
        group_bytes: vec![30 << 20; 16],
        expert_bytes: 1_900_000,
        expert_macs: 3_145_728,
        kv_values_per_position: if at % 4 == 3 { 1024 } else { 0 },
        state_bytes_per_sequence: if at % 4 == 3 { 0 } else { 2 << 20 },
    };
    ModelFacts {
        id: "bench".to_owned(),
        family: "qwen35moe".to_owned(),
        hidden: 2048,
        vocab: 248_320,
        context: 262_144,
        experts: 256,
        experts_used: 8,
        embedding_bytes: 286 << 20,
        tied_head: false,
        head_bytes: 398 << 20,
        head_macs: 508_559_360,
        layers: (0..40).map(layer).collect(),
        file_bytes: 0,
        quantised: true,
        types: Vec::new(),
    }
}

fn request(nodes: u32, memory_bytes: u64, mode: PlanMode) -> PlanRequest {
    let id = |at: u32| NodeId::new(format!("n{at:02}")).unwrap();
    let facts = |at: u32| NodeFacts {
        id: id(at),
        name: format!("n{at}"),
        memory_bytes: memory_bytes + (u64::from(at % 5) << 29),
        read_bytes_per_s: f64::from(8 + at * 7 % 23) * 1e9,
        macs_per_s: f64::from(10 + at * 5 % 31) * 1e9,
    };
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    PlanRequest {
        model: model(),
        nodes: (0..nodes).map(facts).collect(),
        links: pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| LinkFacts {
                from: id(from),
                to: id(to),
                rtt_s: f64::from(200 + (from * 31 + to * 17) % 400) * 1e-6,
                bytes_per_s: 1.1e8,
            })
            .collect(),
        context: None,
        sequences: 8,
        kv: None,
        mode,
        exchange: mode != PlanMode::Layers,
        coordinator: None,
    }
}

fn main() {
    for (nodes, gib) in [
        (1, 32),
        (2, 16),
        (3, 9),
        (4, 32),
        (6, 5),
        (6, 32),
        (12, 4),
        (64, 3),
        (64, 32),
    ] {
        for mode in [PlanMode::Auto, PlanMode::Layers, PlanMode::Experts] {
            let request = request(nodes, gib << 30, mode);
            let mut times = Vec::new();
            let mut said = String::new();
            for _ in 0..5 {
                let begun = Instant::now();
                let plan = plan::plan(&request);
                times.push(begun.elapsed());
                said = match plan {
                    Ok(plan) => format!(
                        "{:.2} tokens/s, {} stages, {} with experts",
                        plan.prediction.decode_tokens_per_s,
                        plan.stages.len(),
                        plan.experts.len()
                    ),
                    Err(error) => error.to_string(),
                };
            }
            times.sort_unstable();
            println!(
                "{nodes} nodes of {gib} GiB, {mode}: {:.1} ms; {said}",
                times[2].as_secs_f64() * 1e3
            );
        }
    }
}

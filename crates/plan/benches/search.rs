//! Time of a plan: `cargo bench --profile release -p plan --bench search [-- WORD ...]`.
//!
//! Households of different sizes with unequal nodes, all links measured or none, in every mode; medians of five. Words
//! choose the cases that contain all of them. No case may take a second.
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

/// What is known of the links.
#[derive(Clone, Copy)]
enum Links {
    /// All pairs in both directions.
    Measured,
    /// Nothing: all count as wired gigabit.
    Unknown,
}

/// Nodes of mixed memory (`least` GiB and up to twice that) and mixed speed.
fn request(nodes: u32, least: u64, links: Links, mode: PlanMode) -> PlanRequest {
    let id = |at: u32| NodeId::new(format!("n{at:02}")).unwrap();
    let facts = |at: u32| NodeFacts {
        id: id(at),
        name: format!("n{at}"),
        memory_bytes: (least << 30) + u64::from(at * 5 % 9) * (least << 27),
        read_bytes_per_s: f64::from(8 + at * 7 % 23) * 1e9,
        macs_per_s: f64::from(10 + at * 5 % 31) * 1e9,
    };
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let measured = pairs
        .filter(|(from, to)| from != to && matches!(links, Links::Measured))
        .map(|(from, to)| LinkFacts {
            from: id(from),
            to: id(to),
            rtt_s: f64::from(200 + (from * 31 + to * 17) % 400) * 1e-6,
            bytes_per_s: 1.1e8,
        });
    PlanRequest {
        model: model(),
        nodes: (0..nodes).map(facts).collect(),
        links: measured.collect(),
        context: None,
        sequences: 8,
        kv: None,
        mode,
        exchange: false,
        coordinator: None,
    }
}

/// A mode with its name; the last is whether groups and blocks may leave their stages.
const MODES: [(&str, PlanMode, bool); 4] = [
    ("auto", PlanMode::Auto, false),
    ("auto+exchange", PlanMode::Auto, true),
    ("experts", PlanMode::Experts, true),
    ("layers", PlanMode::Layers, false),
];

/// Median of five, in milliseconds, with what came out.
fn measure(request: &PlanRequest) -> (f64, String) {
    let mut times = Vec::new();
    let mut said = String::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let plan = plan::plan(request);
        times.push(begun.elapsed());
        said = match plan {
            Ok(plan) => format!(
                "{:.2} tokens/s, {} stages, {} left out, {} entries of groups",
                plan.prediction.decode_tokens_per_s,
                plan.stages.len(),
                plan.left_out.len(),
                plan.experts.len()
            ),
            Err(error) => error.to_string(),
        };
    }
    times.sort_unstable();
    (times[2].as_secs_f64() * 1e3, said)
}

fn main() {
    // Without a filter everything; `cargo bench` passes flags of its own.
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for (nodes, least_gib) in [
        (1, 32),
        (2, 8),
        (6, 5),
        (6, 8),
        (6, 24),
        (16, 2),
        (16, 8),
        (40, 1),
        (40, 8),
        (64, 1),
        (64, 2),
        (64, 8),
        (64, 24),
    ] {
        for (name, links) in [("measured", Links::Measured), ("unknown", Links::Unknown)] {
            for (mode_name, mode, exchange) in MODES {
                let case = format!("{nodes} nodes of {least_gib} GiB, links {name}, {mode_name}");
                if !filter.iter().all(|word| case.contains(word.as_str())) {
                    continue;
                }
                let mut request = request(nodes, least_gib, links, mode);
                request.exchange = exchange;
                let (milliseconds, said) = measure(&request);
                println!("{case}: {milliseconds:.1} ms; {said}");
            }
        }
    }
}

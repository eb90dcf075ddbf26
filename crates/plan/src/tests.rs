//! Builders for the tests of this crate, and the tests of whole plans.

mod away;
mod cases;
mod given;
mod many;
mod properties;
mod sentences;

use proto::NodeId;
use proto::facts::{LayerFacts, MixerKind, ModelFacts};

use crate::{LinkFacts, NodeFacts, PlanMode, PlanRequest};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// An MoE model in the proportions of a hybrid one: every fourth layer attends, the others keep a state.
pub(crate) fn moe(layers: usize) -> ModelFacts {
    let layer = |at: usize| {
        let attends = at % 4 == 3;
        LayerFacts {
            mixer: if attends {
                MixerKind::Attention
            } else {
                MixerKind::DeltaNet
            },
            trunk_bytes: 20 * MIB + (at as u64 % 3) * MIB,
            trunk_macs: 20_000_000,
            group_bytes: vec![30 * MIB; 16],
            expert_bytes: 2 * MIB,
            expert_macs: 3_000_000,
            kv_values_per_position: if attends { 1024 } else { 0 },
            state_bytes_per_sequence: if attends { 0 } else { 2 * MIB },
        }
    };
    ModelFacts {
        id: "moe".to_owned(),
        family: "qwen35moe".to_owned(),
        hidden: 2048,
        vocab: 150_000,
        context: 262_144,
        experts: 256,
        experts_used: 8,
        embedding_bytes: 300 * MIB,
        tied_head: false,
        head_bytes: 400 * MIB,
        head_macs: 300_000_000,
        layers: (0..layers).map(layer).collect(),
        file_bytes: 0,
        quantised: true,
        types: Vec::new(),
    }
}

/// A small dense model whose layers are all alike.
pub(crate) fn dense(layers: usize) -> ModelFacts {
    let layer = LayerFacts {
        mixer: MixerKind::Attention,
        trunk_bytes: 10 * MIB,
        trunk_macs: 5_000_000,
        group_bytes: Vec::new(),
        expert_bytes: 0,
        expert_macs: 0,
        kv_values_per_position: 256,
        state_bytes_per_sequence: 0,
    };
    ModelFacts {
        id: "dense".to_owned(),
        family: "llama".to_owned(),
        hidden: 64,
        vocab: 1000,
        context: 4096,
        experts: 0,
        experts_used: 0,
        embedding_bytes: 2 * MIB,
        tied_head: true,
        head_bytes: 2 * MIB,
        head_macs: 64_000,
        layers: vec![layer; layers],
        file_bytes: 0,
        quantised: false,
        types: Vec::new(),
    }
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A node that reads `speed` GB/s and does five times as many multiply-adds, as vector units do.
pub(crate) fn node(name: &str, memory_bytes: u64, speed: f64) -> NodeFacts {
    NodeFacts {
        id: id(name),
        name: format!("{name}-box"),
        memory_bytes,
        read_bytes_per_s: speed * 1e9,
        macs_per_s: 5.0 * speed * 1e9,
    }
}

pub(crate) fn link(from: &str, to: &str, rtt_s: f64) -> LinkFacts {
    LinkFacts {
        from: id(from),
        to: id(to),
        rtt_s,
        bytes_per_s: 1e8,
    }
}

pub(crate) fn request(model: ModelFacts, nodes: Vec<NodeFacts>, mode: PlanMode) -> PlanRequest {
    PlanRequest {
        model,
        nodes,
        links: Vec::new(),
        context: None,
        sequences: 8,
        kv: None,
        mode,
        exchange: false,
        coordinator: None,
    }
}

/// What a given plan is held against.
pub(crate) fn of(model: &ModelFacts, nodes: &[NodeFacts]) -> PlanRequest {
    request(model.clone(), nodes.to_vec(), PlanMode::Auto)
}

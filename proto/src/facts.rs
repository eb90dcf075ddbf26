//! What there is to know about a model before it runs: bytes and multiplications per part.
//!
//! The planner, the tools and the memory budgets read the same facts, so that what is predicted is what is loaded.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::limits;

/// How a layer mixes positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixerKind {
    /// Softmax attention over the cache.
    Attention,
    /// Gated delta net with a recurrent state.
    DeltaNet,
}

/// Facts of one model. All sizes in bytes; multiplications are multiply-adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// The name under which clients ask for the model.
    pub id: String,
    /// The family's name, `qwen35moe` for example.
    pub family: String,
    /// Values in one row of the residual stream.
    pub hidden: u32,
    /// Rows of the embedding and of the head.
    pub vocab: u32,
    /// Positions that the model was made for.
    pub context: u32,
    /// Experts in an MoE layer, 0 for a dense model.
    pub experts: u32,
    /// Experts used per token, 0 for a dense model.
    pub experts_used: u32,
    /// Bytes of the embedding. A tied model counts them once more as head where both are on different nodes.
    pub embedding_bytes: u64,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Bytes of head and final norm.
    pub head_bytes: u64,
    /// Multiply-adds of the head for one row.
    pub head_macs: u64,
    /// The layers in order.
    pub layers: Vec<LayerFacts>,
    /// Bytes of all model files.
    pub file_bytes: u64,
    /// Whether most weights are quantised: decides the default type of the attention cache.
    pub quantised: bool,
    /// Bytes and number of tensors by weight type name.
    pub types: Vec<TypeFacts>,
}

/// How much of a model has one weight type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFacts {
    /// The type, `Q4_K` for example.
    pub name: String,
    /// Tensors of this type.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Facts of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// How the layer mixes positions.
    pub mixer: MixerKind,
    /// Bytes of the trunk: mixer, norms, router, shared expert, or the dense feed-forward.
    pub trunk_bytes: u64,
    /// Multiply-adds of the trunk for one row, attention over the cache not counted.
    pub trunk_macs: u64,
    /// Bytes of each expert group; empty for a dense layer.
    pub group_bytes: Vec<u64>,
    /// Bytes of one expert (0 for a dense layer).
    pub expert_bytes: u64,
    /// Multiply-adds of one expert for one row.
    pub expert_macs: u64,
    /// Values (of the cache type) that one position adds to the attention cache.
    pub kv_values_per_position: u64,
    /// Bytes of recurrent state per sequence.
    pub state_bytes_per_sequence: u64,
}

impl LayerFacts {
    /// Bytes of the whole layer: trunk and all expert groups.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.group_bytes
            .iter()
            .fold(self.trunk_bytes, |sum, bytes| sum.saturating_add(*bytes))
    }
}

impl ModelFacts {
    /// Bytes of all weights, each tensor once.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let head = if self.tied_head { 0 } else { self.head_bytes };
        self.layers
            .iter()
            .fold(self.embedding_bytes.saturating_add(head), |sum, layer| {
                sum.saturating_add(layer.bytes())
            })
    }
}

/// Number of expert groups of a layer: min(16, largest power of two not above `experts`); 0 without experts.
#[must_use]
pub fn expert_groups(experts: u32) -> u32 {
    if experts == 0 {
        0
    } else {
        limits::EXPERT_GROUPS_MAX.min(1 << experts.ilog2())
    }
}

/// The experts of `group`: floor(group * experts / groups) .. floor((group + 1) * experts / groups).
#[must_use]
pub fn group_experts(experts: u32, group: u32) -> Range<u32> {
    part(experts, expert_groups(experts), group)
}

/// The rows of head block `block`, cut like the experts into at most 16 blocks.
#[must_use]
pub fn head_block_rows(vocab: u32, block: u32) -> Range<u32> {
    part(vocab, expert_groups(vocab), block)
}

fn part(whole: u32, parts: u32, index: u32) -> Range<u32> {
    let at = |i: u32| {
        let cut = u64::from(i.min(parts)) * u64::from(whole) / u64::from(parts.max(1));
        u32::try_from(cut).unwrap_or(whole)
    };
    at(index)..at(index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_experts_in_order() {
        for experts in [1u32, 2, 3, 8, 10, 16, 60, 128, 256, 257] {
            let groups = expert_groups(experts);
            assert!(groups.is_power_of_two() && groups <= 16 && groups <= experts);
            let mut next = 0;
            for group in 0..groups {
                let range = group_experts(experts, group);
                assert_eq!(range.start, next);
                assert!(!range.is_empty());
                next = range.end;
            }
            assert_eq!(next, experts);
        }
        assert_eq!(expert_groups(0), 0);
        assert_eq!(expert_groups(8), 8);
        assert_eq!(group_experts(256, 3), 48..64);
    }

    #[test]
    fn head_blocks_cover_the_vocabulary() {
        assert_eq!(head_block_rows(248_320, 0).start, 0);
        assert_eq!(head_block_rows(248_320, 15).end, 248_320);
        assert_eq!(head_block_rows(u32::MAX, 15).end, u32::MAX);
    }
}

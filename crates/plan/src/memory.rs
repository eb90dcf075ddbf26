//! The memory model: what a layer range takes on a node, in bytes.
//!
//! Owns the only formula for weights, caches and scratch. The planner cuts by it, `--plan FILE` is checked by it, and a
//! node compares its result with the owner's allowance before it loads anything. It must never depend on who asks.
//!
//! A slice takes, and its sum must not exceed the node's `memory_bytes`:
//! - **weights**: trunk and expert groups of its layers; the embedding on stage 0; head and final norm on the last
//!   stage. A tied head is the embedding: it counts once where both are on one node, and on each of two nodes.
//! - **cache**: `pages` pages of 64 positions × values per position × bytes of the cache type, for each of its attention
//!   layers, and `slots` recurrent states for each of its delta-net layers.
//! - **scratch**: `chunk_rows` rows × hidden × 48 values × 4 bytes for the activations between a layer's operations (the
//!   widest layers known need 42: the outputs of 8 used experts with gate and up, the projections of both mixers, and
//!   the residual stream); on the last stage also 16 bytes per
//!   vocabulary entry, logits and the sampler's ranking, for each sequence that draws a token at once, at most 16.
//!
//! What a node holds of a plan with expert groups or head blocks away from their stages takes, beside the trunks and
//! caches of its own layers:
//! - **weights**: the groups and head blocks that it holds, of whatever layer; blocks of a tied head cost nothing more
//!   on the node with the embedding. The final norm is on the last stage.
//! - **scratch**: as above, on every node with layers or groups; rows and partial sums under way, once as they are
//!   computed and once as frames, both for asking other nodes and for answering them; logits under way likewise.

use std::collections::BTreeMap;

use proto::GroupSet;
use proto::facts::{ModelFacts, expert_groups, head_block_rows};
use proto::limits::PAGE_POSITIONS;

use crate::{KvType, PlanError};

/// Values of scratch per row and hidden value.
pub const SCRATCH_VALUES_PER_HIDDEN: u64 = 48;
/// Bytes of logits and of the sampler's adjusted copy, ids and weights per vocabulary entry.
const DRAW_BYTES: u64 = 16;
/// Sequences that draw a token at once; the others wait for their turn.
const DRAWS_MAX: u32 = 16;
const VALUE_BYTES: u64 = 4;
/// Partial rows that one row has of one owner, at most: every second group of 16.
const PARTIALS_MAX: u32 = 8;

/// How much cache and scratch every stage keeps; the same on all nodes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBudget {
    /// Type of the attention cache.
    pub kv: KvType,
    /// Pages of 64 positions, shared by all sequences.
    pub pages: u32,
    /// Sequences at a time.
    pub slots: u32,
    /// Rows of one step.
    pub chunk_rows: u32,
}

/// A contiguous layer range with or without the model's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpan {
    /// The first layer.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// Whether the embedding is in the slice.
    pub embedding: bool,
    /// Whether head and final norm are in the slice.
    pub head: bool,
}

/// What a node holds of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    /// The layers whose trunks and caches it has, if any. `head` stands for final norm and sampling; which rows of
    /// the head are here, `head_blocks` says.
    pub span: Option<LayerSpan>,
    /// Expert groups by layer, of its own layers and of others. A layer that is not named has none here.
    pub groups: BTreeMap<u32, GroupSet>,
    /// Head blocks.
    pub head_blocks: GroupSet,
}

impl Holding {
    /// All of a stage: every group of its layers, and all of the head if it has the head. What `span` names outside
    /// the model is left out.
    #[must_use]
    pub fn stage(model: &ModelFacts, span: LayerSpan) -> Self {
        let layers = (0u32..).zip(&model.layers);
        let groups = layers
            .filter(|(at, _)| (span.first_layer..span.end_layer).contains(at))
            .filter(|(_, layer)| !layer.group_bytes.is_empty())
            .map(|(at, layer)| (at, GroupSet::all(narrow(layer.group_bytes.len()))))
            .collect();
        let head_blocks = if span.head {
            GroupSet::all(expert_groups(model.vocab))
        } else {
            GroupSet::none()
        };
        Self {
            span: Some(span),
            groups,
            head_blocks,
        }
    }

    /// Whether `layer` is one of its own.
    #[must_use]
    pub fn runs(&self, layer: u32) -> bool {
        let span = self.span.as_ref();
        span.is_some_and(|span| (span.first_layer..span.end_layer).contains(&layer))
    }

    /// Whether it holds expert groups of layers that it does not run.
    #[must_use]
    pub fn serves_experts(&self) -> bool {
        let mut held = self.groups.iter().filter(|(_, set)| !set.is_empty());
        held.any(|(layer, _)| !self.runs(*layer))
    }

    /// Whether it runs layers some of whose expert groups are elsewhere.
    #[must_use]
    pub fn asks_for_experts(&self, model: &ModelFacts) -> bool {
        (0u32..).zip(&model.layers).any(|(at, layer)| {
            let held = self.groups.get(&at).copied().unwrap_or_default();
            self.runs(at) && !held.missing(narrow(layer.group_bytes.len())).is_empty()
        })
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bytes of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceBytes {
    /// Weights.
    pub weight_bytes: u64,
    /// Attention cache and recurrent state.
    pub cache_bytes: u64,
    /// Activations, logits and the sampler's ranking.
    pub scratch_bytes: u64,
}

impl SliceBytes {
    /// All of it; what an allowance is compared with.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weight_bytes
            .saturating_add(self.cache_bytes)
            .saturating_add(self.scratch_bytes)
    }
}

/// Weights of the model's ends on one node.
#[must_use]
pub(crate) fn end_bytes(model: &ModelFacts, embedding: bool, head: bool) -> u64 {
    match (embedding, head) {
        (false, false) => 0,
        (true, false) => model.embedding_bytes,
        (false, true) => model.head_bytes,
        (true, true) if model.tied_head => model.embedding_bytes.max(model.head_bytes),
        (true, true) => model.embedding_bytes.saturating_add(model.head_bytes),
    }
}

/// Cache bytes of one layer.
#[must_use]
pub(crate) fn layer_cache_bytes(layer: &proto::facts::LayerFacts, budget: &CacheBudget) -> u64 {
    let positions = u64::from(budget.pages).saturating_mul(u64::from(PAGE_POSITIONS));
    let attention = budget
        .kv
        .bytes(layer.kv_values_per_position)
        .saturating_mul(positions);
    let state = layer
        .state_bytes_per_sequence
        .saturating_mul(u64::from(budget.slots));
    attention.saturating_add(state)
}

/// Scratch bytes of a stage.
#[must_use]
pub(crate) fn scratch_bytes(model: &ModelFacts, budget: &CacheBudget, head: bool) -> u64 {
    let rows = u64::from(budget.chunk_rows)
        .saturating_mul(u64::from(model.hidden))
        .saturating_mul(SCRATCH_VALUES_PER_HIDDEN * VALUE_BYTES);
    if !head {
        return rows;
    }
    let draws = u64::from(budget.slots.min(DRAWS_MAX));
    rows.saturating_add(u64::from(model.vocab).saturating_mul(DRAW_BYTES * draws))
}

/// What `span` of `model` takes on a node.
///
/// # Errors
/// When the span is empty, reversed, or ends behind the model's last layer.
pub fn slice_bytes(
    model: &ModelFacts,
    span: &LayerSpan,
    budget: &CacheBudget,
) -> Result<SliceBytes, PlanError> {
    let (first, end) = (span.first_layer as usize, span.end_layer as usize);
    let layers = model
        .layers
        .get(first..end)
        .filter(|layers| !layers.is_empty())
        .ok_or_else(|| PlanError::Request {
            what: "the layer range",
            got: format!("{first}..{end}"),
            expected: format!("at least one layer inside 0..{}", model.layers.len()),
        })?;
    let ends = end_bytes(model, span.embedding, span.head);
    let weight_bytes = layers
        .iter()
        .fold(ends, |sum, layer| sum.saturating_add(layer.bytes()));
    let cache_bytes = layers.iter().fold(0u64, |sum, layer| {
        sum.saturating_add(layer_cache_bytes(layer, budget))
    });
    Ok(SliceBytes {
        weight_bytes,
        cache_bytes,
        scratch_bytes: scratch_bytes(model, budget, span.head),
    })
}

/// What `holding` of `model` takes on a node. For a stage that holds all of its layers this is [`slice_bytes`].
///
/// # Errors
/// When its layer range is empty, reversed or ends behind the model's last layer, or a group or block does not exist.
pub fn holding_bytes(
    model: &ModelFacts,
    holding: &Holding,
    budget: &CacheBudget,
) -> Result<SliceBytes, PlanError> {
    let (mut weight_bytes, mut cache_bytes) = (held_end_bytes(model, holding)?, 0u64);
    if let Some(span) = &holding.span {
        // Also the check of the range.
        cache_bytes = slice_bytes(model, span, budget)?.cache_bytes;
        let layers = model
            .layers
            .get(span.first_layer as usize..span.end_layer as usize);
        for layer in layers.unwrap_or_default() {
            weight_bytes = weight_bytes.saturating_add(layer.trunk_bytes);
        }
    }
    for (layer, set) in &holding.groups {
        for group in set.iter() {
            let facts = model.layers.get(*layer as usize);
            let bytes = facts
                .and_then(|facts| facts.group_bytes.get(group as usize))
                .ok_or_else(|| PlanError::Request {
                    what: "an expert group",
                    got: format!("group {group} of layer {layer}"),
                    expected: "a group that the layer has".to_owned(),
                })?;
            weight_bytes = weight_bytes.saturating_add(*bytes);
        }
    }
    Ok(SliceBytes {
        weight_bytes,
        cache_bytes,
        scratch_bytes: held_scratch_bytes(model, holding, budget),
    })
}

/// Rows of the output head that `blocks` have.
#[must_use]
pub fn head_rows(model: &ModelFacts, blocks: GroupSet) -> u64 {
    blocks
        .iter()
        .map(|block| head_block_rows(model.vocab, block).len() as u64)
        .sum()
}

/// Bytes of one row of the output head; what is left over counts as final norm.
#[must_use]
pub fn head_row_bytes(model: &ModelFacts) -> u64 {
    let matrix = if model.tied_head {
        model.embedding_bytes.min(model.head_bytes)
    } else {
        model.head_bytes
    };
    matrix / u64::from(model.vocab.max(1))
}

fn held_end_bytes(model: &ModelFacts, holding: &Holding) -> Result<u64, PlanError> {
    let blocks = expert_groups(model.vocab);
    let held = holding.head_blocks;
    if !held.without(GroupSet::all(blocks)).is_empty() {
        return Err(PlanError::Request {
            what: "the head blocks",
            got: held.to_string(),
            expected: format!("blocks below {blocks}"),
        });
    }
    let rows_bytes = |set| head_rows(model, set).saturating_mul(head_row_bytes(model));
    let (embedding, head) = match &holding.span {
        Some(span) => (span.embedding, span.head),
        None => (false, false),
    };
    let head_bytes = if head {
        model
            .head_bytes
            .saturating_sub(rows_bytes(held.missing(blocks)))
    } else {
        rows_bytes(held)
    };
    Ok(match (embedding, model.tied_head) {
        (false, _) => head_bytes,
        (true, true) => model.embedding_bytes.max(head_bytes),
        (true, false) => model.embedding_bytes.saturating_add(head_bytes),
    })
}

fn held_scratch_bytes(model: &ModelFacts, holding: &Holding, budget: &CacheBudget) -> u64 {
    let head = holding.span.as_ref().is_some_and(|span| span.head);
    let draws = budget.slots.min(DRAWS_MAX);
    let serves = holding.serves_experts();
    let own = if holding.span.is_some() || serves {
        scratch_bytes(model, budget, head)
    } else {
        let few = CacheBudget {
            chunk_rows: budget.chunk_rows.min(draws),
            ..*budget
        };
        scratch_bytes(model, &few, false)
    };
    let row_bytes = u64::from(model.hidden).saturating_mul(VALUE_BYTES);
    let partials = u64::from(model.experts_used.min(PARTIALS_MAX));
    let sides = u64::from(serves).saturating_add(holding.asks_for_experts(model).into());
    let experts = u64::from(budget.chunk_rows)
        .saturating_mul(row_bytes)
        .saturating_mul(2 * (1 + partials))
        .saturating_mul(sides);
    // Logits that come from elsewhere, or that leave.
    let away = if head {
        holding.head_blocks.missing(expert_groups(model.vocab))
    } else {
        holding.head_blocks
    };
    let logits = head_rows(model, away).saturating_mul(2 * VALUE_BYTES * u64::from(draws));
    own.saturating_add(experts).saturating_add(logits)
}

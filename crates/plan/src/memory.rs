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

use proto::facts::ModelFacts;
use proto::limits::PAGE_POSITIONS;

use crate::{KvType, PlanError};

/// Values of scratch per row and hidden value.
pub const SCRATCH_VALUES_PER_HIDDEN: u64 = 48;
/// Bytes of logits and of the sampler's adjusted copy, ids and weights per vocabulary entry.
const DRAW_BYTES: u64 = 16;
/// Sequences that draw a token at once; the others wait for their turn.
const DRAWS_MAX: u32 = 16;
const VALUE_BYTES: u64 = 4;

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

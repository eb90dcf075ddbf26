//! How much memory each node of a demonstration gets: as little as works, and less than the model has.
//!
//! Owns nothing but that number: the planner itself is asked whether an amount works.

use command::Failure;
use plan::size::size_text;
use plan::{LayerSpan, NodeFacts, PlanMode, PlanRequest};
use proto::NodeId;
use proto::facts::ModelFacts;

/// Positions per sequence, if the model has as many.
const CONTEXT: u32 = 2048;
/// Sequences at a time, if there is room for them.
const SEQUENCES: u32 = 4;
/// Allowances are whole multiples of this.
const GRAIN_BYTES: u64 = 64 << 10;

/// What each node may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Weights, caches and scratch of one node.
    pub(super) bytes: u64,
    /// Weights of the whole model.
    pub(super) weight_bytes: u64,
    /// Positions per sequence.
    pub(super) context: u32,
    /// Sequences at a time.
    pub(super) sequences: u32,
}

/// The smallest allowance with which `nodes` equal nodes run the model.
///
/// # Errors
/// They cannot, unless one of them may hold the whole model.
pub(super) fn smallest(model: &ModelFacts, nodes: usize) -> Result<Allowance, Failure> {
    let whole = LayerSpan {
        first_layer: 0,
        end_layer: u32::try_from(model.layers.len()).unwrap_or(u32::MAX),
        embedding: true,
        head: true,
    };
    let context = model.context.min(CONTEXT);
    let any_cache = plan::CacheBudget {
        kv: plan::KvType::F16,
        pages: 1,
        slots: 1,
        chunk_rows: 1,
    };
    let weight_bytes = plan::slice_bytes(model, &whole, &any_cache)?.weight_bytes;
    let below = weight_bytes.saturating_sub(1) / GRAIN_BYTES;
    for sequences in [SEQUENCES, 1] {
        let works = |grains: u64| {
            slots(model, nodes, context, sequences, grains * GRAIN_BYTES) >= Some(sequences)
        };
        if let Some(grains) = least(below, works) {
            return Ok(Allowance {
                bytes: grains * GRAIN_BYTES,
                weight_bytes,
                context,
                sequences,
            });
        }
    }
    Err(Failure::Failed(format!(
        "{} has {} layers and {} of weights; {nodes} nodes that each hold less than all of it cannot run it with a context of {context}. Choose another number with --nodes (at most one per layer), or a larger model",
        model.id,
        model.layers.len(),
        size_text(weight_bytes),
    )))
}

/// The least number up to `most` that works, if larger ones work whenever smaller ones do.
fn least(most: u64, works: impl Fn(u64) -> bool) -> Option<u64> {
    if !works(most) {
        return None;
    }
    let (mut fails, mut good) = (0, most);
    while good - fails > 1 {
        let middle = fails + (good - fails) / 2;
        if works(middle) {
            good = middle;
        } else {
            fails = middle;
        }
    }
    Some(good)
}

/// Sequences at a time that the plan over `nodes` equal nodes has room for; `None` if there is no plan.
fn slots(
    model: &ModelFacts,
    nodes: usize,
    context: u32,
    sequences: u32,
    bytes: u64,
) -> Option<u32> {
    let node = |at: usize| {
        Some(NodeFacts {
            id: NodeId::new(format!("demo{at:02}")).ok()?,
            name: format!("demo{at:02}"),
            memory_bytes: bytes,
            read_bytes_per_s: plan::speed::DEFAULT_READ_BYTES_PER_S,
            macs_per_s: plan::speed::DEFAULT_MACS_PER_S,
        })
    };
    let request = PlanRequest {
        model: model.clone(),
        nodes: (0..nodes).map(node).collect::<Option<Vec<_>>>()?,
        links: Vec::new(),
        context: Some(context),
        sequences,
        kv: None,
        mode: PlanMode::Layers,
        exchange: false,
        coordinator: None,
    };
    plan::plan(&request).ok().map(|plan| plan.slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundled() -> ModelFacts {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/hearth-tiny.gguf");
        model::Checkpoint::open(std::path::Path::new(path))
            .unwrap()
            .facts()
    }

    #[test]
    fn no_node_may_hold_the_bundled_model_and_all_together_do() {
        for nodes in 2..=8 {
            let allowance = smallest(&bundled(), nodes).unwrap();
            assert!(
                allowance.bytes < allowance.weight_bytes,
                "{nodes}: {allowance:?}"
            );
            let less = allowance.bytes - GRAIN_BYTES;
            let slots = slots(
                &bundled(),
                nodes,
                allowance.context,
                allowance.sequences,
                less,
            );
            assert!(slots < Some(allowance.sequences), "{nodes}: {allowance:?}");
        }
    }

    #[test]
    fn more_nodes_than_layers_are_refused() {
        let text = smallest(&bundled(), 9).unwrap_err().to_string();
        assert!(
            text.contains("8 layers") && text.contains("--nodes"),
            "{text}"
        );
    }

    #[test]
    fn the_least_is_found() {
        for least_good in 1..=20 {
            assert_eq!(least(20, |n| n >= least_good), Some(least_good));
        }
        assert_eq!(least(20, |_| false), None);
    }
}

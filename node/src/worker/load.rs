//! From an assignment to a slice that can compute: the model opened, memory checked, weights read.

use std::sync::Arc;

use engine::{CacheSpec, KvType, Slice, SliceSpec};
use model::Checkpoint;
use plan::{CacheBudget, Holding, LayerSpan, holding_bytes};
use proto::Epoch;
use proto::control::{Assign, CacheType, LoadProgress, NodeMessage};
use proto::facts::ModelFacts;

use super::{Bench, Told};
use crate::shelf::{Opened, Refusal, refusal};

/// Bytes read between two reports of progress.
const PROGRESS_BYTES: u64 = 64 << 20;

/// What the node holds, as the memory model counts it.
fn holding(facts: &ModelFacts, assign: &Assign) -> Holding {
    let mut holding = if assign.layers.is_empty() {
        Holding::default()
    } else {
        let span = LayerSpan {
            first_layer: assign.layers.start,
            end_layer: assign.layers.end,
            embedding: assign.embedding,
            head: assign.head,
        };
        Holding::stage(facts, span)
    };
    for (layer, groups) in &mut holding.groups {
        *groups = groups.without(assign.given_groups(*layer));
    }
    holding.groups.extend(assign.foreign.clone());
    holding.head_blocks = holding
        .head_blocks
        .without(assign.given_blocks())
        .and(assign.head_blocks);
    holding
}

/// The same for the engine.
fn spec(checkpoint: &Checkpoint, assign: &Assign) -> SliceSpec {
    let held = holding(&checkpoint.facts(), assign);
    let of = |layer| held.groups.get(&layer).copied().unwrap_or_default();
    SliceSpec {
        embedding: assign.embedding,
        layers: assign.layers.clone(),
        groups: assign.layers.clone().map(of).collect(),
        foreign: assign.foreign.clone(),
        head: assign.head,
        head_blocks: Some(held.head_blocks),
    }
}

impl Bench {
    pub(super) fn slice(&self, assign: &Assign) -> Result<Slice, Refusal> {
        let fits = |checkpoint: &Checkpoint| self.check_memory(checkpoint, assign);
        let Opened {
            checkpoint,
            image,
            done_bytes,
        } = self.tools.shelf.open(assign, &fits)?;
        checkpoint.release_heads();
        let spec = spec(&checkpoint, assign);
        let kv = match assign.kv {
            CacheType::F32 => KvType::F32,
            CacheType::F16 => KvType::F16,
            CacheType::Q8 => KvType::Q8,
        };
        let cache = CacheSpec {
            kv,
            pages: assign.pages,
            slots: assign.slots,
        };
        let exec = self.tools.exec.clone();
        let slice = Slice::load(Arc::new(checkpoint), &spec, cache, exec)
            .map_err(|e| refusal("slice", e))?;
        if image.is_some_and(|image| !image.covers(&slice.places())) {
            // Weights of shards that were not fetched would be zero.
            return Err(refusal(
                "slice",
                "a part of the slice is in no shard that was fetched; please report this",
            ));
        }
        self.read(&slice, assign.epoch, done_bytes);
        slice.unchanged().map_err(|e| refusal("model_changed", e))?;
        Ok(slice)
    }

    fn check_memory(&self, checkpoint: &Checkpoint, assign: &Assign) -> Result<(), Refusal> {
        let kv = match assign.kv {
            CacheType::F32 => plan::KvType::F32,
            CacheType::F16 => plan::KvType::F16,
            CacheType::Q8 => plan::KvType::Q8,
        };
        let budget = CacheBudget {
            kv,
            pages: assign.pages,
            slots: assign.slots,
            chunk_rows: assign.chunk_rows,
        };
        let facts = checkpoint.facts();
        let needed = holding_bytes(&facts, &holding(&facts, assign), &budget)
            .map_err(|e| refusal("slice", e))?
            .total();
        if needed > self.tools.memory_bytes {
            let what = match assign.layers.is_empty() {
                true => "the expert groups and head blocks for others".to_owned(),
                false => format!("layers {} to {}", assign.layers.start, assign.layers.end),
            };
            return Err(refusal(
                "memory",
                format_args!(
                    "{what} need {needed} bytes with their caches, this machine gives {}; raise --memory or take more machines",
                    self.tools.memory_bytes
                ),
            ));
        }
        Ok(())
    }

    /// Reads the slice's weights, telling how far it is; `before` bytes were fetched and compared for it.
    fn read(&self, slice: &Slice, epoch: Epoch, before: u64) {
        let total_bytes = before.saturating_add(slice.footprint().mapped_bytes);
        let mut done_bytes = before;
        let mut told = before;
        slice.prefault(&mut |bytes| {
            done_bytes = done_bytes.saturating_add(bytes);
            if done_bytes.saturating_sub(told) >= PROGRESS_BYTES {
                told = done_bytes;
                let progress = LoadProgress {
                    epoch,
                    done_bytes,
                    total_bytes,
                };
                self.tell(Told::Message(NodeMessage::Load(progress)));
            }
        });
    }
}

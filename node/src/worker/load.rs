//! From an assignment to a loaded slice: the model's identity, the owner's allowance, the files.

use std::path::Path;
use std::sync::Arc;

use engine::{CacheSpec, KvType, Slice, SliceSpec};
use model::Checkpoint;
use plan::{CacheBudget, Holding, LayerSpan, holding_bytes};
use proto::Epoch;
use proto::control::{Assign, CacheType, LoadProgress, NodeMessage};
use proto::facts::ModelFacts;

use super::{Bench, Told};

/// Bytes read between two reports of progress.
const PROGRESS_BYTES: u64 = 64 << 20;

/// Why a slice could not be loaded: a stable code and words for a person.
pub(super) struct Refusal {
    pub code: &'static str,
    pub text: String,
}

fn refusal(code: &'static str, text: impl std::fmt::Display) -> Refusal {
    Refusal {
        code,
        text: text.to_string(),
    }
}

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
        let checkpoint = Checkpoint::open(Path::new(&assign.model_path))
            .map_err(|e| refusal("model_unreadable", e))?;
        let here = checkpoint.identity();
        if (here.size_bytes, here.blake3) != (assign.model_bytes, assign.model_blake3) {
            return Err(refusal(
                "model_mismatch",
                format_args!(
                    "{} on this machine is not the coordinator's model: {} bytes here, {} there; copy the coordinator's files",
                    assign.model_path, here.size_bytes, assign.model_bytes
                ),
            ));
        }
        self.check_memory(&checkpoint, assign)?;
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
        self.read(&slice, assign.epoch);
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

    /// Reads the slice's weights, telling how far it is.
    fn read(&self, slice: &Slice, epoch: Epoch) {
        let total_bytes = slice.footprint().mapped_bytes;
        let mut done_bytes = 0u64;
        let mut told = 0u64;
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

//! From an assignment to a slice that can compute: the model opened, memory checked, weights read.

use std::sync::Arc;

use engine::{CacheSpec, KvType, Slice, SliceSpec};
use model::Checkpoint;
use plan::{CacheBudget, LayerSpan, slice_bytes};
use proto::Epoch;
use proto::control::{Assign, CacheType, LoadProgress, NodeMessage};

use super::{Bench, Told};
use crate::shelf::{Opened, Refusal, refusal};

/// Bytes read between two reports of progress.
const PROGRESS_BYTES: u64 = 64 << 20;

impl Bench {
    pub(super) fn slice(&self, assign: &Assign) -> Result<Slice, Refusal> {
        let fits = |checkpoint: &Checkpoint| self.check_memory(checkpoint, assign);
        let Opened {
            checkpoint,
            image,
            done_bytes,
        } = self.tools.shelf.open(assign, &fits)?;
        checkpoint.release_heads();
        let spec = SliceSpec {
            embedding: assign.embedding,
            layers: assign.layers.clone(),
            groups: Vec::new(),
            head: assign.head,
        };
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
        let span = LayerSpan {
            first_layer: assign.layers.start,
            end_layer: assign.layers.end,
            embedding: assign.embedding,
            head: assign.head,
        };
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
        let needed = slice_bytes(&checkpoint.facts(), &span, &budget)
            .map_err(|e| refusal("slice", e))?
            .total();
        if needed > self.tools.memory_bytes {
            return Err(refusal(
                "memory",
                format_args!(
                    "layers {} to {} need {needed} bytes with their caches, this machine gives {}; raise --memory or take more machines",
                    assign.layers.start, assign.layers.end, self.tools.memory_bytes
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

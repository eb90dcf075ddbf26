//! What a slice is made of, and what it runs on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::groups::GroupSet;

/// The processor side of a slice: threads and instruction set. Neither changes a bit of any result.
#[derive(Clone)]
pub struct Exec {
    /// The threads.
    pub pool: Arc<kernels::Pool>,
    /// The instruction set.
    pub isa: kernels::Isa,
}

/// Which parts of a model a slice holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceSpec {
    /// The embedding: the slice takes token ids.
    pub embedding: bool,
    /// The layers whose trunks it holds; none on an owner of groups or head blocks alone.
    pub layers: Range<u32>,
    /// The expert groups that it holds of each of these layers, in order; empty means all of every layer.
    pub groups: Vec<GroupSet>,
    /// Expert groups that it holds of other layers.
    pub foreign: BTreeMap<u32, GroupSet>,
    /// Final norm and sampling: the slice gives samples.
    pub head: bool,
    /// The head blocks that it holds. `None` means all with `head`, none without.
    pub head_blocks: Option<GroupSet>,
}

/// The type of the attention cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes a value, exact.
    F32,
    /// 2 bytes a value, rounded to nearest even.
    F16,
    /// 36 bytes for 32 values: one byte each, rounded to nearest even, and a 4-byte scale. For heads of whole 32s.
    Q8,
}

/// How much state a slice keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSpec {
    /// Type of keys and values.
    pub kv: KvType,
    /// Pages of 64 positions per attention layer.
    pub pages: u32,
    /// Sequences with recurrent state.
    pub slots: u32,
}

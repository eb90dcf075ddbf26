//! The speed model: seconds per generated token and per prompt token of a plan.
//!
//! Owns the formulas with which plans are compared and predictions printed. It must never look at a clock: everything
//! follows from measured facts.
//!
//! - **Decode**: the stages of one conversation work one after another. A stage takes the longer of reading its bytes, at
//!   a share of the speed that the node measured, and doing its multiply-adds. Bytes read are the trunk, the used experts only, the state twice (read and written), the
//!   attention cache of [`DECODE_POSITIONS`] positions, and on the last stage the head. Between stages goes one row; the
//!   token goes from the last stage to the coordinator and from there to the first.
//! - **A layer with expert groups elsewhere** takes its trunk's time and then that of the slowest holder: `exchange`. The
//!   rows go out in the format that the experts consume, to all holders at once; one partial sum comes back for each
//!   aligned run of groups. The **head** takes as long as its slowest holder; logits come back in 32 bits.
//! - **A hop** takes half the round trip, its bytes at the link's speed, and [`HOP_SOFTWARE_S`]; an exchange the round trip,
//!   its bytes both ways, and [`EXCHANGE_SOFTWARE_S`].
//! - **Prefill**: chunks follow each other through the stages like through a pipe. The first passes them all, each other
//!   one adds the time of the slowest stage. A chunk reads each expert that at least one of its rows is expected to use,
//!   and unpacks each weight once, which takes as long as ten rows more.

use proto::facts::{LayerFacts, ModelFacts};

use crate::memory::CacheBudget;
use crate::{KvType, NodeFacts};

mod exchange;
mod links;
mod predict;

pub(crate) use exchange::{Holder, expected_s};
pub(crate) use links::Links;
pub use predict::predict;

/// Software's share of a hop that no round trip shows, in seconds: packing a frame, waking the stage. Like the exchange's,
/// from the difference between measured and predicted tokens of the `household` bench on loopback and emulated gigabit.
pub const HOP_SOFTWARE_S: f64 = 100e-6;
/// The same of an exchange of expert rows or logits, there and back.
pub const EXCHANGE_SOFTWARE_S: f64 = 200e-6;
/// Round-trip time of a link that nobody measured, in seconds: wired gigabit.
pub const DEFAULT_RTT_S: f64 = 0.5e-3;
/// Bytes per second of a link that nobody measured: wired gigabit.
pub const DEFAULT_LINK_BYTES_PER_S: f64 = 117e6;
/// Bytes per second of a node that nobody measured.
pub const DEFAULT_READ_BYTES_PER_S: f64 = 20e9;
/// Multiply-adds per second of a node that nobody measured.
pub const DEFAULT_MACS_PER_S: f64 = 20e9;
/// Positions in the attention cache that decode is predicted for.
pub const DECODE_POSITIONS: u64 = 1024;
/// Prompt tokens that prefill is predicted for.
const PREFILL_TOKENS: f64 = 1000.0;
/// Share of a token's time that goes into the products whose speed nodes measure; the rest are the delta rule, attention,
/// routing, norms and sampling. From the profile of decode on the 8-layer cut of Qwen3.5-35B-A3B, one thread.
const PRODUCTS_SHARE: f64 = 0.82;
/// Bytes of a weight in Q4_K, the type with which nodes measure themselves.
const Q4_K_BYTES: f64 = 144.0 / 256.0;
/// A node that does one row at this share of its speed with many rows is limited by its arithmetic whatever it reads;
/// portable kernels are.
const ARITHMETIC_SHARE: f64 = 0.7;
/// Rows whose time it takes to bring a weight into the form that rows of a chunk are multiplied with, once a chunk. From
/// the profile of a prompt of 512 tokens (16 rows an expert): unpacking takes some 0.6 of the experts' products.
const UNPACK_ROWS: f64 = 10.0;

/// Bytes that one token reads (and writes) of a layer without its routed experts.
pub(crate) fn trunk_read_bytes(model: &ModelFacts, layer: &LayerFacts, kv: KvType) -> f64 {
    let cache =
        kv.bytes(layer.kv_values_per_position) * DECODE_POSITIONS.min(u64::from(model.context));
    layer.trunk_bytes as f64 + 2.0 * layer.state_bytes_per_sequence as f64 + cache as f64
}

/// Seconds that a node takes for so many bytes and multiply-adds.
pub(crate) fn work_s(node: &NodeFacts, read_bytes: f64, macs: f64) -> f64 {
    let macs_s = macs / node.macs_per_s;
    // Weights of one row a second, were the node's memory without end; it measures with Q4_K.
    if node.read_bytes_per_s / Q4_K_BYTES > ARITHMETIC_SHARE * node.macs_per_s {
        return macs_s;
    }
    let read_s = read_bytes / (node.read_bytes_per_s * PRODUCTS_SHARE);
    read_s.max(macs_s)
}

/// Of `held` experts those that a chunk of `rows` rows is expected to use at least once.
fn touched(model: &ModelFacts, held: f64, rows: f64) -> f64 {
    let experts = f64::from(model.experts.max(1));
    let missed = (1.0 - f64::from(model.experts_used) / experts).powf(rows);
    held * (1.0 - missed)
}

/// Rows of a chunk in a prediction.
fn chunk_rows(budget: &CacheBudget) -> f64 {
    f64::from(budget.chunk_rows).clamp(1.0, PREFILL_TOKENS)
}

//! Runs a slice of a model: rows in, rows or samples out.
//!
//! A [`Slice`] is any range of layers with any subset of their expert groups, with or without embedding and
//! head, and any expert groups of other layers and blocks of the head beside. It is sans-IO: [`Slice::begin`] takes a step, [`Run::poll`] computes until it needs something from
//! elsewhere or is done, [`Run::provide`] brings it. The engine knows no peer, no clock and no disk; the same
//! input gives the same bits, whoever calls and however the model is split.

mod attention;
mod delta;
mod dense;
mod error;
mod exchange;
mod groups;
mod head;
mod load;
mod masks;
mod moe;
mod pool;
mod rows;
mod run;
mod sample;
mod scratch;
mod sequences;
mod slice;
mod spec;
mod weights;

pub use error::EngineError;
pub use exchange::{ExpertRequest, OwnerRows, Partials, Routes};
pub use groups::{GroupSet, Subtree};
pub use head::{HeadPart, HeadRequest};
pub use run::{Input, Poll, Run};
pub use slice::{Footprint, Slice};
pub use spec::{CacheSpec, Exec, KvType, SliceSpec};

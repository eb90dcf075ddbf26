//! Who runs what: a pure function from measured facts to a plan.
//!
//! Owns the memory model of a slice ([`memory`]), the speed model ([`speed`]), the search over stage orders and layer
//! cuts, and the words in which a plan explains itself. It must never measure, read a file, look at a clock or draw a
//! random number: the same request gives the same plan, in whatever order its nodes are listed.
//!
//! The one idea: the bytes that the planner counts are computed by the very function with which a node guards its
//! allowance ([`memory::slice_bytes`]), so a plan that was accepted is a plan that loads.

mod check;
mod decide;
mod error;
mod fill;
pub mod memory;
mod outcome;
mod parts;
mod reasons;
mod request;
mod search;
pub mod size;
pub mod speed;
pub mod table;

pub use check::{adopt, check};
pub use decide::plan;
pub use error::PlanError;
pub use memory::{CacheBudget, Holding, LayerSpan, SliceBytes, holding_bytes, slice_bytes};
pub use outcome::{ExpertsPlan, HeadBlocksPlan, LeftOut, Plan, Prediction, StagePlan};
pub use parts::Part;
pub use request::{KvType, LinkFacts, NodeFacts, PlanMode, PlanRequest, WordError};

#[cfg(test)]
mod tests;

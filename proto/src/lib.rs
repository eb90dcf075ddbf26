//! Words, wire layouts and bounds shared by every Hearth program.
//!
//! Owns the identifiers, the caps on everything that comes from outside, the layout of data-plane frames
//! and the facts about a model that the planner and the tools reason with. Depends on nothing of ours,
//! opens no socket and no file. The one idea: bytes become a checked type once, here, and nobody checks again.

pub mod bulk;
pub mod control;
pub mod facts;
pub mod frame;
mod frame_codec;
mod groups;
pub mod ids;
pub mod limits;
pub mod mask;
pub mod step;

pub use groups::GroupSet;
pub use ids::{Epoch, NodeId, PersonId, RequestId, SequenceId, StepId};

//! Control-plane messages between nodes and coordinator, and the two messages of pairing.
//!
//! Owns what a message may say: the generated types in [`wire`] have every field optional and unbounded, the
//! types here have passed the checks. Must never open a socket. The one idea: `wire` becomes a checked type
//! in [`check`](self), once, and goes back to `wire` clipped to the same caps, so that what we send is accepted.

use std::net::SocketAddr;
use std::ops::Range;

use thiserror::Error;

use crate::ids::{Epoch, NodeId};

mod check;
mod weights;
mod write;

pub use weights::{Held, Source, Sources, Wares};

/// The version of the control messages that this program speaks.
pub const CONTROL_PROTOCOL: u32 = 1;
/// Version of the pairing messages.
pub const PAIRING_PROTOCOL: u32 = 1;

/// Bytes of a stable code such as `invite_used`.
pub const CODE_BYTES_MAX: usize = 64;
/// Bytes of a short description: a program version, an operating system, a household's name.
pub const LABEL_BYTES_MAX: usize = 128;
/// Bytes of an explanation.
pub const TEXT_BYTES_MAX: usize = 2048;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest lease that a coordinator may grant, in milliseconds.
pub const LEASE_MS_MAX: u64 = 3_600_000;
/// Bytes of an invite's secret.
pub const SECRET_BYTES: usize = 16;

/// The generated messages. Only this crate and `transport` name them.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated from control.proto, where the messages are described"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/hearth.control.v1.rs"));
}

/// What a node says.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeMessage {
    /// First message: what the node is and offers.
    Hello(Hello),
    /// Renews the lease.
    Beat(Beat),
    /// How far the loading of an assigned slice is.
    Load(LoadProgress),
    /// The slice of this epoch can be used.
    Loaded(Loaded),
    /// The slice of this epoch could not be loaded.
    LoadFailed(LoadFailed),
    /// A neighbour in the pipeline cannot be reached any more.
    PeerLost(PeerLost),
    /// The node wants to go and asks to be drained.
    Leave,
    /// The node has not got the model of this epoch and asks where its shards are.
    Seek(Epoch),
    /// What the node can lend.
    Held(Held),
}

/// What a node is and what it offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// [`CONTROL_PROTOCOL`] of the node's program.
    pub protocol: u32,
    /// The name that the owner gave the machine.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Operating system.
    pub os: String,
    /// CPU architecture.
    pub arch: String,
    /// Instruction set that the kernels use.
    pub kernels: String,
    /// Threads that compute.
    pub threads: u32,
    /// Bytes offered for weights, caches and scratch.
    pub memory_bytes: u64,
    /// Measured memory bandwidth, bytes per second.
    pub read_bytes_per_s: f64,
    /// Measured arithmetic, multiply-adds per second.
    pub macs_per_s: f64,
    /// Addresses of the node's mesh socket beside the one that the coordinator sees.
    pub addresses: Vec<SocketAddr>,
}

/// Live figures of a node; each beat renews its lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// Bytes of memory that the machine could still give.
    pub free_memory_bytes: u64,
    /// Bytes that the node's process has resident.
    pub resident_bytes: u64,
    /// Steps run since the start.
    pub steps: u64,
    /// Rows run since the start.
    pub rows: u64,
    /// Sequences in the cache.
    pub sequences: u32,
    /// Microseconds spent computing since the start.
    pub busy_us: u64,
}

/// Progress of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Epoch of the assignment.
    pub epoch: Epoch,
    /// Bytes in memory.
    pub done_bytes: u64,
    /// Bytes to load.
    pub total_bytes: u64,
}

/// A slice that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Epoch of the assignment.
    pub epoch: Epoch,
    /// Bytes of weights and caches that it takes.
    pub resident_bytes: u64,
}

/// A slice that could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailed {
    /// Epoch of the assignment.
    pub epoch: Epoch,
    /// Stable code.
    pub code: String,
    /// What failed and what to do.
    pub text: String,
}

/// A neighbour that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLost {
    /// Epoch in which it was a neighbour.
    pub epoch: Epoch,
    /// Who is lost.
    pub node: NodeId,
    /// Why.
    pub text: String,
}

/// What a coordinator says.
#[derive(Debug, Clone, PartialEq)]
pub enum CoordinatorMessage {
    /// The node is in.
    Welcome(Welcome),
    /// Load this slice and run it.
    Assign(Box<Assign>),
    /// Drop the slice of this epoch.
    Release {
        /// Epoch of the assignment.
        epoch: Epoch,
    },
    /// The node has nothing to run any more and may go.
    Drain,
    /// The node cannot come in.
    Refused(Refused),
    /// The node is a member no more.
    Kicked {
        /// Why.
        text: String,
    },
    /// Where the shards of an epoch's model are.
    Sources(Sources),
    /// To whom the node may lend; replaces what was said before.
    Lend(Vec<NodeId>),
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The node is lost when nothing was heard of it for this long, in milliseconds.
    pub lease_ms: u64,
    /// The household's name.
    pub household: String,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Stable code.
    pub code: String,
    /// What to do.
    pub text: String,
}

/// Type of the values in the attention cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Blocks of 8-bit integers.
    Q8,
}

/// A node and where its mesh socket may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Where; empty means that it is expected to dial.
    pub addresses: Vec<SocketAddr>,
}

/// One stage of a plan, for the node that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    /// Epoch of the plan.
    pub epoch: Epoch,
    /// Where the model lies for the coordinator; the node must be able to read it under the same path.
    pub model_path: String,
    /// Bytes of all model files.
    pub model_bytes: u64,
    /// BLAKE3 of headers and tensor tables.
    pub model_blake3: [u8; 32],
    /// The layers of the stage.
    pub layers: Range<u32>,
    /// Whether the stage has the embedding.
    pub embedding: bool,
    /// Whether the stage has final norm and head.
    pub head: bool,
    /// Type of the attention cache.
    pub kv: CacheType,
    /// Cache pages of 64 positions.
    pub pages: u32,
    /// Slots of recurrent state.
    pub slots: u32,
    /// Positions per sequence.
    pub context: u32,
    /// Most rows of one prompt chunk.
    pub chunk_rows: u32,
    /// The stage before, if any.
    pub previous: Option<Peer>,
    /// The stage after, if any.
    pub next: Option<Peer>,
    /// The first stage, where it is another node.
    pub first: Option<Peer>,
    /// Where samples and faults go.
    pub coordinator: NodeId,
}

/// What an unknown device sends to become a member.
#[derive(Clone, PartialEq, Eq)]
pub struct PairRequest {
    /// The invite's secret.
    pub secret: [u8; SECRET_BYTES],
    /// The name that the owner gave the machine.
    pub name: String,
}

impl std::fmt::Debug for PairRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairRequest")
            .field("secret", &"(masked)")
            .field("name", &self.name)
            .finish()
    }
}

/// The answer to a pairing request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairReply {
    /// The device is a member now.
    Accepted,
    /// It is not.
    Refused(Refused),
}

/// A message that says what no message may say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("control message field '{field}' is {got}, expected {expected}")]
pub struct ControlMessageError {
    /// The field.
    pub field: &'static str,
    /// What came, shortened.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

#[cfg(test)]
mod tests;

//! Control-plane messages between nodes and coordinator; those of pairing are in [`pairing`].
//!
//! Owns what a message may say: the generated types in [`wire`] have every field optional and unbounded, the
//! types here have passed the checks. Must never open a socket. The one idea: `wire` becomes a checked type
//! in [`check`](self), once, and goes back to `wire` clipped to the same caps, so that what we send is accepted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use thiserror::Error;

use crate::groups::GroupSet;
use crate::ids::{Epoch, NodeId};

mod check;
pub mod pairing;
mod weights;
mod write;

pub use weights::{Held, Source, Sources, Wares};

/// The version of the control messages that this program speaks.
pub const CONTROL_PROTOCOL: u32 = 2;

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
/// Longest round trip that is believed, in seconds.
pub const RTT_S_MAX: f64 = 60.0;

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
    /// What the node gives has changed: a planned change, not a fault.
    Offer(Offer),
    /// A link was measured, or could not be.
    Measured(Measured),
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
    /// Why the node takes no part for now, by its owner's terms; empty if it does.
    pub paused: String,
}

/// What a node gives from now on, in place of what its hello said.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Bytes offered for weights, caches and scratch.
    pub memory_bytes: u64,
    /// Threads that compute.
    pub threads: u32,
    /// Measured memory bandwidth with these threads, bytes per second.
    pub read_bytes_per_s: f64,
    /// Measured arithmetic with these threads, multiply-adds per second.
    pub macs_per_s: f64,
    /// Why the node takes no part for now; empty if it does.
    pub paused: String,
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

/// What came of [`Measure`].
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// As in the request.
    pub ticket: u64,
    /// The other end.
    pub node: NodeId,
    /// What was found, or why nothing was.
    pub link: Result<LinkRates, String>,
}

/// A link as one end has measured it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkRates {
    /// Seconds from program to program and back; at most [`RTT_S_MAX`].
    pub rtt_s: f64,
    /// Bytes per second from the reporting node to the other, at least 1.
    pub out_bytes_per_s: f64,
    /// Bytes per second from the other node to the reporting one, at least 1.
    pub in_bytes_per_s: f64,
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
    /// Measure a link, or let it be measured.
    Measure(Measure),
}

/// One link that is to be measured. The other end is told as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// Comes back with the result.
    pub ticket: u64,
    /// The other end.
    pub peer: Peer,
    /// Whether to dial and report, rather than to expect the peer.
    pub dial: bool,
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

/// A node that has what a stage lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub peer: Peer,
    /// Expert groups by layer of the stage.
    pub groups: BTreeMap<u32, GroupSet>,
    /// Head blocks, where the stage is the last.
    pub head_blocks: GroupSet,
}

/// One node's part of a plan.
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
    /// The layers of the stage; none for a node that holds only for others.
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
    /// Who has expert groups and head blocks that the stage lacks; what none of them has is with the stage.
    pub owners: Vec<Owner>,
    /// Expert groups of other layers that the node holds.
    pub foreign: BTreeMap<u32, GroupSet>,
    /// Head blocks that the node holds without being the last stage.
    pub head_blocks: GroupSet,
    /// Who may ask for these groups and blocks.
    pub askers: Vec<Peer>,
}

impl Assign {
    /// Expert groups of a layer of the stage that other nodes have.
    #[must_use]
    pub fn given_groups(&self, layer: u32) -> GroupSet {
        let of_owner = |owner: &Owner| owner.groups.get(&layer).copied().unwrap_or_default();
        self.owners
            .iter()
            .map(of_owner)
            .fold(GroupSet::none(), GroupSet::and)
    }

    /// Head blocks of the stage that other nodes have.
    #[must_use]
    pub fn given_blocks(&self) -> GroupSet {
        let blocks = self.owners.iter().map(|owner| owner.head_blocks);
        blocks.fold(GroupSet::none(), GroupSet::and)
    }

    /// Every other node that frames are exchanged with.
    pub fn neighbours(&self) -> impl Iterator<Item = &Peer> {
        let stages = self.previous.iter().chain(&self.next);
        let owners = self.owners.iter().map(|owner| &owner.peer);
        stages.chain(owners).chain(&self.askers)
    }
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

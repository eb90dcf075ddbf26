//! The data plane: frames between this device and the neighbours of the current plan.
//!
//! Owns one link per neighbour, with one long-lived stream per class and direction: decode, then expert, then prefill.
//! Must never look into a step: it checks that a frame is well-formed and hands it on. Queued frames are lost
//! when a link goes down; who sent them learns it by the event.
//!
//! Which connection stays: either side dials. The smaller id refuses a connection of the larger while it
//! dials itself, and the larger always takes that of the smaller; so the one that the smaller dialled stays,
//! and both sides agree on it before the first frame.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use proto::NodeId;
use proto::control::Peer;
use proto::frame::{Frame, StreamClass};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::endpoint::Shared;
use crate::error::{CloseCode, SendError};

mod link;
mod peer;
mod streams;

use link::Queues;
use peer::PeerTask;

/// Frames and changes that the daemon has not yet taken; beyond that, senders wait.
const EVENT_QUEUE: usize = 64;
/// Connections of one peer that wait to be judged.
const INCOMING_QUEUE: usize = 4;

/// What comes out of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshEvent {
    /// A frame came. Frames of one class of one node come in the order in which they were sent.
    Frame {
        /// Whose key the link has proven.
        from: NodeId,
        /// The frame.
        frame: Frame,
    },
    /// Frames can be exchanged with this node.
    Up(NodeId),
    /// No longer; it is dialled again as long as it is among the peers.
    Down {
        /// Which node.
        node: NodeId,
        /// Why.
        reason: String,
    },
}

/// The data plane; clones share it.
#[derive(Debug, Clone)]
pub struct Mesh(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    events: mpsc::Sender<MeshEvent>,
    peers: RwLock<HashMap<NodeId, Entry>>,
    /// Tells a peer that has restarted from one that dialled twice.
    instance: u64,
}

#[derive(Debug)]
struct Entry {
    addresses: watch::Sender<Vec<std::net::SocketAddr>>,
    incoming: mpsc::Sender<quinn::Connection>,
    queues: Arc<Slot>,
    stop: CancellationToken,
}

/// Where the queues of the current link are found; empty while there is none.
type Slot = RwLock<Option<Queues>>;

impl Mesh {
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<MeshEvent>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let mesh = Self(Arc::new(Inner {
            shared,
            events,
            peers: RwLock::default(),
            instance: rand::random(),
        }));
        (mesh, receiver)
    }

    /// Sets who may exchange frames with us: these are dialled where an address is known, and accepted;
    /// all others are dropped and refused. Peers that stay keep their link. Our own id is skipped.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        let wanted: HashMap<NodeId, Vec<_>> = peers
            .into_iter()
            .filter(|peer| peer.node != self.0.shared.node)
            .map(|peer| (peer.node, peer.addresses))
            .collect();
        let mut entries = self.0.peers.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|node, entry| {
            let stays = wanted.contains_key(node);
            if !stays {
                entry.stop.cancel();
            }
            stays
        });
        for (node, addresses) in wanted {
            match entries.get(&node) {
                Some(entry) => {
                    entry.addresses.send_if_modified(|known| {
                        let changed = *known != addresses;
                        *known = addresses;
                        changed
                    });
                }
                None => {
                    let entry = self.start(node.clone(), addresses);
                    entries.insert(node, entry);
                }
            }
        }
    }

    fn start(&self, node: NodeId, addresses: Vec<std::net::SocketAddr>) -> Entry {
        let (addresses, known) = watch::channel(addresses);
        let (incoming, arrivals) = mpsc::channel(INCOMING_QUEUE);
        let queues = Arc::new(Slot::default());
        let stop = self.0.shared.stop.child_token();
        let task = PeerTask {
            shared: Arc::clone(&self.0.shared),
            events: self.0.events.clone(),
            instance: self.0.instance,
            node,
            addresses: known,
            arrivals,
            queues: Arc::clone(&queues),
            stop: stop.clone(),
        };
        self.0.shared.tasks.spawn(task.run());
        Entry {
            addresses,
            incoming,
            queues,
            stop,
        }
    }

    /// Takes over a connection that a device has dialled, if it is one of the peers.
    pub(crate) fn incoming(&self, node: &NodeId, connection: quinn::Connection) {
        let entries = self.0.peers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(node) else {
            let reason = "this device is no neighbour in the current plan";
            return CloseCode::NotMember.close(&connection, reason);
        };
        if let Err(error) = entry.incoming.try_send(connection) {
            CloseCode::Busy.close(&error.into_inner(), "too many connections of one device");
        }
    }

    /// Hands a frame to the stream of its class; waits while the queue is full.
    ///
    /// # Errors
    /// When the node is not among the peers, or there is no link at the moment.
    pub async fn send(&self, to: &NodeId, frame: &Frame) -> Result<(), SendError> {
        self.0.shared.probes.give_way();
        let queue = self.queue(to, frame.class())?;
        let frame = Bytes::from(frame.encode());
        let sent = queue.send(frame).await;
        sent.map_err(|_| SendError::Down(to.clone()))
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`Mesh::send`], and when the queue is full.
    pub fn try_send(&self, to: &NodeId, frame: &Frame) -> Result<(), SendError> {
        self.0.shared.probes.give_way();
        let queue = self.queue(to, frame.class())?;
        let place = queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => SendError::Full(to.clone()),
            mpsc::error::TrySendError::Closed(()) => SendError::Down(to.clone()),
        })?;
        place.send(Bytes::from(frame.encode()));
        Ok(())
    }

    /// Whether there is a link to the node.
    #[must_use]
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.queue(node, StreamClass::Decode).is_ok()
    }

    fn queue(&self, to: &NodeId, class: StreamClass) -> Result<mpsc::Sender<Bytes>, SendError> {
        let entries = self.0.peers.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries
            .get(to)
            .ok_or_else(|| SendError::NotAPeer(to.clone()))?;
        let queues = entry.queues.read().unwrap_or_else(PoisonError::into_inner);
        let queues = queues.as_ref().ok_or_else(|| SendError::Down(to.clone()))?;
        Ok(queues.of(class).clone())
    }
}

//! Builders: sockets with short times, frames, and a device that speaks bytes of its own choice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::{Keypair, PeerId};
use proto::control::{CONTROL_PROTOCOL, Hello, Peer};
use proto::frame::{CloseFrame, Frame, RowsFrame};
use proto::step::{Logits, Segment, Step, StepClass};
use proto::{Epoch, NodeId, SequenceId, StepId};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::sync::mpsc;
use transport::{Identity, MeshEvent, Role, Settings, Sockets, Timing};

/// Longer than anything takes, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn timing() -> Timing {
    Timing {
        keep_alive: Duration::from_millis(300),
        idle: Duration::from_secs(3),
        dial: Duration::from_secs(5),
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(200),
    }
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn open_at(identity: &Identity, role: Role, bind: SocketAddr) -> Sockets {
    let settings = Settings {
        bind,
        role,
        timing: timing(),
    };
    transport::open(identity, settings).unwrap()
}

pub fn open(role: Role) -> Sockets {
    open_at(&Identity::generate(), role, loopback())
}

pub fn peer(sockets: &Sockets) -> Peer {
    Peer {
        node: sockets.endpoint.node_id().clone(),
        addresses: vec![sockets.endpoint.local_addr()],
    }
}

/// Somebody who is expected to dial.
pub fn silent(node: &NodeId) -> Peer {
    Peer {
        node: node.clone(),
        addresses: Vec::new(),
    }
}

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("it did not happen in time")
}

pub async fn event(events: &mut mpsc::Receiver<MeshEvent>) -> MeshEvent {
    soon(events.recv()).await.expect("the mesh lives")
}

pub async fn frame(events: &mut mpsc::Receiver<MeshEvent>) -> Frame {
    match event(events).await {
        MeshEvent::Frame { frame, .. } => frame,
        other => panic!("a frame was expected, this came: {other:?}"),
    }
}

pub async fn up(events: &mut mpsc::Receiver<MeshEvent>, node: &NodeId) {
    assert_eq!(event(events).await, MeshEvent::Up(node.clone()));
}

/// Waits for the loss of a node and gives the reason.
pub async fn down(events: &mut mpsc::Receiver<MeshEvent>, expected: &NodeId) -> String {
    match event(events).await {
        MeshEvent::Down { node, reason } if node == *expected => reason,
        other => panic!("a loss was expected, this came: {other:?}"),
    }
}

/// Rows of a step; `class` decides the stream.
pub fn rows(id: u64, class: StepClass, rows: u32, cols: u32) -> Frame {
    let segment = Segment {
        sequence: SequenceId(1),
        slot: 0,
        start: 0,
        rows,
        logits: Logits::Last,
        commit: 0,
        provisional: 0,
        pages: Vec::new(),
        open: None,
    };
    Frame::Rows(RowsFrame {
        step: Step {
            epoch: Epoch(1),
            id: StepId(id),
            class,
            segments: vec![segment],
            tokens: vec![7; rows as usize],
        },
        layer: 4,
        cols,
        rows: (0..rows * cols).map(|i| (i % 1000) as f32 * 0.5).collect(),
    })
}

pub fn close_of(sequence: u64) -> Frame {
    Frame::Close(CloseFrame {
        epoch: Epoch(1),
        sequences: vec![SequenceId(sequence)],
    })
}

pub fn hello(name: &str) -> Hello {
    Hello {
        protocol: CONTROL_PROTOCOL,
        name: name.into(),
        version: "0.1.0".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        kernels: "scalar".into(),
        threads: 2,
        memory_bytes: 1 << 30,
        read_bytes_per_s: 1e10,
        macs_per_s: 1e10,
        addresses: Vec::new(),
        paused: String::new(),
    }
}

/// A device with a key of its own that is not bound to our programs' manners.
pub struct Rogue {
    keypair: Keypair,
    endpoint: quinn::Endpoint,
}

impl Rogue {
    pub fn new() -> Self {
        Self {
            keypair: Keypair::generate_ed25519(),
            endpoint: quinn::Endpoint::client(loopback()).unwrap(),
        }
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::new(self.keypair.public().to_peer_id().to_base58()).unwrap()
    }

    pub async fn dial(&self, at: &Sockets, plane: &str) -> quinn::Connection {
        let expected: PeerId = at.endpoint.node_id().as_str().parse().unwrap();
        let mut tls = libp2p_tls::make_client_config(&self.keypair, Some(expected)).unwrap();
        tls.alpn_protocols = vec![plane.as_bytes().to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let address = at.endpoint.local_addr();
        let connecting = self.endpoint.connect_with(config, address, "hearth");
        soon(connecting.unwrap()).await.unwrap()
    }
}

/// The code and reason with which the other side closes a connection.
pub async fn closed(connection: &quinn::Connection) -> (u64, String) {
    match soon(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => (
            close.error_code.into_inner(),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        other => panic!("it was not closed by the other program: {other}"),
    }
}

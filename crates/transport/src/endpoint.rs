//! The one UDP socket of a process: who comes in, and where they are led.
//!
//! Owns the socket, the accept loop and the shutdown of every task of this crate. Must never read application
//! data itself: a connection is judged by key and plane and then belongs to `control`, `mesh` or `pairing`.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bulk::Lending;
use crate::control::{ControlPeer, ControlServer};
use crate::dial::Dialler;
use crate::error::{CloseCode, TransportError, describe};
use crate::identity::Identity;
use crate::members::Members;
use crate::mesh::{Mesh, MeshEvent};
use crate::pairing::{Codes, PairingDesk, PairingRequest};
use crate::probe::{self, Probes};
use crate::tls::{self, Plane};
use crate::tuning::{self, Path, Timing};

/// Handshakes under way at once; beyond that, newcomers are turned away and try again.
const HANDSHAKES_MAX: usize = 64;
/// Handshakes under way from which a newcomer has to prove its address first.
const HANDSHAKES_UNPROVEN_MAX: usize = 16;
/// Time for all tasks to end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Control connections that the daemon has not yet taken.
const CONTROL_QUEUE: usize = 64;

/// Which planes are offered to those who dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Control, data, bulk and pairing.
    Coordinator,
    /// Data and bulk, and probes of links.
    Node,
}

/// What a socket is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address and UDP port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Which planes are offered.
    pub role: Role,
    /// How long to wait for what.
    pub timing: Timing,
}

/// An open socket and what comes out of it.
#[derive(Debug)]
pub struct Sockets {
    /// Dials, knows the members, closes.
    pub endpoint: Endpoint,
    /// Sends frames.
    pub mesh: Mesh,
    /// Frames that came, peers that came and went.
    pub mesh_events: mpsc::Receiver<MeshEvent>,
    /// Nodes that opened the control plane; silent on a node.
    pub control: mpsc::Receiver<ControlPeer>,
    /// Devices that ask to become members; silent on a node.
    pub pairing: mpsc::Receiver<PairingRequest>,
}

/// The socket; clones share it.
#[derive(Debug, Clone)]
pub struct Endpoint(pub(crate) Arc<Shared>);

/// What all tasks of the crate share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub node: NodeId,
    pub local: SocketAddr,
    pub dialler: Dialler,
    pub members: Members,
    pub lending: Lending,
    pub codes: Codes,
    pub probes: Probes,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

/// Where an accepted connection goes.
#[derive(Debug)]
struct Routes {
    mesh: Mesh,
    control: Option<ControlServer>,
    pairing: Option<PairingDesk>,
    servers: [Arc<quinn::ServerConfig>; 2],
}

/// Opens the socket and starts to accept. Must be called inside a tokio runtime.
///
/// # Errors
/// When the port is taken or the address is not ours, when no certificate can be made, or when the timings
/// contradict each other.
pub fn open(identity: &Identity, settings: Settings) -> Result<Sockets, TransportError> {
    let idle = settings.timing.check()?;
    let planes: &[Plane] = match settings.role {
        Role::Coordinator => &[Plane::Tensor, Plane::Control, Plane::Pairing, Plane::Bulk],
        Role::Node => &[Plane::Tensor, Plane::Probe, Plane::Bulk],
    };
    let server = tls::server(identity, planes)?;
    let servers = [Path::Loopback, Path::Wire].map(|path| {
        let mut server = server.clone();
        server.transport_config(tuning::transport(&settings.timing, idle, path));
        Arc::new(server)
    });
    let endpoint = bind(settings.bind, server)?;
    let local = endpoint
        .local_addr()
        .map_err(|source| TransportError::Bind {
            address: settings.bind,
            source,
        })?;
    let shared = Arc::new(Shared {
        node: identity.node_id().clone(),
        local,
        dialler: Dialler {
            endpoint: endpoint.clone(),
            identity: identity.clone(),
            timing: settings.timing,
            idle,
        },
        members: Members::new(),
        lending: Lending::new(),
        codes: Codes::default(),
        probes: Probes::new(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    let (mesh, mesh_events) = Mesh::new(Arc::clone(&shared));
    let (control_out, control) = mpsc::channel(CONTROL_QUEUE);
    let (pairing_out, pairing) = mpsc::channel(proto::limits::PAIRING_PEERS_MAX);
    let offers = settings.role == Role::Coordinator;
    let routes = Arc::new(Routes {
        mesh: mesh.clone(),
        control: offers.then(|| ControlServer::start(&shared, control_out)),
        pairing: offers
            .then(|| PairingDesk::new(pairing_out, shared.codes.clone(), shared.node.clone())),
        servers,
    });
    shared
        .tasks
        .spawn(accept(Arc::clone(&shared), routes, endpoint));
    Ok(Sockets {
        endpoint: Endpoint(shared),
        mesh,
        mesh_events,
        control,
        pairing,
    })
}

fn bind(
    address: SocketAddr,
    server: quinn::ServerConfig,
) -> Result<quinn::Endpoint, TransportError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => TransportError::PortInUse { address },
        _ => TransportError::Bind { address, source },
    };
    let socket = open_socket(address).map_err(failed)?;
    enlarge_buffers(&socket);
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(tuning::LOOPBACK_PAYLOAD_BYTES)
        .map_err(|error| failed(io::Error::other(error)))?;
    let runtime = quinn::default_runtime()
        .ok_or_else(|| failed(io::Error::other("no asynchronous runtime")))?;
    quinn::Endpoint::new(config, Some(server), socket, runtime).map_err(failed)
}

/// A socket on every IPv6 address also hears IPv4, whatever the system's habit.
fn open_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    if !address.is_ipv6() || !address.ip().is_unspecified() {
        return UdpSocket::bind(address);
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks for larger socket buffers. The system may give less; then bursts are merely sent again.
fn enlarge_buffers(socket: &UdpSocket) {
    let result = quinn::udp::UdpSocketState::new(socket.into()).and_then(|state| {
        state.set_recv_buffer_size(socket.into(), tuning::SOCKET_BUFFER_BYTES)?;
        state.set_send_buffer_size(socket.into(), tuning::SOCKET_BUFFER_BYTES)
    });
    if let Err(error) = result {
        tracing::debug!(%error, "the socket keeps its small buffers");
    }
}

/// Where the other side of a connection is, without the disguise that an IPv4 address wears on an IPv6 socket.
pub(crate) fn remote_of(connection: &quinn::Connection) -> SocketAddr {
    plain(connection.remote_address())
}

/// The address as people write it.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => v6
            .ip()
            .to_ipv4_mapped()
            .map_or(address, |ip| SocketAddr::from((ip, v6.port()))),
        SocketAddr::V4(_) => address,
    }
}

impl Endpoint {
    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Our own id.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.0.node
    }

    /// Who may open the control plane here.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.0.members
    }

    /// The short code with which a device may pair here.
    #[must_use]
    pub fn codes(&self) -> &Codes {
        &self.0.codes
    }

    /// Connections that are open or closing.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.dialler.endpoint.open_connections()
    }

    /// Ends every connection and task, waiting at most two seconds. May be called more than once.
    pub async fn close(&self) {
        let endpoint = &self.0.dialler.endpoint;
        let code = quinn::VarInt::from_u32(CloseCode::Shutdown as u32);
        // First the connections, so that the peers read this reason and no other.
        endpoint.close(code, b"the program ends");
        self.0.stop.cancel();
        self.0.tasks.close();
        let all = async {
            self.0.tasks.wait().await;
            endpoint.wait_idle().await;
        };
        if tokio::time::timeout(CLOSE_DEADLINE, all).await.is_err() {
            match self.0.tasks.len() {
                // Only the other side's last words are outstanding.
                0 => tracing::debug!("the mesh socket closed late"),
                tasks => tracing::warn!(tasks, "the mesh socket closed late"),
            }
        }
    }
}

async fn accept(shared: Arc<Shared>, routes: Arc<Routes>, endpoint: quinn::Endpoint) {
    let free = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let incoming = tokio::select! {
            () = shared.stop.cancelled() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let crowded = free.available_permits() < HANDSHAKES_MAX - HANDSHAKES_UNPROVEN_MAX;
        if crowded && incoming.may_retry() && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            continue;
        }
        match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => {
                let (shared, routes) = (Arc::clone(&shared), Arc::clone(&routes));
                let tasks = shared.tasks.clone();
                tasks.spawn(async move {
                    let stop = shared.stop.clone();
                    stop.run_until_cancelled(lead(&shared, &routes, incoming, permit))
                        .await;
                });
            }
            Err(_) => incoming.refuse(),
        }
    }
}

/// Finishes a handshake, judges the peer, and hands the connection on.
async fn lead(
    shared: &Arc<Shared>,
    routes: &Routes,
    incoming: quinn::Incoming,
    permit: OwnedSemaphorePermit,
) {
    let address = plain(incoming.remote_address());
    let [loopback, wire] = &routes.servers;
    let server = match Path::to(address) {
        Path::Loopback => loopback,
        Path::Wire => wire,
    };
    let Ok(connecting) = incoming.accept_with(Arc::clone(server)) else {
        return;
    };
    let connection = match tokio::time::timeout(shared.dialler.timing.dial, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let reason = describe(&error);
            return tracing::debug!(%address, reason, "a handshake failed");
        }
        Err(_) => return tracing::debug!(%address, "a handshake took too long"),
    };
    drop(permit);
    let Some((node, plane)) = tls::admitted(&connection) else {
        return CloseCode::Malformed.close(&connection, "no key and plane were shown");
    };
    match (plane, &routes.control, &routes.pairing) {
        (Plane::Tensor, _, _) => routes.mesh.incoming(&node, connection),
        (Plane::Control, Some(control), _) if shared.members.contains(&node) => {
            control.serve(shared, connection, node).await;
        }
        (Plane::Bulk, ..) if shared.lending.admits(shared, &node) => {
            shared.lending.serve(shared, connection, node).await;
        }
        (Plane::Pairing, _, Some(desk)) => desk.serve(connection, node).await,
        (Plane::Probe, None, _) => probe::answer(shared, connection, node).await,
        _ => {
            tracing::debug!(%address, %node, "a stranger was refused");
            CloseCode::NotMember.close(&connection, shared.members.refusal(&node));
        }
    }
}

//! A link between two UDP sockets on loopback, for hosts where no namespaces can be made.
//!
//! Carries datagrams of one client to one server and back; a household needs one such link for each node and reaches its
//! coordinator alone through it. Nodes behind several of them do not find each other: that takes a [`super::Rig`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use super::relay::{Got, Port, Relay, Report};
use super::{Link, Route, Switch, WIRE_BYTES};

/// Bytes of the headers that a datagram would have on a wire: Ethernet, IPv4 and UDP.
const HEADER_BYTES: usize = 14 + 20 + 8;

/// A running link.
#[derive(Debug)]
pub struct UdpRelay {
    address: SocketAddr,
    relay: Relay,
}

impl UdpRelay {
    /// Listens at `listen` (port 0 takes any) and passes on to `server`, both with this link. Answers go to whoever
    /// spoke last.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(
        listen: SocketAddr,
        server: SocketAddr,
        link: Link,
        seed: u64,
    ) -> io::Result<Self> {
        let near = UdpSocket::bind(listen)?;
        let address = near.local_addr()?;
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        far.connect(server)?;
        for socket in [&near, &far] {
            socket.set_nonblocking(true)?;
        }
        let client = Client {
            socket: near,
            last: Mutex::new(None),
        };
        let switch = Switch::new(Route::Across, &[link; 2], seed, HEADER_BYTES + WIRE_BYTES);
        let relay = Relay::start(switch, vec![Box::new(client), Box::new(Server(far))])?;
        Ok(Self { address, relay })
    }

    /// Where the client sends to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done: port 0 is the client's, port 1 the server's.
    #[must_use]
    pub fn report(&self) -> Report {
        self.relay.report()
    }
}

/// Errors of a UDP socket tell of one datagram (nobody listened), never of the socket.
fn got(result: io::Result<usize>) -> Got {
    result.map_or(Got::Nothing, Got::Frame)
}

struct Client {
    socket: UdpSocket,
    last: Mutex<Option<SocketAddr>>,
}

impl Port for Client {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn recv(&self, buffer: &mut [u8]) -> Got {
        let received = self.socket.recv_from(buffer);
        got(received.map(|(bytes, from)| {
            *self.last.lock().expect("no panic under the lock") = Some(from);
            bytes
        }))
    }

    fn send(&self, frame: &[u8]) {
        if let Some(to) = *self.last.lock().expect("no panic under the lock") {
            // As on a wire: a receiver without room loses it.
            let _lost = self.socket.send_to(frame, to);
        }
    }
}

struct Server(UdpSocket);

impl Port for Server {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn recv(&self, buffer: &mut [u8]) -> Got {
        got(self.0.recv(buffer))
    }

    fn send(&self, frame: &[u8]) {
        let _lost = self.0.send(frame);
    }
}

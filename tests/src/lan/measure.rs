//! What an emulated LAN really does, measured with plain UDP sockets inside its machines.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Link, Rig, WIRE_BYTES};

/// Bytes of a datagram that fills an Ethernet frame.
const FULL_BYTES: usize = 1472;
/// How long a small datagram is waited for before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Figures of the way between two machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Round trips of 64-byte datagrams, smallest first.
    pub rtts: Vec<Duration>,
    /// Small datagrams sent, both ways together, those without an answer included.
    pub asked: u64,
    /// Of those, without an answer.
    pub unanswered: u64,
    /// Bytes of full datagrams that arrived per second, in bits.
    pub bits_per_s: f64,
}

impl Figures {
    /// The round trip that this part of all stays below; `None` without any.
    #[must_use]
    pub fn rtt(&self, part: f64) -> Option<Duration> {
        let last = self.rtts.len().checked_sub(1)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a list in memory"
        )]
        let at = (last as f64 * part.clamp(0.0, 1.0)) as usize;
        self.rtts.get(at).copied()
    }
}

/// A socket of a machine on its LAN address.
///
/// # Panics
/// When the machine gives none.
#[must_use]
pub fn socket(rig: &Rig, machine: usize) -> UdpSocket {
    let at = SocketAddr::from((rig.address(machine), 0));
    let socket = rig
        .within(machine, || UdpSocket::bind(at))
        .expect("a machine can be entered")
        .expect("a machine gives a socket");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket has a timeout");
    socket
}

/// Measures between machine 0 and machine 1: `pings` round trips one after the other, then full datagrams for `span`, as
/// many as `link` could carry and a twentieth more.
///
/// # Panics
/// When sockets fail.
#[must_use]
pub fn measure(rig: &Rig, link: &Link, pings: u32, span: Duration) -> Figures {
    let (near, far) = (socket(rig, 0), socket(rig, 1));
    let (here, there) = (near.local_addr(), far.local_addr());
    let (here, there) = (here.expect("bound"), there.expect("bound"));
    let mut figures = Figures {
        rtts: Vec::new(),
        asked: 0,
        unanswered: 0,
        bits_per_s: 0.0,
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| echo(&far, here, &done));
        // The first goes with the search for the other's Ethernet address.
        ping(&near, there, 0);
        for number in 1..=pings {
            figures.asked += 1;
            match ping(&near, there, number) {
                Some(rtt) => figures.rtts.push(rtt),
                None => figures.unanswered += 1,
            }
        }
        done.store(true, Ordering::Release);
    });
    figures.rtts.sort_unstable();
    figures.bits_per_s = flood(&near, &far, there, (link, span));
    figures
}

fn ping(socket: &UdpSocket, to: SocketAddr, number: u32) -> Option<Duration> {
    let mut bytes = [0; 64];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    let begun = Instant::now();
    socket.send_to(&bytes, to).expect("a datagram can be sent");
    let mut answer = [0; 64];
    while let Ok(64) = socket.recv(&mut answer) {
        // One that came after its patience is passed over.
        if answer == bytes {
            return Some(begun.elapsed());
        }
    }
    None
}

fn echo(socket: &UdpSocket, to: SocketAddr, done: &AtomicBool) {
    let mut bytes = [0; 64];
    while !done.load(Ordering::Acquire) {
        if let Ok(count) = socket.recv(&mut bytes) {
            socket
                .send_to(&bytes[..count], to)
                .expect("a datagram can be sent");
        }
    }
}

/// Bits per second of payload that arrive, from just before the first is sent to the last arrival: lateness of any thread
/// only lowers it.
fn flood(
    near: &UdpSocket,
    far: &UdpSocket,
    there: SocketAddr,
    (link, span): (&Link, Duration),
) -> f64 {
    let wire_bits = 8 * (FULL_BYTES + 42 + WIRE_BYTES) as u64;
    let every = Duration::from_nanos(wire_bits * 950_000_000 / link.bits_per_s.max(1));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut bytes = [0; FULL_BYTES];
            let (mut last, mut count) = (begun, 0u32);
            while far.recv(&mut bytes).is_ok() {
                last = Instant::now();
                count += 1;
            }
            (count, last - begun)
        });
        let mut due = Duration::ZERO;
        while due < span {
            while begun.elapsed() < due {
                std::hint::spin_loop();
            }
            due += every;
            // A full interface queue refuses it, as a full cable would.
            let _full = near.send_to(&[0; FULL_BYTES], there);
        }
        let (count, took) = receiver.join().expect("no panic in the receiver");
        f64::from(count) * 8.0 * 1472.0 / took.as_secs_f64().max(1e-9)
    })
}

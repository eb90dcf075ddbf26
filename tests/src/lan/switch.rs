//! The switch in the middle: frames in, frames out with the time when each is due.
//!
//! Holds no socket and no clock. Bounded: what the pipes' queues hold is all that can be here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{Fate, Link, Pipe};

/// How frames find their port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// By their Ethernet destination: `02:48:00:00:HI:LO` is the port with that number, a group address all other ports.
    Ethernet,
    /// From one of two ports to the other.
    Across,
}

/// What has become of the frames that a port sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that its machine sent.
    pub sent: u64,
    /// Frames that were given to its machine.
    pub received: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// Frames lost on its link, upwards and downwards.
    pub lost: u64,
    /// Frames that found its link's queue full, upwards and downwards.
    pub dropped: u64,
}

/// A frame on its way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Duration,
    number: u64,
    /// The port that it came from, while it goes up; the one that it goes to, on its way down.
    port: usize,
    down: bool,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Port {
    up: Pipe,
    down: Pipe,
    counts: Counts,
}

/// The switch with its ports' links.
#[derive(Debug)]
pub struct Switch {
    route: Route,
    /// Added to a frame's length on the wire.
    extra_bytes: usize,
    ports: Vec<Port>,
    flights: BinaryHeap<Reverse<Flight>>,
    numbers: u64,
}

/// The Ethernet address of a port.
#[must_use]
pub fn address_of(port: usize) -> [u8; 6] {
    let [high, low] = u16::try_from(port).unwrap_or(u16::MAX).to_be_bytes();
    [0x02, 0x48, 0, 0, high, low]
}

impl Switch {
    /// A switch with one port for each link. Each direction of each link draws from a stream of its own.
    #[must_use]
    pub fn new(route: Route, links: &[Link], seed: u64, extra_bytes: usize) -> Self {
        let port = |(at, link): (u64, &Link)| Port {
            up: Pipe::new(link.half(), seed.wrapping_mul(1 << 16).wrapping_add(2 * at)),
            down: Pipe::new(
                link.half(),
                seed.wrapping_mul(1 << 16).wrapping_add(2 * at + 1),
            ),
            counts: Counts::default(),
        };
        Self {
            route,
            extra_bytes,
            ports: (0..).zip(links).map(port).collect(),
            flights: BinaryHeap::new(),
            numbers: 0,
        }
    }

    /// Takes a frame that the machine at `port` sent.
    pub fn handle_input(&mut self, now: Duration, port: usize, frame: Vec<u8>) {
        let bytes = self.wire_bytes(&frame);
        let Some(from) = self.ports.get_mut(port) else {
            return;
        };
        from.counts.sent += 1;
        let fate = from.up.offer(now, bytes);
        if let Some(due) = noted(&mut from.counts, fate) {
            self.fly(due, port, false, frame);
        }
    }

    /// When [`Switch::poll_output`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.flights.peek().map(|Reverse(flight)| flight.due)
    }

    /// The next frame that is due by `now`: its port, when it was due, and its bytes.
    pub fn poll_output(&mut self, now: Duration) -> Option<(usize, Duration, Vec<u8>)> {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            let Reverse(flight) = self.flights.pop()?;
            if !flight.down {
                self.turn(flight);
                continue;
            }
            if let Some(port) = self.ports.get_mut(flight.port) {
                port.counts.received += 1;
                port.counts.received_bytes += flight.frame.len() as u64;
            }
            return Some((flight.port, flight.due, flight.frame));
        }
        None
    }

    /// What has happened at each port.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        self.ports.iter().map(|port| port.counts).collect()
    }

    /// A frame has arrived in the middle and goes down to those that it is for.
    fn turn(&mut self, flight: Flight) {
        let others = (0..self.ports.len()).filter(|port| *port != flight.port);
        let to: Vec<usize> = match self.route {
            Route::Across => others.take(1).collect(),
            Route::Ethernet => match flight.frame.first_chunk::<6>() {
                Some(group) if group[0] & 1 == 1 => others.collect(),
                Some(one) => others.filter(|port| address_of(*port) == *one).collect(),
                None => Vec::new(),
            },
        };
        let bytes = self.wire_bytes(&flight.frame);
        for port in to {
            let Some(target) = self.ports.get_mut(port) else {
                continue;
            };
            // By the time when it arrived, not when we came to look: lateness does not add up.
            let fate = target.down.offer(flight.due, bytes);
            if let Some(due) = noted(&mut target.counts, fate) {
                self.fly(due, port, true, flight.frame.clone());
            }
        }
    }

    fn fly(&mut self, due: Duration, port: usize, down: bool, frame: Vec<u8>) {
        self.numbers += 1;
        self.flights.push(Reverse(Flight {
            due,
            number: self.numbers,
            port,
            down,
            frame,
        }));
    }

    fn wire_bytes(&self, frame: &[u8]) -> u64 {
        (frame.len() + self.extra_bytes) as u64
    }
}

fn noted(counts: &mut Counts, fate: Fate) -> Option<Duration> {
    match fate {
        Fate::Out(due) => return Some(due),
        Fate::Lost => counts.lost += 1,
        Fate::Dropped => counts.dropped += 1,
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn frame(to: [u8; 6], bytes: usize) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.resize(bytes, 0);
        frame
    }

    /// Everything that comes out, as port, time and length, in order.
    fn all(switch: &mut Switch) -> Vec<(usize, Duration, usize)> {
        let mut out = Vec::new();
        while let Some(now) = switch.poll_timeout() {
            while let Some((port, due, frame)) = switch.poll_output(now) {
                assert!(due <= now);
                out.push((port, due, frame.len()));
            }
        }
        out
    }

    #[test]
    fn a_round_trip_takes_what_the_link_says() {
        let mut switch = Switch::new(Route::Ethernet, &[Link::GIGABIT; 2], 1, 0);
        switch.handle_input(Duration::ZERO, 0, frame(address_of(1), 60));
        let there = all(&mut switch);
        let [(1, at, 60)] = there[..] else {
            panic!("{there:?}");
        };
        switch.handle_input(at, 1, frame(address_of(0), 60));
        let back = all(&mut switch);
        // Four crossings of 62.5 µs and of 60 bytes at 1 Gbit/s.
        let expected = 250 * US + Duration::from_nanos(4 * 480);
        assert_eq!(back, [(0, expected, 60)]);
    }

    #[test]
    fn groups_reach_all_others_and_strangers_nobody() {
        let mut switch = Switch::new(Route::Ethernet, &[Link::GIGABIT; 4], 1, 0);
        switch.handle_input(Duration::ZERO, 2, frame([0xff; 6], 60));
        switch.handle_input(Duration::ZERO, 2, frame(address_of(9), 60));
        switch.handle_input(Duration::ZERO, 2, frame(address_of(2), 60));
        switch.handle_input(Duration::ZERO, 2, vec![1, 2]);
        let mut ports: Vec<usize> = all(&mut switch).iter().map(|(port, ..)| *port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [0, 1, 3]);
        assert_eq!(switch.counts()[2].sent, 4);
    }

    #[test]
    fn two_senders_share_the_receivers_link() {
        let mut switch = Switch::new(Route::Ethernet, &[Link::GIGABIT; 3], 1, 0);
        for at in 0..100u32 {
            let now = 10 * US * at;
            switch.handle_input(now, 0, frame(address_of(2), 1250));
            switch.handle_input(now, 1, frame(address_of(2), 1250));
        }
        let out = all(&mut switch);
        assert_eq!(out.len(), 200);
        // Each sender fills its own link; the receiver's is twice as long busy.
        assert!(out.windows(2).all(|two| two[1].1 - two[0].1 == 10 * US));
    }

    #[test]
    fn every_frame_is_accounted_for_and_a_seed_repeats_itself() {
        let run = |seed: u64| {
            let mut switch = Switch::new(Route::Across, &[Link::BAD_WIFI; 2], seed, 66);
            let mut out = Vec::new();
            for at in 0..20_000u32 {
                let now = 50 * US * at;
                while let Some((port, due, _)) = switch.poll_output(now) {
                    out.push((port, due));
                }
                switch.handle_input(now, 0, vec![0; 1000]);
            }
            out.extend(all(&mut switch).iter().map(|(port, due, _)| (*port, *due)));
            (out, switch.counts())
        };
        let (out, counts) = run(5);
        let gone: u64 = counts.iter().map(|c| c.lost + c.dropped).sum();
        assert_eq!((counts[0].sent, counts[0].received), (20_000, 0));
        assert_eq!(counts[1].received, out.len() as u64);
        assert_eq!(counts[1].received + gone, 20_000);
        // 160 Mbit/s are offered to 60: the wire is full for a second and its queue at the end.
        let carried = counts[1].received * (1000 + 66) * 8;
        assert!((57_000_000..72_000_000).contains(&carried), "{carried}");
        let lost: u64 = counts.iter().map(|c| c.lost).sum();
        let on_wire = counts[1].received + lost;
        assert!(
            (5_000..20_000).contains(&(lost * 1_000_000 / on_wire)),
            "{lost}"
        );
        assert_eq!(run(5), (out, counts));
    }
}

//! An emulated LAN on one machine: machines that are network namespaces, joined by links with delay, jitter, loss and rate.
//!
//! Owns the links' meaning and everything that carries frames over them. It must never reach a real network: its
//! interfaces lie in namespaces of their own, or its sockets on loopback. The one idea: [`Pipe`] and [`Switch`] decide by
//! the time that they are told and a seed, so that they are tested by virtual time; [`relay`] only moves frames between
//! them and file descriptors, on a thread with a timer finer than those of async runtimes.
//!
//! Every machine hangs on one switch by a link of its own, as at home on a switch or an access point. A frame crosses the
//! sender's link upwards and the receiver's downwards. What a [`Link`] says holds between two machines that both have it.

use std::str::FromStr;
use std::time::Duration;

mod pipe;
mod switch;

#[cfg(unix)]
pub mod relay;
#[cfg(unix)]
pub mod udp;

#[cfg(target_os = "linux")]
pub mod measure;
#[cfg(target_os = "linux")]
pub mod rig;
#[cfg(target_os = "linux")]
mod tap;

pub use pipe::{Fate, Half, Pipe};
pub use switch::{Counts, Route, Switch};

#[cfg(target_os = "linux")]
pub use rig::Rig;
#[cfg(unix)]
pub use udp::UdpRelay;

/// Bytes that the wire itself adds to a frame: preamble, checksum and the gap to the next one.
pub const WIRE_BYTES: usize = 24;

/// How one machine is attached, said as two machines with the same attachment see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Round trip of a small frame, without what this machine's kernel and processes need for it.
    pub rtt: Duration,
    /// Most that is added to one way, evenly distributed; frames keep their order.
    pub jitter: Duration,
    /// Frames lost on one way, per million.
    pub loss_ppm: u32,
    /// Bits per second in each direction.
    pub bits_per_s: u64,
    /// Bytes that may wait for the wire at each of its ends; what comes beyond is dropped.
    pub queue_bytes: u64,
}

impl Link {
    /// A cable of 1 Gbit/s and a switch: 0.25 ms.
    pub const GIGABIT: Self = Self {
        rtt: Duration::from_micros(250),
        jitter: Duration::ZERO,
        loss_ppm: 0,
        bits_per_s: 1_000_000_000,
        queue_bytes: 512 << 10,
    };
    /// A cable of 2.5 Gbit/s and a switch: 0.2 ms.
    pub const GIGABIT_2_5: Self = Self {
        rtt: Duration::from_micros(200),
        bits_per_s: 2_500_000_000,
        queue_bytes: 1 << 20,
        ..Self::GIGABIT
    };
    /// Wi-Fi in the same room: 3 ms, up to 1 ms more each way, 300 Mbit/s, nothing lost.
    pub const GOOD_WIFI: Self = Self {
        rtt: Duration::from_millis(3),
        jitter: Duration::from_millis(1),
        loss_ppm: 0,
        bits_per_s: 300_000_000,
        queue_bytes: 1 << 20,
    };
    /// Wi-Fi through two walls: 3 ms, up to 4 ms more each way, 60 Mbit/s, 1 % lost.
    pub const BAD_WIFI: Self = Self {
        jitter: Duration::from_millis(4),
        loss_ppm: 10_000,
        bits_per_s: 60_000_000,
        ..Self::GOOD_WIFI
    };

    /// The presets by the names that commands take.
    pub const PRESETS: [(&'static str, Self); 4] = [
        ("gigabit", Self::GIGABIT),
        ("2.5gbe", Self::GIGABIT_2_5),
        ("good-wifi", Self::GOOD_WIFI),
        ("bad-wifi", Self::BAD_WIFI),
    ];

    /// One crossing of the link, upwards or downwards. A way from machine to machine is two crossings.
    #[must_use]
    pub fn half(&self) -> Half {
        Half {
            delay: self.rtt / 4,
            jitter: self.jitter / 2,
            loss_ppm: self.loss_ppm / 2,
            bits_per_s: self.bits_per_s.max(1),
            queue_bytes: self.queue_bytes,
        }
    }
}

impl FromStr for Link {
    type Err = String;

    /// A preset's name, or one with some values replaced: `good-wifi,rtt-us=5000,jitter-us=0,loss-ppm=500,mbit=100,queue-kib=64`.
    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::PRESETS.iter().map(|(name, _)| *name).collect();
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let preset = Self::PRESETS.iter().find(|(known, _)| *known == name);
        let Some((_, mut link)) = preset.copied() else {
            return Err(format!(
                "'{name}' is no link; expected one of {}",
                names.join(", ")
            ));
        };
        for part in parts {
            let expected = "expected rtt-us, jitter-us, loss-ppm, mbit or queue-kib with a number";
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("'{part}': {expected}"))?;
            let number: u32 = value
                .parse()
                .map_err(|_| format!("'{part}': {expected}, such as rtt-us=5000"))?;
            match key {
                "rtt-us" => link.rtt = Duration::from_micros(number.into()),
                "jitter-us" => link.jitter = Duration::from_micros(number.into()),
                "loss-ppm" if number <= 1_000_000 => link.loss_ppm = number,
                "mbit" if number > 0 => link.bits_per_s = u64::from(number) * 1_000_000,
                "queue-kib" => link.queue_bytes = u64::from(number) << 10,
                _ => return Err(format!("'{part}': {expected}")),
            }
        }
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_from_words() {
        for (name, link) in Link::PRESETS {
            assert_eq!(name.parse(), Ok(link));
        }
        let link: Link = "bad-wifi,rtt-us=5000,jitter-us=0,loss-ppm=500,mbit=100,queue-kib=64"
            .parse()
            .unwrap();
        let expected = Link {
            rtt: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss_ppm: 500,
            bits_per_s: 100_000_000,
            queue_bytes: 64 << 10,
        };
        assert_eq!(link, expected);
        for wrong in [
            "",
            "wifi",
            "gigabit,mbit=0",
            "gigabit,rtt",
            "gigabit,loss-ppm=1000001",
            "gigabit,x=1",
            "gigabit,mbit=-1",
        ] {
            let error = wrong.parse::<Link>().unwrap_err();
            assert!(error.contains("expected"), "{wrong}: {error}");
        }
    }
}

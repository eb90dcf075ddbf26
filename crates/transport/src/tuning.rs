//! Times and window sizes of connections.
//!
//! A household's link has a round trip of 0.05 to 5 ms and loses little; a frame is 8 KiB (one token) up to
//! some MiB (a prompt chunk). Until a peer is known to be one of ours, it gets small windows.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::error::TransportError;

/// Connection window of a peer that was not admitted yet.
const STRANGER_WINDOW_BYTES: u32 = 16 << 10;
/// Connection window of the control plane.
pub(crate) const CONTROL_WINDOW: VarInt = VarInt::from_u32(8 << 20);
/// Connection window of the data plane.
pub(crate) const TENSOR_WINDOW: VarInt = VarInt::from_u32(64 << 20);
/// Window of one stream: a prompt chunk passes without a pause.
const STREAM_WINDOW_BYTES: u32 = 24 << 20;
/// Bytes that may be under way at the start, before the path is measured.
const INITIAL_WINDOW_BYTES: u64 = 256 << 10;
/// How long a receiver may keep an acknowledgement back. A lost last packet of a frame is noticed only by silence, which has
/// to be longer than this; by default that is 25 ms, as much as several exchanges over Wi-Fi.
const ACK_DELAY: Duration = Duration::from_millis(1);
/// Payload of a UDP datagram on a wire.
const WIRE_PAYLOAD_BYTES: u16 = 1452;
/// Payload of a UDP datagram on loopback: a token's row with its header fits into one.
pub(crate) const LOOPBACK_PAYLOAD_BYTES: u16 = 12_000;
/// Bytes that the system is asked to buffer per socket.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A sign of life is sent after this long without one.
    pub keep_alive: Duration,
    /// A peer is lost after this long without a sign of life.
    pub idle: Duration,
    /// Time for a connection and its first messages.
    pub dial: Duration,
    /// First pause before dialling again.
    pub retry_min: Duration,
    /// Longest pause before dialling again.
    pub retry_max: Duration,
}

impl Default for Timing {
    /// A dead peer is noticed after 4 s.
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(1),
            idle: Duration::from_secs(4),
            dial: Duration::from_secs(3),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
        }
    }
}

impl Timing {
    pub(crate) fn check(&self) -> Result<IdleTimeout, TransportError> {
        let wrong = |what, expected| TransportError::Settings { what, expected };
        if self.keep_alive.is_zero() || self.keep_alive >= self.idle {
            let what = format!("keep-alive is {:?}, idle {:?}", self.keep_alive, self.idle);
            return Err(wrong(what, "a keep-alive above 0 and below idle"));
        }
        if self.retry_min.is_zero() || self.retry_min > self.retry_max || self.dial.is_zero() {
            let what = format!(
                "retry is {:?} to {:?}, dial {:?}",
                self.retry_min, self.retry_max, self.dial
            );
            return Err(wrong(what, "times above 0, the shorter one first"));
        }
        IdleTimeout::try_from(self.idle)
            .map_err(|_| wrong(format!("idle is {:?}", self.idle), "less than a century"))
    }
}

/// Which kind of path a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Loopback,
    Wire,
}

impl Path {
    pub(crate) fn to(address: std::net::SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() {
            Path::Loopback
        } else {
            Path::Wire
        }
    }
}

/// The transport parameters of every connection, before its peer is known.
pub(crate) fn transport(timing: &Timing, idle: IdleTimeout, path: Path) -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(match path {
        Path::Loopback => LOOPBACK_PAYLOAD_BYTES,
        Path::Wire => WIRE_PAYLOAD_BYTES,
    });
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY))
        .reordering_threshold(VarInt::from_u32(1));
    let mut config = TransportConfig::default();
    config
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(timing.keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(64 << 20)
        .initial_rtt(Duration::from_millis(20))
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(congestion));
    Arc::new(config)
}

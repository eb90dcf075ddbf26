//! Settings of the API.

use std::sync::Arc;
use std::time::Duration;

use proto::limits;

use crate::people::People;

use super::replay::Replay;
use super::tls::Tls;

/// How the API behaves. `HttpConfig::default()` is a loopback service without a key.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// Who may ask. Once a key works, every request but the probes must bring one, those of this machine too.
    pub people: People,
    /// What holds while no key works.
    pub keyless: Keyless,
    /// Names, beside loopback and the address that was dialled, under which clients may call us.
    pub allowed_hosts: Vec<String>,
    /// Origins (`https://chat.example`) whose pages may call us.
    pub allowed_origins: Vec<String>,
    /// The certificate, where clients speak TLS.
    pub tls: Option<Tls>,
    /// Recorded answers, where clients are tested.
    pub replay: Option<Arc<Replay>>,
    /// Bounds on clients.
    pub limits: HttpLimits,
}

/// What becomes of requests while no key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keyless {
    /// They are answered: only this machine can reach the API.
    #[default]
    Answered,
    /// They are refused: others can reach it.
    Refused,
}

/// Bounds on what a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; further ones get a 503.
    pub connections_max: usize,
    /// Connections of one address of the network; further ones get a 429.
    pub connections_per_source_max: usize,
    /// Connections of this machine.
    pub connections_loopback_max: usize,
    /// Time to send the head of a request; also how long an idle connection is kept.
    pub header_deadline: Duration,
    /// Longest time to send the body of a request.
    pub body_deadline: Duration,
    /// Time that a body has whatever comes; beyond it the body has to come at [`HttpLimits::body_bytes_per_s_min`].
    pub body_grace: Duration,
    /// Least speed of a body.
    pub body_bytes_per_s_min: u32,
    /// Time without progress after which a client that does not read is left.
    pub write_deadline: Duration,
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// Silence after which a stream carries a comment, so that nobody takes it for dead.
    pub keep_alive: Duration,
    /// Time that running answers get when the service ends.
    pub shutdown_grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 2048,
            connections_per_source_max: 64,
            connections_loopback_max: 1536,
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(60),
            body_grace: Duration::from_secs(8),
            body_bytes_per_s_min: 128 << 10,
            write_deadline: Duration::from_secs(30),
            body_bytes_max: limits::HTTP_BODY_BYTES_MAX,
            keep_alive: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

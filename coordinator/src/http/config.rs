//! Settings of the API, and the key that opens it.

use std::fmt;
use std::time::Duration;

use proto::limits;

/// How the API behaves. `HttpConfig::default()` is a loopback service without a key.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// The key that every request but the probes must bring; `None` asks for none.
    pub api_key: Option<ApiKey>,
    /// Names, beside loopback and the address that was dialled, under which clients may call us.
    pub allowed_hosts: Vec<String>,
    /// Origins (`https://chat.example`) whose pages may call us.
    pub allowed_origins: Vec<String>,
    /// Bounds on clients.
    pub limits: HttpLimits,
}

/// Bounds on what a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; further ones get a 503.
    pub connections_max: usize,
    /// Time to send the head of a request; also how long an idle connection is kept.
    pub header_deadline: Duration,
    /// Time to send the body of a request.
    pub body_deadline: Duration,
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
            connections_max: 512,
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            body_bytes_max: limits::HTTP_BODY_BYTES_MAX,
            keep_alive: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// A key, kept as its hash: neither memory dumps nor logs show it.
#[derive(Clone)]
pub struct ApiKey(blake3::Hash);

impl ApiKey {
    /// The key that opens the API.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(blake3::hash(key.as_bytes()))
    }

    /// Whether this is the key. Takes the same time whatever came.
    #[must_use]
    pub fn opens(&self, offered: &[u8]) -> bool {
        // Comparison of hashes is constant-time.
        self.0 == blake3::hash(offered)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

//! What can go wrong on a socket, in words for the person who has to do something about it.
//!
//! Also owns the numbers with which one side tells the other why it closed a connection.

use std::io;
use std::net::SocketAddr;

use proto::NodeId;
use proto::control::ControlMessageError;
use quinn::VarInt;
use thiserror::Error;

/// Why a connection was closed by one of the two programs. The numbers are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// Nothing more to say.
    Done = 0,
    /// The peer's key may not use this plane.
    NotMember = 1,
    /// Too many at once.
    Busy = 2,
    /// A frame or message was not what it said.
    Malformed = 3,
    /// The two sides dialled each other at once and this connection is not the one that stays.
    Duplicate = 4,
    /// The peer is no longer a neighbour, or no longer a member.
    Removed = 5,
    /// The program ends.
    Shutdown = 6,
    /// Something expected did not come in time.
    TooSlow = 7,
}

impl CloseCode {
    pub(crate) fn close(self, connection: &quinn::Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }

    /// Because this program ends.
    pub(crate) fn shutdown(connection: &quinn::Connection) {
        CloseCode::Shutdown.close(connection, "the program ends");
    }

    pub(crate) fn is(self, error: &quinn::ConnectionError) -> bool {
        matches!(error, quinn::ConnectionError::ApplicationClosed(closed)
            if closed.error_code == VarInt::from_u32(self as u32))
    }
}

/// A connection's end in words; what the peer wrote is shortened and stripped of control characters.
pub(crate) fn describe(error: &quinn::ConnectionError) -> String {
    use quinn::ConnectionError as E;
    match error {
        E::ApplicationClosed(closed) => {
            let text = String::from_utf8_lossy(&closed.reason);
            let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
            if text.is_empty() {
                format!(
                    "the other side closed the connection (code {})",
                    closed.error_code
                )
            } else {
                format!("the other side closed the connection: {text}")
            }
        }
        E::TimedOut => "no sign of life from the other side".into(),
        E::Reset => "the other side has restarted".into(),
        E::LocallyClosed => "closed on this side".into(),
        E::VersionMismatch => "the other side speaks another version of QUIC".into(),
        other => other.to_string(),
    }
}

/// The socket could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Another program has the port.
    #[error(
        "UDP port {} of {} is already in use: stop the program that uses it, or choose another port",
        .address.port(), .address.ip()
    )]
    PortInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error(
        "cannot listen on UDP {address}: {source}; expected an address of this machine and a port that this user may open"
    )]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No certificate could be made for the key.
    #[error("cannot make the certificate of this machine's key: {0}")]
    Certificate(String),
    /// Timings that contradict each other.
    #[error("{what}; expected {expected}")]
    Settings {
        /// What came.
        what: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl TransportError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            TransportError::PortInUse { .. } => "port_in_use",
            TransportError::Bind { .. } => "bind",
            TransportError::Certificate(_) => "certificate",
            TransportError::Settings { .. } => "settings",
        }
    }
}

/// A device could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DialError {
    /// No address is known.
    #[error("no address of {node} is known; expected at least one IP:PORT")]
    NoAddress {
        /// Who was to be reached.
        node: NodeId,
    },
    /// The id is no key.
    #[error(
        "'{node}' is not the id of a device; expected the text form of its key, such as 12D3KooW..."
    )]
    NotAKey {
        /// What came.
        node: NodeId,
    },
    /// Another device answers there.
    #[error(
        "the device at {address} is not {expected}: it has another key. Check the address, or pair again if the device was set up anew"
    )]
    WrongPeer {
        /// Where.
        address: SocketAddr,
        /// Who was expected.
        expected: NodeId,
    },
    /// The device answers, but not to us.
    #[error("{node} refuses this machine: {text}")]
    Refused {
        /// Who refuses.
        node: NodeId,
        /// In its words.
        text: String,
    },
    /// Nobody answers.
    #[error("cannot reach {node}: {text}. Is it switched on, and does a firewall let UDP through?")]
    Unreachable {
        /// Who was to be reached.
        node: NodeId,
        /// What happened at each address.
        text: String,
    },
    /// Nobody with whom a machine can pair answers.
    #[error("no household answers at {address}: {text}")]
    Nobody {
        /// Where.
        address: SocketAddr,
        /// What happened.
        text: String,
    },
    /// Our own socket is closed.
    #[error("this program is ending")]
    Closed,
}

impl DialError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            DialError::NoAddress { .. } => "no_address",
            DialError::NotAKey { .. } => "not_a_key",
            DialError::WrongPeer { .. } => "wrong_peer",
            DialError::Refused { .. } => "refused",
            DialError::Unreachable { .. } => "unreachable",
            DialError::Nobody { .. } => "nobody",
            DialError::Closed => "closed",
        }
    }
}

/// The control connection failed or is over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The other side could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The coordinator does not know this machine's key (any more).
    #[error("the household does not know this machine: {text}. Join again with an invite")]
    NotMember {
        /// In the coordinator's words.
        text: String,
    },
    /// The other side sent something that no message may be.
    #[error("a message that cannot be used came: {0}")]
    BadMessage(#[from] ControlMessageError),
    /// The connection ended.
    #[error("the control connection is over: {text}")]
    Closed {
        /// Why.
        text: String,
    },
    /// The other side does not read fast enough.
    #[error("the control connection is full: the other side does not read what it is sent")]
    Full,
}

impl ControlError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ControlError::Dial(error) => error.code(),
            ControlError::NotMember { .. } => "not_member",
            ControlError::BadMessage(_) => "bad_message",
            ControlError::Closed { .. } => "closed",
            ControlError::Full => "full",
        }
    }
}

/// Pairing failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PairError {
    /// The coordinator could not be reached, or another device answers at its address.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The coordinator said no.
    #[error("the household refuses this machine: {text}")]
    Refused {
        /// Stable code, such as `invite_used`.
        code: String,
        /// What to do.
        text: String,
    },
    /// The household let this machine in without proving the short code: it is not the one that showed the code.
    #[error(
        "the household at that address does not know the short code: another device may pretend to be yours. Compare its four words with those of `coordinator invite`, and use the URL"
    )]
    CodeUnproven,
    /// The coordinator's answer cannot be understood, or none came.
    #[error("pairing was broken off: {text}; try again")]
    Broken {
        /// What happened.
        text: String,
    },
}

impl PairError {
    /// A stable name of the kind of error; the coordinator's code where it refused.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            PairError::Dial(error) => error.code(),
            PairError::Refused { code, .. } => code,
            PairError::CodeUnproven => "code_unproven",
            PairError::Broken { .. } => "broken_off",
        }
    }
}

/// A frame could not be handed over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver is not among the peers.
    #[error("{0} is not a neighbour of this device in the current plan")]
    NotAPeer(NodeId),
    /// There is no connection at the moment.
    #[error("there is no connection to {0} at the moment")]
    Down(NodeId),
    /// The queue is full (only where sending does not wait).
    #[error("the queue to {0} is full: it does not keep up")]
    Full(NodeId),
}

/// A link could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The other side could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It was broken off by the other side, or what came cannot be used.
    #[error("the probe of the link to {node} broke off: {text}")]
    Broken {
        /// The other side.
        node: NodeId,
        /// What happened.
        text: String,
    },
    /// Frames travel, and they go first.
    #[error("the probe gave way to frames")]
    GaveWay,
    /// It took too long.
    #[error("the probe took too long")]
    Late,
    /// Too many run here.
    #[error("too many probes run on this device")]
    Busy,
}

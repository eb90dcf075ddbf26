//! Keys on the wire: TLS 1.3 with libp2p certificates on both sides.
//!
//! A certificate carries the machine's Ed25519 key and its signature; the handshake proves that the peer has
//! the key, and nothing more. The protocol name (ALPN) says which plane a connection is for.

use std::sync::Arc;

use libp2p_identity::PeerId;
use proto::NodeId;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::rustls;

use crate::error::{DialError, TransportError};
use crate::identity::Identity;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    Control,
    Tensor,
    Pairing,
    Bulk,
    Probe,
}

impl Plane {
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Plane::Control => b"hearth-ctl/1",
            Plane::Tensor => b"hearth-tensor/1",
            Plane::Pairing => b"hearth-pair/1",
            Plane::Bulk => b"hearth-bulk/1",
            Plane::Probe => b"hearth-probe/1",
        }
    }

    fn from_alpn(name: &[u8]) -> Option<Self> {
        [
            Plane::Control,
            Plane::Tensor,
            Plane::Pairing,
            Plane::Probe,
            Plane::Bulk,
        ]
        .into_iter()
        .find(|plane| plane.alpn() == name)
    }
}

/// What listens here.
pub(crate) fn server(
    identity: &Identity,
    planes: &[Plane],
) -> Result<quinn::ServerConfig, TransportError> {
    let failed = |error: &dyn std::error::Error| TransportError::Certificate(error.to_string());
    let mut tls =
        libp2p_tls::make_server_config(identity.keypair()).map_err(|error| failed(&error))?;
    tls.alpn_protocols = planes.iter().map(|plane| plane.alpn().to_vec()).collect();
    // No session keys in files, whatever the environment says, and no resumption: each connection proves its key.
    tls.key_log = Arc::new(rustls::NoKeyLog);
    tls.send_tls13_tickets = 0;
    let quic = QuicServerConfig::try_from(tls).map_err(|error| failed(&error))?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(quic)))
}

/// What dials: accepts the expected key alone.
pub(crate) fn client(
    identity: &Identity,
    expected: &NodeId,
    plane: Plane,
) -> Result<quinn::ClientConfig, DialError> {
    let not_a_key = || DialError::NotAKey {
        node: expected.clone(),
    };
    let peer: PeerId = expected.as_str().parse().map_err(|_| not_a_key())?;
    configured(identity, Some(peer), plane).map_err(|text| DialError::Unreachable {
        node: expected.clone(),
        text,
    })
}

/// What dials to look: accepts any key, and says afterwards which it was.
pub(crate) fn client_of_anybody(
    identity: &Identity,
    plane: Plane,
) -> Result<quinn::ClientConfig, String> {
    configured(identity, None, plane)
}

fn configured(
    identity: &Identity,
    expected: Option<PeerId>,
    plane: Plane,
) -> Result<quinn::ClientConfig, String> {
    let failed = |error: &dyn std::error::Error| format!("no certificate could be made: {error}");
    let mut tls = libp2p_tls::make_client_config(identity.keypair(), expected)
        .map_err(|error| failed(&error))?;
    tls.alpn_protocols = vec![plane.alpn().to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog);
    tls.resumption = rustls::client::Resumption::disabled();
    let quic = QuicClientConfig::try_from(tls).map_err(|error| failed(&error))?;
    Ok(quinn::ClientConfig::new(Arc::new(quic)))
}

/// Whether a handshake failed because the other side has another key than expected.
pub(crate) fn is_wrong_peer(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::TransportError(error)
        if error.reason.contains("ApplicationVerificationFailure"))
}

/// Who is on the other side, by the certificate that the handshake has verified, and what they want.
pub(crate) fn admitted(connection: &quinn::Connection) -> Option<(NodeId, Plane)> {
    let data = connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?;
    let plane = Plane::from_alpn(data.protocol.as_deref()?)?;
    let certificates = connection
        .peer_identity()?
        .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
        .ok()?;
    let certificate = libp2p_tls::certificate::parse(certificates.first()?).ok()?;
    let node = NodeId::new(certificate.peer_id().to_base58()).ok()?;
    Some((node, plane))
}

/// Whether a handshake failed because the other side does not offer the plane.
pub(crate) fn is_other_plane(error: &quinn::ConnectionError) -> bool {
    let no_application_protocol = quinn::TransportErrorCode::crypto(120);
    match error {
        quinn::ConnectionError::TransportError(error) => error.code == no_application_protocol,
        quinn::ConnectionError::ConnectionClosed(close) => {
            close.error_code == no_application_protocol
        }
        _ => false,
    }
}

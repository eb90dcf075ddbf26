//! Reaching a device: a known one at several addresses, or whoever answers at one.
//!
//! Must never connect to another key where one is expected. Addresses are tried one shortly after the other;
//! the first that answers with the right key is used, so that a stale address costs nothing.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::NodeId;
use proto::control::Peer;
use proto::limits;
use quinn::IdleTimeout;

use crate::error::{DialError, describe};
use crate::identity::Identity;
use crate::tls::{self, Plane};
use crate::tuning::{self, Path, Timing};

/// Head start of an address over the next one.
const HEAD_START: Duration = Duration::from_millis(150);
/// A name has to be sent; the key alone says who somebody is.
const SERVER_NAME: &str = "hearth";

/// Why an address did not lead to a connection.
enum Missed {
    /// Our own socket is closed.
    Closed,
    /// Another key than expected, or none.
    OtherKey,
    /// The plane is not offered.
    OtherPlane,
    /// No connection came about.
    Unreachable(String),
}

/// What is needed to dial: the socket and the own key.
#[derive(Debug, Clone)]
pub(crate) struct Dialler {
    pub endpoint: quinn::Endpoint,
    pub identity: Identity,
    pub timing: Timing,
    pub idle: IdleTimeout,
}

impl Dialler {
    /// Connects to `peer` on `plane`.
    pub(crate) async fn dial(
        &self,
        peer: &Peer,
        plane: Plane,
    ) -> Result<quinn::Connection, DialError> {
        if peer.addresses.is_empty() {
            return Err(DialError::NoAddress {
                node: peer.node.clone(),
            });
        }
        let config = tls::client(&self.identity, &peer.node, plane)?;
        let mut attempts: FuturesUnordered<_> = peer
            .addresses
            .iter()
            .take(limits::ADDRESSES_MAX)
            .zip(0u32..)
            .map(|(address, place)| {
                let config = config.clone();
                async move {
                    tokio::time::sleep(HEAD_START.saturating_mul(place)).await;
                    self.dial_one(&peer.node, *address, config).await
                }
            })
            .collect();
        let mut failures = Vec::new();
        while let Some(result) = attempts.next().await {
            match result {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(error),
            }
        }
        Err(most_telling(&peer.node, failures))
    }

    /// Connects to whoever answers at an address; the key that was proven is read from the connection.
    pub(crate) async fn dial_anybody(
        &self,
        address: SocketAddr,
        plane: Plane,
    ) -> Result<quinn::Connection, DialError> {
        let nobody = |text: String| DialError::Nobody { address, text };
        let config = tls::client_of_anybody(&self.identity, plane).map_err(nobody)?;
        self.connect(address, config)
            .await
            .map_err(|missed| match missed {
                Missed::Closed => DialError::Closed,
                Missed::OtherKey => nobody("it has no key that can be checked".to_owned()),
                Missed::OtherPlane => nobody("it is no coordinator".to_owned()),
                Missed::Unreachable(text) => nobody(text),
            })
    }

    async fn dial_one(
        &self,
        node: &NodeId,
        address: SocketAddr,
        config: quinn::ClientConfig,
    ) -> Result<quinn::Connection, DialError> {
        self.connect(address, config)
            .await
            .map_err(|missed| match missed {
                Missed::Closed => DialError::Closed,
                Missed::OtherKey => DialError::WrongPeer {
                    address,
                    expected: node.clone(),
                },
                Missed::OtherPlane => DialError::Refused {
                    node: node.clone(),
                    text: format!("nothing of this kind is offered at {address}"),
                },
                Missed::Unreachable(text) => DialError::Unreachable {
                    node: node.clone(),
                    text: format!("{address}: {text}"),
                },
            })
    }

    async fn connect(
        &self,
        address: SocketAddr,
        mut config: quinn::ClientConfig,
    ) -> Result<quinn::Connection, Missed> {
        config.transport_config(tuning::transport(
            &self.timing,
            self.idle,
            Path::to(address),
        ));
        let connecting = match self.endpoint.connect_with(config, address, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(quinn::ConnectError::EndpointStopping) => return Err(Missed::Closed),
            Err(error) => return Err(Missed::Unreachable(error.to_string())),
        };
        match tokio::time::timeout(self.timing.dial, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) if tls::is_wrong_peer(&error) => Err(Missed::OtherKey),
            Ok(Err(error)) if tls::is_other_plane(&error) => Err(Missed::OtherPlane),
            Ok(Err(error)) => Err(Missed::Unreachable(describe(&error))),
            Err(_) => Err(Missed::Unreachable(format!(
                "no answer within {:.1} s",
                self.timing.dial.as_secs_f32()
            ))),
        }
    }
}

/// A device that answers with another key or refuses tells more than one that does not answer.
fn most_telling(node: &NodeId, failures: Vec<DialError>) -> DialError {
    let mut texts = Vec::new();
    let mut telling = None;
    for failure in failures {
        match failure {
            DialError::Unreachable { text, .. } => texts.push(text),
            other => telling = telling.or(Some(other)),
        }
    }
    telling.unwrap_or_else(|| DialError::Unreachable {
        node: node.clone(),
        text: texts.join("; "),
    })
}

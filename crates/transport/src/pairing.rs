//! How a stranger becomes a member: one stream, one request, one answer.
//!
//! Owns the pairing protocol on both sides and its bounds: 4 KiB, 10 s, 16 devices at once. Must never decide:
//! the daemon compares the secret and answers. The coordinator's key comes from the invite, so that the
//! secret is never shown to anybody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::NodeId;
use proto::control::{PairReply, PairRequest, Peer, Refused, wire};
use proto::limits;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::endpoint::Endpoint;
use crate::error::{CloseCode, DialError, PairError, describe};
use crate::invite::{Invite, Secret};
use crate::tls::Plane;

const TIME: Duration = Duration::from_millis(limits::PAIRING_MS_MAX);

/// A device that asks to become a member.
#[derive(Debug)]
pub struct PairingRequest {
    /// Its key.
    pub node: NodeId,
    /// Where it is.
    pub remote: SocketAddr,
    /// What its owner calls it.
    pub name: String,
    /// The secret of the invite that it was shown.
    pub secret: Secret,
    /// The daemon's answer; dropping it breaks the pairing off.
    pub reply: oneshot::Sender<PairingAnswer>,
}

/// The daemon's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingAnswer {
    /// It is a member now: stored, and admitted to [`crate::Members`] before this answer is given.
    Accept,
    /// It is not.
    Refuse(PairingRefusal),
}

/// Why a device is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairingRefusal {
    /// No invite has this secret.
    InviteUnknown,
    /// Somebody has used it already.
    InviteUsed,
    /// It is too old.
    InviteExpired,
    /// The household has as many members as it can.
    HouseholdFull,
    /// The service is ending.
    Ending,
}

impl PairingRefusal {
    /// The stable code that the device sees.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            PairingRefusal::InviteUnknown => "invite_unknown",
            PairingRefusal::InviteUsed => "invite_used",
            PairingRefusal::InviteExpired => "invite_expired",
            PairingRefusal::HouseholdFull => "household_full",
            PairingRefusal::Ending => "ending",
        }
    }

    /// What its owner reads.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            PairingRefusal::InviteUnknown => {
                "this household has not issued the invite: make a new one with `coordinator invite`"
            }
            PairingRefusal::InviteUsed => {
                "the invite was used already, and each is good for one device: make a new one with `coordinator invite`"
            }
            PairingRefusal::InviteExpired => {
                "the invite has expired: make a new one with `coordinator invite`"
            }
            PairingRefusal::HouseholdFull => {
                "the household has no room for another device: remove one with `coordinator kick`"
            }
            PairingRefusal::Ending => "the coordinator is ending: try again when it is back",
        }
    }
}

/// Where requests go, and how many may be under way.
#[derive(Debug)]
pub(crate) struct PairingDesk {
    requests: mpsc::Sender<PairingRequest>,
    free: Arc<Semaphore>,
}

impl PairingDesk {
    pub(crate) fn new(requests: mpsc::Sender<PairingRequest>) -> Self {
        Self {
            requests,
            free: Arc::new(Semaphore::new(limits::PAIRING_PEERS_MAX)),
        }
    }
}

/// Serves one stranger, within the bounds.
pub(crate) async fn serve(desk: &PairingDesk, connection: quinn::Connection, node: NodeId) {
    let Ok(_permit) = desk.free.try_acquire() else {
        return CloseCode::Busy.close(&connection, "too many devices are pairing; try again");
    };
    match tokio::time::timeout(TIME, exchange(desk, &connection, node)).await {
        Ok(Ok(())) => CloseCode::Done.close(&connection, ""),
        Ok(Err((code, reason))) => {
            tracing::debug!(remote = %connection.remote_address(), reason, "a pairing was broken off");
            code.close(&connection, &reason);
        }
        Err(_) => CloseCode::TooSlow.close(&connection, "pairing took longer than 10 s"),
    }
}

type Broken = (CloseCode, String);

async fn exchange(
    desk: &PairingDesk,
    connection: &quinn::Connection,
    node: NodeId,
) -> Result<(), Broken> {
    let gone = |text: String| (CloseCode::Done, text);
    let (mut send, mut recv) = connection
        .accept_bi()
        .await
        .map_err(|error| gone(describe(&error)))?;
    let bytes = match recv.read_to_end(limits::PAIRING_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(quinn::ReadToEndError::TooLong) => {
            let text = "a pairing request has at most 4096 bytes";
            return Err((CloseCode::Malformed, text.into()));
        }
        Err(error) => return Err(gone(error.to_string())),
    };
    let request = wire::PairRequest::decode(bytes.as_slice())
        .map_err(|_| (CloseCode::Malformed, "this is no pairing request".into()))?;
    let request = PairRequest::try_from(request)
        .map_err(|error| (CloseCode::Malformed, error.to_string()))?;
    let (reply, answer) = oneshot::channel();
    let busy = || {
        let text = "the coordinator does not answer pairing requests at the moment";
        (CloseCode::Busy, text.to_owned())
    };
    desk.requests
        .try_send(PairingRequest {
            node,
            remote: connection.remote_address(),
            name: request.name,
            secret: Secret::from_bytes(request.secret),
            reply,
        })
        .map_err(|_| busy())?;
    let reply = match answer.await.map_err(|_| busy())? {
        PairingAnswer::Accept => PairReply::Accepted,
        PairingAnswer::Refuse(refusal) => PairReply::Refused(Refused {
            code: refusal.code().into(),
            text: refusal.text().into(),
        }),
    };
    let bytes = wire::PairReply::from(reply).encode_to_vec();
    send.write_all(&bytes)
        .await
        .map_err(|error| gone(error.to_string()))?;
    // A stream that is finished already cannot be: it was opened for this answer.
    let _ = send.finish();
    // The device closes when it has the answer.
    connection.closed().await;
    Ok(())
}

impl Endpoint {
    /// Asks the invite's household to take this machine in, under `name`.
    ///
    /// # Errors
    /// When the coordinator cannot be reached or another device answers at its addresses, when it refuses
    /// (with its code), or when the exchange breaks off.
    pub async fn pair(&self, invite: &Invite, name: &str) -> Result<(), PairError> {
        let peer = Peer {
            node: invite.coordinator.clone(),
            addresses: invite.addresses.clone(),
        };
        let connection = self.0.dialler.dial(&peer, Plane::Pairing).await?;
        let request = PairRequest {
            secret: invite.secret.bytes(),
            name: name.to_owned(),
        };
        let reply = tokio::time::timeout(TIME, ask(&connection, request)).await;
        let result = match reply {
            Ok(Ok(PairReply::Accepted)) => Ok(()),
            Ok(Ok(PairReply::Refused(refused))) => Err(PairError::Refused {
                code: refused.code,
                text: refused.text,
            }),
            Ok(Err(text)) => Err(broken(&connection, &invite.coordinator, text)),
            Err(_) => Err(PairError::Broken {
                text: "the coordinator did not answer within 10 s".into(),
            }),
        };
        CloseCode::Done.close(&connection, "");
        result
    }
}

async fn ask(connection: &quinn::Connection, request: PairRequest) -> Result<PairReply, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
    let bytes = wire::PairRequest::from(request).encode_to_vec();
    send.write_all(&bytes).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    let reply = recv
        .read_to_end(limits::PAIRING_BYTES_MAX)
        .await
        .map_err(|e| e.to_string())?;
    let reply = wire::PairReply::decode(reply.as_slice()).map_err(|e| e.to_string())?;
    PairReply::try_from(reply).map_err(|e| e.to_string())
}

/// The close reason tells more than the stream's error.
fn broken(connection: &quinn::Connection, node: &NodeId, text: String) -> PairError {
    match connection.close_reason() {
        Some(error) if CloseCode::NotMember.is(&error) => PairError::Dial(DialError::Refused {
            node: node.clone(),
            text: describe(&error),
        }),
        Some(error) => PairError::Broken {
            text: describe(&error),
        },
        None => PairError::Broken { text },
    }
}

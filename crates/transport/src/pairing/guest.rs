//! The device's side of pairing.
//!
//! Must never show a secret to a key that was not expected, nor believe a household that has not proven the short code.

use std::net::SocketAddr;
use std::time::Duration;

use proto::NodeId;
use proto::control::Peer;
use proto::control::pairing::{Claim, Opening, Proof, Reply};
use proto::limits;
use rand::RngCore;

use super::code::{Binding, Guest, ShortCode, commitment};
use super::talk::{Talk, TalkError};
use super::{TIME, exporter};
use crate::endpoint::{Endpoint, remote_of};
use crate::error::{CloseCode, DialError, PairError, describe};
use crate::invite::Invite;
use crate::tls::{self, Plane};
use crate::words::CheckWords;

/// Longer than the coordinator lets a request stand, so that its word comes first.
const KNOCK_TIME: Duration = Duration::from_millis(limits::KNOCK_MS_MAX + limits::PAIRING_MS_MAX);

/// A household that answers at an address. Nothing of it is proven but its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its coordinator's key.
    pub coordinator: NodeId,
    /// Where it answered.
    pub address: SocketAddr,
    /// Whether somebody may pair by short code there now.
    pub code_open: bool,
}

/// A conversation with one coordinator.
struct Visit {
    connection: quinn::Connection,
    talk: Talk,
    coordinator: NodeId,
}

impl Visit {
    async fn open(connection: quinn::Connection, coordinator: NodeId) -> Result<Self, PairError> {
        match connection.open_bi().await {
            Ok(streams) => Ok(Self {
                talk: Talk::new(streams),
                connection,
                coordinator,
            }),
            Err(error) => Err(broken(Some(&error), &coordinator, String::new())),
        }
    }

    fn binding(&self, node: &NodeId, name: &str) -> Result<Binding, PairError> {
        Ok(Binding {
            node: node.clone(),
            coordinator: self.coordinator.clone(),
            exporter: exporter(&self.connection).map_err(|text| PairError::Broken { text })?,
            name: name.to_owned(),
        })
    }

    fn error(&self, error: &TalkError) -> PairError {
        let reason = self.connection.close_reason();
        broken(reason.as_ref(), &self.coordinator, error.to_string())
    }

    async fn say(&mut self, message: &[u8]) -> Result<(), PairError> {
        let said = self.talk.say(message).await;
        said.map_err(|error| self.error(&error))
    }

    /// The next reply, unless it is a refusal.
    async fn hear(&mut self) -> Result<Reply, PairError> {
        match self.talk.hear(Reply::decode).await {
            Ok(Reply::Refused(refused)) => Err(PairError::Refused {
                code: refused.code,
                text: refused.text,
            }),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.error(&error)),
        }
    }

    fn out_of_turn(&self) -> PairError {
        self.error(&TalkError::OutOfTurn)
    }

    async fn show(&mut self, opening: Opening) -> Result<(), PairError> {
        self.say(&opening.encode()).await?;
        match self.hear().await? {
            Reply::Accepted(_) => Ok(()),
            _ => Err(self.out_of_turn()),
        }
    }

    async fn prove(&mut self, code: &ShortCode, binding: Binding) -> Result<(), PairError> {
        let impossible = |_| PairError::CodeUnproven;
        let name = binding.name.clone();
        let guest = Guest::start(code, binding).map_err(impossible)?;
        let claim = Claim::Element(guest.element());
        self.say(&Opening { name, claim }.encode()).await?;
        let Reply::Element(element) = self.hear().await? else {
            return Err(self.out_of_turn());
        };
        let (proof, waiting) = guest.confirm(&element).map_err(impossible)?;
        self.say(&Proof::Confirmation(proof).encode()).await?;
        match self.hear().await? {
            Reply::Accepted(Some(theirs)) if waiting.is_proven(&theirs) => Ok(()),
            Reply::Accepted(_) => Err(PairError::CodeUnproven),
            _ => Err(self.out_of_turn()),
        }
    }

    /// Agrees with the coordinator on the words for both screens.
    async fn knock(&mut self, binding: &Binding) -> Result<CheckWords, PairError> {
        let mut own = [0; 32];
        rand::rng().fill_bytes(&mut own);
        let opening = Opening {
            name: binding.name.clone(),
            claim: Claim::Commitment(commitment(&own)),
        };
        self.say(&opening.encode()).await?;
        let Reply::Share(theirs) = self.hear().await? else {
            return Err(self.out_of_turn());
        };
        self.say(&Proof::Share(own).encode()).await?;
        Ok(CheckWords::of_hash(&binding.check(&own, &theirs)))
    }

    fn end<T>(self, result: Result<T, PairError>) -> Result<T, PairError> {
        CloseCode::Done.close(&self.connection, "");
        result
    }
}

async fn in_time<T>(
    time: Duration,
    what: impl Future<Output = Result<T, PairError>>,
) -> Result<T, PairError> {
    let done = tokio::time::timeout(time, what).await;
    done.unwrap_or_else(|_| {
        let text = format!("the coordinator did not answer within {} s", time.as_secs());
        Err(PairError::Broken { text })
    })
}

impl Endpoint {
    /// Who answers at an address. Nothing but its key is proven, and nothing is shown to it but ours.
    ///
    /// # Errors
    /// When nobody answers there, or nobody with whom a machine can pair.
    pub async fn look(&self, address: SocketAddr) -> Result<Found, PairError> {
        let connection = self.0.dialler.dial_anybody(address, Plane::Pairing).await?;
        let Some((coordinator, _)) = tls::admitted(&connection) else {
            let text = format!("{address} shows no key");
            return Err(PairError::Broken { text });
        };
        let mut visit = Visit::open(connection, coordinator.clone()).await?;
        let opening = Opening {
            name: String::new(),
            claim: Claim::Look,
        };
        let seen = in_time(TIME, async {
            visit.say(&opening.encode()).await?;
            match visit.hear().await? {
                Reply::View { code_open } => Ok(Found {
                    coordinator,
                    address: remote_of(&visit.connection),
                    code_open,
                }),
                _ => Err(visit.out_of_turn()),
            }
        });
        let seen = seen.await;
        visit.end(seen)
    }

    async fn visit(&self, peer: &Peer) -> Result<Visit, PairError> {
        let connection = self.0.dialler.dial(peer, Plane::Pairing).await?;
        Visit::open(connection, peer.node.clone()).await
    }

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
        let mut visit = self.visit(&peer).await?;
        let opening = Opening {
            name: name.to_owned(),
            claim: Claim::Secret(invite.secret.bytes()),
        };
        let shown = in_time(TIME, visit.show(opening)).await;
        visit.end(shown)
    }

    /// Asks a household to take this machine in by the short code on its owner's screen. The code is not shown to it;
    /// success proves that it knows the code as well.
    ///
    /// # Errors
    /// As [`Endpoint::pair`], and when the household does not know the code.
    pub async fn pair_by_code(
        &self,
        household: &Peer,
        code: &ShortCode,
        name: &str,
    ) -> Result<(), PairError> {
        let mut visit = self.visit(household).await?;
        let binding = visit.binding(self.node_id(), name)?;
        let proven = in_time(TIME, visit.prove(code, binding)).await;
        visit.end(proven)
    }

    /// Asks on the owner's screen, hands the words that must stand there to `show`, and waits for the owner.
    ///
    /// # Errors
    /// As [`Endpoint::pair`], and when the owner says no or nothing.
    pub async fn knock(
        &self,
        household: &Peer,
        name: &str,
        show: impl FnOnce(CheckWords),
    ) -> Result<(), PairError> {
        let mut visit = self.visit(household).await?;
        let binding = visit.binding(self.node_id(), name)?;
        let answered = async {
            show(in_time(TIME, visit.knock(&binding)).await?);
            match in_time(KNOCK_TIME, visit.hear()).await? {
                Reply::Accepted(_) => Ok(()),
                _ => Err(visit.out_of_turn()),
            }
        };
        let answered = answered.await;
        visit.end(answered)
    }
}

/// The close reason tells more than the stream's error.
fn broken(reason: Option<&quinn::ConnectionError>, node: &NodeId, text: String) -> PairError {
    match reason {
        Some(error) if CloseCode::NotMember.is(error) => PairError::Dial(DialError::Refused {
            node: node.clone(),
            text: describe(error),
        }),
        Some(error) => PairError::Broken {
            text: describe(error),
        },
        None => PairError::Broken { text },
    }
}

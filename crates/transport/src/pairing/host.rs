//! The coordinator's side of pairing: hears one stranger out, within the bounds.
//!
//! Must never admit anybody: whoever has shown or proven a right is handed to the daemon, which answers.

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::control::Refused;
use proto::control::pairing::{Claim, Opening, Proof, Reply};
use proto::limits;
use rand::RngCore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::code::{Binding, Host, commitment};
use super::codes::{Codes, Tried};
use super::talk::{Talk, TalkError};
use super::{PairingAnswer, PairingClaim, PairingRefusal, PairingRequest, TIME, exporter};
use crate::endpoint::remote_of;
use crate::error::{CloseCode, describe};
use crate::invite::Secret;
use crate::words::CheckWords;

const KNOCK_TIME: Duration = Duration::from_millis(limits::KNOCK_MS_MAX);

/// Where requests go, and how many may be under way.
#[derive(Debug)]
pub(crate) struct PairingDesk {
    requests: mpsc::Sender<PairingRequest>,
    codes: Codes,
    coordinator: NodeId,
    free: Arc<Semaphore>,
    /// Places of those who wait on the owner's screen.
    waiting: Arc<Semaphore>,
}

/// How far the first ten seconds have led.
enum Greeted {
    /// All is said.
    Done,
    /// It waits on the owner's screen.
    Knocked(Box<Knock>),
}

struct Knock {
    talk: Talk,
    answer: oneshot::Receiver<PairingAnswer>,
    _place: OwnedSemaphorePermit,
}

type Broken = (CloseCode, String);

fn broken(error: TalkError) -> Broken {
    let code = match error {
        TalkError::Gone(_) => CloseCode::Done,
        TalkError::TooLong | TalkError::Malformed(_) | TalkError::OutOfTurn => CloseCode::Malformed,
    };
    (code, error.to_string())
}

fn busy() -> Broken {
    let text = "the coordinator does not answer pairing requests at the moment";
    (CloseCode::Busy, text.to_owned())
}

impl PairingDesk {
    pub(crate) fn new(
        requests: mpsc::Sender<PairingRequest>,
        codes: Codes,
        coordinator: NodeId,
    ) -> Self {
        Self {
            requests,
            codes,
            coordinator,
            free: Arc::new(Semaphore::new(limits::PAIRING_PEERS_MAX)),
            waiting: Arc::new(Semaphore::new(limits::KNOCKS_MAX)),
        }
    }

    /// Serves one stranger, within the bounds.
    pub(crate) async fn serve(&self, connection: quinn::Connection, node: NodeId) {
        let Ok(permit) = self.free.try_acquire() else {
            return CloseCode::Busy.close(&connection, "too many devices are pairing; try again");
        };
        let greeted = tokio::time::timeout(TIME, self.greet(&connection, node)).await;
        let ended = match greeted {
            Ok(Ok(Greeted::Done)) => Ok(()),
            Ok(Ok(Greeted::Knocked(knock))) => {
                drop(permit);
                wait(*knock, &connection).await
            }
            Ok(Err(broken)) => Err(broken),
            Err(_) => Err((
                CloseCode::TooSlow,
                "pairing took longer than 10 s".to_owned(),
            )),
        };
        match ended {
            Ok(()) => CloseCode::Done.close(&connection, ""),
            Err((code, reason)) => {
                tracing::debug!(remote = %remote_of(&connection), reason, "a pairing was broken off");
                code.close(&connection, &reason);
            }
        }
    }

    async fn greet(&self, connection: &quinn::Connection, node: NodeId) -> Result<Greeted, Broken> {
        let streams = connection.accept_bi().await;
        let streams = streams.map_err(|error| (CloseCode::Done, describe(&error)))?;
        let mut talk = Talk::new(streams);
        let Opening { name, claim } = talk.hear(Opening::decode).await.map_err(broken)?;
        let binding = Binding {
            node,
            coordinator: self.coordinator.clone(),
            exporter: exporter(connection).map_err(|text| (CloseCode::Malformed, text))?,
            name,
        };
        let reply = match claim {
            Claim::Look => Reply::View {
                code_open: self.codes.is_open(),
            },
            Claim::Secret(secret) => {
                let claim = PairingClaim::Invite(Secret::from_bytes(secret));
                let answer = self.request(connection, &binding, claim)?;
                reply_to(answer.await.map_err(|_| busy())?, None)
            }
            Claim::Element(element) => {
                self.hear_code(&mut talk, connection, (&binding, element))
                    .await?
            }
            Claim::Commitment(committed) => {
                match self
                    .hear_knock(&mut talk, connection, (&binding, committed))
                    .await?
                {
                    Ok((answer, place)) => {
                        return Ok(Greeted::Knocked(Box::new(Knock {
                            talk,
                            answer,
                            _place: place,
                        })));
                    }
                    Err(refusal) => refused(refusal),
                }
            }
        };
        finish(talk, connection, &reply).await?;
        Ok(Greeted::Done)
    }

    /// Asks the daemon.
    fn request(
        &self,
        connection: &quinn::Connection,
        binding: &Binding,
        claim: PairingClaim,
    ) -> Result<oneshot::Receiver<PairingAnswer>, Broken> {
        let (reply, answer) = oneshot::channel();
        let request = PairingRequest {
            node: binding.node.clone(),
            remote: remote_of(connection),
            name: binding.name.clone(),
            claim,
            reply,
        };
        self.requests.try_send(request).map_err(|_| busy())?;
        Ok(answer)
    }

    /// The exchange over a short code. Whoever goes before its proof has learnt nothing, so the code stays good.
    async fn hear_code(
        &self,
        talk: &mut Talk,
        connection: &quinn::Connection,
        (binding, element): (&Binding, super::code::Element),
    ) -> Result<Reply, Broken> {
        let Some((serial, code)) = self.codes.current() else {
            return Ok(refused(PairingRefusal::CodeNone));
        };
        let malformed = |error: super::code::NoElement| (CloseCode::Malformed, error.to_string());
        let (host, own) = Host::answer(&code, binding, &element).map_err(malformed)?;
        talk.say(&Reply::Element(own).encode())
            .await
            .map_err(broken)?;
        let Proof::Confirmation(proof) = talk.hear(Proof::decode).await.map_err(broken)? else {
            return Err(broken(TalkError::OutOfTurn));
        };
        let remote = remote_of(connection);
        let tried = self
            .codes
            .attempt(remote.ip(), serial, || host.check(&proof));
        let (secret, own_proof) = match tried {
            Tried::Right(secret, own_proof) => (secret, own_proof),
            Tried::Gone => return Ok(refused(PairingRefusal::CodeNone)),
            Tried::Wrong => {
                tracing::warn!(%remote, "a wrong short code came; the code is void, `coordinator invite` makes a new one");
                return Ok(refused(PairingRefusal::CodeWrong));
            }
        };
        let answer = self.request(connection, binding, PairingClaim::Invite(secret))?;
        Ok(reply_to(answer.await.map_err(|_| busy())?, Some(own_proof)))
    }

    /// Brings a device onto the owner's screen, where its words stand beside it.
    async fn hear_knock(
        &self,
        talk: &mut Talk,
        connection: &quinn::Connection,
        (binding, committed): (&Binding, [u8; 32]),
    ) -> Result<
        Result<(oneshot::Receiver<PairingAnswer>, OwnedSemaphorePermit), PairingRefusal>,
        Broken,
    > {
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return Ok(Err(PairingRefusal::KnocksMany));
        };
        let mut own = [0; 32];
        rand::rng().fill_bytes(&mut own);
        talk.say(&Reply::Share(own).encode())
            .await
            .map_err(broken)?;
        let Proof::Share(theirs) = talk.hear(Proof::decode).await.map_err(broken)? else {
            return Err(broken(TalkError::OutOfTurn));
        };
        if commitment(&theirs) != committed {
            let text = "the share of the check words is not the one that was promised";
            return Err((CloseCode::Malformed, text.to_owned()));
        }
        let words = CheckWords::of_hash(&binding.check(&theirs, &own));
        let answer = self.request(connection, binding, PairingClaim::Screen(words))?;
        Ok(Ok((answer, place)))
    }
}

/// Waits for the owner, and no longer than a request may stand on the screen.
async fn wait(knock: Knock, connection: &quinn::Connection) -> Result<(), Broken> {
    let Knock { talk, answer, .. } = knock;
    let answer = tokio::select! {
        answer = tokio::time::timeout(KNOCK_TIME, answer) => answer,
        // The daemon sees that nobody waits for its answer any more.
        error = connection.closed() => return Err((CloseCode::Done, describe(&error))),
    };
    let reply = match answer {
        Ok(Ok(answer)) => reply_to(answer, None),
        Ok(Err(_)) => return Err(busy()),
        Err(_) => refused(PairingRefusal::KnockExpired),
    };
    let last = tokio::time::timeout(TIME, finish(talk, connection, &reply)).await;
    last.unwrap_or_else(|_| Err((CloseCode::TooSlow, "the answer was not taken".to_owned())))
}

fn refused(refusal: PairingRefusal) -> Reply {
    Reply::Refused(Refused {
        code: refusal.code().into(),
        text: refusal.text().into(),
    })
}

fn reply_to(answer: PairingAnswer, proof: Option<[u8; 32]>) -> Reply {
    match answer {
        PairingAnswer::Accept => Reply::Accepted(proof),
        PairingAnswer::Refuse(refusal) => refused(refusal),
    }
}

/// Says the last word. The device closes when it has it.
async fn finish(
    mut talk: Talk,
    connection: &quinn::Connection,
    reply: &Reply,
) -> Result<(), Broken> {
    talk.say(&reply.encode()).await.map_err(broken)?;
    talk.finish();
    connection.closed().await;
    Ok(())
}

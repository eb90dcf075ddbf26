//! One neighbour: dial it, take its connections, carry frames, start again.
//!
//! Owns the decision which of several connections stays; see the module above for the rule. A link exists on
//! both sides or on none: the side that was dialled agrees by opening its streams.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use proto::NodeId;
use proto::control::Peer;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::link::{self, Agreed, Link};
use super::{MeshEvent, Slot, streams};
use crate::endpoint::Shared;
use crate::error::{CloseCode, describe};
use crate::tls::Plane;
use crate::tuning::{self, Timing};

/// How long the larger id's connection has to wait for ours.
const COURTESY: Duration = Duration::from_millis(500);

/// The task of one neighbour.
#[derive(Debug)]
pub(super) struct PeerTask {
    pub shared: Arc<Shared>,
    pub events: mpsc::Sender<MeshEvent>,
    pub instance: u64,
    pub node: NodeId,
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
    pub arrivals: mpsc::Receiver<quinn::Connection>,
    pub queues: Arc<Slot>,
    pub stop: CancellationToken,
}

/// Pauses between attempts: doubling, with jitter, up to the longest.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Pauses {
    fn new(timing: &Timing) -> Self {
        Self {
            next: timing.retry_min,
            min: timing.retry_min,
            max: timing.retry_max,
        }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// Between half of and the whole pause, so that two sides do not stay in step.
    fn take(&mut self, random: &mut impl Rng) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.max);
        pause.mul_f64(random.random_range(0.5..=1.0))
    }
}

/// What ended a link.
enum End {
    Stopped,
    Lost(String),
    Replaced(Box<Agreed>),
}

impl PeerTask {
    /// Runs until the node is no longer a peer or the socket closes.
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::new(&self.shared.dialler.timing);
        let mut agreed = None;
        loop {
            let next = match agreed.take() {
                Some(agreed) => agreed,
                None => match self.connect(&mut pauses).await {
                    Some(agreed) => agreed,
                    None => return,
                },
            };
            let since = Instant::now();
            match self.carry(next).await {
                End::Stopped => return,
                End::Lost(reason) => {
                    self.tell(MeshEvent::Down {
                        node: self.node.clone(),
                        reason,
                    })
                    .await
                }
                End::Replaced(next) => {
                    let reason = "the other side has connected anew".into();
                    let node = self.node.clone();
                    self.tell(MeshEvent::Down { node, reason }).await;
                    agreed = Some(*next);
                }
            }
            if since.elapsed() > self.shared.dialler.timing.retry_max {
                pauses.reset();
            }
        }
    }

    /// Whether our connection is the one that stays.
    fn ours_stays(&self) -> bool {
        self.shared.node < self.node
    }

    async fn tell(&self, event: MeshEvent) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            // The daemon has dropped its receiver: nobody is left to tell.
            _ = self.events.send(event) => {}
        }
    }

    /// Until both sides agree on a connection. `None` when the node is no longer a peer.
    async fn connect(&mut self, pauses: &mut Pauses) -> Option<Agreed> {
        loop {
            let dialling = self.dial();
            tokio::pin!(dialling);
            let since = Instant::now();
            let reason = loop {
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    dialled = &mut dialling => match dialled {
                        Ok(agreed) => return Some(agreed),
                        Err(reason) => break reason,
                    },
                    Some(connection) = self.arrivals.recv() => {
                        if self.ours_stays() && self.is_dialling(since) {
                            refuse_duplicate(&connection);
                        } else if let Some(agreed) = self.agree(connection).await {
                            return Some(agreed);
                        }
                    }
                }
            };
            tracing::debug!(node = %self.node, reason, "a neighbour was not reached");
            let pause = pauses.take(&mut rand::rng());
            if let Some(agreed) = self.pause(pause).await? {
                return Some(agreed);
            }
        }
    }

    /// Whether our own connection may still come about: in a household an answer takes milliseconds, and a
    /// stale address must not keep the peer's connection out.
    fn is_dialling(&self, since: Instant) -> bool {
        !self.addresses.borrow().is_empty() && since.elapsed() < COURTESY
    }

    /// Between two attempts any connection of the peer is welcome. `None` when stopped.
    async fn pause(&mut self, pause: Duration) -> Option<Option<Agreed>> {
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = &mut pause => return Some(None),
                Ok(()) = self.addresses.changed() => return Some(None),
                Some(connection) = self.arrivals.recv() => {
                    if let Some(agreed) = self.agree(connection).await {
                        return Some(Some(agreed));
                    }
                }
            }
        }
    }

    /// One attempt at all addresses; waits for ever where none is known.
    fn dial(&self) -> impl Future<Output = Result<Agreed, String>> + use<> {
        let dialler = self.shared.dialler.clone();
        let instance = self.instance;
        let peer = Peer {
            node: self.node.clone(),
            addresses: self.addresses.borrow().clone(),
        };
        let mut addresses = self.addresses.clone();
        async move {
            if peer.addresses.is_empty() {
                return match addresses.changed().await {
                    Ok(()) => Err("its addresses have changed".into()),
                    Err(_) => std::future::pending().await,
                };
            }
            let dialled = dialler.dial(&peer, Plane::Tensor).await;
            let connection = dialled.map_err(|error| error.to_string())?;
            open_windows(&connection);
            let agreed = Agreed::dialled(connection.clone(), instance);
            match tokio::time::timeout(dialler.timing.dial, agreed).await {
                Ok(Ok(agreed)) => Ok(agreed),
                Ok(Err(error)) => Err(match connection.close_reason() {
                    Some(reason) => describe(&reason),
                    None => error.to_string(),
                }),
                Err(_) => {
                    CloseCode::TooSlow.close(&connection, "no streams were opened");
                    Err("it did not open its streams in time".into())
                }
            }
        }
    }

    /// Agrees to a connection of the peer: reads its streams' first bytes, then opens ours.
    async fn agree(&self, connection: quinn::Connection) -> Option<Agreed> {
        let shown = self.shown(&connection).await?;
        self.consent(connection, shown).await
    }

    /// The streams that the dialling peer shows.
    async fn shown(
        &self,
        connection: &quinn::Connection,
    ) -> Option<([quinn::RecvStream; streams::STREAMS], u64)> {
        open_windows(connection);
        let taken = streams::take(connection);
        match tokio::time::timeout(self.shared.dialler.timing.dial, taken).await {
            Ok(Ok(shown)) => Some(shown),
            Ok(Err(error)) => {
                CloseCode::Malformed.close(connection, &error.to_string());
                None
            }
            Err(_) => {
                CloseCode::TooSlow.close(connection, "no streams were opened");
                None
            }
        }
    }

    async fn consent(
        &self,
        connection: quinn::Connection,
        (recv, instance): ([quinn::RecvStream; streams::STREAMS], u64),
    ) -> Option<Agreed> {
        let opened = streams::open(&connection, self.instance);
        match tokio::time::timeout(self.shared.dialler.timing.dial, opened).await {
            Ok(Ok(send)) => Some(Agreed {
                connection,
                instance,
                send,
                recv,
            }),
            _ => {
                CloseCode::TooSlow.close(&connection, "streams could not be opened");
                None
            }
        }
    }

    /// Carries frames over an agreed connection until it ends.
    async fn carry(&mut self, agreed: Agreed) -> End {
        let (queues, exits) = link::queues();
        self.set_queues(Some(queues));
        self.tell(MeshEvent::Up(self.node.clone())).await;
        let mut link = Link::start(agreed, exits, &self.node, &self.events, &self.shared);
        let end = loop {
            tokio::select! {
                () = self.stop.cancelled() => break End::Stopped,
                reason = link.ended() => break End::Lost(reason),
                Some(connection) = self.arrivals.recv() => {
                    if let Some(next) = self.judge(&link, connection).await {
                        break End::Replaced(Box::new(next));
                    }
                }
            }
        };
        // The connection goes first: writers whose queue closes would end their streams without a reason.
        match &end {
            End::Stopped if self.shared.stop.is_cancelled() => {
                link.close(CloseCode::Shutdown, "the program ends").await;
            }
            End::Stopped => {
                let reason = "this device is no neighbour any more";
                link.close(CloseCode::Removed, reason).await;
            }
            End::Lost(reason) => link.close(CloseCode::Done, reason).await,
            End::Replaced(_) => {
                let reason = "a newer connection has taken its place";
                link.close(CloseCode::Duplicate, reason).await;
            }
        }
        self.set_queues(None);
        end
    }

    /// A connection came although there is a link: it stays if it is the smaller id's, or if the peer has
    /// restarted; otherwise both were dialled at once.
    async fn judge(&self, link: &Link, connection: quinn::Connection) -> Option<Agreed> {
        let shown = self.shown(&connection).await?;
        if self.ours_stays() && shown.1 == link.instance {
            refuse_duplicate(&connection);
            return None;
        }
        self.consent(connection, shown).await
    }

    fn set_queues(&self, queues: Option<link::Queues>) {
        let mut slot = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        *slot = queues;
    }
}

fn refuse_duplicate(connection: &quinn::Connection) {
    let reason = "both sides dialled at once, and the other connection stays";
    CloseCode::Duplicate.close(connection, reason);
}

/// The peer is one of ours: it gets its streams and large windows.
fn open_windows(connection: &quinn::Connection) {
    connection.set_max_concurrent_uni_streams(quinn::VarInt::from_u32(3));
    connection.set_receive_window(tuning::TENSOR_WINDOW);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut pauses = Pauses::new(&Timing::default());
        let taken: Vec<_> = (0..8).map(|_| pauses.take(&mut random)).collect();
        let ceiling = [50, 100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis);
        for (pause, most) in taken.iter().zip(ceiling) {
            assert!(*pause <= most && *pause >= most / 2, "{taken:?}");
        }
        pauses.reset();
        assert!(pauses.take(&mut random) <= Duration::from_millis(50));
    }
}

//! The node's one loop: waits for the coordinator, the data plane, the computing thread, the owner and the clock,
//! and forwards what comes.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use command::local::Listener;
use command::{Failure, Outcome};
use proto::control::{Assign, Beat, CoordinatorMessage, Hello, Loaded, NodeMessage, PeerLost};
use tokio::sync::mpsc;
use transport::{ControlError, ControlLink, MeshEvent, Peer, Sockets};

use crate::fetch::{Desk, SUPERSEDED};
use crate::household::Household;
use crate::probing::Probing;
use crate::seek::Seeker;
use crate::terms::Machine;
use crate::terms::duty::Duty;
use crate::worker::{Job, Told, Worker};

mod owner;
mod terms;

pub use owner::Status;
pub use terms::{Change, Making, Owner};

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the loop is started with.
pub struct Start {
    /// The sockets of this node.
    pub sockets: Sockets,
    /// The household it belongs to.
    pub household: Household,
    /// Finds the coordinator when it has moved.
    pub seeker: Seeker,
    /// How it introduces itself.
    pub hello: Hello,
    /// The computing thread.
    pub worker: Worker,
    /// What is told to whoever fetches shards.
    pub desk: Desk,
    /// News of the computing thread.
    pub told: mpsc::Receiver<Told>,
    /// The owner's socket.
    pub local: Listener,
    /// What the owner wants of this machine.
    pub owner: Owner,
    /// Where the household is remembered.
    pub data_dir: PathBuf,
}

/// Why the loop ends.
enum End {
    Left,
    Failed(String),
}

struct Daemon {
    start: Start,
    link: Option<ControlLink>,
    assigned: Option<Assign>,
    /// The slice is read, but a neighbour's link is not up yet: a row sent now would be lost.
    unlinked: Option<Loaded>,
    loaded: bool,
    /// Why the last slice could not be loaded, until one is.
    trouble: Option<String>,
    leaving: Option<(Instant, Option<command::local::Call>)>,
    retry: Duration,
    beat: Duration,
    next_beat: Instant,
    probing: Probing,
}

type Attached = Result<ControlLink, ControlError>;

/// Serves until the owner stops it, the coordinator expels it, or it must not go on.
///
/// # Errors
/// When this node is not (or no longer) welcome, or its model files changed.
pub async fn run(start: Start) -> Outcome {
    let (attached_in, mut attached) = mpsc::channel::<Attached>(1);
    let mut daemon = Daemon {
        start,
        link: None,
        assigned: None,
        unlinked: None,
        loaded: false,
        trouble: None,
        leaving: None,
        retry: RETRY_MIN,
        beat: Duration::from_secs(1),
        next_beat: Instant::now(),
        probing: Probing::new(),
    };
    daemon.start.seeker.begin();
    daemon.dial(&attached_in, Duration::ZERO);
    let end = loop {
        if let Some(end) = daemon.turn(&mut attached, &attached_in).await {
            break end;
        }
    };
    daemon.stop().await;
    match end {
        End::Left => Ok(()),
        End::Failed(text) => Err(Failure::Failed(text)),
    }
}

/// The next message of a link; never, without one.
async fn heard(link: &mut Option<ControlLink>) -> Result<CoordinatorMessage, ControlError> {
    match link {
        Some(link) => link.receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends when the owner's system asks the process to stop.
async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut term) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = term.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Daemon {
    /// Dials the coordinator after a pause, in a task of its own that sends one result.
    fn dial(&mut self, result: &mpsc::Sender<Attached>, after: Duration) {
        let endpoint = self.start.sockets.endpoint.clone();
        let peer = self.coordinator();
        let (hello, result) = (self.start.hello.clone(), result.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let link = endpoint.attach(&peer, hello).await;
            // The loop is gone only when the process ends.
            let _gone = result.send(link).await;
        });
    }

    /// Waits for one event and applies it.
    async fn turn(
        &mut self,
        attached: &mut mpsc::Receiver<Attached>,
        again: &mpsc::Sender<Attached>,
    ) -> Option<End> {
        let leave_by = self.leaving.as_ref().map(|(by, _)| *by);
        tokio::select! {
            biased;
            () = until(Some(self.next_beat)), if self.link.is_some() => self.send_beat(),
            Some(event) = self.start.sockets.mesh_events.recv() => self.meshed(event).await,
            message = heard(&mut self.link) => match message {
                Ok(message) => self.told_by_coordinator(message).await,
                Err(error) => self.lost(&error, again),
            },
            Some(told) = self.start.told.recv() => self.told_by_worker(told).await,
            news = terms::news(&mut self.start.owner) => self.looked_after(news, again),
            Some(result) = attached.recv() => self.attached(result, again),
            Some(measured) = self.probing.next() => self.send(NodeMessage::Measured(measured)),
            Some(call) = self.start.local.next() => self.owner(call).await,
            () = asked_to_stop(), if self.leaving.is_none() => {
                tracing::info!("stopping: telling the coordinator");
                self.leave(None).await
            }
            () = until(leave_by), if leave_by.is_some() => Some(End::Left),
        }
    }

    fn attached(&mut self, result: Attached, again: &mpsc::Sender<Attached>) -> Option<End> {
        match result {
            Ok(link) => {
                tracing::info!(coordinator = %link.remote, "connected to the household");
                self.retry = RETRY_MIN;
                self.start.seeker.end();
                self.remember(link.remote);
                self.link = Some(link);
                None
            }
            Err(error @ ControlError::NotMember { .. }) => Some(End::Failed(format!(
                "{error}; ask the household's owner for an invite and join again"
            ))),
            Err(error) => {
                tracing::warn!(%error, retry_ms = self.retry.as_millis(), "coordinator not reached");
                self.dial(again, self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
                None
            }
        }
    }

    /// The address that answered goes first next time.
    fn remember(&mut self, remote: std::net::SocketAddr) {
        let home = &mut self.start.household;
        if home.addresses.first() != Some(&remote) {
            home.addresses.retain(|a| *a != remote);
            home.addresses.insert(0, remote);
            home.addresses.truncate(proto::limits::ADDRESSES_MAX);
            if let Err(error) = home.save(&self.start.data_dir) {
                tracing::warn!(%error, "the coordinator's address could not be kept");
            }
        }
    }

    fn lost(&mut self, error: &ControlError, again: &mpsc::Sender<Attached>) -> Option<End> {
        self.link = None;
        if self.leaving.is_some() {
            return Some(End::Left);
        }
        tracing::warn!(%error, "connection to the coordinator lost; trying again");
        self.start.seeker.begin();
        self.dial(again, self.retry);
        None
    }

    async fn told_by_coordinator(&mut self, message: CoordinatorMessage) -> Option<End> {
        match message {
            CoordinatorMessage::Welcome(welcome) => {
                tracing::info!(household = welcome.household, "welcome");
                self.beat = Duration::from_millis((welcome.lease_ms / 3).max(50));
                for message in self.start.desk.held() {
                    self.send(message);
                }
                // The hello was written when this connection was asked for.
                let end = self.tell_offer();
                return end.or_else(|| self.send_beat());
            }
            CoordinatorMessage::Sources(sources) => {
                let coordinator = self.coordinator();
                self.start.desk.found(sources, coordinator);
            }
            CoordinatorMessage::Lend(nodes) => self.start.sockets.endpoint.lend_to(nodes),
            CoordinatorMessage::Assign(assign) => return self.assign(*assign),
            CoordinatorMessage::Release { epoch } => {
                let failed = self.release(epoch);
                return failed.or_else(|| self.leaving.is_some().then_some(End::Left));
            }
            CoordinatorMessage::Measure(asked) => {
                self.probing.asked(&self.start.sockets.endpoint, asked);
            }
            CoordinatorMessage::Drain => tracing::info!("the coordinator is stopping"),
            CoordinatorMessage::Refused(refused) => {
                return Some(End::Failed(format!(
                    "the coordinator refused this node: {} ({})",
                    refused.text, refused.code
                )));
            }
            CoordinatorMessage::Kicked { text } => {
                if let Err(error) = Household::forget(&self.start.data_dir) {
                    tracing::warn!(%error, "the household could not be forgotten");
                }
                return Some(End::Failed(format!(
                    "this machine was removed from the household: {text}"
                )));
            }
        }
        None
    }

    /// Where the coordinator is.
    fn coordinator(&mut self) -> Peer {
        let home = &self.start.household;
        Peer {
            node: home.coordinator.clone(),
            addresses: self.start.seeker.addresses(&home.addresses),
        }
    }

    fn assign(&mut self, assign: Assign) -> Option<End> {
        if matches!(self.start.owner.duty(), Duty::Pause(_)) {
            return self.refuse_assignment(assign.epoch);
        }
        tracing::info!(
            epoch = assign.epoch.0,
            first = assign.layers.start,
            end = assign.layers.end,
            foreign = assign.foreign.len(),
            head_blocks = assign.head_blocks.len(),
            "loading layers"
        );
        let mut peers = vec![Peer {
            node: assign.coordinator.clone(),
            addresses: self.start.household.addresses.clone(),
        }];
        peers.extend(assign.neighbours().cloned());
        self.start.sockets.mesh.set_peers(peers);
        self.loaded = false;
        self.unlinked = None;
        self.start.desk.want(Some(assign.epoch));
        self.assigned = Some(assign.clone());
        self.give(Job::Load(Box::new(assign)))
    }

    fn release(&mut self, epoch: proto::Epoch) -> Option<End> {
        if self.assigned.as_ref().is_some_and(|a| a.epoch <= epoch) {
            tracing::info!(epoch = epoch.0, "layers released");
            self.start.desk.want(None);
            self.assigned = None;
            self.unlinked = None;
            self.loaded = false;
            self.start.sockets.mesh.set_peers(Vec::new());
        }
        let end = self.give(Job::Release(epoch));
        self.layers_given_back();
        end
    }

    /// A job that is lost would leave the household waiting, so this node rather ends and is planned around.
    fn give(&self, job: Job) -> Option<End> {
        let taken = self.start.worker.give(job);
        taken.err().map(|error| End::Failed(error.to_string()))
    }

    async fn meshed(&mut self, event: MeshEvent) -> Option<End> {
        match event {
            MeshEvent::Frame { from, frame } => return self.give(Job::Frame { from, frame }),
            MeshEvent::Up(node) => {
                tracing::debug!(%node, "data link up");
                return self.report_loaded();
            }
            MeshEvent::Down { node, reason } => {
                tracing::warn!(%node, reason, "data link down");
                if let Some(assign) = &self.assigned
                    && node != assign.coordinator
                {
                    let lost = PeerLost {
                        epoch: assign.epoch,
                        node,
                        text: reason,
                    };
                    return self.send(NodeMessage::PeerLost(lost));
                }
            }
        }
        None
    }

    async fn told_by_worker(&mut self, told: Told) -> Option<End> {
        match told {
            Told::Message(message) => {
                if let NodeMessage::Loaded(loaded) = message {
                    self.unlinked = Some(loaded);
                    return self.report_loaded();
                }
                if let NodeMessage::LoadFailed(failed) = &message
                    && failed.code != SUPERSEDED
                {
                    self.trouble = Some(failed.text.clone());
                }
                self.send(message)
            }
            Told::ModelChanged(text) => Some(End::Failed(text)),
        }
    }

    /// Tells the coordinator that the slice is ready, once the links to all neighbours carry frames.
    fn report_loaded(&mut self) -> Option<End> {
        let mesh = &self.start.sockets.mesh;
        let assign = self.assigned.as_ref()?;
        if !assign.neighbours().all(|peer| mesh.is_up(&peer.node)) {
            return None;
        }
        let loaded = self
            .unlinked
            .take_if(|loaded| loaded.epoch == assign.epoch)?;
        self.loaded = true;
        self.trouble = None;
        tracing::info!(epoch = loaded.epoch.0, "layers loaded");
        self.send(NodeMessage::Loaded(loaded))
    }

    /// Sends to the coordinator; what cannot be sent is told again when the connection is back.
    fn send(&mut self, message: NodeMessage) -> Option<End> {
        if let Some(link) = &self.link
            && let Err(error) = link.sender.try_send(message)
        {
            tracing::warn!(%error, "message to the coordinator not sent");
        }
        None
    }

    fn send_beat(&mut self) -> Option<End> {
        self.next_beat = Instant::now() + self.beat;
        let c = &self.start.worker.counters;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let beat = Beat {
            free_memory_bytes: Machine::look().available_bytes,
            resident_bytes: of(&c.resident_bytes),
            steps: of(&c.steps),
            rows: of(&c.rows),
            sequences: u32::try_from(of(&c.sequences)).unwrap_or(u32::MAX),
            busy_us: of(&c.busy_us),
        };
        self.send(NodeMessage::Beat(beat))
    }

    async fn stop(mut self) {
        self.start.sockets.mesh.set_peers(Vec::new());
        self.link = None;
        let status = self.status();
        if let Some((_, Some(call))) = self.leaving.take() {
            call.answer(&status);
        }
        self.start.sockets.endpoint.close().await;
        let Start {
            worker, told, desk, ..
        } = self.start;
        desk.want(None);
        // With its receiver gone the thread cannot block on telling anything.
        drop(told);
        if tokio::task::spawn_blocking(move || worker.stop())
            .await
            .is_err()
        {
            tracing::error!("the computing thread did not end cleanly");
        }
    }
}

async fn until(by: Option<Instant>) {
    match by {
        Some(by) => tokio::time::sleep_until(by.into()).await,
        None => std::future::pending().await,
    }
}

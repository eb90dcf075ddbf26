//! The one task that owns the household: waits for one event, applies it, carries out what comes of it.
//!
//! Owns the glue between sockets, the state machine and the session. Must never decide who is in, what runs where or
//! what is computed next; must never wait but in `next`.
//!
//! The one idea: `next` waits and changes nothing, `apply` changes and never waits. What takes time (the record, the
//! planner) runs in tasks that come back as events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use command::local::{Call, Listener};
use plan::Plan;
use proto::control::{LinkRates, NodeMessage};
use proto::frame::Frame;
use proto::{Epoch, NodeId};
use session::Input as Told;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use transport::{ControlPeer, MeshEvent, PairingRequest, Sockets};

use super::desk::{Desk, Kicked};
use super::facts::Fixed;
use super::knocks::Knocks;
use super::library::Library;
use super::links::{Links, News};
use super::masks::Masked;
use super::planning::Wish;
use super::post::{Post, Unsent};
use super::serving::{Effect, Serving};
use super::settings::HouseTiming;
use super::state::{Act, Event, Household, Newcomer, PlanFailure, Trial};
use super::survey::Survey;
use crate::gateway::{Command, GatewayHousehold, Phase};
use surveying::WantedPlan;

mod owner;
mod surveying;

/// Pieces of news about frames that could not be sent.
const UNSENT_MAX: usize = 64;

/// What the actor is made of at its start.
pub(super) struct Parts {
    pub sockets: Sockets,
    pub gateway: GatewayHousehold,
    pub local: Listener,
    pub desk: Desk,
    pub wish: Arc<Wish>,
    pub household: Household,
    pub library: Arc<Library>,
    pub session: session::Config,
    pub fixed: Fixed,
    pub timing: HouseTiming,
}

/// What the actor tells whoever started it, and is told.
pub(super) struct Strings {
    /// The plan that is loading or served.
    pub plan: watch::Sender<Option<Arc<Plan>>>,
    /// True once somebody asked the service to stop.
    pub stop_asked: watch::Sender<bool>,
    /// Turns true when the service has to end.
    pub shutdown: watch::Receiver<bool>,
}

/// What a task came back with.
enum Done {
    Nothing,
    Planned {
        ticket: u64,
        result: Result<(Plan, Epoch), PlanFailure>,
    },
    Tried {
        ticket: u64,
        result: Result<Trial, String>,
    },
    Catalogued(Result<[u8; 32], String>),
    Masked(Box<Masked>),
    Probed {
        ticket: u64,
        link: Result<LinkRates, String>,
    },
    Kicked {
        call: Call,
        result: Result<Kicked, String>,
    },
}

/// One event.
enum Input {
    Mesh(MeshEvent),
    News(News),
    Control(ControlPeer),
    Pairing(PairingRequest),
    Command(Command),
    Local(Call),
    Done(Done),
    Unsent(Unsent),
    Shutdown,
    Time,
}

pub(super) struct Actor {
    parts: Parts,
    strings: Strings,
    serving: Serving,
    links: Links,
    news: mpsc::Receiver<News>,
    post: Post,
    unsent: mpsc::Receiver<Unsent>,
    tasks: JoinSet<Done>,
    /// Machines that were removed and still have a connection on which they are told so.
    kicked: HashSet<NodeId>,
    /// Devices that wait on the owner's screen.
    knocks: Knocks,
    began: Instant,
    /// When the service ends, whatever still runs.
    ends: Option<Instant>,
    /// What of the household was published last.
    published: Option<u64>,
    phase: Phase,
    /// Whether the household was told last that something runs.
    busy: bool,
    survey: Survey,
    /// A plan that waits for links to be measured.
    wanted: Option<WantedPlan>,
}

impl Actor {
    pub fn new(parts: Parts, strings: Strings) -> Self {
        let (links, news) = Links::new();
        let (unsent_out, unsent) = mpsc::channel(UNSENT_MAX);
        let coordinator = parts.desk.endpoint.node_id().clone();
        Self {
            survey: Survey::new(coordinator, parts.timing.survey_every),
            wanted: None,
            post: Post::start(&parts.sockets.mesh, &unsent_out),
            serving: Serving::new(parts.session),
            parts,
            strings,
            links,
            news,
            unsent,
            tasks: JoinSet::new(),
            kicked: HashSet::new(),
            knocks: Knocks::default(),
            began: Instant::now(),
            ends: None,
            published: None,
            phase: Phase::WaitingForNodes,
            busy: false,
        }
    }

    /// Lives until the service has ended.
    pub async fn run(mut self) {
        self.settle();
        while !self.has_ended() {
            let input = self.next().await;
            self.apply(input);
            self.settle();
        }
        // What is still running is told why it ends.
        let reason = "the service is ending".to_owned();
        self.serving.input(self.now(), Told::Lost { reason });
        self.parts.sockets.mesh.set_peers(Vec::new());
        self.tasks.shutdown().await;
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn has_ended(&self) -> bool {
        self.ends
            .is_some_and(|ends| self.serving.session().is_done() || ends <= Instant::now())
    }

    /// Waits for one event. Every branch is cancel-safe: channels, a join, a change and the clock.
    async fn next(&mut self) -> Input {
        let due = [
            self.parts.household.poll_timeout(),
            self.serving.session().poll_timeout(),
            self.survey_timeout(),
        ];
        let due = due
            .into_iter()
            .flatten()
            .min()
            .and_then(|due| self.began.checked_add(due));
        let due = due.into_iter().chain(self.ends).min();
        let Parts {
            sockets,
            gateway,
            local,
            ..
        } = &mut self.parts;
        let ending = self.ends.is_some();
        tokio::select! {
            Some(event) = sockets.mesh_events.recv() => Input::Mesh(event),
            Some(news) = self.news.recv() => Input::News(news),
            Some(command) = gateway.commands.recv() => Input::Command(command),
            Some(peer) = sockets.control.recv() => Input::Control(peer),
            Some(request) = sockets.pairing.recv() => Input::Pairing(request),
            Some(call) = local.next() => Input::Local(call),
            Some(call) = gateway.owner.recv() => Input::Local(call),
            Some(done) = self.tasks.join_next() => Input::Done(done.unwrap_or_else(|error| {
                tracing::error!(%error, "a task of the household broke off");
                Done::Nothing
            })),
            Some(unsent) = self.unsent.recv() => Input::Unsent(unsent),
            () = turned(&mut self.strings.shutdown), if !ending => Input::Shutdown,
            () = until(due) => Input::Time,
        }
    }

    fn apply(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Mesh(event) => self.meshed(now, event),
            Input::News(news) => self.heard(now, news),
            Input::Control(peer) => self.connected(now, peer),
            Input::Pairing(request) => self.pair(request),
            Input::Command(command) => {
                let door = self.parts.household.door();
                self.serving.command(now, command, door);
            }
            Input::Local(call) => self.owner(now, call),
            Input::Done(done) => self.done(now, done),
            Input::Unsent(unsent) => self.unsent(now, unsent),
            Input::Shutdown => {
                self.ends = Instant::now().checked_add(self.parts.timing.drain);
                self.parts.household.handle_input(now, Event::Drain);
            }
            Input::Time => {
                self.parts.household.handle_timeout(now);
                self.serving.timeout(now);
            }
        }
    }

    /// Carries out all that has become due, and publishes what changed.
    fn settle(&mut self) {
        let now = self.now();
        loop {
            if let Some(act) = self.parts.household.poll_output() {
                self.act(now, act);
            } else if let Some(effect) = self.serving.poll_effect() {
                self.effect(now, effect);
            } else if !self.serving.let_in(now, self.parts.household.door()) && !self.tell_work(now)
            {
                break;
            }
        }
        self.survey(now);
        if self.published != Some(self.parts.household.revision()) {
            self.published = Some(self.parts.household.revision());
            self.publish(now);
        }
    }

    /// Tells the household whether something runs, where that is news or waited for.
    fn tell_work(&mut self, now: Duration) -> bool {
        let busy = !self.serving.session().is_idle();
        let waited_for = self.parts.household.wants_idle() && !busy;
        if busy == self.busy && !waited_for {
            return false;
        }
        self.busy = busy;
        let event = if busy { Event::Busy } else { Event::Idle };
        self.parts.household.handle_input(now, event);
        true
    }

    fn publish(&mut self, now: Duration) {
        let mut status = self.parts.household.status(now);
        if let Some(capacity) = self.serving.session().capacity() {
            // The session lowers a context that the pages cannot hold.
            status.context = capacity.context;
        }
        self.phase = status.phase;
        let plan = self.parts.household.run().map(|run| Arc::clone(&run.plan));
        self.strings.plan.send_if_modified(|known| {
            let changed = *known != plan;
            *known = plan;
            changed
        });
        self.parts.gateway.status.send_if_modified(|known| {
            let changed = *known != status;
            if changed && (known.phase != status.phase || known.detail != status.detail) {
                tracing::info!(
                    phase = status.phase.name(),
                    nodes = status.nodes,
                    "{}",
                    status.detail
                );
            }
            *known = status;
            changed
        });
    }

    fn act(&mut self, now: Duration, act: Act) {
        match act {
            Act::Plan { ticket, nodes } => self.want_plan(now, ticket, nodes, None),
            Act::Try {
                ticket,
                nodes,
                running,
            } => self.want_plan(now, ticket, nodes, Some(running)),
            Act::Send { link, message } => {
                if let Err(error) = self.links.send(link, message) {
                    self.links.part(link);
                    let reason = format!("it takes no more messages ({error})");
                    self.parts
                        .household
                        .handle_input(now, Event::Closed { link, reason });
                }
            }
            Act::Part { link } => self.links.part(link),
            Act::Peers(peers) => self.parts.sockets.mesh.set_peers(peers),
            Act::Catalogue => self.catalogue(),
            Act::Session(input) => self.serving.input(now, input),
        }
    }

    /// Makes the catalogue off the async threads.
    fn catalogue(&mut self) {
        let library = Arc::clone(&self.parts.library);
        self.tasks.spawn(async move {
            let made = tokio::task::spawn_blocking(move || library.catalogue()).await;
            Done::Catalogued(match made {
                Ok(Ok(catalogue)) => Ok(catalogue),
                Ok(Err(error)) => Err(format!("the coordinator cannot give it away: {error}")),
                Err(error) => Err(format!(
                    "the coordinator broke off making its catalogue ({error}); please report this"
                )),
            })
        });
    }

    fn effect(&mut self, now: Duration, effect: Effect) {
        match effect {
            Effect::Suspect { epoch, text } => {
                self.parts
                    .household
                    .handle_input(now, Event::Suspect { epoch, text });
            }
            Effect::Mask(job) => {
                let run = async move {
                    let ran = tokio::task::spawn_blocking(move || job.run()).await;
                    // Without a mask the session fails the request when its time is over.
                    ran.map_or(Done::Nothing, |masked| Done::Masked(Box::new(masked)))
                };
                self.tasks.spawn(run);
            }
            Effect::Frame(frame) => {
                let run = self
                    .parts
                    .household
                    .run()
                    .filter(|run| run.epoch == frame.epoch());
                // What belongs to an epoch that was given up meanwhile has nowhere to go.
                let stages = run.map(|run| run.plan.stages.as_slice());
                let stage = match (&frame, stages.unwrap_or_default()) {
                    (Frame::Mask(_), [.., last]) => last,
                    (_, [first, ..]) => first,
                    (_, []) => return,
                };
                if let Err(unsent) = self.post.send(&stage.node.clone(), frame) {
                    self.unsent(now, unsent);
                }
            }
        }
    }

    fn unsent(&mut self, now: Duration, unsent: Unsent) {
        if self
            .parts
            .household
            .run()
            .is_some_and(|run| run.epoch == unsent.epoch)
        {
            let Unsent { to, epoch, reason } = unsent;
            tracing::warn!(node = %to, epoch = epoch.0, reason, "a frame was not sent");
            self.parts
                .household
                .handle_input(now, Event::Down { node: to, reason });
        }
    }

    fn meshed(&mut self, now: Duration, event: MeshEvent) {
        match event {
            MeshEvent::Frame { from, frame } => self.framed(now, &from, frame),
            MeshEvent::Up(node) => self.parts.household.handle_input(now, Event::Up(node)),
            MeshEvent::Down { node, reason } => {
                self.parts
                    .household
                    .handle_input(now, Event::Down { node, reason });
            }
        }
    }

    /// Takes samples from the last stage and faults from any; what else comes is not for us.
    fn framed(&mut self, now: Duration, from: &NodeId, frame: Frame) {
        let run = self
            .parts
            .household
            .run()
            .filter(|run| run.epoch == frame.epoch());
        let Some(run) = run.filter(|run| run.has(from)) else {
            return tracing::debug!(%from, epoch = frame.epoch().0, "frame of another epoch dropped");
        };
        let last = run
            .plan
            .stages
            .last()
            .is_some_and(|stage| stage.node == *from);
        match frame {
            Frame::Samples(samples) if last => self.serving.input(now, Told::Done(samples)),
            Frame::Fault(fault) => self.serving.input(now, Told::Fault(fault)),
            _ => tracing::warn!(%from, "frame of a kind that is not for the coordinator, dropped"),
        }
    }

    fn connected(&mut self, now: Duration, peer: ControlPeer) {
        let ControlPeer {
            node,
            remote,
            hello,
            sender,
            receiver,
        } = peer;
        if self.kicked.contains(&node) {
            return;
        }
        let up = self.parts.sockets.mesh.is_up(&node);
        let link = self.links.add(node.clone(), sender, receiver);
        let newcomer = Newcomer {
            link,
            node,
            remote,
            hello,
            up,
        };
        self.parts
            .household
            .handle_input(now, Event::Joined(newcomer));
    }

    fn heard(&mut self, now: Duration, news: News) {
        let News { link, said } = news;
        if let (Ok(NodeMessage::Measured(measured)), Some(node)) = (&said, self.links.node(link)) {
            let (ticket, link) = (measured.ticket, measured.link.clone());
            self.survey.measured(now, &node.clone(), ticket, link);
        }
        match said {
            Ok(message) => self
                .parts
                .household
                .handle_input(now, Event::Heard { link, message }),
            Err(error) => {
                let node = self.links.over(link);
                let reason = error.to_string();
                self.parts
                    .household
                    .handle_input(now, Event::Closed { link, reason });
                if let Some(node) = node
                    && !self.links.has(&node)
                    && self.kicked.remove(&node)
                {
                    self.parts.desk.endpoint.members().expel(&node);
                }
            }
        }
    }
}

/// Waits until the value is true; for ever if nobody can make it so.
async fn turned(value: &mut watch::Receiver<bool>) {
    if value.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

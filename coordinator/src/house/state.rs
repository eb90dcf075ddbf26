//! The household's mind: who is in, and how far the current plan is.
//!
//! Owns membership of the moment and the phase between "nobody is here" and "answers are given". Holds no socket,
//! file, task or clock: events and the time go in, acts come out. It never sees a token.
//!
//! The one idea: an epoch is one plan on the machines that it names. It is given up whole when one of them goes;
//! a machine that comes while an epoch stands changes nothing until a trial plan has shown that it is worth a planned
//! change (`trial`). So there is always at most one epoch, and what belongs to an older one is told by its number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plan::{NodeFacts, Plan};
use proto::control::{CoordinatorMessage, Hello, NodeMessage, Peer};
use proto::facts::ModelFacts;
use proto::{Epoch, NodeId};

mod assign;
mod epoch;
mod membership;
mod node;
mod offer;
mod report;
mod trial;
mod weights;

pub(crate) use node::Node;
pub(crate) use report::NodeState;
pub(crate) use trial::{Anew, Trial};

use super::settings::HouseTiming;
use node::Load;
use trial::{Because, Trials};
use weights::Stock;

/// Pauses of a machine that failed to load; after that it is out until it connects anew.
const TROUBLES_MAX: u32 = 3;
/// How long a plan that could not be recorded waits before it is tried again.
const PLAN_RETRY: Duration = Duration::from_secs(5);
/// However many machines come in one after the other, a plan is made after so many pauses.
const SETTLES_MAX: u32 = 10;

/// One control connection. A machine that comes back has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub u64);

/// What never changes while the household lives.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Machines that must be in before the first plan; `None` is one, after a pause.
    pub expect: Option<usize>,
    pub anew: Anew,
    pub timing: HouseTiming,
    /// The coordinator's key.
    pub coordinator: NodeId,
    /// Shown to machines that come in.
    pub household: String,
    pub model: ModelPlace,
    /// Addresses of this machine that others can reach: for nodes beside us that we see on loopback.
    pub neighbours: Vec<std::net::IpAddr>,
}

/// Where a node finds the model, and how it knows it for the right one.
#[derive(Debug, Clone)]
pub(crate) struct ModelPlace {
    pub path: String,
    pub size_bytes: u64,
    pub blake3: [u8; 32],
    /// What its parts weigh.
    pub facts: ModelFacts,
}

/// What the household is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A member has connected.
    Joined(Newcomer),
    /// A member says something.
    Heard { link: LinkId, message: NodeMessage },
    /// A control connection is over.
    Closed { link: LinkId, reason: String },
    /// The data link to a node stands.
    Up(NodeId),
    /// The data link to a node is gone.
    Down { node: NodeId, reason: String },
    /// A plan was asked for and is made, with an epoch of its own; or is not.
    Planned {
        ticket: u64,
        result: Result<(Plan, Epoch), PlanFailure>,
    },
    /// A trial was asked for and is made, or cannot be.
    Tried {
        ticket: u64,
        result: Result<Trial, String>,
    },
    /// The link between two machines, the coordinator among them, is no more as the planner was told.
    Relinked(NodeId, NodeId),
    /// The pipeline does not answer.
    Suspect { epoch: Epoch, text: String },
    /// The model's catalogue is there, or cannot be made.
    Catalogued(Result<[u8; 32], String>),
    /// Something runs.
    Busy,
    /// Nothing runs any more: a planned change can be made.
    Idle,
    /// The owner has removed a member.
    Kicked(NodeId),
    /// The service ends.
    Drain,
}

/// A member as it connects.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub link: LinkId,
    pub node: NodeId,
    pub remote: SocketAddr,
    pub hello: Hello,
    /// Whether a data link stands already, from before its control connection broke.
    pub up: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanFailure {
    pub missing_bytes: u64,
    pub text: String,
    /// Whether the same machines may succeed later.
    pub retry: bool,
}

/// What the household wants done, in this order.
#[derive(Debug, PartialEq)]
pub(crate) enum Act {
    /// Make a plan for these machines and take the next epoch; answer with [`Event::Planned`].
    Plan { ticket: u64, nodes: Vec<NodeFacts> },
    /// Make a plan for these machines, take no epoch, and predict the running one anew; answer with [`Event::Tried`].
    Try {
        ticket: u64,
        nodes: Vec<NodeFacts>,
        running: Arc<Plan>,
    },
    /// To a node.
    Send {
        link: LinkId,
        message: CoordinatorMessage,
    },
    /// Let a connection end once what was sent has arrived; nothing more is heard from it.
    Part { link: LinkId },
    /// Exchange frames with exactly these.
    Peers(Vec<Peer>),
    /// Make the catalogue of the model; answer with [`Event::Catalogued`].
    Catalogue,
    /// To the session.
    Session(session::Input),
}

/// A plan on the machines that it names.
#[derive(Debug)]
pub(crate) struct Run {
    pub epoch: Epoch,
    pub plan: Arc<Plan>,
    /// What each machine of the plan holds.
    pub shares: Arc<Vec<Share>>,
}

/// What one machine holds of a plan, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub node: NodeId,
    pub weight_bytes: u64,
    /// Expert groups of layers of other machines.
    pub expert_groups: u32,
    /// Head blocks, where another machine samples.
    pub head_blocks: u32,
}

impl Run {
    pub fn has(&self, node: &NodeId) -> bool {
        self.plan.has(node)
    }

    pub fn share(&self, node: &NodeId) -> Option<&Share> {
        self.shares.iter().find(|share| share.node == *node)
    }
}

/// How far the household is.
#[derive(Debug)]
enum Phase {
    /// For machines, memory, or a later try.
    Waiting {
        missing_bytes: u64,
        text: String,
        again: Option<Duration>,
    },
    /// Others may be about to come in (or one of us about to turn out dead).
    Settling {
        until: Duration,
        latest: Duration,
        doubt: Option<NodeId>,
    },
    /// The plan is being made.
    Planning {
        ticket: u64,
        /// What it was chosen for, where it takes the place of one that could have stayed.
        because: Option<Because>,
    },
    /// Machines load their slices.
    Loading {
        run: Run,
        began: Duration,
        progress: Duration,
        loads: BTreeMap<NodeId, Load>,
    },
    /// Requests are answered.
    Serving {
        run: Run,
        farewell: Option<Farewell>,
    },
}

/// A planned change: machines of the running epoch want to go, or to be planned for anew, or another plan is better.
#[derive(Debug)]
struct Farewell {
    nodes: BTreeSet<NodeId>,
    /// Machines that stay and give something else from then on, or nothing for a while.
    changes: BTreeSet<NodeId>,
    /// Why another plan is better than the one that runs.
    because: Option<Because>,
    until: Duration,
}

/// The machine itself.
#[derive(Debug)]
pub(crate) struct Household {
    rules: Rules,
    nodes: BTreeMap<NodeId, Node>,
    /// Machines that an epoch was lost with, why, until an epoch is ready again.
    gone: BTreeMap<NodeId, String>,
    phase: Phase,
    /// Positions of a sequence under a plan that we give up for a better one by our own choice, until that one serves: a
    /// service that was ready stays so, and requests wait.
    kept: Option<u32>,
    /// Whether the expected machines were in together.
    assembled: bool,
    draining: bool,
    stock: Stock,
    trials: Trials,
    last_epoch: Epoch,
    last_ticket: u64,
    acts: VecDeque<Act>,
    revision: u64,
}

impl Household {
    /// Without machines. `last_epoch` is the highest that was ever given out.
    pub fn new(rules: Rules, last_epoch: Epoch) -> Self {
        let mut household = Self {
            rules,
            nodes: BTreeMap::new(),
            gone: BTreeMap::new(),
            phase: waiting(0, String::new(), None),
            kept: None,
            assembled: false,
            draining: false,
            stock: Stock::Unknown,
            trials: Trials::default(),
            last_epoch,
            last_ticket: 0,
            acts: VecDeque::new(),
            revision: 0,
        };
        household.consider(Duration::ZERO, Pause::None);
        household
    }

    /// Applies one event. `now` never goes back.
    pub fn handle_input(&mut self, now: Duration, event: Event) {
        self.revision = self.revision.wrapping_add(1);
        match event {
            Event::Joined(newcomer) => self.joined(now, Node::new(newcomer, now)),
            Event::Heard { link, message } => self.heard(now, link, message),
            Event::Closed { link, reason } => {
                if let Some(node) = self.by_link(link) {
                    self.lost(now, &node, &reason);
                }
            }
            Event::Up(node) => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.up = true;
                }
                self.ready_if_loaded();
            }
            Event::Down { node, reason } => self.down(now, &node, &reason),
            Event::Planned { ticket, result } => self.planned(now, ticket, result),
            Event::Catalogued(result) => self.catalogued(now, result),
            Event::Suspect { epoch, text } => self.suspected(now, epoch, &text),
            Event::Tried { ticket, result } => self.tried(now, ticket, result),
            Event::Relinked(a, b) => self.relinked(now, a, b),
            Event::Busy => self.trials.busy(),
            Event::Idle => {
                self.trials.idle(now);
                if self.wants_idle() {
                    self.part_with_leavers(now);
                }
            }
            Event::Kicked(node) => self.kicked(now, &node),
            Event::Drain => self.drain(),
        }
        self.waits_for_nothing_kept();
    }

    /// Does what has fallen due. To be called when [`Household::poll_timeout`] says so; earlier does nothing.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.revision = self.revision.wrapping_add(1);
        let lease = self.rules.timing.lease;
        let silent = self
            .nodes
            .values()
            .filter(|node| node.heard.saturating_add(lease) <= now);
        let silent: Vec<(NodeId, LinkId)> =
            silent.map(|node| (node.id.clone(), node.link)).collect();
        for (node, link) in silent {
            self.acts.push_back(Act::Part { link });
            let reason = format!("no sign of life for {} s", lease.as_secs_f32());
            self.lost(now, &node, &reason);
        }
        match &self.phase {
            Phase::Waiting {
                again: Some(again), ..
            } if *again <= now => self.consider(now, Pause::None),
            Phase::Settling { until, .. } if *until <= now => self.begin_plan(now),
            Phase::Loading { progress, .. }
                if progress.saturating_add(self.rules.timing.load_silence) <= now =>
            {
                self.load_stalled(now);
            }
            Phase::Serving {
                farewell: Some(farewell),
                ..
            } if farewell.until <= now => {
                self.part_with_leavers(now);
            }
            Phase::Serving { farewell: None, .. } => self.look_for_better(now),
            _ => {}
        }
        self.waits_for_nothing_kept();
    }

    /// A household that has to wait keeps no promise of its own choice.
    fn waits_for_nothing_kept(&mut self) {
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.kept = None;
        }
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// When [`Household::handle_timeout`] has to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let lease = self.rules.timing.lease;
        let leases = self
            .nodes
            .values()
            .map(|node| node.heard.saturating_add(lease));
        let phase = match &self.phase {
            Phase::Waiting { again, .. } => *again,
            Phase::Settling { until, .. } => Some(*until),
            Phase::Planning { .. } => None,
            Phase::Serving { farewell: None, .. } => self.better_due(),
            Phase::Loading { progress, .. } => {
                Some(progress.saturating_add(self.rules.timing.load_silence))
            }
            Phase::Serving { farewell, .. } => farewell.as_ref().map(|farewell| farewell.until),
        };
        leases.chain(phase).min()
    }

    /// Whether the service was told to end and no epoch stands.
    #[cfg(test)]
    pub fn is_done(&self) -> bool {
        self.draining && self.run().is_none()
    }

    /// Changes with every event: what was read before may be out of date.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The epoch that is loading or served.
    pub fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Loading { run, .. } | Phase::Serving { run, .. } => Some(run),
            Phase::Waiting { .. } | Phase::Settling { .. } | Phase::Planning { .. } => None,
        }
    }

    /// The machines that are in.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Where other machines find a machine that is in, and on which connection it is told something.
    pub fn reach(&self, node: &NodeId) -> Option<(LinkId, Peer)> {
        let node = self.nodes.get(node)?;
        Some((node.link, node.peer(&self.rules.neighbours)))
    }

    /// Whether a planned change waits for [`Event::Idle`].
    pub fn wants_idle(&self) -> bool {
        matches!(
            self.phase,
            Phase::Serving {
                farewell: Some(_),
                ..
            }
        )
    }

    fn by_link(&self, link: LinkId) -> Option<NodeId> {
        let node = self.nodes.values().find(|node| node.link == link)?;
        Some(node.id.clone())
    }

    fn send(&mut self, link: LinkId, message: CoordinatorMessage) {
        self.acts.push_back(Act::Send { link, message });
    }

    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        let links: Vec<LinkId> = self.nodes.values().map(|node| node.link).collect();
        for link in links {
            self.send(link, CoordinatorMessage::Drain);
        }
        self.acts.push_back(Act::Session(session::Input::Drain));
        if self.run().is_none() {
            self.consider(Duration::ZERO, Pause::None);
        }
    }
}

/// How long to wait before a plan is made.
#[derive(Debug, Clone)]
enum Pause {
    /// Not at all.
    None,
    /// For others that may be about to come in.
    Settle,
    /// For a machine that may be about to turn out dead.
    Doubt(NodeId),
}

fn waiting(missing_bytes: u64, text: impl Into<String>, again: Option<Duration>) -> Phase {
    Phase::Waiting {
        missing_bytes,
        text: text.into(),
        again,
    }
}

#[cfg(test)]
mod tests;

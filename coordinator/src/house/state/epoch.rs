//! From machines to an epoch and back: when a plan is made, handed out, ready, given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plan::{LeftOut, Plan};
use proto::control::{CoordinatorMessage, Peer};
use proto::{Epoch, NodeId};
use session::{Capacity, Input};

use super::membership::Patience;
use super::node::{Load, Node};
use super::{Act, Household, PLAN_RETRY, Pause, Phase, PlanFailure, Run, SETTLES_MAX, waiting};

impl Household {
    /// Decides what comes next while no epoch stands.
    pub(super) fn consider(&mut self, now: Duration, pause: Pause) {
        if self.draining {
            self.release_all();
            self.phase = waiting(0, "the service is ending", None);
            return;
        }
        let expected = self.rules.expect.unwrap_or(1).max(1);
        let here = self.nodes.values().filter(|node| !node.leaving).count();
        if here == 0 || !self.assembled && here < expected {
            self.release_all();
            let text = if expected > 1 {
                format!(
                    "{here} of {expected} expected machines are in: run `node join` on the others"
                )
            } else {
                "no machine is in: make an invite with `coordinator invite` and run `node join` with it".to_owned()
            };
            self.phase = waiting(0, text, None);
            return;
        }
        let complete = !self.assembled && self.rules.expect.is_some();
        self.assembled = true;
        if !self.nodes.values().any(|node| node.usable(now)) {
            self.release_all();
            let paused = self.nodes.values().any(|node| node.paused().is_some());
            let text = match paused {
                true => "every machine that is in is paused or failed before",
                false => "every machine that is in failed before",
            };
            self.phase = waiting(0, text, self.trouble_ends(now));
            return;
        }
        match pause {
            Pause::None => self.begin_plan(now),
            Pause::Settle if complete => self.begin_plan(now),
            Pause::Settle => self.settle(now, self.rules.timing.settle, None),
            Pause::Doubt(node) => self.settle(now, self.rules.timing.doubt, Some(node)),
        }
    }

    fn settle(&mut self, now: Duration, pause: Duration, doubt: Option<NodeId>) {
        let wanted = now.saturating_add(pause);
        self.phase = match &self.phase {
            Phase::Settling {
                until,
                latest,
                doubt: before,
            } => Phase::Settling {
                until: wanted.max(*until).min(*latest),
                latest: *latest,
                doubt: doubt.or_else(|| before.clone()),
            },
            _ => Phase::Settling {
                until: wanted,
                latest: now.saturating_add(pause.saturating_mul(SETTLES_MAX)),
                doubt,
            },
        };
    }

    /// When the first machine that failed may be tried again.
    fn trouble_ends(&self, now: Duration) -> Option<Duration> {
        let troubles = self
            .nodes
            .values()
            .filter_map(|node| node.trouble.as_ref()?.until);
        troubles.filter(|until| *until > now).min()
    }

    pub(super) fn begin_plan(&mut self, now: Duration) {
        self.last_ticket = self.last_ticket.wrapping_add(1);
        let ticket = self.last_ticket;
        let nodes = self.nodes.values().filter(|node| node.usable(now));
        let nodes = nodes.map(Node::facts).collect();
        self.trials.planned();
        self.phase = Phase::Planning {
            ticket,
            because: None,
        };
        self.acts.push_back(Act::Plan { ticket, nodes });
    }

    pub(super) fn planned(
        &mut self,
        now: Duration,
        got: u64,
        result: Result<(Plan, Epoch), PlanFailure>,
    ) {
        if let Ok((_, epoch)) = &result {
            // Given out, whether it is used or not.
            self.last_epoch = self.last_epoch.max(*epoch);
        }
        let because = match &mut self.phase {
            Phase::Planning { ticket, because } if *ticket == got => because.take(),
            _ => return,
        };
        match result {
            Ok((mut plan, epoch)) => {
                if let Some(because) = because {
                    because.explain(&mut plan);
                }
                self.assign(now, plan, epoch);
            }
            Err(failure) => {
                self.release_all();
                let again = if failure.retry {
                    Some(now.saturating_add(PLAN_RETRY))
                } else {
                    self.trouble_ends(now)
                };
                self.phase = waiting(failure.missing_bytes, failure.text, again);
            }
        }
    }

    fn assign(&mut self, now: Duration, mut plan: Plan, epoch: Epoch) {
        self.note_troubled(now, &mut plan);
        let Some(placed) = self.place(&plan) else {
            // A machine of the plan went while it was made; its loss has asked for another plan.
            return self.consider(now, Pause::None);
        };
        let mut loads = BTreeMap::new();
        for (at, this) in placed.iter().enumerate() {
            let id = &this.part.node;
            let Some(assign) = self.assignment(&plan, epoch, &placed, at) else {
                continue;
            };
            let Some(node) = self.nodes.get_mut(id) else {
                continue;
            };
            node.holds = Some(epoch);
            let load = Load {
                done_bytes: 0,
                total_bytes: this.share.weight_bytes,
                loaded: false,
            };
            loads.insert(id.clone(), load);
            let message = CoordinatorMessage::Assign(Box::new(assign));
            self.acts.push_back(Act::Send {
                link: node.link,
                message,
            });
        }
        let peers: Vec<Peer> = placed.iter().map(|placed| placed.peer.clone()).collect();
        let run = Run {
            epoch,
            plan: Arc::new(plan),
            shares: Arc::new(placed.into_iter().map(|placed| placed.share).collect()),
        };
        tracing::info!(
            epoch = epoch.0,
            machines = peers.len(),
            "machines are loading"
        );
        for node in self.nodes.values_mut().filter(|node| !run.has(&node.id)) {
            // Links that are dropped here are not heard of again.
            node.up = false;
        }
        self.phase = Phase::Loading {
            run,
            began: now,
            progress: now,
            loads,
        };
        self.release_all();
        self.acts.push_back(Act::Peers(peers));
    }

    /// The plan says why machines that are paused or failed have no part in it.
    fn note_troubled(&self, now: Duration, plan: &mut Plan) {
        plan.left_out.extend(self.paused_left_out());
        let failed = |node: &&Node| !node.usable(now) && node.paused().is_none();
        for node in self.nodes.values().filter(failed) {
            if let Some(trouble) = &node.trouble {
                let reason = trouble.reason.chars().take(1024).collect();
                plan.left_out.push(LeftOut {
                    node: node.id.clone(),
                    name: node.name.clone(),
                    reason,
                });
            }
        }
    }

    /// Takes slices back from machines that have no part in the epoch that stands, if any.
    pub(super) fn release_all(&mut self) {
        let run = match &self.phase {
            Phase::Loading { run, .. } | Phase::Serving { run, .. } => Some(run),
            _ => None,
        };
        for node in self.nodes.values_mut() {
            if run.is_none_or(|run| !run.has(&node.id))
                && let Some(epoch) = node.holds.take()
            {
                let message = CoordinatorMessage::Release { epoch };
                self.acts.push_back(Act::Send {
                    link: node.link,
                    message,
                });
            }
        }
    }

    pub(super) fn ready_if_loaded(&mut self) {
        let Phase::Loading { run, loads, .. } = &self.phase else {
            return;
        };
        let ready = |(id, load): (&NodeId, &Load)| {
            load.loaded && self.nodes.get(id).is_some_and(|node| node.up)
        };
        if !loads.iter().all(ready) {
            return;
        }
        let plan = Arc::clone(&run.plan);
        let capacity = Capacity {
            epoch: run.epoch,
            pages: plan.pages,
            slots: plan.slots,
            context: plan.context,
            stages: u32::try_from(plan.stages.len()).unwrap_or(u32::MAX),
            chunk_rows: plan.chunk_rows,
        };
        tracing::info!(epoch = run.epoch.0, "ready");
        let run = Run {
            epoch: run.epoch,
            plan,
            shares: Arc::clone(&run.shares),
        };
        for node in self.nodes.values_mut().filter(|node| run.has(&node.id)) {
            node.trouble = None;
        }
        self.gone.clear();
        self.kept = None;
        self.phase = Phase::Serving {
            run,
            farewell: None,
        };
        self.acts.push_back(Act::Session(Input::Ready(capacity)));
    }

    /// No machine has made progress for too long: those that are not ready are left out of the next plan.
    pub(super) fn load_stalled(&mut self, now: Duration) {
        if self.waits_for_catalogue() {
            if let Phase::Loading { progress, .. } = &mut self.phase {
                *progress = now;
            }
            return;
        }
        let Phase::Loading { loads, .. } = &self.phase else {
            return;
        };
        let silence_s = self.rules.timing.load_silence.as_secs();
        let late: Vec<(NodeId, String)> = loads
            .iter()
            .filter_map(|(id, load)| {
                let up = self.nodes.get(id).is_some_and(|node| node.up);
                match (load.loaded, up) {
                    (true, true) => None,
                    (true, false) => Some((id.clone(), format!("no data connection to it within {silence_s} s: does a firewall block UDP?"))),
                    (false, _) => Some((id.clone(), format!("it made no progress with loading for {silence_s} s"))),
                }
            })
            .collect();
        for (id, reason) in late {
            self.strike(now, &id, &reason, Patience::Short);
        }
        self.kept = None;
        self.give_up_run("a machine did not load its layers in time");
        self.consider(now, Pause::None);
    }

    /// Ends the epoch that stands; what it ran fails with this reason. A new decision must follow.
    pub(super) fn give_up_run(&mut self, reason: &str) {
        let leavers: Vec<NodeId> = match &self.phase {
            Phase::Serving { farewell, .. } => {
                let reason = format!(
                    "the answer broke off: {reason}; the household is planning anew, try again"
                );
                self.acts.push_back(Act::Session(Input::Lost { reason }));
                farewell
                    .iter()
                    .flat_map(|farewell| farewell.nodes.iter().cloned())
                    .collect()
            }
            _ => Vec::new(),
        };
        if let Some(run) = self.run() {
            tracing::warn!(epoch = run.epoch.0, "epoch given up: {reason}");
        }
        self.phase = waiting(0, reason, None);
        for id in leavers {
            // Nothing runs that they would have to wait for.
            if let Some(node) = self.nodes.remove(&id) {
                let epoch = self.last_epoch;
                self.acts.push_back(Act::Send {
                    link: node.link,
                    message: CoordinatorMessage::Release { epoch },
                });
                self.acts.push_back(Act::Part { link: node.link });
            }
        }
    }
}

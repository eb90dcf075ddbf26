//! Links: probes on their way out, results on their way in, and plans that wait for them.

use std::sync::Arc;
use std::time::Duration;

use command::local::Call;
use plan::{NodeFacts, Plan};
use proto::NodeId;
use proto::control::{CoordinatorMessage, LinkRates, Measure, Peer};

use super::{Actor, Done};
use crate::gateway::Phase;
use crate::house::planning::{make_plan, make_preview, make_trial};
use crate::house::state::{Event, Node};
use crate::house::survey::Task;

/// A plan that was asked for.
pub(super) struct WantedPlan {
    ticket: u64,
    nodes: Vec<NodeFacts>,
    /// The plan that runs, where one is made to be compared with it.
    running: Option<Arc<Plan>>,
    /// When it is made with what is known by then.
    until: Duration,
}

impl Actor {
    pub(super) fn want_plan(
        &mut self,
        now: Duration,
        ticket: u64,
        nodes: Vec<NodeFacts>,
        running: Option<Arc<Plan>>,
    ) {
        let until = now.saturating_add(self.parts.timing.survey);
        self.wanted = Some(WantedPlan {
            ticket,
            nodes,
            running,
            until,
        });
    }

    /// Starts the next probe if nothing would be disturbed, and makes a plan that has waited for the last one.
    pub(super) fn survey(&mut self, now: Duration) {
        let present = self
            .parts
            .household
            .nodes()
            .map(|node| (&node.id, node.link));
        self.survey.members(now, present);
        if self.is_quiet()
            && let Some(task) = self.survey.next(now)
        {
            self.probe(task);
        }
        let ready = |wanted: &mut WantedPlan| {
            let nodes: Vec<NodeId> = wanted.nodes.iter().map(|node| node.id.clone()).collect();
            wanted.until <= now || self.survey.knows(&nodes)
        };
        if let Some(wanted) = self.wanted.take_if(ready) {
            self.plan(wanted);
        }
        // A plan that still waits is made with what was measured by then.
        while self.wanted.is_none()
            && let Some((a, b)) = self.survey.take_changed()
        {
            self.parts
                .household
                .handle_input(now, Event::Relinked(a, b));
        }
    }

    pub(super) fn survey_timeout(&self) -> Option<Duration> {
        let wanted = self.wanted.as_ref().map(|wanted| wanted.until);
        let survey = self.survey.poll_timeout(self.is_quiet());
        wanted.into_iter().chain(survey).min()
    }

    /// No step is in flight, no weights are loaded, and the service does not end.
    fn is_quiet(&self) -> bool {
        self.serving.session().is_idle() && self.phase != Phase::Loading && self.ends.is_none()
    }

    fn plan(&mut self, wanted: WantedPlan) {
        let WantedPlan {
            ticket,
            nodes,
            running,
            ..
        } = wanted;
        let (wish, store) = (Arc::clone(&self.parts.wish), self.parts.desk.store.clone());
        let links = self.survey.tell();
        self.tasks.spawn(async move {
            match running {
                Some(running) => {
                    let result = make_trial(wish, running, nodes, links).await;
                    Done::Tried { ticket, result }
                }
                None => {
                    let result = make_plan(wish, store, nodes, links).await;
                    Done::Planned { ticket, result }
                }
            }
        });
    }

    /// Answers with the plan that the machines that are in would get now. Nothing is loaded and no epoch is taken.
    pub(super) fn preview(&mut self, now: Duration, call: Call) {
        let household = &self.parts.household;
        let usable = household.nodes().filter(|node| node.usable(now));
        let nodes: Vec<NodeFacts> = usable.map(Node::facts).collect();
        if nodes.is_empty() {
            return call.refuse(household.why_no_plan(now));
        }
        let (wish, links) = (Arc::clone(&self.parts.wish), self.survey.links());
        self.tasks.spawn(async move {
            match make_preview(wish, nodes, links).await {
                Ok(plan) => call.answer(&plan),
                Err(text) => call.refuse(text),
            }
            Done::Nothing
        });
    }

    fn probe(&mut self, task: Task) {
        let Task {
            ticket,
            dialler,
            other,
        } = task;
        let own = self.parts.desk.endpoint.node_id().clone();
        let reach = |node: &NodeId| {
            if *node == own {
                let addresses = Vec::new();
                return Some((
                    None,
                    Peer {
                        node: own.clone(),
                        addresses,
                    },
                ));
            }
            let (link, peer) = self.parts.household.reach(node)?;
            Some((Some(link), peer))
        };
        let (Some((dialling, from)), Some((answering, to))) = (reach(&dialler), reach(&other))
        else {
            // Who is gone leaves the survey at the next turn.
            return;
        };
        let ask =
            |peer: Peer, dial: bool| CoordinatorMessage::Measure(Measure { ticket, peer, dial });
        let asked = [
            (answering, ask(from, false)),
            (dialling, ask(to.clone(), true)),
        ];
        for (link, message) in asked {
            // A machine that takes no message gives no result, which counts as a failed probe.
            if let Some(link) = link
                && let Err(error) = self.links.send(link, message)
            {
                tracing::debug!(%error, "a machine was not asked to measure a link");
            }
        }
        if dialler == own {
            let endpoint = self.parts.desk.endpoint.clone();
            self.tasks.spawn(async move {
                let link = match endpoint.probe(&to).await {
                    Ok(link) => Ok(LinkRates {
                        rtt_s: link.rtt.as_secs_f64(),
                        out_bytes_per_s: link.out_bytes_per_s,
                        in_bytes_per_s: link.in_bytes_per_s,
                    }),
                    Err(error) => Err(error.to_string()),
                };
                Done::Probed { ticket, link }
            });
        }
    }
}

//! Whether the household would plan differently now, and whether that is worth a change.
//!
//! Owns what has changed since the running plan was made, the trial plan that is made from it, and the rules by which
//! that one takes the running plan's place. Must never load anything or take an epoch: what is worth it goes the way
//! of a planned change.
//!
//! The one idea: three things have to stay as they are for a while. Facts, before a trial is made; the trial's result,
//! before it is used; and the service's quiet, so that no answer waits for a change that could wait for it.

use std::sync::Arc;
use std::time::Duration;

use plan::Plan;
use proto::NodeId;
use session::Input;

use super::node::Node;
use super::{Act, Farewell, Household, Phase};
use crate::house::settings::PlanChoice;

/// A trial takes the place of a running plan that it beats by this factor.
const SPEED_UP: f64 = 1.2;
/// A trial takes the place of a plan whose lowered context it holds this many times.
const CONTEXT_UP: u32 = 2;
/// Changes that a reason names.
const NAMED_MAX: usize = 3;

/// What a plan is made anew for while another runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anew {
    /// Nothing: somebody wrote it.
    Never,
    /// Speed and context.
    Better,
    /// The same, and a part for every machine.
    EveryMachine,
}

impl From<&PlanChoice> for Anew {
    fn from(choice: &PlanChoice) -> Self {
        match choice {
            PlanChoice::File(_) => Anew::Never,
            PlanChoice::Auto => Anew::Better,
            PlanChoice::Layers | PlanChoice::Experts => Anew::EveryMachine,
        }
    }
}

/// A plan as it would be made now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    pub plan: Plan,
    /// What the running plan reaches by the same facts, in tokens per second.
    pub running_tokens_per_s: f64,
}

/// What is no more as the running plan was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    CameIn(NodeId),
    Resumed(NodeId),
    Gives(NodeId),
    Link(NodeId, NodeId),
}

impl Change {
    /// The machine that it is about; a link is about two.
    fn machine(&self) -> Option<&NodeId> {
        match self {
            Change::CameIn(node) | Change::Resumed(node) | Change::Gives(node) => Some(node),
            Change::Link(..) => None,
        }
    }

    fn concerns(&self, id: &NodeId) -> bool {
        match self {
            Change::Link(a, b) => a == id || b == id,
            _ => self.machine() == Some(id),
        }
    }
}

/// How far the question is.
#[derive(Debug, Default)]
enum Question {
    /// To be asked when there are changes.
    #[default]
    Open,
    Asked {
        ticket: u64,
    },
    /// Another plan is better.
    Answered(Because),
}

/// What changed, and what came of it.
#[derive(Debug)]
pub(super) struct Trials {
    /// Since the running plan was made or kept; the machines' in the order of time.
    changes: Vec<Change>,
    /// When the last one was noted that a trial has to wait for.
    changed: Duration,
    question: Question,
    /// Since when nothing runs.
    idle_since: Option<Duration>,
    /// When a better plan was taken last.
    taken: Option<Duration>,
}

impl Default for Trials {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            changed: Duration::ZERO,
            question: Question::Open,
            idle_since: Some(Duration::ZERO),
            taken: None,
        }
    }
}

impl Trials {
    pub fn busy(&mut self) {
        self.idle_since = None;
    }

    pub fn idle(&mut self, now: Duration) {
        self.idle_since.get_or_insert(now);
    }

    /// A plan is made with all that is known.
    pub fn planned(&mut self) {
        self.changes.clear();
        self.question = Question::Open;
    }

    /// A machine cannot be planned with any more: what it changed counts for nothing, and a trial may have used it.
    pub fn without(&mut self, now: Duration, id: &NodeId) {
        self.changes.retain(|change| !change.concerns(id));
        self.stale(now);
    }

    fn note(&mut self, now: Duration, change: Change) {
        let known = match change.machine() {
            Some(node) => {
                let mut machines = self.changes.iter().filter_map(Change::machine);
                machines.any(|machine| machine == node)
            }
            None => self.changes.contains(&change),
        };
        // In a large household some link is measured all the time, so a trial that is due does not wait for links.
        if change.machine().is_some() || self.changes.is_empty() {
            self.changed = now;
        }
        if !known {
            self.changes.push(change);
        }
        self.stale(now);
    }

    /// What was asked or answered was so by older facts.
    fn stale(&mut self, now: Duration) {
        if !matches!(self.question, Question::Open) {
            self.question = Question::Open;
            self.changed = now;
        }
    }
}

/// What a trial is better at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    Speed,
    Context,
    EveryMachine,
}

/// Why a running plan gives way to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Because {
    changes: String,
    ground: Ground,
    running_tokens_per_s: f64,
    running_context: u32,
    /// What the trial promised, until there is the plan itself.
    promise: String,
}

impl Because {
    fn figures(&self, plan: &Plan) -> String {
        match self.ground {
            Ground::Context => format!(
                "{} positions of context instead of {}",
                plan.context, self.running_context
            ),
            Ground::Speed | Ground::EveryMachine => speeds(
                plan.prediction.decode_tokens_per_s,
                self.running_tokens_per_s,
            ),
        }
    }

    /// What happened, with the owner's wish where that turns the scale.
    fn cause(&self) -> String {
        match self.ground {
            Ground::EveryMachine => format!("{} and every machine is to have a part", self.changes),
            Ground::Speed | Ground::Context => self.changes.clone(),
        }
    }

    /// Puts the reason first among those of the plan that was made for it, with that plan's own figures.
    pub fn explain(&self, plan: &mut Plan) {
        let figures = self.figures(plan);
        let reason = format!("Planned anew because {}: {figures}.", self.cause());
        tracing::info!("{reason}");
        plan.reasons.insert(0, reason);
    }

    /// For the status, before it is used.
    pub fn found(&self) -> String {
        format!(
            "a better plan was found because {} ({})",
            self.cause(),
            self.promise
        )
    }
}

/// Two speeds side by side, fine enough to tell slow ones apart.
fn speeds(new: f64, old: f64) -> String {
    let digits = if new.min(old) < 2.0 { 2 } else { 1 };
    format!("{new:.digits$} tokens/s instead of {old:.digits$}")
}

impl Household {
    pub(super) fn came_in(&mut self, now: Duration, id: &NodeId) {
        if self.nodes.get(id).is_some_and(|node| node.usable(now)) {
            self.trials.note(now, Change::CameIn(id.clone()));
        }
    }

    /// A machine gives something else, or nothing.
    pub(super) fn gives(&mut self, now: Duration, id: &NodeId, was_paused: bool) {
        let usable = self.nodes.get(id).is_some_and(|node| node.usable(now));
        let change = match (usable, was_paused) {
            (false, _) => return self.trials.without(now, id),
            (true, true) => Change::Resumed(id.clone()),
            (true, false) => Change::Gives(id.clone()),
        };
        self.trials.note(now, change);
    }

    pub(super) fn relinked(&mut self, now: Duration, a: NodeId, b: NodeId) {
        self.trials.note(now, Change::Link(a, b));
    }

    /// When there is something to do about a better plan, while one is served.
    pub(super) fn better_due(&self) -> Option<Duration> {
        if self.draining || self.rules.anew == Anew::Never {
            return None;
        }
        let timing = &self.rules.timing;
        let trials = &self.trials;
        match &trials.question {
            Question::Open if trials.changes.is_empty() => None,
            Question::Open => Some(trials.changed.saturating_add(timing.calm)),
            Question::Asked { .. } => None,
            Question::Answered(_) => {
                let calm = trials.idle_since?.saturating_add(timing.calm);
                let apart = trials.taken.map(|taken| taken.saturating_add(timing.apart));
                Some(apart.map_or(calm, |apart| apart.max(calm)))
            }
        }
    }

    /// Asks for a trial that is due, or uses one that is.
    pub(super) fn look_for_better(&mut self, now: Duration) {
        if self.better_due().is_none_or(|due| due > now) {
            return;
        }
        let Phase::Serving {
            run,
            farewell: farewell @ None,
        } = &mut self.phase
        else {
            return;
        };
        match std::mem::take(&mut self.trials.question) {
            Question::Open => {
                self.last_ticket = self.last_ticket.wrapping_add(1);
                let ticket = self.last_ticket;
                let nodes = self.nodes.values().filter(|node| node.usable(now));
                let nodes = nodes.map(Node::facts).collect();
                self.trials.question = Question::Asked { ticket };
                self.acts.push_back(Act::Try {
                    ticket,
                    nodes,
                    running: Arc::clone(&run.plan),
                });
            }
            Question::Answered(because) => {
                self.trials.taken = Some(now);
                self.kept = Some(run.plan.context);
                self.acts.push_back(Act::Session(Input::Hold));
                *farewell = Some(Farewell {
                    nodes: Default::default(),
                    changes: Default::default(),
                    because: Some(because),
                    until: now.saturating_add(self.rules.timing.leave),
                });
            }
            asked @ Question::Asked { .. } => self.trials.question = asked,
        }
    }

    /// A trial is made. One that facts have overtaken is not looked at: another is due already.
    pub(super) fn tried(&mut self, now: Duration, got: u64, result: Result<Trial, String>) {
        match &self.trials.question {
            Question::Asked { ticket } if *ticket == got => {}
            _ => return,
        }
        let Phase::Serving {
            run,
            farewell: None,
        } = &self.phase
        else {
            // Another plan is made anyway.
            self.trials.question = Question::Open;
            return;
        };
        let changes = self.changes_text();
        let kept = match result {
            Ok(trial) => match self.worth(&run.plan, &trial, &changes) {
                Some(because) => {
                    tracing::info!("{}", because.found());
                    self.trials.question = Question::Answered(because);
                    return self.look_for_better(now);
                }
                None => {
                    let new = trial.plan.prediction.decode_tokens_per_s;
                    let speeds = speeds(new, trial.running_tokens_per_s);
                    format!("another would reach {speeds}")
                }
            },
            Err(text) => format!("there is no other: {text}"),
        };
        tracing::info!("the plan stays though {changes}: {kept}");
        self.trials.planned();
    }

    fn worth(&self, running: &Plan, trial: &Trial, changes: &str) -> Option<Because> {
        let (plan, speed) = (&trial.plan, trial.running_tokens_per_s);
        let newly_used = |node: &Node| plan.has(&node.id) && !running.has(&node.id);
        let every = self.rules.anew == Anew::EveryMachine;
        let ground = if plan.context >= running.context
            && plan.prediction.decode_tokens_per_s >= speed * SPEED_UP
        {
            Ground::Speed
        } else if plan.context >= running.context.saturating_mul(CONTEXT_UP) {
            // Only a context that was lowered can grow.
            Ground::Context
        } else if every && self.nodes.values().any(newly_used) {
            Ground::EveryMachine
        } else {
            return None;
        };
        let mut because = Because {
            changes: changes.to_owned(),
            ground,
            running_tokens_per_s: speed,
            running_context: running.context,
            promise: String::new(),
        };
        because.promise = because.figures(plan);
        Some(because)
    }

    /// What has changed, in words; links where nothing else has.
    fn changes_text(&self) -> String {
        let called = |id: &NodeId| match self.nodes.get(id) {
            Some(node) => format!("'{}'", node.name),
            None if *id == self.rules.coordinator => "the coordinator".to_owned(),
            None => format!("machine {id}"),
        };
        let changes = &self.trials.changes;
        let machines = changes.iter().any(|change| change.machine().is_some());
        let told = changes
            .iter()
            .filter(|change| change.machine().is_some() == machines);
        let told = told.map(|change| match change {
            Change::CameIn(node) => format!("{} came in", called(node)),
            Change::Resumed(node) => format!("{} is no longer paused", called(node)),
            Change::Gives(node) => format!("{} gives something else", called(node)),
            Change::Link(a, b) => {
                format!(
                    "the link between {} and {} is another",
                    called(a),
                    called(b)
                )
            }
        });
        let mut texts: Vec<String> = told.collect();
        let more = texts.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            texts.truncate(NAMED_MAX);
            texts.push(format!("{more} more changed"));
        }
        match texts.pop() {
            Some(last) if texts.is_empty() => last,
            Some(last) => format!("{} and {last}", texts.join(", ")),
            None => "something changed".to_owned(),
        }
    }

    /// That a better plan waits for its moment, if it does.
    pub(super) fn better_text(&self) -> Option<String> {
        let Question::Answered(because) = &self.trials.question else {
            return None;
        };
        let calm = self.rules.timing.calm.as_secs_f32();
        Some(format!(
            "; {} and is used once nothing was asked for {calm} s",
            because.found()
        ))
    }
}

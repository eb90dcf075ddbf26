//! The owner's terms at work: looks at the machine, decides, and drains or comes back.
//!
//! The decision is [`crate::terms::duty`]'s, the looking [`crate::terms::probe`]'s, in a task of its own; this turns a
//! changed duty into words to the coordinator and sees to it that the memory is given back, with or without its help.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use command::local::Call;
use engine::Exec;
use kernels::{Isa, Pool};
use proto::Epoch;
use proto::control::{LoadFailed, NodeMessage, Offer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Attached, Daemon, End};
use crate::measure::{self, Facts};
use crate::terms::Machine;
use crate::terms::duty::{Duty, Situation, Terms, decide};
use crate::terms::given::Given;
use crate::terms::probe;
use crate::worker::Job;

/// How often the clock, the power and the use of the machine are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the coordinator has for the last answers before the memory is given back all the same.
const YIELD_WAIT: Duration = Duration::from_secs(10);

/// What was found, and for which terms it was looked at.
type Seen = (Terms, Situation);

/// What the owner wants, and how far it is carried out.
pub struct Owner {
    /// What was said for good.
    pub given: Given,
    /// What holds where nothing was said: the settings file.
    pub below: Given,
    /// How computing threads are made.
    pub making: Making,
    duty: Duty,
    asked: watch::Sender<Terms>,
    seen: watch::Receiver<Seen>,
    looking: JoinHandle<()>,
    /// When the memory is given back without the coordinator.
    yield_by: Option<Instant>,
    /// Another number of threads, being measured.
    tuning: Option<JoinHandle<Result<(Exec, Facts), String>>>,
    /// Commands that wait until what they said is so.
    calls: Vec<Call>,
}

/// How computing threads are made when their number changes.
#[derive(Debug, Clone)]
pub struct Making {
    /// Instruction set.
    pub isa: Isa,
    /// Cores that the threads stay on.
    pub cores: Vec<usize>,
    /// Speeds that the owner wrote down; they are not measured anew.
    pub facts: Option<Facts>,
}

impl Owner {
    /// Starts looking. `situation` is what is the case now.
    #[must_use]
    pub fn new(given: Given, below: Given, situation: Situation, making: Making) -> Self {
        let terms = given.clone().over(below.clone()).terms();
        let duty = decide(&terms, &situation);
        let (asked, wanted) = watch::channel(terms.clone());
        let (tell, seen) = watch::channel((terms, situation));
        Self {
            given,
            below,
            making,
            duty,
            asked,
            seen,
            looking: tokio::spawn(keep_looking(wanted, tell)),
            yield_by: None,
            tuning: None,
            calls: Vec::new(),
        }
    }

    /// What the machine has to do.
    #[must_use]
    pub fn duty(&self) -> &Duty {
        &self.duty
    }

    /// What was found last.
    #[must_use]
    pub fn situation(&self) -> Situation {
        self.seen.borrow().1.clone()
    }

    /// The terms that hold.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.asked.borrow().clone()
    }

    /// Whether what was found belongs to the terms that hold.
    fn current(&self) -> bool {
        self.seen.borrow().0 == *self.asked.borrow()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Looks every few seconds and whenever other terms are asked for; ends with its listener.
async fn keep_looking(mut wanted: watch::Receiver<Terms>, tell: watch::Sender<Seen>) {
    loop {
        let terms = wanted.borrow_and_update().clone();
        let situation = probe::look(&terms).await;
        if tell.send((terms, situation)).is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// What has become of the owner's terms.
pub(super) enum News {
    Seen,
    Tuned(Result<(Exec, Facts), String>),
    Late,
}

/// Waits for something to look after; cancel-safe.
pub(super) async fn news(owner: &mut Owner) -> News {
    let Owner {
        seen,
        tuning,
        yield_by,
        ..
    } = owner;
    let tuned = async {
        match tuning {
            Some(task) => {
                let done = task.await;
                done.unwrap_or_else(|error| Err(format!("the measurement broke off: {error}")))
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Ok(()) = seen.changed() => News::Seen,
        result = tuned => News::Tuned(result),
        () = super::until(*yield_by), if yield_by.is_some() => News::Late,
    }
}

/// What `node set` says: words to keep, and names of those that are taken back.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Said from now on.
    pub given: Given,
    /// `memory` or `threads`: as if it had never been said.
    pub unset: Vec<String>,
}

impl Change {
    /// What was said before, with this change.
    ///
    /// # Errors
    /// What came and what was expected.
    pub fn on(&self, before: Given) -> Result<Given, String> {
        let mut given = self.given.clone().checked()?.over(before);
        for name in &self.unset {
            match name.as_str() {
                "memory" => given.memory_bytes = None,
                "threads" => given.threads = None,
                other => {
                    return Err(format!(
                        "'{other}' cannot be taken back; memory and threads can"
                    ));
                }
            }
        }
        Ok(given)
    }
}

impl Daemon {
    /// Applies what has become of the owner's terms.
    pub(super) fn looked_after(
        &mut self,
        news: News,
        again: &mpsc::Sender<Attached>,
    ) -> Option<End> {
        let end = match news {
            News::Seen => self.situated(),
            News::Tuned(result) => {
                self.start.owner.tuning = None;
                self.tuned(result)
            }
            News::Late => {
                tracing::warn!(
                    "the coordinator did not take the layers back in time; giving them up"
                );
                self.give_up_layers(again)
            }
        };
        self.answer_calls();
        end
    }

    /// The machine was looked at.
    fn situated(&mut self) -> Option<End> {
        let owner = &mut self.start.owner;
        if !owner.current() {
            return None;
        }
        let duty = decide(&owner.terms(), &owner.situation());
        if duty == owner.duty {
            return None;
        }
        match &duty {
            Duty::Serve => tracing::info!("serving again"),
            Duty::Pause(reason) => tracing::info!(reason, "pausing"),
        }
        duty.reason().clone_into(&mut self.start.hello.paused);
        owner.duty = duty;
        self.offer()
    }

    /// What this machine gives has changed: the coordinator is told, and has its time if layers have to go.
    fn offer(&mut self) -> Option<End> {
        let paused = matches!(self.start.owner.duty, Duty::Pause(_));
        let wait = match self.link {
            Some(_) => YIELD_WAIT,
            // Nobody is there who could finish an answer.
            None => Duration::ZERO,
        };
        let held = paused && self.assigned.is_some();
        self.start.owner.yield_by = held.then(|| Instant::now() + wait);
        self.tell_offer()
    }

    /// Tells the coordinator what this machine gives; what it knows already changes nothing.
    pub(super) fn tell_offer(&mut self) -> Option<End> {
        let hello = &self.start.hello;
        let offer = Offer {
            memory_bytes: hello.memory_bytes,
            threads: hello.threads,
            read_bytes_per_s: hello.read_bytes_per_s,
            macs_per_s: hello.macs_per_s,
            paused: hello.paused.clone(),
        };
        self.send(NodeMessage::Offer(offer))
    }

    /// An assignment came to a machine that pauses: it was sent before the coordinator heard of it.
    pub(super) fn refuse_assignment(&mut self, epoch: Epoch) -> Option<End> {
        let text = self.start.hello.paused.clone();
        let code = "paused".to_owned();
        self.send(NodeMessage::LoadFailed(LoadFailed { epoch, code, text }))
    }

    /// The layers are gone: nothing is waited for any more.
    pub(super) fn layers_given_back(&mut self) {
        self.start.owner.yield_by = None;
        self.answer_calls();
    }

    /// Gives the memory back at once; the coordinator sees a lost machine, which comes back with its terms.
    fn give_up_layers(&mut self, again: &mpsc::Sender<Attached>) -> Option<End> {
        let epoch = self.assigned.as_ref().map(|assign| assign.epoch);
        let end = epoch.and_then(|epoch| self.release(epoch));
        self.layers_given_back();
        if self.link.take().is_some() {
            self.dial(again, Duration::ZERO);
        }
        end
    }

    /// What `node set`, `node pause` and `node resume` say. Answered when it is so.
    pub(super) fn said(&mut self, call: Call) -> Option<End> {
        let words = call.request.get("change").cloned().unwrap_or_default();
        let before = self.start.owner.given.clone();
        let understood = serde_json::from_value::<Change>(words)
            .map_err(|error| format!("the terms are not understood: {error}"))
            .and_then(|change| Ok((change.on(before)?, change)));
        let (given, change) = match understood {
            Ok(understood) => understood,
            Err(text) => {
                call.refuse(text);
                return None;
            }
        };
        if self.start.owner.tuning.is_some() {
            call.refuse(
                "the last change of threads is still being measured; say it again in a second",
            );
            return None;
        }
        if let Err(error) = given.save(&self.start.data_dir) {
            call.refuse(error.to_string());
            return None;
        }
        let owner = &mut self.start.owner;
        let wanted = given.clone().over(owner.below.clone());
        owner.given = given;
        owner.calls.push(call);
        // A look for the new terms follows, and the decision with it.
        owner.asked.send_replace(wanted.terms());
        let memory_bytes = match wanted.memory_bytes {
            Some(bytes) => bytes,
            None if change.unset.iter().any(|name| name == "memory") => self.default_memory_bytes(),
            None => self.start.hello.memory_bytes,
        };
        let threads = match (wanted.threads, self.start.owner.making.cores.len()) {
            (Some(threads), _) => threads,
            (None, 0) => Machine::look().threads,
            (None, cores) => cores,
        };
        self.retool(memory_bytes, threads)
    }

    /// What would be offered if nobody had said, with what this node holds counted as available.
    fn default_memory_bytes(&self) -> u64 {
        let held = self
            .start
            .worker
            .counters
            .resident_bytes
            .load(Ordering::Relaxed);
        let machine = Machine::look();
        let spare = Machine {
            available_bytes: machine.available_bytes.saturating_add(held),
            ..machine
        };
        spare.default_memory_bytes().max(1)
    }

    /// Memory and threads as wanted, if they differ from what is so.
    fn retool(&mut self, memory_bytes: u64, threads: usize) -> Option<End> {
        let hello = &mut self.start.hello;
        let more = memory_bytes != hello.memory_bytes;
        hello.memory_bytes = memory_bytes;
        if u32::try_from(threads) != Ok(hello.threads) {
            // What is new in the memory is told with the new speeds.
            self.tune(threads);
            return None;
        }
        if !more {
            return None;
        }
        let end = self.give(Job::Retool {
            exec: None,
            memory_bytes,
        });
        end.or_else(|| self.offer())
    }

    /// Makes a pool of so many threads and measures it, off this loop.
    fn tune(&mut self, threads: usize) {
        let Making { isa, cores, facts } = self.start.owner.making.clone();
        let dir = self.start.data_dir.clone();
        let memory_bytes = self.start.hello.memory_bytes;
        self.start.owner.tuning = Some(tokio::task::spawn_blocking(move || {
            let pool = Pool::with_affinity(threads, &cores).map_err(|error| error.to_string())?;
            let exec = Exec {
                pool: std::sync::Arc::new(pool),
                isa,
            };
            let facts = facts.unwrap_or_else(|| measure::cached(&dir, &exec, &cores, memory_bytes));
            Ok((exec, facts))
        }));
    }

    fn tuned(&mut self, result: Result<(Exec, Facts), String>) -> Option<End> {
        let (exec, facts) = match result {
            Ok(tuned) => tuned,
            Err(error) => {
                tracing::error!(error, "computing goes on with the threads as they were");
                return None;
            }
        };
        let hello = &mut self.start.hello;
        hello.threads = u32::try_from(exec.pool.threads()).unwrap_or(u32::MAX);
        hello.read_bytes_per_s = facts.read_bytes_per_s;
        hello.macs_per_s = facts.macs_per_s;
        let memory_bytes = hello.memory_bytes;
        let end = self.give(Job::Retool {
            exec: Some(exec),
            memory_bytes,
        });
        end.or_else(|| self.offer())
    }

    /// Answers commands whose words are so now: the machine was looked at for them, is measured, and holds nothing if it
    /// pauses.
    fn answer_calls(&mut self) {
        let owner = &self.start.owner;
        let held = matches!(owner.duty, Duty::Pause(_)) && self.assigned.is_some();
        let decided = owner.current() && decide(&owner.terms(), &owner.situation()) == owner.duty;
        if held || owner.tuning.is_some() || !decided || owner.calls.is_empty() {
            return;
        }
        let status = self.status();
        for call in self.start.owner.calls.drain(..) {
            call.answer(&status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_and_taken_back() {
        let before = Given {
            memory_bytes: Some(7),
            threads: Some(3),
            ..Given::default()
        };
        let change = |json: &str| serde_json::from_str::<Change>(json).unwrap();
        let after = change(r#"{"given": {"threads": 2, "battery": "no"}, "unset": ["memory"]}"#)
            .on(before.clone())
            .unwrap();
        assert_eq!((after.memory_bytes, after.threads), (None, Some(2)));
        assert!(after.battery.is_some());
        for (wrong, said) in [
            (r#"{"given": {"threads": 0}}"#, "1 to 1024"),
            (r#"{"unset": ["hours"]}"#, "memory and threads"),
        ] {
            let error = change(wrong).on(before.clone()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}

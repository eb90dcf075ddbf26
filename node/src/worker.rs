//! The computing thread: owns the slice, runs steps and answers what other nodes ask of its groups and head blocks.
//!
//! Never waits for a socket but to hand over a frame. A run that waits for other nodes blocks nothing: the thread goes
//! on with other runs and requests, so nodes that own each other's groups never wait for each other in a circle. A frame
//! that has no business here is dropped; a step that cannot be run is answered with a fault, so that nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use engine::{Exec, Input, Poll, Slice};
use proto::control::{Assign, LoadFailed, Loaded, NodeMessage};
use proto::frame::{CloseFrame, FaultFrame, Frame, RowsFrame, SamplesFrame};
use proto::step::{Pooled, Sampled, Step};
use proto::{Epoch, NodeId, StepId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use transport::Mesh;
mod exchange;
mod load;
mod masks;
mod queue;

use crate::shelf::Shelf;
use queue::{Next, Queue, Request, Start};

/// Jobs that wait for the thread; more make the sender wait.
const JOBS_MAX: usize = 1024;
/// Something for the thread to do.
pub enum Job {
    /// Replace the slice.
    Load(Box<Assign>),
    /// A frame from another member.
    Frame {
        /// Who sent it.
        from: NodeId,
        /// What it carries.
        frame: Frame,
    },
    /// Give the slice up.
    Release(Epoch),
    /// Take the next slice with this allowance and, if given, with other threads. The slice at work stays as it is.
    Retool {
        /// Threads and instruction set.
        exec: Option<Exec>,
        /// The owner's allowance.
        memory_bytes: u64,
    },
}

/// Something that the thread has to tell.
#[derive(Debug)]
pub enum Told {
    /// For the coordinator.
    Message(NodeMessage),
    /// The model files are no longer what they were: this node must not answer any more.
    ModelChanged(String),
}

/// What the thread has done so far; read by the lease.
#[derive(Debug, Default)]
pub struct Counters {
    /// Steps computed.
    pub steps: AtomicU64,
    /// Rows computed.
    pub rows: AtomicU64,
    /// Microseconds spent computing.
    pub busy_us: AtomicU64,
    /// Sequences that are open.
    pub sequences: AtomicU64,
    /// Bytes of weights that are mapped and read.
    pub resident_bytes: AtomicU64,
}

/// The thread as its owner sees it.
pub struct Worker {
    jobs: SyncSender<Job>,
    /// What it has done.
    pub counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

/// A job that the thread did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GiveError {
    /// It has more work than it can queue.
    #[error("the computing thread has {JOBS_MAX} jobs to do already")]
    Full,
    /// It ended by a fault of ours.
    #[error(
        "the computing thread ended unexpectedly; its last words are above. Start this node again"
    )]
    Gone,
}

/// What the thread works with.
pub struct Tools {
    /// Opens the model, from a file of this machine or from shards that it fetches.
    pub shelf: Shelf,
    /// Threads and instruction set.
    pub exec: Exec,
    /// The owner's allowance for weights, caches and scratch.
    pub memory_bytes: u64,
    /// The data plane.
    pub mesh: Mesh,
    /// The runtime that the data plane lives on.
    pub runtime: Handle,
    /// Where news goes.
    pub told: mpsc::Sender<Told>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tools: Tools) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let counters = Arc::new(Counters::default());
        let theirs = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name("slice".to_owned())
            .spawn(move || {
                if let Err(error) = tools.exec.pool.pin_caller() {
                    tracing::warn!(%error, "computing on any core");
                }
                Bench {
                    tools,
                    counters: theirs,
                    stage: None,
                }
                .work(&inbox);
            })?;
        Ok(Self {
            jobs,
            counters,
            thread: Some(thread),
        })
    }

    /// Hands a job over.
    ///
    /// # Errors
    /// When the thread is gone, or has more work than it can queue: the session never sends so much.
    pub fn give(&self, job: Job) -> Result<(), GiveError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => GiveError::Full,
            TrySendError::Disconnected(_) => GiveError::Gone,
        })
    }

    /// Lets the thread finish its queue and end.
    pub fn stop(mut self) {
        drop(self.jobs);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the computing thread had panicked");
        }
    }
}

/// A loaded slice, its place in the plan, and what it has to do.
struct Stage {
    assign: Assign,
    slice: Slice,
    queue: Queue,
}

struct Bench {
    tools: Tools,
    counters: Arc<Counters>,
    stage: Option<Stage>,
}

impl Bench {
    /// Takes all that has come before it computes on, so that what is urgent waits for one piece of work at most.
    fn work(mut self, inbox: &Receiver<Job>) {
        loop {
            let job = if self.has_work() {
                inbox.try_recv()
            } else {
                inbox.recv().map_err(TryRecvError::from)
            };
            match job {
                Ok(Job::Load(assign)) => self.load(*assign),
                Ok(Job::Frame { from, frame }) => self.frame(&from, frame),
                Ok(Job::Release(epoch)) => {
                    if self.stage.as_ref().is_some_and(|s| s.assign.epoch <= epoch) {
                        self.drop_stage();
                    }
                }
                Ok(Job::Retool { exec, memory_bytes }) => self.retool(exec, memory_bytes),
                Err(TryRecvError::Disconnected) if !self.has_work() => return,
                Err(_) => self.turn(),
            }
        }
    }

    fn has_work(&self) -> bool {
        let stage = self.stage.as_ref();
        stage.is_some_and(|stage| stage.queue.next().is_some())
    }

    fn tell(&self, told: Told) {
        // The receiver lives as long as the node; when it is gone there is nobody left to tell.
        let _gone = self.tools.told.blocking_send(told);
    }

    fn retool(&mut self, exec: Option<Exec>, memory_bytes: u64) {
        self.tools.memory_bytes = memory_bytes;
        let Some(exec) = exec else { return };
        if let Err(error) = exec.pool.pin_caller() {
            tracing::warn!(%error, "computing on any core");
        }
        self.tools.exec = exec;
    }

    fn drop_stage(&mut self) {
        self.stage = None;
        self.counters.sequences.store(0, Ordering::Relaxed);
        self.counters.resident_bytes.store(0, Ordering::Relaxed);
    }

    fn load(&mut self, assign: Assign) {
        let epoch = assign.epoch;
        // The old slice goes first: the machine never holds two.
        self.drop_stage();
        let message = match self.slice(&assign) {
            Ok(slice) => {
                let footprint = slice.footprint();
                let resident_bytes = footprint
                    .mapped_bytes
                    .saturating_add(footprint.vector_bytes);
                self.counters
                    .resident_bytes
                    .store(resident_bytes, Ordering::Relaxed);
                self.stage = Some(Stage {
                    assign,
                    slice,
                    queue: Queue::default(),
                });
                NodeMessage::Loaded(Loaded {
                    epoch,
                    resident_bytes,
                })
            }
            Err(refusal) => {
                tracing::error!(code = refusal.code, text = refusal.text, "slice not loaded");
                let code = refusal.code.to_owned();
                NodeMessage::LoadFailed(LoadFailed {
                    epoch,
                    code,
                    text: refusal.text,
                })
            }
        };
        self.tell(Told::Message(message));
    }

    fn frame(&mut self, from: &NodeId, frame: Frame) {
        let Some(stage) = &mut self.stage else { return };
        if frame.epoch() != stage.assign.epoch {
            tracing::debug!(epoch = frame.epoch().0, "frame of another epoch dropped");
            return;
        }
        if !may_send(&stage.assign, from, &frame) {
            tracing::warn!(%from, "frame that this member must not send here, dropped");
            return;
        }
        match frame {
            Frame::Step(step) => self.step(step, Input::Tokens),
            Frame::Rows(rows) => self.rows(rows),
            Frame::Close(close) => self.close(close),
            Frame::Experts(request) => self.asked(from, Request::Experts(request)),
            Frame::Head(request) => self.asked(from, Request::Head(request)),
            Frame::Partials(answer) => self.partials(from, answer),
            Frame::Logits(answer) => self.logits(from, &answer),
            Frame::Mask(mask) => self.masked(mask),
            Frame::Fault(fault) => self.owner_failed(from, &fault),
            Frame::Samples(_) => {}
        }
    }

    fn rows(&mut self, frame: RowsFrame) {
        let Some(stage) = &self.stage else { return };
        let (layer, hidden) = (stage.assign.layers.start, stage.slice.hidden());
        let RowsFrame {
            step,
            layer: got,
            cols,
            rows,
        } = frame;
        if got != layer || cols as usize != hidden {
            let text = format!(
                "rows of {cols} values for layer {got} came, {hidden} values for layer {layer} were expected"
            );
            self.fault(step.id, text);
            return;
        }
        self.step(step, Input::Rows(rows));
    }

    fn close(&mut self, close: CloseFrame) {
        let Some(stage) = &mut self.stage else { return };
        for sequence in &close.sequences {
            stage.queue.forget(*sequence);
            stage.slice.close(*sequence);
        }
        let open = stage.slice.open_sequences() as u64;
        self.counters.sequences.store(open, Ordering::Relaxed);
        if let Some(next) = stage.assign.next.as_ref().map(|p| p.node.clone()) {
            self.send(&next, &Frame::Close(close));
        }
    }

    fn step(&mut self, step: Step, input: Input) {
        let Some(stage) = &mut self.stage else { return };
        let id = step.id;
        if !stage.queue.add_step(step, input) {
            self.fault(
                id,
                "this node has more steps to do than it can queue".to_owned(),
            );
        }
    }

    /// Does one piece of work.
    fn turn(&mut self) {
        let begun = Instant::now();
        let next = self.stage.as_ref().and_then(|stage| stage.queue.next());
        match next {
            Some(Next::Start(at)) => self.start(at),
            Some(Next::Run(at)) => self.poll(at),
            Some(Next::Serve(at)) => self.serve(at),
            None => return,
        }
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.busy_us.fetch_add(us, Ordering::Relaxed);
    }

    fn start(&mut self, at: usize) {
        let Some(stage) = &mut self.stage else { return };
        let Some(Start { step, input }) = stage.queue.take_step(at) else {
            return;
        };
        let (id, class) = (step.id, step.class);
        match stage.slice.begin(step, input) {
            Ok(run) => {
                let at = stage.queue.add_run(run, class);
                if self.bring_masks(at) {
                    self.poll(at);
                }
            }
            Err(error) => {
                self.count(0);
                self.fault(id, error.to_string());
            }
        }
    }

    /// Computes on one run, and asks the owners of what it needs.
    fn poll(&mut self, at: usize) {
        let Some(stage) = &mut self.stage else { return };
        let Some(active) = stage.queue.run_mut(at) else {
            return;
        };
        let polled = active.run.poll(&mut stage.slice);
        let done = match polled {
            Ok(Poll::Waiting) => {
                active.ready = false;
                return;
            }
            Ok(Poll::NeedExperts(request)) => return self.ask_experts(at, &request),
            Ok(Poll::NeedHead(request)) => return self.ask_head(at, &request),
            Ok(Poll::Rows(rows)) => Ok(Some(rows)),
            Ok(Poll::Samples(samples, vectors)) => Err(Ok((samples, vectors))),
            Err(error) => Err(Err(error)),
        };
        let step = stage.queue.end_run(at).into_step();
        let (id, rows) = (step.id, step.rows());
        // Checked after the step: what was computed before a change is still right.
        if self.model_changed(id, None) {
            return;
        }
        self.count(rows);
        match done {
            Ok(rows) => self.pass_on(Done::Rows(step, rows.unwrap_or_default())),
            Err(Ok((samples, vectors))) => self.pass_on(Done::Samples(id, samples, vectors)),
            Err(Err(error)) => self.fault(id, error.to_string()),
        }
    }

    fn count(&self, rows: u32) {
        let Some(stage) = &self.stage else { return };
        let counters = &self.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        counters.rows.fetch_add(rows.into(), Ordering::Relaxed);
        let open = stage.slice.open_sequences() as u64;
        counters.sequences.store(open, Ordering::Relaxed);
    }

    /// Whether the model files are no longer what they were; then nothing is sent any more but the news, to the
    /// coordinator or to the stage that asked.
    fn model_changed(&mut self, step: StepId, asker: Option<&NodeId>) -> bool {
        let Some(Err(error)) = self.stage.as_ref().map(|stage| stage.slice.unchanged()) else {
            return false;
        };
        self.fault_to(asker, step, error.to_string());
        self.tell(Told::ModelChanged(error.to_string()));
        self.drop_stage();
        true
    }

    fn pass_on(&mut self, done: Done) {
        let Some(stage) = &self.stage else { return };
        let assign = &stage.assign;
        let (to, frame) = match (done, &assign.next) {
            (Done::Samples(step, samples, vectors), _) => {
                let frame = SamplesFrame {
                    epoch: assign.epoch,
                    step,
                    samples,
                    vectors,
                };
                (assign.coordinator.clone(), Frame::Samples(frame))
            }
            (Done::Rows(step, rows), Some(next)) => {
                let cols = u32::try_from(stage.slice.hidden()).unwrap_or(u32::MAX);
                let layer = assign.layers.end;
                (
                    next.node.clone(),
                    Frame::Rows(RowsFrame {
                        step,
                        layer,
                        cols,
                        rows,
                    }),
                )
            }
            (Done::Rows(step, _), None) => {
                self.fault(
                    step.id,
                    "this stage has neither a head nor a stage after it".to_owned(),
                );
                return;
            }
        };
        self.send(&to, &frame);
    }

    fn fault(&self, step: StepId, text: String) {
        self.fault_to(None, step, text);
    }

    /// Tells whoever waits for a step that it failed: the coordinator, or the stage that asked for a part of it.
    fn fault_to(&self, asker: Option<&NodeId>, step: StepId, text: String) {
        let Some(stage) = &self.stage else { return };
        tracing::error!(step = step.0, text, "step failed");
        let epoch = stage.assign.epoch;
        let to = asker.unwrap_or(&stage.assign.coordinator);
        self.send(to, &Frame::Fault(FaultFrame { epoch, step, text }));
    }

    fn send(&self, to: &NodeId, frame: &Frame) {
        if let Err(error) = self.tools.runtime.block_on(self.tools.mesh.send(to, frame)) {
            // The loss of the link is told by the data plane itself; the coordinator ends the epoch.
            tracing::warn!(%to, %error, "frame not sent");
        }
    }
}

/// What a step ended with.
enum Done {
    Rows(Step, Vec<f32>),
    Samples(StepId, Vec<Sampled>, Vec<Pooled>),
}

/// Whether a member has the place in the plan from which such a frame may come.
fn may_send(assign: &Assign, from: &NodeId, frame: &Frame) -> bool {
    let stage = !assign.layers.is_empty();
    let before = match &assign.previous {
        Some(previous) => &previous.node,
        None => &assign.coordinator,
    };
    let first = assign.previous.is_none();
    match frame {
        Frame::Step(_) => stage && first && from == before,
        Frame::Rows(_) => stage && !first && from == before,
        Frame::Close(_) => stage && from == before,
        Frame::Experts(_) | Frame::Head(_) => assign.askers.iter().any(|peer| peer.node == *from),
        Frame::Partials(_) | Frame::Logits(_) | Frame::Fault(_) => {
            assign.owners.iter().any(|owner| owner.peer.node == *from)
        }
        Frame::Mask(_) => stage && assign.head && *from == assign.coordinator,
        Frame::Samples(_) => false,
    }
}

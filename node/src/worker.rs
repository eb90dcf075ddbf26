//! The computing thread: owns the slice, runs steps in the order in which they arrive.
//!
//! Never waits for a socket but to hand over a frame, never decides. A frame that has no business here is
//! dropped; a step that cannot be run is answered with a fault, so that nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use engine::{Exec, Input, Poll, Slice};
use proto::control::{Assign, LoadFailed, Loaded, NodeMessage};
use proto::frame::{CloseFrame, FaultFrame, Frame, RowsFrame, SamplesFrame};
use proto::step::Step;
use proto::{Epoch, NodeId, StepId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use transport::Mesh;

mod load;

use crate::shelf::Shelf;

/// Jobs that wait for the thread; more make the sender wait.
const JOBS_MAX: usize = 1024;

/// Something for the thread to do.
#[derive(Debug)]
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

/// A loaded slice and its place in the pipeline.
struct Stage {
    assign: Assign,
    slice: Slice,
}

struct Bench {
    tools: Tools,
    counters: Arc<Counters>,
    stage: Option<Stage>,
}

impl Bench {
    fn work(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            match job {
                Job::Load(assign) => self.load(*assign),
                Job::Frame { from, frame } => self.frame(&from, frame),
                Job::Release(epoch) => {
                    if self.stage.as_ref().is_some_and(|s| s.assign.epoch <= epoch) {
                        self.drop_stage();
                    }
                }
            }
        }
    }

    fn tell(&self, told: Told) {
        // The receiver lives as long as the node; when it is gone there is nobody left to tell.
        let _gone = self.tools.told.blocking_send(told);
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
                self.stage = Some(Stage { assign, slice });
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
        let Some(stage) = &self.stage else { return };
        if frame.epoch() != stage.assign.epoch {
            tracing::debug!(epoch = frame.epoch().0, "frame of another epoch dropped");
            return;
        }
        let assign = &stage.assign;
        let first = assign.previous.is_none();
        let before = assign
            .previous
            .as_ref()
            .map_or(&assign.coordinator, |p| &p.node);
        if from != before {
            tracing::warn!(%from, "frame from a member that does not come before this stage, dropped");
            return;
        }
        match frame {
            Frame::Step(step) if first => self.step(step, Input::Tokens),
            Frame::Rows(rows) if !first => self.rows(rows),
            Frame::Close(close) => self.close(close),
            _ => {
                tracing::warn!(%from, "frame of a kind that does not belong to this stage, dropped")
            }
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
        let begun = Instant::now();
        let id = step.id;
        let rows = u64::from(step.rows());
        let result = run(&mut stage.slice, step, input);
        // Checked after the step: what was computed before a change is still right.
        if let Err(error) = stage.slice.unchanged() {
            self.fault(id, error.to_string());
            self.tell(Told::ModelChanged(error.to_string()));
            self.drop_stage();
            return;
        }
        let counters = &self.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        counters.rows.fetch_add(rows, Ordering::Relaxed);
        counters
            .sequences
            .store(stage.slice.open_sequences() as u64, Ordering::Relaxed);
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.busy_us.fetch_add(us, Ordering::Relaxed);
        match result {
            Ok(done) => self.pass_on(done),
            Err(error) => self.fault(id, error.to_string()),
        }
    }

    fn pass_on(&mut self, done: Done) {
        let Some(stage) = &self.stage else { return };
        let assign = &stage.assign;
        let (to, frame) = match (done, &assign.next) {
            (Done::Samples(step, samples), _) => {
                let frame = SamplesFrame {
                    epoch: assign.epoch,
                    step,
                    samples,
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
        let Some(stage) = &self.stage else { return };
        tracing::error!(step = step.0, text, "step failed");
        let (epoch, to) = (stage.assign.epoch, stage.assign.coordinator.clone());
        self.send(&to, &Frame::Fault(FaultFrame { epoch, step, text }));
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
    Samples(StepId, Vec<proto::step::Sampled>),
}

fn run(slice: &mut Slice, step: Step, input: Input) -> Result<Done, engine::EngineError> {
    let id = step.id;
    let mut run = slice.begin(step, input)?;
    match run.poll(slice)? {
        Poll::Rows(rows) => Ok(Done::Rows(run.into_step(), rows)),
        Poll::Samples(samples) => Ok(Done::Samples(id, samples)),
        Poll::NeedExperts(_) | Poll::Waiting => {
            Err(engine::EngineError::NotHeld("full set of expert groups"))
        }
    }
}

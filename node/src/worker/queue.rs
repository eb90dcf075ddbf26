//! What the computing thread has to do, and what of it comes next.
//!
//! Owns the order: decoding before prompt chunks, and in each of them runs that have begun, then requests of other nodes,
//! then new steps. A step never overtakes another of the same sequence. Must never compute.

use std::collections::VecDeque;

use engine::{Input, Run};
use proto::frame::{Asked, ExpertsFrame, HeadFrame, MaskFrame};
use proto::step::{Step, StepClass};
use proto::{NodeId, SequenceId, StepId};

use super::masks::{Early, draws};

/// Steps that wait; the session never sends so many.
const STEPS_MAX: usize = 1024;
/// Requests of one node that wait: the parts of its steps in flight.
const REQUESTS_MAX: usize = 256;

/// A step that was not begun.
pub(super) struct Start {
    pub step: Step,
    pub input: Input,
}

/// A step on its way through the slice.
pub(super) struct Active {
    pub run: Run,
    class: StepClass,
    /// It can compute, as far as is known.
    pub ready: bool,
    /// Who was asked what and has not answered.
    pub open: Vec<(NodeId, Asked)>,
}

/// What another node asks for.
pub(super) enum Request {
    Experts(ExpertsFrame),
    Head(HeadFrame),
}

impl Request {
    pub fn asked(&self) -> &Asked {
        match self {
            Request::Experts(frame) => &frame.asked,
            Request::Head(frame) => &frame.asked,
        }
    }
}

/// A piece of work, by its place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Run(usize),
    Serve(usize),
    Start(usize),
}

#[derive(Default)]
pub(super) struct Queue {
    runs: Vec<Active>,
    requests: VecDeque<(NodeId, Request)>,
    steps: VecDeque<Start>,
    /// Masks whose step has not begun.
    pub early: Early,
}

fn shares(a: &Step, b: &Step) -> bool {
    let has = |id: SequenceId| b.segments.iter().any(|segment| segment.sequence == id);
    a.segments.iter().any(|segment| has(segment.sequence))
}

impl Queue {
    /// The most urgent piece of work.
    pub fn next(&self) -> Option<Next> {
        [StepClass::Decode, StepClass::Prefill]
            .into_iter()
            .find_map(|class| {
                let run = self
                    .runs
                    .iter()
                    .position(|run| run.ready && run.class == class);
                let request = || {
                    let of_class = |(_, r): &(NodeId, Request)| r.asked().class == class;
                    self.requests.iter().position(of_class).map(Next::Serve)
                };
                let step = || self.startable(class).map(Next::Start);
                run.map(Next::Run).or_else(request).or_else(step)
            })
    }

    /// The first step of the class before which no other of its sequences comes.
    fn startable(&self, class: StepClass) -> Option<usize> {
        let free = |at: &usize| {
            let Some(start) = self.steps.get(*at) else {
                return false;
            };
            let mut runs = self.runs.iter().map(|active| active.run.step());
            let mut before = self.steps.iter().take(*at).map(|start| &start.step);
            start.step.class == class
                && !runs.any(|step| shares(step, &start.step))
                && !before.any(|step| shares(step, &start.step))
        };
        (0..self.steps.len()).find(free)
    }

    /// False where the queue is full.
    pub fn add_step(&mut self, step: Step, input: Input) -> bool {
        let fits = self.steps.len() < STEPS_MAX;
        if fits {
            self.steps.push_back(Start { step, input });
        }
        fits
    }

    pub fn take_step(&mut self, at: usize) -> Option<Start> {
        self.steps.remove(at)
    }

    /// False where this node has too many waiting already.
    pub fn add_request(&mut self, from: &NodeId, request: Request) -> bool {
        let waiting = self.requests.iter().filter(|(asker, _)| asker == from);
        let fits = waiting.count() < REQUESTS_MAX;
        if fits {
            self.requests.push_back((from.clone(), request));
        }
        fits
    }

    pub fn take_request(&mut self, at: usize) -> Option<(NodeId, Request)> {
        self.requests.remove(at)
    }

    pub fn add_run(&mut self, run: Run, class: StepClass) -> usize {
        self.runs.push(Active {
            run,
            class,
            ready: true,
            open: Vec::new(),
        });
        self.runs.len() - 1
    }

    pub fn run_mut(&mut self, at: usize) -> Option<&mut Active> {
        self.runs.get_mut(at)
    }

    pub fn run(&self, at: usize) -> Option<&Active> {
        self.runs.get(at)
    }

    pub fn run_of(&self, step: StepId) -> Option<usize> {
        self.runs
            .iter()
            .position(|active| active.run.step().id == step)
    }

    /// The run that draws the token of a mask.
    pub fn run_drawing(&self, mask: &MaskFrame) -> Option<usize> {
        let of = |active: &Active| draws(active.run.step(), mask);
        self.runs.iter().position(of)
    }

    /// The masks that came before a run.
    pub fn early_masks(&mut self, at: usize) -> VecDeque<MaskFrame> {
        let run = self.runs.get(at);
        run.map_or_else(VecDeque::new, |active| self.early.take(active.run.step()))
    }

    /// Takes a run that is over. Its place must be one that was given for it.
    pub fn end_run(&mut self, at: usize) -> Run {
        self.runs.remove(at).run
    }

    /// Gives up what a sequence that is over still had to do: nobody waits for it.
    pub fn forget(&mut self, sequence: SequenceId) {
        let of = |step: &Step| step.segments.iter().any(|s| s.sequence == sequence);
        self.runs.retain(|active| !of(active.run.step()));
        self.steps.retain(|start| !of(&start.step));
        self.early.forget(sequence);
    }
}

#[cfg(test)]
mod tests {
    use proto::Epoch;
    use proto::frame::Dtype;
    use proto::step::{Logits, Segment};

    use super::*;

    fn step(id: u64, class: StepClass, sequences: &[u64]) -> Step {
        let segment = |sequence: &u64| Segment {
            sequence: SequenceId(*sequence),
            slot: 0,
            start: 0,
            rows: 1,
            logits: Logits::Last,
            commit: 0,
            provisional: 0,
            pages: Vec::new(),
            open: None,
        };
        Step {
            epoch: Epoch(1),
            id: StepId(id),
            class,
            segments: sequences.iter().map(segment).collect(),
            tokens: vec![0; sequences.len()],
        }
    }

    fn request(class: StepClass) -> Request {
        Request::Head(HeadFrame {
            asked: Asked {
                epoch: Epoch(1),
                step: StepId(1),
                class,
                layer: 0,
                part: 0,
            },
            dtype: Dtype::F32,
            cols: 1,
            rows: 1,
            bytes: vec![0; 4],
        })
    }

    #[test]
    fn decoding_goes_first_and_requests_before_new_steps() {
        let asker = NodeId::new("a").unwrap();
        let mut queue = Queue::default();
        assert_eq!(queue.next(), None);
        queue.add_step(step(1, StepClass::Prefill, &[1]), Input::Tokens);
        queue.add_request(&asker, request(StepClass::Prefill));
        queue.add_step(step(2, StepClass::Decode, &[2]), Input::Tokens);
        queue.add_request(&asker, request(StepClass::Decode));
        let mut order = Vec::new();
        while let Some(next) = queue.next() {
            order.push(match next {
                Next::Start(at) => queue.take_step(at).unwrap().step.class,
                Next::Serve(at) => queue.take_request(at).unwrap().1.asked().class,
                Next::Run(_) => panic!("nothing was begun"),
            });
            order.dedup();
        }
        assert_eq!(order, [StepClass::Decode, StepClass::Prefill]);
        queue.add_step(step(1, StepClass::Decode, &[1]), Input::Tokens);
        queue.add_request(&asker, request(StepClass::Decode));
        assert_eq!(queue.next(), Some(Next::Serve(0)));
    }

    #[test]
    fn no_step_overtakes_another_of_its_sequences() {
        let mut queue = Queue::default();
        queue.add_step(step(1, StepClass::Prefill, &[1, 2]), Input::Tokens);
        queue.add_step(step(2, StepClass::Decode, &[2, 3]), Input::Tokens);
        queue.add_step(step(3, StepClass::Decode, &[3]), Input::Tokens);
        queue.add_step(step(4, StepClass::Decode, &[4]), Input::Tokens);
        assert_eq!(queue.next(), Some(Next::Start(3)));
        queue.take_step(3);
        assert_eq!(queue.next(), Some(Next::Start(0)));
        queue.forget(SequenceId(1));
        assert_eq!(queue.next(), Some(Next::Start(0)), "the one before is gone");
        assert_eq!(queue.take_step(0).unwrap().step.id, StepId(2));
    }

    #[test]
    fn a_flood_of_one_asker_leaves_room_for_others() {
        let [loud, quiet] = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        let mut queue = Queue::default();
        let taken =
            (0..2 * REQUESTS_MAX).filter(|_| queue.add_request(&loud, request(StepClass::Decode)));
        assert_eq!(taken.count(), REQUESTS_MAX);
        assert!(queue.add_request(&quiet, request(StepClass::Decode)));
        let steps = (0..2 * STEPS_MAX as u64)
            .filter(|id| queue.add_step(step(*id, StepClass::Decode, &[*id]), Input::Tokens));
        assert_eq!(steps.count(), STEPS_MAX);
    }
}

//! The rules, checked from outside on every output: it sees what the household and the people see, no more.

use std::collections::{BTreeMap, BTreeSet};

use proto::frame::MaskFrame;
use proto::limits::PAGE_POSITIONS;
use proto::step::{Logits, Segment, Step, StepClass};
use proto::{Epoch, RequestId, SequenceId, StepId};
use session::{Capacity, FinishReason, Output, Submission};

use super::{EMPTY, fold, solo, vector};

/// A sequence as its segments describe it.
#[derive(Debug)]
struct Seen {
    slot: u32,
    next: u32,
    pages: Vec<u32>,
    prompt: u32,
    owner: (RequestId, u32),
    steps: u32,
    /// Prefill steps when its latest decode row was sent.
    prefills_at_row: Option<u64>,
}

/// Tokens that a choice has got.
#[derive(Debug, Default)]
struct Answer {
    tokens: Vec<u32>,
    ended: Option<FinishReason>,
}

/// What has happened, and whether it may.
#[derive(Debug, Default)]
pub struct Watch {
    pub capacity: Option<Capacity>,
    last_step: u64,
    sequences: BTreeMap<SequenceId, Seen>,
    slots: BTreeSet<u32>,
    pages: BTreeSet<u32>,
    steps: BTreeMap<StepId, (StepClass, Vec<SequenceId>)>,
    overdue: BTreeSet<StepId>,
    /// Tokens under way whose masks have not gone out.
    unmasked: BTreeSet<(SequenceId, u32)>,
    submissions: BTreeMap<RequestId, Submission>,
    answers: BTreeMap<(RequestId, u32), Answer>,
    failed: BTreeMap<RequestId, &'static str>,
    used_ids: BTreeSet<SequenceId>,
    prefills: u64,
    /// Most prefill steps between two decode rows of one sequence.
    pub most_prefills_between_rows: u64,
    /// Choices that ended with all of their tokens.
    pub completed: u64,
}

impl Watch {
    pub fn submitted(&mut self, submission: &Submission) {
        self.submissions
            .insert(submission.request, submission.clone());
    }

    /// A new epoch, or none: nodes forget everything.
    pub fn epoch(&mut self, capacity: Option<Capacity>) {
        self.capacity = capacity;
        self.last_step = 0;
        self.sequences.clear();
        self.slots.clear();
        self.pages.clear();
        self.steps.clear();
        self.overdue.clear();
        self.unmasked.clear();
    }

    /// The session was told that a step has ended.
    pub fn answered(&mut self, epoch: Epoch, step: StepId) {
        if self.capacity.is_none_or(|c| c.epoch != epoch) {
            return;
        }
        for id in self.steps.remove(&step).map_or(vec![], |s| s.1) {
            if let Some(seen) = self.sequences.get_mut(&id) {
                seen.steps -= 1;
                if seen.steps == 0 {
                    self.unmasked.remove(&(id, seen.next));
                }
            }
        }
        self.overdue.remove(&step);
    }

    /// Requests that have not ended.
    pub fn open_requests(&self) -> Vec<(RequestId, u32)> {
        let open = self.submissions.values();
        let open = open.filter(|s| !self.failed.contains_key(&s.request));
        open.flat_map(|s| (0..s.choices).map(|c| (s.request, c)))
            .filter(|key| self.answers.get(key).is_none_or(|a| a.ended.is_none()))
            .collect()
    }

    pub fn submission(&self, request: RequestId) -> &Submission {
        &self.submissions[&request]
    }

    /// How a request failed, by its code.
    pub fn failure(&self, request: RequestId) -> Option<&'static str> {
        self.failed.get(&request).copied()
    }

    pub fn nothing_is_held(&self) -> bool {
        self.slots.is_empty()
            && self.pages.is_empty()
            && self.sequences.is_empty()
            && self.unmasked.is_empty()
    }

    pub fn check(&mut self, output: &Output) {
        match output {
            Output::Send(step) => self.check_step(step),
            Output::Mask(frame) => self.check_mask(frame),
            Output::Close { epoch, sequences } => self.check_close(*epoch, sequences),
            Output::Accepted { request } => assert!(self.submissions.contains_key(request)),
            Output::Queued { request, place } => {
                assert!(!self.is_over((*request, 0)) || self.submissions[request].choices > 1);
                let waiting = self.open_requests().len();
                assert!((1..=waiting).contains(&(*place as usize)), "{place}");
            }
            Output::Token {
                request,
                choice,
                sampled,
                finish,
            } => {
                self.check_open(*request, *choice);
                let prompt = self.submissions[request].prompt.len();
                let answer = self.answers.entry((*request, *choice)).or_default();
                assert_eq!(sampled.position as usize, prompt + answer.tokens.len());
                answer.tokens.push(sampled.token);
                if let Some(reason) = finish {
                    self.check_complete(*request, *choice, *reason);
                }
            }
            Output::Vector { request, values } => self.check_vector(*request, values),
            Output::Finished {
                request,
                choice,
                reason,
            } => {
                self.check_open(*request, *choice);
                let answer = self.answers.entry((*request, *choice)).or_default();
                answer.ended = Some(*reason);
                self.check_prefix(*request, *choice);
            }
            Output::Failed { request, error } => {
                assert!(!self.failed.contains_key(request), "{request} failed twice");
                let choices = self.submissions[request].choices;
                let open = (0..choices).any(|c| {
                    let answer = self.answers.get(&(*request, c));
                    answer.is_none_or(|a| a.ended.is_none())
                });
                assert!(open, "{request} failed after all of it ended");
                assert!(!error.text.is_empty());
                self.failed.insert(*request, error.code.as_str());
            }
            Output::Suspect { step, .. } => {
                assert!(self.overdue.insert(*step), "{step} suspected twice");
            }
        }
    }

    /// One mask for a token under way: its own while somebody wants it, none after that.
    fn check_mask(&mut self, frame: &MaskFrame) {
        let MaskFrame {
            epoch,
            sequence,
            position,
            mask,
        } = frame;
        assert_eq!(Some(*epoch), self.capacity.map(|c| c.epoch));
        let awaited = self.unmasked.remove(&(*sequence, *position));
        assert!(awaited, "a mask that no row waits for");
        let owner = self.sequences[sequence].owner;
        match mask {
            Some(mask) => {
                assert_eq!(*mask, super::mask(owner.0.0, owner.1, *position));
                assert!(!self.is_over(owner), "a mask for {owner:?} after its end");
            }
            None => assert!(self.is_over(owner), "{owner:?} released while it runs"),
        }
    }

    fn is_over(&self, (request, choice): (RequestId, u32)) -> bool {
        let answer = self.answers.get(&(request, choice));
        self.failed.contains_key(&request) || answer.is_some_and(|a| a.ended.is_some())
    }

    fn check_open(&self, request: RequestId, choice: u32) {
        let over = self.is_over((request, choice));
        assert!(
            !over,
            "output for choice {choice} of {request} after its end"
        );
    }

    fn check_prefix(&mut self, request: RequestId, choice: u32) {
        let submission = &self.submissions[&request];
        let Some(capacity) = self.capacity else {
            return;
        };
        let (expected, _) = solo(submission, choice, capacity.context);
        let got = &self.answers[&(request, choice)].tokens;
        assert!(expected.starts_with(got), "{request}/{choice}: {got:?}");
    }

    fn check_complete(&mut self, request: RequestId, choice: u32, reason: FinishReason) {
        let context = self.capacity.expect("an epoch").context;
        let expected = solo(&self.submissions[&request], choice, context);
        let got = &self.answers[&(request, choice)].tokens;
        assert_eq!(
            (got, reason),
            (&expected.0, expected.1),
            "{request}/{choice}"
        );
        self.completed += 1;
    }

    fn check_vector(&mut self, request: RequestId, values: &[f32]) {
        self.check_open(request, 0);
        let submission = &self.submissions[&request];
        let pooling = submission.pooling.expect("a prompt to be pooled");
        let state = submission.prompt.iter().fold(EMPTY, |s, t| fold(s, *t));
        let rows = submission.prompt.len() as u32;
        assert_eq!(values, vector(pooling, state, state, rows), "{request}");
        self.completed += 1;
    }

    fn check_step(&mut self, step: &Step) {
        let capacity = self.capacity.expect("a step without an epoch");
        assert_eq!(step.epoch, capacity.epoch);
        assert_eq!(step.id.0, self.last_step + 1);
        self.last_step = step.id.0;
        assert_eq!(step.rows() as usize, step.tokens.len());
        let most = match step.class {
            StepClass::Decode => capacity.slots,
            StepClass::Prefill => capacity.chunk_rows,
        };
        assert!((1..=most).contains(&step.rows()), "{} rows", step.rows());
        let mut ids: Vec<_> = step.segments.iter().map(|s| s.sequence).collect();
        let mut rest = step.tokens.as_slice();
        for segment in &step.segments {
            let (mine, others) = rest.split_at(segment.rows as usize);
            rest = others;
            self.check_segment(capacity, step.class, segment, mine);
        }
        self.steps.insert(step.id, (step.class, ids.clone()));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), step.segments.len(), "a sequence twice in a step");
        if step.class == StepClass::Prefill {
            self.prefills += 1;
        }
        self.check_in_flight(capacity.stages as usize);
    }

    fn check_in_flight(&self, stages: usize) {
        let live = |class| {
            let steps = self.steps.iter();
            steps
                .filter(|(id, s)| s.0 == class && !self.overdue.contains(id))
                .count()
        };
        assert!(live(StepClass::Decode) <= stages);
        assert!(live(StepClass::Prefill) <= stages + 1);
    }

    fn check_segment(
        &mut self,
        capacity: Capacity,
        class: StepClass,
        segment: &Segment,
        tokens: &[u32],
    ) {
        if let Some(open) = &segment.open {
            assert!(self.used_ids.insert(segment.sequence), "an id used again");
            assert!(segment.slot < capacity.slots);
            assert!(
                self.slots.insert(segment.slot),
                "slot {} held",
                segment.slot
            );
            let seen = Seen {
                slot: segment.slot,
                next: 0,
                pages: Vec::new(),
                prompt: open.prompt_len,
                // The simulation gives every request its id as seed.
                owner: (RequestId(open.sampling.seed), open.sampling.choice),
                steps: 0,
                prefills_at_row: None,
            };
            self.sequences.insert(segment.sequence, seen);
        }
        for page in &segment.pages {
            assert!(*page < capacity.pages, "page {page} of {}", capacity.pages);
            assert!(self.pages.insert(*page), "page {page} held");
        }
        let seen = self.sequences.get_mut(&segment.sequence);
        let seen = seen.expect("a segment of a sequence that is not open");
        seen.steps += 1;
        assert_eq!((segment.slot, segment.start), (seen.slot, seen.next));
        assert_eq!((segment.commit, segment.provisional), (0, 0));
        seen.next += segment.rows;
        seen.pages.extend(&segment.pages);
        assert_eq!(seen.pages.len() as u32, seen.next.div_ceil(PAGE_POSITIONS));
        let submission = &self.submissions[&seen.owner.0];
        let wants = seen.next >= seen.prompt;
        let expected = match (submission.pooling, wants, submission.constrained) {
            (Some(pooling), _, _) => Logits::Pool(pooling),
            (None, false, _) => Logits::None,
            (None, true, false) => Logits::Last,
            (None, true, true) => Logits::Masked,
        };
        assert_eq!(segment.logits, expected);
        let room = u32::from(submission.pooling.is_none());
        assert!(seen.next + room <= capacity.context);
        if expected == Logits::Masked {
            let fresh = self.unmasked.insert((segment.sequence, seen.next));
            assert!(fresh, "a token drawn twice");
        }
        match class {
            StepClass::Prefill => {
                let span = segment.start as usize..seen.next as usize;
                assert_eq!(tokens, &submission.prompt[span]);
            }
            StepClass::Decode => {
                let newest = self.answers[&seen.owner].tokens.last();
                assert_eq!(tokens, [*newest.expect("a drawn token")]);
                let before = seen.prefills_at_row.replace(self.prefills);
                let between = self.prefills - before.unwrap_or(self.prefills);
                self.most_prefills_between_rows = self.most_prefills_between_rows.max(between);
            }
        }
        let owner = seen.owner;
        assert!(!self.is_over(owner), "a step for {owner:?} after its end");
    }

    fn check_close(&mut self, epoch: Epoch, sequences: &[SequenceId]) {
        assert_eq!(Some(epoch), self.capacity.map(|c| c.epoch));
        assert!(!sequences.is_empty());
        for id in sequences {
            // A choice may end before its first step: nothing is known of it then.
            let Some(seen) = self.sequences.remove(id) else {
                continue;
            };
            assert_eq!(seen.steps, 0, "{id} closed with steps under way");
            assert!(self.is_over(seen.owner), "{id} closed while it runs");
            assert!(self.slots.remove(&seen.slot));
            for page in seen.pages {
                assert!(self.pages.remove(&page));
            }
        }
    }
}

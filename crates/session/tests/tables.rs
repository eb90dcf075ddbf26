//! One behaviour a test: what a session answers to single events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test program: it may panic, and its numbers are small"
)]

use std::sync::Arc;
use std::time::Duration;

use proto::frame::{FaultFrame, MaskFrame, SamplesFrame};
use proto::limits;
use proto::mask::TokenMask;
use proto::step::{Logits, Sampled, Sampling, Step, StepClass};
use proto::{Epoch, RequestId, SequenceId, StepId};
use session::{
    Capacity, Config, ErrorCode, FinishReason, Input, InputError, MaskedToken, Output, Person,
    Retry, Session, Submission,
};

const STOP: u32 = 9;

fn capacity() -> Capacity {
    Capacity {
        epoch: Epoch(5),
        pages: 16,
        slots: 4,
        context: 512,
        stages: 1,
        chunk_rows: 100,
    }
}

fn submission(request: u64, prompt: u32) -> Submission {
    Submission {
        request: RequestId(request),
        person: Person::default(),
        prompt: Arc::from_iter(100..100 + prompt),
        pooling: None,
        choices: 1,
        max_tokens: Some(4),
        min_tokens: 0,
        stop_ids: vec![STOP],
        sampling: Sampling::default(),
        constrained: false,
    }
}

/// A session at second 0 unless moved on, with its outputs sorted by kind.
struct Bench {
    session: Session,
    now: Duration,
    steps: Vec<Step>,
    others: Vec<Output>,
}

impl Bench {
    fn bare() -> Self {
        Self {
            session: Session::new(Config {
                queue_max: 3,
                queue_deadline: Duration::from_secs(30),
                step_deadline: Duration::from_secs(10),
                mask_deadline: Duration::from_secs(4),
            }),
            now: Duration::ZERO,
            steps: Vec::new(),
            others: Vec::new(),
        }
    }

    fn ready(capacity: Capacity) -> Self {
        let mut bench = Self::bare();
        bench.tell(Input::Ready(capacity)).unwrap();
        bench
    }

    fn collect(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(step) => self.steps.push(step),
                Output::Accepted { .. } | Output::Queued { .. } => {}
                other => self.others.push(other),
            }
        }
    }

    fn tell(&mut self, input: Input) -> Result<(), InputError> {
        let told = self.session.handle_input(self.now, input);
        self.collect();
        told
    }

    fn submit(&mut self, submission: Submission) {
        self.tell(Input::Submit(submission)).unwrap();
    }

    fn at(&mut self, seconds: u64) {
        self.now = Duration::from_secs(seconds);
        self.session.handle_timeout(self.now);
        self.collect();
    }

    fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.others)
    }

    /// The only step that was sent since the last look.
    fn step(&mut self) -> Step {
        let steps = self.take_steps();
        assert_eq!(steps.len(), 1, "{steps:?}");
        steps.into_iter().next().unwrap()
    }

    /// Answers a step with this token for every row that wants one.
    fn answer(&mut self, step: &Step, token: u32) {
        self.tell(Input::Done(samples(step, token))).unwrap();
    }

    fn failures(&mut self) -> Vec<(u64, ErrorCode)> {
        let outputs = self.take();
        let failure = |o: Output| match o {
            Output::Failed { request, error } => {
                assert!(!error.text.is_empty());
                Some((request.0, error.code))
            }
            _ => None,
        };
        outputs.into_iter().filter_map(failure).collect()
    }
}

fn samples(step: &Step, token: u32) -> SamplesFrame {
    let wants = step.segments.iter().filter(|s| s.logits != Logits::None);
    let sampled = wants.map(|s| Sampled {
        sequence: s.sequence,
        position: s.start + s.rows,
        token,
        logprob: 0.0,
        top: Vec::new(),
    });
    SamplesFrame {
        epoch: step.epoch,
        step: step.id,
        samples: sampled.collect(),
        vectors: vec![],
    }
}

fn fault(step: &Step, text: &str) -> Input {
    Input::Fault(FaultFrame {
        epoch: step.epoch,
        step: step.id,
        text: text.to_owned(),
    })
}

fn finished(request: u64, choice: u32, reason: FinishReason) -> Output {
    Output::Finished {
        request: RequestId(request),
        choice,
        reason,
    }
}

fn close(sequences: &[u64]) -> Output {
    Output::Close {
        epoch: Epoch(5),
        sequences: sequences.iter().map(|id| SequenceId(*id)).collect(),
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_at_once() {
    let many = vec![(1, 1.0); limits::LOGIT_BIAS_MAX as usize + 1];
    type Change = Box<dyn Fn(&mut Submission)>;
    let cases: Vec<(&str, Change, ErrorCode)> = vec![
        (
            "no prompt",
            Box::new(|s| s.prompt = Arc::from([])),
            ErrorCode::InvalidRequest,
        ),
        (
            "no choice",
            Box::new(|s| s.choices = 0),
            ErrorCode::InvalidRequest,
        ),
        (
            "17 choices",
            Box::new(|s| s.choices = 17),
            ErrorCode::InvalidRequest,
        ),
        (
            "no tokens",
            Box::new(|s| s.max_tokens = Some(0)),
            ErrorCode::InvalidRequest,
        ),
        (
            "min above max",
            Box::new(|s| s.min_tokens = 5),
            ErrorCode::InvalidRequest,
        ),
        (
            "many stop ids",
            Box::new(|s| s.stop_ids = vec![1; 65]),
            ErrorCode::InvalidRequest,
        ),
        (
            "many biases",
            Box::new(move |s| s.sampling.bias.clone_from(&many)),
            ErrorCode::InvalidRequest,
        ),
        (
            "many log-probabilities",
            Box::new(|s| s.sampling.logprobs = Some(1025)),
            ErrorCode::InvalidRequest,
        ),
        (
            "prompt fills the context",
            Box::new(|s| {
                s.prompt = Arc::from_iter(0..512);
                s.max_tokens = None;
            }),
            ErrorCode::ContextLengthExceeded,
        ),
        (
            "answer overflows it",
            Box::new(|s| s.max_tokens = Some(510)),
            ErrorCode::ContextLengthExceeded,
        ),
        (
            "huge answer",
            Box::new(|s| s.max_tokens = Some(u32::MAX)),
            ErrorCode::ContextLengthExceeded,
        ),
        (
            "least answer overflows it",
            Box::new(|s| {
                s.max_tokens = None;
                s.min_tokens = 510;
            }),
            ErrorCode::ContextLengthExceeded,
        ),
    ];
    for (name, change, code) in cases {
        let mut bench = Bench::ready(capacity());
        let mut one = submission(1, 3);
        change(&mut one);
        bench.submit(one);
        assert_eq!(bench.failures(), [(1, code)], "{name}");
        assert_eq!(code.retry(), Retry::Never);
        assert_eq!(bench.take_steps(), [], "{name}");
    }
}

#[test]
fn what_just_fits_is_accepted() {
    let mut bench = Bench::ready(capacity());
    bench.submit(Submission {
        max_tokens: Some(12),
        ..submission(1, 500)
    });
    bench.submit(Submission {
        max_tokens: None,
        ..submission(2, 511)
    });
    assert_eq!(bench.failures(), []);
    assert_eq!(bench.session.load().sequences, 2);
}

#[test]
fn the_context_is_no_longer_than_the_pages_hold() {
    let mut bench = Bench::ready(Capacity {
        pages: 2,
        ..capacity()
    });
    assert_eq!(bench.session.capacity().unwrap().context, 128);
    bench.submit(submission(1, 125));
    bench.submit(submission(2, 124));
    assert_eq!(bench.failures(), [(1, ErrorCode::ContextLengthExceeded)]);
}

#[test]
fn a_capacity_of_nothing_is_refused() {
    for (field, capacity) in [
        (
            "pages",
            Capacity {
                pages: 0,
                ..capacity()
            },
        ),
        (
            "slots",
            Capacity {
                slots: 0,
                ..capacity()
            },
        ),
        (
            "context",
            Capacity {
                context: 0,
                ..capacity()
            },
        ),
        (
            "stages",
            Capacity {
                stages: 65,
                ..capacity()
            },
        ),
        (
            "chunk_rows",
            Capacity {
                chunk_rows: 4097,
                ..capacity()
            },
        ),
    ] {
        let told = Bench::bare().tell(Input::Ready(capacity));
        assert!(matches!(told, Err(InputError::Capacity { field: f, .. }) if f == field));
    }
}

#[test]
fn a_prompt_goes_out_in_chunks_and_its_last_row_is_sampled() {
    let mut bench = Bench::ready(Capacity {
        stages: 2,
        ..capacity()
    });

    bench.submit(submission(1, 250));

    let steps = bench.take_steps();
    let spans: Vec<_> = steps
        .iter()
        .map(|s| {
            let segment = &s.segments[0];
            assert_eq!(s.class, StepClass::Prefill);
            assert_eq!(segment.open.is_some(), segment.start == 0);
            assert_eq!(s.tokens[0], 100 + segment.start);
            (
                segment.start,
                segment.rows,
                segment.logits,
                segment.pages.clone(),
            )
        })
        .collect();
    let expected = [
        (0, 100, Logits::None, vec![0, 1]),
        (100, 100, Logits::None, vec![2, 3]),
        (200, 50, Logits::Last, vec![]),
    ];
    assert_eq!(spans, expected);
    assert_eq!(steps.iter().map(|s| s.id.0).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn short_prompts_share_a_step_and_a_long_one_takes_turns() {
    let rows = |s: &Step| -> Vec<_> { s.segments.iter().map(|g| (g.sequence.0, g.rows)).collect() };
    for (prompts, expected) in [
        // The first prompt waits for its first token, so the second goes on in the least chunk.
        ([30, 250], [vec![(1, 30), (2, 70)], vec![(2, 16)]]),
        ([250, 30], [vec![(1, 100)], vec![(2, 30), (1, 70)]]),
        ([300, 300], [vec![(1, 100)], vec![(2, 100)]]),
    ] {
        let mut bench = Bench::bare();
        bench.submit(submission(1, prompts[0]));
        bench.submit(submission(2, prompts[1]));
        bench.tell(Input::Ready(capacity())).unwrap();
        let got: Vec<_> = bench.take_steps().iter().map(rows).collect();
        assert_eq!(got, expected, "{prompts:?}");
    }
}

#[test]
fn an_answer_goes_before_the_next_chunk_and_takes_turns_with_it() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    let first = bench.step();
    bench.submit(submission(2, 400));
    let chunk = bench.step();
    bench.answer(&first, 1);
    let row = bench.step();
    assert_eq!(row.class, StepClass::Decode);

    bench.answer(&chunk, 1);
    assert_eq!(bench.take_steps(), [], "the row's turn");
    bench.answer(&row, 1);
    let row = bench.step();
    assert_eq!(row.class, StepClass::Decode, "alone, to be timed");

    bench.answer(&row, 1);
    let steps = bench.take_steps();
    let classes: Vec<_> = steps.iter().map(|s| s.class).collect();
    assert_eq!(classes, [StepClass::Decode, StepClass::Prefill]);
    bench.answer(&steps[1], 1);
    assert_eq!(bench.take_steps(), [], "the row's turn");
}

#[test]
fn an_answer_goes_on_token_by_token_until_its_length() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 63));
    let mut step = bench.step();
    for (n, token) in [11, 12, 13].into_iter().enumerate() {
        bench.answer(&step, token);
        step = bench.step();
        let segment = &step.segments[0];
        assert_eq!(
            (step.class, segment.start, segment.rows),
            (StepClass::Decode, 63 + n as u32, 1)
        );
        assert_eq!(step.tokens, [token]);
        assert_eq!(segment.pages, if n == 1 { vec![1] } else { vec![] });
        assert!(
            matches!(&bench.take()[..], [Output::Token { finish: None, sampled, .. }]
            if sampled.token == token)
        );
    }

    bench.answer(&step, 14);

    let outputs = bench.take();
    let [
        Output::Token {
            finish: Some(FinishReason::Length),
            ..
        },
        end,
        closed,
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(*end, finished(1, 0, FinishReason::Length));
    assert_eq!(*closed, close(&[1]));
    assert_eq!(bench.take_steps(), []);
    let load = bench.session.load();
    assert_eq!(
        (load.pages_free, load.slots_free, load.requests_running),
        (16, 4, 0)
    );
}

#[test]
fn a_stop_token_is_told_and_ends_the_answer() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    let step = bench.step();

    bench.answer(&step, STOP);

    assert!(matches!(&bench.take()[..],
        [Output::Token { finish: Some(FinishReason::Stop), .. }, end, closed]
        if *end == finished(1, 0, FinishReason::Stop) && *closed == close(&[1])));
}

#[test]
fn stop_ids_are_held_back_before_min_tokens() {
    for (min_tokens, suppress, until) in [(0, vec![], 0), (2, vec![STOP], 5)] {
        let mut bench = Bench::ready(capacity());
        let mut one = submission(1, 3);
        one.min_tokens = min_tokens;
        one.sampling.choice = 77;
        bench.submit(one);
        let open = bench.step().segments.remove(0).open.unwrap();
        assert_eq!(open.prompt_len, 3);
        assert_eq!(
            (open.sampling.suppress, open.sampling.suppress_until),
            (suppress, until)
        );
        assert_eq!(open.sampling.choice, 0);
    }
}

#[test]
fn choices_are_sequences_of_their_own_and_wait_for_slots() {
    let mut bench = Bench::ready(Capacity {
        slots: 2,
        ..capacity()
    });
    bench.submit(Submission {
        choices: 3,
        ..submission(1, 3)
    });
    bench.submit(submission(2, 3));
    let steps = bench.take_steps();
    let open: Vec<u32> = steps
        .iter()
        .flat_map(|s| &s.segments)
        .map(|g| g.open.as_ref().unwrap().sampling.choice)
        .collect();
    assert_eq!(open, [0, 1]);
    assert_eq!(bench.session.load().requests_waiting, 1);

    bench.answer(&steps[0], STOP);

    let step = bench.step();
    let sequences: Vec<_> = step.segments.iter().map(|g| g.sequence.0).collect();
    assert_eq!(sequences, [3, 4], "the third choice, then the next request");
    bench.answer(&step, STOP);
    let ends: Vec<_> = bench
        .take()
        .into_iter()
        .filter(|o| matches!(o, Output::Finished { .. }))
        .collect();
    let stop = FinishReason::Stop;
    assert_eq!(
        ends,
        [
            finished(1, 0, stop),
            finished(1, 1, stop),
            finished(1, 2, stop),
            finished(2, 0, stop)
        ]
    );
}

#[test]
fn answers_are_split_over_as_many_steps_as_stages() {
    for (stages, expected) in [
        (1, vec![3]),
        (2, vec![2, 1]),
        (3, vec![1; 3]),
        (4, vec![1; 3]),
    ] {
        let mut bench = Bench::bare();
        for request in 1..=3 {
            bench.submit(submission(request, 2));
        }
        bench
            .tell(Input::Ready(Capacity {
                stages,
                ..capacity()
            }))
            .unwrap();
        let prompts = bench.step();

        bench.answer(&prompts, 1);

        let rows: Vec<u32> = bench.take_steps().iter().map(Step::rows).collect();
        assert_eq!(rows, expected, "{stages} stages");
    }
}

#[test]
fn cancel_is_told_at_once_and_frees_when_the_last_step_has_ended() {
    let mut bench = Bench::ready(Capacity {
        stages: 2,
        ..capacity()
    });
    bench.submit(Submission {
        choices: 2,
        ..submission(1, 150)
    });
    let steps = bench.take_steps();
    assert_eq!(steps.len(), 3);

    bench
        .tell(Input::Cancel {
            request: RequestId(1),
        })
        .unwrap();

    let cancelled = FinishReason::Cancelled;
    assert_eq!(
        bench.take(),
        [finished(1, 0, cancelled), finished(1, 1, cancelled)]
    );
    assert_eq!(bench.session.load().sequences, 2);
    // Steps hold (1), (2), (1 and 2).
    bench.answer(&steps[0], 1);
    bench.answer(&steps[1], 1);
    assert_eq!(bench.take(), []);
    assert_eq!(bench.session.load().slots_free, 2);
    bench.answer(&steps[2], 1);
    assert_eq!(bench.take(), [close(&[1, 2])]);
    assert_eq!(bench.session.load().pages_free, 16);
    assert_eq!(bench.take_steps(), []);
    let again = bench.tell(Input::Cancel {
        request: RequestId(1),
    });
    assert_eq!(again, Err(InputError::UnknownRequest(RequestId(1))));
}

#[test]
fn a_waiting_request_is_cancelled_without_a_close() {
    let mut bench = Bench::bare();
    bench.submit(submission(1, 3));
    bench
        .tell(Input::Cancel {
            request: RequestId(1),
        })
        .unwrap();
    assert_eq!(bench.take(), [finished(1, 0, FinishReason::Cancelled)]);
    bench.tell(Input::Ready(capacity())).unwrap();
    assert_eq!(bench.take_steps(), []);
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn one_choice_can_be_finished_while_the_other_goes_on() {
    let mut bench = Bench::ready(capacity());
    bench.submit(Submission {
        choices: 2,
        ..submission(1, 3)
    });
    let step = bench.step();
    bench.answer(&step, 1);
    let step = bench.step();
    bench.take();

    let finish = Input::FinishChoice {
        request: RequestId(1),
        choice: 0,
    };
    bench.tell(finish.clone()).unwrap();
    assert_eq!(bench.take(), [finished(1, 0, FinishReason::Stop)]);
    bench.answer(&step, 2);

    let outputs = bench.take();
    assert!(
        matches!(&outputs[..], [Output::Token { choice: 1, .. }, closed] if *closed == close(&[1]))
    );
    assert_eq!(bench.step().rows(), 1);
    let gone = InputError::UnknownChoice {
        request: RequestId(1),
        choice: 0,
    };
    assert_eq!(bench.tell(finish), Err(gone));
    let never = Input::FinishChoice {
        request: RequestId(1),
        choice: 9,
    };
    assert!(matches!(
        bench.tell(never),
        Err(InputError::UnknownChoice { choice: 9, .. })
    ));
}

#[test]
fn repeated_older_and_unknown_answers_are_counted_and_change_nothing() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    let step = bench.step();
    bench.answer(&step, 1);
    let next = bench.step();
    bench.take();

    bench.answer(&step, 1);
    bench.tell(fault(&step, "late")).unwrap();
    bench
        .tell(Input::Done(SamplesFrame {
            epoch: Epoch(4),
            ..samples(&next, 1)
        }))
        .unwrap();
    bench
        .tell(Input::Done(SamplesFrame {
            step: StepId(99),
            ..samples(&next, 1)
        }))
        .unwrap();

    assert_eq!((bench.take_steps(), bench.take()), (vec![], vec![]));
    assert_eq!(bench.session.counters().stale_answers, 4);
    bench.answer(&next, 2);
    assert_eq!(bench.step().tokens, [2]);
}

#[test]
fn samples_that_nobody_asked_for_fail_the_request() {
    type Change = fn(&mut Vec<Sampled>);
    let cases: [(&str, Change); 5] = [
        ("none", Vec::clear),
        ("one more", |s| s.push(s[0].clone())),
        ("another sequence", |s| s[0].sequence = SequenceId(8)),
        ("another position", |s| s[0].position += 1),
        ("another order", |s| s.swap(0, 1)),
    ];
    for (name, change) in cases {
        let mut bench = Bench::bare();
        bench.submit(submission(1, 3));
        bench.submit(submission(2, 3));
        bench.tell(Input::Ready(capacity())).unwrap();
        let step = bench.step();
        let mut frame = samples(&step, 1);
        change(&mut frame.samples);

        bench.tell(Input::Done(frame)).unwrap();

        assert_eq!(
            bench.failures(),
            [(1, ErrorCode::BadSamples), (2, ErrorCode::BadSamples)],
            "{name}"
        );
        assert_eq!(bench.session.counters().bad_answers, 1);
        assert_eq!(bench.session.load().pages_free, 16);
    }
    let mut bench = Bench::ready(Capacity {
        chunk_rows: 2,
        ..capacity()
    });
    bench.submit(submission(1, 5));
    let steps = bench.take_steps();
    let last = SamplesFrame {
        step: steps[0].id,
        ..samples(&steps[0], 1)
    };
    let uncalled = Sampled {
        sequence: SequenceId(1),
        position: 2,
        token: 1,
        logprob: 0.0,
        top: vec![],
    };
    bench
        .tell(Input::Done(SamplesFrame {
            samples: vec![uncalled],
            ..last
        }))
        .unwrap();
    assert_eq!(bench.failures(), [(1, ErrorCode::BadSamples)]);
}

#[test]
fn a_fault_fails_the_requests_of_its_step_only() {
    let mut bench = Bench::ready(Capacity {
        stages: 2,
        ..capacity()
    });
    bench.submit(submission(1, 3));
    bench.submit(submission(2, 3));
    let steps = bench.take_steps();

    bench
        .tell(fault(&steps[0], "'attic' cannot read layer 3"))
        .unwrap();

    let outputs = bench.take();
    let [
        Output::Failed {
            request: RequestId(1),
            error,
        },
        closed,
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(
        (error.code, error.retry),
        (ErrorCode::StepFailed, Retry::Retry)
    );
    assert_eq!(error.text, "'attic' cannot read layer 3");
    assert_eq!(*closed, close(&[1]));
    bench.answer(&steps[1], 1);
    assert_eq!(bench.step().tokens, [1]);
}

#[test]
fn a_loss_fails_what_runs_and_keeps_what_waits() {
    let mut bench = Bench::ready(Capacity {
        slots: 1,
        ..capacity()
    });
    bench.submit(submission(1, 3));
    bench.submit(submission(2, 3));
    bench.submit(submission(3, 400));
    let step = bench.step();

    bench
        .tell(Input::Lost {
            reason: "'attic' is gone".to_owned(),
        })
        .unwrap();

    assert!(
        matches!(&bench.take()[..], [Output::Failed { request: RequestId(1), error }]
        if error.code == ErrorCode::NodeLost && error.text == "'attic' is gone")
    );
    assert_eq!(bench.session.load().requests_waiting, 2);
    bench.answer(&step, 1);
    assert_eq!(bench.session.counters().stale_answers, 1);
    let lost = Input::Lost {
        reason: String::new(),
    };
    assert_eq!(bench.tell(lost), Err(InputError::NotServing));
    bench
        .tell(Input::Ready(Capacity {
            epoch: Epoch(6),
            context: 256,
            ..capacity()
        }))
        .unwrap();
    assert_eq!(bench.failures(), [(3, ErrorCode::ContextLengthExceeded)]);
    let step = bench.step();
    assert_eq!(
        (step.epoch, step.id, step.segments[0].slot),
        (Epoch(6), StepId(1), 0)
    );
    assert_eq!(
        step.segments[0].sequence,
        SequenceId(2),
        "ids are not used again"
    );
}

#[test]
fn epochs_only_go_up() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    let expected = Err(InputError::EpochNotNewer {
        got: Epoch(5),
        last: Epoch(5),
    });
    assert_eq!(bench.tell(Input::Ready(capacity())), expected);
    assert_eq!(bench.failures(), []);
    bench
        .tell(Input::Ready(Capacity {
            epoch: Epoch(7),
            ..capacity()
        }))
        .unwrap();
    assert_eq!(bench.failures(), [(1, ErrorCode::NodeLost)]);
    bench
        .tell(Input::Lost {
            reason: "x".to_owned(),
        })
        .unwrap();
    assert!(
        bench
            .tell(Input::Ready(Capacity {
                epoch: Epoch(6),
                ..capacity()
            }))
            .is_err()
    );
}

#[test]
fn a_planned_change_hurts_nobody() {
    let mut bench = Bench::ready(Capacity {
        slots: 1,
        ..capacity()
    });
    bench.submit(Submission {
        choices: 2,
        ..submission(1, 3)
    });
    bench.submit(submission(2, 3));
    let step = bench.step();

    bench.tell(Input::Hold).unwrap();

    assert!(!bench.session.is_idle());
    bench.answer(&step, STOP);
    assert!(bench.session.is_idle());
    assert_eq!(bench.take_steps(), [], "held");
    bench
        .tell(Input::Ready(Capacity {
            epoch: Epoch(6),
            ..capacity()
        }))
        .unwrap();
    assert_eq!(bench.failures(), []);
    assert_eq!(bench.step().segments.len(), 2);
    assert_eq!(Bench::bare().tell(Input::Hold), Err(InputError::NotServing));
}

#[test]
fn the_queue_is_bounded_in_length_and_time() {
    let mut bench = Bench::bare();
    for request in 1..=4 {
        bench.now = Duration::from_secs(request);
        bench.submit(submission(request, 3));
    }
    assert_eq!(bench.failures(), [(4, ErrorCode::QueueFull)]);
    assert_eq!(bench.session.poll_timeout(), Some(Duration::from_secs(31)));
    bench.at(30);
    assert_eq!(bench.failures(), []);
    bench.at(32);
    let timeout = ErrorCode::QueueTimeout;
    assert_eq!(bench.failures(), [(1, timeout), (2, timeout)]);
    assert_eq!(bench.session.poll_timeout(), Some(Duration::from_secs(33)));
    assert_eq!(timeout.retry(), Retry::Retry);
    bench.submit(submission(4, 3));
    assert_eq!(bench.failures(), []);
}

#[test]
fn an_overdue_step_is_suspect_and_holds_its_pages_until_it_ends() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    let step = bench.step();
    assert_eq!(bench.session.poll_timeout(), Some(Duration::from_secs(10)));

    bench.at(12);

    let outputs = bench.take();
    let [
        Output::Failed { error, .. },
        Output::Suspect {
            epoch: Epoch(5),
            step: StepId(1),
            waited,
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(
        (error.code, *waited),
        (ErrorCode::StepTimeout, Duration::from_secs(12))
    );
    assert_eq!(bench.session.load().slots_free, 3);
    assert_eq!(bench.session.poll_timeout(), None);
    bench.at(99);
    assert_eq!(bench.take(), [], "told once");
    bench.answer(&step, 1);
    assert_eq!(bench.take(), [close(&[1])]);
    assert_eq!(bench.session.load().slots_free, 4);
}

#[test]
fn overdue_steps_do_not_stop_the_others() {
    let mut bench = Bench::ready(capacity());
    bench.submit(submission(1, 3));
    bench.submit(submission(2, 3));
    let _ = bench.take_steps();
    bench.at(12);
    bench.take();

    bench.submit(submission(3, 3));

    assert_eq!(bench.step().segments[0].sequence, SequenceId(3));
}

#[test]
fn draining_ends_what_waits_lets_the_rest_end_and_is_done() {
    let mut bench = Bench::ready(Capacity {
        slots: 1,
        ..capacity()
    });
    bench.submit(submission(1, 3));
    bench.submit(submission(2, 3));
    let step = bench.step();

    bench.tell(Input::Drain).unwrap();

    assert_eq!(bench.failures(), [(2, ErrorCode::Draining)]);
    bench.submit(submission(3, 3));
    assert_eq!(bench.failures(), [(3, ErrorCode::Draining)]);
    assert!(!bench.session.is_done());
    let frame = samples(&step, STOP);
    bench
        .session
        .handle_input(bench.now, Input::Done(frame))
        .unwrap();
    assert!(!bench.session.is_done(), "its outputs are not polled yet");
    bench.collect();
    assert!(bench.session.is_done());
}

#[test]
fn request_ids_are_used_once_while_they_live() {
    let mut bench = Bench::bare();
    bench.submit(submission(1, 3));
    let told = bench.tell(Input::Submit(submission(1, 3)));
    assert_eq!(told, Err(InputError::DuplicateRequest(RequestId(1))));
}

fn constrained(request: u64, prompt: u32) -> Submission {
    Submission {
        constrained: true,
        ..submission(request, prompt)
    }
}

fn token(request: u64, choice: u32, position: u32) -> MaskedToken {
    MaskedToken {
        request: RequestId(request),
        choice,
        position,
    }
}

fn some_mask() -> TokenMask {
    TokenMask::new([1 << 9]).unwrap()
}

fn mask_of(token: MaskedToken) -> Input {
    let mask = some_mask();
    Input::Mask { token, mask }
}

/// The masks that were sent since the last look: for which sequence, at which position, whether any token may be drawn.
fn sent_masks(bench: &mut Bench) -> Vec<(u64, u32, bool)> {
    let outputs = bench.take();
    let mask = |output: &Output| match output {
        Output::Mask(MaskFrame {
            epoch,
            sequence,
            position,
            mask,
        }) => {
            assert_eq!(*epoch, Epoch(5));
            assert!(mask.as_ref().is_none_or(|mask| *mask == some_mask()));
            Some((sequence.0, *position, mask.is_none()))
        }
        _ => None,
    };
    let masks = outputs.iter().filter_map(mask).collect();
    bench.others.extend(outputs);
    masks
}

#[test]
fn a_step_goes_out_without_its_mask_and_the_mask_follows() {
    let mut bench = Bench::ready(capacity());
    bench.submit(constrained(1, 3));
    let step = bench.step();
    assert_eq!(step.segments[0].logits, Logits::Masked);
    assert_eq!(sent_masks(&mut bench), []);
    bench.tell(mask_of(token(1, 0, 3))).unwrap();
    let sequence = step.segments[0].sequence.0;
    assert_eq!(sent_masks(&mut bench), [(sequence, 3, false)]);
    bench.take();
    bench.answer(&step, 50);
    let step = bench.step();
    assert_eq!(step.segments[0].logits, Logits::Masked);
    bench.tell(mask_of(token(1, 0, 4))).unwrap();
    assert_eq!(sent_masks(&mut bench), [(sequence, 4, false)]);
    assert_eq!(bench.session.poll_timeout(), Some(Duration::from_secs(10)));
}

#[test]
fn a_mask_that_comes_before_its_step_goes_out_with_it() {
    let mut bench = Bench::bare();
    bench.submit(constrained(1, 250));
    bench.tell(mask_of(token(1, 0, 250))).unwrap();
    bench.tell(Input::Ready(capacity())).unwrap();
    let steps = bench.take_steps();
    let masks = |bench: &mut Bench| sent_masks(bench).len();
    assert_eq!(
        (steps.len(), masks(&mut bench)),
        (2, 0),
        "two chunks are sent"
    );
    bench.answer(&steps[0], 0);
    let last = bench.step();
    assert_eq!(last.segments[0].logits, Logits::Masked);
    assert_eq!(masks(&mut bench), 1, "with the chunk that draws");
}

#[test]
fn masks_that_nobody_waits_for_are_told_and_change_nothing() {
    let mut bench = Bench::ready(Capacity {
        slots: 1,
        ..capacity()
    });
    bench.submit(Submission {
        choices: 2,
        ..constrained(1, 3)
    });
    bench.submit(submission(2, 3));
    bench.tell(mask_of(token(1, 0, 3))).unwrap();
    bench.tell(mask_of(token(1, 1, 3))).unwrap();
    assert_eq!(
        sent_masks(&mut bench).len(),
        1,
        "the other choice has no step yet"
    );
    bench.take();
    let not_awaited = |token| Err(InputError::MaskNotAwaited(token));
    let cases = [
        (
            token(9, 0, 3),
            Err(InputError::UnknownRequest(RequestId(9))),
        ),
        (
            token(1, 2, 3),
            Err(InputError::UnknownChoice {
                request: RequestId(1),
                choice: 2,
            }),
        ),
        (token(1, 0, 3), not_awaited(token(1, 0, 3))),
        (token(1, 0, 4), not_awaited(token(1, 0, 4))),
        (token(1, 1, 3), not_awaited(token(1, 1, 3))),
        (token(1, 1, 4), not_awaited(token(1, 1, 4))),
        (token(2, 0, 3), not_awaited(token(2, 0, 3))),
    ];
    for (token, expected) in cases {
        assert_eq!(bench.tell(mask_of(token)), expected);
    }
    assert_eq!(sent_masks(&mut bench), []);
    let step = bench.step();
    bench.answer(&step, STOP);
    assert_eq!(
        sent_masks(&mut bench).len(),
        1,
        "the second choice has its step now"
    );
}

#[test]
fn whoever_ends_before_the_mask_comes_releases_the_row() {
    type End = fn(&mut Bench);
    let ends: [(&str, End); 4] = [
        ("cancelled", |bench| {
            let request = RequestId(1);
            bench.tell(Input::Cancel { request }).unwrap();
        }),
        ("its text stopped", |bench| {
            let (request, choice) = (RequestId(1), 0);
            bench.tell(Input::FinishChoice { request, choice }).unwrap();
        }),
        ("the mask cannot be made", |bench| {
            let (request, text) = (RequestId(1), "too large".to_owned());
            bench.tell(Input::Unmaskable { request, text }).unwrap();
            let expected = (1, ErrorCode::ConstraintFailed);
            assert!(bench.others.iter().any(|o| matches!(o,
                Output::Failed { request, error } if (request.0, error.code) == expected)));
        }),
        ("the mask is overdue", |bench| {
            assert_eq!(bench.session.poll_timeout(), Some(Duration::from_secs(4)));
            bench.at(4);
            let expected = (1, ErrorCode::ConstraintTimeout);
            assert!(bench.others.iter().any(|o| matches!(o,
                Output::Failed { request, error } if (request.0, error.code) == expected)));
        }),
    ];
    for (what, end) in ends {
        let mut bench = Bench::ready(capacity());
        bench.submit(constrained(1, 3));
        bench.submit(submission(2, 3));
        let steps = bench.take_steps();
        end(&mut bench);
        let sequence = steps[0].segments[0].sequence.0;
        assert_eq!(sent_masks(&mut bench), [(sequence, 3, true)], "{what}");
        bench.take();
        let late = bench.tell(mask_of(token(1, 0, 3)));
        assert_eq!(
            late,
            Err(InputError::UnknownRequest(RequestId(1))),
            "{what}"
        );
        for step in &steps {
            bench.answer(step, 50);
        }
        let closed = bench.take();
        let close =
            |o: &Output| matches!(o, Output::Close { sequences, .. } if sequences[0].0 == sequence);
        assert!(closed.iter().any(close), "{what}: {closed:?}");
        assert_eq!(
            bench.session.load().sequences,
            1,
            "{what}: the other goes on"
        );
    }
}

#[test]
fn no_mask_follows_a_step_that_failed_or_an_epoch_that_is_over() {
    let mut bench = Bench::ready(capacity());
    bench.submit(constrained(1, 3));
    let step = bench.step();
    let fault = FaultFrame {
        epoch: step.epoch,
        step: step.id,
        text: "out of memory".to_owned(),
    };
    bench.tell(Input::Fault(fault)).unwrap();
    assert_eq!(sent_masks(&mut bench), []);
    assert_eq!(bench.failures(), [(1, ErrorCode::StepFailed)]);
    bench.submit(constrained(2, 3));
    let reason = "'attic' went to sleep".to_owned();
    bench.tell(Input::Lost { reason }).unwrap();
    assert_eq!(sent_masks(&mut bench), []);
    assert_eq!(bench.failures(), [(2, ErrorCode::NodeLost)]);
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn a_token_that_was_drawn_before_its_mask_is_not_believed() {
    let mut bench = Bench::ready(capacity());
    bench.submit(constrained(1, 3));
    let step = bench.step();
    bench.answer(&step, 50);
    assert_eq!(sent_masks(&mut bench), []);
    assert_eq!(bench.failures(), [(1, ErrorCode::BadSamples)]);
    assert_eq!(bench.session.counters().bad_answers, 1);
}

//! Prompts that are pooled: what a session asks of the stages for them, and what it takes for an answer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test program: it may panic, and its numbers are small"
)]

use std::sync::Arc;
use std::time::Duration;

use proto::frame::SamplesFrame;
use proto::step::{Logits, Pooled, Pooling, Sampled, Sampling, Step};
use proto::{Epoch, RequestId, SequenceId};
use session::{Capacity, Config, ErrorCode, FinishReason, Input, Output, Session, Submission};

const NOW: Duration = Duration::ZERO;
const CONTEXT: u32 = 128;

fn session() -> Session {
    let mut session = Session::new(Config::default());
    let capacity = Capacity {
        epoch: Epoch(1),
        pages: 8,
        slots: 4,
        context: CONTEXT,
        stages: 1,
        chunk_rows: 50,
    };
    session.handle_input(NOW, Input::Ready(capacity)).unwrap();
    session
}

fn submission(request: u64, prompt: u32) -> Submission {
    Submission {
        request: RequestId(request),
        prompt: Arc::from_iter(0..prompt),
        pooling: Some(Pooling::Mean),
        choices: 1,
        max_tokens: None,
        min_tokens: 0,
        stop_ids: Vec::new(),
        sampling: Sampling::default(),
        person: session::Person::default(),
        constrained: false,
    }
}

fn tell(session: &mut Session, input: Input) -> (Vec<Step>, Vec<Output>) {
    session.handle_input(NOW, input).unwrap();
    let (mut steps, mut others) = (Vec::new(), Vec::new());
    while let Some(output) = session.poll_output() {
        match output {
            Output::Send(step) => steps.push(step),
            Output::Accepted { .. } => {}
            other => others.push(other),
        }
    }
    (steps, others)
}

fn answer(step: &Step, vectors: Vec<Pooled>) -> Input {
    Input::Done(SamplesFrame {
        epoch: step.epoch,
        step: step.id,
        samples: Vec::new(),
        vectors,
    })
}

fn vector(sequence: u64) -> Pooled {
    Pooled {
        sequence: SequenceId(sequence),
        values: vec![0.5, -0.5],
    }
}

#[test]
fn a_prompt_that_fills_the_context_is_pooled_and_frees_its_pages() {
    let mut session = session();
    let (steps, _) = tell(&mut session, Input::Submit(submission(1, CONTEXT)));
    let (more, heard) = tell(&mut session, answer(&steps[0], Vec::new()));
    assert!(heard.is_empty(), "a chunk in the middle gives nothing");
    let steps = [steps, more].concat();
    let asked: Vec<_> = steps.iter().map(|s| s.segments[0].logits).collect();
    assert_eq!(asked, [Logits::Pool(Pooling::Mean); 3]);
    tell(&mut session, answer(&steps[1], Vec::new()));

    let (steps, heard) = tell(&mut session, answer(&steps[2], vec![vector(1)]));

    assert!(steps.is_empty(), "nothing is drawn after it");
    let request = RequestId(1);
    let expected = [
        Output::Vector {
            request,
            values: vec![0.5, -0.5],
        },
        Output::Finished {
            request,
            choice: 0,
            reason: FinishReason::Stop,
        },
        Output::Close {
            epoch: Epoch(1),
            sequences: vec![SequenceId(1)],
        },
    ];
    assert_eq!(heard, expected);
    let load = session.load();
    assert_eq!((load.pages_free, load.slots_free), (8, 4));
    assert_eq!(session.counters().generated_tokens, 0);
}

#[test]
fn what_cannot_be_pooled_is_refused() {
    let too_long = submission(1, CONTEXT + 1);
    let two = Submission {
        choices: 2,
        ..submission(2, 3)
    };
    let cases = [
        (too_long, ErrorCode::ContextLengthExceeded),
        (two, ErrorCode::InvalidRequest),
        (submission(3, 0), ErrorCode::InvalidRequest),
    ];
    for (submission, code) in cases {
        let (steps, heard) = tell(&mut session(), Input::Submit(submission));
        assert!(steps.is_empty());
        let [Output::Failed { error, .. }] = heard.as_slice() else {
            panic!("{heard:?}");
        };
        assert_eq!(error.code, code);
    }
}

#[test]
fn vectors_that_nobody_asked_for_fail_the_request() {
    let token = Sampled {
        sequence: SequenceId(1),
        position: 3,
        token: 1,
        logprob: 0.0,
        top: Vec::new(),
    };
    let cases = [
        ("none", vec![], vec![]),
        ("one more", vec![vector(1), vector(1)], vec![]),
        ("of another", vec![vector(2)], vec![]),
        ("a token beside", vec![vector(1)], vec![token.clone()]),
        ("a token instead", vec![], vec![token]),
    ];
    for (name, vectors, samples) in cases {
        let mut session = session();
        let (steps, _) = tell(&mut session, Input::Submit(submission(1, 3)));
        let done = SamplesFrame {
            epoch: Epoch(1),
            step: steps[0].id,
            samples,
            vectors,
        };
        let (_, heard) = tell(&mut session, Input::Done(done));
        let Some(Output::Failed { error, .. }) = heard.first() else {
            panic!("{name}: {heard:?}");
        };
        assert_eq!(error.code, ErrorCode::BadSamples, "{name}");
        assert_eq!(session.load().pages_free, 8, "{name}");
    }
}

#[test]
fn a_client_that_left_hears_nothing_of_its_vector() {
    let mut session = session();
    let (steps, _) = tell(&mut session, Input::Submit(submission(1, 3)));
    let request = RequestId(1);
    tell(&mut session, Input::Cancel { request });
    let (_, heard) = tell(&mut session, answer(&steps[0], vec![vector(1)]));
    let close = Output::Close {
        epoch: Epoch(1),
        sequences: vec![SequenceId(1)],
    };
    assert_eq!(heard, [close]);
}

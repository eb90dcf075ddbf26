//! The same bits whatever the split, the instruction set, the threads, the batch and the chunks.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use std::sync::Arc;

use engine::{EngineError, GroupSet, Input, KvType};
use kernels::Isa;
use model::Checkpoint;
use proto::step::{Logits, Open, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};
use rig::{Chain, Seq, Want, bits, exec};

const PROMPT: [u32; 23] = [
    7, 100, 3, 250, 9, 31, 77, 12, 12, 12, 200, 41, 5, 6, 300, 2, 88, 90, 11, 64, 65, 66, 300,
];

/// See [`Chain::trace`].
fn trace(chain: &mut Chain, pieces: &[u32]) -> (Vec<u32>, Vec<u32>) {
    chain.trace(&PROMPT, pieces, 12)
}

fn models() -> Vec<(&'static str, Arc<Checkpoint>, KvType)> {
    vec![
        ("hearth-tiny Q8_0", rig::bundled(), KvType::F16),
        ("qwen3_5_moe", rig::open("qwen3_5_moe"), KvType::F32),
        (
            "qwen3_5 f16",
            rig::open("qwen3_5/model-f16.gguf"),
            KvType::F32,
        ),
        ("qwen3_moe", rig::open("qwen3_moe"), KvType::F32),
        ("llama f16", rig::open("llama/model-f16.gguf"), KvType::F16),
    ]
}

#[test]
fn every_instruction_set_and_thread_count() {
    for (name, checkpoint, kv) in models() {
        let scalar = trace(
            &mut Chain::whole(&checkpoint, &exec(Isa::Scalar, 1), kv),
            &[u32::MAX],
        );
        for isa in Isa::usable() {
            for threads in [1, 2, 3] {
                let other = trace(
                    &mut Chain::whole(&checkpoint, &exec(isa, threads), kv),
                    &[u32::MAX],
                );
                assert_eq!(other, scalar, "{name} with {isa} on {threads} threads");
            }
        }
    }
}

#[test]
fn every_chunking() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 2);
        let whole = trace(&mut Chain::whole(&checkpoint, &exec, kv), &[u32::MAX]);
        for pieces in [&[1][..], &[2, 9, 4], &[22, 1]] {
            let other = trace(&mut Chain::whole(&checkpoint, &exec, kv), pieces);
            assert_eq!(other, whole, "{name} in pieces of {pieces:?}");
        }
    }
}

#[test]
fn every_cut_of_the_layers() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 2);
        let layers = checkpoint.arch().layers.len() as u32;
        let whole = trace(&mut Chain::whole(&checkpoint, &exec, kv), &[9]);
        for first in 1..layers {
            let two = trace(&mut Chain::cut(&checkpoint, &exec, kv, &[first]), &[9]);
            assert_eq!(two, whole, "{name} cut at {first}");
            for second in first + 1..layers {
                let cuts = [first, second];
                let three = trace(&mut Chain::cut(&checkpoint, &exec, kv, &cuts), &[9]);
                assert_eq!(three, whole, "{name} cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn expert_groups_on_other_owners() {
    for (name, checkpoint, kv) in models() {
        let Some(moe) = &checkpoint.arch().moe else {
            continue;
        };
        let groups = proto::facts::expert_groups(moe.experts as u32);
        let exec = exec(Isa::detect(), 2);
        let whole = trace(&mut Chain::whole(&checkpoint, &exec, kv), &[9]);
        let mut seed = 17u32;
        for round in 0..12 {
            // Every group goes to the trunk or to one of two owners.
            let mut away = [GroupSet::none(); 2];
            for group in 0..groups {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if let Some(set) = away.get_mut((seed >> 16) as usize % 3) {
                    *set = set.with(group);
                }
            }
            let cuts = if round % 2 == 0 { vec![] } else { vec![3] };
            let mut chain = Chain::placed(&checkpoint, &exec, kv, &cuts, &away);
            assert_eq!(trace(&mut chain, &[9]), whole, "{name} with {away:?} away");
        }
    }
}

#[test]
fn a_row_does_not_see_its_batch() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 2);
        let mut alone = Chain::whole(&checkpoint, &exec, kv);
        let mut seq = Seq::new(1, &PROMPT);
        alone.step(&mut [Want::rows(&mut seq, 23)]);
        let expected = bits(&alone.logits());
        let mut together = Chain::whole(&checkpoint, &exec, kv);
        let (mut a, mut b, mut c) = (
            Seq::new(0, &PROMPT[3..]),
            Seq::new(1, &PROMPT),
            Seq::new(2, &PROMPT[9..12]),
        );
        let mut wants = [
            Want::rows(&mut a, 20),
            Want::rows(&mut b, 23),
            Want::rows(&mut c, 3),
        ];
        together.step(&mut wants);
        let vocab = expected.len();
        assert_eq!(
            bits(&together.logits()[vocab..2 * vocab]),
            expected,
            "{name}"
        );
    }
}

#[test]
fn provisional_rows_leave_no_trace_unless_committed() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 2);
        let mut plain = Chain::whole(&checkpoint, &exec, kv);
        let mut seq = Seq::new(1, &PROMPT);
        plain.step(&mut [Want::rows(&mut seq, 20)]);
        plain.step(&mut [Want::rows(&mut seq, 3)]);
        let expected = bits(&plain.logits());
        for kept in 0..=4u32 {
            let mut chain = Chain::whole(&checkpoint, &exec, kv);
            // Wrong guesses follow the tokens that will be kept.
            let mut guess = PROMPT.to_vec();
            guess[12 + kept as usize..]
                .iter_mut()
                .for_each(|t| *t = 400 - *t);
            let mut seq = Seq::new(1, &guess);
            chain.step(&mut [Want {
                provisional: 4,
                ..Want::rows(&mut seq, 16)
            }]);
            seq.tokens = PROMPT.to_vec();
            let rest = 20 - 12 - kept;
            chain.step(&mut [Want {
                commit: kept,
                ..Want::rows(&mut seq, rest)
            }]);
            chain.step(&mut [Want::rows(&mut seq, 3)]);
            assert_eq!(
                bits(&chain.logits()),
                expected,
                "{name} with {kept} of 4 kept"
            );
        }
    }
}

#[test]
fn seeds_redraw_the_same_tokens() {
    let checkpoint = rig::bundled();
    let exec = exec(Isa::detect(), 2);
    let sampled = |seed, cuts: &[u32]| {
        let mut chain = Chain::cut(&checkpoint, &exec, KvType::F16, cuts);
        let mut seq = Seq::new(1, &PROMPT);
        seq.sampling = Sampling {
            temperature: 1.2,
            top_p: 0.95,
            top_k: 50,
            seed,
            ..Sampling::default()
        };
        chain.generate(&mut seq, &[9], 24).1
    };
    assert_eq!(sampled(5, &[]), sampled(5, &[2, 6]));
    assert_ne!(sampled(5, &[]), sampled(6, &[]));
}

fn segment() -> Segment {
    Segment {
        sequence: SequenceId(1),
        slot: 0,
        start: 0,
        rows: 2,
        logits: Logits::Last,
        commit: 0,
        provisional: 0,
        pages: vec![0],
        open: Some(Open {
            prompt_len: 2,
            sampling: Sampling::default(),
        }),
    }
}

fn step(segments: Vec<Segment>, tokens: Vec<u32>) -> Step {
    Step {
        epoch: Epoch(1),
        id: StepId(1),
        class: StepClass::Decode,
        segments,
        tokens,
    }
}

#[test]
fn steps_that_do_not_fit_are_refused_and_change_nothing() {
    let checkpoint = rig::open("qwen3_5_moe");
    let mut chain = Chain::whole(&checkpoint, &exec(Isa::detect(), 1), KvType::F32);
    let slice = &mut chain.nodes[0];
    let with = |f: fn(&mut Segment)| {
        let mut s = segment();
        f(&mut s);
        step(vec![s], vec![1, 2])
    };
    let cases: Vec<(&str, Step)> = vec![
        ("page out of range", with(|s| s.pages = vec![rig::PAGES])),
        ("too few pages", with(|s| s.pages = vec![])),
        ("slot out of range", with(|s| s.slot = 8)),
        ("start after a gap", with(|s| s.start = 5)),
        ("commit of nothing", with(|s| s.commit = 1)),
        ("more provisional than rows", with(|s| s.provisional = 3)),
        ("unknown sequence", with(|s| s.open = None)),
        ("too few tokens", step(vec![segment()], vec![1])),
        (
            "token out of vocabulary",
            step(vec![segment()], vec![1, 576]),
        ),
        (
            "sequence twice",
            step(vec![segment(), segment()], vec![1, 2, 3, 4]),
        ),
    ];
    for (what, step) in cases {
        let refused = slice.begin(step, Input::Tokens);
        assert!(refused.is_err(), "{what}");
        assert_eq!(slice.open_sequences(), 0, "{what}");
    }
    let rows = Input::Rows(vec![0.0; 128]);
    assert!(matches!(
        slice.begin(with(|_| ()), rows),
        Err(EngineError::NotHeld(_))
    ));
}

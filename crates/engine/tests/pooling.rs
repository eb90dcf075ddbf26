//! Vectors of whole prompts: what they are, and that no split, chunk or batch changes a bit of them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "test code"
)]

mod rig;

use std::sync::Arc;

use engine::{EngineError, GroupSet, Input, KvType};
use kernels::{Isa, WeightType, dequantize_row};
use model::{Checkpoint, DType, Role};
use proto::step::{Logits, Open, Pooling, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};
use rig::{Chain, Seq, Want, bits, exec};

const PROMPT: [u32; 23] = [
    7, 100, 3, 250, 9, 31, 77, 12, 12, 12, 200, 41, 5, 6, 300, 2, 88, 90, 11, 64, 65, 66, 300,
];
const BOTH: [Pooling; 2] = [Pooling::Last, Pooling::Mean];

fn wants(seq: &mut Seq, rows: u32, pooling: Pooling) -> Want<'_> {
    Want {
        logits: Logits::Pool(pooling),
        ..Want::rows(seq, rows)
    }
}

/// The vector of a prompt that is run in pieces of these sizes, the last repeated.
fn vector(chain: &mut Chain, prompt: &[u32], pooling: Pooling, pieces: &[u32]) -> Vec<f32> {
    let mut seq = Seq::new(2, prompt);
    let last = *pieces.last().unwrap();
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(last));
    while seq.len < seq.prompt_len {
        assert!(chain.vectors.is_empty(), "only the end gives a vector");
        let rows = pieces.next().unwrap().min(seq.prompt_len - seq.len);
        let samples = chain.step(&mut [wants(&mut seq, rows, pooling)]);
        assert!(samples.is_empty(), "nothing is sampled");
    }
    let vectors = std::mem::take(&mut chain.vectors);
    assert_eq!(vectors.len(), 1);
    assert_eq!(vectors[0].sequence, seq.id);
    vectors.into_iter().next().unwrap().values
}

/// The head's rows times a vector, in 64 bits.
fn logits(checkpoint: &Checkpoint, vector: &[f32]) -> Vec<f64> {
    let head = checkpoint.matrix(Role::Head).unwrap();
    let ty = match head.ty {
        DType::F32 => WeightType::F32,
        DType::F16 => WeightType::F16,
        DType::BF16 => WeightType::BF16,
        other => panic!("{other:?}"),
    };
    let bytes = checkpoint.bytes_at(head.at);
    let mut row = vec![0.0; head.cols];
    let dot = |bytes: &[u8]| {
        dequantize_row(ty, bytes, &mut row);
        let products = row.iter().zip(vector);
        products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
    };
    bytes
        .chunks_exact(bytes.len() / head.rows)
        .map(dot)
        .collect()
}

/// Fp32 arithmetic in any order lands within 2e-4 of the recorded logits; a mistake moves them by 0.9 or more.
#[test]
fn the_last_row_has_the_recorded_logits() {
    for family in ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"] {
        let golden = std::fs::read(rig::data(&format!("{family}/golden.json"))).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
        for format in [family.to_owned(), format!("{family}/model-f16.gguf")] {
            let checkpoint = rig::open(&format);
            let exec = exec(Isa::detect(), 2);
            for prompt in golden["prompts"].as_array().unwrap() {
                let ids = prompt["token_ids"].as_array().unwrap().iter();
                let ids: Vec<u32> = ids.map(|id| id.as_u64().unwrap() as u32).collect();
                let mut chain = Chain::whole(&checkpoint, &exec, KvType::F32);
                let vector = vector(&mut chain, &ids, Pooling::Last, &[9]);
                let got = logits(&checkpoint, &vector);
                let expected = prompt["last_logits"].as_array().unwrap();
                assert_eq!(got.len(), expected.len());
                for (got, expected) in got.iter().zip(expected) {
                    let off = (got - expected.as_f64().unwrap()).abs();
                    assert!(off <= 1e-3, "{format}, {}: {off}", prompt["name"]);
                }
            }
        }
    }
}

#[test]
fn the_mean_is_the_sum_of_the_rows_in_order_by_their_number() {
    let checkpoint = rig::open("qwen3_5_moe");
    let exec = exec(Isa::detect(), 2);
    let of = |prompt: &[u32], pooling| {
        let mut chain = Chain::whole(&checkpoint, &exec, KvType::F32);
        vector(&mut chain, prompt, pooling, &[u32::MAX])
    };
    let mut sum = vec![0.0f32; checkpoint.arch().hidden];
    for end in 1..=PROMPT.len() {
        let row = of(&PROMPT[..end], Pooling::Last);
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        let expected: Vec<f32> = sum.iter().map(|x| x / end as f32).collect();
        let mean = of(&PROMPT[..end], Pooling::Mean);
        assert_eq!(bits(&mean), bits(&expected), "of {end}");
    }
}

fn models() -> Vec<(&'static str, Arc<Checkpoint>, KvType)> {
    vec![
        ("hearth-tiny Q8_0", rig::bundled(), KvType::F16),
        ("qwen3_5_moe", rig::open("qwen3_5_moe"), KvType::F32),
        ("qwen3_moe", rig::open("qwen3_moe"), KvType::F32),
        ("llama f16", rig::open("llama/model-f16.gguf"), KvType::F16),
    ]
}

#[test]
fn chunks_cuts_owners_and_instruction_sets_leave_every_bit() {
    for (name, checkpoint, kv) in models() {
        let fast = exec(Isa::detect(), 2);
        let layers = checkpoint.arch().layers.len() as u32;
        for pooling in BOTH {
            let get = |mut chain: Chain, pieces: &[u32]| {
                bits(&vector(&mut chain, &PROMPT, pooling, pieces))
            };
            let whole = get(Chain::whole(&checkpoint, &fast, kv), &[u32::MAX]);
            for pieces in [&[1][..], &[2, 9, 4], &[22, 1]] {
                let other = get(Chain::whole(&checkpoint, &fast, kv), pieces);
                assert_eq!(other, whole, "{name}, {pooling:?} in {pieces:?}");
            }
            for cut in 1..layers {
                let other = get(Chain::cut(&checkpoint, &fast, kv, &[cut]), &[9]);
                assert_eq!(other, whole, "{name}, {pooling:?} cut at {cut}");
            }
            for isa in Isa::usable() {
                let other = get(Chain::whole(&checkpoint, &exec(isa, 3), kv), &[9]);
                assert_eq!(other, whole, "{name}, {pooling:?} with {isa}");
            }
            if checkpoint.arch().moe.is_some() {
                let groups = rig::groups_of(&checkpoint);
                let away = [0, 1].map(|odd| {
                    let mine = (0..groups).filter(|group| group % 3 == odd);
                    mine.fold(GroupSet::none(), GroupSet::with)
                });
                let other = get(Chain::placed(&checkpoint, &fast, kv, &[3], &away), &[9]);
                assert_eq!(other, whole, "{name}, {pooling:?} with groups away");
            }
        }
    }
}

#[test]
fn prompts_are_pooled_beside_answers_and_change_nothing_there() {
    let checkpoint = rig::open("qwen3_5_moe");
    let exec = exec(Isa::detect(), 2);
    let fresh = || Chain::whole(&checkpoint, &exec, KvType::F32);
    let alone = BOTH.map(|pooling| bits(&vector(&mut fresh(), &PROMPT, pooling, &[u32::MAX])));
    let (_, expected) = fresh().generate(&mut Seq::new(1, &PROMPT[4..]), &[19], 4);

    let mut chain = fresh();
    let (mut last, mut mean) = (Seq::new(0, &PROMPT), Seq::new(2, &PROMPT));
    let mut answer = Seq::new(1, &PROMPT[4..]);
    let mut drawn = Vec::new();
    for rows in [6, 6, 6, 5] {
        let of_answer = if drawn.is_empty() { 19 } else { 1 };
        let samples = chain.step(&mut [
            wants(&mut last, rows, Pooling::Last),
            Want::rows(&mut answer, of_answer),
            wants(&mut mean, rows, Pooling::Mean),
        ]);
        assert_eq!(samples.len(), 1);
        drawn.push(samples[0].token);
        answer.tokens.push(samples[0].token);
    }

    assert_eq!(drawn, expected);
    let ids: Vec<_> = chain.vectors.iter().map(|v| v.sequence).collect();
    assert_eq!(ids, [last.id, mean.id]);
    assert_eq!([0, 1].map(|at| bits(&chain.vectors[at].values)), alone);
}

fn segment(start: u32, rows: u32, logits: Logits) -> Segment {
    Segment {
        sequence: SequenceId(1),
        slot: 0,
        start,
        rows,
        logits,
        commit: 0,
        provisional: 0,
        pages: if start == 0 { vec![0] } else { vec![] },
        open: (start == 0).then(|| Open {
            prompt_len: 4,
            sampling: Sampling::default(),
        }),
    }
}

fn step(segment: Segment) -> Step {
    Step {
        epoch: Epoch(1),
        id: StepId(1),
        class: StepClass::Prefill,
        tokens: vec![1; segment.rows as usize],
        segments: vec![segment],
    }
}

#[test]
fn what_cannot_be_pooled_is_refused() {
    let checkpoint = rig::open("qwen3_5_moe");
    let mut chain = Chain::whole(&checkpoint, &exec(Isa::detect(), 1), KvType::F32);
    let slice = &mut chain.nodes[0];
    for pooling in BOTH {
        let logits = Logits::Pool(pooling);
        let provisional = Segment {
            provisional: 1,
            ..segment(0, 4, logits)
        };
        for refused in [provisional, segment(0, 5, logits)] {
            let begun = slice.begin(step(refused), Input::Tokens);
            assert!(matches!(begun, Err(EngineError::Step { .. })));
            assert_eq!(slice.open_sequences(), 0);
        }
    }
    // A mean whose first rows were not pooled would be the mean of something else.
    let first = step(segment(0, 2, Logits::None));
    slice
        .begin(first, Input::Tokens)
        .unwrap()
        .poll(slice)
        .unwrap();
    let second = step(segment(2, 2, Logits::Pool(Pooling::Mean)));
    let run = slice.begin(second, Input::Tokens).unwrap().poll(slice);
    let error = run.unwrap_err().to_string();
    assert_eq!(error, "step pooled rows before this chunk is 0, expected 2");
}

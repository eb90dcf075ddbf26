//! The computing thread as an owner of groups and head blocks, and as one that asks owners; the test plays the others.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{CacheSpec, Exec, Routes, Slice, SliceSpec};
use kernels::{ActFormat, Acts, Isa, Pool};
use model::Checkpoint;
use node::worker::Job;
use proto::control::{Assign, NodeMessage, Owner};
use proto::frame::{
    Asked, CloseFrame, Dtype, ExpertsFrame, FaultFrame, Frame, HeadFrame, LogitsFrame,
    PartialsFrame, SamplesFrame,
};
use proto::step::{Step, StepClass};
use proto::{GroupSet, NodeId, SequenceId, StepId};
use rig::{EPOCH, Rig, peer, step};

/// Layers, expert groups and values of a row of the model.
const LAYERS: u32 = 8;
const GROUPS: u32 = 8;
const HIDDEN: u32 = 64;
const BLOCKS: u32 = 16;

/// Groups and blocks that live away from the trunk.
fn away() -> (BTreeMap<u32, GroupSet>, GroupSet) {
    let groups = (0..LAYERS).map(|layer| (layer, GroupSet::all(3).missing(GROUPS)));
    (groups.collect(), GroupSet::all(5).missing(BLOCKS))
}

impl Rig {
    /// The node holds groups and blocks for the coordinator, who plays a stage.
    fn owner(&self) -> Assign {
        let (foreign, head_blocks) = away();
        Assign {
            layers: 0..0,
            embedding: false,
            head: false,
            foreign,
            head_blocks,
            askers: vec![peer(&self.coordinator)],
            ..self.assign()
        }
    }

    /// The node has the trunk, and the coordinator plays the owner.
    fn trunk(&self) -> Assign {
        let (groups, head_blocks) = away();
        Assign {
            owners: vec![Owner {
                peer: peer(&self.coordinator),
                groups,
                head_blocks,
            }],
            ..self.assign()
        }
    }

    /// What the node lends, in this process.
    fn double(&self) -> Slice {
        let (foreign, blocks) = away();
        let spec = SliceSpec {
            foreign,
            head_blocks: Some(blocks),
            ..SliceSpec::default()
        };
        let cache = CacheSpec {
            kv: engine::KvType::F32,
            pages: 0,
            slots: 0,
        };
        let exec = Exec {
            pool: Arc::new(Pool::new(1)),
            isa: Isa::Scalar,
        };
        Slice::load(
            Arc::new(Checkpoint::open(&self.model).unwrap()),
            &spec,
            cache,
            exec,
        )
        .unwrap()
    }

    fn give_from(&self, from: &str, frame: Frame) {
        let from = NodeId::new(from).unwrap();
        self.worker.give(Job::Frame { from, frame }).unwrap();
    }

    /// The samples of a step, with the node's requests answered by `owner`.
    async fn samples(&mut self, owner: &mut Slice) -> SamplesFrame {
        loop {
            match self.answer().await {
                Frame::Samples(samples) => return samples,
                request => self.give(answer(owner, &request)),
            }
        }
    }
}

/// Rows of wire form as the engine takes them.
fn acts(dtype: Dtype, rows: usize, cols: u32, bytes: &[u8]) -> Acts {
    assert_eq!(dtype, Dtype::F32, "the model's weights are floats");
    Acts::from_bytes(ActFormat::F32, rows, cols as usize, bytes).unwrap()
}

/// What an owner answers, computed in this process.
fn answer(owner: &mut Slice, request: &Frame) -> Frame {
    match request {
        Frame::Experts(f) => {
            let acts = acts(f.dtype, f.rows.len(), f.cols, &f.bytes);
            let counts = f.rows.iter().map(|(_, count)| *count);
            let routes = Routes::from_counts(counts, f.experts.clone()).unwrap();
            let sums = owner.experts(f.asked.layer, acts, &routes).unwrap();
            let step_row = |row: u32| f.rows[row as usize].0;
            let entries = sums.entries.iter();
            Frame::Partials(PartialsFrame {
                asked: f.asked,
                entries: entries
                    .map(|(row, node)| (step_row(*row), u32::from(node.0)))
                    .collect(),
                cols: f.cols,
                values: sums.values,
            })
        }
        Frame::Head(f) => {
            let acts = acts(f.dtype, f.rows as usize, f.cols, &f.bytes);
            let values = owner.head_rows(&acts).unwrap();
            Frame::Logits(LogitsFrame {
                asked: f.asked,
                blocks: owner.head_blocks(),
                rows: f.rows,
                cols: values.len() as u32 / f.rows,
                values,
            })
        }
        other => panic!("{other:?}"),
    }
}

fn asked(step: u64, layer: u32) -> Asked {
    Asked {
        epoch: EPOCH,
        step: StepId(step),
        class: StepClass::Decode,
        layer,
        part: 0,
    }
}

/// Two rows that want experts of the last groups.
fn experts(step: u64) -> ExpertsFrame {
    let values = (0..2 * HIDDEN).map(|i| (i % 17) as f32 * 0.25 - 1.0);
    ExpertsFrame {
        asked: asked(step, 3),
        dtype: Dtype::F32,
        cols: HIDDEN,
        rows: vec![(0, 2), (5, 1)],
        experts: vec![(5, 0.75), (7, 0.25), (4, 1.0)],
        bytes: values.flat_map(f32::to_le_bytes).collect(),
    }
}

fn head(step: u64) -> HeadFrame {
    let values = (0..HIDDEN).map(|i| i as f32 * 0.5 - 3.0);
    HeadFrame {
        asked: asked(step, LAYERS),
        dtype: Dtype::F32,
        cols: HIDDEN,
        rows: 1,
        bytes: values.flat_map(f32::to_le_bytes).collect(),
    }
}

fn fault_of(step: u64) -> Frame {
    Frame::Fault(FaultFrame {
        epoch: EPOCH,
        step: StepId(step),
        text: "the owner's disk is gone".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_answers_with_the_bits_of_its_own_engine() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.owner();
    rig.loaded(assign).await;
    let mut double = rig.double();
    for request in [Frame::Experts(experts(1)), Frame::Head(head(2))] {
        rig.give(request.clone());
        assert_eq!(rig.answer().await, answer(&mut double, &request));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_refuses_what_it_cannot_serve_and_goes_on() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.owner();
    rig.loaded(assign).await;
    type Spoil = fn(&mut ExpertsFrame);
    let cases: [(&str, Spoil); 7] = [
        ("no expert group of layer 99", |f| f.asked.layer = 99),
        ("expert that a row is sent to", |f| f.experts[0].0 = 0),
        ("expert that a row is sent to", |f| f.experts[2].0 = 4000),
        ("out of order", |f| f.experts.swap(0, 1)),
        ("columns", |f| {
            f.cols = HIDDEN / 2;
            f.bytes.truncate(f.bytes.len() / 2);
        }),
        ("activation rows", |f| f.bytes.truncate(8)),
        ("activation format", |f| {
            (f.dtype, f.bytes) = (Dtype::Q8_0, vec![0; 2 * 2 * 36]);
        }),
    ];
    for (step, (words, spoil)) in (1..).zip(cases) {
        let mut bad = experts(step);
        spoil(&mut bad);
        rig.give(Frame::Experts(bad));
        let text = rig.fault().await;
        assert!(text.contains(words), "{words}: {text}");
    }
    let mut bad = head(20);
    (bad.cols, bad.rows) = (HIDDEN / 2, 2);
    rig.give(Frame::Head(bad));
    assert!(rig.fault().await.contains("columns"));
    rig.give(Frame::Experts(experts(21)));
    assert!(matches!(rig.answer().await, Frame::Partials(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_those_who_may_not_ask_are_dropped() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.owner();
    rig.loaded(assign).await;
    let mut old = experts(1);
    old.asked.epoch.0 -= 1;
    rig.give(Frame::Experts(old));
    rig.give_from("stranger", Frame::Experts(experts(2)));
    rig.give_from("stranger", Frame::Head(head(3)));
    // A node without layers runs no steps, whoever sends them.
    rig.give(Frame::Step(step(4)));
    rig.give(fault_of(5));
    rig.give(Frame::Experts(experts(6)));
    match rig.answer().await {
        Frame::Partials(sums) => assert_eq!(sums.asked.step, StepId(6)),
        other => panic!("{other:?}"),
    }
    // Nobody may ask a node that lends nothing.
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.give(Frame::Experts(experts(7)));
    rig.answers_only(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_gives_the_samples_of_the_whole_model() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.give(Frame::Step(step(1)));
    let Frame::Samples(whole) = rig.answer().await else {
        panic!("samples were expected");
    };
    let assign = rig.trunk();
    rig.loaded(assign).await;
    let mut owner = rig.double();
    rig.give(Frame::Step(step(1)));
    assert_eq!(rig.samples(&mut owner).await, whole);
}

/// A step of one token, for a sequence of its own.
fn decode(id: u64) -> Step {
    let mut step = step(id);
    step.class = StepClass::Decode;
    step.segments[0].slot = 1;
    step.segments[0].pages = vec![1];
    step
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_blocks_no_other() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.trunk();
    rig.loaded(assign).await;
    let mut owner = rig.double();
    rig.give(Frame::Step(step(1)));
    let kept = rig.answer().await;
    rig.give(Frame::Step(decode(2)));
    assert_eq!(rig.samples(&mut owner).await.step, StepId(2));
    let late = answer(&mut owner, &kept);
    rig.give(late);
    assert_eq!(rig.samples(&mut owner).await.step, StepId(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_chunk_of_a_sequence_waits_for_the_one_before() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.trunk();
    rig.loaded(assign).await;
    let mut owner = rig.double();
    rig.give(Frame::Step(step(1)));
    let kept = rig.answer().await;
    let mut next = step(1);
    next.id = StepId(2);
    (next.segments[0].start, next.segments[0].open) = (3, None);
    next.segments[0].pages.clear();
    rig.give(Frame::Step(next));
    let late = answer(&mut owner, &kept);
    rig.give(late);
    assert_eq!(rig.samples(&mut owner).await.step, StepId(1));
    assert_eq!(rig.samples(&mut owner).await.step, StepId(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_wrong_fail_their_step_alone() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.trunk();
    rig.loaded(assign).await;
    let mut owner = rig.double();
    type Spoil = fn(&mut PartialsFrame);
    let spoils: [Spoil; 5] = [
        |f| f.values.truncate(1),
        |f| f.entries[0].0 = 3000,
        |f| f.entries[0].1 = 31,
        |f| f.entries[0].1 = 1,
        |f| {
            let first = f.entries[0];
            f.entries[1] = first;
        },
    ];
    for (id, spoil) in (10..).zip(spoils) {
        rig.give(Frame::Step(step(id)));
        let request = rig.answer().await;
        let Frame::Partials(mut bad) = answer(&mut owner, &request) else {
            panic!("the first layer has experts");
        };
        spoil(&mut bad);
        rig.give(Frame::Partials(bad));
        let text = rig.fault().await;
        assert!(text.contains("partial sums of layer 0"), "{text}");
        rig.give(Frame::Close(CloseFrame {
            epoch: EPOCH,
            sequences: vec![SequenceId(id)],
        }));
    }
    rig.give(Frame::Step(step(30)));
    let _unanswered = rig.answer().await;
    rig.give(fault_of(30));
    let text = rig.fault().await;
    assert!(text.contains("the owner's disk is gone"), "{text}");
    rig.give(Frame::Step(step(31)));
    assert_eq!(rig.samples(&mut owner).await.step, StepId(31));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_waits_for_change_nothing() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.trunk();
    rig.loaded(assign).await;
    let mut owner = rig.double();
    rig.give(Frame::Step(step(1)));
    let request = rig.answer().await;
    let right = answer(&mut owner, &request);
    let Frame::Partials(sums) = &right else {
        panic!("the first layer has experts");
    };
    let other = |change: fn(&mut Asked)| {
        let mut sums = sums.clone();
        sums.values.fill(7.0);
        change(&mut sums.asked);
        Frame::Partials(sums)
    };
    rig.give(other(|asked| asked.layer += 1));
    rig.give(other(|asked| asked.part += 1));
    rig.give(other(|asked| asked.step.0 += 1));
    rig.give(other(|asked| asked.epoch.0 += 1));
    rig.give_from("stranger", other(|_| ()));
    rig.give_from("stranger", fault_of(1));
    rig.give(fault_of(2));
    rig.give(right.clone());
    rig.give(right);
    let spread = rig.samples(&mut owner).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.give(Frame::Step(step(1)));
    assert_eq!(rig.answer().await, Frame::Samples(spread));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_the_allowance_or_the_model_are_refused() {
    let mut rig = Rig::new(20_000).await;
    let assign = rig.owner();
    match rig.load(assign).await {
        NodeMessage::LoadFailed(failed) => {
            assert_eq!(failed.code, "memory");
            assert!(failed.text.contains("for others need"), "{}", failed.text);
        }
        other => panic!("{other:?}"),
    }
    let mut rig = Rig::new(1 << 30).await;
    let mut assign = rig.owner();
    assign.foreign = [(99, GroupSet::all(1))].into();
    match rig.load(assign).await {
        NodeMessage::LoadFailed(failed) => assert_eq!(failed.code, "slice"),
        other => panic!("{other:?}"),
    }
}

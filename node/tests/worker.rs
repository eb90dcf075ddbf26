//! The computing thread between a real coordinator endpoint and frames that do not belong to it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::Checkpoint;
use node::worker::{Job, Told};
use proto::control::{Assign, CacheType, NodeMessage};
use proto::frame::{CloseFrame, Frame, MaskFrame, RowsFrame};
use proto::mask::TokenMask;
use proto::step::{Logits, Step};
use proto::{Epoch, NodeId, SequenceId, StepId};
use rig::{DEADLINE, EPOCH, Rig, peer, step};
use tokio::time::timeout;

/// What the plan counts for caches is what the engine takes, to the byte, for every type.
#[test]
fn planned_caches_are_as_large_as_real_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/hearth-tiny.gguf");
    let checkpoint = Arc::new(Checkpoint::open(Path::new(path)).unwrap());
    let layers = u32::try_from(checkpoint.arch().layers.len()).unwrap();
    let types = [
        (plan::KvType::F32, engine::KvType::F32),
        (plan::KvType::F16, engine::KvType::F16),
        (plan::KvType::Q8, engine::KvType::Q8),
    ];
    for (planned, real) in types {
        let (pages, slots) = (5, 3);
        let span = plan::LayerSpan {
            first_layer: 0,
            end_layer: layers,
            embedding: true,
            head: true,
        };
        let budget = plan::CacheBudget {
            kv: planned,
            pages,
            slots,
            chunk_rows: 16,
        };
        let bytes = plan::slice_bytes(&checkpoint.facts(), &span, &budget).unwrap();
        let spec = engine::SliceSpec {
            embedding: true,
            layers: 0..layers,
            head: true,
            ..engine::SliceSpec::default()
        };
        let cache = engine::CacheSpec {
            kv: real,
            pages,
            slots,
        };
        let exec = engine::Exec {
            pool: Arc::new(kernels::Pool::new(1)),
            isa: kernels::Isa::detect(),
        };
        let slice = engine::Slice::load(Arc::clone(&checkpoint), &spec, cache, exec).unwrap();
        assert_eq!(
            slice.footprint().cache_bytes,
            bytes.cache_bytes,
            "{planned}"
        );
    }
}

#[tokio::test]
async fn caches_of_every_type_are_taken_and_answer() {
    for kv in [CacheType::F32, CacheType::F16, CacheType::Q8] {
        let mut rig = Rig::new(1 << 30).await;
        rig.loaded(Assign { kv, ..rig.assign() }).await;
        rig.answers_only(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_do_not_belong_to_the_stage_change_nothing() {
    let mut rig = Rig::new(1 << 30).await;
    rig.give(Frame::Step(step(1)));
    let assign = rig.assign();
    rig.loaded(assign).await;
    let mut old = step(2);
    old.epoch = Epoch(6);
    rig.give(Frame::Step(old));
    let stranger = NodeId::new("stranger").unwrap();
    rig.worker
        .give(Job::Frame {
            from: stranger,
            frame: Frame::Step(step(3)),
        })
        .unwrap();
    rig.give(Frame::Rows(RowsFrame {
        step: step(4),
        layer: 0,
        cols: 64,
        rows: vec![0.0; 192],
    }));
    rig.give(Frame::Close(CloseFrame {
        epoch: EPOCH,
        sequences: vec![SequenceId(99)],
    }));
    rig.answers_only(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_do_not_fit_are_answered_with_a_fault() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    let mut bad = step(1);
    bad.segments[0].pages = vec![4];
    rig.give(Frame::Step(bad));
    assert!(rig.fault().await.contains("page is 4"));
    let mut bad = step(2);
    bad.segments[0].open = None;
    rig.give(Frame::Step(bad));
    assert!(rig.fault().await.contains("sequence 2 is not known"));
    rig.answers_only(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_shape_are_answered_with_a_fault() {
    let mut rig = Rig::new(1 << 30).await;
    let mut assign = rig.assign();
    assign.layers = 4..8;
    assign.embedding = false;
    assign.previous = Some(peer(&rig.coordinator));
    rig.loaded(assign).await;
    for (layer, cols) in [(4, 32), (3, 64)] {
        let rows = vec![0.0; 3 * cols as usize];
        rig.give(Frame::Rows(RowsFrame {
            step: step(1),
            layer,
            cols,
            rows,
        }));
        let text = rig.fault().await;
        assert!(
            text.contains("64 values for layer 4 were expected"),
            "{text}"
        );
    }
    rig.give(Frame::Rows(RowsFrame {
        step: step(2),
        layer: 4,
        cols: 64,
        rows: vec![0.5; 192],
    }));
    assert!(matches!(rig.answer().await, Frame::Samples(_)));
}

async fn refused(rig: &mut Rig, assign: Assign) -> (String, String) {
    match rig.load(assign).await {
        NodeMessage::LoadFailed(failed) => (failed.code, failed.text),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_must_not_be_loaded_are_refused_with_their_reason() {
    let mut rig = Rig::new(200_000).await;
    let assign = rig.assign();
    let (code, text) = refused(&mut rig, assign).await;
    assert_eq!(code, "memory");
    assert!(text.contains("this machine gives 200000"), "{text}");
    let mut other = rig.assign();
    other.model_blake3 = [9; 32];
    let (code, text) = refused(&mut rig, other).await;
    assert_eq!(code, "model_mismatch");
    assert!(text.contains("copy the coordinator's files"), "{text}");
    let mut absent = rig.assign();
    absent.model_path = rig
        .dir
        .path()
        .join("none.gguf")
        .to_str()
        .unwrap()
        .to_owned();
    let (code, text) = refused(&mut rig, absent).await;
    assert_eq!(code, "model_unreadable");
    assert!(text.contains("none.gguf"), "{text}");
}

fn touch(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    file.set_modified(then).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_model_file_gives_a_fault_and_no_answer() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.answers_only(1).await;
    touch(&rig.model);
    rig.give(Frame::Step(step(2)));
    let text = rig.fault().await;
    assert!(text.contains("m.gguf"), "{text}");
    let told = timeout(DEADLINE, rig.told.recv()).await.unwrap();
    assert!(matches!(told, Some(Told::ModelChanged(_))), "{told:?}");
}

/// The step of `rig::step`, its token drawn under a mask.
fn masked_step(id: u64) -> Step {
    let mut step = step(id);
    step.segments[0].logits = Logits::Masked;
    step
}

fn mask(sequence: u64, words: Option<Vec<u32>>) -> Frame {
    Frame::Mask(MaskFrame {
        epoch: EPOCH,
        sequence: SequenceId(sequence),
        position: 3,
        mask: words.map(|words| TokenMask::new(words).unwrap()),
    })
}

/// Words for the vocabulary of the rig's model that allow these ids.
fn words(rig: &Rig, ids: &[u32]) -> Vec<u32> {
    let vocab = Checkpoint::open(&rig.model).unwrap().arch().vocab;
    let mut words = vec![0; TokenMask::words_for(u32::try_from(vocab).unwrap()) as usize];
    for id in ids {
        words[*id as usize / 32] |= 1 << (id % 32);
    }
    words
}

async fn drawn(rig: &mut Rig) -> (StepId, u32) {
    match rig.answer().await {
        Frame::Samples(samples) => (samples.step, samples.samples[0].token),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_token_waits_for_its_mask_and_holds_up_no_other_step() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.give(Frame::Step(step(1)));
    let (_, free) = drawn(&mut rig).await;
    let other = if free == 17 { 18 } else { 17 };
    rig.give(Frame::Step(masked_step(2)));
    rig.answers_only(3).await;
    rig.give(mask(2, Some(words(&rig, &[other]))));
    assert_eq!(drawn(&mut rig).await, (StepId(2), other), "mask after step");
    rig.give(mask(4, Some(words(&rig, &[other]))));
    rig.give(Frame::Step(masked_step(4)));
    assert_eq!(
        drawn(&mut rig).await,
        (StepId(4), other),
        "mask before step"
    );
    rig.give(Frame::Step(masked_step(5)));
    rig.give(mask(5, None));
    assert_eq!(
        drawn(&mut rig).await,
        (StepId(5), free),
        "not wanted any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_of_another_length_ends_its_step_alone() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    let early = mask(1, Some(vec![1]));
    rig.give(early.clone());
    rig.give(Frame::Step(masked_step(1)));
    let text = rig.fault().await;
    assert!(
        text.contains("token mask: tokens is 32, expected"),
        "{text}"
    );
    rig.give(Frame::Step(masked_step(2)));
    rig.answers_only(3).await;
    let mut long = words(&rig, &[1]);
    long.push(1);
    rig.give(mask(2, Some(long)));
    assert!(rig.fault().await.contains("token mask: tokens is"));
    rig.answers_only(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masks_of_others_than_the_coordinator_or_of_closed_sequences_change_nothing() {
    let mut rig = Rig::new(1 << 30).await;
    let assign = rig.assign();
    rig.loaded(assign).await;
    rig.give(Frame::Step(step(1)));
    let (_, free) = drawn(&mut rig).await;
    let other = if free == 17 { 18 } else { 17 };
    let from = NodeId::new("stranger").unwrap();
    let frame = mask(2, Some(words(&rig, &[other])));
    rig.worker.give(Job::Frame { from, frame }).unwrap();
    rig.give(mask(3, Some(words(&rig, &[other]))));
    rig.give(Frame::Close(CloseFrame {
        epoch: EPOCH,
        sequences: vec![SequenceId(3)],
    }));
    for id in [2, 3] {
        rig.give(Frame::Step(masked_step(id)));
        rig.answers_only(id + 10).await;
        rig.give(mask(id, Some(words(&rig, &[free]))));
        assert_eq!(drawn(&mut rig).await, (StepId(id), free));
    }
}

//! Round trips, a snapshot of the bytes, and a table of frames that lie.

use proptest::prelude::*;

use super::*;
use crate::frame::{
    Asked, ExpertsFrame, HeadFrame, LogitsFrame, MaskFrame, PartialsFrame, StreamClass,
};
use crate::groups::GroupSet;
use crate::ids::{Epoch, StepId};
use crate::mask::TokenMask;
use crate::step::Pooled;

fn sample_step() -> Step {
    Step {
        epoch: Epoch(3),
        id: StepId(9),
        class: StepClass::Prefill,
        segments: vec![
            Segment {
                sequence: SequenceId(7),
                slot: 1,
                start: 64,
                rows: 2,
                logits: Logits::Last,
                commit: 1,
                provisional: 1,
                pages: vec![5, 6],
                open: None,
            },
            Segment {
                sequence: SequenceId(8),
                slot: 2,
                start: 0,
                rows: 1,
                logits: Logits::All,
                commit: 0,
                provisional: 0,
                pages: vec![],
                open: Some(Open {
                    prompt_len: 1,
                    sampling: Sampling {
                        logprobs: Some(5),
                        bias: vec![(4, -1.5)],
                        suppress: vec![2],
                        suppress_until: 9,
                        ..Sampling::default()
                    },
                }),
            },
        ],
        tokens: vec![11, 12, 13],
    }
}

fn rows_frame() -> Frame {
    Frame::Rows(RowsFrame {
        step: sample_step(),
        layer: 4,
        cols: 2,
        rows: vec![1.0, -2.0, 3.5, f32::MIN_POSITIVE, 0.0, -0.0],
    })
}

fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (head, payload) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(FrameError::Tables("inside the header"))?;
    let header = FrameHeader::parse(head.try_into().unwrap())?;
    Frame::decode(&header, payload)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn every_kind_survives_the_wire() {
    let mut masked = sample_step();
    masked.segments[0].logits = Logits::Masked;
    let frames = [
        Frame::Step(masked),
        Frame::Step(sample_step()),
        rows_frame(),
        Frame::Samples(SamplesFrame {
            epoch: Epoch(1),
            step: StepId(2),
            samples: vec![Sampled {
                sequence: SequenceId(7),
                position: 66,
                token: 40,
                logprob: -0.25,
                top: vec![(40, -0.25), (41, -3.0)],
            }],
            vectors: vec![],
        }),
        Frame::Samples(vectors_frame()),
        Frame::Samples(SamplesFrame {
            samples: vec![],
            ..vectors_frame()
        }),
        Frame::Close(CloseFrame {
            epoch: Epoch(1),
            sequences: vec![SequenceId(1), SequenceId(u64::MAX)],
        }),
        Frame::Fault(FaultFrame {
            epoch: Epoch(1),
            step: StepId(2),
            text: "the model file changed".into(),
        }),
    ];
    let masks = [
        mask_frame(Some(vec![0x8000_0001, 7])),
        mask_frame(None),
        mask_frame(Some(vec![u32::MAX; limits::MASK_WORDS_MAX as usize])),
    ];
    for frame in frames.into_iter().chain(exchange_frames()).chain(masks) {
        assert_eq!(read(&frame.encode()).unwrap(), frame);
    }
}

fn vectors_frame() -> SamplesFrame {
    let vector = |sequence, values: [f32; 2]| Pooled {
        sequence: SequenceId(sequence),
        values: values.to_vec(),
    };
    SamplesFrame {
        epoch: Epoch(1),
        step: StepId(2),
        samples: vec![Sampled {
            sequence: SequenceId(7),
            position: 3,
            token: 4,
            logprob: 0.0,
            top: vec![],
        }],
        vectors: vec![vector(8, [1.0, -2.0]), vector(9, [-0.0, f32::MAX])],
    }
}

#[test]
fn the_bytes_of_a_vector_are_fixed() {
    let mut frame = vectors_frame();
    frame.samples.clear();
    frame.vectors.truncate(1);
    let mut expected = vec![1, 3, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
    expected.extend([8, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    assert_eq!(Frame::Samples(frame).encode(), expected);
}

#[test]
fn how_a_segment_is_pooled_survives_the_wire() {
    for pooling in [Pooling::Last, Pooling::Mean] {
        let mut step = sample_step();
        step.segments[0].logits = Logits::Pool(pooling);
        let frame = Frame::Step(step);
        assert_eq!(read(&frame.encode()).unwrap(), frame);
    }
    let mut bytes = Frame::Step(sample_step()).encode();
    bytes[HEADER_BYTES + 8 + 5 * 4] = 6;
    assert!(read(&bytes).is_err(), "an unknown way");
}

#[test]
fn vectors_that_lie_are_refused() {
    let with = |spoil: fn(&mut SamplesFrame)| {
        let mut frame = vectors_frame();
        spoil(&mut frame);
        read(&Frame::Samples(frame).encode())
    };
    assert!(with(|f| f.vectors[1].values.push(1.0)).is_err(), "uneven");
    assert!(with(|f| f.vectors.iter_mut().for_each(|v| v.values.clear())).is_err());
    let many = limits::STEP_SEGMENTS_MAX as usize + 1;
    let frame = SamplesFrame {
        vectors: vec![vectors_frame().vectors.remove(0); many],
        ..vectors_frame()
    };
    assert!(read(&Frame::Samples(frame).encode()).is_err(), "too many");
    let headers: [(&str, usize, u32); 6] = [
        ("no form of rows", 0, 0x0000_0301),
        ("another form", 0, 0x0002_0301),
        ("more rows", 28, 3),
        ("no rows", 28, 0),
        ("wider rows", 32, 4),
        ("too wide", 32, limits::ROW_VALUES_MAX + 1),
    ];
    for (what, at, value) in headers {
        let mut bytes = Frame::Samples(vectors_frame()).encode();
        put(&mut bytes, at, value);
        assert!(read(&bytes).is_err(), "{what}");
    }
    // Rows that are claimed without any bytes of them.
    let mut bytes = Frame::Close(CloseFrame {
        epoch: Epoch(1),
        sequences: vec![SequenceId(1)],
    })
    .encode();
    bytes[1] = 3;
    put(&mut bytes, 28, 1);
    put(&mut bytes, 36, 0);
    assert!(read(&bytes).is_err(), "rows without bytes");
}

fn mask_frame(words: Option<Vec<u32>>) -> Frame {
    Frame::Mask(MaskFrame {
        epoch: Epoch(3),
        sequence: SequenceId(7),
        position: 66,
        mask: words.map(|words| TokenMask::new(words).unwrap()),
    })
}

fn asked() -> Asked {
    Asked {
        epoch: Epoch(3),
        step: StepId(9),
        class: StepClass::Decode,
        layer: 5,
        part: 2,
    }
}

fn experts_frame() -> ExpertsFrame {
    ExpertsFrame {
        asked: asked(),
        dtype: Dtype::Q8_0,
        cols: 32,
        rows: vec![(0, 2), (7, 1)],
        experts: vec![(3, 0.5), (9, 0.25), (4, 1.0)],
        bytes: (0..72).collect(),
    }
}

fn partials_frame() -> PartialsFrame {
    PartialsFrame {
        asked: asked(),
        entries: vec![(0, 1), (7, 31)],
        cols: 2,
        values: vec![1.0, -0.0, 3.5, f32::MAX],
    }
}

/// One of each kind between stages and owners.
fn exchange_frames() -> Vec<Frame> {
    vec![
        Frame::Experts(experts_frame()),
        Frame::Partials(partials_frame()),
        Frame::Head(HeadFrame {
            asked: asked(),
            dtype: Dtype::Q8K,
            cols: 256,
            rows: 1,
            bytes: vec![7; 292],
        }),
        Frame::Logits(LogitsFrame {
            asked: asked(),
            blocks: GroupSet::from_bits(0b1010),
            rows: 2,
            cols: 3,
            values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        }),
    ]
}

#[test]
fn the_bytes_of_a_partials_frame_are_fixed() {
    let frame = Frame::Partials(PartialsFrame {
        entries: vec![(7, 31)],
        values: vec![1.0, -2.0],
        ..partials_frame()
    });
    let mut expected = vec![1, 7, 1, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
    expected.extend([7, 0, 0, 0, 31, 0, 0, 0]);
    expected.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    assert_eq!(frame.encode(), expected);
}

#[test]
fn all_of_a_prompt_chunk_keeps_off_the_streams_of_decoding() {
    let of = |frame: &Frame| frame.class();
    for frame in exchange_frames() {
        assert_eq!(of(&frame), StreamClass::Expert);
    }
    let asked = Asked {
        class: StepClass::Prefill,
        ..asked()
    };
    let chunk = Frame::Partials(PartialsFrame {
        asked,
        ..partials_frame()
    });
    assert_eq!(of(&chunk), StreamClass::Prefill);
    assert_eq!(of(&rows_frame()), StreamClass::Prefill);
}

#[test]
fn exchange_frames_that_lie_are_refused() {
    let experts = |spoil: fn(&mut ExpertsFrame)| {
        let mut frame = experts_frame();
        spoil(&mut frame);
        Frame::Experts(frame)
    };
    let partials = |spoil: fn(&mut PartialsFrame)| {
        let mut frame = partials_frame();
        spoil(&mut frame);
        Frame::Partials(frame)
    };
    let frames = [
        experts(|f| f.rows[0].1 = 0),
        experts(|f| f.rows[0].1 = limits::ROW_EXPERTS_MAX + 1),
        experts(|f| f.rows[0].1 = 3),
        experts(|f| f.rows[1].0 = limits::STEP_ROWS_MAX),
        experts(|f| f.experts.truncate(2)),
        experts(|f| f.experts.push((1, 1.0))),
        experts(|f| f.bytes.truncate(71)),
        experts(|f| f.cols = 31),
        experts(|f| f.dtype = Dtype::None),
        experts(|f| f.dtype = Dtype::Q8K),
        experts(|f| f.rows = vec![(0, 1); limits::EXPERT_ROWS_MAX as usize + 1]),
        experts(|f| f.asked.layer = limits::LAYERS_MAX + 1),
        partials(|f| f.entries[0].1 = 0),
        partials(|f| f.entries[0].1 = 32),
        partials(|f| f.entries[0].0 = u32::MAX),
        partials(|f| f.values.truncate(3)),
        partials(|f| f.entries.truncate(1)),
        Frame::Head(HeadFrame {
            asked: asked(),
            dtype: Dtype::F32,
            cols: 1,
            rows: limits::HEAD_ROWS_MAX + 1,
            bytes: vec![0; 4 * (limits::HEAD_ROWS_MAX as usize + 1)],
        }),
    ];
    for frame in frames {
        assert!(read(&frame.encode()).is_err(), "{frame:?}");
    }
    let mut logits = exchange_frames().swap_remove(3).encode();
    put(&mut logits, HEADER_BYTES, 0x1_0000);
    assert!(read(&logits).is_err(), "a head block above 15");
    put(&mut logits, 32, limits::LOGITS_MAX + 1);
    assert!(read(&logits).is_err(), "too many logits");
}

#[test]
fn the_bytes_of_a_close_frame_are_fixed() {
    let frame = Frame::Close(CloseFrame {
        epoch: Epoch(0x0102),
        sequences: vec![SequenceId(0x0a0b)],
    });
    let mut expected = vec![1, 4, 0, 0, 0, 0, 0, 0];
    expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    expected.extend([0; 8 + 12]);
    expected.extend([1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0x0b, 0x0a, 0, 0, 0, 0, 0, 0]);
    assert_eq!(frame.encode(), expected);
}

#[test]
fn the_bytes_of_a_mask_frame_are_fixed() {
    let mut expected = vec![1, 10, 0, 0, 0, 0, 0, 0];
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0; 8]);
    expected.extend([66, 0, 0, 0]);
    expected.extend([0; 8 + 4]);
    expected.extend([20, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([2, 0, 0, 0, 1, 0, 0, 0x80, 7, 0, 0, 0]);
    assert_eq!(mask_frame(Some(vec![0x8000_0001, 7])).encode(), expected);
}

#[test]
fn masks_that_lie_are_refused() {
    let good = mask_frame(Some(vec![1, 0, 2])).encode();
    let words = HEADER_BYTES + 8;
    let cases: [(&str, usize, u32); 7] = [
        ("more words than there are", words, 4),
        ("fewer words than there are", words, 2),
        ("none where there are some", words, 0),
        ("too many words", words, limits::MASK_WORDS_MAX + 1),
        (
            "a position out of bounds",
            24,
            limits::SEQUENCE_POSITIONS_MAX + 1,
        ),
        ("a body", 44, 4),
        ("shorter tables", 40, 20),
    ];
    for (what, at, value) in cases {
        let mut bytes = good.clone();
        put(&mut bytes, at, value);
        assert!(read(&bytes).is_err(), "{what}");
    }
    let mut nothing = good;
    put(&mut nothing, words + 4, 0);
    put(&mut nothing, words + 12, 0);
    assert_eq!(
        read(&nothing).unwrap_err().to_string(),
        "frame field 'mask words' is 0, expected at least one token that may be drawn"
    );
}

#[test]
fn headers_that_lie_are_refused() {
    let cases: [(&str, usize, u32); 9] = [
        ("version", 0, 0x0101_0202),
        ("rows", 28, limits::STEP_ROWS_MAX + 1),
        ("rows", 28, 4),
        ("cols", 32, limits::ROW_VALUES_MAX + 1),
        ("cols", 32, 3),
        ("segments", 36, 3),
        ("meta_bytes", 40, u32::MAX),
        ("body_bytes", 44, u32::MAX),
        ("layer", 4, u32::MAX),
    ];
    for (what, at, value) in cases {
        let mut bytes = rows_frame().encode();
        put(&mut bytes, at, value);
        assert!(read(&bytes).is_err(), "{what} = {value}");
    }
    for (at, value) in [(1, 9u8), (1, 10), (1, 11), (1, 0), (2, 0), (2, 7), (3, 2)] {
        let mut bytes = rows_frame().encode();
        bytes[at] = value;
        assert!(read(&bytes).is_err(), "byte {at} = {value}");
    }
}

#[test]
fn a_count_in_the_tables_is_checked_before_it_is_believed() {
    let mut bytes = Frame::Step(sample_step()).encode();
    let pages_at = HEADER_BYTES + 8 + 5 * 4 + 2;
    put(&mut bytes, pages_at, limits::SEGMENT_PAGES_MAX);
    assert_eq!(
        read(&bytes).unwrap_err(),
        FrameError::Tables("before their last entry")
    );
    put(&mut bytes, pages_at, u32::MAX);
    assert!(matches!(
        read(&bytes).unwrap_err(),
        FrameError::Cap { field: "pages", .. }
    ));
}

#[test]
fn every_truncation_is_an_error() {
    let others = [rows_frame(), Frame::Samples(vectors_frame())];
    let masks = [mask_frame(Some(vec![1, 2])), mask_frame(None)];
    for frame in exchange_frames().into_iter().chain(others).chain(masks) {
        let bytes = frame.encode();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut} of {frame:?}");
        }
    }
}

#[test]
fn a_segment_without_rows_is_refused() {
    let mut step = sample_step();
    step.segments[1].rows = 0;
    step.tokens.pop();
    assert!(read(&Frame::Step(step).encode()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        kind in 0usize..7,
        noise in proptest::collection::vec((0usize..200, any::<u8>()), 1..8),
    ) {
        let others = [rows_frame(), Frame::Samples(vectors_frame()), mask_frame(Some(vec![5, 0, 6]))];
        let frame = exchange_frames().into_iter().chain(others).nth(kind).unwrap();
        let mut bytes = frame.encode();
        for (at, value) in noise {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        if let Ok(frame) = read(&bytes) {
            // NaN rows compare unequal to themselves, so compare the wire form.
            prop_assert_eq!(frame.encode().len(), bytes.len());
        }
    }
}

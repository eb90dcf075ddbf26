//! Data-plane frames: a fixed header, tables, then raw rows.
//!
//! ```text
//! offset size field
//!      0    1 version            1
//!      1    1 kind               1 step, 2 rows, 3 samples, 4 close, 5 fault, 6 experts, 7 partials, 8 head, 9 logits,
//!                               10 mask
//!      2    1 dtype              0 none, 1 f32 (little-endian), 2 q8_0, 3 q8_k (activations as the kernels take them)
//!      3    1 class              0 decode, 1 prefill
//!      4    4 layer              first layer that the rows are the input of; of the experts
//!      8    8 epoch              of the plan that made the frame
//!     16    8 step               0 where the frame belongs to no step
//!     24    4 position           first position of the first segment; number of a request within its step and layer;
//!                               of the token that a mask is for
//!     28    4 rows               rows in the body, or of the step
//!     32    4 cols               values per row; 0 without a body
//!     36    4 segments           entries of the row-to-sequence table, samples or sequences
//!     40    4 meta_bytes         tables
//!     44    4 body_bytes         rows * bytes of a row of cols values in dtype
//! ```
//! All numbers are little-endian. A header is checked before anything is allocated for what follows it; the
//! tables are checked before the rows are believed. Receiving a frame twice is harmless: it names its step.

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Epoch, SequenceId, StepId};
use crate::limits;
use crate::step::{Pooled, Sampled, Step, StepClass};

mod exchange;
mod mask;

pub use exchange::{Asked, Dtype, ExpertsFrame, HeadFrame, LogitsFrame, PartialsFrame};
pub use mask::MaskFrame;

/// The version that this program speaks.
pub const FRAME_VERSION: u8 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 48;

/// The fixed header as it lies on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub version: u8,
    pub kind: u8,
    pub dtype: u8,
    pub class: u8,
    pub layer: U32,
    pub epoch: U64,
    pub step: U64,
    pub position: U32,
    pub rows: U32,
    pub cols: U32,
    pub segments: U32,
    pub meta_bytes: U32,
    pub body_bytes: U32,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Coordinator to stage 0: run these tokens.
    Step,
    /// Stage to stage: the residual stream of a step.
    Rows,
    /// Last stage to coordinator: the tokens drawn by a step (none for a prompt chunk in the middle), and the vectors
    /// of prompts that were pooled and ended in it.
    Samples,
    /// Along the pipeline: forget these sequences.
    Close,
    /// Any stage to coordinator: a step could not be run. An owner to a stage: a request could not be served.
    Fault,
    /// Stage to an owner of expert groups: rows that need them.
    Experts,
    /// Back: partial sums.
    Partials,
    /// Last stage to an owner of head blocks: rows that want logits.
    Head,
    /// Back: logits.
    Logits,
    /// Coordinator to the last stage: what may be drawn.
    Mask,
}

impl FrameKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            FrameKind::Step => 1,
            FrameKind::Rows => 2,
            FrameKind::Samples => 3,
            FrameKind::Close => 4,
            FrameKind::Fault => 5,
            FrameKind::Experts => 6,
            FrameKind::Partials => 7,
            FrameKind::Head => 8,
            FrameKind::Logits => 9,
            FrameKind::Mask => 10,
        }
    }

    /// The forms in which its rows may come; none where it has no rows.
    fn dtypes(self) -> &'static [Dtype] {
        match self {
            FrameKind::Rows | FrameKind::Partials | FrameKind::Logits => &[Dtype::F32],
            FrameKind::Experts | FrameKind::Head => &[Dtype::F32, Dtype::Q8_0, Dtype::Q8K],
            FrameKind::Samples => &[Dtype::None, Dtype::F32],
            FrameKind::Step | FrameKind::Close | FrameKind::Fault | FrameKind::Mask => {
                &[Dtype::None]
            }
        }
    }

    /// Most rows, and most values of a row.
    fn shape_max(self) -> (u32, u32) {
        match self {
            FrameKind::Experts => (limits::EXPERT_ROWS_MAX, limits::ROW_VALUES_MAX),
            FrameKind::Head => (limits::HEAD_ROWS_MAX, limits::ROW_VALUES_MAX),
            FrameKind::Logits => (limits::HEAD_ROWS_MAX, limits::LOGITS_MAX),
            FrameKind::Samples => (limits::STEP_SEGMENTS_MAX, limits::ROW_VALUES_MAX),
            _ => (limits::STEP_ROWS_MAX, limits::ROW_VALUES_MAX),
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => FrameKind::Step,
            2 => FrameKind::Rows,
            3 => FrameKind::Samples,
            4 => FrameKind::Close,
            5 => FrameKind::Fault,
            6 => FrameKind::Experts,
            7 => FrameKind::Partials,
            8 => FrameKind::Head,
            9 => FrameKind::Logits,
            10 => FrameKind::Mask,
            _ => return None,
        })
    }
}

/// The stream that a frame travels on, in the order of priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamClass {
    /// Steps of decoding, and what is about no step.
    Decode,
    /// What the owners of expert groups and head blocks are asked in such steps, and answer.
    Expert,
    /// All of prompt chunks.
    Prefill,
}

/// A frame in memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Coordinator to stage 0.
    Step(Step),
    /// Stage to stage.
    Rows(RowsFrame),
    /// Last stage to coordinator.
    Samples(SamplesFrame),
    /// Along the pipeline.
    Close(CloseFrame),
    /// Any stage to coordinator, an owner to a stage.
    Fault(FaultFrame),
    /// Stage to an owner of expert groups.
    Experts(ExpertsFrame),
    /// Back.
    Partials(PartialsFrame),
    /// Last stage to an owner of head blocks.
    Head(HeadFrame),
    /// Back.
    Logits(LogitsFrame),
    /// Coordinator to the last stage.
    Mask(MaskFrame),
}

/// The residual stream of a step between two stages.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsFrame {
    /// The step that the rows belong to.
    pub step: Step,
    /// First layer that the rows are the input of.
    pub layer: u32,
    /// Values per row.
    pub cols: u32,
    /// `[rows][cols]`.
    pub rows: Vec<f32>,
}

/// Tokens drawn by a step, and vectors of prompts that ended in it.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplesFrame {
    /// The step's epoch.
    pub epoch: Epoch,
    /// The step that is done.
    pub step: StepId,
    /// One entry per row that wanted logits, in row order.
    pub samples: Vec<Sampled>,
    /// One entry per pooled prompt that ended in the step, in row order; all of one length, at least 1.
    pub vectors: Vec<Pooled>,
}

/// Sequences that are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// The epoch they ran in.
    pub epoch: Epoch,
    /// Whose cache is free.
    pub sequences: Vec<SequenceId>,
}

/// A step that could not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultFrame {
    /// The step's epoch.
    pub epoch: Epoch,
    /// The step that failed.
    pub step: StepId,
    /// What failed, on which device, what to do.
    pub text: String,
}

/// A header that passed its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameKind,
    /// How the rows are stored.
    pub dtype: Dtype,
    /// Class of the step.
    pub class: StepClass,
    /// First layer that the rows are the input of.
    pub layer: u32,
    /// Epoch of the plan.
    pub epoch: Epoch,
    /// The step.
    pub step: StepId,
    /// First position of the first segment.
    pub position: u32,
    /// Rows of the step.
    pub rows: u32,
    /// Values per row.
    pub cols: u32,
    /// Entries of the first table.
    pub segments: u32,
    /// Bytes of tables that follow.
    pub meta_bytes: u32,
    /// Bytes of rows that follow the tables.
    pub body_bytes: u32,
}

/// A frame that is not what it says, or says what it must not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A field holds a value that no frame may have.
    #[error("frame field '{field}' is {got}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What came.
        got: u64,
        /// What was expected.
        expected: &'static str,
    },
    /// A field is above its cap.
    #[error("frame field '{field}' is {got}, at most {max} is accepted")]
    Cap {
        /// The field.
        field: &'static str,
        /// What came.
        got: u64,
        /// The cap.
        max: u64,
    },
    /// Two lengths contradict each other.
    #[error("frame says {got} for '{field}', its tables say {expected}")]
    Contradiction {
        /// The field.
        field: &'static str,
        /// What the header says.
        got: u64,
        /// What the tables add up to.
        expected: u64,
    },
    /// The tables end early or late.
    #[error("frame tables end {0}")]
    Tables(&'static str),
}

fn cap(field: &'static str, got: u32, max: u32) -> Result<u32, FrameError> {
    if got > max {
        return Err(FrameError::Cap {
            field,
            got: got.into(),
            max: max.into(),
        });
    }
    Ok(got)
}

impl FrameHeader {
    /// Checks a header: version, kind, caps, and that the body has the length of its rows.
    ///
    /// # Errors
    /// The field that is wrong, what came and what was expected.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let raw = RawHeader::read_from_bytes(bytes)
            .map_err(|_| FrameError::Tables("inside the header"))?;
        let field = |field, got: u8, expected| FrameError::Field {
            field,
            got: got.into(),
            expected,
        };
        if raw.version != FRAME_VERSION {
            return Err(field(
                "version",
                raw.version,
                "1: both programs need the same version of Hearth",
            ));
        }
        let kind =
            FrameKind::from_code(raw.kind).ok_or_else(|| field("kind", raw.kind, "1 to 10"))?;
        let class = match raw.class {
            0 => StepClass::Decode,
            1 => StepClass::Prefill,
            other => return Err(field("class", other, "0 or 1")),
        };
        let dtype = Dtype::from_code(raw.dtype)
            .filter(|dtype| kind.dtypes().contains(dtype))
            .ok_or_else(|| field("dtype", raw.dtype, "a form that this kind may have"))?;
        let (rows_max, cols_max) = kind.shape_max();
        let header = Self {
            kind,
            dtype,
            class,
            layer: cap("layer", raw.layer.get(), limits::LAYERS_MAX)?,
            epoch: Epoch(raw.epoch.get()),
            step: StepId(raw.step.get()),
            position: cap(
                "position",
                raw.position.get(),
                limits::SEQUENCE_POSITIONS_MAX,
            )?,
            rows: cap("rows", raw.rows.get(), rows_max)?,
            cols: cap("cols", raw.cols.get(), cols_max)?,
            segments: cap("segments", raw.segments.get(), limits::CLOSE_SEQUENCES_MAX)?,
            meta_bytes: cap(
                "meta_bytes",
                raw.meta_bytes.get(),
                limits::FRAME_META_BYTES_MAX,
            )?,
            body_bytes: cap(
                "body_bytes",
                raw.body_bytes.get(),
                limits::FRAME_BODY_BYTES_MAX,
            )?,
        };
        let row_bytes = dtype.row_bytes(header.cols).ok_or(FrameError::Field {
            field: "cols",
            got: header.cols.into(),
            expected: "whole blocks of the dtype",
        })?;
        let expected = u64::from(header.rows) * row_bytes;
        if u64::from(header.body_bytes) != expected {
            return Err(FrameError::Contradiction {
                field: "body_bytes",
                got: header.body_bytes.into(),
                expected,
            });
        }
        Ok(header)
    }

    /// Bytes that follow the header on the wire; bounded by the caps.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.meta_bytes as usize + self.body_bytes as usize
    }
}

impl Frame {
    /// The wire form: header, tables, rows.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        crate::frame_codec::encode(self)
    }

    /// Checks and takes apart what followed a header.
    ///
    /// # Errors
    /// When the payload has another length than the header says, when the tables contradict the header or a cap,
    /// or when a value is one that no frame may have.
    pub fn decode(header: &FrameHeader, payload: &[u8]) -> Result<Self, FrameError> {
        crate::frame_codec::decode(header, payload)
    }

    /// The epoch that made the frame.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Frame::Step(step) => step.epoch,
            Frame::Rows(rows) => rows.step.epoch,
            Frame::Samples(samples) => samples.epoch,
            Frame::Close(close) => close.epoch,
            Frame::Fault(fault) => fault.epoch,
            Frame::Experts(experts) => experts.asked.epoch,
            Frame::Partials(partials) => partials.asked.epoch,
            Frame::Head(head) => head.asked.epoch,
            Frame::Logits(logits) => logits.asked.epoch,
            Frame::Mask(mask) => mask.epoch,
        }
    }

    /// The stream it belongs on. All of prompt chunks uses the prefill stream, so that it delays no decoding.
    #[must_use]
    pub fn class(&self) -> StreamClass {
        let (class, of_decode) = match self {
            Frame::Step(step) => (step.class, StreamClass::Decode),
            Frame::Rows(rows) => (rows.step.class, StreamClass::Decode),
            Frame::Samples(_) | Frame::Close(_) | Frame::Fault(_) | Frame::Mask(_) => {
                (StepClass::Decode, StreamClass::Decode)
            }
            Frame::Experts(experts) => (experts.asked.class, StreamClass::Expert),
            Frame::Partials(partials) => (partials.asked.class, StreamClass::Expert),
            Frame::Head(head) => (head.asked.class, StreamClass::Expert),
            Frame::Logits(logits) => (logits.asked.class, StreamClass::Expert),
        };
        match class {
            StepClass::Decode => of_decode,
            StepClass::Prefill => StreamClass::Prefill,
        }
    }
}

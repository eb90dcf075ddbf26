//! What stages and the owners of expert groups and head blocks send each other, and the forms of rows.

use crate::groups::GroupSet;
use crate::ids::{Epoch, StepId};
use crate::step::StepClass;

/// How the rows of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    non_camel_case_types,
    reason = "the names by which everybody knows the formats"
)]
pub enum Dtype {
    /// There are no rows.
    None,
    /// Little-endian 32-bit floats.
    F32,
    /// Blocks of 32 values: a 32-bit float, 32 bytes.
    Q8_0,
    /// Blocks of 256 values: a 32-bit float, 256 bytes, 16 sums of 16 bits.
    Q8K,
}

impl Dtype {
    pub(crate) fn code(self) -> u8 {
        match self {
            Dtype::None => 0,
            Dtype::F32 => 1,
            Dtype::Q8_0 => 2,
            Dtype::Q8K => 3,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Dtype::None, Dtype::F32, Dtype::Q8_0, Dtype::Q8K]
            .into_iter()
            .find(|dtype| dtype.code() == code)
    }

    /// Bytes of a row of `cols` values; None where that is no whole number of blocks.
    #[must_use]
    pub fn row_bytes(self, cols: u32) -> Option<u64> {
        let (values, bytes) = match self {
            Dtype::None => (1, 0),
            Dtype::F32 => (1, 4),
            Dtype::Q8_0 => (32, 36),
            Dtype::Q8K => (256, 292),
        };
        cols.is_multiple_of(values)
            .then(|| u64::from(cols / values) * bytes)
    }
}

/// What a request to an owner, and its answer, belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The step's epoch.
    pub epoch: Epoch,
    /// The step.
    pub step: StepId,
    /// Its class.
    pub class: StepClass,
    /// The layer whose experts are asked; the number of layers for the head.
    pub layer: u32,
    /// The request's number within step and layer: for experts counted for each owner from 0, for the head the first
    /// of its rows among those that want logits.
    pub part: u32,
}

/// Rows that need expert groups of their owner.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsFrame {
    /// What it belongs to.
    pub asked: Asked,
    /// How the rows are stored.
    pub dtype: Dtype,
    /// Values per row.
    pub cols: u32,
    /// For each row its number in the step and how many of its experts follow.
    pub rows: Vec<(u32, u32)>,
    /// The experts of all rows with their weights, ascending inside a row.
    pub experts: Vec<(u32, f32)>,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
}

/// Partial sums of expert groups.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialsFrame {
    /// The request that it answers.
    pub asked: Asked,
    /// For each partial row the row of the step, and the subtree of groups that it sums.
    pub entries: Vec<(u32, u32)>,
    /// Values per row.
    pub cols: u32,
    /// `[entries][cols]`.
    pub values: Vec<f32>,
}

/// Normed rows that want logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadFrame {
    /// What it belongs to.
    pub asked: Asked,
    /// How the rows are stored.
    pub dtype: Dtype,
    /// Values per row.
    pub cols: u32,
    /// How many rows there are.
    pub rows: u32,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
}

/// Logits of head blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitsFrame {
    /// The request that it answers.
    pub asked: Asked,
    /// The blocks.
    pub blocks: GroupSet,
    /// How many rows there are.
    pub rows: u32,
    /// Logits of one row: all rows of the blocks, ascending.
    pub cols: u32,
    /// `[rows][cols]`.
    pub values: Vec<f32>,
}

//! The rows of one tensor, quantised by several threads and written in order.
//!
//! A tensor is cut into pieces of whole rows by its shape alone, and the pieces' errors are added in their order, so that
//! neither bytes nor figures depend on the threads. Some pieces are in memory at a time, never a whole tensor.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::anyhow;
use kernels::{Isa, WeightType, dequantize_row, quantize_row};
use model::{DType, ExportTensor};

use super::mix::kernel_type;
use super::target::Target;
use crate::Failure;

/// Values of one piece, about: some milliseconds of work.
const PIECE_VALUES: usize = 1 << 16;
/// Pieces between two writes: 16 MiB of weights, about.
const PIECES_AT_ONCE: usize = 256;

/// Squares of errors and of values, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Squares {
    /// Of the differences between stored and true values.
    pub(super) error: f64,
    /// Of the true values.
    pub(super) value: f64,
}

impl Squares {
    /// Adds another sum.
    pub(super) fn add(&mut self, other: Self) {
        self.error += other.error;
        self.value += other.value;
    }

    /// Root mean square of the error by that of the values; 0 for values of zero.
    pub(super) fn relative(&self) -> f64 {
        if self.value > 0.0 {
            (self.error / self.value).sqrt()
        } else {
            0.0
        }
    }
}

/// Quantises one tensor.
pub(super) struct Quantiser<'t, 'a> {
    tensor: &'t ExportTensor<'a>,
    ty: WeightType,
    isa: Isa,
    row_bytes: usize,
    rows_a_piece: usize,
    threads: usize,
}

/// A piece while it is made.
struct Piece<'o> {
    rows: Range<usize>,
    out: &'o mut [u8],
    squares: Squares,
    /// A row that is not finite, before or after.
    odd_row: Option<usize>,
}

impl<'t, 'a> Quantiser<'t, 'a> {
    /// Prepares `tensor` for being stored as `ty`.
    ///
    /// # Errors
    /// Its rows are no whole blocks of this type.
    pub(super) fn new(
        tensor: &'t ExportTensor<'a>,
        ty: DType,
        threads: usize,
    ) -> Result<Self, Failure> {
        let ty = kernel_type(ty);
        let cols = tensor.cols();
        let row_bytes = ty.row_bytes(cols).filter(|bytes| *bytes > 0);
        let row_bytes = row_bytes.ok_or_else(|| {
            anyhow!(
                "tensor `{}`: rows of {cols} values are no whole blocks of {ty}",
                tensor.name
            )
        })?;
        Ok(Self {
            tensor,
            ty,
            isa: Isa::detect(),
            row_bytes,
            rows_a_piece: (PIECE_VALUES / cols.max(1)).max(1),
            threads,
        })
    }

    /// Writes all rows from byte `start` of the file on; gives what was lost.
    ///
    /// # Errors
    /// A value is not finite or beyond the type's range, or the file cannot be written.
    pub(super) fn write(&self, start: u64, target: &mut Target) -> Result<Squares, Failure> {
        let rows = self.tensor.rows();
        let window = self.rows_a_piece.saturating_mul(PIECES_AT_ONCE);
        let mut out = vec![0u8; window.min(rows).saturating_mul(self.row_bytes)];
        let (mut at, mut first, mut total) = (start, 0, Squares::default());
        while first < rows {
            let count = window.min(rows - first);
            let len = count.saturating_mul(self.row_bytes);
            let Some(out) = out.get_mut(..len) else { break };
            let pieces = self.pieces(first, out);
            for piece in self.make(pieces) {
                if let Some(row) = piece.odd_row {
                    return Err(self.not_finite(row));
                }
                total.add(piece.squares);
            }
            target.put(at, out)?;
            at = at.saturating_add(len as u64);
            first += count;
        }
        Ok(total)
    }

    fn pieces<'o>(&self, first: usize, out: &'o mut [u8]) -> Vec<Piece<'o>> {
        let chunks = out.chunks_mut(self.rows_a_piece.saturating_mul(self.row_bytes));
        let starts = (first..).step_by(self.rows_a_piece);
        starts
            .zip(chunks)
            .map(|(start, out)| Piece {
                rows: start..start + out.len() / self.row_bytes,
                out,
                squares: Squares::default(),
                odd_row: None,
            })
            .collect()
    }

    /// Makes all pieces, whichever thread gets to which; gives them back in order.
    fn make<'o>(&self, pieces: Vec<Piece<'o>>) -> Vec<Piece<'o>> {
        let next = AtomicUsize::new(0);
        let pieces: Vec<Mutex<Piece<'o>>> = pieces.into_iter().map(Mutex::new).collect();
        let work = || {
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut piece = piece.lock().unwrap_or_else(|broken| broken.into_inner());
                self.make_one(&mut piece);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(pieces.len()) {
                scope.spawn(work);
            }
            work();
        });
        pieces
            .into_iter()
            .map(|piece| {
                piece
                    .into_inner()
                    .unwrap_or_else(|broken| broken.into_inner())
            })
            .collect()
    }

    fn make_one(&self, piece: &mut Piece<'_>) {
        let mut values = vec![0f32; self.tensor.cols()];
        let mut stored = values.clone();
        let rows = piece.rows.clone();
        for (row, out) in rows.zip(piece.out.chunks_exact_mut(self.row_bytes)) {
            let read = self.tensor.read_row(row, &mut values);
            if !read || !values.iter().all(|value| value.is_finite()) {
                piece.odd_row = Some(row);
                return;
            }
            quantize_row(self.isa, self.ty, &values, out);
            dequantize_row(self.ty, out, &mut stored);
            let squares = squares(&values, &stored);
            if !squares.error.is_finite() {
                piece.odd_row = Some(row);
                return;
            }
            piece.squares.add(squares);
        }
    }

    fn not_finite(&self, row: usize) -> Failure {
        Failure::Failed(anyhow!(
            "tensor `{}`: row {row} has a value that is infinite, no number or too large for {}; \
             the source is damaged, fetch it again",
            self.tensor.name,
            self.ty
        ))
    }
}

fn squares(values: &[f32], stored: &[f32]) -> Squares {
    let mut total = Squares::default();
    for (value, stored) in values.iter().zip(stored) {
        let (value, stored) = (f64::from(*value), f64::from(*stored));
        total.add(Squares {
            error: (value - stored) * (value - stored),
            value: value * value,
        });
    }
    total
}

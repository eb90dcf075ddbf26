//! The storage formats of weights and a checked view of one weight matrix.
//!
//! Owns what a stored row looks like: block lengths, block bytes, row bytes, and which activation format
//! the dot product of a type consumes. Never copies or repacks weights: a matrix is a borrowed slice of
//! the file, at any alignment. All numbers are little-endian, as in the files.

use std::fmt;
use std::ops::Range;

use crate::{ActFormat, KernelError};

/// Values in one super-block of the K formats.
pub(crate) const SUPER: usize = 256;

/// How the values of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    non_camel_case_types,
    reason = "the names by which everybody knows the formats"
)]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper halves of 32-bit floats.
    BF16,
    /// Blocks of 32: `f16 d; i8 q[32]`; a value is `d * q`.
    Q8_0,
    /// Blocks of 32: `f16 d; u8 nibbles[16]`; a value is `d * (q - 8)`.
    Q4_0,
    /// Blocks of 256 in 8 sub-blocks with 6-bit scales and mins: `f16 d, dmin; scales[12]; qs[128]`.
    Q4K,
    /// As [`WeightType::Q4K`] with a fifth bit for each value: `f16 d, dmin; scales[12]; qh[32]; qs[128]`.
    Q5K,
    /// Blocks of 256 in 16 sub-blocks with 8-bit scales: `ql[128]; qh[64]; i8 scales[16]; f16 d`.
    Q6K,
}

impl WeightType {
    /// Every type.
    pub const ALL: [WeightType; 8] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::BF16,
        WeightType::Q8_0,
        WeightType::Q4_0,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
    ];

    /// Values that are stored together; a row is a whole number of blocks.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => 1,
            WeightType::Q8_0 | WeightType::Q4_0 => 32,
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => SUPER,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::BF16 => 2,
            WeightType::Q8_0 => 34,
            WeightType::Q4_0 => 18,
            WeightType::Q4K => 144,
            WeightType::Q5K => 176,
            WeightType::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` values; `None` if that is no whole number of blocks or cannot be addressed.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The format of the activations that the dot product of this type consumes.
    #[must_use]
    pub const fn act_format(self) -> ActFormat {
        match self {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => ActFormat::F32,
            WeightType::Q8_0 | WeightType::Q4_0 => ActFormat::Q8_0,
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => ActFormat::Q8K,
        }
    }

    /// The usual name, as printed by tools.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "F32",
            WeightType::F16 => "F16",
            WeightType::BF16 => "BF16",
            WeightType::Q8_0 => "Q8_0",
            WeightType::Q4_0 => "Q4_0",
            WeightType::Q4K => "Q4_K",
            WeightType::Q5K => "Q5_K",
            WeightType::Q6K => "Q6_K",
        }
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A borrowed weight matrix `[rows, cols]`, row-major, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// How the values are stored.
    pub ty: WeightType,
    /// Output width: one row gives one output value.
    pub rows: usize,
    /// Input width, a whole number of blocks.
    pub cols: usize,
    /// `rows * row_bytes` bytes.
    pub bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Wraps stored bytes.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `cols` is no whole number of blocks, [`KernelError::Length`] if `bytes` has
    /// another length than the shape needs.
    pub fn new(
        ty: WeightType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, KernelError> {
        let shape = KernelError::Shape {
            what: "weight matrix",
            got: cols,
            block: ty.block_len(),
        };
        let row = ty.row_bytes(cols).ok_or(shape)?;
        let expected = row.saturating_mul(rows);
        if bytes.len() != expected {
            return Err(KernelError::Length {
                what: "weight matrix",
                got: bytes.len(),
                expected,
            });
        }
        Ok(Matrix {
            ty,
            rows,
            cols,
            bytes,
        })
    }

    /// Stored bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_len() * self.ty.block_bytes()
    }

    /// The stored bytes of row `index`.
    #[must_use]
    pub fn row(&self, index: usize) -> &'a [u8] {
        let bytes = self.row_bytes();
        &self.bytes[index * bytes..(index + 1) * bytes]
    }

    /// The matrix made of some of the rows.
    #[must_use]
    pub fn slice_rows(&self, rows: Range<usize>) -> Matrix<'a> {
        let bytes = self.row_bytes();
        Matrix {
            rows: rows.len(),
            bytes: &self.bytes[rows.start * bytes..rows.end * bytes],
            ..*self
        }
    }
}

/// The f32 of equal value; subnormals, infinities and NaN included.
#[must_use]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    let magnitude = match exponent {
        // 2^-24 times a small integer is exact.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 if fraction == 0 => 0x7f80_0000,
        31 => 0x7fc0_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The f32 whose upper half this is.
#[must_use]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        for ty in WeightType::ALL {
            let cols = ty.block_len() * 2;
            let bytes = vec![0u8; ty.block_bytes() * 2 * 3];
            assert!(Matrix::new(ty, 3, cols, &bytes).is_ok(), "{ty}");
            assert!(
                matches!(
                    Matrix::new(ty, 3, cols, &bytes[1..]),
                    Err(KernelError::Length { .. })
                ),
                "{ty}"
            );
            assert!(Matrix::new(ty, 2, cols, &bytes).is_err(), "{ty}");
            assert!(Matrix::new(ty, usize::MAX, cols, &bytes).is_err(), "{ty}");
        }
        assert_eq!(
            Matrix::new(WeightType::Q4K, 1, 255, &[]).unwrap_err(),
            KernelError::Shape {
                what: "weight matrix",
                got: 255,
                block: 256
            }
        );
    }

    #[test]
    fn rows_are_found() {
        let bytes: Vec<u8> = (0..40).collect();
        let w = Matrix::new(WeightType::F32, 5, 2, &bytes).unwrap();
        assert_eq!(w.row(1), &bytes[8..16]);
        assert_eq!(w.slice_rows(2..4).row(1), &bytes[24..32]);
    }

    #[test]
    fn half_floats_widen_exactly() {
        let cases = [
            (0x0000u16, 0.0f32),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in cases {
            assert_eq!(f16_to_f32(bits).to_bits(), value.to_bits(), "{bits:#06x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
        assert_eq!(bf16_to_f32(0x3f80), 1.0);
    }
}

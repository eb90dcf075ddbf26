//! Activation rows in the form that dot products consume, which is also their form on the wire.
//!
//! Owns the quantisation of activations and the check of rows that come from elsewhere. The scalar block
//! quantiser here is the definition; the vector forms give the same bytes.
//!
//! A block of `Q8_0` is `f32 d; i8 q[32]` (36 bytes), one of `Q8K` is `f32 d; i8 q[256]; i16 sums[16]` (292
//! bytes, each sum over 16 neighbours). `d = amax / 127` and `q = x * (127 / amax)` rounded to even, so `q` lies
//! in `-127..=127`: the vector dots rely on -128 never occurring. A NaN in a block makes its `d` NaN.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::weight::SUPER;
use crate::{Isa, KernelError, Pool, parallel_chunks};

/// Bytes of a [`ActFormat::Q8_0`] block.
pub(crate) const Q8_0_BYTES: usize = 36;
/// Bytes of a [`ActFormat::Q8K`] block.
pub(crate) const Q8K_BYTES: usize = 292;
/// Where the sums of a [`ActFormat::Q8K`] block begin.
pub(crate) const Q8K_SUMS: usize = 4 + SUPER;

/// Values in one unit of parallel quantisation: whole blocks of every format.
const PARALLEL_VALUES: usize = 8192;

/// What a dot product takes on the activation side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    non_camel_case_types,
    reason = "the names by which everybody knows the formats"
)]
pub enum ActFormat {
    /// Plain f32, for float weights.
    F32,
    /// Blocks of 32 in eight bits, for 32-value weight blocks.
    Q8_0,
    /// Blocks of 256 in eight bits with sums, for K formats.
    Q8K,
}

impl ActFormat {
    /// Values in a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            ActFormat::F32 => 1,
            ActFormat::Q8_0 => 32,
            ActFormat::Q8K => SUPER,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            ActFormat::F32 => 4,
            ActFormat::Q8_0 => Q8_0_BYTES,
            ActFormat::Q8K => Q8K_BYTES,
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
}

/// Rows of activations in one format. The buffer is reused: after the first use of a size nothing is allocated.
#[derive(Debug, Clone)]
pub struct Acts {
    format: ActFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Default for Acts {
    fn default() -> Self {
        Acts::new()
    }
}

impl Acts {
    /// No rows yet.
    #[must_use]
    pub fn new() -> Self {
        Acts {
            format: ActFormat::F32,
            rows: 0,
            cols: 0,
            bytes: Vec::new(),
        }
    }

    /// Replaces the rows by `x`, `[x.len() / cols, cols]` row-major, quantised to `format`.
    ///
    /// # Panics
    /// If `cols` is no whole number of blocks, `x` no whole number of rows, or `isa` cannot run here.
    pub fn quantize(&mut self, isa: Isa, format: ActFormat, x: &[f32], cols: usize) {
        self.reshape(isa, format, x, cols);
        quantize_blocks(isa, format, x, &mut self.bytes);
    }

    /// As [`Acts::quantize`], as one parallel region if there is enough to do; the bytes are the same.
    ///
    /// # Panics
    /// As [`Acts::quantize`].
    pub fn quantize_parallel(
        &mut self,
        pool: &Pool,
        isa: Isa,
        format: ActFormat,
        x: &[f32],
        cols: usize,
    ) {
        self.reshape(isa, format, x, cols);
        let chunk_bytes = PARALLEL_VALUES / format.block_len() * format.block_bytes();
        parallel_chunks(pool, &mut self.bytes, chunk_bytes, |index, out| {
            let x = &x[index * PARALLEL_VALUES..];
            quantize_blocks(isa, format, x, out);
        });
    }

    /// Makes room for the rows of `x`, after the checks.
    fn reshape(&mut self, isa: Isa, format: ActFormat, x: &[f32], cols: usize) {
        assert!(isa.available(), "{isa} kernels on a processor without it");
        let block_len = format.block_len();
        assert!(
            cols > 0 && cols.is_multiple_of(block_len) && x.len().is_multiple_of(cols),
            "{} values in rows of {cols} and blocks of {block_len}",
            x.len()
        );
        self.format = format;
        self.rows = x.len() / cols;
        self.cols = cols;
        let len = x.len() / block_len * format.block_bytes();
        if self.bytes.capacity() < len {
            // New pages are zero as they come: the threads that write first touch them, each its own.
            self.bytes = vec![0; len];
        } else {
            self.bytes.resize(len, 0);
        }
    }

    /// Rows that came in wire form.
    ///
    /// # Errors
    /// [`KernelError`] if the length does not fit the shape, a quant is -128, or sums are not those of the quants.
    pub fn from_bytes(
        format: ActFormat,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Acts, KernelError> {
        let mut acts = Acts::new();
        acts.replace_bytes(format, rows, cols, bytes)?;
        Ok(acts)
    }

    /// As [`Acts::from_bytes`], into this buffer; on an error the old rows stay.
    ///
    /// # Errors
    /// As [`Acts::from_bytes`].
    pub fn replace_bytes(
        &mut self,
        format: ActFormat,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<(), KernelError> {
        let shape = KernelError::Shape {
            what: "activation rows",
            got: cols,
            block: format.block_len(),
        };
        let row = format.row_bytes(cols).filter(|row| *row > 0).ok_or(shape)?;
        let expected = row.saturating_mul(rows);
        if bytes.len() != expected {
            return Err(KernelError::Length {
                what: "activation rows",
                got: bytes.len(),
                expected,
            });
        }
        if let Some(index) = bytes
            .chunks_exact(format.block_bytes())
            .position(|block| !is_sound(format, block))
        {
            return Err(KernelError::Activations {
                row: index * format.block_bytes() / row,
            });
        }
        self.format = format;
        self.rows = rows;
        self.cols = cols;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The format of all rows.
    #[must_use]
    pub fn format(&self) -> ActFormat {
        self.format
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes of row `index`, in wire form.
    #[must_use]
    pub fn row_bytes(&self, index: usize) -> &[u8] {
        let bytes = self.cols / self.format.block_len() * self.format.block_bytes();
        &self.bytes[index * bytes..(index + 1) * bytes]
    }

    /// All rows one after the other, in wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether a block from elsewhere keeps what the quantiser promises.
fn is_sound(format: ActFormat, block: &[u8]) -> bool {
    match format {
        ActFormat::F32 => true,
        ActFormat::Q8_0 => !block[4..].contains(&0x80),
        ActFormat::Q8K => {
            let (quants, sums) = block[4..].split_at(SUPER);
            !quants.contains(&0x80)
                && quants
                    .chunks_exact(16)
                    .zip(sums.chunks_exact(2))
                    .all(|(q, s)| group_sum(q).to_le_bytes() == [s[0], s[1]])
        }
    }
}

fn group_sum(quants: &[u8]) -> i16 {
    quants.iter().map(|q| i16::from(q.cast_signed())).sum()
}

/// Quantises whole blocks; the processor has been asked for `isa`.
fn quantize_blocks(isa: Isa, format: ActFormat, x: &[f32], out: &mut [u8]) {
    let blocks = x
        .chunks_exact(format.block_len())
        .zip(out.chunks_exact_mut(format.block_bytes()));
    match (format, isa) {
        (ActFormat::F32, _) => {
            for (x, out) in blocks {
                out.copy_from_slice(&x[0].to_le_bytes());
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the callers checked that the processor has this instruction set.
        #[allow(unsafe_code, reason = "calls a kernel built for more features")]
        (ActFormat::Q8_0, Isa::Avx512) => unsafe { avx512::quantize_q8_0(x, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the callers checked that the processor has this instruction set.
        #[allow(unsafe_code, reason = "calls a kernel built for more features")]
        (ActFormat::Q8K, Isa::Avx512) => unsafe { avx512::quantize_q8k(x, out) },
        (ActFormat::Q8_0, _) => blocks.for_each(|(x, out)| {
            let (d, quants) = out.split_at_mut(4);
            d.copy_from_slice(&quantize_block(isa, x, quants).to_le_bytes());
        }),
        (ActFormat::Q8K, _) => blocks.for_each(|(x, out)| {
            let (d, rest) = out.split_at_mut(4);
            let (quants, sums) = rest.split_at_mut(SUPER);
            d.copy_from_slice(&quantize_block(isa, x, quants).to_le_bytes());
            for (q, s) in quants.chunks_exact(16).zip(sums.chunks_exact_mut(2)) {
                s.copy_from_slice(&group_sum(q).to_le_bytes());
            }
        }),
    }
}

/// Quantises one block (a multiple of 32 values) and returns its `d`.
fn quantize_block(isa: Isa, x: &[f32], quants: &mut [u8]) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Acts::quantize` checked that the processor has this instruction set.
        #[allow(unsafe_code, reason = "calls a kernel built for more features")]
        Isa::Avx2 => unsafe { avx2::quantize_block(x, quants) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `Acts::quantize` checked that the processor has NEON.
        #[allow(unsafe_code, reason = "calls a kernel built for more features")]
        Isa::Neon => unsafe { neon::quantize_block(x, quants) },
        _ => quantize_block_scalar(x, quants),
    }
}

/// The bits above which a magnitude is NaN.
const INFINITY_BITS: u32 = f32::INFINITY.to_bits();

fn quantize_block_scalar(x: &[f32], quants: &mut [u8]) -> f32 {
    // Magnitudes are ordered as their bits are. Compilers turn float comparisons into instructions that differ in
    // what they make of NaN.
    let mut amax = 0;
    let mut any_nan = false;
    for v in x {
        let magnitude = v.abs().to_bits();
        any_nan |= magnitude > INFINITY_BITS;
        amax = amax.max(if magnitude > INFINITY_BITS {
            0
        } else {
            magnitude
        });
    }
    let amax = f32::from_bits(amax);
    let inverse = 127.0 / amax;
    for (v, q) in x.iter().zip(quants) {
        *q = level(v * inverse);
    }
    scale(amax, any_nan)
}

/// The `d` of a block.
fn scale(amax: f32, any_nan: bool) -> f32 {
    if any_nan { f32::NAN } else { amax / 127.0 }
}

/// Nearest integer in -127..=127, ties to even; 0 for NaN, which `0 * (127 / 0)` gives in a block of zeros.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the value is clamped, and the cast turns NaN into 0"
)]
fn level(scaled: f32) -> u8 {
    (scaled.clamp(-127.0, 127.0).round_ties_even() as i8).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUANTISED: [ActFormat; 2] = [ActFormat::Q8_0, ActFormat::Q8K];

    fn quantized(isa: Isa, format: ActFormat, x: &[f32], cols: usize) -> Acts {
        let mut acts = Acts::new();
        acts.quantize(isa, format, x, cols);
        acts
    }

    #[test]
    fn levels_round_to_even_and_clamp() {
        let mut x = [0f32; 32];
        x[..6].copy_from_slice(&[127.0, 2.5, 3.5, -2.5, -127.0, 0.5]);
        let acts = quantized(Isa::Scalar, ActFormat::Q8_0, &x, 32);
        let block = acts.row_bytes(0);
        assert_eq!(block[..4], 1f32.to_le_bytes());
        let q: Vec<i8> = block[4..10].iter().map(|q| q.cast_signed()).collect();
        assert_eq!(q, [127, 2, 4, -2, -127, 0]);
    }

    #[test]
    fn blocks_of_zeros_and_huge_blocks_are_sound() {
        for isa in Isa::usable() {
            for format in QUANTISED {
                let cols = format.block_len();
                for value in [0.0f32, -0.0, 1e-45, -1e-40, f32::MAX, f32::INFINITY] {
                    let mut x = vec![0f32; cols];
                    x[3] = value;
                    let acts = quantized(isa, format, &x, cols);
                    assert_eq!(acts.row_bytes(0)[4], 0, "{isa} {value}");
                    assert!(Acts::from_bytes(format, 1, cols, acts.as_bytes()).is_ok());
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_bytes() {
        let x: Vec<f32> = (0..3 * 4096i16)
            .map(|v| f32::from(v % 997) * 0.37 - 100.0)
            .collect();
        for format in [ActFormat::F32, ActFormat::Q8_0, ActFormat::Q8K] {
            let expected = quantized(Isa::Scalar, format, &x, 1536);
            let mut acts = Acts::new();
            acts.quantize_parallel(&Pool::new(2), Isa::detect(), format, &x, 1536);
            assert_eq!(acts.as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn nan_reaches_the_scale() {
        for isa in Isa::usable() {
            for format in QUANTISED {
                let mut x = vec![1f32; format.block_len()];
                x[17] = f32::NAN;
                let acts = quantized(isa, format, &x, x.len());
                assert_eq!(acts.row_bytes(0)[..4], f32::NAN.to_le_bytes(), "{isa}");
                assert_eq!(acts.row_bytes(0)[4], 127, "{isa}");
            }
        }
    }

    #[test]
    fn wire_form_is_checked() {
        for format in [ActFormat::F32, ActFormat::Q8_0, ActFormat::Q8K] {
            let cols = 512;
            let x: Vec<f32> = (0u8..128).cycle().take(1024).map(f32::from).collect();
            let acts = quantized(Isa::Scalar, format, &x, cols);
            let bytes = acts.as_bytes().to_vec();
            let again = Acts::from_bytes(format, 2, cols, &bytes).unwrap();
            assert_eq!(again.row_bytes(1), acts.row_bytes(1));
            assert_eq!((again.rows(), again.cols()), (2, cols));
            assert!(Acts::from_bytes(format, 1, cols, &bytes).is_err());
            assert!(Acts::from_bytes(format, usize::MAX, cols, &bytes).is_err());
            assert!(Acts::from_bytes(format, 2, cols, &bytes[1..]).is_err());
            assert!(Acts::from_bytes(format, 2, 0, &[]).is_err());
        }
        assert!(Acts::from_bytes(ActFormat::Q8K, 1, 32, &[0; 36]).is_err());
    }

    #[test]
    fn quants_that_the_dots_cannot_take_are_refused() {
        for format in QUANTISED {
            let mut bytes = vec![0u8; 2 * format.block_bytes()];
            bytes[format.block_bytes() + 9] = 0x80;
            assert_eq!(
                Acts::from_bytes(format, 2, format.block_len(), &bytes).unwrap_err(),
                KernelError::Activations { row: 1 }
            );
        }
        let mut bytes = vec![0u8; Q8K_BYTES];
        bytes[Q8K_SUMS] = 1;
        assert!(Acts::from_bytes(ActFormat::Q8K, 1, SUPER, &bytes).is_err());
    }

    proptest! {
        #[test]
        fn every_isa_gives_the_same_bytes(
            bits in prop::collection::vec(any::<u32>(), 512),
            spread in prop::collection::vec(-1000i16..1000, 512),
            raw in any::<bool>(),
        ) {
            let x: Vec<f32> = if raw {
                bits.iter().map(|b| f32::from_bits(*b)).collect()
            } else {
                spread.iter().map(|v| f32::from(*v) * 0.013).collect()
            };
            for format in QUANTISED {
                let expected = quantized(Isa::Scalar, format, &x, 512);
                for isa in Isa::usable() {
                    let got = quantized(isa, format, &x, 512);
                    prop_assert_eq!(got.as_bytes(), expected.as_bytes(), "{}", isa);
                }
            }
        }
    }
}

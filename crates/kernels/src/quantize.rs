//! Floats to stored weights: the way back from `dequant`.
//!
//! Owns the choice of scales, nothing else: which tensor gets which type is the caller's. Every block is a function of
//! its own values alone, so rows may be done in any order by any number of threads and the bytes are the same. The one
//! idea: the scales of the K formats are not taken from the largest value but searched for. Each of several scales gives whole numbers, for
//! whole numbers the best scale is known in closed form (weighted least squares), and the pair with the least error wins;
//! afterwards the scales themselves are rounded, and the search is repeated around what the rounding left. Sums are taken
//! in fixed lanes, so the bytes do not depend on the instruction set either.

mod q4k;
mod q6k;
mod q80;

use crate::WeightType;

/// Whether [`quantize_row`] writes `ty`.
#[must_use]
pub const fn can_quantize(ty: WeightType) -> bool {
    !matches!(ty, WeightType::Q4_0 | WeightType::Q5K)
}

kernel! {
    /// Writes the stored form of one row. Values must be finite; one that is beyond what the type can hold becomes the
    /// type's largest or infinite, which reading back shows. The instruction set changes the speed alone.
    ///
    /// # Panics
    /// If `out` is not exactly the storage of `values.len()` values, or `ty` is one that [`can_quantize`] excludes.
    pub fn quantize_row(ty: WeightType, values: &[f32], out: &mut [u8]) = row
}

#[inline(always)]
fn row(ty: WeightType, values: &[f32], out: &mut [u8]) {
    assert!(can_quantize(ty), "a type that can be written, not {ty}");
    assert_eq!(
        ty.row_bytes(values.len()),
        Some(out.len()),
        "stored bytes of {} values of {ty}",
        values.len()
    );
    let blocks = values
        .chunks_exact(ty.block_len())
        .zip(out.chunks_exact_mut(ty.block_bytes()));
    for (values, out) in blocks {
        match ty {
            WeightType::F32 => out.copy_from_slice(&values[0].to_le_bytes()),
            WeightType::F16 => {
                out.copy_from_slice(&half::f16::from_f32(values[0]).to_le_bytes());
            }
            WeightType::BF16 => {
                out.copy_from_slice(&half::bf16::from_f32(values[0]).to_le_bytes());
            }
            WeightType::Q8_0 => q80::block(fixed(values), out),
            WeightType::Q6K => q6k::block(fixed(values), out),
            WeightType::Q4K => q4k::block(fixed(values), out),
            WeightType::Q4_0 | WeightType::Q5K => {}
        }
    }
}

/// A slice of known length.
#[inline(always)]
fn fixed<const N: usize>(values: &[f32]) -> &[f32; N] {
    match values.first_chunk() {
        Some(values) => values,
        None => &[0.0; N],
    }
}

/// The f16 nearest to a scale, kept finite, as its bits and as the f32 that readers see.
fn scale_in_half(scale: f32) -> (u16, f32) {
    let limit = half::f16::MAX.to_f32();
    let half = half::f16::from_f32(scale.clamp(-limit, limit));
    (half.to_bits(), half.to_f32())
}

/// The nearest whole number, ties to even, of anything below 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// Sum of `of` over `0..N`, in eight lanes and a fixed tree, so that compilers may use vectors.
#[inline(always)]
fn sum<const N: usize>(of: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 8];
    for at in (0..N).step_by(8) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += of(at + lane);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// How much the error of each value counts: large weights more, none nothing. Without samples of what a layer is fed,
/// the size of a weight is the best guess at how much it matters.
#[inline(always)]
fn weights<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let level = (sum::<N>(|i| x[i] * x[i]) / N as f32).sqrt();
    let mut weights = [0f32; N];
    for (weight, x) in weights.iter_mut().zip(x) {
        *weight = level + x.abs();
    }
    weights
}

/// A whole number that is known to lie in 0..=255, as a byte.
#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the caller clamped it"
)]
fn byte(x: f32) -> u8 {
    x as u8
}

#[cfg(test)]
mod tests;

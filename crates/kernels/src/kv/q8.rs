//! Rounding of cache rows to one byte a value.
//!
//! Owns the scale of a block and the rounding. It never sees a page. The idea: plain divisions and a rounding that
//! every processor has, so the stored bytes are the same everywhere.

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;

#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "the value was clamped to the range of the type"
)]
fn quantise_body(row: &[f32], out: &mut [i8], scales: &mut [f32]) {
    assert_eq!(row.len(), out.len(), "row of another length");
    assert_eq!(row.len(), scales.len() * BLOCK, "row of broken blocks");
    let blocks = row.as_chunks::<BLOCK>().0.iter();
    let outs = out.as_chunks_mut::<BLOCK>().0.iter_mut();
    for ((block, out), scale) in blocks.zip(outs).zip(scales) {
        let mut most = 0f32;
        for value in block {
            most = if value.abs() > most {
                value.abs()
            } else {
                most
            };
        }
        *scale = most / 127.0;
        // A block of zeros, or of magnitudes so small that their scale vanishes, is stored as zeros.
        let divisor = if *scale > 0.0 { *scale } else { f32::INFINITY };
        for (out, value) in out.iter_mut().zip(block) {
            *out = (value / divisor).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

/// Stores `row` with a scale for every [`BLOCK`] values.
pub(super) fn quantise(row: &[f32], out: &mut [i8], scales: &mut [f32]) {
    quantise_on(crate::Isa::detect(), row, out, scales);
}

kernel! {
    /// [`quantise`] by one instruction set.
    pub(super) fn quantise_on(row: &[f32], out: &mut [i8], scales: &mut [f32]) = quantise_body
}

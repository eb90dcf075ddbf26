//! Stored weights back to floats: embedding rows, and the reference that dot products are checked with.
//!
//! One f32 operation for each step that the formats define, never fused, so the floats equal those of
//! every other reader of these formats.

use crate::WeightType;
use crate::weight::{SUPER, bf16_to_f32, f16_to_f32};

/// The f16 stored at `at`.
pub(crate) fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The eight 6-bit scales and the eight 6-bit mins of a Q4_K or Q5_K block, one byte each.
///
/// Bytes 0..4 hold the low scales and 4..8 the low mins in six bits; bytes 8..12 hold four bits of the high
/// ones, whose upper two bits sit on top of the low ones.
#[inline]
pub(crate) fn scales_and_mins(packed: &[u8; 12]) -> (u64, u64) {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TOP: u32 = 0x3030_3030;
    let word = |at: usize| {
        u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]])
    };
    let (scales, mins, high) = (word(0), word(4), word(8));
    let high_scales = (high & FOUR) | ((scales >> 2) & TOP);
    let high_mins = ((high >> 4) & FOUR) | ((mins >> 2) & TOP);
    (
        u64::from(scales & SIX) | u64::from(high_scales) << 32,
        u64::from(mins & SIX) | u64::from(high_mins) << 32,
    )
}

/// The first 12 bytes at `at`, where K blocks keep their packed scales.
pub(crate) fn packed_scales(block: &[u8], at: usize) -> [u8; 12] {
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[at..at + 12]);
    packed
}

/// The integer values of a Q4_K block, 0..=15.
pub(crate) fn q4k_quants(block: &[u8]) -> [u8; SUPER] {
    let mut out = [0; SUPER];
    for (chunk, qs) in out.chunks_exact_mut(64).zip(block[16..].chunks_exact(32)) {
        for (i, q) in qs.iter().enumerate() {
            chunk[i] = q & 15;
            chunk[i + 32] = q >> 4;
        }
    }
    out
}

/// The integer values of a Q5_K block, 0..=31.
pub(crate) fn q5k_quants(block: &[u8]) -> [u8; SUPER] {
    let high = &block[16..48];
    let mut out = [0; SUPER];
    let chunks = out.chunks_exact_mut(64).zip(block[48..].chunks_exact(32));
    for (j, (chunk, qs)) in chunks.enumerate() {
        let (evens, odds) = chunk.split_at_mut(32);
        for (((even, odd), q), high) in evens.iter_mut().zip(odds).zip(qs).zip(high) {
            let high = high >> (2 * j);
            *even = (q & 15) | (high & 1) << 4;
            *odd = (q >> 4) | (high & 2) << 3;
        }
    }
    out
}

/// The integer values of a Q6_K block, 0..=63, before 32 is taken off.
pub(crate) fn q6k_quants(block: &[u8]) -> [u8; SUPER] {
    let mut out = [0; SUPER];
    for (n, chunk) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * n..64 * n + 64];
        let high = &block[128 + 32 * n..160 + 32 * n];
        for i in 0..32 {
            chunk[i] = (low[i] & 15) | (high[i] & 3) << 4;
            chunk[i + 32] = (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4;
            chunk[i + 64] = (low[i] >> 4) | (high[i] >> 4 & 3) << 4;
            chunk[i + 96] = (low[i + 32] >> 4) | (high[i] >> 6) << 4;
        }
    }
    out
}

/// The integer values of a Q4_0 block, -8..=7.
pub(crate) fn q40_quants(block: &[u8]) -> [i8; 32] {
    let mut out = [0; 32];
    for (i, q) in block[2..18].iter().enumerate() {
        out[i] = (q & 15).cast_signed() - 8;
        out[i + 16] = (q >> 4).cast_signed() - 8;
    }
    out
}

/// The integer values of a Q8_0 block.
pub(crate) fn q80_quants(block: &[u8]) -> [i8; 32] {
    let mut out = [0; 32];
    for (o, q) in out.iter_mut().zip(&block[2..34]) {
        *o = q.cast_signed();
    }
    out
}

fn with_mins(block: &[u8], quants: &[u8; SUPER], out: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, mins) = scales_and_mins(&packed_scales(block, 4));
    let (scales, mins) = (scales.to_le_bytes(), mins.to_le_bytes());
    for (j, chunk) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
        for (o, q) in chunk.iter_mut().zip(&quants[32 * j..]) {
            *o = scale * f32::from(*q) - min;
        }
    }
}

fn q6k(block: &[u8], out: &mut [f32]) {
    let d = half(block, 208);
    let quants = q6k_quants(block);
    for (j, chunk) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[192 + j].cast_signed());
        for (o, q) in chunk.iter_mut().zip(&quants[16 * j..]) {
            *o = scale * f32::from(q.cast_signed() - 32);
        }
    }
}

fn signed(d: f32, quants: &[i8; 32], out: &mut [f32]) {
    for (o, q) in out.iter_mut().zip(quants) {
        *o = d * f32::from(*q);
    }
}

/// Writes the floats of one stored row, bit-equal to other readers of the format.
///
/// # Panics
/// If `bytes` is not exactly the storage of `out.len()` values.
pub fn dequantize_row(ty: WeightType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        ty.row_bytes(out.len()),
        Some(bytes.len()),
        "stored bytes of {} values of {ty}",
        out.len()
    );
    let blocks = bytes
        .chunks_exact(ty.block_bytes())
        .zip(out.chunks_exact_mut(ty.block_len()));
    for (block, out) in blocks {
        match ty {
            WeightType::F32 => {
                out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            }
            WeightType::F16 => out[0] = half(block, 0),
            WeightType::BF16 => out[0] = bf16_to_f32(u16::from_le_bytes([block[0], block[1]])),
            WeightType::Q8_0 => signed(half(block, 0), &q80_quants(block), out),
            WeightType::Q4_0 => signed(half(block, 0), &q40_quants(block), out),
            WeightType::Q4K => with_mins(block, &q4k_quants(block), out),
            WeightType::Q5K => with_mins(block, &q5k_quants(block), out),
            WeightType::Q6K => q6k(block, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded outputs of an independent implementation.
    #[test]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the file prints f32 values in nine digits"
    )]
    fn floats_equal_recorded_vectors() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/data/quant_vectors.json"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        for ty in WeightType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
            let case = &all["types"][ty.name()];
            let bytes = hex::decode(case["hex"].as_str().unwrap()).unwrap();
            let expected = case["values"].as_array().unwrap();
            let mut got = vec![0f32; expected.len()];
            dequantize_row(ty, &bytes, &mut got);
            for (i, (g, e)) in got.iter().zip(expected).enumerate() {
                let e = e.as_f64().unwrap() as f32;
                assert_eq!(*g, e, "{ty} value {i}");
            }
        }
    }

    #[test]
    fn float_types_widen() {
        let mut out = [0f32; 2];
        dequantize_row(WeightType::F32, &[0, 0, 128, 63, 0, 0, 0, 192], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        dequantize_row(WeightType::F16, &[0, 0x3c, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        dequantize_row(WeightType::BF16, &[0x80, 0x3f, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    #[should_panic(expected = "stored bytes")]
    fn wrong_lengths_panic() {
        dequantize_row(WeightType::Q8_0, &[0; 33], &mut [0.0; 32]);
    }
}

//! The block quantiser for NEON, equal in every byte to the scalar one.
#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use std::arch::aarch64::*;

/// Quantises `x` (a multiple of 32 values) and returns its `d`.
#[target_feature(enable = "neon")]
pub(super) fn quantize_block(x: &[f32], quants: &mut [u8]) -> f32 {
    let (groups, _) = x.as_chunks::<4>();
    let infinity = vdupq_n_u32(super::INFINITY_BITS);
    let mut amax = vdupq_n_u32(0);
    let mut ordered = vdupq_n_u32(u32::MAX);
    for group in groups {
        let magnitude = vreinterpretq_u32_f32(vabsq_f32(load(group)));
        let number = vcleq_u32(magnitude, infinity);
        amax = vmaxq_u32(amax, vandq_u32(magnitude, number));
        ordered = vandq_u32(ordered, number);
    }
    let amax = f32::from_bits(vmaxvq_u32(amax));
    let inverse = vdupq_n_f32(127.0 / amax);

    let (chunks, _) = x.as_chunks::<16>();
    let (out, _) = quants.as_chunks_mut::<16>();
    for (chunk, out) in chunks.iter().zip(out) {
        let (groups, _) = chunk.as_chunks::<4>();
        let low = vcombine_s16(
            levels(load(&groups[0]), inverse),
            levels(load(&groups[1]), inverse),
        );
        let high = vcombine_s16(
            levels(load(&groups[2]), inverse),
            levels(load(&groups[3]), inverse),
        );
        let packed = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
        // SAFETY: 16 bytes are stored into an array of 16.
        unsafe { vst1q_s8(out.as_mut_ptr().cast(), packed) };
    }
    super::scale(amax, vminvq_u32(ordered) == 0)
}

#[inline]
#[target_feature(enable = "neon")]
fn load(group: &[f32; 4]) -> float32x4_t {
    // SAFETY: four floats are read from an array of four.
    unsafe { vld1q_f32(group.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn levels(v: float32x4_t, inverse: float32x4_t) -> int16x4_t {
    // The conversion turns NaN into 0, as the scalar cast does.
    let scaled = vmulq_f32(v, inverse);
    let clamped = vmaxq_f32(vminq_f32(scaled, vdupq_n_f32(127.0)), vdupq_n_f32(-127.0));
    vmovn_s32(vcvtnq_s32_f32(clamped))
}

//! Blocks are read back by `dequant`: the error stays within bounds, below that of plain rounding, and odd values do no harm.

use super::*;
use crate::{Isa, dequantize_row};

const TYPES: [WeightType; 3] = [WeightType::Q8_0, WeightType::Q6K, WeightType::Q4K];

/// Values like trained weights: about normal, some rows larger, from a fixed generator.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count)
        .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
        .map(|x| 0.02 * x)
        .collect()
}

fn stored(ty: WeightType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xa5; ty.row_bytes(values.len()).unwrap()];
    quantize_row(Isa::detect(), ty, values, &mut bytes);
    bytes
}

fn read_back(ty: WeightType, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    dequantize_row(ty, &stored(ty, values), &mut out);
    out
}

fn relative_error(values: &[f32], read: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let (mut off, mut power) = (0.0, 0.0);
    for (x, y) in values.iter().zip(read) {
        off += square(f64::from(*x) - f64::from(*y));
        power += square(f64::from(*x));
    }
    (off / power).sqrt()
}

/// A step of each type over values of one spread, which no choice of scales can beat by much.
#[test]
fn normal_values_come_back_within_the_error_of_their_type() {
    let bounds = [0.0065, 0.0185, 0.0735];
    for (ty, bound) in TYPES.into_iter().zip(bounds) {
        for seed in 1..5 {
            let values = normal(256 * 64, seed);
            let error = relative_error(&values, &read_back(ty, &values));
            println!("{ty}: {error:.5}");
            assert!(error < bound, "{ty}: {error}, bound {bound}");
        }
    }
}

/// Q4_K as it comes from the smallest and largest value of each part: no search, no least squares.
fn plain_q4k(values: &[f32]) -> Vec<f32> {
    let round = |x: f32, top: f32| nearest(x.clamp(0.0, top));
    let mut out = Vec::new();
    for block in values.chunks_exact(256) {
        let lines: Vec<(f32, f32)> = block
            .chunks_exact(32)
            .map(|part| {
                let low = part.iter().fold(0f32, |m, x| m.min(*x));
                let high = part.iter().fold(0f32, |m, x| m.max(*x));
                ((high - low) / 15.0, -low)
            })
            .collect();
        let top = |of: fn(&(f32, f32)) -> f32| lines.iter().map(of).fold(0f32, f32::max) / 63.0;
        let (d, dmin) = (scale_in_half(top(|l| l.0)).1, scale_in_half(top(|l| l.1)).1);
        for (part, (scale, min)) in block.chunks_exact(32).zip(&lines) {
            let (scale, min) = (d * round(scale / d, 63.0), dmin * round(min / dmin, 63.0));
            out.extend(
                part.iter()
                    .map(|x| scale * round((x + min) / scale, 15.0) - min),
            );
        }
    }
    out
}

#[test]
fn searching_scales_beats_plain_rounding() {
    let values = normal(256 * 64, 9);
    let plain = relative_error(&values, &plain_q4k(&values));
    let searched = relative_error(&values, &read_back(WeightType::Q4K, &values));
    println!("plain {plain:.5}, searched {searched:.5}");
    assert!(searched < 0.92 * plain, "{searched} against {plain}");
}

/// What a type can say exactly, it says exactly: the layout of every field is the one that `dequant` reads.
#[test]
fn values_of_a_type_survive_a_second_time() {
    for ty in TYPES {
        let first = read_back(ty, &normal(256 * 16, 3));
        let second = read_back(ty, &first);
        let error = relative_error(&first, &second);
        assert!(error < 2e-3, "{ty}: {error}");
    }
}

/// One part of a block far larger than the others, so that every scale field matters.
#[test]
fn parts_of_unlike_size_keep_their_scales() {
    let mut values = normal(256, 5);
    for (part, values) in values.chunks_exact_mut(32).enumerate() {
        let factor = [1.0, 0.5, 3.0, 0.25, 2.0, 1.5, 0.75, 4.0][part];
        values.iter_mut().for_each(|x| *x *= factor);
    }
    for (ty, bound) in TYPES.into_iter().zip([0.008, 0.03, 0.11]) {
        let read = read_back(ty, &values);
        for (part, (x, y)) in values
            .chunks_exact(32)
            .zip(read.chunks_exact(32))
            .enumerate()
        {
            let error = relative_error(x, y);
            assert!(error < 2.0 * bound, "{ty} part {part}: {error}");
        }
    }
}

#[test]
fn rows_of_zeros_one_sign_and_lone_values_do_no_harm() {
    let mut lone = vec![0f32; 256];
    lone[77] = -3.5;
    let cases = [
        vec![0f32; 256],
        vec![1.0; 256],
        vec![-0.25; 256],
        (0..256u16).map(|i| 1.0 + f32::from(i) / 256.0).collect(),
        (0..256u16).map(|i| -1.0 - f32::from(i) / 256.0).collect(),
        lone,
        vec![1e-30; 256],
        vec![f32::MIN_POSITIVE / 4.0; 256],
        vec![6e4; 256],
    ];
    for ty in TYPES {
        for (case, values) in cases.iter().enumerate() {
            let read = read_back(ty, values);
            assert!(read.iter().all(|x| x.is_finite()), "{ty} case {case}");
            let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
            // Tiny values may become zero, since scales are f16.
            let step = if ty == WeightType::Q4K { 0.07 } else { 0.02 };
            for (x, y) in values.iter().zip(&read) {
                let bound = step * largest + 1e-6;
                assert!((x - y).abs() <= bound, "{ty} case {case}: {x} {y}");
            }
        }
    }
}

#[test]
fn a_block_depends_on_its_own_values_alone() {
    for ty in TYPES {
        let values = normal(256 * 6, 11);
        let whole = stored(ty, &values);
        let pieces: Vec<u8> = values
            .chunks(256)
            .rev()
            .map(|block| stored(ty, block))
            .rev()
            .flatten()
            .collect();
        assert_eq!(whole, pieces, "{ty}");
    }
}

#[test]
fn every_instruction_set_writes_the_same_bytes() {
    let values = normal(256 * 64, 21);
    for ty in TYPES {
        let expected = stored(ty, &values);
        for isa in Isa::usable() {
            let mut bytes = vec![0; expected.len()];
            quantize_row(isa, ty, &values, &mut bytes);
            assert!(bytes == expected, "{ty} {isa}");
        }
    }
}

#[test]
fn floats_are_rounded_to_nearest() {
    let values = [1.0, -2.5, 65504.0, 0.1];
    assert_eq!(read_back(WeightType::F32, &values), values);
    let half = read_back(WeightType::F16, &values);
    assert_eq!(half[..3], values[..3]);
    assert!((half[3] - 0.1).abs() < 4e-5);
    assert!((read_back(WeightType::BF16, &values)[3] - 0.1).abs() < 4e-4);
}

#[test]
#[should_panic(expected = "stored bytes")]
fn wrong_lengths_panic() {
    quantize_row(Isa::Scalar, WeightType::Q6K, &[0.0; 255], &mut [0; 210]);
}

#[test]
#[should_panic(expected = "can be written")]
fn types_that_are_only_read_panic() {
    quantize_row(Isa::Scalar, WeightType::Q5K, &[0.0; 256], &mut [0; 176]);
}

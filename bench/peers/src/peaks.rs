//! What this machine can do at best: bytes read per second, and 8-bit multiply-adds per second.
//!
//! Measured between the rounds, so that a slow quarter of an hour slows the ceiling as well as what is under it.
#![allow(
    unsafe_code,
    reason = "instructions that the compiler does not choose by itself"
)]

use std::hint::black_box;
use std::time::Instant;

/// Bytes of the buffer: far beyond any cache.
const BUFFER_BYTES: usize = 1 << 30;
/// Times that the buffer is read in one measurement.
const PASSES: u32 = 2;

/// Bytes per second that so many threads read together. The buffer lives no longer than the measurement: a model may
/// need the memory.
#[must_use]
pub fn read_bytes_per_s(threads: u32) -> f64 {
    let words = vec![1_u64; BUFFER_BYTES / 8];
    let share = words.len().div_ceil(threads as usize);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in words.chunks(share) {
            scope.spawn(move || {
                for _ in 0..PASSES {
                    black_box(sum(black_box(part)));
                }
            });
        }
    });
    BUFFER_BYTES as f64 * f64::from(PASSES) / begun.elapsed().as_secs_f64()
}

/// Reads everything, with the widest loads that every processor of the kind has or AVX2's if they are there.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { x86::sum(words) };
    }
    sum_of_lanes(words)
}

/// Adding is the cheapest way to make a compiler read; one straight stream is what memory likes best.
#[inline(always)]
fn sum_of_lanes(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    let (lines, rest) = words.as_chunks::<32>();
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter()
        .chain(rest)
        .fold(0, |sum, part| sum.wrapping_add(*part))
}

/// Integer operations per second, two for each 8-bit multiply-add, that so many threads do together with the best
/// instruction for quantised dot products that this program knows; `None` on a machine that has none of them.
#[must_use]
pub fn dot_ops_per_s(threads: u32) -> Option<f64> {
    let (dots, ops_of_one) = dot_loop()?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || black_box(dots(black_box(ROUNDS))));
        }
    });
    let done = f64::from(ROUNDS) * f64::from(CHAINS) * ops_of_one * f64::from(threads);
    Some(done / begun.elapsed().as_secs_f64())
}

/// Turns of the loop of dot products.
const ROUNDS: u32 = 20_000_000;
/// Independent sums in it: more than the latency of a dot product.
const CHAINS: u32 = 12;

type DotLoop = fn(u32) -> i32;

#[cfg(target_arch = "x86_64")]
fn dot_loop() -> Option<(DotLoop, f64)> {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has both.
        return Some((|rounds| unsafe { x86::vnni(rounds) }, 128.0));
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return Some((|rounds| unsafe { x86::avx2(rounds) }, 64.0));
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_loop() -> Option<(DotLoop, f64)> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm_cvtsi128_si32, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_si256,
        _mm512_castsi512_si128, _mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_setzero_si512,
    };
    use std::hint::black_box;

    #[target_feature(enable = "avx2")]
    pub fn sum(words: &[u64]) -> u64 {
        super::sum_of_lanes(words)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni(rounds: u32) -> i32 {
        let (a, b) = (
            black_box(_mm512_set1_epi8(3)),
            black_box(_mm512_set1_epi8(5)),
        );
        // Opaque zeros: chains that are known to be equal would be computed once.
        let mut sums = black_box([_mm512_setzero_si512(); super::CHAINS as usize]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.iter().fold(0, |all, sum| {
            all ^ _mm_cvtsi128_si32(_mm512_castsi512_si128(*sum))
        })
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(rounds: u32) -> i32 {
        let (mut a, b) = (
            black_box(_mm256_set1_epi8(3)),
            black_box(_mm256_set1_epi8(5)),
        );
        let ones = black_box(_mm256_set1_epi16(1));
        let mut sums = black_box([_mm256_setzero_si256(); super::CHAINS as usize]);
        for _ in 0..rounds {
            for sum in &mut sums {
                let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
                *sum = _mm256_add_epi32(*sum, pairs);
                a = _mm256_add_epi32(a, b);
            }
        }
        sums.iter().fold(0, |all, sum| {
            all ^ _mm_cvtsi128_si32(_mm256_castsi256_si128(*sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_reads_every_word() {
        let mut words = vec![0_u64; 70];
        for at in 0..words.len() {
            words[at] = 1;
            assert_eq!((sum(&words), sum_of_lanes(&words)), (1, 1), "word {at}");
            words[at] = 0;
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn both_dot_loops_do_what_they_are_paid_for() {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor has both. An even number of equal chains cancels out.
            assert_eq!(unsafe { x86::vnni(3) }, 0);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            unsafe { x86::avx2(3) };
        }
    }
}

//! What the processor does at best: loops of nothing but reads, of fused multiply-adds, of 8-bit dot products.
//!
//! Owns the loops against which the real kernels are held. They use the instructions that the kernels of the same
//! instruction set use, so a share of a peak says how much of the time is spent on what cannot be avoided. Never used
//! to compute anything, and no clock is read here: whoever calls knows the time.
#![allow(
    unsafe_code,
    reason = "functions with target features are called after a check for them"
)]

use std::hint::black_box;

use crate::Isa;

/// Chains of dependent operations that run side by side: more than latency times throughput anywhere.
const CHAINS: usize = 12;
/// Places that the read loop reads at in turns, as the kernels read several rows: a processor fetches ahead at each.
const STREAMS: usize = 8;
/// Words of 8 bytes that one turn of the read loop takes at each place: four vectors of 64 bytes.
const WORDS: usize = 32;

/// Reads all of `bytes` (but for an odd end) with plain wide loads, and returns a value that depends on them.
#[must_use]
pub fn read_through(isa: Isa, bytes: &[u8]) -> u64 {
    read_wide(isa, bytes)
}

kernel! {
    fn read_wide(bytes: &[u8]) -> u64 = read_body
}

#[inline(always)]
fn read_body(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; WORDS];
    let (runs, _) = bytes.as_chunks::<{ 8 * WORDS }>();
    let turns = runs.len() / STREAMS;
    for turn in 0..turns {
        for run in runs[turn..].iter().step_by(turns).take(STREAMS) {
            let (words, _) = run.as_chunks::<8>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum ^= u64::from_le_bytes(*word);
            }
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

/// Does nothing but f32 multiply-adds for `turns` turns and returns how many those were.
#[must_use]
pub fn multiply_f32(isa: Isa, turns: usize) -> u64 {
    let lanes = match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx512 if isa.available() => unsafe { x86::fma_512(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx2 if isa.available() => unsafe { x86::fma_256(turns) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every 64-bit Arm processor has NEON.
        Isa::Neon if isa.available() => unsafe { arm::fma(turns) },
        _ => scalar_f32(turns),
    };
    (turns * CHAINS * lanes) as u64
}

/// Does nothing but dot products of 8-bit integers for `turns` turns, by the instructions that the kernels use, and
/// returns how many multiply-adds those were.
#[must_use]
pub fn multiply_i8(isa: Isa, turns: usize) -> u64 {
    let lanes = match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx512 if isa.available() => unsafe { x86::dot_512(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features.
        Isa::Avx2 if isa.available() => unsafe { x86::dot_256(turns) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the processor has just been asked for the dot product.
        Isa::Neon if isa.available() => unsafe { arm::dot(turns) },
        _ => scalar_i8(turns),
    };
    (turns * CHAINS * lanes) as u64
}

/// Lanes of the portable loops; a compiler makes of them what the build's target has.
const PORTABLE: usize = 4;

fn scalar_f32(turns: usize) -> usize {
    let (a, b) = (
        black_box([0.999f32; PORTABLE]),
        black_box([0.001f32; PORTABLE]),
    );
    let mut sums = [[0.5f32; PORTABLE]; CHAINS];
    for _ in 0..turns {
        for chain in &mut sums {
            *chain = std::array::from_fn(|lane| chain[lane] * a[lane] + b[lane]);
        }
    }
    black_box(sums);
    PORTABLE
}

/// Each chain is a dot product of 16 values, as the portable kernels take them.
fn scalar_i8(turns: usize) -> usize {
    const LEN: usize = 4 * PORTABLE;
    let mut sums = [0i32; CHAINS];
    let (mut a, b) = ([3i8; LEN], black_box([[-5i8; LEN]; CHAINS]));
    for _ in 0..turns {
        a = black_box(a);
        for (sum, b) in sums.iter_mut().zip(&b) {
            let products = a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b));
            *sum = sum.wrapping_add(products.sum::<i32>());
        }
    }
    black_box(sums);
    LEN
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::CHAINS;

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_512(turns: usize) -> usize {
        let (a, b) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        16
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_256(turns: usize) -> usize {
        let (a, b) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
        let mut sums = [_mm256_set1_ps(0.5); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        8
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot_512(turns: usize) -> usize {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(-5));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        64
    }

    /// Each product has other operands, since a compiler would compute equal ones once.
    #[target_feature(enable = "avx2")]
    pub(super) fn dot_256(turns: usize) -> usize {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..turns {
            let a = black_box(_mm256_set1_epi8(3));
            for (b, sum) in (1i8..).zip(&mut sums) {
                let pairs = _mm256_maddubs_epi16(a, _mm256_set1_epi8(b));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
        32
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    use super::CHAINS;

    #[target_feature(enable = "neon")]
    pub(super) fn fma(turns: usize) -> usize {
        let (a, b) = (vdupq_n_f32(0.999), vdupq_n_f32(0.001));
        let mut sums = [vdupq_n_f32(0.5); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = vfmaq_f32(b, *sum, a);
            }
        }
        black_box(sums);
        4
    }

    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn dot(turns: usize) -> usize {
        let (a, b) = (vdupq_n_s8(3), vdupq_n_s8(-5));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                // SAFETY: touches nothing but its registers, and the feature is enabled. Four signed products are
                // added to each lane; the intrinsic for it is not stable yet.
                unsafe {
                    asm!(
                        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                        sum = inout(vreg) *sum,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        black_box(sums);
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let mut bytes = vec![0u8; 8 * WORDS * STREAMS * 3];
        for isa in Isa::usable() {
            assert_eq!(read_through(isa, &bytes), 0);
            for at in [0, 7, 255, 256, 1535, bytes.len() / 2, bytes.len() - 1] {
                bytes[at] = 1;
                assert_ne!(read_through(isa, &bytes), 0, "{isa} byte {at}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn work_is_counted_by_what_the_instructions_do() {
        for isa in Isa::usable() {
            let (f32s, i8s) = match isa {
                Isa::Avx512 => (16, 64),
                Isa::Avx2 => (8, 32),
                Isa::Neon => (4, 16),
                Isa::Scalar => (PORTABLE, 4 * PORTABLE),
            };
            assert_eq!(multiply_f32(isa, 10), (10 * CHAINS * f32s) as u64);
            assert_eq!(multiply_i8(isa, 10), (10 * CHAINS * i8s) as u64);
        }
    }
}

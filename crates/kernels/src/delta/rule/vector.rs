//! The recurrence in vector registers, bit for bit the portable form.
//!
//! Owns the one-pass form of the rule. The idea: a token reads all of a block before it writes any of it, so the
//! write of a token and the read of the next one share one pass, and a block is loaded and stored once a token.
#![allow(
    unsafe_code,
    reason = "vector loads and stores take pointers, and features are the caller's promise"
)]

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm256_sub_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::Tokens;

/// A register of neighbouring columns.
///
/// # Safety
/// All functions: the processor must have the register's instructions, and pointers must be valid for
/// [`Columns::LANES`] values.
trait Columns: Copy {
    /// Columns in a register.
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * x + acc`, fused.
    unsafe fn fma(self, x: Self, acc: Self) -> Self;
}

impl Columns for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn fma(self, x: Self, acc: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm256_fmadd_ps(self, x, acc) }
    }
}

impl Columns for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn fma(self, x: Self, acc: Self) -> Self {
        // SAFETY: promised by the caller.
        unsafe { _mm512_fmadd_ps(self, x, acc) }
    }
}

/// A block of `N` registers of columns.
struct Block<'a, const N: usize> {
    state: &'a mut [f32],
}

impl<const N: usize> Block<'_, N> {
    /// `S *= decay; read = Sᵀ k`
    ///
    /// # Safety
    /// The processor must have the instructions of `V`.
    #[inline(always)]
    unsafe fn decay_and_read<V: Columns>(&mut self, k: &[f32], decay: f32) -> [V; N] {
        let rows = self.state.chunks_exact_mut(N * V::LANES);
        // SAFETY: each row has N registers of values; the instructions are the caller's promise.
        unsafe {
            let decay = V::splat(decay);
            let mut read = [V::splat(0.0); N];
            for (s, k) in rows.zip(k) {
                let k = V::splat(*k);
                for (n, read) in read.iter_mut().enumerate() {
                    let at = s.as_mut_ptr().add(n * V::LANES);
                    let decayed = V::load(at).mul(decay);
                    *read = k.fma(decayed, *read);
                    decayed.store(at);
                }
            }
            read
        }
    }

    /// `S += k ⊗ delta; o = Sᵀ q`
    ///
    /// # Safety
    /// The processor must have the instructions of `V`.
    #[inline(always)]
    unsafe fn write<V: Columns>(&mut self, (k, q): (&[f32], &[f32]), delta: &[V; N]) -> [V; N] {
        let rows = self.state.chunks_exact_mut(N * V::LANES);
        // SAFETY: each row has N registers of values; the instructions are the caller's promise.
        unsafe {
            let mut out = [V::splat(0.0); N];
            for ((s, k), q) in rows.zip(k).zip(q) {
                let (k, q) = (V::splat(*k), V::splat(*q));
                for (n, out) in out.iter_mut().enumerate() {
                    let at = s.as_mut_ptr().add(n * V::LANES);
                    let written = k.fma(delta[n], V::load(at));
                    *out = q.fma(written, *out);
                    written.store(at);
                }
            }
            out
        }
    }

    /// [`Block::write`] of one token and [`Block::decay_and_read`] of the next: `(o, read)`.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`.
    #[inline(always)]
    unsafe fn write_and_read<V: Columns>(
        &mut self,
        (k, q): (&[f32], &[f32]),
        delta: &[V; N],
        (next_k, decay): (&[f32], f32),
    ) -> ([V; N], [V; N]) {
        let rows = self.state.chunks_exact_mut(N * V::LANES);
        // SAFETY: each row has N registers of values; the instructions are the caller's promise.
        unsafe {
            let decay = V::splat(decay);
            let mut out = [V::splat(0.0); N];
            let mut read = [V::splat(0.0); N];
            for (((s, k), q), next_k) in rows.zip(k).zip(q).zip(next_k) {
                let (k, q, next_k) = (V::splat(*k), V::splat(*q), V::splat(*next_k));
                for n in 0..N {
                    let at = s.as_mut_ptr().add(n * V::LANES);
                    let written = k.fma(delta[n], V::load(at));
                    out[n] = q.fma(written, out[n]);
                    let decayed = written.mul(decay);
                    read[n] = next_k.fma(decayed, read[n]);
                    decayed.store(at);
                }
            }
            (out, read)
        }
    }
}

/// The registers as values.
///
/// # Safety
/// The processor must have the instructions of `V`, and `W` must be `N` registers.
#[inline(always)]
unsafe fn spill<V: Columns, const N: usize, const W: usize>(registers: &[V; N]) -> [f32; W] {
    let mut values = [0.0; W];
    for (to, from) in values.chunks_exact_mut(V::LANES).zip(registers) {
        // SAFETY: the chunk has as many values as the register.
        unsafe { from.store(to.as_mut_ptr()) };
    }
    values
}

/// `(v - read) * beta`
///
/// # Safety
/// The processor must have the instructions of `V`, and `W` must be `N` registers.
#[inline(always)]
unsafe fn delta_of<V: Columns, const N: usize, const W: usize>(
    tokens: &Tokens<'_>,
    row: usize,
    read: &[V; N],
) -> [V; N] {
    let values = tokens.values::<W>(row).chunks_exact(V::LANES);
    let mut delta = *read;
    // SAFETY: each chunk has as many values as a register; the instructions are the caller's promise.
    unsafe {
        let beta = V::splat(tokens.beta(row));
        for (delta, v) in delta.iter_mut().zip(values) {
            *delta = V::load(v.as_ptr()).sub(*delta).mul(beta);
        }
    }
    delta
}

/// Runs all rows over a block of `W` columns, which are `N` registers.
///
/// # Safety
/// The processor must have the instructions of `V`.
#[inline(always)]
unsafe fn run<V: Columns, const N: usize, const W: usize>(
    tokens: &Tokens<'_>,
    state: &mut [f32],
    mut each: impl FnMut(usize, &[f32], &[f32]),
) {
    const { assert!(N * V::LANES == W) };
    let Some(last) = tokens.rows.checked_sub(1) else {
        return;
    };
    let mut block = Block::<N> { state };
    // SAFETY: the instructions are the caller's promise, and the values of a row are `W`, which is N registers.
    unsafe {
        let mut read = block.decay_and_read::<V>(tokens.key(0), tokens.decay(0));
        for row in 0..last {
            let delta = delta_of::<V, N, W>(tokens, row, &read);
            let next = (tokens.key(row + 1), tokens.decay(row + 1));
            let out;
            (out, read) = block.write_and_read((tokens.key(row), tokens.query(row)), &delta, next);
            each(row, &spill::<V, N, W>(&delta), &spill::<V, N, W>(&out));
        }
        let delta = delta_of::<V, N, W>(tokens, last, &read);
        let out = block.write((tokens.key(last), tokens.query(last)), &delta);
        each(last, &spill::<V, N, W>(&delta), &spill::<V, N, W>(&out));
    }
}

/// Blocks of 32 columns.
#[target_feature(enable = "avx2,fma,avx512f")]
pub(super) fn avx512_32(
    tokens: &Tokens<'_>,
    state: &mut [f32],
    each: impl FnMut(usize, &[f32], &[f32]),
) {
    // SAFETY: this function has the features.
    unsafe { run::<__m512, 2, 32>(tokens, state, each) }
}

/// Blocks of 32 columns.
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2_32(
    tokens: &Tokens<'_>,
    state: &mut [f32],
    each: impl FnMut(usize, &[f32], &[f32]),
) {
    // SAFETY: this function has the features.
    unsafe { run::<__m256, 4, 32>(tokens, state, each) }
}

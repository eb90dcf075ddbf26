//! The recurrence of one column block over consecutive rows.
//!
//! Owns the inner loops of the delta rule. Never knows where rows and states come from. The idea: the portable
//! form here, two passes a token, is the definition; the vector forms make the same roundings in one pass a token.

use crate::Isa;

#[cfg(target_arch = "x86_64")]
mod vector;

/// Rows of one sequence as one column block sees them; row `r` of `x` begins at `r * x_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    /// How many rows.
    pub rows: usize,
    /// Queries, normalised and scaled.
    pub q: &'a [f32],
    /// Keys, normalised.
    pub k: &'a [f32],
    /// The block's columns of the values.
    pub v: &'a [f32],
    /// What remains of the state.
    pub decay: &'a [f32],
    /// How strongly a row writes.
    pub beta: &'a [f32],
    /// Values of a query or key.
    pub key_dim: usize,
    /// From a query or key to that of the next row.
    pub key_stride: usize,
    /// From the values of a row to those of the next.
    pub value_stride: usize,
    /// From a gate to that of the next row.
    pub gate_stride: usize,
}

impl<'a> Tokens<'a> {
    #[inline(always)]
    pub(super) fn query(&self, row: usize) -> &'a [f32] {
        &self.q[row * self.key_stride..][..self.key_dim]
    }

    #[inline(always)]
    pub(super) fn key(&self, row: usize) -> &'a [f32] {
        &self.k[row * self.key_stride..][..self.key_dim]
    }

    #[inline(always)]
    pub(super) fn decay(&self, row: usize) -> f32 {
        self.decay[row * self.gate_stride]
    }

    #[inline(always)]
    pub(super) fn beta(&self, row: usize) -> f32 {
        self.beta[row * self.gate_stride]
    }

    #[inline(always)]
    pub(super) fn values<const W: usize>(&self, row: usize) -> &'a [f32; W] {
        let (values, _) = self.v[row * self.value_stride..].as_chunks();
        &values[0]
    }
}

/// `S *= decay; read = Sᵀ k`
#[inline(always)]
fn decay_and_read<const W: usize>(state: &mut [[f32; W]], k: &[f32], decay: f32) -> [f32; W] {
    let mut read = [0.0; W];
    for (s, k) in state.iter_mut().zip(k) {
        for (s, read) in s.iter_mut().zip(&mut read) {
            *s *= decay;
            *read = k.mul_add(*s, *read);
        }
    }
    read
}

/// `S += k ⊗ delta; o = Sᵀ q`
#[inline(always)]
fn write<const W: usize>(
    state: &mut [[f32; W]],
    (k, q): (&[f32], &[f32]),
    delta: &[f32; W],
) -> [f32; W] {
    let mut out = [0.0; W];
    for ((s, k), q) in state.iter_mut().zip(k).zip(q) {
        for ((s, delta), out) in s.iter_mut().zip(delta).zip(&mut out) {
            *s = k.mul_add(*delta, *s);
            *out = q.mul_add(*s, *out);
        }
    }
    out
}

/// Runs all rows over a block of `W` columns: the definition.
#[inline(always)]
fn run<const W: usize>(
    tokens: &Tokens<'_>,
    state: &mut [f32],
    mut each: impl FnMut(usize, &[f32], &[f32]),
) {
    let state = state.as_chunks_mut::<W>().0;
    for row in 0..tokens.rows {
        let read = decay_and_read::<W>(state, tokens.key(row), tokens.decay(row));
        let mut delta = [0.0; W];
        let values = tokens.values::<W>(row).iter();
        for ((delta, v), read) in delta.iter_mut().zip(values).zip(read) {
            *delta = (v - read) * tokens.beta(row);
        }
        let out = write(state, (tokens.key(row), tokens.query(row)), &delta);
        each(row, &delta, &out);
    }
}

/// Runs all rows over a block of `width` columns, `[key_dim][width]`, and calls `each(row, delta, o)` for each.
#[allow(unsafe_code, reason = "calls kernels built for more features")]
#[inline(always)]
pub(crate) fn run_tokens(
    isa: Isa,
    width: usize,
    tokens: &Tokens<'_>,
    state: &mut [f32],
    each: impl FnMut(usize, &[f32], &[f32]),
) {
    match (isa, width) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 32) if isa.available() => {
            // SAFETY: the processor has just been asked for this instruction set.
            unsafe { vector::avx512_32(tokens, state, each) }
        }
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2 | Isa::Avx512, 32) if isa.available() => {
            // SAFETY: the processor has just been asked for this instruction set.
            unsafe { vector::avx2_32(tokens, state, each) }
        }
        (_, 32) => run::<32>(tokens, state, each),
        (_, 16) => run::<16>(tokens, state, each),
        (_, 8) => run::<8>(tokens, state, each),
        (_, 4) => run::<4>(tokens, state, each),
        (_, 2) => run::<2>(tokens, state, each),
        _ => run::<1>(tokens, state, each),
    }
}

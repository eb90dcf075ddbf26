//! The two products of attention over a tile: queries with keys, weights with values.
//!
//! Owns their portable form, which is the definition, and the choice of the form for an instruction set. It never
//! sees a page or a softmax. The idea: rows are padded with zeros to a multiple of 32 values, so no form has tails.

use crate::Isa;
use crate::kv::PAGE_POSITIONS;
use crate::math::{LANES, dot_body};

/// Keys of one call of [`scores`].
pub(super) const KEYS: usize = 16;
/// Most columns of one call of [`add_values`].
pub(super) const PANEL: usize = 64;

/// Queries against 16 keys.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    /// `[queries][stride]`.
    pub(super) queries: &'a [f32],
    /// `[16][stride]`.
    pub(super) keys: &'a [f32],
    /// Values of a padded row, a multiple of 32.
    pub(super) stride: usize,
    /// Factor of every score.
    pub(super) scale: f32,
    /// Where in a block of 64 the keys begin.
    pub(super) first_key: usize,
}

/// `weights` times a panel: some columns of the values of a block.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// `[64][width]`.
    pub(super) values: &'a [f32],
    /// Columns: 32 or 64.
    pub(super) width: usize,
    /// The first column of the panel in the outputs.
    pub(super) col: usize,
    /// Values of a padded output row.
    pub(super) stride: usize,
    /// `[queries][64]`.
    pub(super) weights: &'a [f32],
    /// Keys that each query sees, at least 1.
    pub(super) counts: &'a [usize],
    /// Factor of what each query summed before.
    pub(super) shrinks: &'a [f32],
}

/// `weights` times the half-precision values of a page, which few queries read as they are stored.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    /// `[64][dim]`.
    pub(super) values: &'a [u16],
    /// Values of a row, also of an output.
    pub(super) dim: usize,
    /// `[queries][64]`.
    pub(super) weights: &'a [f32],
    /// Keys that all queries see.
    pub(super) count: usize,
    /// Factor of what each query summed before.
    pub(super) shrinks: &'a [f32],
}

#[inline(always)]
fn scores_body(what: &Scores<'_>, out: &mut [f32]) {
    let outs = out.chunks_exact_mut(PAGE_POSITIONS);
    for (query, out) in what.queries.chunks_exact(what.stride).zip(outs) {
        let keys = what.keys.chunks_exact(what.stride);
        for (out, key) in out[what.first_key..][..KEYS].iter_mut().zip(keys) {
            *out = dot_body(query, key) * what.scale;
        }
    }
}

#[inline(always)]
fn values_body(what: &Panel<'_>, out: &mut [f32]) {
    let outs = out.chunks_exact_mut(what.stride);
    let weights = what.weights.chunks_exact(PAGE_POSITIONS);
    let sizes = what.counts.iter().zip(what.shrinks);
    for ((out, weights), (count, shrink)) in outs.zip(weights).zip(sizes) {
        let out = &mut out[what.col..][..what.width];
        for out in out.iter_mut() {
            *out *= shrink;
        }
        let values = what.values.chunks_exact(what.width);
        for (weight, values) in weights[..*count].iter().zip(values) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = weight.mul_add(*value, *out);
            }
        }
    }
}

/// Sets `out[i][first_key..first_key + 16]` (rows of 64) to the scores of query `i`.
pub(super) fn scores(isa: Isa, what: &Scores<'_>, out: &mut [f32]) {
    let n = what.queries.len() / what.stride;
    assert!(what.stride.is_multiple_of(LANES), "rows without padding");
    assert!(what.keys.len() >= KEYS * what.stride, "fewer than 16 keys");
    assert!(
        what.first_key + KEYS <= PAGE_POSITIONS,
        "keys outside a block"
    );
    assert!(out.len() >= n * PAGE_POSITIONS, "scores of fewer queries");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features; lengths are checked above.
        Isa::Avx512 if isa.available() => unsafe { super::avx512::scores(what, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 if isa.available() => unsafe { super::avx2::scores(what, out) },
        _ => scores_body(what, out),
    }
}

/// `out[i] = out[i] * shrink[i]`, then `out[i] += weight * value` for the keys that query `i` sees, in the columns of
/// the panel.
pub(super) fn add_values(isa: Isa, what: &Panel<'_>, out: &mut [f32]) {
    let n = what.counts.len();
    assert!(what.width.is_multiple_of(LANES) && what.width <= PANEL);
    assert!(what.col + what.width <= what.stride, "columns outside");
    assert!(
        what.values.len() >= PAGE_POSITIONS * what.width,
        "too few values"
    );
    assert!(what.weights.len() >= n * PAGE_POSITIONS, "too few weights");
    assert!(what.shrinks.len() >= n && out.len() >= n * what.stride);
    assert!(what.counts.iter().all(|count| *count <= PAGE_POSITIONS));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features; lengths are checked above.
        Isa::Avx512 if isa.available() => unsafe { super::avx512::add_values(what, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 if isa.available() => unsafe { super::avx2::add_values(what, out) },
        _ => values_body(what, out),
    }
}

/// Most queries for which stored halves are widened in registers rather than once for all.
const HALVES_QUERIES: usize = 8;

/// [`add_values`] without a panel in between, for few queries that all see as many keys; false, and nothing done,
/// where that is no faster or not built.
pub(super) fn add_halves(isa: Isa, what: &Halves<'_>, out: &mut [f32]) -> bool {
    let n = what.shrinks.len();
    if n > HALVES_QUERIES || !what.dim.is_multiple_of(LANES) {
        return false;
    }
    assert!(what.count <= PAGE_POSITIONS, "keys outside a block");
    assert!(
        what.values.len() >= PAGE_POSITIONS * what.dim,
        "too few values"
    );
    assert!(what.weights.len() >= n * PAGE_POSITIONS, "too few weights");
    assert!(out.len() >= n * what.dim, "outputs of fewer queries");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has just been asked for these features; lengths are checked above.
        Isa::Avx512 if isa.available() => unsafe {
            super::avx512::add_halves(what, out);
            true
        },
        _ => false,
    }
}

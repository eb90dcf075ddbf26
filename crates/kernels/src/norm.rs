//! Norms over rows and heads.
//!
//! Owns RMS norm, the L2 norm of the delta rule's queries and keys, and the gated RMS norm. Weights are plain
//! factors: whoever loads a model adds the 1 of zero-centred norms. The idea: the sum of squares is one
//! 32-lane dot, and everything after it is elementwise.

use crate::math::{dot_body, silu};

/// Added to the sum of squares of an L2 norm, inside the root (Qwen3.5's gated delta net).
const L2_EPS: f32 = 1e-6;

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot_body(x, x) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn rms_norm_rows_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(!weight.is_empty(), "norm over no columns");
    assert_eq!(x.len(), out.len(), "norm into another number of values");
    assert_eq!(x.len() % weight.len(), 0, "norm of broken rows");
    for (x, out) in x
        .chunks_exact(weight.len())
        .zip(out.chunks_exact_mut(weight.len()))
    {
        let factor = inverse_rms(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

#[inline(always)]
fn rms_norm_in_place_body(x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(!weight.is_empty(), "norm over no columns");
    assert_eq!(x.len() % weight.len(), 0, "norm of broken rows");
    for x in x.chunks_exact_mut(weight.len()) {
        let factor = inverse_rms(x, eps);
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
}

#[inline(always)]
pub(crate) fn l2_norm_body(x: &mut [f32], head_dim: usize, scale: f32) {
    assert!(head_dim > 0, "norm over no columns");
    assert_eq!(x.len() % head_dim, 0, "norm of broken heads");
    for x in x.chunks_exact_mut(head_dim) {
        let factor = scale / (dot_body(x, x) + L2_EPS).sqrt();
        for x in x {
            *x *= factor;
        }
    }
}

#[inline(always)]
pub(crate) fn gated_rms_norm_body(x: &mut [f32], weight: &[f32], eps: f32, z: &[f32]) {
    assert!(!weight.is_empty(), "norm over no columns");
    assert_eq!(x.len(), z.len(), "norm with another number of gates");
    assert_eq!(x.len() % weight.len(), 0, "norm of broken heads");
    for (x, z) in x
        .chunks_exact_mut(weight.len())
        .zip(z.chunks_exact(weight.len()))
    {
        let factor = inverse_rms(x, eps);
        for ((x, weight), z) in x.iter_mut().zip(weight).zip(z) {
            *x = *x * factor * weight * silu(*z);
        }
    }
}

kernel! {
    /// `out = x / sqrt(mean(x²) + eps) * weight` for one or more rows of `weight.len()` values.
    ///
    /// # Panics
    /// If `x` and `out` differ in length or are not whole rows.
    pub fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_rows_body
}

/// [`rms_norm_rows`] of exactly one row.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(isa: crate::Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(
        x.len(),
        weight.len(),
        "norm of a row of another length than its weights"
    );
    rms_norm_rows(isa, x, weight, eps, out);
}

kernel! {
    /// [`rms_norm_rows`] in place; with a weight of one head's length it norms every head of a row.
    ///
    /// # Panics
    /// If `x` is not made of whole rows.
    pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = rms_norm_in_place_body
}

kernel! {
    /// `x * scale / sqrt(sum(x²) + 1e-6)` for every `head_dim` values.
    ///
    /// # Panics
    /// If `x` is not made of whole heads.
    pub fn l2_norm_in_place(x: &mut [f32], head_dim: usize, scale: f32) = l2_norm_body
}

kernel! {
    /// `rms(x) * weight * silu(z)` for every `weight.len()` values: the norm before the gate.
    ///
    /// # Panics
    /// If `x` and `z` differ in length or are not whole heads.
    pub fn gated_rms_norm(x: &mut [f32], weight: &[f32], eps: f32, z: &[f32]) = gated_rms_norm_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_close, bits, values};

    fn rms64(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
        x.chunks(weight.len())
            .flat_map(|row| {
                let mean =
                    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
                let weighted = row.iter().zip(weight);
                weighted
                    .map(move |(x, w)| f64::from(*x) / (mean + eps).sqrt() * f64::from(*w))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn rms_norm_follows_its_formula_on_every_set() {
        for (n, rows) in [(16, 3), (45, 2), (256, 4), (2048, 1)] {
            let (x, weight) = (values(n * rows, 5), values(n, 6));
            let want = rms64(&x, &weight, 1e-6);
            let mut first: Option<Vec<u32>> = None;
            for isa in Isa::usable() {
                let mut out = vec![0.0; n * rows];
                rms_norm_rows(isa, &x, &weight, 1e-6, &mut out);
                assert_close(&out, &want, 1e-6);
                let mut in_place = x.clone();
                rms_norm_in_place(isa, &mut in_place, &weight, 1e-6);
                let mut single = vec![0.0; n];
                rms_norm(isa, &x[..n], &weight, 1e-6, &mut single);
                assert_eq!(bits(&in_place), bits(&out));
                assert_eq!(bits(&single), bits(&out[..n]));
                assert_eq!(
                    first.get_or_insert_with(|| bits(&out)),
                    &bits(&out),
                    "{isa}"
                );
            }
        }
    }

    #[test]
    fn l2_norm_follows_its_formula_on_every_set() {
        let x = values(4 * 48, 7);
        let want: Vec<f64> = x
            .chunks(48)
            .flat_map(|head| {
                let sum: f64 = head.iter().map(|x| f64::from(*x).powi(2)).sum();
                head.iter()
                    .map(move |x| f64::from(*x) / (sum + 1e-6).sqrt() * 0.25)
            })
            .collect();
        let mut first: Option<Vec<u32>> = None;
        for isa in Isa::usable() {
            let mut got = x.clone();
            l2_norm_in_place(isa, &mut got, 48, 0.25);
            assert_close(&got, &want, 1e-6);
            assert_eq!(
                first.get_or_insert_with(|| bits(&got)),
                &bits(&got),
                "{isa}"
            );
        }
    }

    #[test]
    fn gated_norm_follows_its_formula_on_every_set() {
        let (x, z, weight) = (values(6 * 32, 8), values(6 * 32, 9), values(32, 10));
        let want: Vec<f64> = rms64(&x, &weight, 1e-5)
            .iter()
            .zip(&z)
            .map(|(x, z)| x * f64::from(*z) / (1.0 + (-f64::from(*z)).exp()))
            .collect();
        let mut first: Option<Vec<u32>> = None;
        for isa in Isa::usable() {
            let mut got = x.clone();
            gated_rms_norm(isa, &mut got, &weight, 1e-5, &z);
            assert_close(&got, &want, 1e-6);
            assert_eq!(
                first.get_or_insert_with(|| bits(&got)),
                &bits(&got),
                "{isa}"
            );
        }
    }
}

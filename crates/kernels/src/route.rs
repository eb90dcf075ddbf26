//! The router of a mixture of experts.
//!
//! Owns the choice of experts for a row and their weights. Knows no expert group and no node. The idea:
//! probabilities over all experts in f32, then a stable selection, so that equal scores always fall the same way.

use std::cmp::Ordering;

use crate::Isa;
use crate::mix::softmax;

/// What becomes of the probabilities of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Divided by their sum, so that they add up to 1.
    Renormalised,
    /// Used as they are.
    Raw,
}

/// Turns `logits` (one for each expert) into probabilities in place and fills `out` with the `out.len()` most
/// probable experts and their weights, best first; of equals the lower id comes first. The sum that
/// renormalises runs in that order.
///
/// # Panics
/// If more experts are asked for than there are.
pub fn route(isa: Isa, logits: &mut [f32], weights: Weights, out: &mut [(u32, f32)]) {
    assert!(
        out.len() <= logits.len(),
        "more experts asked for than there are"
    );
    softmax(isa, logits);
    let mut filled = 0;
    for (id, p) in (0u32..).zip(logits.iter()) {
        let rank = out[..filled]
            .partition_point(|(_, other)| p.partial_cmp(other) != Some(Ordering::Greater));
        if rank < out.len() {
            filled = (filled + 1).min(out.len());
            out[rank..filled].rotate_right(1);
            out[rank] = (id, *p);
        }
    }
    if weights == Weights::Renormalised {
        let sum: f32 = out.iter().fold(0.0, |sum, (_, p)| sum + p);
        for (_, p) in out {
            *p /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn picks_what_a_stable_sort_picks() {
        for (experts, used) in [(4, 2), (16, 16), (256, 8), (7, 1)] {
            let logits: Vec<f32> = values(experts, 30)
                .iter()
                .map(|x| (x * 4.0).round())
                .collect();
            let mut probabilities = logits.clone();
            softmax(Isa::Scalar, &mut probabilities);
            let probability = |id: &u32| probabilities[*id as usize];
            let mut order: Vec<u32> = (0u32..).take(experts).collect();
            order.sort_by(|a, b| probability(b).total_cmp(&probability(a)));
            for isa in Isa::usable() {
                let mut raw = vec![(0, 0.0); used];
                route(isa, &mut logits.clone(), Weights::Raw, &mut raw);
                let want: Vec<_> = order[..used].iter().map(|i| (*i, probability(i))).collect();
                assert_eq!(raw, want, "{isa}");
                let mut whole = vec![(0, 0.0); used];
                route(isa, &mut logits.clone(), Weights::Renormalised, &mut whole);
                let sum: f64 = raw.iter().map(|(_, p)| f64::from(*p)).sum();
                for (got, raw) in whole.iter().zip(&raw) {
                    assert_eq!(got.0, raw.0);
                    assert!((f64::from(got.1) - f64::from(raw.1) / sum).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn broken_logits_still_name_different_experts() {
        let mut out = [(0, 0.0); 3];
        route(Isa::Scalar, &mut [f32::NAN; 6], Weights::Raw, &mut out);
        assert_eq!(out.map(|(id, _)| id), [0, 1, 2]);
    }
}

//! Rotary position embedding.
//!
//! Owns the angles and the rotation. Frequencies arrive ready (scaling applied by the model's description).
//! The idea: angles, sines and cosines are made in f64 by the `libm` crate, never by the platform, and rounded
//! once to f32; the rotation rounds each product, then their sum (nothing is fused).

/// Which two values of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Value `i` with value `i + dims/2` (NeoX).
    Halves,
    /// Value `2i` with value `2i + 1`.
    Neighbours,
}

/// The frequencies of one model.
#[derive(Debug, Clone)]
pub struct RopeTable {
    inv_freq: Vec<f64>,
}

impl RopeTable {
    /// A table of `dims / 2` inverse frequencies, in radians per position.
    #[must_use]
    pub fn new(inv_freq: &[f64]) -> Self {
        RopeTable {
            inv_freq: inv_freq.to_vec(),
        }
    }

    /// Rotated values of a head, which is also the length of one position's angles.
    #[must_use]
    pub fn dims(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Replaces `out` by the angles of `positions`: for each, `dims/2` cosines, then `dims/2` sines. They serve
    /// every layer of a step.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "sines and cosines are rounded to f32 on purpose"
    )]
    pub fn fill(&self, positions: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.reserve(positions.len() * self.dims());
        for position in positions {
            let angle = |inv: &f64| f64::from(*position) * inv;
            out.extend(self.inv_freq.iter().map(|inv| libm::cos(angle(inv)) as f32));
            out.extend(self.inv_freq.iter().map(|inv| libm::sin(angle(inv)) as f32));
        }
    }
}

/// `(a cos - b sin, b cos + a sin)`.
#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

#[inline(always)]
fn rope_body(heads: &mut [f32], head_dim: usize, angles: &[f32], pairing: Pairing) {
    assert!(
        head_dim > 0 && angles.len() <= head_dim,
        "rope over more values than a head has"
    );
    assert_eq!(heads.len() % head_dim, 0, "rope of broken heads");
    let (cos, sin) = angles.split_at(angles.len() / 2);
    for head in heads.chunks_exact_mut(head_dim) {
        let turned = &mut head[..angles.len()];
        match pairing {
            Pairing::Halves => {
                let (low, high) = turned.split_at_mut(cos.len());
                for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    (*a, *b) = turn(*a, *b, *cos, *sin);
                }
            }
            Pairing::Neighbours => {
                for ((pair, cos), sin) in turned.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin)
                {
                    *pair = turn(pair[0], pair[1], *cos, *sin).into();
                }
            }
        }
    }
}

kernel! {
    /// Turns the first `angles.len()` values of every head (`head_dim` values each) of one row in place; the
    /// others pass through. `angles` is one position's part of [`RopeTable::fill`].
    ///
    /// # Panics
    /// If `heads` is not made of whole heads or a head is shorter than the rotated part.
    pub fn rope(heads: &mut [f32], head_dim: usize, angles: &[f32], pairing: Pairing) = rope_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_close, bits, values};

    #[test]
    fn rotation_follows_its_formula_on_every_set() {
        let inv: Vec<f64> = (0..8).map(|i| 1e7f64.powf(-f64::from(i) / 8.0)).collect();
        let table = RopeTable::new(&inv);
        let mut angles = Vec::new();
        table.fill(&[3, 100_000], &mut angles);
        assert_eq!(angles.len(), 2 * table.dims());
        for pairing in [Pairing::Halves, Pairing::Neighbours] {
            let x = values(3 * 24, 11);
            let mut want: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for head in want.chunks_mut(24) {
                for (i, inv) in inv.iter().enumerate() {
                    let (sin, cos) = (100_000.0 * inv).sin_cos();
                    let (at, to) = if pairing == Pairing::Halves {
                        (i, i + 8)
                    } else {
                        (2 * i, 2 * i + 1)
                    };
                    (head[at], head[to]) = (
                        head[at] * cos - head[to] * sin,
                        head[to] * cos + head[at] * sin,
                    );
                }
            }
            let mut first: Option<Vec<u32>> = None;
            for isa in Isa::usable() {
                let mut got = x.clone();
                rope(isa, &mut got, 24, &angles[16..], pairing);
                assert_close(&got, &want, 1e-6);
                assert_eq!(
                    first.get_or_insert_with(|| bits(&got)),
                    &bits(&got),
                    "{isa}"
                );
            }
        }
    }

    #[test]
    fn position_zero_turns_nothing() {
        let mut angles = Vec::new();
        RopeTable::new(&[1.0, 0.1]).fill(&[0], &mut angles);
        assert_eq!(angles, [1.0, 1.0, 0.0, 0.0]);
    }
}

//! Rope frequencies, in f64 and with a portable `pow`, so that every machine has the same bits.

use std::path::Path;

use super::{Pairing, Rope};
use crate::ModelError;

/// What the frequencies are made from.
pub(super) struct Source<'a> {
    /// The model file, for messages.
    pub(super) path: &'a Path,
    /// The base.
    pub(super) theta: f64,
    /// Rotated values per head.
    pub(super) dims: usize,
    /// All values per head.
    pub(super) head_dim: usize,
    /// Which values turn together.
    pub(super) pairing: Pairing,
}

/// Llama-3 scaling of frequencies for a longer context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Llama3 {
    /// By how much slow frequencies are divided.
    pub(super) factor: f64,
    /// Waves longer than `original_context / low` are slow.
    pub(super) low: f64,
    /// Waves shorter than `original_context / high` stay.
    pub(super) high: f64,
    /// Positions of the original training.
    pub(super) original_context: f64,
}

impl Source<'_> {
    fn frequencies(&self) -> Result<Vec<f64>, ModelError> {
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(ModelError::malformed(
                self.path,
                "the rope base",
                self.theta.to_string(),
                "a number above 1",
            ));
        }
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > self.head_dim {
            return Err(ModelError::malformed(
                self.path,
                "the number of rotated values per head",
                self.dims.to_string(),
                format!("an even number from 2 to the head's {}", self.head_dim),
            ));
        }
        Ok(unscaled(self.theta, self.dims))
    }

    fn rope(&self, inv_freq: Vec<f64>) -> Rope {
        Rope {
            dims: self.dims,
            pairing: self.pairing,
            base: self.theta,
            inv_freq,
        }
    }

    /// Unscaled frequencies.
    pub(super) fn plain(&self) -> Result<Rope, ModelError> {
        Ok(self.rope(self.frequencies()?))
    }

    /// Frequencies divided by given factors, one per pair.
    pub(super) fn divided_by(&self, factors: &[f32]) -> Result<Rope, ModelError> {
        let mut inv_freq = self.frequencies()?;
        if factors.len() != inv_freq.len() || factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
            return Err(ModelError::tensor(
                self.path,
                "rope_freqs.weight",
                format!("{} values", factors.len()),
                format!("{} finite values above zero, one per pair", inv_freq.len()),
            ));
        }
        for (frequency, factor) in inv_freq.iter_mut().zip(factors) {
            *frequency /= f64::from(*factor);
        }
        Ok(self.rope(inv_freq))
    }

    /// Frequencies by the Llama-3 rule.
    pub(super) fn llama3(&self, rule: &Llama3) -> Result<Rope, ModelError> {
        let inv_freq = self.frequencies()?;
        let scaled = inv_freq.into_iter().map(|f| rule.scale(f)).collect();
        Ok(self.rope(scaled))
    }
}

impl Rope {
    /// By what each unscaled frequency is divided, one number a pair; `None` if no frequency is scaled.
    pub(crate) fn factors(&self) -> Option<Vec<f32>> {
        let plain = unscaled(self.base, self.dims);
        if plain == self.inv_freq {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "files hold f32")]
        let factor = |(plain, scaled): (&f64, &f64)| (plain / scaled) as f32;
        Some(plain.iter().zip(&self.inv_freq).map(factor).collect())
    }
}

/// Frequencies of each pair by the base alone.
fn unscaled(theta: f64, dims: usize) -> Vec<f64> {
    let of = |pair: usize| libm::pow(theta, -2.0 * exact(pair) / exact(dims));
    (0..dims / 2).map(of).collect()
}

impl Llama3 {
    /// Whether the numbers make sense together.
    pub(super) fn is_sound(&self) -> bool {
        let all = [self.factor, self.low, self.high, self.original_context];
        all.iter().all(|x| x.is_finite() && *x > 0.0) && self.high > self.low
    }

    fn scale(&self, frequency: f64) -> f64 {
        let wave = 2.0 * std::f64::consts::PI / frequency;
        if wave < self.original_context / self.high {
            frequency
        } else if wave > self.original_context / self.low {
            frequency / self.factor
        } else {
            let keep = (self.original_context / wave - self.low) / (self.high - self.low);
            (1.0 - keep) * frequency / self.factor + keep * frequency
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "dimensions are at most 2^20, exact in f64"
)]
fn exact(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(theta: f64, dims: usize) -> Source<'static> {
        Source {
            path: Path::new("m"),
            theta,
            dims,
            head_dim: 8,
            pairing: Pairing::Halves,
        }
    }

    #[test]
    fn frequencies_fall_by_powers_of_the_base() {
        let rope = source(10_000.0, 8).plain().unwrap();
        let expected = [1.0, 0.1, 0.01, 0.001];
        for (got, expected) in rope.inv_freq.iter().zip(expected) {
            assert!((got / expected - 1.0).abs() < 1e-14, "{got} {expected}");
        }
    }

    #[test]
    fn llama3_keeps_fast_waves_and_divides_slow_ones() {
        let rule = Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original_context: 128.0,
        };
        assert!((rule.scale(1.0) - 1.0).abs() < 1e-15);
        assert!((rule.scale(1e-3) - 1e-3 / 8.0).abs() < 1e-15);
        let middle = 2.0 * std::f64::consts::PI / 64.0;
        let keep = (2.0 - 1.0) / 3.0;
        let expected = (1.0 - keep) * middle / 8.0 + keep * middle;
        assert!((rule.scale(middle) - expected).abs() < 1e-15);
    }

    #[test]
    fn factors_are_what_frequencies_were_divided_by() {
        assert_eq!(source(1e4, 8).plain().unwrap().factors(), None);
        let factors = [1.0, 2.0, 4.0, 8.0];
        let rope = source(1e4, 8).divided_by(&factors).unwrap();
        assert_eq!(rope.factors(), Some(factors.to_vec()));
    }

    #[test]
    fn senseless_settings_are_refused() {
        for (theta, dims) in [(f64::NAN, 8), (0.5, 8), (1e4, 0), (1e4, 3), (1e4, 10)] {
            assert!(source(theta, dims).plain().is_err(), "{theta} {dims}");
        }
        assert!(source(1e4, 8).divided_by(&[1.0; 3]).is_err());
        assert!(source(1e4, 8).divided_by(&[1.0, 0.0, 1.0, 1.0]).is_err());
    }
}

//! Middle and spread of a few measurements. Pure.

/// What is told of several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` without measurements.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        let median = f64::midpoint(lower, upper);
        Some(Self { median, min, max })
    }
}

/// `a[i] / b[i]` for all rounds that both have.
#[must_use]
pub fn quotients(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values).map(|s| (s.min, s.median, s.max));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[4.0]), Some((4.0, 4.0, 4.0)));
        assert_eq!(spread(&[9.0, 1.0]), Some((1.0, 5.0, 9.0)));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((1.0, 2.0, 9.0)));
        assert_eq!(spread(&[4.0, 3.0, 1.0, 2.0]), Some((1.0, 2.5, 4.0)));
    }

    #[test]
    fn rounds_are_divided_by_their_own_counterpart() {
        assert_eq!(quotients(&[2.0, 9.0], &[4.0, 3.0]), [0.5, 3.0]);
        assert_eq!(quotients(&[2.0, 9.0], &[4.0]), [0.5]);
    }
}

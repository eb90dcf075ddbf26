//! Tokens per second over the last ten seconds.

use std::time::Duration;

/// Seconds that are looked back.
const SECONDS: usize = 10;

/// Counts by whole second, the oldest overwritten.
#[derive(Debug, Default)]
pub(super) struct Rate {
    counts: [u32; SECONDS],
    /// The second that was counted last.
    second: u64,
}

impl Rate {
    /// Counts `number` things now.
    pub fn count(&mut self, now: Duration, number: u32) {
        self.roll(now);
        if let Some(count) = self.counts.get_mut(slot(self.second)) {
            *count = count.saturating_add(number);
        }
    }

    /// Things per second; a busy second shorter than ten is not diluted by the time before it.
    pub fn per_second(&mut self, now: Duration) -> f64 {
        self.roll(now);
        let sum: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let busy = (0..SECONDS as u64).filter(|age| {
            let second = self.second.checked_sub(*age);
            second.is_some_and(|second| {
                self.counts
                    .get(slot(second))
                    .is_some_and(|count| *count > 0)
            })
        });
        let whole = busy.max().unwrap_or(0);
        let seconds = whole as f64 + f64::from(now.subsec_micros()) / 1e6;
        if sum == 0 {
            0.0
        } else {
            sum as f64 / seconds.max(1.0)
        }
    }

    /// Empties the seconds that nothing was counted in.
    fn roll(&mut self, now: Duration) {
        let now = now.as_secs();
        let passed = now.saturating_sub(self.second).min(SECONDS as u64);
        for second in 0..passed {
            if let Some(count) = self.counts.get_mut(slot(now.saturating_sub(second))) {
                *count = 0;
            }
        }
        self.second = self.second.max(now);
    }
}

fn slot(second: u64) -> usize {
    // The remainder is below ten.
    usize::try_from(second % SECONDS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let mut rate = Rate::default();
        let at = Duration::from_millis;
        assert_eq!(rate.per_second(at(0)), 0.0);
        rate.count(at(100_000), 30);
        assert_eq!(rate.per_second(at(100_500)), 30.0, "at least a second");
        rate.count(at(101_000), 30);
        assert_eq!(rate.per_second(at(102_000)), 30.0);
        assert_eq!(rate.per_second(at(109_500)), 60.0 / 9.5);
        assert_eq!(
            rate.per_second(at(110_500)),
            30.0 / 9.5,
            "the first second is forgotten"
        );
        assert_eq!(rate.per_second(at(200_000)), 0.0);
    }
}

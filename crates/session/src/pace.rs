//! How fast steps have come back, and how many prompt rows may therefore go beside answers.
//!
//! Sees times, never a clock. The one idea: a token that meets a chunk of somebody's prompt waits for it once, so a chunk
//! beside answers may take about as long as a token without it. Results do not depend on how a prompt is cut, so the
//! size may follow whatever was measured last.

use std::time::Duration;

/// Rows of a chunk beside answers, however slow the machines are.
pub(crate) const ROWS_LEAST: u32 = 16;
/// A chunk beside answers takes at most so much of a token's time, so that measuring errors do not double the wait.
const PART_OF_TOKEN: f64 = 0.8;
/// .. and never longer than this, in seconds.
const CHUNK_S_MAX: f64 = 0.25;
/// Steps with answers that may go beside prompts before one goes alone again, to be measured.
const STALE_AFTER: u32 = 64;
/// Part of a measured speed that enters where it is better than what was known. Where it is worse it counts at once.
const NEW_PART: f64 = 0.25;

/// When a step was sent, and when it came back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip {
    pub sent_at: Duration,
    pub back_at: Duration,
}

/// What was measured in one epoch.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of a step with answers that met no prompt.
    token_s: Option<f64>,
    /// Sequences that decoded when it was measured.
    decoding: u32,
    /// Steps with answers that met prompts since.
    since: u32,
    /// Of chunks, from the first stage to the last.
    rows_per_s: Option<f64>,
    /// When the latest step came back.
    last_back: Duration,
}

impl Pace {
    /// A step with answers came back that had no prompt beside it.
    pub fn answered_alone(&mut self, trip: Trip, decoding: u32) {
        let took_s = seconds(trip.back_at.saturating_sub(trip.sent_at));
        let known = self.token_s.filter(|_| decoding == self.decoding);
        self.token_s = Some(known.map_or(took_s, |known| blend(known, took_s)));
        self.decoding = decoding;
        self.since = 0;
        self.last_back = trip.back_at;
    }

    /// A step with answers came back that shared the stages with a prompt.
    pub fn answered_beside(&mut self, trip: Trip) {
        self.since = self.since.saturating_add(1);
        self.last_back = trip.back_at;
    }

    /// A chunk of `rows` came back from as many stages.
    ///
    /// Stages work one step at a time. So a chunk that was under way when the step before it came back was worked on
    /// since then by the slowest stage, and one that was not has had the stages for itself.
    pub fn read(&mut self, trip: Trip, rows: u32, stages: u32) {
        let begun = trip.sent_at.max(self.last_back);
        let shared = if self.last_back > trip.sent_at {
            f64::from(stages)
        } else {
            1.0
        };
        let took_s = shared * seconds(trip.back_at.saturating_sub(begun));
        self.last_back = trip.back_at;
        // What is left of a prompt says little about a whole chunk.
        if rows < ROWS_LEAST || took_s <= 0.0 {
            return;
        }
        let speed = f64::from(rows) / took_s;
        self.rows_per_s = Some(match self.rows_per_s {
            Some(known) if known < speed => blend(known, speed),
            _ => speed,
        });
    }

    /// Whether the next step with answers has to go without prompts, so that its time is known.
    pub fn wants_quiet(&self, decoding: u32) -> bool {
        self.token_s.is_none() || self.since >= STALE_AFTER || decoding < self.decoding
    }

    /// Rows of a chunk beside answers, at most `most`.
    pub fn rows_beside(&self, most: u32) -> u32 {
        let least = ROWS_LEAST.min(most);
        let (Some(token_s), Some(rows_per_s)) = (self.token_s, self.rows_per_s) else {
            return least;
        };
        let rows = (PART_OF_TOKEN * token_s).min(CHUNK_S_MAX) * rows_per_s;
        whole(rows).clamp(least, most)
    }
}

fn blend(known: f64, measured: f64) -> f64 {
    known + NEW_PART * (measured - known)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// The whole rows in a measure; saturates.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to the range of u32, and a conversion of floats saturates"
)]
fn whole(rows: f64) -> u32 {
    rows.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trip(sent_ms: u64, back_ms: u64) -> Trip {
        Trip {
            sent_at: Duration::from_millis(sent_ms),
            back_at: Duration::from_millis(back_ms),
        }
    }

    #[test]
    fn chunks_beside_answers_take_about_a_tokens_time() {
        // Milliseconds of a token, rows of a measured chunk and its milliseconds; rows expected of at most 256.
        for (token_ms, rows, took_ms, expected) in [
            (100, 100, 100, 80),
            (10, 128, 1000, 16),
            (500, 128, 100, 256),
            (1000, 100, 1000, 25),
            (1, 4096, 1, 256),
        ] {
            let mut pace = Pace::default();
            assert_eq!(pace.rows_beside(256), 16, "nothing is known");
            pace.answered_alone(trip(0, token_ms), 1);
            assert_eq!(pace.rows_beside(256), 16, "no chunk is known");
            pace.read(trip(5000, 5000 + took_ms), rows, 3);
            assert_eq!(
                pace.rows_beside(256),
                expected,
                "{token_ms} {rows} {took_ms}"
            );
            assert_eq!(pace.rows_beside(8), 8, "never more than a step may have");
        }
    }

    #[test]
    fn a_chunk_that_waited_behind_another_step_is_timed_from_its_end() {
        let mut pace = Pace::default();
        pace.read(trip(0, 100), 100, 2);
        assert_eq!(pace.rows_per_s, Some(1000.0));
        // One of two stages took 50 ms for it; both together 100.
        pace.read(trip(10, 150), 100, 2);
        assert_eq!(pace.rows_per_s, Some(1000.0));
        // Slower counts at once, faster by and by.
        pace.read(trip(200, 400), 100, 2);
        assert_eq!(pace.rows_per_s, Some(500.0));
        pace.read(trip(500, 600), 100, 2);
        assert_eq!(pace.rows_per_s, Some(625.0));
        // The rest of a prompt is no measure.
        pace.read(trip(700, 800), 3, 2);
        assert_eq!(pace.rows_per_s, Some(625.0));
    }

    #[test]
    fn a_token_is_measured_anew_when_fewer_answer_or_much_has_passed() {
        let mut pace = Pace::default();
        assert!(pace.wants_quiet(1));
        pace.answered_alone(trip(0, 80), 3);
        assert!(!pace.wants_quiet(3) && !pace.wants_quiet(4));
        assert!(pace.wants_quiet(2));
        pace.answered_alone(trip(100, 140), 2);
        assert_eq!(pace.token_s, Some(0.04), "of two, not of three");
        for _ in 0..STALE_AFTER {
            assert!(!pace.wants_quiet(2));
            pace.answered_beside(trip(200, 300));
        }
        assert!(pace.wants_quiet(2));
        pace.answered_alone(trip(400, 480), 2);
        assert_eq!(pace.token_s, Some(0.05));
    }
}

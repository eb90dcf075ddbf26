//! What the owner of a household may set about scheduling. Numbers only; nothing here decides.

use std::time::Duration;

/// Bounds of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Requests that may wait for their first step; one more is refused with `queue_full`. Those of one person may not
    /// take the last places: they get up to four fifths of the queue alone, and less the more others wait.
    pub queue_max: u32,
    /// How long a request may wait for its first step before it fails with `queue_timeout`.
    pub queue_deadline: Duration,
    /// How long a step may be under way before its requests fail and [`crate::Output::Suspect`] is told.
    pub step_deadline: Duration,
    /// How long a step may be under way without the mask of one of its tokens before that token's request fails. Bounds
    /// what a constraint can hold up those who share its step.
    pub mask_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_max: 64,
            queue_deadline: Duration::from_secs(600),
            step_deadline: Duration::from_secs(120),
            mask_deadline: Duration::from_secs(5),
        }
    }
}

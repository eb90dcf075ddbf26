//! An answer with a clock beside it: feeds the metrics, changes nothing.

use std::time::Instant;

use crate::gateway::Failure;
use crate::text::{Answer, Delta, Usage};

use super::metrics;

/// An answer under way, timed.
pub(super) struct Observed {
    answer: Answer,
    started: Instant,
    begun: bool,
    /// When the last token of each choice came.
    last: Vec<Option<Instant>>,
}

impl Observed {
    /// Starts the clock at `started`.
    pub(super) fn new(answer: Answer, started: Instant) -> Self {
        Self {
            last: vec![None; answer.choices()],
            answer,
            started,
            begun: false,
        }
    }

    /// As [`Answer::next`]. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        let delta = self.answer.next().await?;
        if let Some(delta) = &delta
            && delta.sampled.is_some()
        {
            self.note(delta.index);
        }
        Ok(delta)
    }

    /// As [`Answer::usage`].
    pub(super) fn usage(&self) -> Usage {
        self.answer.usage()
    }

    fn note(&mut self, choice: u32) {
        let now = Instant::now();
        metrics::token();
        if !std::mem::replace(&mut self.begun, true) {
            metrics::first_token(now.duration_since(self.started).as_secs_f64());
        }
        let place = usize::try_from(choice)
            .ok()
            .and_then(|choice| self.last.get_mut(choice));
        if let Some(last) = place
            && let Some(before) = last.replace(now)
        {
            metrics::inter_token(now.duration_since(before).as_secs_f64());
        }
    }
}

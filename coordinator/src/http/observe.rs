//! An answer with a clock beside it: feeds the metrics and counts for whoever asked, changes nothing.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::gateway::Failure;
use crate::people::Visit;
use crate::text::{Answer, Delta, Usage};

use super::metrics;

/// An answer under way, timed and counted.
pub(super) struct Observed {
    answer: Answer,
    visit: Visit,
    place: Option<watch::Receiver<u32>>,
    started: Instant,
    begun: bool,
    /// When the last token of each choice came.
    last: Vec<Option<Instant>>,
}

/// What a stream is to tell next.
pub(super) enum News {
    /// As [`Observed::next`].
    Next(Result<Option<Delta>, Failure>),
    /// The request's place in the queue is another one, counted from 1.
    Queued(u32),
    /// Nothing happened for a while.
    Silence,
}

/// The place once it is another one; never where there is none to come.
async fn changed(place: Option<&mut watch::Receiver<u32>>) -> u32 {
    if let Some(place) = place
        && place.changed().await.is_ok()
    {
        return *place.borrow_and_update();
    }
    std::future::pending().await
}

impl Observed {
    /// Starts the clock at `started`. The household has taken the request on.
    pub(super) fn new(answer: Answer, visit: Visit, started: Instant) -> Self {
        visit.begin(answer.usage().prompt_tokens);
        Self {
            last: vec![None; answer.choices()],
            place: answer.place(),
            answer,
            visit,
            started,
            begun: false,
        }
    }

    /// As [`Answer::next`]. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        let next = self.answer.next().await;
        self.noted(next)
    }

    /// The next delta, or what is to be told instead: a new place in the queue, or that nothing happened for `silence`.
    /// Cancel-safe.
    pub(super) async fn next_or_news(&mut self, silence: Duration) -> News {
        let place = self.place.as_mut().filter(|_| !self.begun);
        let next = tokio::select! {
            biased;
            next = self.answer.next() => next,
            place = changed(place) => return News::Queued(place),
            () = tokio::time::sleep(silence) => return News::Silence,
        };
        News::Next(self.noted(next))
    }

    fn noted(&mut self, next: Result<Option<Delta>, Failure>) -> Result<Option<Delta>, Failure> {
        if let Ok(Some(delta)) = &next
            && delta.sampled.is_some()
        {
            self.note(delta.index);
        }
        next
    }

    /// As [`Answer::usage`].
    pub(super) fn usage(&self) -> Usage {
        self.answer.usage()
    }

    fn note(&mut self, choice: u32) {
        let now = Instant::now();
        metrics::token();
        self.visit.answered(1);
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

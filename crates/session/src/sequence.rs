//! One choice that runs: its tokens, how far they are sent, and the segments made from them.
//!
//! The one idea: `tokens` and `sampling` are the truth from which everything on the nodes could be rebuilt.

use std::time::Duration;

use proto::step::{Logits, Open, Pooling, Sampled, Sampling, Segment};
use proto::{RequestId, SequenceId};

use crate::output::FinishReason;
use crate::pages::{PagePool, PageTable, Slot};
use crate::person::Person;
use crate::request::len_u32;

/// A sequence that holds a slot.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: SequenceId,
    pub request: RequestId,
    pub person: Person,
    pub choice: u32,
    /// Prompt and what was drawn since.
    pub tokens: Vec<u32>,
    /// Tokens below this position are the prompt.
    pub prompt_len: u32,
    /// Tokens at which the answer ends by length.
    pub limit: u32,
    pub stop_ids: Vec<u32>,
    /// Present: it ends with its prompt, whose rows are pooled.
    pub pooling: Option<Pooling>,
    pub sampling: Sampling,
    pub slot: Slot,
    pub table: PageTable,
    pub progress: Progress,
    /// Steps under way that have a segment of it.
    pub in_flight: u32,
    /// What its drawn rows ask for.
    pub logits: Logits,
    /// Until when the mask of the token under way has to come, if it has not.
    pub unmasked_until: Option<Duration>,
}

/// How far a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Prompt rows from `next` on are not sent yet.
    Prefilling {
        /// Position of the next row.
        next: u32,
    },
    /// The whole prompt is sent, the first token is awaited.
    Prompted,
    /// The newest token can be sent.
    Ready,
    /// The newest token is sent, the one after it is awaited.
    Drawing,
    /// Nothing more is sent; pages and slot are free once no step is under way.
    Closing,
}

/// What comes back for the rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// Nothing.
    Nothing,
    /// A token for this position.
    Token(u32),
    /// The vector of the prompt.
    Vector,
}

/// How far the next token of a choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drawing {
    /// It will be at this position; no step draws it yet.
    Next(u32),
    /// A step under way draws the token at this position and waits for its mask.
    Awaits(SequenceId, u32),
    /// A step under way draws it, its mask has gone.
    Sent,
}

/// Rows of one sequence for a step.
#[derive(Debug)]
pub(crate) struct Rows {
    pub segment: Segment,
    pub tokens: Vec<u32>,
    /// What the last stage gives for them.
    pub gives: Gives,
}

impl Sequence {
    /// Up to `rows_max` (at least 1) prompt rows. `None` unless it is prefilling.
    pub fn chunk(&mut self, pool: &mut PagePool, rows_max: u32) -> Option<Rows> {
        let Progress::Prefilling { next: start } = self.progress else {
            return None;
        };
        let end = start.saturating_add(rows_max).min(self.prompt_len);
        let is_last = end == self.prompt_len;
        self.progress = if is_last {
            Progress::Prompted
        } else {
            Progress::Prefilling { next: end }
        };
        let (logits, gives) = match (self.pooling, is_last) {
            (Some(pooling), true) => (Logits::Pool(pooling), Gives::Vector),
            (Some(pooling), false) => (Logits::Pool(pooling), Gives::Nothing),
            (None, true) => (self.logits, Gives::Token(end)),
            (None, false) => (Logits::None, Gives::Nothing),
        };
        Some(self.rows(pool, start..end, (logits, gives)))
    }

    /// The newest token's row. `None` unless it is ready.
    pub fn row(&mut self, pool: &mut PagePool) -> Option<Rows> {
        if self.progress != Progress::Ready {
            return None;
        }
        self.progress = Progress::Drawing;
        let end = len_u32(self.tokens.len());
        let wanted = (self.logits, Gives::Token(end));
        Some(self.rows(pool, end.saturating_sub(1)..end, wanted))
    }

    fn rows(
        &mut self,
        pool: &mut PagePool,
        span: std::ops::Range<u32>,
        (logits, gives): (Logits, Gives),
    ) -> Rows {
        let open = (span.start == 0).then(|| Open {
            prompt_len: self.prompt_len,
            sampling: self.sampling.clone(),
        });
        let covered = self.tokens.get(span.start as usize..span.end as usize);
        self.in_flight += 1;
        Rows {
            segment: Segment {
                sequence: self.id,
                slot: self.slot.id(),
                start: span.start,
                rows: span.end - span.start,
                logits,
                // Speculation will commit and provide for more than this.
                commit: 0,
                provisional: 0,
                pages: pool.extend(&mut self.table, span.end),
                open,
            },
            tokens: covered.unwrap_or_default().to_vec(),
            gives,
        }
    }

    /// Appends a drawn token; says whether and why the answer ends with it.
    pub fn push(&mut self, sampled: &Sampled) -> Option<FinishReason> {
        self.tokens.push(sampled.token);
        self.progress = Progress::Ready;
        if self.stop_ids.contains(&sampled.token) {
            Some(FinishReason::Stop)
        } else if len_u32(self.tokens.len()) >= self.limit {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Whether somebody waits for its next token, and for nothing else.
    pub fn answers(&self) -> bool {
        self.progress == Progress::Prompted || self.decodes()
    }

    /// Which token is drawn next, and how far that is.
    pub fn drawing(&self) -> Option<Drawing> {
        let position = len_u32(self.tokens.len());
        match self.progress {
            Progress::Prefilling { .. } | Progress::Ready => Some(Drawing::Next(position)),
            Progress::Prompted | Progress::Drawing => Some(match self.unmasked_until {
                Some(_) => Drawing::Awaits(self.id, position),
                None => Drawing::Sent,
            }),
            Progress::Closing => None,
        }
    }

    /// Whether it is past its prompt.
    pub fn decodes(&self) -> bool {
        matches!(self.progress, Progress::Ready | Progress::Drawing)
    }
}

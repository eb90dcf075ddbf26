//! What a slice knows of each sequence: how far it is, where its cache lies, what the sampler has seen.

use std::collections::HashMap;

use proto::SequenceId;
use proto::limits::PAGE_POSITIONS;
use proto::step::{Logits, Open, Segment, Step};

use crate::EngineError;
use crate::pool::RowSum;
use crate::sample::History;
use crate::spec::CacheSpec;

/// One sequence.
#[derive(Debug)]
pub struct Sequence {
    /// Its recurrent-state slot.
    pub slot: u32,
    /// Its page table: page `i` holds positions `64 i .. 64 i + 64`.
    pub pages: Vec<u32>,
    /// Positions that are certain.
    pub len: u32,
    /// Positions after `len` that wait for a commit.
    pub pending: u32,
    /// How it is sampled.
    pub open: Open,
    /// Tokens up to `len + pending`.
    pub history: History,
    /// Rows of the prompt so far, where their mean was asked for.
    pub sum: RowSum,
}

/// All sequences of a slice.
#[derive(Debug, Default)]
pub struct Sequences {
    known: HashMap<SequenceId, Sequence>,
}

/// What has to happen to the recurrent states before the rows of a segment are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The sequence starts: its state is zero.
    Reset,
    /// Keep this many of the provisional rows of the forward before.
    Commit(u32),
}

/// Where the rows of a segment lie in the batch, and what goes before.
#[derive(Debug, Clone)]
pub struct Span {
    /// Whose rows they are.
    pub sequence: SequenceId,
    /// First row of the batch.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first row.
    pub start: u32,
    /// Rows at the end that are provisional.
    pub provisional: usize,
    /// Recurrent-state slot.
    pub slot: u32,
    /// What happens to the recurrent state first.
    pub before: Before,
    /// The page table, up to the last row.
    pub pages: Vec<u32>,
}

fn wrong(what: &'static str, got: impl Into<u64>, expected: impl Into<u64>) -> EngineError {
    EngineError::Step {
        what,
        got: got.into(),
        expected: expected.into(),
    }
}

impl Sequences {
    /// The sequence, if it was opened here.
    pub fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.known.get(&id)
    }

    /// As [`Self::get`], to be changed.
    pub fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.known.get_mut(&id)
    }

    /// Sequences that are open.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Forgets a sequence; forgetting one that is not known is harmless.
    pub fn close(&mut self, id: SequenceId) {
        self.known.remove(&id);
    }

    /// Checks a whole step and only then applies it: a refused step changes nothing.
    ///
    /// # Errors
    /// What does not fit: rows, positions, pages, slots, commits, unknown or repeated sequences.
    pub fn admit(&mut self, step: &Step, cache: &CacheSpec) -> Result<Vec<Span>, EngineError> {
        if step.tokens.len() != step.rows() as usize {
            return Err(wrong("tokens", step.tokens.len() as u64, step.rows()));
        }
        for (i, segment) in step.segments.iter().enumerate() {
            let earlier = step.segments.iter().take(i);
            if earlier.into_iter().any(|s| s.sequence == segment.sequence) {
                return Err(EngineError::RepeatedSequence(segment.sequence.0));
            }
            self.check(segment, cache)?;
        }
        let mut spans = Vec::with_capacity(step.segments.len());
        let mut first_row = 0;
        for segment in &step.segments {
            let rows = segment.rows as usize;
            let tokens = step
                .tokens
                .get(first_row..first_row + rows)
                .unwrap_or_default();
            if let Some(span) = self.apply(segment, tokens, first_row) {
                spans.push(span);
            }
            first_row += rows;
        }
        Ok(spans)
    }

    fn check(&self, s: &Segment, cache: &CacheSpec) -> Result<(), EngineError> {
        let (len, pages) = if s.open.is_some() {
            if s.commit != 0 {
                return Err(wrong("commit of a new sequence", s.commit, 0u32));
            }
            (0, 0)
        } else {
            let known = self
                .known
                .get(&s.sequence)
                .ok_or(EngineError::UnknownSequence(s.sequence.0))?;
            if s.commit > known.pending {
                return Err(wrong("commit", s.commit, known.pending));
            }
            if s.slot != known.slot {
                return Err(wrong("slot", s.slot, known.slot));
            }
            (known.len + s.commit, known.pages.len())
        };
        if s.start != len {
            return Err(wrong("start", s.start, len));
        }
        if s.rows == 0 || s.provisional > s.rows {
            return Err(wrong("rows", s.rows, s.provisional.max(1)));
        }
        if matches!(s.logits, Logits::Pool(_)) {
            self.check_pooled(s)?;
        }
        if s.slot >= cache.slots {
            return Err(wrong("slot", s.slot, cache.slots));
        }
        if let Some(page) = s.pages.iter().find(|page| **page >= cache.pages) {
            return Err(wrong("page", *page, cache.pages));
        }
        let covered = (pages + s.pages.len()) as u64 * u64::from(PAGE_POSITIONS);
        let needed = u64::from(s.start) + u64::from(s.rows);
        if covered < needed {
            return Err(wrong("positions in pages", covered, needed));
        }
        Ok(())
    }

    /// Only rows of the prompt are pooled, and none that may be taken back.
    fn check_pooled(&self, s: &Segment) -> Result<(), EngineError> {
        let known = self.known.get(&s.sequence).map(|known| &known.open);
        let prompt_len = s.open.as_ref().or(known).map_or(0, |open| open.prompt_len);
        if s.provisional != 0 {
            return Err(wrong(
                "provisional rows of a pooled prompt",
                s.provisional,
                0u32,
            ));
        }
        let end = u64::from(s.start) + u64::from(s.rows);
        if end > u64::from(prompt_len) {
            return Err(wrong("end of pooled rows", end, prompt_len));
        }
        Ok(())
    }

    fn apply(&mut self, s: &Segment, tokens: &[u32], first_row: usize) -> Option<Span> {
        let before = match &s.open {
            Some(open) => {
                let fresh = Sequence {
                    slot: s.slot,
                    pages: Vec::new(),
                    len: 0,
                    pending: 0,
                    open: open.clone(),
                    history: History::default(),
                    sum: RowSum::default(),
                };
                self.known.insert(s.sequence, fresh);
                Before::Reset
            }
            None => Before::Commit(s.commit),
        };
        let known = self.known.get_mut(&s.sequence)?;
        let prompt_len = known.open.prompt_len;
        known.len += s.commit;
        known.history.truncate(known.len, prompt_len);
        known.pages.extend(&s.pages);
        for token in tokens {
            known.history.push(*token, prompt_len);
        }
        known.len += s.rows - s.provisional;
        known.pending = s.provisional;
        Some(Span {
            sequence: s.sequence,
            first_row,
            rows: s.rows as usize,
            start: s.start,
            provisional: s.provisional as usize,
            slot: s.slot,
            before,
            pages: known.pages.clone(),
        })
    }
}

//! The text of one choice: tokens in, parts of the answer out.
//!
//! The order is fixed: bytes become characters, characters are split into reasoning and content, and what a client
//! will see as text is watched for stop texts. Nothing that was given out is ever taken back.

use model::{Detokenizer, SpecialText, Tokenizer};

use super::part::Part;
use super::reasoning::{Reasoning, Split, Splitter};
use super::stops::{Scan, StopMatcher};

/// How the text of an answer is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Where reasoning begins.
    pub(crate) reasoning: Reasoning,
}

impl Reading {
    /// Everything is text.
    pub(crate) fn plain() -> Self {
        Self {
            reasoning: Reasoning::Off,
        }
    }
}

/// Why a choice is complete, as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// An end id.
    Stop,
    /// A stop text: its number among those that were asked for.
    StopText(usize),
    /// `max_tokens` or the context is used up.
    Length,
    /// The model ended, and wants the results of what it called.
    ToolCalls,
}

/// What one token added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// What was written, in order.
    pub(super) parts: Vec<Part>,
    /// Characters that were there before the token, held ones included.
    pub(super) offset: u64,
    /// Present if the choice is complete.
    pub(super) finish: Option<Finish>,
    /// Whether it is complete because of what was written: the household does not know yet.
    pub(super) stopped_here: bool,
}

/// Which text a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
}

/// One choice under way.
#[derive(Debug)]
pub(super) struct ChoiceText {
    characters: Detokenizer,
    splitter: Splitter,
    stops: StopMatcher,
    /// What the text is that the stop matcher holds.
    kind: Kind,
    offset: u64,
    done: bool,
}

impl ChoiceText {
    pub(super) fn new(tokenizer: &Tokenizer, stops: &[String], reading: &Reading) -> Self {
        Self {
            characters: tokenizer.detokenizer(SpecialText::Skip),
            splitter: Splitter::new(reading.reasoning),
            stops: StopMatcher::new(stops),
            kind: Kind::Text,
            offset: 0,
            done: false,
        }
    }

    /// Whether the choice is complete; no token counts after that.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the next token belongs to the reasoning.
    pub(super) fn reasoning(&self) -> bool {
        self.splitter.inside()
    }

    /// Takes a token. The text of an end id is never shown.
    pub(super) fn token(&mut self, id: u32, finish: Option<Finish>) -> Piece {
        let text = match finish {
            Some(Finish::Stop) => String::new(),
            _ => self.characters.push(id),
        };
        self.text(text, finish)
    }

    /// The choice is complete without a further token.
    pub(super) fn end(&mut self, finish: Finish) -> Piece {
        self.text(String::new(), Some(finish))
    }

    fn text(&mut self, mut text: String, finish: Option<Finish>) -> Piece {
        let offset = self.offset;
        if finish.is_some() {
            text.push_str(&self.characters.finish());
        }
        let count = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(count);
        let mut parts = Vec::new();
        let stop = self.split(&text, finish, &mut parts);
        let finish = stop.map(Finish::StopText).or(finish);
        self.done = finish.is_some();
        Piece {
            parts,
            offset,
            finish,
            stopped_here: stop.is_some(),
        }
    }

    /// The number of the stop text if one is found.
    fn split(
        &mut self,
        text: &str,
        finish: Option<Finish>,
        parts: &mut Vec<Part>,
    ) -> Option<usize> {
        let mut split = self.splitter.push(text);
        if finish.is_some() {
            let Split { reasoning, content } = self.splitter.finish();
            split.reasoning.push_str(&reasoning);
            split.content.push_str(&content);
        }
        let stop = self
            .watch(Kind::Reasoning, &split.reasoning, parts)
            .or_else(|| self.watch(Kind::Text, &split.content, parts));
        if stop.is_none() && finish.is_some() {
            self.release(parts);
        }
        stop
    }

    /// Looks for stop texts in what a client will see. Texts of two kinds never make one stop text together.
    fn watch(&mut self, kind: Kind, text: &str, parts: &mut Vec<Part>) -> Option<usize> {
        if text.is_empty() {
            return None;
        }
        if self.kind != kind {
            self.release(parts);
            self.kind = kind;
        }
        let (text, stop) = match self.stops.push(text) {
            Scan::Going(text) => (text, None),
            Scan::Stopped { before, stop } => (before, Some(stop)),
        };
        show(kind, text, parts);
        stop
    }

    /// Gives out what was held back for a stop text.
    fn release(&mut self, parts: &mut Vec<Part>) {
        let held = self.stops.finish();
        show(self.kind, held, parts);
    }
}

/// Adds a text to the parts, to the last one if that is of its kind.
fn show(kind: Kind, text: String, parts: &mut Vec<Part>) {
    if text.is_empty() {
        return;
    }
    match (kind, parts.last_mut()) {
        (Kind::Reasoning, Some(Part::Reasoning(last))) | (Kind::Text, Some(Part::Text(last))) => {
            last.push_str(&text);
        }
        (Kind::Reasoning, _) => parts.push(Part::Reasoning(text)),
        (Kind::Text, _) => parts.push(Part::Text(text)),
    }
}

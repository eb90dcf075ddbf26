//! The text of one choice: tokens in, parts of the answer out.
//!
//! The order is fixed: bytes become characters, characters are split into reasoning and content, calls are taken out of
//! the content, and what a client will see as text is watched for stop texts. So a stop text never cuts a call, though
//! it may well occur in a call's arguments. Nothing that was given out is ever taken back.

#[cfg(test)]
mod tests;

use model::{Detokenizer, SpecialText, Specials, Tokenizer};

use super::part::Part;
use super::reasoning::{self, Reasoning, Split, Splitter};
use super::stops::{Scan, StopMatcher};
use super::tools::{CallEvent, CallReader, CallReading, Ending};

/// How the text of an answer is read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// Where reasoning begins.
    pub(crate) reasoning: Reasoning,
    /// How calls are written; `None` if there can be none.
    pub(crate) calls: Option<CallReading>,
}

impl Reading {
    /// Everything is text.
    pub(crate) fn plain() -> Self {
        Self {
            reasoning: Reasoning::Off,
            calls: None,
        }
    }

    /// Texts that mean something to this reading, and would not be seen where they are control tokens.
    fn markers(&self) -> impl Iterator<Item = &'static str> {
        let reasoning: &[&str] = match self.reasoning {
            Reasoning::Off => &[],
            Reasoning::Watch | Reasoning::Inside => &reasoning::MARKERS,
        };
        let calls = self.calls.as_ref().map(|calls| calls.style.markers());
        reasoning.iter().chain(calls.into_iter().flatten()).copied()
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
    /// Control tokens that are shown all the same, with their texts.
    shown: Vec<(u32, &'static str)>,
    splitter: Splitter,
    calls: Option<CallReader>,
    stops: StopMatcher,
    /// What the text is that the stop matcher holds.
    kind: Kind,
    /// Calls that began.
    begun: u32,
    /// Calls that are complete.
    complete: u32,
    offset: u64,
    done: bool,
}

impl ChoiceText {
    pub(super) fn new(tokenizer: &Tokenizer, stops: &[String], reading: &Reading) -> Self {
        Self {
            characters: tokenizer.detokenizer(SpecialText::Skip),
            shown: reading
                .markers()
                .filter_map(|marker| Some((control_token(tokenizer, marker)?, marker)))
                .collect(),
            splitter: Splitter::new(reading.reasoning),
            calls: reading.calls.clone().map(CallReader::new),
            stops: StopMatcher::new(stops),
            kind: Kind::Text,
            begun: 0,
            complete: 0,
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
            _ => self.characters(id),
        };
        self.text(text, finish)
    }

    /// The choice is complete without a further token.
    pub(super) fn end(&mut self, finish: Finish) -> Piece {
        self.text(String::new(), Some(finish))
    }

    fn characters(&mut self, id: u32) -> String {
        match self.shown.iter().find(|(shown, _)| *shown == id) {
            // A character that is not whole by now never will be.
            Some((_, marker)) => self.characters.finish() + marker,
            None => self.characters.push(id),
        }
    }

    fn text(&mut self, mut text: String, finish: Option<Finish>) -> Piece {
        let offset = self.offset;
        if finish.is_some() {
            text.push_str(&self.characters.finish());
        }
        let count = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(count);
        let mut parts = Vec::new();
        let stopped = self.split(&text, finish, &mut parts);
        let finish = match stopped.or(finish) {
            // Whoever made calls waits for their results, whatever was written behind them.
            Some(Finish::Stop | Finish::StopText(_)) if self.complete > 0 => {
                Some(Finish::ToolCalls)
            }
            finish => finish,
        };
        self.done = finish.is_some();
        Piece {
            parts,
            offset,
            finish,
            stopped_here: stopped.is_some(),
        }
    }

    /// Present if what was written ends the choice.
    fn split(
        &mut self,
        text: &str,
        finish: Option<Finish>,
        parts: &mut Vec<Part>,
    ) -> Option<Finish> {
        let mut split = self.splitter.push(text);
        if finish.is_some() {
            let Split { reasoning, content } = self.splitter.finish();
            split.reasoning.push_str(&reasoning);
            split.content.push_str(&content);
        }
        let stopped = self
            .watch(Kind::Reasoning, &split.reasoning, parts)
            .or_else(|| self.content(&split.content, finish, parts));
        if stopped.is_none() && finish.is_some() {
            self.release(parts);
        }
        stopped
    }

    /// Takes the calls out of the content.
    fn content(
        &mut self,
        text: &str,
        finish: Option<Finish>,
        parts: &mut Vec<Part>,
    ) -> Option<Finish> {
        let Some(reader) = &mut self.calls else {
            return self.watch(Kind::Text, text, parts);
        };
        let mut events = reader.push(text);
        let over = reader.is_over();
        match finish {
            None => {}
            Some(Finish::Length) => events.extend(reader.finish(Ending::Cut)),
            Some(_) => events.extend(reader.finish(Ending::Own)),
        }
        for event in events {
            let stopped = self.event(event, parts);
            if stopped.is_some() {
                return stopped;
            }
        }
        over.then_some(Finish::ToolCalls)
    }

    fn event(&mut self, event: CallEvent, parts: &mut Vec<Part>) -> Option<Finish> {
        let call = self.begun.saturating_sub(1);
        match event {
            CallEvent::Text(text) => return self.watch(Kind::Text, &text, parts),
            CallEvent::Begin { name } => {
                self.release(parts);
                parts.push(Part::CallBegin {
                    call: self.begun,
                    id: call_id(),
                    name,
                });
                self.begun = self.begun.saturating_add(1);
            }
            CallEvent::Arguments(json) => parts.push(Part::CallArguments { call, json }),
            CallEvent::End => {
                self.complete = self.complete.saturating_add(1);
                parts.push(Part::CallEnd { call });
            }
        }
        None
    }

    /// Looks for stop texts in what a client will see. Texts of two kinds never make one stop text together.
    fn watch(&mut self, kind: Kind, text: &str, parts: &mut Vec<Part>) -> Option<Finish> {
        if text.is_empty() {
            return None;
        }
        if self.kind != kind {
            self.release(parts);
            self.kind = kind;
        }
        let (text, stop) = match self.stops.push(text) {
            Scan::Going(text) => (text, None),
            Scan::Stopped { before, stop } => (before, Some(Finish::StopText(stop))),
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

/// The control token of a text, if it is one.
fn control_token(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    match tokenizer.encode(text, Specials::Parse).ok()?.as_slice() {
        [id] if tokenizer.is_special(*id) => Some(*id),
        _ => None,
    }
}

/// A name for a call under which its result comes back.
fn call_id() -> String {
    format!("call_{:024x}", rand::random::<u128>() >> 32)
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

//! Finds the calls in an answer that arrives in pieces.
//!
//! Goes character by character, so that the result cannot depend on the cuts. White space around calls belongs to
//! them and is dropped. Before a name is known, everything since the markup began is kept, to be text after all.

use super::events::{CallEvent, Ending, Events, Flow, text};
use super::json_call::{JsonCall, Names};
use super::xml_call::XmlCall;
use super::{CallReading, CallStyle, FUNCTION, PYTHON_TAG, TOOL_CALL, TOOL_CALL_END};
use crate::text::chat::Parallel;
use crate::text::stops::open_suffix;

/// Bytes of markup without a name after which it is taken for text.
const UNNAMED_BYTES_MAX: usize = 4096;
/// Bytes of white space that are held back because a call may follow.
const SPACE_BYTES_MAX: usize = 64;

#[derive(Debug, Clone)]
enum State {
    /// Text; what is held may be the beginning of markup, with white space before it.
    Text,
    /// At a place where a bare JSON object is a call: the beginning of an answer, or behind a call.
    Bare,
    /// Behind `<tool_call>`: what kind of call it is has yet to be seen.
    Opening,
    Json(JsonCall),
    Xml(XmlCall),
    /// Behind a call: its closing markup may follow.
    Closing,
    /// The one call that was wanted is there.
    Over,
}

/// Reads one answer.
#[derive(Debug, Clone)]
pub(in crate::text) struct CallReader {
    reading: CallReading,
    state: State,
    held: String,
    /// The markup of a call whose name is not known yet, opening markup included.
    raw: String,
    /// The opening markup itself; empty if there is none.
    marker: &'static str,
    /// Bytes of the kept markup that are text for certain if this is no call: white space and the opening.
    opening: usize,
    /// Characters still to be looked at, the next one last.
    ahead: Vec<char>,
    /// Whether nothing but white space was written since the last call.
    after_call: bool,
}

impl CallReader {
    pub(in crate::text) fn new(reading: CallReading) -> Self {
        Self {
            state: match reading.style {
                CallStyle::Llama => State::Bare,
                CallStyle::Xml | CallStyle::Hermes => State::Text,
            },
            reading,
            held: String::new(),
            raw: String::new(),
            marker: "",
            opening: 0,
            ahead: Vec::new(),
            after_call: false,
        }
    }

    /// Whether no further text counts.
    pub(in crate::text) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes the next piece.
    pub(in crate::text) fn push(&mut self, piece: &str) -> Vec<CallEvent> {
        let mut events = Vec::new();
        for c in piece.chars() {
            self.ahead.push(c);
            while let Some(c) = self.ahead.pop() {
                self.character(c, &mut events);
            }
        }
        events
    }

    /// What was held back, now that nothing follows.
    pub(in crate::text) fn finish(&mut self, ending: Ending) -> Vec<CallEvent> {
        let mut events = Vec::new();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Json(call) if call.may_end() => events.push(CallEvent::End),
            State::Xml(call) if call.begun() => call.finish(ending, &mut events),
            State::Json(call) if call.begun() => {}
            State::Json(_) | State::Xml(_) | State::Opening => {
                // Not looked at again: it would have to be looked at as often as markup begins in it.
                let raw = std::mem::take(&mut self.raw);
                self.say(&raw, &mut events);
            }
            State::Text | State::Bare => {
                let held = std::mem::take(&mut self.held);
                self.say(&held, &mut events);
            }
            State::Closing => {
                let held = std::mem::take(&mut self.held);
                self.say(held.trim_start(), &mut events);
            }
            State::Over => {}
        }
        events
    }

    fn character(&mut self, c: char, events: &mut Events) {
        match &mut self.state {
            State::Text => self.in_text(c, events),
            State::Bare => self.bare(c),
            State::Opening => {
                self.raw.push(c);
                self.opening(c, events);
            }
            State::Json(call) => {
                if !call.begun() {
                    self.raw.push(c);
                }
                let flow = call.push(c, &self.reading, events);
                let begun = call.begun();
                self.went(flow, begun, c, events);
            }
            State::Xml(call) => {
                if !call.begun() {
                    self.raw.push(c);
                }
                let flow = call.push(c, &self.reading, events);
                let begun = call.begun();
                self.went(flow, begun, c, events);
            }
            State::Closing => self.closing(c),
            State::Over => {}
        }
    }

    /// Texts at which a call begins.
    fn openings(&self) -> &'static [&'static str] {
        match self.reading.style {
            // Some models forget the first tag.
            CallStyle::Xml => &[TOOL_CALL, FUNCTION],
            CallStyle::Hermes => &[TOOL_CALL],
            CallStyle::Llama => &[PYTHON_TAG],
        }
    }

    fn in_text(&mut self, c: char, events: &mut Events) {
        self.held.push(c);
        let openings = self.openings();
        let found = openings.iter().find(|tag| self.held.ends_with(**tag));
        if let Some(marker) = found {
            let before = self.held.len().saturating_sub(marker.len());
            let words = self.held.get(..before).unwrap_or_default().trim_end().len();
            let markup = self.held.split_off(words);
            let words = std::mem::take(&mut self.held);
            self.say(&words, events);
            self.open(marker, markup);
            return;
        }
        let open = openings
            .iter()
            .map(|tag| open_suffix(&self.held, tag))
            .max()
            .unwrap_or(0);
        let solid = self.held.len().saturating_sub(open);
        let mut keep = self.held.get(..solid).unwrap_or_default().trim_end().len();
        if solid.saturating_sub(keep) > SPACE_BYTES_MAX {
            keep = solid;
        }
        if keep > 0 {
            let rest = self.held.split_off(keep);
            let ready = std::mem::replace(&mut self.held, rest);
            self.say(&ready, events);
        }
    }

    /// Opening markup was read, with white space before it.
    fn open(&mut self, marker: &'static str, markup: String) {
        self.marker = marker;
        self.opening = markup.len();
        self.raw = markup;
        self.state = if marker == FUNCTION {
            State::Xml(XmlCall::new(Names::Offered))
        } else {
            State::Opening
        };
    }

    fn opening(&mut self, c: char, events: &mut Events) {
        let markup = self.raw.get(self.opening..).unwrap_or_default();
        match markup.trim_start() {
            "" if markup.len() <= SPACE_BYTES_MAX => {}
            "{" => self.state = State::Json(JsonCall::new(Names::Any)),
            FUNCTION if self.marker == TOOL_CALL => {
                self.state = State::Xml(XmlCall::new(Names::Any));
            }
            begun
                if self.marker == TOOL_CALL && FUNCTION.starts_with(begun) && !begun.is_empty() => {
            }
            _ => self.went(Flow::Broken, false, c, events),
        }
    }

    fn bare(&mut self, c: char) {
        self.held.push(c);
        let space = c.is_whitespace() || (self.after_call && c == ';');
        if c == '{' {
            self.marker = "";
            self.raw = std::mem::take(&mut self.held);
            self.opening = self.raw.len();
            self.state = State::Json(JsonCall::new(Names::Offered));
        } else if !space || self.held.len() > SPACE_BYTES_MAX {
            self.state = State::Text;
            let held = std::mem::take(&mut self.held);
            self.again(&held);
        }
    }

    /// What a call made of a character.
    fn went(&mut self, flow: Flow, begun: bool, c: char, events: &mut Events) {
        match flow {
            Flow::Going if begun || self.raw.len() <= UNNAMED_BYTES_MAX => {}
            Flow::Done { behind } => {
                self.after_call = true;
                self.raw.clear();
                self.state = match (self.reading.parallel, self.reading.style) {
                    (Parallel::One, _) => State::Over,
                    (Parallel::Any, CallStyle::Llama) => State::Bare,
                    (Parallel::Any, CallStyle::Xml | CallStyle::Hermes) => State::Closing,
                };
                self.again(&behind);
            }
            Flow::Broken if begun => {
                self.after_call = false;
                self.state = State::Text;
                self.ahead.push(c);
            }
            Flow::Going | Flow::Broken => {
                // The markup, or the brace that looked like a call, is text; what follows is looked at anew.
                let raw = std::mem::take(&mut self.raw);
                let (certain, rest) = raw.split_at_checked(self.opening).unwrap_or((&raw, ""));
                self.state = State::Text;
                self.say(certain, events);
                self.again(rest);
            }
        }
    }

    /// White space, braces too many and the closing tag are passed over.
    fn closing(&mut self, c: char) {
        self.held.push(c);
        let markup = self
            .held
            .trim_start_matches(|c: char| c.is_whitespace() || c == '}');
        let over = markup == TOOL_CALL_END;
        if over || !TOOL_CALL_END.starts_with(markup) {
            let rest = if over {
                String::new()
            } else {
                markup.to_owned()
            };
            self.held.clear();
            self.state = State::Text;
            self.again(&rest);
        } else if markup.is_empty() {
            self.held.clear();
        }
    }

    /// Puts characters back in front of those to come.
    fn again(&mut self, text: &str) {
        self.ahead.extend(text.chars().rev());
    }

    /// Gives text out. Behind a call it begins with its first character that is no white space.
    fn say(&mut self, words: &str, events: &mut Events) {
        let words = if self.after_call {
            words.trim_start()
        } else {
            words
        };
        if !words.is_empty() {
            self.after_call = false;
            text(events, words);
        }
    }
}

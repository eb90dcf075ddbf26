//! A call written as tags: a function with parameters whose values are plain text.
//!
//! The tags have no escapes, so a value ends at the first closing tag; one line break on either side belongs to the
//! tags. Values whose schema allows strings alone are given out as they come, others when they are whole.

use super::events::{CallEvent, Ending, Events, Flow, arguments};
use super::json::escaped;
use super::json_call::Names;
use super::typed::Kinds;
use super::{CallReading, FUNCTION_END, PARAMETER, PARAMETER_END, TOOL_CALL, TOOL_CALL_END};
use crate::text::chat::Tool;
use crate::text::stops::open_suffix;

/// Bytes of a parameter's name.
const KEY_BYTES_MAX: usize = 256;
/// How the closing tag stands on a line of its own.
const PARAMETER_END_LINE: &str = "\n</parameter>";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Name,
    /// Between parameters: everything but tags is passed over.
    Between,
    Key,
    /// Before the first character of a value.
    ValueStart,
    Value,
}

/// Reads one call, `<function=` already taken.
#[derive(Debug, Clone)]
pub(super) struct XmlCall {
    names: Names,
    state: State,
    /// The name, key, value or tag that is being read.
    held: String,
    name: String,
    kinds: Kinds,
    begun: bool,
    /// Parameters given out so far.
    parameters: u32,
}

impl XmlCall {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: State::Name,
            held: String::new(),
            name: String::new(),
            kinds: Kinds::default(),
            begun: false,
            parameters: 0,
        }
    }

    /// Whether the call was given out.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// The answer ended here. A model that ended by itself between two parameters had said all; an answer that was cut
    /// off there may lack some.
    pub(super) fn finish(&self, ending: Ending, events: &mut Events) {
        if self.begun && self.state == State::Between && ending == Ending::Own {
            self.end(events);
        }
    }

    /// Takes a character.
    pub(super) fn push(&mut self, c: char, reading: &CallReading, events: &mut Events) -> Flow {
        match self.state {
            State::Name => self.name(c, reading, events),
            State::Between => self.between(c, events),
            State::Key => self.key(c, reading, events),
            State::ValueStart => {
                self.state = State::Value;
                if c == '\n' {
                    Flow::Going
                } else {
                    self.value(c, events)
                }
            }
            State::Value => self.value(c, events),
        }
    }

    fn name(&mut self, c: char, reading: &CallReading, events: &mut Events) -> Flow {
        if c != '>' {
            self.held.push(c);
            return if Tool::is_name(&self.held) {
                Flow::Going
            } else {
                Flow::Broken
            };
        }
        let known = Tool::is_name(&self.held)
            && (self.names == Names::Any || reading.tool(&self.held).is_some());
        if !known {
            return Flow::Broken;
        }
        self.name = std::mem::take(&mut self.held);
        self.begun = true;
        self.state = State::Between;
        events.push(CallEvent::Begin {
            name: self.name.clone(),
        });
        Flow::Going
    }

    fn between(&mut self, c: char, events: &mut Events) -> Flow {
        if self.held.is_empty() && c != '<' {
            return Flow::Going;
        }
        self.held.push(c);
        match self.held.as_str() {
            PARAMETER => {
                self.held.clear();
                self.state = State::Key;
            }
            FUNCTION_END => {
                self.end(events);
                return Flow::Done {
                    behind: String::new(),
                };
            }
            // The function's own closing tag is missing.
            TOOL_CALL_END | TOOL_CALL => {
                self.end(events);
                return Flow::Done {
                    behind: std::mem::take(&mut self.held),
                };
            }
            held => {
                let tags = [PARAMETER, FUNCTION_END, TOOL_CALL_END, TOOL_CALL];
                if !tags.iter().any(|tag| tag.starts_with(held)) {
                    self.held.clear();
                    if c == '<' {
                        self.held.push(c);
                    }
                }
            }
        }
        Flow::Going
    }

    fn key(&mut self, c: char, reading: &CallReading, events: &mut Events) -> Flow {
        if c != '>' {
            self.held.push(c);
            return if self.held.len() <= KEY_BYTES_MAX {
                Flow::Going
            } else {
                Flow::Broken
            };
        }
        let key = std::mem::take(&mut self.held);
        self.kinds = Kinds::of(reading.tool(&self.name), &key);
        let before = if self.parameters == 0 { "{" } else { ", " };
        let quote = if self.kinds.verbatim() { "\"" } else { "" };
        let json = format!("{before}\"{}\": {quote}", escaped(&key));
        arguments(events, &json);
        self.parameters = self.parameters.saturating_add(1);
        self.state = State::ValueStart;
        Flow::Going
    }

    fn value(&mut self, c: char, events: &mut Events) -> Flow {
        self.held.push(c);
        if let Some(value) = self.held.strip_suffix(PARAMETER_END) {
            let value = value.strip_suffix('\n').unwrap_or(value);
            let json = if self.kinds.verbatim() {
                format!("{}\"", escaped(value))
            } else {
                self.kinds.json(value)
            };
            arguments(events, &json);
            self.held.clear();
            self.state = State::Between;
        } else if self.kinds.verbatim() {
            let kept = open_suffix(&self.held, PARAMETER_END_LINE)
                .max(open_suffix(&self.held, PARAMETER_END));
            let rest = self.held.split_off(self.held.len().saturating_sub(kept));
            let value = std::mem::replace(&mut self.held, rest);
            arguments(events, &escaped(&value));
        }
        Flow::Going
    }

    fn end(&self, events: &mut Events) {
        arguments(events, if self.parameters == 0 { "{}" } else { "}" });
        events.push(CallEvent::End);
    }
}

//! A call written as a JSON object with a name and arguments.
//!
//! The arguments are given out as they come once the name is known; before that they are held. Other members are
//! skipped.

use super::CallReading;
use super::events::{CallEvent, Events, Flow, arguments};
use super::json::{JsonScanner, Step};
use crate::text::chat::Tool;

/// Which names count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Every one that can be a tool's: the markup says that this is a call.
    Any,
    /// Those of offered tools alone, with arguments: it could as well be an answer in JSON.
    Offered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    KeyOrEnd,
    Key,
    Colon,
    Value,
    Name,
    /// Arguments that are given out as they come.
    Stream,
    /// Arguments that have to be whole first.
    Held,
    Skip,
    After,
}

/// Reads one call, its opening brace already taken.
#[derive(Debug, Clone)]
pub(super) struct JsonCall {
    names: Names,
    state: State,
    scanner: JsonScanner,
    /// The key, name or held arguments that are being read.
    text: String,
    key: String,
    name: Option<String>,
    arguments: Option<String>,
    begun: bool,
    /// Whether all of the arguments are there.
    whole: bool,
}

impl JsonCall {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: State::KeyOrEnd,
            scanner: JsonScanner::new(),
            text: String::new(),
            key: String::new(),
            name: None,
            arguments: None,
            begun: false,
            whole: false,
        }
    }

    /// Whether the call was given out.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the answer may end here and leave a complete call.
    pub(super) fn may_end(&self) -> bool {
        self.begun && self.whole
    }

    /// Takes a character.
    pub(super) fn push(&mut self, c: char, reading: &CallReading, events: &mut Events) -> Flow {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match self.state {
            State::KeyOrEnd | State::Colon | State::Value | State::After if space => Flow::Going,
            State::KeyOrEnd => match c {
                '"' => self.scan(State::Key, c),
                '}' => self.end(events),
                _ => Flow::Broken,
            },
            State::Key => self.key(c),
            State::Colon if c == ':' => self.go(State::Value),
            State::Colon => Flow::Broken,
            State::Value => self.value(c, events),
            State::Name => self.name(c, reading),
            State::Stream => self.stream(c, events),
            State::Held => self.held(c, events),
            State::Skip => self.skip(c, events),
            State::After => self.after(c, events),
        }
    }

    fn go(&mut self, state: State) -> Flow {
        self.state = state;
        Flow::Going
    }

    /// Begins to read a value whose first character is `c`.
    fn scan(&mut self, state: State, c: char) -> Flow {
        self.scanner = JsonScanner::new();
        self.text.clear();
        match self.scanner.push(c, &mut self.text) {
            Step::Going => self.go(state),
            _ => Flow::Broken,
        }
    }

    fn key(&mut self, c: char) -> Flow {
        match self.scanner.push(c, &mut self.text) {
            Step::Going => Flow::Going,
            Step::Done => match serde_json::from_str(&self.text) {
                Ok(key) => {
                    self.key = key;
                    self.go(State::Colon)
                }
                Err(_) => Flow::Broken,
            },
            Step::DoneBefore | Step::Broken => Flow::Broken,
        }
    }

    fn value(&mut self, c: char, events: &mut Events) -> Flow {
        let arguments_here = matches!(self.key.as_str(), "arguments" | "parameters")
            && !self.whole
            && self.arguments.is_none();
        match (self.key.as_str(), c) {
            ("name", '"') if self.name.is_none() => self.scan(State::Name, c),
            ("name", _) if self.name.is_none() => Flow::Broken,
            (_, '{') if arguments_here && self.name.is_some() => {
                self.begin(events);
                let flow = self.scan(State::Stream, c);
                self.give(events);
                flow
            }
            (_, '{' | '"' | 'n') if arguments_here => self.scan(State::Held, c),
            _ if arguments_here => Flow::Broken,
            _ => self.scan(State::Skip, c),
        }
    }

    fn name(&mut self, c: char, reading: &CallReading) -> Flow {
        match self.scanner.push(c, &mut self.text) {
            Step::Going => Flow::Going,
            Step::Done => match serde_json::from_str::<String>(&self.text) {
                Ok(name)
                    if Tool::is_name(&name)
                        && (self.names == Names::Any || reading.tool(&name).is_some()) =>
                {
                    self.name = Some(name);
                    self.go(State::After)
                }
                Ok(_) | Err(_) => Flow::Broken,
            },
            Step::DoneBefore | Step::Broken => Flow::Broken,
        }
    }

    fn stream(&mut self, c: char, events: &mut Events) -> Flow {
        let step = self.scanner.push(c, &mut self.text);
        self.give(events);
        match step {
            Step::Going => Flow::Going,
            Step::Done => {
                self.whole = true;
                self.go(State::After)
            }
            Step::DoneBefore | Step::Broken => Flow::Broken,
        }
    }

    fn held(&mut self, c: char, events: &mut Events) -> Flow {
        match self.scanner.push(c, &mut self.text) {
            Step::Going => Flow::Going,
            Step::Done => match object(&self.text) {
                Some(json) => {
                    self.arguments = Some(json);
                    if self.name.is_some() {
                        self.begin(events);
                    }
                    self.go(State::After)
                }
                None => Flow::Broken,
            },
            Step::DoneBefore | Step::Broken => Flow::Broken,
        }
    }

    fn skip(&mut self, c: char, events: &mut Events) -> Flow {
        // What is skipped is not kept.
        self.text.clear();
        match self.scanner.push(c, &mut self.text) {
            Step::Going => Flow::Going,
            Step::Done => self.go(State::After),
            Step::DoneBefore => {
                self.state = State::After;
                self.push_after(c, events)
            }
            Step::Broken => Flow::Broken,
        }
    }

    fn push_after(&mut self, c: char, events: &mut Events) -> Flow {
        if matches!(c, ' ' | '\t' | '\n' | '\r') {
            Flow::Going
        } else {
            self.after(c, events)
        }
    }

    fn after(&mut self, c: char, events: &mut Events) -> Flow {
        match c {
            ',' => self.go(State::KeyOrEnd),
            '}' => self.end(events),
            // All that matters is there; a missing brace does not spoil it.
            _ if self.may_end() => {
                events.push(CallEvent::End);
                Flow::Done {
                    behind: c.to_string(),
                }
            }
            _ => Flow::Broken,
        }
    }

    fn end(&mut self, events: &mut Events) -> Flow {
        let complete = match self.names {
            Names::Any => self.name.is_some(),
            Names::Offered => self.name.is_some() && (self.whole || self.arguments.is_some()),
        };
        if !complete {
            return Flow::Broken;
        }
        if !self.begun {
            self.arguments.get_or_insert_with(|| "{}".to_owned());
            self.begin(events);
        }
        events.push(CallEvent::End);
        Flow::Done {
            behind: String::new(),
        }
    }

    /// Gives the call out, with the arguments if they were held.
    fn begin(&mut self, events: &mut Events) {
        self.begun = true;
        events.push(CallEvent::Begin {
            name: self.name.clone().unwrap_or_default(),
        });
        if let Some(json) = self.arguments.take() {
            arguments(events, &json);
            self.whole = true;
        }
    }

    fn give(&mut self, events: &mut Events) {
        arguments(events, &self.text);
        self.text.clear();
    }
}

/// The object that arguments stand for: themselves, the text of one, or nothing.
fn object(json: &str) -> Option<String> {
    use serde_json::Value;
    match serde_json::from_str(json).ok()? {
        Value::Object(_) => Some(json.to_owned()),
        Value::Null => Some("{}".to_owned()),
        Value::String(text) => match serde_json::from_str(&text).ok()? {
            object @ Value::Object(_) => Some(object.to_string()),
            _ => None,
        },
        _ => None,
    }
}

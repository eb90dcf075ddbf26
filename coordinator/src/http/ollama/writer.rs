//! Writes the answers of `/api/chat` and `/api/generate`: lines, or one object.
//!
//! Times are measured: what came before the first token is the prompt's, the rest is the answer's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::http::dialect::Dialect;
use crate::http::error::{ApiError, ErrorForm};
use crate::http::frames::{Frames, Wire, Written};
use crate::text::{Delta, Finish, Part, Usage};

use super::clock::rfc3339;

/// Which of the two is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// A message.
    Chat,
    /// A text.
    Generate,
}

/// Writes one answer.
pub(super) struct Writer {
    route: Route,
    /// As the client calls it.
    model: String,
    started: Instant,
    first_token: Option<Instant>,
    /// A call that is not complete.
    open: Option<OpenCall>,
    /// What a whole answer has so far.
    said: Said,
    finish: Option<Finish>,
}

struct OpenCall {
    id: String,
    name: String,
    arguments: String,
}

/// What one line, or the whole answer, says.
#[derive(Debug, Default)]
struct Said {
    content: String,
    thinking: String,
    calls: Vec<Called>,
}

#[derive(Debug, Serialize)]
struct Called {
    id: String,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: Map<String, Value>,
}

#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(flatten)]
    body: Body,
    done: bool,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Chat {
        message: Message,
    },
    Generate {
        response: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        thinking: String,
    },
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Called>,
}

/// What the last line adds. Durations are nanoseconds.
#[derive(Serialize)]
struct End {
    done_reason: &'static str,
    #[serde(flatten)]
    counts: Option<Counts>,
}

#[derive(Serialize)]
struct Counts {
    total_duration: u64,
    /// The model is in memory.
    load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl Writer {
    /// A writer whose clock began at `started`.
    pub(super) fn new(route: Route, model: String, started: Instant) -> Self {
        Self {
            route,
            model,
            started,
            first_token: None,
            open: None,
            said: Said::default(),
            finish: None,
        }
    }

    /// The answer to a client that only wants the model to be loaded.
    pub(super) fn loaded(self) -> impl Serialize {
        let end = End {
            done_reason: "load",
            counts: None,
        };
        self.line(Said::default(), Some(end)).owned()
    }

    fn line(&self, said: Said, end: Option<End>) -> Line<'_> {
        Line {
            model: &self.model,
            created_at: now(),
            body: match self.route {
                Route::Chat => Body::Chat {
                    message: Message {
                        role: "assistant",
                        content: said.content,
                        thinking: said.thinking,
                        tool_calls: said.calls,
                    },
                },
                Route::Generate => Body::Generate {
                    response: said.content,
                    thinking: said.thinking,
                },
            },
            done: end.is_some(),
            end,
        }
    }

    fn end(&self, usage: Usage) -> End {
        let now = Instant::now();
        // An answer without a token took all its time for the prompt.
        let first = self.first_token.unwrap_or(now);
        let eval = now.duration_since(first);
        let prompt = first.duration_since(self.started);
        End {
            done_reason: match self.finish {
                Some(Finish::Length) => "length",
                _ => "stop",
            },
            counts: Some(Counts {
                total_duration: nanoseconds(now.duration_since(self.started)),
                load_duration: 0,
                prompt_eval_count: usage.prompt_tokens,
                prompt_eval_duration: nanoseconds(prompt),
                eval_count: usage.completion_tokens,
                eval_duration: nanoseconds(eval),
            }),
        }
    }

    /// Takes what a token added. Ollama's clients get calls whole, so one under way is kept.
    fn take(&mut self, delta: Delta) -> Said {
        self.first_token.get_or_insert_with(Instant::now);
        self.finish = delta.finish;
        let mut said = Said::default();
        for part in delta.parts {
            match part {
                Part::Text(text) => said.content.push_str(&text),
                Part::Reasoning(text) => said.thinking.push_str(&text),
                Part::CallBegin { id, name, .. } => {
                    self.open = Some(OpenCall {
                        id,
                        name,
                        arguments: String::new(),
                    });
                }
                Part::CallArguments { json, .. } => {
                    if let Some(call) = &mut self.open {
                        call.arguments.push_str(&json);
                    }
                }
                Part::CallEnd { .. } => said.calls.extend(self.open.take().map(OpenCall::close)),
            }
        }
        said
    }
}

impl OpenCall {
    fn close(self) -> Called {
        Called {
            id: self.id,
            function: Function {
                name: self.name,
                // A complete call has an object.
                arguments: serde_json::from_str(&self.arguments).unwrap_or_default(),
            },
        }
    }
}

impl Line<'_> {
    /// The line with nothing borrowed.
    fn owned(self) -> Value {
        // Our own types always can be written.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Dialect for Writer {
    const WIRE: Wire = Wire::Lines;

    /// Lines have no comments.
    const KEEP_ALIVE: &'static str = "";

    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written {
        let said = self.take(delta);
        frames.value(&self.line(said, None))
    }

    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        frames.value(&self.line(Said::default(), Some(self.end(usage))))
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) -> Written {
        frames.value(&error.body(ErrorForm::Ollama))
    }

    fn add(&mut self, delta: Delta) {
        let said = self.take(delta);
        self.said.content.push_str(&said.content);
        self.said.thinking.push_str(&said.thinking);
        self.said.calls.extend(said.calls);
    }

    fn whole(mut self, usage: Usage) -> impl Serialize {
        let said = std::mem::take(&mut self.said);
        let end = self.end(usage);
        self.line(said, Some(end)).owned()
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(since.unwrap_or_default())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! Writes answers as Anthropic's clients read them: a message of content blocks, or its events.
//!
//! A block is open at a time; a part of another kind closes it. A block of thinking is closed with a signature, which
//! clients send back unread.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::text::{Delta, Finish, Part, Usage};

use super::super::dialect::Dialect;
use super::super::error::{ApiError, ErrorForm};
use super::super::frames::{Frames, Written};

/// Whether clients get the text of thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Text,
    /// Blocks of thinking come empty, so that it can be seen that there was some.
    Nothing,
}

/// Writes one answer.
#[derive(Debug)]
pub(super) struct Messages {
    id: String,
    model: String,
    /// The stop texts that were asked for.
    stops: Vec<String>,
    /// The most tokens that were asked for.
    most: u32,
    shown: Shown,
    /// What is being written, under the number that comes next.
    open: Option<Open>,
    index: u64,
    finish: Option<Finish>,
    /// Blocks of an answer in one piece.
    content: Vec<Value>,
}

/// A block under way.
#[derive(Debug)]
enum Open {
    Text(String),
    Thinking {
        text: String,
        hash: Box<blake3::Hasher>,
    },
    Call {
        id: String,
        name: String,
        json: String,
    },
}

impl Open {
    fn new(part: &Part) -> Option<Self> {
        match part {
            Part::Text(_) => Some(Self::Text(String::new())),
            Part::Reasoning(_) => Some(Self::Thinking {
                text: String::new(),
                hash: Box::default(),
            }),
            Part::CallBegin { id, name, .. } => Some(Self::Call {
                id: id.clone(),
                name: name.clone(),
                json: String::new(),
            }),
            Part::CallArguments { .. } | Part::CallEnd { .. } => None,
        }
    }

    /// Whether a part goes on with this block.
    fn takes(&self, part: &Part) -> bool {
        matches!(
            (self, part),
            (Self::Text(_), Part::Text(_))
                | (Self::Thinking { .. }, Part::Reasoning(_))
                | (Self::Call { .. }, Part::CallArguments { .. })
        )
    }

    /// The block, empty, as a stream begins it.
    fn empty(&self) -> Value {
        match self {
            Self::Text(_) => json!({ "type": "text", "text": "" }),
            Self::Thinking { .. } => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Self::Call { id, name, .. } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} })
            }
        }
    }

    /// The whole block. A call that is not complete is none: nobody may act on half of it.
    fn whole(self) -> Option<Value> {
        Some(match self {
            Self::Text(text) => json!({ "type": "text", "text": text }),
            Self::Thinking { text, hash } => {
                json!({ "type": "thinking", "thinking": text, "signature": signature(&hash) })
            }
            Self::Call { id, name, json } => {
                let input: Map<String, Value> = serde_json::from_str(&json).ok()?;
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        })
    }
}

/// Marks thinking as ours. It proves nothing and is never asked to.
fn signature(hash: &blake3::Hasher) -> String {
    format!("hearth{}", hash.finalize().to_hex())
}

impl Messages {
    pub(super) fn new(model: &str, stops: Vec<String>, most: u32, shown: Shown) -> Self {
        Self {
            id: format!("msg_{:032x}", rand::random::<u128>()),
            model: model.to_owned(),
            stops,
            most,
            shown,
            open: None,
            index: 0,
            finish: None,
            content: Vec::new(),
        }
    }

    /// The message around some content.
    fn message(&self, content: Vec<Value>, ending: &Ending, usage: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": ending.reason,
            "stop_sequence": ending.sequence,
            "usage": counts(usage),
        })
    }

    fn ending(&self, usage: Usage) -> Ending {
        let (reason, sequence) = match self.finish {
            None | Some(Finish::Stop) => ("end_turn", None),
            Some(Finish::StopText(stop)) => ("stop_sequence", self.stops.get(stop).cloned()),
            Some(Finish::ToolCalls) => ("tool_use", None),
            // Fewer tokens than were asked for: it was the context that ended.
            Some(Finish::Length) if usage.completion_tokens < u64::from(self.most) => {
                ("model_context_window_exceeded", None)
            }
            Some(Finish::Length) => ("max_tokens", None),
        };
        Ending {
            reason: Some(reason),
            sequence,
        }
    }

    /// One part of a stream.
    fn part(&mut self, part: Part, frames: &mut Frames) -> Written {
        if !self.open.as_ref().is_some_and(|open| open.takes(&part)) {
            self.stop(frames)?;
            let Some(open) = Open::new(&part) else {
                return Ok(());
            };
            let block = open.empty();
            let start = json!({ "type": "content_block_start", "index": self.index, "content_block": block });
            frames.event("content_block_start", &start)?;
            self.open = Some(open);
        }
        let delta = match part {
            Part::Text(text) => json!({ "type": "text_delta", "text": text }),
            Part::Reasoning(text) => {
                if let Some(Open::Thinking { hash, .. }) = &mut self.open {
                    hash.update(text.as_bytes());
                }
                if self.shown == Shown::Nothing {
                    return Ok(());
                }
                json!({ "type": "thinking_delta", "thinking": text })
            }
            Part::CallArguments { json, .. } => {
                json!({ "type": "input_json_delta", "partial_json": json })
            }
            Part::CallBegin { .. } | Part::CallEnd { .. } => return Ok(()),
        };
        self.block_delta(&delta, frames)
    }

    fn block_delta(&self, delta: &Value, frames: &mut Frames) -> Written {
        let event = json!({ "type": "content_block_delta", "index": self.index, "delta": delta });
        frames.event("content_block_delta", &event)
    }

    /// Closes the block under way.
    fn stop(&mut self, frames: &mut Frames) -> Written {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if let Open::Thinking { hash, .. } = &open {
            let delta = json!({ "type": "signature_delta", "signature": signature(hash) });
            self.block_delta(&delta, frames)?;
        }
        let stop = json!({ "type": "content_block_stop", "index": self.index });
        frames.event("content_block_stop", &stop)?;
        self.index = self.index.saturating_add(1);
        Ok(())
    }

    /// Puts the block under way among the content.
    fn settle(&mut self) {
        self.content.extend(self.open.take().and_then(Open::whole));
    }

    /// One part of an answer in one piece.
    fn gather(&mut self, part: Part) {
        if !self.open.as_ref().is_some_and(|open| open.takes(&part)) {
            self.settle();
            self.open = Open::new(&part);
        }
        match (&mut self.open, part) {
            (Some(Open::Text(all)), Part::Text(text)) => all.push_str(&text),
            (Some(Open::Thinking { text: all, hash }), Part::Reasoning(text)) => {
                hash.update(text.as_bytes());
                if self.shown == Shown::Text {
                    all.push_str(&text);
                }
            }
            (Some(Open::Call { json: all, .. }), Part::CallArguments { json, .. }) => {
                all.push_str(&json);
            }
            _ => {}
        }
    }
}

/// Why an answer ended; nothing while it runs.
#[derive(Debug, Default)]
struct Ending {
    reason: Option<&'static str>,
    sequence: Option<String>,
}

fn counts(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    })
}

impl Dialect for Messages {
    const KEEP_ALIVE: &'static str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";

    fn open(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        let message = self.message(Vec::new(), &Ending::default(), usage);
        let start = json!({ "type": "message_start", "message": message });
        frames.event("message_start", &start)?;
        frames.event("ping", &json!({ "type": "ping" }))
    }

    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written {
        for part in delta.parts {
            self.part(part, frames)?;
        }
        self.finish = delta.finish.or(self.finish);
        Ok(())
    }

    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        self.stop(frames)?;
        let ending = self.ending(usage);
        let delta = json!({ "stop_reason": ending.reason, "stop_sequence": ending.sequence });
        let event = json!({ "type": "message_delta", "delta": delta, "usage": counts(usage) });
        frames.event("message_delta", &event)?;
        frames.event("message_stop", &json!({ "type": "message_stop" }))
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) -> Written {
        frames.event("error", &error.body(ErrorForm::Anthropic))
    }

    fn add(&mut self, delta: Delta) {
        for part in delta.parts {
            self.gather(part);
        }
        self.finish = delta.finish.or(self.finish);
    }

    fn whole(mut self, usage: Usage) -> impl Serialize {
        self.settle();
        let content = std::mem::take(&mut self.content);
        self.message(content, &self.ending(usage), usage)
    }
}

//! Writes responses: the events of a stream, or one object.
//!
//! The one idea: both come from the same items. An item opens with its first text, grows, and is done when the next one
//! opens or the answer ends; a stream tells each of these steps, a whole answer only the last.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::PersonId;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::http::dialect::Dialect;
use crate::http::error::{ApiError, ErrorForm};
use crate::http::frames::{Frames, Written};
use crate::text::{Delta, Finish, Message, Part, Turn, Usage};

use super::item::{Called, Item, Seal, Status};
use super::store::{Kept, Store};

/// Where a response is kept once it is complete.
pub(super) struct Keep {
    pub(super) store: Arc<Store>,
    pub(super) owner: PersonId,
    /// The conversation before the answer.
    pub(super) messages: Vec<Message>,
}

/// Writes one response.
pub(super) struct Writer {
    id: String,
    /// The fields that every form of the response has.
    fields: Map<String, Value>,
    /// Names of tools whose calls are custom.
    custom: BTreeSet<String>,
    seal: Seal,
    keep: Option<Keep>,
    sequence: u64,
    open: Option<(String, Item)>,
    output: Vec<Value>,
    turn: Turn,
    finish: Option<Finish>,
}

/// Where events go; a whole answer has none.
enum Sink<'a> {
    Stream(&'a mut Frames),
    Nowhere,
}

/// A new id of OpenAI's form.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{:032x}", rand::random::<u128>())
}

impl Writer {
    pub(super) fn new(
        fields: Map<String, Value>,
        custom: BTreeSet<String>,
        seal: Seal,
        keep: Option<Keep>,
    ) -> Self {
        Self {
            id: new_id("resp"),
            fields,
            custom,
            seal,
            keep,
            sequence: 0,
            open: None,
            output: Vec::new(),
            turn: Turn::default(),
            finish: None,
        }
    }

    /// The response as it stands.
    fn body(&self, status: &str, usage: Option<Usage>) -> Map<String, Value> {
        let mut body = self.fields.clone();
        let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
        put("id", self.id.as_str().into());
        put("status", status.into());
        put("output", self.output.clone().into());
        put("error", Value::Null);
        let broken_off = status == Status::Incomplete.name();
        let reason = json!({ "reason": "max_output_tokens" });
        put(
            "incomplete_details",
            if broken_off { reason } else { Value::Null },
        );
        put("usage", usage.map_or(Value::Null, usage_body));
        body
    }

    fn emit(&mut self, sink: &mut Sink<'_>, name: &'static str, mut body: Value) -> Written {
        let Sink::Stream(frames) = sink else {
            return Ok(());
        };
        body["type"] = name.into();
        body["sequence_number"] = self.sequence.into();
        self.sequence = self.sequence.saturating_add(1);
        frames.event(name, &body)
    }

    fn index(&self) -> usize {
        self.output.len()
    }

    /// Opens an item; the one before is done.
    fn begin(&mut self, item: Item, sink: &mut Sink<'_>) -> Written {
        self.end(Status::Completed, sink)?;
        let id = new_id(item.prefix());
        let index = self.index();
        let body = item.body(&id, Status::InProgress);
        let added = json!({ "output_index": index, "item": body });
        self.emit(sink, "response.output_item.added", added)?;
        if let Some(part) = item.part() {
            let added = json!({
                "item_id": id, "output_index": index, "content_index": 0, "part": part,
            });
            self.emit(sink, "response.content_part.added", added)?;
        }
        self.open = Some((id, item));
        Ok(())
    }

    /// The open item is done.
    fn end(&mut self, status: Status, sink: &mut Sink<'_>) -> Written {
        let Some((id, item)) = self.open.take() else {
            return Ok(());
        };
        let index = self.index();
        let place = |mut body: Value| {
            body["item_id"] = id.as_str().into();
            body["output_index"] = index.into();
            body
        };
        match &item {
            Item::Reasoning { text, .. } => {
                let done = place(json!({ "content_index": 0, "text": text }));
                self.emit(sink, "response.reasoning_text.done", done)?;
            }
            Item::Message { text } => {
                let done = place(json!({ "content_index": 0, "text": text, "logprobs": [] }));
                self.emit(sink, "response.output_text.done", done)?;
            }
            Item::Function(call) => {
                let done = place(json!({ "name": call.name, "arguments": call.arguments }));
                self.emit(sink, "response.function_call_arguments.done", done)?;
            }
            Item::Custom(call) => {
                let input = call.input();
                let delta = place(json!({ "delta": input }));
                self.emit(sink, "response.custom_tool_call_input.delta", delta)?;
                let done = place(json!({ "input": input }));
                self.emit(sink, "response.custom_tool_call_input.done", done)?;
            }
        }
        if let Some(part) = item.part() {
            let done = place(json!({ "content_index": 0, "part": part }));
            self.emit(sink, "response.content_part.done", done)?;
        }
        let body = item.body(&id, status);
        let done = json!({ "output_index": index, "item": body });
        self.emit(sink, "response.output_item.done", done)?;
        self.output.push(body);
        item.remember(&mut self.turn);
        Ok(())
    }

    /// Takes what a token added.
    fn take(&mut self, delta: Delta, sink: &mut Sink<'_>) -> Written {
        self.finish = delta.finish;
        for part in delta.parts {
            match part {
                Part::Reasoning(text) => {
                    if !matches!(self.open, Some((_, Item::Reasoning { .. }))) {
                        let (text, seal) = (String::new(), self.seal);
                        self.begin(Item::Reasoning { text, seal }, sink)?;
                    }
                    self.grow(&text, "response.reasoning_text.delta", sink)?;
                }
                Part::Text(text) => {
                    if !matches!(self.open, Some((_, Item::Message { .. }))) {
                        let text = String::new();
                        self.begin(Item::Message { text }, sink)?;
                    }
                    self.grow(&text, "response.output_text.delta", sink)?;
                }
                Part::CallBegin { id, name, .. } => {
                    let custom = self.custom.contains(&name);
                    let call = Called {
                        call_id: id,
                        name,
                        arguments: String::new(),
                    };
                    let item = match custom {
                        true => Item::Custom(call),
                        false => Item::Function(call),
                    };
                    self.begin(item, sink)?;
                }
                Part::CallArguments { json, .. } => {
                    self.grow(&json, "response.function_call_arguments.delta", sink)?;
                }
                Part::CallEnd { .. } => self.end(Status::Completed, sink)?,
            }
        }
        Ok(())
    }

    /// Adds to the open item.
    fn grow(&mut self, more: &str, event: &'static str, sink: &mut Sink<'_>) -> Written {
        let index = self.index();
        let Some((id, item)) = &mut self.open else {
            return Ok(());
        };
        let mut body = json!({ "item_id": id, "output_index": index, "delta": more });
        match item {
            Item::Reasoning { text, .. } => {
                text.push_str(more);
                body["content_index"] = 0.into();
            }
            Item::Message { text } => {
                text.push_str(more);
                body["content_index"] = 0.into();
                body["logprobs"] = json!([]);
            }
            Item::Function(call) => call.arguments.push_str(more),
            Item::Custom(call) => {
                // Its input is told once it is whole.
                call.arguments.push_str(more);
                return Ok(());
            }
        }
        self.emit(sink, event, body)
    }

    /// Ends the last item, and keeps the response if it is to be kept.
    fn complete(&mut self, usage: Usage, sink: &mut Sink<'_>) -> Result<Value, serde_json::Error> {
        let status = match self.finish {
            Some(Finish::Length) => Status::Incomplete,
            _ => Status::Completed,
        };
        self.end(status, sink)?;
        let body = Value::Object(self.body(status.name(), Some(usage)));
        if let Some(keep) = self.keep.take() {
            let mut messages = keep.messages;
            messages.push(Message::Assistant(std::mem::take(&mut self.turn)));
            let kept = Kept {
                body: body.clone(),
                messages,
            };
            keep.store.put(keep.owner, &self.id, kept);
        }
        Ok(body)
    }
}

impl Dialect for Writer {
    fn open(&mut self, _usage: Usage, frames: &mut Frames) -> Written {
        for name in ["response.created", "response.in_progress"] {
            let body = self.body(Status::InProgress.name(), None);
            let mut sink = Sink::Stream(&mut *frames);
            self.emit(&mut sink, name, json!({ "response": body }))?;
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written {
        self.take(delta, &mut Sink::Stream(frames))
    }

    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        let mut sink = Sink::Stream(frames);
        let body = self.complete(usage, &mut sink)?;
        let name = match self.finish {
            Some(Finish::Length) => "response.incomplete",
            _ => "response.completed",
        };
        self.emit(&mut sink, name, json!({ "response": body }))
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames) -> Written {
        let told = error.body(ErrorForm::OpenAi);
        let mut body = self.body("failed", None);
        let error = json!({ "code": told["error"]["code"], "message": told["error"]["message"] });
        body.insert("error".to_owned(), error);
        let mut sink = Sink::Stream(frames);
        self.emit(&mut sink, "response.failed", json!({ "response": body }))
    }

    fn add(&mut self, delta: Delta) {
        // Nothing is written, so nothing can fail.
        let _ = self.take(delta, &mut Sink::Nowhere);
    }

    fn whole(mut self, usage: Usage) -> impl Serialize {
        self.complete(usage, &mut Sink::Nowhere).unwrap_or_default()
    }
}

fn usage_body(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "total_tokens": usage.prompt_tokens.saturating_add(usage.completion_tokens),
    })
}

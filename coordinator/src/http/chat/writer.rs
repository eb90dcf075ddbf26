//! Writes the answers of chats: events, or one object.

use serde::Serialize;

use crate::gateway::ServedModel;
use crate::text::{Delta, Part, Usage};

use super::super::dialect::{DONE, Dialect, Head, UsageBody, finish_name};
use super::super::frames::{Frames, Written};
use super::super::logprobs::{ChatTokens, TokenWriter};
use super::super::sampling::{IncludeUsage, Shared};

/// Writes chats.
pub(super) struct Chat {
    head: Head,
    tokens: Option<TokenWriter>,
    usage: IncludeUsage,
    choices: Vec<Choice>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    /// Absent, `null` or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: ChunkDelta,
    logprobs: Option<ChatTokens>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
}

/// More of a call; clients put the pieces of one index together.
#[derive(Serialize)]
struct CallDelta {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Default, Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl ChunkDelta {
    fn new(parts: Vec<Part>, first: bool) -> Self {
        let mut delta = Self {
            role: first.then_some("assistant"),
            ..Self::default()
        };
        for part in parts {
            match part {
                Part::Text(text) => delta.content.get_or_insert_default().push_str(&text),
                Part::Reasoning(text) => {
                    delta
                        .reasoning_content
                        .get_or_insert_default()
                        .push_str(&text);
                }
                Part::CallBegin { call, id, name } => delta.tool_calls.push(CallDelta {
                    index: call,
                    id: Some(id),
                    kind: Some("function"),
                    function: FunctionDelta {
                        name: Some(name),
                        arguments: String::new(),
                    },
                }),
                Part::CallArguments { call, json } => delta.arguments(call, json),
                Part::CallEnd { .. } => {}
            }
        }
        // Clients expect every event to say something.
        if delta.reasoning_content.is_none() && delta.tool_calls.is_empty() {
            delta.content.get_or_insert_default();
        }
        delta
    }

    fn arguments(&mut self, call: u32, json: String) {
        match self.tool_calls.last_mut() {
            Some(last) if last.index == call => last.function.arguments.push_str(&json),
            _ => self.tool_calls.push(CallDelta {
                index: call,
                id: None,
                kind: None,
                function: FunctionDelta {
                    name: None,
                    arguments: json,
                },
            }),
        }
    }
}

#[derive(Serialize)]
struct Whole {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: UsageBody,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<ChatTokens>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    /// `null` if there is nothing but calls.
    content: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WholeCall>,
    /// Never used; clients expect the field.
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct WholeCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            role: "assistant",
            content: Some(String::new()),
            reasoning_content: String::new(),
            tool_calls: Vec::new(),
            refusal: None,
        }
    }
}

impl Message {
    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.content.get_or_insert_default().push_str(&text),
            Part::Reasoning(text) => self.reasoning_content.push_str(&text),
            Part::CallBegin { id, name, .. } => {
                self.content = self.content.take().filter(|text| !text.is_empty());
                self.tool_calls.push(WholeCall {
                    id,
                    kind: "function",
                    function: Function {
                        name,
                        arguments: String::new(),
                    },
                });
            }
            Part::CallArguments { json, .. } => {
                if let Some(call) = self.tool_calls.last_mut() {
                    call.function.arguments.push_str(&json);
                }
            }
            Part::CallEnd { .. } => {}
        }
    }
}

impl Chat {
    pub(super) fn new(model: &ServedModel, shared: &Shared, logprobs: Option<u32>) -> Self {
        Self {
            head: Head::new("chatcmpl", &model.id),
            tokens: logprobs.map(|count| TokenWriter::new(&model.tokenizer, shared.labels, count)),
            usage: shared.usage,
            choices: Vec::new(),
        }
    }

    /// The log-probabilities of one delta, if they were asked for.
    fn tokens(&self, delta: &Delta) -> Option<ChatTokens> {
        let writer = self.tokens.as_ref()?;
        let mut tokens = ChatTokens::default();
        tokens
            .content
            .extend(delta.sampled.as_ref().map(|sampled| writer.chat(sampled)));
        Some(tokens)
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<UsageBody>) -> impl Serialize {
        Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: (self.usage == IncludeUsage::Yes).then_some(usage),
        }
    }

    /// The choice of a whole answer that a delta belongs to.
    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        let place = usize::try_from(index).ok()?;
        while self.choices.len() <= place {
            self.choices.push(Choice {
                index: u32::try_from(self.choices.len()).unwrap_or(u32::MAX),
                message: Message::default(),
                logprobs: self.tokens.as_ref().map(|_| ChatTokens::default()),
                finish_reason: None,
            });
        }
        self.choices.get_mut(place)
    }
}

impl Dialect for Chat {
    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written {
        let logprobs = self.tokens(&delta);
        let choice = ChunkChoice {
            index: delta.index,
            delta: ChunkDelta::new(delta.parts, delta.first),
            logprobs,
            finish_reason: delta.finish.map(finish_name),
        };
        frames.value(&self.chunk(vec![choice], None))
    }

    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written {
        if self.usage == IncludeUsage::Yes {
            frames.value(&self.chunk(Vec::new(), Some(usage.into())))?;
        }
        frames.fixed(DONE);
        Ok(())
    }

    fn add(&mut self, delta: Delta) {
        let tokens = self.tokens(&delta);
        let Some(choice) = self.choice(delta.index) else {
            return;
        };
        for part in delta.parts {
            choice.message.add(part);
        }
        choice.finish_reason = delta.finish.map(finish_name);
        if let (Some(all), Some(more)) = (&mut choice.logprobs, tokens) {
            all.content.extend(more.content);
        }
    }

    fn whole(self, usage: Usage) -> impl Serialize {
        Whole {
            id: self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: self.head.model,
            choices: self.choices,
            usage: usage.into(),
        }
    }
}

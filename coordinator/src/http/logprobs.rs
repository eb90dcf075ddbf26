//! Log-probabilities in the two forms of OpenAI's API.
//!
//! Values are written as f32 with the fewest digits that read back to the same bits.

use model::Tokenizer;
use proto::step::Sampled;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::text::{Labels, token_label};

/// What stands for a token that cannot be drawn; JSON has no infinity.
const LEAST: f32 = -9999.0;

/// Writes the tokens of one answer.
#[derive(Debug, Clone)]
pub(super) struct TokenWriter {
    tokenizer: Tokenizer,
    labels: Labels,
    /// Alternatives beside the chosen token.
    count: usize,
}

impl TokenWriter {
    /// A writer for requests with this many alternatives.
    pub(super) fn new(tokenizer: &Tokenizer, labels: Labels, count: u32) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            labels,
            count: usize::try_from(count).unwrap_or(usize::MAX),
        }
    }

    fn label(&self, id: u32) -> String {
        token_label(&self.tokenizer, id, self.labels)
    }

    /// The form of chats.
    pub(super) fn chat(&self, sampled: &Sampled) -> ChatToken {
        let alternatives = sampled.top.iter().take(self.count);
        ChatToken {
            token: self.label(sampled.token),
            logprob: finite(sampled.logprob),
            bytes: self.bytes(sampled.token),
            top_logprobs: alternatives
                .map(|&(id, logprob)| Alternative {
                    token: self.label(id),
                    logprob: finite(logprob),
                    bytes: self.bytes(id),
                })
                .collect(),
        }
    }

    fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.tokenizer.token_bytes(id).map(<[u8]>::to_vec)
    }

    /// Appends a token in the form of plain completions. `offset` counts characters before it.
    pub(super) fn append(&self, list: &mut CompletionTokens, sampled: &Sampled, offset: u64) {
        let mut top: Vec<(String, f32)> = sampled
            .top
            .iter()
            .take(self.count)
            .map(|&(id, logprob)| (self.label(id), finite(logprob)))
            .collect();
        let chosen = self.label(sampled.token);
        let logprob = finite(sampled.logprob);
        if !top.iter().any(|(label, _)| *label == chosen) {
            top.push((chosen.clone(), logprob));
        }
        list.tokens.push(chosen);
        list.token_logprobs.push(logprob);
        list.top_logprobs.push(TopMap(top));
        list.text_offset.push(offset);
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST }
}

/// A token of a chat.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Clone, Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

/// The tokens of a chat's choice.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ChatTokens {
    /// One entry per token.
    pub(super) content: Vec<ChatToken>,
    /// Never used; clients expect the field.
    refusal: Option<()>,
}

/// The tokens of a plain completion's choice.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct CompletionTokens {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<TopMap>,
    text_offset: Vec<u64>,
}

impl CompletionTokens {
    /// Appends the tokens that came after these.
    pub(super) fn extend(&mut self, more: Self) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}

/// An object of label to log-probability, largest first.
#[derive(Debug, Clone)]
struct TopMap(Vec<(String, f32)>);

impl Serialize for TopMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (label, logprob) in &self.0 {
            map.serialize_entry(label, logprob)?;
        }
        map.end()
    }
}

//! The text of one choice: tokens in, pieces of reasoning and content out.
//!
//! The order is fixed: bytes become characters, characters are watched for stop texts, what remains is split into
//! reasoning and content. Nothing that was given out is ever taken back.

use model::{Detokenizer, SpecialText, Tokenizer};

use super::reasoning::{Reasoning, Split, Splitter};
use super::stops::{Scan, StopMatcher};

/// Why a choice is complete, as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// An end id or a stop text.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
}

/// What one token added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Text of the answer.
    pub(super) content: String,
    /// Text of the reasoning before it.
    pub(super) reasoning: String,
    /// Characters that were there before the token, held ones included.
    pub(super) offset: u64,
    /// Present if the choice is complete.
    pub(super) finish: Option<Finish>,
    /// Whether it is complete because of a stop text: the household does not know yet.
    pub(super) stopped_here: bool,
}

/// One choice under way.
#[derive(Debug)]
pub(super) struct ChoiceText {
    characters: Detokenizer,
    stops: StopMatcher,
    splitter: Splitter,
    offset: u64,
    done: bool,
}

impl ChoiceText {
    pub(super) fn new(tokenizer: &Tokenizer, stops: &[String], reasoning: Reasoning) -> Self {
        Self {
            characters: tokenizer.detokenizer(SpecialText::Skip),
            stops: StopMatcher::new(stops),
            splitter: Splitter::new(reasoning),
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
            Some(Finish::Length) | None => self.characters.push(id),
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
        let (text, stopped_here) = match self.stops.push(&text) {
            Scan::Going(mut text) => {
                if finish.is_some() {
                    text.push_str(&self.stops.finish());
                }
                (text, false)
            }
            Scan::Stopped(text) => (text, true),
        };
        let finish = if stopped_here {
            Some(Finish::Stop)
        } else {
            finish
        };
        let mut split = self.splitter.push(&text);
        if finish.is_some() {
            let Split { reasoning, content } = self.splitter.finish();
            split.reasoning.push_str(&reasoning);
            split.content.push_str(&content);
            self.done = true;
        }
        Piece {
            content: split.content,
            reasoning: split.reasoning,
            offset,
            finish,
            stopped_here,
        }
    }
}

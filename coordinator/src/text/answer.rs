//! The internal stream: what every dialect of the API translates from.
//!
//! An [`Answer`] merges the events of one or more accepted requests into [`Delta`]s, one per token, and counts them.
//! Dropping it cancels everything that is still being computed for it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use model::Tokenizer;
use proto::step::Sampled;
use tokio::sync::watch;

use crate::gateway::{Event, Failure, FinishReason, Retry, Stream};

use super::ask::Ask;
use super::choice::{ChoiceText, Finish, Piece};
use super::part::Part;

/// Tokens read and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Tokens of the prompts, each prompt counted once.
    pub(crate) prompt_tokens: u64,
    /// Tokens of all choices, end ids included.
    pub(crate) completion_tokens: u64,
    /// Those of them that were reasoning.
    pub(crate) reasoning_tokens: u64,
}

/// What one event added to one choice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delta {
    /// Which choice, counted over all prompts.
    pub(crate) index: u32,
    /// Whether it is the first of its choice.
    pub(crate) first: bool,
    /// What was written, in order; often nothing.
    pub(crate) parts: Vec<Part>,
    /// Characters of the choice before this token.
    pub(crate) offset: u64,
    /// The token, with log-probabilities if they were asked for. `None` if the choice ended without one.
    pub(crate) sampled: Option<Sampled>,
    /// Present on the last delta of a choice.
    pub(crate) finish: Option<Finish>,
}

impl Delta {
    /// Its text, without reasoning and calls.
    pub(crate) fn text(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

/// Answers under way.
#[derive(Debug)]
pub(crate) struct Answer {
    streams: Vec<Stream>,
    choices: Vec<Progress>,
    choices_per_stream: usize,
    /// Which stream is looked at first, so that none starves.
    turn: usize,
    usage: Usage,
}

#[derive(Debug)]
struct Progress {
    text: ChoiceText,
    begun: bool,
}

impl Answer {
    pub(super) fn new(
        tokenizer: &Tokenizer,
        ask: &Ask,
        prompt_tokens: u64,
        streams: Vec<Stream>,
    ) -> Self {
        let choices_per_stream = usize::try_from(ask.choices).unwrap_or(usize::MAX);
        let choices = streams.len().saturating_mul(choices_per_stream);
        Self {
            choices: std::iter::repeat_with(|| Progress {
                text: ChoiceText::new(tokenizer, &ask.stops, &ask.reading),
                begun: false,
            })
            .take(choices)
            .collect(),
            streams,
            choices_per_stream,
            turn: 0,
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
        }
    }

    /// Choices over all prompts.
    pub(crate) fn choices(&self) -> usize {
        self.choices.len()
    }

    /// The first request's place in the queue, whenever it changes.
    pub(crate) fn place(&self) -> Option<watch::Receiver<u32>> {
        self.streams.first().map(Stream::place)
    }

    /// Tokens counted so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// The next delta; `None` when every choice is complete. Cancel-safe.
    ///
    /// # Errors
    /// The household could not finish the answer. Nothing follows.
    pub(crate) async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        loop {
            if self.choices.iter().all(|choice| choice.text.is_done()) {
                return Ok(None);
            }
            let (stream, event) = poll_fn(|context| self.poll_event(context)).await;
            if let Some(delta) = self.apply(stream, event)? {
                return Ok(Some(delta));
            }
        }
    }

    /// The next event of any stream that is not complete.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Event>)> {
        let count = self.streams.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if self.is_complete(index) {
                continue;
            }
            let Some(stream) = self.streams.get_mut(index) else {
                continue;
            };
            if let Poll::Ready(event) = stream.poll_next(context) {
                self.turn = (index + 1) % count;
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    }

    fn is_complete(&self, stream: usize) -> bool {
        let start = stream.saturating_mul(self.choices_per_stream);
        self.choices
            .iter()
            .skip(start)
            .take(self.choices_per_stream)
            .all(|choice| choice.text.is_done())
    }

    fn apply(&mut self, stream: usize, event: Option<Event>) -> Result<Option<Delta>, Failure> {
        match event {
            None => Err(broken_off()),
            Some(Event::Vector(_)) => Err(unknown_choice()),
            Some(Event::Failed(failure)) => Err(failure),
            Some(Event::Token {
                choice,
                sampled,
                finish,
            }) => {
                let finish = finish.map(known).transpose()?;
                self.token(Place { stream, choice }, sampled, finish)
            }
            Some(Event::Finished { choice, reason }) => {
                // After a stop text the household reports the choice once more; it is complete already.
                let place = Place { stream, choice };
                match self.open_choice(place)? {
                    None => Ok(None),
                    Some(_) => self.end(place, known(reason)?),
                }
            }
        }
    }

    fn token(
        &mut self,
        place: Place,
        sampled: Sampled,
        finish: Option<Finish>,
    ) -> Result<Option<Delta>, Failure> {
        let Some(progress) = self.open_choice(place)? else {
            return Ok(None);
        };
        let reasoning = u64::from(progress.text.reasoning());
        let piece = progress.text.token(sampled.token, finish);
        let first = !std::mem::replace(&mut progress.begun, true);
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(1);
        self.usage.reasoning_tokens = self.usage.reasoning_tokens.saturating_add(reasoning);
        if piece.stopped_here
            && finish.is_none()
            && let Some(stream) = self.streams.get(place.stream)
        {
            stream.stop_choice(place.choice);
        }
        self.delta(place, piece, first, Some(sampled)).map(Some)
    }

    fn end(&mut self, place: Place, finish: Finish) -> Result<Option<Delta>, Failure> {
        let Some(progress) = self.open_choice(place)? else {
            return Ok(None);
        };
        let piece = progress.text.end(finish);
        let first = !std::mem::replace(&mut progress.begun, true);
        self.delta(place, piece, first, None).map(Some)
    }

    fn delta(
        &self,
        place: Place,
        piece: Piece,
        first: bool,
        sampled: Option<Sampled>,
    ) -> Result<Delta, Failure> {
        let index = place
            .index(self.choices_per_stream)
            .and_then(|index| u32::try_from(index).ok())
            .ok_or_else(unknown_choice)?;
        Ok(Delta {
            index,
            first,
            parts: piece.parts,
            offset: piece.offset,
            sampled,
            finish: piece.finish,
        })
    }

    /// The choice if it is not complete; an error if there is no such choice.
    fn open_choice(&mut self, place: Place) -> Result<Option<&mut Progress>, Failure> {
        let progress = place
            .index(self.choices_per_stream)
            .and_then(|index| self.choices.get_mut(index))
            .ok_or_else(unknown_choice)?;
        Ok((!progress.text.is_done()).then_some(progress))
    }
}

/// A choice as the household names it.
#[derive(Debug, Clone, Copy)]
struct Place {
    stream: usize,
    choice: u32,
}

impl Place {
    /// Its number over all prompts.
    fn index(self, choices_per_stream: usize) -> Option<usize> {
        let choice = usize::try_from(self.choice).ok()?;
        if choice >= choices_per_stream {
            return None;
        }
        self.stream
            .checked_mul(choices_per_stream)?
            .checked_add(choice)
    }
}

fn known(reason: FinishReason) -> Result<Finish, Failure> {
    match reason {
        FinishReason::Stop => Ok(Finish::Stop),
        FinishReason::Length => Ok(Finish::Length),
        FinishReason::Cancelled => Err(Failure {
            code: "cancelled",
            message: "the answer was cancelled by the household; send the request again".to_owned(),
            retry: Retry::Soon,
        }),
    }
}

fn broken_off() -> Failure {
    Failure {
        code: "broken_off",
        message: "the household ended the answer before it was complete; send the request again"
            .to_owned(),
        retry: Retry::Soon,
    }
}

fn unknown_choice() -> Failure {
    Failure {
        code: "internal",
        message: "the household answered for a choice that was not asked for".to_owned(),
        retry: Retry::Never,
    }
}

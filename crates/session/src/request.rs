//! A request and its choices: what was asked, which choices wait, run or are over. Knows no page and no step.

use std::time::Duration;

use proto::mask::TokenMask;
use proto::step::Sampling;
use proto::{SequenceId, limits};

use crate::input::Submission;
use crate::output::{ErrorCode, SessionError};
use crate::queue::Waiting;

/// Tokens of an answer that a person's turn is charged with, at most: clients ask for far more than they get.
const ANSWER_EXPECTED: u32 = 512;

/// A valid request that is not over.
#[derive(Debug)]
pub(crate) struct Request {
    pub submission: Submission,
    /// When it fails unless a choice has started.
    pub queued_until: Duration,
    choices: Vec<Choice>,
    /// Of each choice, for its next token, come before the step that draws it.
    masks: Vec<Option<TokenMask>>,
}

/// Where a choice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Waiting,
    Running(SequenceId),
    Over,
}

impl Request {
    /// Checks what does not depend on the pipeline.
    pub fn new(submission: Submission, queued_until: Duration) -> Result<Self, SessionError> {
        check(&submission)?;
        let choices = vec![Choice::Waiting; submission.choices as usize];
        let masks = vec![None; choices.len()];
        Ok(Self {
            submission,
            queued_until,
            choices,
            masks,
        })
    }

    /// Tokens of the prompt; the constructor bounds them.
    pub fn prompt_len(&self) -> u32 {
        len_u32(self.submission.prompt.len())
    }

    /// Its place in the queue.
    pub fn waiting(&self) -> Waiting {
        let answer = self.submission.max_tokens.unwrap_or(ANSWER_EXPECTED);
        Waiting {
            request: self.submission.request,
            person: self.submission.person,
            cost: self.prompt_len() + answer.min(ANSWER_EXPECTED),
            choices: self.submission.choices,
        }
    }

    /// Positions that prompt and longest answer take, or why they do not fit the context.
    pub fn positions(&self, context: u32) -> Result<u32, SessionError> {
        let prompt = self.prompt_len();
        if self.submission.pooling.is_some() {
            return pooled_positions(prompt, context);
        }
        let least = self.submission.min_tokens.max(1);
        let asked = self.submission.max_tokens.unwrap_or(least);
        let total = prompt.saturating_add(asked);
        if total > context {
            let text = format!(
                "the prompt has {prompt} tokens and the answer may have {asked}, {total} together; the context \
                 holds {context}: shorten the prompt or ask for a shorter answer"
            );
            return Err(SessionError::new(ErrorCode::ContextLengthExceeded, text));
        }
        Ok(match self.submission.max_tokens {
            Some(_) => total,
            None => context,
        })
    }

    /// How the tokens of one choice are drawn.
    pub fn sampling(&self, choice: u32) -> Sampling {
        let mut sampling = self.submission.sampling.clone();
        sampling.choice = choice;
        sampling.suppress = Vec::new();
        sampling.suppress_until = 0;
        if self.submission.min_tokens > 0 {
            sampling.suppress.clone_from(&self.submission.stop_ids);
            sampling.suppress_until = self.prompt_len() + self.submission.min_tokens;
        }
        sampling
    }

    /// The first choice that waits.
    pub fn next_waiting(&self) -> Option<u32> {
        let at = self.choices.iter().position(|c| *c == Choice::Waiting)?;
        Some(len_u32(at))
    }

    /// Whether any choice has had a step.
    pub fn started(&self) -> bool {
        self.choices.iter().any(|c| *c != Choice::Waiting)
    }

    /// Whether every choice is over.
    pub fn over(&self) -> bool {
        self.choices.iter().all(|c| *c == Choice::Over)
    }

    /// Choices that are not over, in order.
    pub fn unfinished(&self) -> impl Iterator<Item = u32> + '_ {
        let open = self.choices.iter().enumerate();
        open.filter(|(_, c)| **c != Choice::Over)
            .map(|(at, _)| len_u32(at))
    }

    /// Sequences of the choices that run.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.choices.iter().filter_map(|c| match c {
            Choice::Running(sequence) => Some(*sequence),
            Choice::Waiting | Choice::Over => None,
        })
    }

    /// A waiting choice has got its sequence.
    pub fn start(&mut self, choice: u32, sequence: SequenceId) {
        if let Some(slot) = self.choices.get_mut(choice as usize) {
            *slot = Choice::Running(sequence);
        }
    }

    /// A choice ends. `None` if it is over already or never was; else its sequence, if it had one.
    pub fn finish(&mut self, choice: u32) -> Option<Option<SequenceId>> {
        let slot = self.choices.get_mut(choice as usize)?;
        let sequence = match *slot {
            Choice::Over => return None,
            Choice::Waiting => None,
            Choice::Running(sequence) => Some(sequence),
        };
        *slot = Choice::Over;
        self.take_mask(choice);
        Some(sequence)
    }

    /// Where a choice stands; `None` if it never was.
    pub fn choice(&self, choice: u32) -> Option<Choice> {
        self.choices.get(choice as usize).copied()
    }

    /// Whether the mask of a choice's next token is here.
    pub fn has_mask(&self, choice: u32) -> bool {
        self.masks.get(choice as usize).is_some_and(Option::is_some)
    }

    /// Keeps the mask of a choice's next token until the step that draws it is sent.
    pub fn hold_mask(&mut self, choice: u32, mask: TokenMask) {
        if let Some(held) = self.masks.get_mut(choice as usize) {
            *held = Some(mask);
        }
    }

    /// The mask of a choice's next token, if it is here.
    pub fn take_mask(&mut self, choice: u32) -> Option<TokenMask> {
        self.masks.get_mut(choice as usize)?.take()
    }
}

/// Positions that a pooled prompt takes, or why it does not fit the context.
fn pooled_positions(prompt: u32, context: u32) -> Result<u32, SessionError> {
    if prompt > context {
        let text = format!(
            "the text has {prompt} tokens; the context holds {context}: shorten it or send it in parts"
        );
        return Err(SessionError::new(ErrorCode::ContextLengthExceeded, text));
    }
    Ok(prompt)
}

/// A count that is capped far below `u32::MAX`.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn check(submission: &Submission) -> Result<(), SessionError> {
    let sampling = &submission.sampling;
    let choices_max = match submission.pooling {
        Some(_) => 1,
        None => limits::CHOICES_MAX,
    };
    let between = [
        (
            "prompt tokens",
            len_u32(submission.prompt.len()),
            1,
            limits::SEQUENCE_POSITIONS_MAX,
        ),
        ("choices", submission.choices, 1, choices_max),
        (
            "max_tokens",
            submission.max_tokens.unwrap_or(u32::MAX),
            1,
            u32::MAX,
        ),
        (
            "min_tokens",
            submission.min_tokens,
            0,
            submission
                .max_tokens
                .unwrap_or(limits::SEQUENCE_POSITIONS_MAX),
        ),
        (
            "stop ids",
            len_u32(submission.stop_ids.len()),
            0,
            limits::SUPPRESS_MAX,
        ),
        (
            "entries of the logit bias",
            len_u32(sampling.bias.len()),
            0,
            limits::LOGIT_BIAS_MAX,
        ),
        (
            "log-probabilities",
            sampling.logprobs.unwrap_or(0),
            0,
            limits::LOGPROBS_MAX,
        ),
    ];
    for (name, got, min, max) in between {
        if got < min || got > max {
            let text = format!("{name}: {got} came, {min} to {max} was expected");
            return Err(SessionError::new(ErrorCode::InvalidRequest, text));
        }
    }
    Ok(())
}

//! Recorded answers in the place of the model's own: `coordinator serve --replay FILE`, for tests of clients.
//!
//! A whole loop of an agent takes a model that follows instructions; the protocol between the two does not. A request
//! that brings tools takes the next recorded answer, others are answered as always: agents ask for titles and summaries
//! beside their work. The answer is text in the model's own format, and it becomes a constraint that allows nothing else.
//! So the machines compute every row, draw under masks, and parser, stream and protocol are the real ones.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use thiserror::Error;

use crate::text::Reasoning;

/// Answers of one file.
const ANSWERS_MAX: usize = 1024;
/// Bytes of a file.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one answer: what a constraint may be made of.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// One recorded answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// Used where the answer begins inside reasoning.
    #[serde(default)]
    reasoning: String,
    /// Everything after it, calls in the model's own format.
    text: String,
}

/// Answers that are not used yet, in their order.
#[derive(Debug)]
pub struct Replay(Mutex<VecDeque<Recorded>>);

/// A file that holds no answers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It has another form.
    #[error(
        "the recorded answers are no JSON array of objects with `text` and, if wanted, `reasoning`: line {line}, column {column}"
    )]
    Form {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It holds more than is taken.
    #[error(
        "the recorded answers are too many or too long; expected at most {ANSWERS_MAX}, none of more than {ANSWER_BYTES_MAX} bytes"
    )]
    Size,
}

impl Replay {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// It is no list of answers, or too large.
    pub fn read(bytes: &[u8]) -> Result<Self, ReplayError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(ReplayError::Size);
        }
        let answers: VecDeque<Recorded> =
            serde_json::from_slice(bytes).map_err(|error| ReplayError::Form {
                line: error.line(),
                column: error.column(),
            })?;
        let long = |one: &Recorded| one.text.len().max(one.reasoning.len()) > ANSWER_BYTES_MAX;
        if answers.len() > ANSWERS_MAX || answers.iter().any(long) {
            return Err(ReplayError::Size);
        }
        Ok(Self(Mutex::new(answers)))
    }

    /// The answer to the next chat that has tools; `None` if none is left.
    pub(super) fn next(&self, reasoning: Reasoning) -> Option<String> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Recorded {
            reasoning: why,
            text,
        } = left.pop_front()?;
        Some(match reasoning {
            Reasoning::Inside => format!("{why}\n</think>\n\n{text}"),
            Reasoning::Off | Reasoning::Watch => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_lists_of_answers() {
        for good in ["[]", r#"[{"text": "a"}, {"text": "b", "reasoning": "c"}]"#] {
            assert!(Replay::read(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "{}",
            "[1]",
            "[{}]",
            r#"[{"text": 1}]"#,
            r#"[{"text": "a", "more": 1}]"#,
        ] {
            let error = Replay::read(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ReplayError::Form { .. }), "{bad}");
        }
        let long = format!(r#"[{{"text": "{}"}}]"#, "x".repeat(ANSWER_BYTES_MAX + 1));
        let many = format!("[{}]", vec![r#"{"text": ""}"#; ANSWERS_MAX + 1].join(","));
        for large in [long, many, " ".repeat(FILE_BYTES_MAX + 1)] {
            assert_eq!(
                Replay::read(large.as_bytes()).unwrap_err(),
                ReplayError::Size
            );
        }
    }
}

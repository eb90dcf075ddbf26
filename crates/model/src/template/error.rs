//! Why a chat cannot be rendered.

use std::error::Error;

use minijinja::ErrorKind;

/// Why a template is refused, or refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Something is longer than it may be.
    #[error("the chat template's {what} has a size of {got}; at most {max} is accepted")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The largest size accepted.
        max: usize,
    },
    /// The source is no valid template.
    #[error("the chat template is not valid in line {line}: {reason}")]
    Syntax {
        /// Line of the source, from 1; 0 if unknown.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template itself refuses the messages (`raise_exception`).
    #[error("{message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template failed while rendering.
    #[error("the chat template failed in line {line}: {reason}")]
    Failed {
        /// Line of the source, from 1; 0 if unknown.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The template takes more steps, depth or memory than a chat can need.
    #[error("the chat template was stopped: it needs more {resource} than any chat should")]
    RunAway {
        /// What it used up.
        resource: &'static str,
    },
    /// The messages are not of the expected shape.
    #[error("{place} is {got}; expected {expected}")]
    Shape {
        /// Which part of the input.
        place: String,
        /// What it is.
        got: String,
        /// What it must be.
        expected: &'static str,
    },
}

/// What `raise_exception` carries through the template engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// What an exhausted budget carries through the template engine.
#[derive(Debug, thiserror::Error)]
#[error("out of {0}")]
pub(super) struct Exhausted(pub(super) &'static str);

impl TemplateError {
    /// The reason behind an error of the template engine.
    pub(super) fn from_engine(error: &minijinja::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(Raised(message)) = current.downcast_ref() {
                return Self::Refused {
                    message: message.clone(),
                };
            }
            if let Some(Exhausted(resource)) = current.downcast_ref() {
                return Self::RunAway { resource };
            }
            if let Some(inner) = current.downcast_ref::<minijinja::Error>() {
                match inner.kind() {
                    ErrorKind::OutOfFuel => return Self::RunAway { resource: "steps" },
                    ErrorKind::InvalidOperation
                        if inner.detail() == Some("recursion limit exceeded") =>
                    {
                        return Self::RunAway { resource: "depth" };
                    }
                    _ => {}
                }
            }
            cause = current.source();
        }
        let line = error.line().unwrap_or(0);
        let reason = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        match error.kind() {
            ErrorKind::SyntaxError => Self::Syntax { line, reason },
            _ => Self::Failed { line, reason },
        }
    }
}

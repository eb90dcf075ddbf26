//! Answers and failures of a command, and what the process exits with.

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use serde::Serialize;

/// What a command ends with.
pub type Outcome = Result<(), Failure>;

/// A command that did not do what it was asked. The text says what came, what was expected, what to do.
#[derive(Debug)]
pub enum Failure {
    /// It could not be done: exit code 1.
    Failed(String),
    /// It was asked wrongly: exit code 2.
    Usage(String),
}

impl Failure {
    /// A failure with the error's text and its causes.
    #[must_use]
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text.push_str(": ");
                text.push_str(&inner_text);
            }
            cause = inner.source();
        }
        Failure::Failed(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text) | Failure::Usage(text) => f.write_str(text),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::of(&error)
    }
}

/// Prints the failure, if any, and gives the exit code.
pub fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(match failure {
                Failure::Failed(_) => 1,
                Failure::Usage(_) => 2,
            })
        }
    }
}

/// Prints one JSON value on one line of stdout.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn print_json(value: &impl Serialize) -> Outcome {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// Sends the log to stderr; `RUST_LOG` chooses what is shown, otherwise warnings and `default` (a filter such as
/// `node=info`).
pub fn start_log(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,{default}")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start (in a test) leaves the first log in place.
    let _already_started = log.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot open the store")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_failure_names_its_causes() {
        let failure = Failure::of(&Outer(std::io::Error::other("disk is full")));
        assert_eq!(failure.to_string(), "cannot open the store: disk is full");
    }
}

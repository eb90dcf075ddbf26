//! Asking the service that runs on this machine.

use std::path::PathBuf;

use clap::Args;
use command::settings::default_data_dir;
use command::{Failure, local};
use serde_json::Value;

/// Which running service is meant, and in which form it answers.
#[derive(Debug, Args)]
pub(crate) struct Running {
    /// Data directory of the running service [default: the one that `coordinator serve` takes]
    #[arg(long, env = "HEARTH_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print exactly one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

impl Running {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Nothing runs there, or the service refuses.
    pub(crate) async fn ask(&self, request: &Value) -> Result<Value, Failure> {
        let dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| default_data_dir("coordinator"));
        Ok(local::call(&dir, request).await?)
    }
}

/// A text field of an answer; empty if it is missing.
pub(crate) fn text<'v>(answer: &'v Value, field: &str) -> &'v str {
    answer
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A count in an answer; 0 if it is missing.
pub(crate) fn count(answer: &Value, field: &str) -> u64 {
    answer
        .get(field)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// A measure in an answer; 0 if it is missing.
pub(crate) fn number(answer: &Value, field: &str) -> f64 {
    answer
        .get(field)
        .and_then(Value::as_f64)
        .unwrap_or_default()
}

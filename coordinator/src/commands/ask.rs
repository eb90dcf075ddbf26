//! Asking the service that runs on this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use command::local::LocalError;
use command::settings::{default_data_dir, make_data_dir};
use command::{Failure, local};
use coordinator::people::People;
use coordinator::store::FILE_NAME;
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
    /// The data directory that is meant.
    fn dir(&self) -> PathBuf {
        let dir = self.data_dir.clone();
        dir.unwrap_or_else(|| default_data_dir("coordinator"))
    }

    /// Asks about keys or usage. Where no service runs, the household's record is asked itself.
    ///
    /// # Errors
    /// There is no record, or the service or the record refuses.
    pub(crate) async fn ask_or_open(&self, request: &Value) -> Result<Value, Failure> {
        let dir = self.dir();
        match local::call(&dir, request).await {
            Err(LocalError::NotRunning(_)) if dir.join(FILE_NAME).exists() => {
                open(&dir, request).await
            }
            answered => Ok(answered?),
        }
    }

    /// As [`Running::ask_or_open`]; makes the record where there is none.
    ///
    /// # Errors
    /// The record cannot be made, or the service or the record refuses.
    pub(crate) async fn ask_or_open_anew(&self, request: &Value) -> Result<Value, Failure> {
        let dir = self.dir();
        match local::call(&dir, request).await {
            Err(LocalError::NotRunning(_)) => open(&dir, request).await,
            answered => Ok(answered?),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Nothing runs there, or the service refuses.
    pub(crate) async fn ask(&self, request: &Value) -> Result<Value, Failure> {
        Ok(local::call(&self.dir(), request).await?)
    }
}

/// Asks the record of a data directory, in which no service can start meanwhile.
async fn open(dir: &Path, request: &Value) -> Result<Value, Failure> {
    make_data_dir(dir)?;
    let _claim = local::Listener::bind(dir).await?;
    let people = People::open(dir, None).await?;
    people.answer(request).await.map_err(Failure::Failed)
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

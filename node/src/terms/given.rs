//! What the owner has said: kept in the data directory, so that it holds after a restart.
//!
//! Each value is kept only if it was said. What was said last wins over the settings file, and what a command line or the
//! environment says wins over both.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::duty::{OnBattery, Terms, WhileUsed};
use super::hours::Hours;

const FILE_NAME: &str = "terms.json";
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Most computing threads.
pub const THREADS_MAX: usize = 1024;

/// The owner's words, each where it was said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// Bytes for weights, caches and scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Computing threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// When it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Whether it serves on battery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery: Option<OnBattery>,
    /// Whether it serves while somebody is at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub while_used: Option<WhileUsed>,
    /// Paused until it is resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// Terms that cannot be kept or read.
#[derive(Debug, Error)]
pub enum GivenError {
    /// The file cannot be read or written.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// It does not hold terms.
    #[error(
        "{0} does not hold an owner's terms ({1}); remove it and say them again with `node set`"
    )]
    Content(String, String),
}

impl Given {
    /// What was said in `data_dir`; nothing where nothing was.
    ///
    /// # Errors
    /// When the file is there but cannot be read or is not ours.
    pub fn load(data_dir: &Path) -> Result<Self, GivenError> {
        let path = data_dir.join(FILE_NAME);
        let name = path.display().to_string();
        let file = |e| GivenError::File(name.clone(), e);
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(file(e)),
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                let what = format!("{} bytes long", meta.len());
                return Err(GivenError::Content(name, what));
            }
            Ok(_) => {}
        }
        let text = std::fs::read(&path).map_err(file)?;
        let given: Self = serde_json::from_slice(&text)
            .map_err(|e| GivenError::Content(name.clone(), e.to_string()))?;
        given
            .checked()
            .map_err(|what| GivenError::Content(name, what))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn save(&self, data_dir: &Path) -> Result<(), GivenError> {
        let path = data_dir.join(FILE_NAME);
        let file = |e| GivenError::File(path.display().to_string(), e);
        let text = serde_json::to_vec_pretty(self).map_err(|e| file(e.into()))?;
        crate::files::replace(&path, &text).map_err(file)
    }

    /// Itself, if every value is in range.
    ///
    /// # Errors
    /// What came and what was expected.
    pub fn checked(self) -> Result<Self, String> {
        if self.memory_bytes == Some(0) {
            return Err("0 bytes of memory; at least 1 was expected".to_owned());
        }
        match self.threads {
            Some(threads @ (0 | 1025..)) => Err(format!(
                "{threads} threads; 1 to {THREADS_MAX} were expected"
            )),
            _ => Ok(self),
        }
    }

    /// These words, and `below` where these say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(below.memory_bytes),
            threads: self.threads.or(below.threads),
            hours: self.hours.or(below.hours),
            battery: self.battery.or(below.battery),
            while_used: self.while_used.or(below.while_used),
            paused: self.paused.or(below.paused),
        }
    }

    /// When the machine serves, with the defaults where nothing was said.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            hours: self.hours.clone().unwrap_or_default(),
            battery: self.battery.unwrap_or_default(),
            while_used: self.while_used.unwrap_or_default(),
            paused: self.paused.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_again_and_later_words_win() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Given::load(dir.path()).unwrap(), Given::default());
        let given = Given {
            memory_bytes: Some(1 << 30),
            threads: Some(4),
            hours: Some("22:00-07:00".parse().unwrap()),
            battery: Some(OnBattery::No),
            while_used: Some(WhileUsed::After(60)),
            paused: Some(true),
        };
        given.save(dir.path()).unwrap();
        assert_eq!(Given::load(dir.path()).unwrap(), given);
        let later = Given {
            threads: Some(2),
            paused: Some(false),
            ..Given::default()
        };
        let both = later.over(given.clone());
        assert_eq!((both.threads, both.paused), (Some(2), Some(false)));
        assert_eq!(
            (both.memory_bytes, both.battery),
            (given.memory_bytes, given.battery)
        );
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "",
            "3",
            "{\"hours\":\"late\"}",
            "{\"thread\":1}",
            "{\"threads\":0}",
            "{\"memory_bytes\":0}",
        ] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let error = Given::load(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(FILE_NAME) && error.contains("node set"),
                "{error}"
            );
        }
    }
}

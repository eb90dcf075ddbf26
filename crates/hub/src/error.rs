//! Why a model could not be fetched. Texts of strangers are cut short and stripped of control characters.

use std::path::PathBuf;

/// What went wrong between the hub and the folder. No text of an error holds the token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name of a model is not one.
    #[error(
        "'{0}' is no model of a hub; expected hf:ORG/REPO, hf:ORG/REPO:FILE or hf:ORG/REPO@REVISION:FILE"
    )]
    Name(String),
    /// A setting cannot be used.
    #[error("{what} is '{got}'; expected {expected}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        got: String,
        /// What would do.
        expected: &'static str,
    },
    /// The hub cannot be reached, or the connection broke too often.
    #[error(
        "{host}: {what}; check the connection (proxies are taken from HTTPS_PROXY) and run the same command again: it goes on where it stopped"
    )]
    Connection {
        /// Who was asked.
        host: String,
        /// What happened.
        what: String,
    },
    /// The hub says no.
    #[error("{host} answers {status} for {what}; {hint}")]
    Status {
        /// Who was asked.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// An answer breaks the rules, or is larger than anything sensible.
    #[error("{host}: the answer for {what} is {got}; expected {expected}")]
    Answer {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What came.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// No file, or more than one model, fits what was asked for.
    #[error("{model}: {got}; {todo}")]
    Choice {
        /// The model as it was named.
        model: String,
        /// What the repository has.
        got: String,
        /// What to say instead.
        todo: String,
    },
    /// A whole file has another checksum than the hub says.
    #[error(
        "{file}: its {kind} is {got}, the hub says {expected}; what came was deleted: run the same command again, and if it happens again use another mirror"
    )]
    Checksum {
        /// The file.
        file: String,
        /// Which checksum.
        kind: &'static str,
        /// Of what came.
        got: String,
        /// Of what should have come.
        expected: String,
    },
    /// Working offline, and something is not here.
    #[error("offline, and {0}")]
    Offline(String),
    /// The owner said no, or could not be asked.
    #[error("{0}")]
    Consent(&'static str),
    /// The folder cannot be used.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds something else, or somebody else is at work in it.
    #[error("{}: {what}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What stands in the way, and what to do.
        what: String,
    },
}

impl HubError {
    /// A system error on `path`; a full disk says so.
    pub(crate) fn io(
        path: &std::path::Path,
        what: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| {
            let full = source.kind() == std::io::ErrorKind::StorageFull;
            let what = if full {
                "the disk is full; free some space and run the same command again"
            } else {
                what
            };
            Self::Io { path, what, source }
        }
    }
}

/// A stranger's text, fit for a terminal: short, without control characters.
pub(crate) fn shown(text: &str) -> String {
    const CHARS: usize = 120;
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(CHARS)
        .collect()
}

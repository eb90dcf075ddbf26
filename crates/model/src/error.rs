//! The one error type of this crate. Each text says what came, what was expected and, where it helps, what to do.

use std::path::{Path, PathBuf};

use crate::{template::TemplateError, tokenizer::TokenizerError};

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The path names nothing that can be opened as a model.
    #[error("{}: {got}; expected {expected}", path.display())]
    NotAModel {
        /// The path as given.
        path: PathBuf,
        /// What is there.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// The bytes of a file break its format.
    #[error("{}: {what} is {got}; expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field or place in the file.
        what: String,
        /// What was read.
        got: String,
        /// What the format allows.
        expected: String,
    },
    /// One tensor of a file is broken, of the wrong shape or of a type that cannot be used.
    #[error("{}: tensor `{tensor}`: {got}; expected {expected}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was read.
        got: String,
        /// What was expected.
        expected: String,
    },
    /// A tensor that the architecture needs is in none of the files.
    #[error("{}: tensor `{tensor}` of shape {shape} is missing; the file is incomplete or of another architecture", path.display())]
    MissingTensor {
        /// The model file or directory.
        path: PathBuf,
        /// The expected name.
        tensor: String,
        /// The expected shape, rows first.
        shape: String,
    },
    /// A part of a split model is not there.
    #[error("{}: part of a split model is missing: {missing}; put all parts into one directory", path.display())]
    MissingPart {
        /// The part that names the others.
        path: PathBuf,
        /// The file that was looked for.
        missing: String,
    },
    /// The model asks for something that this program does not compute. It is refused, never ignored.
    #[error("{}: {what} is {got}, which is not supported; supported: {expected}", path.display())]
    Unsupported {
        /// The model file.
        path: PathBuf,
        /// The setting.
        what: String,
        /// Its value.
        got: String,
        /// The values that are supported.
        expected: String,
    },
    /// A caller asked for a role that this model does not have.
    #[error("{model}: the model has no {role}")]
    NoSuchRole {
        /// The model's id.
        model: String,
        /// The role asked for.
        role: String,
    },
    /// The file is not the one that was opened.
    #[error("{}: the file changed under the running program: {detail}; restart to load it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// The tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The chat template cannot be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong with it.
        source: TemplateError,
    },
}

impl ModelError {
    /// A system error on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    /// Broken bytes in `path`.
    pub(crate) fn malformed(
        path: &Path,
        what: impl Into<String>,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            path: path.to_path_buf(),
            what: what.into(),
            got: got.into(),
            expected: expected.into(),
        }
    }

    /// A bad tensor in `path`.
    pub(crate) fn tensor(
        path: &Path,
        tensor: impl Into<String>,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.into(),
            got: got.into(),
            expected: expected.into(),
        }
    }

    /// A setting in `path` that is not supported.
    pub(crate) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        got: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            what: what.into(),
            got: got.into(),
            expected: expected.into(),
        }
    }
}

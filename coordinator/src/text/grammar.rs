//! What an answer has to look like, and which tokens keep it so.
//!
//! Owns the compiler of constraints (JSON schemas, regular expressions, Lark grammars, lists of texts, and [`Element`]s for
//! calls of tools) and, per choice, the walk through one: a token in, the mask of the next token out. Never runs on the
//! async threads, and never lets text of an answer or of a constraint into a log.
//!
//! The one idea: [`Grammars`] belongs to the served model and is made once; a [`Constraint`] belongs to a request and is
//! shared by its choices; a [`Walk`] belongs to a choice and is the only thing that changes.

mod compile;
mod form;
mod lark;
mod schema;
mod vocabulary;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::Matcher;
use proto::mask::TokenMask;
use thiserror::Error;

use crate::gateway::ServedModel;

pub use form::{Begin, Element, Form};
pub use walk::{Walk, WalkError};

use vocabulary::Vocabulary;

/// Why a constraint cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrammarError {
    /// Something in a schema cannot be honoured.
    #[error("`{path}` cannot be honoured: {reason}")]
    Schema {
        /// Where: names and numbers with dots from the root of the schema; empty for the schema itself.
        path: String,
        /// Why.
        reason: String,
    },
    /// A grammar, an expression or a list of texts cannot be honoured.
    #[error("it cannot be honoured: {0}")]
    Form(String),
    /// The model has no token that could end a constrained answer.
    #[error("the model names no end token, without which a constrained answer could not end")]
    NoEnd,
    /// The model's vocabulary cannot be used.
    #[error("the model's vocabulary cannot be used for constraints: {0}")]
    Vocabulary(String),
}

/// A fault of the constraint's compiler, in few words and on one line.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.starts_with("panic:") {
        return "the compiler of constraints failed on it".to_owned();
    }
    line.chars().take(CHARS_MAX).collect()
}

/// Makes constraints for one served model.
#[derive(Debug, Clone)]
pub struct Grammars {
    model: Arc<ServedModel>,
    /// The tokens as a tree, built when the first constraint is asked for.
    vocabulary: Arc<OnceLock<Result<Arc<Vocabulary>, GrammarError>>>,
}

/// Looks through a schema for what cannot be honoured.
///
/// # Errors
/// What that is, and where: the path begins with `path`.
pub(super) fn check_schema(
    schema: &serde_json::Value,
    strictness: super::Strictness,
    path: &str,
) -> Result<(), GrammarError> {
    schema::checked(schema, strictness, path).map(drop)
}

impl Grammars {
    /// Nothing is built yet.
    #[must_use]
    pub fn new(model: Arc<ServedModel>) -> Self {
        Self {
            model,
            vocabulary: Arc::default(),
        }
    }

    /// Compiles a form. Takes from a millisecond to a few hundred, and longer the first time: not for async threads.
    ///
    /// # Errors
    /// The form cannot be honoured, or the model has no end token.
    pub fn compile(&self, form: &Form, begin: Begin) -> Result<Constraint, GrammarError> {
        let made = self
            .vocabulary
            .get_or_init(|| Vocabulary::of(&self.model).map(Arc::new));
        let vocabulary = made.clone()?;
        compile::compile(&vocabulary, form, begin)
    }
}

/// What the tokens of an answer have to follow. Cheap to clone; one per request, for all of its choices.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    vocabulary: Arc<Vocabulary>,
    /// Before the first token. Locked only to be copied.
    fresh: Mutex<Matcher>,
    /// Of the first token that the grammar sees.
    first: TokenMask,
    begin: Begin,
}

impl Constraint {
    /// Before the first token of a choice, with the mask of that token.
    #[must_use]
    pub fn begin(&self) -> (Walk, TokenMask) {
        let fresh = self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        Walk::new(&self.0, fresh.clone())
    }
}

/// What was asked for stays private.
impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Constraint(..)")
    }
}

/// Equal if they are the same one.
impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

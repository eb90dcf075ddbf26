//! Ollama's dialect: answers as lines of JSON, vectors, and what its clients ask about models.
//!
//! Names may end in `:latest`, as Ollama writes them. Errors are `{"error": "..."}`. Whatever changes models is refused:
//! that is the owner's, with `coordinator model`.

mod chat;
mod clock;
mod embed;
mod messages;
mod models;
mod options;
mod writer;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};

use crate::gateway::ServedModel;

use super::api::Api;
use super::error::ApiError;
use super::fields::Fields;

/// What Ollama puts behind a name without a tag.
const LATEST: &str = ":latest";

/// All paths below `/api`.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/chat", post(chat::chat))
        .route("/api/generate", post(chat::generate))
        .route("/api/version", get(models::version))
        .route("/api/tags", get(models::tags))
        .route("/api/show", post(models::show))
        .route("/api/ps", get(models::running))
        .route("/api/embed", post(embed::many))
        .route("/api/embeddings", post(embed::one))
        .route("/api/pull", post(models::owners_alone))
        .route("/api/push", post(models::owners_alone))
        .route("/api/create", post(models::owners_alone))
        .route("/api/copy", post(models::owners_alone))
        .route("/api/delete", delete(models::owners_alone))
}

/// A path's name in the metrics.
pub(super) fn route_name(path: &str) -> Option<&'static str> {
    const KNOWN: [&str; 13] = [
        "/api/chat",
        "/api/generate",
        "/api/version",
        "/api/tags",
        "/api/show",
        "/api/ps",
        "/api/embed",
        "/api/embeddings",
        "/api/pull",
        "/api/push",
        "/api/create",
        "/api/copy",
        "/api/delete",
    ];
    KNOWN.into_iter().find(|known| *known == path)
}

/// The request must name the model that is served.
///
/// # Errors
/// 400 without a name, 404 for another one.
fn check_model(fields: &Fields<'_>, model: &ServedModel) -> Result<(), ApiError> {
    let asked = match fields.text("model")? {
        Some(asked) => Some(asked),
        // The old name of the field.
        None => fields.text("name")?,
    };
    match asked {
        None => Err(fields.missing("model", "the name of the model; /api/tags lists it")),
        Some(asked) if asked.strip_suffix(LATEST).unwrap_or(asked) == model.id => Ok(()),
        Some(asked) => Err(ApiError::no_such_model(asked, &model.id)),
    }
}

//! `POST /api/embed` and the older `POST /api/embeddings`: texts turned into vectors of length 1.
//!
//! `truncate` is on unless it is false: the end of a text that is longer than the context is left out. `dimensions` and
//! `pooling` are as in `/v1/embeddings`; `options` and `keep_alive` have no effect on vectors and are ignored.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use serde::Serialize;

use crate::http::api::Api;
use crate::http::body;
use crate::http::embeddings::{Cut, Wanted};
use crate::http::error::{ApiError, json_response};
use crate::http::fields::Fields;
use crate::text::Vectors;

use super::check_model;

#[derive(Serialize)]
struct Many<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    total_duration: u64,
    /// Nanoseconds; the model is in memory.
    load_duration: u64,
    prompt_eval_count: u64,
}

#[derive(Serialize)]
struct One {
    embedding: Vec<f32>,
}

/// `POST /api/embed`.
pub(super) async fn many(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let (vectors, name) = vectors(&api, request, "input").await?;
    let written = move || {
        let total = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let body = Many {
            model: &name,
            embeddings: vectors.values,
            total_duration: total,
            load_duration: 0,
            prompt_eval_count: vectors.tokens,
        };
        json_response(StatusCode::OK, &body)
    };
    api.compute(written).await
}

/// `POST /api/embeddings`.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (vectors, _) = vectors(&api, request, "prompt").await?;
    let embedding = vectors.values.into_iter().next().unwrap_or_default();
    Ok(json_response(StatusCode::OK, &One { embedding }))
}

/// The vectors of the texts in `field`, and the name that the client uses for the model.
async fn vectors(
    api: &Arc<Api>,
    request: Request<Body>,
    field: &'static str,
) -> Result<(Vectors, String), ApiError> {
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    check_model(&fields, &model)?;
    let name = fields.text("model")?.unwrap_or(&model.id).to_owned();
    let cut = match fields.flag("truncate")? {
        None | Some(true) => Cut::End,
        Some(false) => Cut::Never,
    };
    if field == "prompt" {
        // One text alone.
        fields.text(field)?;
    }
    let wanted = Wanted::read(&fields, field, &model)?;
    drop(object);
    let inputs = wanted.encoded(api, cut).await?;
    let vectors = wanted.vectors(api, inputs).await?;
    Ok((vectors, name))
}

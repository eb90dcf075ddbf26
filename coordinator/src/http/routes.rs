//! The table of paths, and the small routes that need no file of their own.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::gateway::{Phase, ServedModel};

use super::api::Api;
use super::error::{ApiError, ErrorForm, json_response, status_fields};
use super::{
    admin, anthropic, chat, completions, dashboard, embeddings, guard, metrics, ollama, openapi,
    responses,
};

/// All routes, guarded and counted.
pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/messages", post(anthropic::create))
        .route("/v1/messages/count_tokens", post(anthropic::count))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .route(openapi::PATH, get(openapi::handle))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .merge(responses::routes())
        .merge(ollama::routes())
        .merge(dashboard::routes())
        .merge(admin::routes())
        .fallback(|| async { ApiError::no_such_path() })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(from_fn_with_state(Arc::clone(&api), admit))
        .with_state(api)
}

impl IntoResponse for ApiError {
    /// Carries the error to [`admit`], which knows the path and writes it in the form of the path's clients.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response.extensions_mut().insert(self);
        response
    }
}

/// Lets a request in or not, and counts what became of it.
async fn admit(State(api): State<Arc<Api>>, request: Request<Body>, next: Next) -> Response<Body> {
    let route = route_name(request.uri().path());
    let form = ErrorForm::of(request.uri().path());
    let mut response = match guard::check(&api.config, &request) {
        Ok(caller) => guard::on_behalf(caller, next.run(request)).await,
        Err(error) => error.into_response(),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        error.write(form, &mut response);
    }
    let value = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, value);
    metrics::answered(route, response.status().as_u16());
    response
}

/// A name from a fixed set, so that strangers cannot fill the metrics.
fn route_name(path: &str) -> &'static str {
    match path {
        "/v1/chat/completions" => "/v1/chat/completions",
        "/v1/completions" => "/v1/completions",
        "/v1/embeddings" => "/v1/embeddings",
        "/v1/messages" => "/v1/messages",
        "/v1/messages/count_tokens" => "/v1/messages/count_tokens",
        "/v1/models" => "/v1/models",
        "/v1/responses" => "/v1/responses",
        "/healthz" => "/healthz",
        "/readyz" => "/readyz",
        "/metrics" => "/metrics",
        openapi::PATH => openapi::PATH,
        path if path.starts_with("/v1/models/") => "/v1/models/{id}",
        path if path.starts_with("/v1/responses/") => "/v1/responses/{id}",
        path if path.starts_with("/admin/") => "/admin",
        path if dashboard::is_file(path) => "/",
        path => ollama::route_name(path).unwrap_or("other"),
    }
}

async fn models(State(api): State<Arc<Api>>) -> Response<Body> {
    // Both OpenAI's and Anthropic's clients ask here.
    let id = &api.gateway.model().id;
    let body = json!({
        "object": "list",
        "data": [model_entry(&api)],
        "has_more": false,
        "first_id": id,
        "last_id": id,
    });
    json_response(StatusCode::OK, &body)
}

async fn model(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, ApiError> {
    let served: &ServedModel = api.gateway.model();
    // A path that is no text names no model.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    if id == served.id {
        Ok(json_response(StatusCode::OK, &model_entry(&api)))
    } else {
        Err(ApiError::no_such_model(&id, &served.id))
    }
}

fn model_entry(api: &Api) -> Value {
    let served = api.gateway.model();
    let context = api.gateway.status().context;
    json!({
        "id": served.id,
        "object": "model",
        "type": "model",
        "display_name": served.id,
        "created": served.created_unix_s,
        "owned_by": "hearth",
        "max_model_len": (context > 0).then_some(context),
    })
}

async fn healthz() -> Response<Body> {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

async fn readyz(State(api): State<Arc<Api>>) -> Response<Body> {
    let status = api.gateway.status();
    if status.phase == Phase::Ready {
        json_response(StatusCode::OK, &Value::Object(status_fields(&status)))
    } else {
        ApiError::not_ready(&status).into_response()
    }
}

async fn metrics_text(State(api): State<Arc<Api>>) -> Result<Response<Body>, ApiError> {
    let ready = api.gateway.status().phase == Phase::Ready;
    let text = metrics::render(ready)
        .ok_or_else(|| ApiError::internal("this process records its metrics elsewhere"))?;
    let mut response = Response::new(Body::from(text));
    let value = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    Ok(response)
}

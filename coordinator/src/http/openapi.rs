//! `GET /openapi.json`: what is served, in OpenAPI's words.
//!
//! The text is `coordinator/openapi.json`, written by hand and part of the program. It names the paths, the main fields
//! of their bodies and the main fields of their answers; `docs/api.md` says of every field what becomes of it.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

/// Where it is.
pub(super) const PATH: &str = "/openapi.json";

const DOCUMENT: &[u8] = include_bytes!("../../openapi.json");

/// The route.
pub(super) async fn handle() -> Response<Body> {
    let mut response = Response::new(Body::from(DOCUMENT));
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

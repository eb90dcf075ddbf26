//! `/admin/..`: what the owner asks and does on the dashboard.
//!
//! Owns the table of these routes and the form of their bodies. Must never do anything by itself: each request becomes
//! the one that a command would send over the owner's local socket, and is answered by the same code. Whoever wants one
//! has to pass [`may_administer`] first, for reading as for acting.

mod owner;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::Api;
use super::body;
use super::config::HttpLimits;
use super::error::{ApiError, json_response};
use super::fields::Fields;
use owner::may_administer;

/// Bytes of an owner's request.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Longest life of an invite from here: a code on a screen is for now.
const INVITE_S_MAX: u32 = 3600;
/// Characters of a device's or a machine's name, number or words.
const NAME_CHARS_MAX: usize = 256;

/// Headers of every answer: facts about the household stay with whoever asked.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The owner's routes.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/admin/status", reads("status"))
        .route("/admin/nodes", reads("nodes"))
        .route("/admin/models", reads("models"))
        .route("/admin/pending", reads("pending"))
        .route("/admin/plan", reads("plan"))
        .route("/admin/plan/next", get(next_plan))
        .route("/admin/invite", acts(invite))
        .route("/admin/approve", acts(approve))
        .route("/admin/deny", acts(deny))
        .route("/admin/kick", acts(kick))
        .route("/admin/keys", reads("key_list").merge(acts(new_key)))
        .route("/admin/keys/revoke", acts(revoke))
        .route("/admin/usage", get(usage))
        .route("/admin/{*rest}", axum::routing::any(nothing))
        .layer(from_fn(admit))
}

/// Lets only the owner through, and keeps answers out of caches and other pages.
async fn admit(request: Request<Body>, next: Next) -> Response<Body> {
    let mut response = match may_administer(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// A route that hands one fixed request on.
fn reads(what: &'static str) -> MethodRouter<Arc<Api>> {
    get(move |State(api): State<Arc<Api>>| async move { ask(&api, json!({"do": what})).await })
}

/// A route that takes a body.
fn acts(read: fn(&Fields<'_>) -> Result<Value, ApiError>) -> MethodRouter<Arc<Api>> {
    post(
        move |State(api): State<Arc<Api>>, request: Request<Body>| async move {
            let object = read_object(&api.config.limits, request).await?;
            let wanted = read(&Fields::body(&object))?;
            drop(object);
            ask(&api, wanted).await
        },
    )
}

async fn next_plan(State(api): State<Arc<Api>>) -> Result<Response<Body>, ApiError> {
    ask(&api, json!({"do": "plan", "next": true})).await
}

/// Days that are asked for.
#[derive(Debug, Deserialize)]
struct Span {
    days: Option<u32>,
}

async fn usage(
    State(api): State<Arc<Api>>,
    span: Result<Query<Span>, QueryRejection>,
) -> Result<Response<Body>, ApiError> {
    let Ok(Query(Span { days })) = span else {
        return Err(ApiError::field(
            "days",
            "`days` is no whole number; expected `/admin/usage?days=30`",
        ));
    };
    let mut request = json!({"do": "usage"});
    if let Some(days) = days {
        request["days"] = days.into();
    }
    ask(&api, request).await
}

async fn nothing() -> ApiError {
    ApiError::no_such_path()
}

async fn read_object(
    limits: &HttpLimits,
    request: Request<Body>,
) -> Result<Map<String, Value>, ApiError> {
    let limits = HttpLimits {
        body_bytes_max: BODY_BYTES_MAX.min(limits.body_bytes_max),
        ..*limits
    };
    body::read_object(&limits, request).await
}

/// Asks the household as a command would.
async fn ask(api: &Api, request: Value) -> Result<Response<Body>, ApiError> {
    match api.gateway.owner(request).await {
        Ok(answer) => Ok(json_response(StatusCode::OK, &answer)),
        Err(text) => Err(ApiError::refused(text)),
    }
}

fn invite(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let mut request = json!({"do": "invite"});
    if let Some(ttl_s) = fields.integer("ttl_s", 1..=INVITE_S_MAX)? {
        request["ttl_s"] = ttl_s.into();
    }
    Ok(request)
}

fn approve(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let device = name(
        fields,
        "device",
        "the number or the four words of a device that waits",
    )?;
    Ok(json!({"do": "approve", "device": device}))
}

fn deny(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let device = name(
        fields,
        "device",
        "the number or the four words of a device that waits",
    )?;
    Ok(json!({"do": "deny", "device": device}))
}

/// A machine that is kicked needs a new invite, so it is named twice.
fn kick(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let node = name(fields, "node", "the id or the name of a machine")?;
    let confirmed = name(fields, "confirm", "the same as `node`")?;
    if node != confirmed {
        return Err(ApiError::field(
            "confirm",
            "`confirm` is another text than `node`; expected the same: the machine needs a new invite to come back",
        ));
    }
    Ok(json!({"do": "kick", "node": node}))
}

fn new_key(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let mut request = json!({
        "do": "key_create",
        "name": name(fields, "name", "the name of a person")?,
    });
    for limit in ["tokens_per_day", "requests_at_once"] {
        if let Some(count) = fields.integer(limit, 1..=u32::MAX)? {
            request[limit] = count.into();
        }
    }
    if fields.get("priority").is_some() {
        request["priority"] = name(fields, "priority", "low, normal or high")?.into();
    }
    Ok(request)
}

fn revoke(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let key = name(fields, "key", "the name or the number of a key")?;
    Ok(json!({"do": "key_revoke", "key": key}))
}

fn name<'a>(fields: &Fields<'a>, field: &str, expected: &str) -> Result<&'a str, ApiError> {
    match fields.text(field)? {
        None => Err(fields.missing(field, expected)),
        Some(text) if text.chars().count() > NAME_CHARS_MAX => Err(ApiError::field(
            fields.path(field),
            format!("`{field}` is longer than {NAME_CHARS_MAX} characters; expected {expected}"),
        )),
        Some(text) => Ok(text),
    }
}

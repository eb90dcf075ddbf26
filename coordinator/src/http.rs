//! The API: several dialects over HTTP/1.1, for clients of the household, and the owner's pages.
//!
//! Owns sockets of clients, deadlines, the checks of everything that comes in and the shape of everything that goes
//! out. Never names a node, a plan or a step, and never lets text of a prompt or an answer into a log, a metric or
//! an error.
//!
//! The one idea: a dialect is one thin file that translates to the internal request and from the internal stream;
//! what all dialects share (guard, body, fields, events) is written once.

mod admin;
mod anthropic;
mod api;
mod body;
mod chat;
mod completions;
mod config;
mod dashboard;
mod dialect;
mod embeddings;
mod error;
mod fields;
mod format;
mod frames;
mod guard;
mod logprobs;
mod metrics;
mod observe;
mod ollama;
mod openapi;
mod refused;
mod replay;
mod responses;
mod routes;
mod sampling;
mod server;
mod sources;
mod stall;
mod tls;
mod tools;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::gateway::Gateway;

pub use config::{HttpConfig, HttpLimits, Keyless};
pub use replay::{Replay, ReplayError};
pub use tls::{CERT_FILE, KEY_FILE, Tls, TlsError};

/// Serves the API on a listener until `shutdown`; then takes no new connection, lets running answers finish within
/// [`HttpLimits::shutdown_grace`], and returns.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) {
    metrics::recorder();
    let serving = server::Serving {
        limits: config.limits,
        tls: config.tls.clone(),
        router: routes::router(Arc::new(api::Api::new(gateway, config))),
    };
    server::run(listener, serving, shutdown).await;
}

/// Reads the bytes of a request's body as every route does, for those who try bodies without a service.
///
/// # Errors
/// What the client would be told, as JSON.
pub fn read_body(bytes: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    body::parse_object(bytes).map_err(|error| error.body(error::ErrorForm::OpenAi).to_string())
}

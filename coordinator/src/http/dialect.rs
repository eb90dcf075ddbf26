//! What the dialects of the API have in common: how an answer under way becomes an HTTP response.
//!
//! A [`Dialect`] only writes: it turns deltas into events, or gathers them into one body. Waiting, keeping the
//! connection alive, ending and failing are here, once for all.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde::Serialize;

use crate::gateway::Failure;
use crate::text::{Delta, Finish, Usage};

use super::error::{ApiError, json_response};
use super::observe::Observed;
use super::sampling::{Delivery, IncludeUsage};

/// One way of writing answers.
pub(super) trait Dialect: Send + 'static {
    /// The JSON of a stream's event for one delta.
    fn event(&self, delta: Delta) -> serde_json::Result<String>;
    /// The JSON of the event with the token counts.
    fn usage_event(&self, usage: Usage) -> serde_json::Result<String>;
    /// Gathers a delta for [`Dialect::whole`].
    fn add(&mut self, delta: Delta);
    /// The answer in one piece.
    fn whole(self, usage: Usage) -> impl Serialize;
}

/// What every object of an answer begins with.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// Unique id of the answer.
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model's id.
    pub(super) model: String,
}

impl Head {
    /// The head of a new answer.
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        let created = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created,
            model: model.to_owned(),
        }
    }
}

/// Token counts as clients see them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    completion_tokens_details: UsageDetails,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct UsageDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            completion_tokens_details: UsageDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
        }
    }
}

/// A finish reason as clients see it.
pub(super) fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// The response to an accepted request.
///
/// # Errors
/// The household failed before anything was sent.
pub(super) async fn respond<D: Dialect>(
    answer: Observed,
    dialect: D,
    delivery: Delivery,
    keep_alive: Duration,
) -> Result<Response<Body>, ApiError> {
    match delivery {
        Delivery::Whole => whole(answer, dialect).await,
        Delivery::Stream { usage } => Ok(stream(Events {
            answer: Some(answer),
            dialect,
            usage,
            keep_alive,
            closing: Closing::None,
        })),
    }
}

async fn whole<D: Dialect>(
    mut answer: Observed,
    mut dialect: D,
) -> Result<Response<Body>, ApiError> {
    while let Some(delta) = answer
        .next()
        .await
        .map_err(|failure| ApiError::failed(&failure))?
    {
        dialect.add(delta);
    }
    let body = dialect.whole(answer.usage());
    Ok(json_response(StatusCode::OK, &body))
}

/// What is left to send after the last delta.
#[derive(Debug, Clone, Copy)]
enum Closing {
    None,
    Usage(Usage),
    Done,
}

/// A stream of server-sent events. Dropping it drops the answer, and with it what is still being computed.
struct Events<D> {
    answer: Option<Observed>,
    dialect: D,
    usage: IncludeUsage,
    keep_alive: Duration,
    closing: Closing,
}

fn stream<D: Dialect>(events: Events<D>) -> Response<Body> {
    let frames = futures::stream::unfold(events, |mut events| async move {
        let frame = events.next().await?;
        Some((Ok::<Bytes, Infallible>(frame), events))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "text/event-stream");
    set(header::CACHE_CONTROL, "no-cache");
    // Proxies of the nginx kind would otherwise gather events.
    set(header::HeaderName::from_static("x-accel-buffering"), "no");
    response
}

impl<D: Dialect> Events<D> {
    /// The next frame; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let Some(answer) = &mut self.answer else {
            return self.close();
        };
        match tokio::time::timeout(self.keep_alive, answer.next()).await {
            Err(_) => Some(Bytes::from_static(b": keep-alive\n\n")),
            Ok(Ok(Some(delta))) => {
                let event = self.dialect.event(delta);
                Some(self.frame(event))
            }
            Ok(Ok(None)) => {
                self.closing = match self.usage {
                    IncludeUsage::Yes => Closing::Usage(answer.usage()),
                    IncludeUsage::No => Closing::Done,
                };
                self.answer = None;
                self.close()
            }
            Ok(Err(failure)) => Some(self.fail(&failure)),
        }
    }

    fn close(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.closing, Closing::None) {
            Closing::None => None,
            Closing::Usage(usage) => {
                self.closing = Closing::Done;
                let event = self.dialect.usage_event(usage);
                Some(self.frame(event))
            }
            Closing::Done => Some(Bytes::from_static(b"data: [DONE]\n\n")),
        }
    }

    /// The error event; nothing follows it.
    fn fail(&mut self, failure: &Failure) -> Bytes {
        self.answer = None;
        self.closing = Closing::None;
        let body = ApiError::failed(failure).body();
        Bytes::from(format!("data: {body}\n\n"))
    }

    fn frame(&mut self, event: serde_json::Result<String>) -> Bytes {
        match event {
            Ok(json) => Bytes::from(format!("data: {json}\n\n")),
            Err(_) => self.fail(&Failure {
                code: "internal",
                message: "an event could not be written".to_owned(),
                retry: crate::gateway::Retry::Never,
            }),
        }
    }
}

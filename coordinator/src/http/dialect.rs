//! What the dialects of the API have in common: how an answer under way becomes an HTTP response.
//!
//! A [`Dialect`] only writes: it turns deltas into frames, or gathers them into one body. Waiting, keeping the
//! connection alive, ending and failing are here, once for all.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde::Serialize;

use crate::text::{Delta, Finish, Usage};

use super::error::{ApiError, ErrorForm, json_response};
use super::frames::{Frames, Wire, Written};
use super::observe::{News, Observed};
use super::sampling::Delivery;

/// What ends a stream of OpenAI's API.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// One way of writing answers. Streams call `open`, `delta` for each, and `close` or `fail`; what is written in one call
/// leaves together. Answers in one piece call `add` for each delta and then `whole`.
pub(super) trait Dialect: Send + 'static {
    /// How its streams are framed.
    const WIRE: Wire = Wire::Events;

    /// What a stream says that has been silent for a while; empty says nothing.
    const KEEP_ALIVE: &'static str = ": keep-alive\n\n";

    /// Frames that come before the first token is there. Only tokens of prompts are counted yet.
    fn open(&mut self, _usage: Usage, _frames: &mut Frames) -> Written {
        Ok(())
    }

    /// The frames of one delta. Where the dialect allows it at least one, so that every token is seen to come.
    fn delta(&mut self, delta: Delta, frames: &mut Frames) -> Written;

    /// The frames after the last delta.
    fn close(&mut self, usage: Usage, frames: &mut Frames) -> Written;

    /// The frame that ends a stream which cannot be finished.
    fn fail(&mut self, error: &ApiError, frames: &mut Frames) -> Written {
        frames.value(&error.body(ErrorForm::OpenAi))
    }

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

/// A finish reason as clients of OpenAI's API see it.
pub(super) fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopText(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
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
        Delivery::Stream => Ok(stream(Events {
            stage: Stage::Opening(answer),
            dialect,
            keep_alive,
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

/// How far a stream has come.
enum Stage {
    /// Nothing was sent yet.
    Opening(Observed),
    /// Deltas are on their way.
    Running(Observed),
    /// Nothing follows.
    Ended,
}

/// A stream of frames. Dropping it drops the answer, and with it what is still being computed.
struct Events<D> {
    stage: Stage,
    dialect: D,
    keep_alive: Duration,
}

fn stream<D: Dialect>(events: Events<D>) -> Response<Body> {
    let frames = futures::stream::unfold(events, |mut events| async move {
        let frame = events.next().await?;
        Some((Ok::<Bytes, Infallible>(frame), events))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, D::WIRE.content_type());
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CACHE_CONTROL, "no-cache");
    // Proxies of the nginx kind would otherwise gather events.
    set(header::HeaderName::from_static("x-accel-buffering"), "no");
    response
}

impl<D: Dialect> Events<D> {
    /// The next frames; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frames = self.step().await?;
            // A dialect that has nothing to say leaves the connection alone: an empty chunk would end it.
            if !frames.is_empty() {
                return Some(frames);
            }
        }
    }

    async fn step(&mut self) -> Option<Bytes> {
        let mut frames = Frames::new(D::WIRE);
        let (stage, written) = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => return None,
            Stage::Opening(answer) => {
                let written = self.dialect.open(answer.usage(), &mut frames);
                (Stage::Running(answer), written)
            }
            Stage::Running(mut answer) => match answer.next_or_news(self.keep_alive).await {
                News::Silence => {
                    frames.fixed(D::KEEP_ALIVE);
                    (Stage::Running(answer), Ok(()))
                }
                News::Queued(place) => {
                    frames.comment(format_args!("queued {place}"));
                    (Stage::Running(answer), Ok(()))
                }
                News::Next(Ok(Some(delta))) => {
                    let written = self.dialect.delta(delta, &mut frames);
                    (Stage::Running(answer), written)
                }
                News::Next(Ok(None)) => {
                    let written = self.dialect.close(answer.usage(), &mut frames);
                    (Stage::Ended, written)
                }
                News::Next(Err(failure)) => {
                    return Some(self.fail(&ApiError::failed(&failure)));
                }
            },
        };
        if written.is_err() {
            return Some(self.fail(&ApiError::internal("an event could not be written")));
        }
        self.stage = stage;
        Some(frames.into_bytes())
    }

    /// The frame of a failure; nothing follows it.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        let mut frames = Frames::new(D::WIRE);
        // If even this cannot be written, the stream ends without a word, which clients take for a failure as well.
        let _ = self.dialect.fail(error, &mut frames);
        frames.into_bytes()
    }
}

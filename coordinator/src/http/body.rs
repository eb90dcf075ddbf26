//! Reads the body of a request into a JSON object, or says why not.
//!
//! Size, time, encoding and depth are checked before anything is built from the bytes.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use proto::limits;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::config::HttpLimits;
use super::error::ApiError;

/// How much of a body that is too large is read and thrown away, in multiples of what is accepted. Clients that
/// write before they read would otherwise see a broken connection in place of the error.
const DISCARDED_MULTIPLE: u64 = 8;
/// Bytes of all bodies that are being read, over the whole process: many clients with large bodies share this.
const ROOM_BYTES: usize = 256 << 20;

static ROOM: Semaphore = Semaphore::const_new(ROOM_BYTES);

/// A body and its part of the room.
struct Held {
    bytes: Vec<u8>,
    room: Option<SemaphorePermit<'static>>,
}

impl Held {
    fn add(&mut self, room: &'static Semaphore, data: &[u8]) -> Result<(), ApiError> {
        let length = u32::try_from(data.len()).map_err(|_| ApiError::busy())?;
        let more = room
            .try_acquire_many(length)
            .map_err(|_| ApiError::busy())?;
        match &mut self.room {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// The JSON object that a request carries.
///
/// # Errors
/// 400, 408, 413 or 415.
pub(super) async fn read_object(
    limits: &HttpLimits,
    request: Request<Body>,
) -> Result<Map<String, Value>, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::not_json());
    }
    let reading = read_bytes(limits, request);
    let bytes = tokio::time::timeout(limits.body_deadline, reading)
        .await
        .map_err(|_| ApiError::too_slow(limits.body_deadline.as_secs_f64()))??;
    parse_object(&bytes.bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str())
    else {
        return false;
    };
    let mut parts = value.split(';').map(str::trim);
    let json = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let utf8 = parts.all(|part| match part.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => charset
            .trim()
            .trim_matches('"')
            .eq_ignore_ascii_case("utf-8"),
        _ => true,
    });
    json && utf8
}

/// How long a body may take of which so much has come: one that drips is not waited for until it is whole.
fn patience(limits: &HttpLimits, bytes: usize) -> Duration {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let earned_s = f64::from(bytes) / f64::from(limits.body_bytes_per_s_min.max(1));
    limits.body_grace + Duration::from_secs_f64(earned_s)
}

async fn read_bytes(limits: &HttpLimits, request: Request<Body>) -> Result<Held, ApiError> {
    let started = Instant::now();
    let bytes_max = limits.body_bytes_max;
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    if announced.is_some_and(|length| length > most) {
        // A client that asks first is told at once; others are heard out.
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body(), most).await;
        }
        return Err(ApiError::too_large(bytes_max));
    }
    let mut body = request.into_body();
    let mut held = Held {
        bytes: Vec::new(),
        room: None,
    };
    loop {
        let patience = patience(limits, held.bytes.len());
        let frame = tokio::time::timeout_at(started + patience, body.frame())
            .await
            .map_err(|_| ApiError::too_slow(patience.as_secs_f64()))?;
        let Some(frame) = frame else {
            return Ok(held);
        };
        let frame = frame.map_err(|_| {
            ApiError::bad_request("the body broke off or is not framed as HTTP says")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > bytes_max.saturating_sub(held.bytes.len()) {
            discard(body, most).await;
            return Err(ApiError::too_large(bytes_max));
        }
        held.add(&ROOM, &data)?;
    }
}

/// Reads on without keeping anything; ends at a bound, at the end or at the first error.
async fn discard(mut body: Body, most: u64) {
    let mut left = most.saturating_mul(DISCARDED_MULTIPLE);
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, |data| data.len());
        left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        if left == 0 {
            return;
        }
    }
}

/// Checks encoding and depth, then parses.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the body is not UTF-8: byte {} is wrong; expected JSON in UTF-8",
            error.valid_up_to()
        ))
    })?;
    if depth(text) > limits::JSON_DEPTH_MAX {
        return Err(ApiError::bad_request(format!(
            "the body is nested too deeply; at most {} levels are accepted",
            limits::JSON_DEPTH_MAX
        )));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(ApiError::bad_request(format!(
            "the body is {}; expected a JSON object",
            super::fields::describe(&other)
        ))),
        Err(error) => Err(ApiError::bad_request(format!(
            "the body is not JSON: {error}"
        ))),
    }
}

/// Levels of arrays and objects in a JSON text; meaningless, but harmless, for other text.
fn depth(text: &str) -> usize {
    let (mut level, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                level = level.saturating_add(1);
                deepest = deepest.max(level);
            }
            b']' | b'}' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(r#"{"a":[1,{"b":"[[[[\"[["}]}"#), 3);
        assert_eq!(depth("[]]]][["), 2);
        assert_eq!(depth(""), 0);
    }

    #[test]
    fn bodies_share_one_room() {
        static SMALL: Semaphore = Semaphore::const_new(10);
        let empty = || Held {
            bytes: Vec::new(),
            room: None,
        };
        let (mut one, mut two) = (empty(), empty());
        assert!(one.add(&SMALL, &[1; 4]).is_ok() && one.add(&SMALL, &[2; 3]).is_ok());
        assert!(two.add(&SMALL, &[1; 4]).is_err());
        assert!(two.add(&SMALL, &[1; 3]).is_ok());
        drop(one);
        assert!(two.add(&SMALL, &[1; 7]).is_ok());
        drop(two);
        assert_eq!(SMALL.available_permits(), 10);
    }

    #[test]
    fn a_body_that_drips_is_left_within_ten_seconds_and_one_that_flows_is_not() {
        let limits = HttpLimits::default();
        let left_after_s = |bytes_per_s: u64| {
            (1..600).find(|second| {
                let come = usize::try_from(second * bytes_per_s).unwrap();
                patience(&limits, come) < Duration::from_secs(*second)
            })
        };
        assert!(left_after_s(1).is_some_and(|second| second <= 10));
        assert!(left_after_s(1000).is_some_and(|second| second <= 10));
        assert_eq!(left_after_s(200 << 10), None);
    }

    #[test]
    fn content_types_are_json_in_utf8() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers)
        };
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "text/plain",
            "application/jsonx",
            "application/json; charset=latin1",
            "multipart/form-data",
            "",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}

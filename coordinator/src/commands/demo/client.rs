//! One question to the endpoint, as any client would ask it.
//!
//! Owns just as much HTTP as that takes: an HTTP/1.0 request, whose answer ends with the connection, and its events.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use command::Failure;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const MAX_TOKENS: u32 = 256;
/// Silence after which the endpoint is given up.
const SILENCE: Duration = Duration::from_secs(120);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An answer and its speed.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Spoken {
    /// The text.
    pub(super) text: String,
    /// Tokens of it, the end of turn included.
    pub(super) tokens: u64,
    /// From the request to the first token.
    pub(super) first_s: f64,
    /// From the first token to the last.
    pub(super) rest_s: f64,
}

impl Spoken {
    /// Tokens per second after the first; 0 if there was only one.
    #[allow(clippy::cast_precision_loss, reason = "a count of tokens is small")]
    pub(super) fn tokens_per_s(&self) -> f64 {
        if self.rest_s > 0.0 {
            self.tokens.saturating_sub(1) as f64 / self.rest_s
        } else {
            0.0
        }
    }

    /// One line about the speed.
    pub(super) fn speed_text(&self) -> String {
        format!(
            "{} tokens, {:.1} tokens/s; the first came after {:.2} s",
            self.tokens,
            self.tokens_per_s(),
            self.first_s
        )
    }
}

/// Asks, and hands on each piece of text as it comes.
///
/// # Errors
/// The endpoint cannot be reached, refuses, breaks off or falls silent.
pub(super) async fn speak(
    api: SocketAddr,
    model: &str,
    prompt: &str,
    mut piece: impl FnMut(&str),
) -> Result<Spoken, Failure> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": true,
    })
    .to_string();
    let started = Instant::now();
    let stream = TcpStream::connect(api).await?;
    let mut stream = BufReader::new(stream);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut lines = Lines(stream.take(ANSWER_BYTES_MAX));
    let status = lines.next().await?.unwrap_or_default();
    let good = status.split(' ').nth(1) == Some("200");
    while lines.next().await?.is_some_and(|line| !line.is_empty()) {}
    if !good {
        let said = lines.next().await?.unwrap_or_default();
        return Err(Failure::Failed(format!(
            "the endpoint answered `{status}`: {said}"
        )));
    }
    let mut spoken = Spoken::default();
    while let Some(line) = lines.next().await? {
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Ok(spoken);
        }
        let event: Value = serde_json::from_str(data)?;
        if let Some(text) = token(&event)? {
            let since_s = started.elapsed().as_secs_f64();
            if spoken.tokens == 0 {
                spoken.first_s = since_s;
            }
            spoken.rest_s = since_s - spoken.first_s;
            spoken.tokens += 1;
            spoken.text.push_str(text);
            piece(text);
        }
    }
    Err(Failure::Failed(
        "the answer broke off without its end".to_owned(),
    ))
}

/// The text of a token's event; `None` for an event without a token.
fn token(event: &Value) -> Result<Option<&str>, Failure> {
    if let Some(error) = event.get("error") {
        let said = error
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or("no reason was given");
        return Err(Failure::Failed(format!("the answer broke off: {said}")));
    }
    let Some(delta) = event.pointer("/choices/0/delta") else {
        return Ok(None);
    };
    let content = delta
        .get("content")
        .or_else(|| delta.get("reasoning_content"));
    Ok(content.and_then(Value::as_str))
}

struct Lines(tokio::io::Take<BufReader<TcpStream>>);

impl Lines {
    /// The next line without its end; `None` when the connection is at its end.
    async fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut line = String::new();
        let read = tokio::time::timeout(SILENCE, self.0.read_line(&mut line)).await;
        let read = read.map_err(|_| {
            Failure::Failed(format!(
                "the endpoint was silent for {} s",
                SILENCE.as_secs()
            ))
        })??;
        if read == 0 {
            return Ok(None);
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_errors_are_told_apart() {
        let event = json!({"choices": [{"delta": {"content": "a"}}]});
        assert_eq!(token(&event).unwrap(), Some("a"));
        let thought = json!({"choices": [{"delta": {"reasoning_content": "b"}}]});
        assert_eq!(token(&thought).unwrap(), Some("b"));
        assert_eq!(token(&json!({"choices": []})).unwrap(), None);
        let error = token(&json!({"error": {"message": "node den was lost"}})).unwrap_err();
        assert!(error.to_string().contains("node den was lost"));
    }

    #[test]
    fn speed_counts_from_the_first_token() {
        let spoken = Spoken {
            tokens: 11,
            first_s: 5.0,
            rest_s: 2.0,
            ..Spoken::default()
        };
        assert!((spoken.tokens_per_s() - 5.0).abs() < 1e-9);
        assert_eq!(Spoken::default().tokens_per_s(), 0.0);
    }
}

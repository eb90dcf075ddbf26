//! The endpoint as a client sees it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixtures::Golden;
use crate::process::DEADLINE;

/// How often a state is looked at that nobody announces.
pub const LOOK: Duration = Duration::from_millis(10);

/// A client of one endpoint.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where it is.
    pub address: SocketAddr,
    /// The model that it serves.
    pub model: String,
    client: reqwest::Client,
}

/// An answer in one piece.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The `Retry-After` header in seconds.
    pub retry_after_s: Option<u64>,
    /// The body.
    pub body: Value,
}

impl Reply {
    /// The error's code; empty without one.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The body of an answer that was wanted.
    #[must_use]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }
}

/// One answer to token ids, as comparable as it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids.
    pub ids: Vec<u32>,
    /// Per token the log-probabilities that came with it, as id and bits of the f32, largest first.
    pub logprob_bits: Vec<Vec<(u32, u32)>>,
}

impl Api {
    /// A client of the endpoint at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, model: &str) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(DEADLINE)
            .build();
        Self {
            address,
            model: model.to_owned(),
            client: client.expect("a client can be built"),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        let sent = self.client.get(self.url(path)).send().await;
        reply(sent.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))).await
    }

    /// GET of a text.
    pub async fn text(&self, path: &str) -> String {
        let sent = self
            .client
            .get(self.url(path))
            .send()
            .await
            .expect("the endpoint answers");
        sent.text().await.expect("a text")
    }

    /// POST of a body; `model` is added if it is not there.
    pub async fn post(&self, path: &str, mut body: Value) -> Reply {
        self.name_model(&mut body);
        let sent = self.client.post(self.url(path)).json(&body).send().await;
        reply(sent.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))).await
    }

    /// POST whose answer is a stream of events.
    pub async fn stream(&self, path: &str, mut body: Value) -> Events {
        self.name_model(&mut body);
        body["stream"] = json!(true);
        let sent = self.client.post(self.url(path)).json(&body).send().await;
        let response = sent.unwrap_or_else(|error| panic!("POST {path}: {error:?}"));
        assert_eq!(response.status(), 200, "the stream starts");
        Events {
            response,
            buffer: Vec::new(),
        }
    }

    fn name_model(&self, body: &mut Value) {
        if body.get("model").is_none() {
            body["model"] = json!(self.model);
        }
    }

    /// As [`Api::greedy`] of every recorded prompt, all at once, so that their sequences interleave.
    pub async fn greedy_all(&self, goldens: &[Golden], logprobs: usize) -> Vec<Tokens> {
        let asks = goldens.iter().map(|golden| {
            let (api, golden) = (self.clone(), golden.clone());
            tokio::spawn(async move {
                api.greedy(&golden.prompt, golden.greedy.len(), logprobs)
                    .await
            })
        });
        let asks: Vec<_> = asks.collect();
        let mut answers = Vec::new();
        for ask in asks {
            answers.push(ask.await.expect("an answer"));
        }
        answers
    }

    /// Greedy ids and the bits of `logprobs` log-probabilities per token.
    pub async fn greedy(&self, prompt: &[u32], max_tokens: usize, logprobs: usize) -> Tokens {
        let body = json!({
            "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true,
            "return_tokens_as_token_ids": true, "logprobs": logprobs,
        });
        let body = self.post("/v1/completions", body).await.ok();
        tokens(&body["choices"][0]["logprobs"])
    }

    /// One chat turn, decoded greedily.
    pub async fn chat(&self, content: &str, max_tokens: u32) -> Reply {
        let body = json!({
            "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "temperature": 0,
        });
        self.post("/v1/chat/completions", body).await
    }

    /// Waits until `/readyz` satisfies `wanted`, and gives the reply that did.
    pub async fn readiness(&self, what: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let mut last = None;
        let reached = tokio::time::timeout(DEADLINE, async {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let reply = self.get("/readyz").await;
                if wanted(&reply) {
                    return reply;
                }
                last = Some(reply);
            }
        });
        match reached.await {
            Ok(reply) => reply,
            Err(_) => panic!("{what} was not reached; last {last:?}"),
        }
    }

    /// Waits until a request sent now is answered.
    pub async fn ready(&self) {
        self.readiness("ready", |reply| reply.status == 200).await;
    }
}

async fn reply(response: reqwest::Response) -> Reply {
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let text = response.text().await.expect("a whole body");
    Reply {
        status,
        retry_after_s,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}

/// Reads `token_id:N`.
fn id(label: &str) -> u32 {
    let number = label
        .strip_prefix("token_id:")
        .unwrap_or_else(|| panic!("no id: {label}"));
    number.parse().expect("a number")
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the value was an f32 before it was written"
)]
fn bits(value: &Value) -> u32 {
    (value.as_f64().expect("a log-probability") as f32).to_bits()
}

/// Reads the log-probabilities of a completion.
fn tokens(logprobs: &Value) -> Tokens {
    let labels = logprobs["tokens"].as_array().expect("tokens");
    let chosen = logprobs["token_logprobs"]
        .as_array()
        .expect("token_logprobs");
    let tops = logprobs["top_logprobs"].as_array().expect("top_logprobs");
    assert!(
        labels.len() == chosen.len() && labels.len() == tops.len(),
        "{logprobs}"
    );
    let ids: Vec<u32> = labels
        .iter()
        .map(|label| id(label.as_str().expect("a label")))
        .collect();
    let all = ids
        .iter()
        .zip(chosen)
        .zip(tops)
        .map(|((chosen, logprob), top)| {
            let top = top.as_object().expect("an object of log-probabilities");
            let mut bits: Vec<(u32, u32)> = top
                .iter()
                .map(|(label, value)| (id(label), self::bits(value)))
                .collect();
            bits.push((*chosen, self::bits(logprob)));
            bits
        });
    let logprob_bits = all.collect();
    Tokens { ids, logprob_bits }
}

/// The events of a streamed answer.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let frame = String::from_utf8(frame).expect("UTF-8");
                let Some(data) = frame.trim_end().strip_prefix("data: ") else {
                    continue;
                };
                if data == "[DONE]" {
                    return None;
                }
                return Some(serde_json::from_str(data).expect("an event is JSON"));
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await;
            match chunk
                .expect("the stream goes on")
                .expect("the stream is whole")
            {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return None,
            }
        }
    }

    /// The error that breaks the stream off; tokens before it are skipped.
    pub async fn error(&mut self) -> Value {
        while let Some(event) = self.next().await {
            if event.get("error").is_some() {
                return event["error"].clone();
            }
        }
        panic!("the stream ended without an error");
    }
}

//! Clients that are slow, large, gone, too many, or still there when the service ends.

use std::sync::Arc;
use std::time::Duration;

use coordinator::http::{HttpConfig, HttpLimits};
use proto::RequestId;
use serde_json::json;
use tokio::sync::Notify;

use crate::client::{Connection, ask, get, post, raw};
use crate::household::{Say, Seen, Served, within};

fn limits(change: impl FnOnce(&mut HttpLimits)) -> HttpConfig {
    let mut config = HttpConfig::default();
    change(&mut config.limits);
    config
}

fn chat(stream: bool) -> Vec<u8> {
    let body = json!({
        "model": "hearth-test", "stream": stream, "messages": [{"role": "user", "content": "Go."}],
    });
    post("/v1/chat/completions", &body.to_string())
}

#[tokio::test]
async fn each_event_leaves_before_the_next_token_exists() {
    let served = Served::start().await;
    let go = Arc::new(Notify::new());
    let token = served.ids("A")[0];
    let mut script = vec![Say::Token(0, token), Say::Wait(Arc::clone(&go))];
    script.extend(served.speak("B"));
    served.say(script);
    let mut client = Connection::open(served.address).await;
    client.send(&chat(true)).await;
    assert_eq!(client.head().await.status, 200);

    let first = client.chunk().await.unwrap();

    assert!(first.contains("\"content\":\"A\""), "{first}");
    go.notify_one();
    assert!(client.chunk().await.unwrap().contains("\"content\":\"B\""));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let config = limits(|limits| limits.keep_alive = Duration::from_millis(20));
    let served = Served::with(config, |_| {}).await;
    let go = Arc::new(Notify::new());
    let mut script = vec![Say::Wait(Arc::clone(&go))];
    script.extend(served.speak("B"));
    served.say(script);
    let mut client = Connection::open(served.address).await;
    client.send(&chat(true)).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(": keep-alive\n\n"));
    assert_eq!(client.chunk().await.as_deref(), Some(": keep-alive\n\n"));
    go.notify_one();
    loop {
        let chunk = client.chunk().await.unwrap();
        if chunk.contains("\"content\":\"B\"") {
            break;
        }
        assert_eq!(chunk, ": keep-alive\n\n");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    let served = Served::start().await;
    let token = served.ids("A")[0];
    let never = Arc::new(Notify::new());
    served.say(vec![Say::Token(0, token), Say::Wait(Arc::clone(&never))]);
    // While streaming.
    let mut client = Connection::open(served.address).await;
    client.send(&chat(true)).await;
    client.head().await;
    client.chunk().await.unwrap();
    drop(client);
    assert!(matches!(served.seen().await, Seen::Generate(_)));
    assert_eq!(served.seen().await, Seen::Cancel(RequestId(1)));
    // While waiting for an answer in one piece.
    let mut client = Connection::open(served.address).await;
    client.send(&chat(false)).await;
    assert!(matches!(served.seen().await, Seen::Generate(_)));
    drop(client);
    assert_eq!(served.seen().await, Seen::Cancel(RequestId(2)));
}

#[tokio::test]
async fn a_slow_head_is_cut_off_while_others_are_served() {
    let config = limits(|limits| limits.header_deadline = Duration::from_millis(150));
    let served = Served::with(config, |_| {}).await;
    let mut slow = Connection::open(served.address).await;
    slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
        .await;
    assert_eq!(get(served.address, "/healthz").await.status(), 200);
    slow.rest().await;
    assert_eq!(get(served.address, "/healthz").await.status(), 200);
    // A connection that never says anything ends the same way.
    let mut silent = Connection::open(served.address).await;
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test]
async fn a_slow_body_gets_408() {
    let short = Duration::from_millis(100);
    let late = limits(|limits| limits.body_deadline = short);
    let dripping = limits(|limits| limits.body_grace = short);
    for config in [late, dripping] {
        let served = Served::with(config, |_| {}).await;
        let mut slow = Connection::open(served.address).await;
        let request = chat(false);
        slow.send(&request[..request.len() - 5]).await;
        let reply = slow.reply().await;
        assert_eq!(reply.status(), 408);
        assert_eq!(reply.json()["error"]["code"], "request_timeout");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_gets_413() {
    let config = limits(|limits| limits.body_bytes_max = 1000);
    let served = Served::with(config, |_| {}).await;
    let large = "x".repeat(6000);
    // Announced, and sent all the same.
    let reply = ask(served.address, &post("/v1/completions", &large)).await;
    assert_eq!(reply.status(), 413);
    assert_eq!(reply.json()["error"]["code"], "request_too_large");
    // Not announced.
    let mut request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..6 {
        request.extend_from_slice(format!("{:x}\r\n{}\r\n", 1000, &large[..1000]).as_bytes());
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(ask(served.address, &request).await.status(), 413);
    // A client that asks first does not have to send it.
    let head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(ask(served.address, head).await.status(), 413);
    // Without end.
    let mut endless = Connection::open(served.address).await;
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n";
    endless.send(head.as_bytes()).await;
    endless.send("x".repeat(20_000).as_bytes()).await;
    assert_eq!(endless.reply().await.status(), 413);
}

#[tokio::test]
async fn a_chunked_body_is_read() {
    let served = Served::start().await;
    served.say(served.speak("Hi."));
    let mut client = Connection::open(served.address).await;
    client
        .send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let body = json!({"model": "hearth-test", "prompt": "caf\u{e9}"}).to_string();
    // Cut everywhere, inside a character too.
    for byte in body.as_bytes() {
        client
            .send(&[b"1\r\n".as_slice(), &[*byte], b"\r\n"].concat())
            .await;
    }
    client.send(b"0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.json()["choices"][0]["text"], "Hi.");
    // Broken framing.
    let broken = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    assert_eq!(ask(served.address, broken).await.status(), 400);
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let served = Served::start().await;
    served.say(served.speak("Hi."));
    let mut client = Connection::open(served.address).await;
    for request in [
        raw("GET", "/healthz", &[], b""),
        chat(true),
        post("/v1/completions", "{broken"),
        chat(false),
    ] {
        client.send(&request).await;
        let reply = client.reply().await;
        assert!([200, 400].contains(&reply.status()));
    }
}

#[tokio::test]
async fn a_client_too_many_is_told_so() {
    let config = limits(|limits| limits.connections_max = 1);
    let served = Served::with(config, |_| {}).await;
    let mut first = Connection::open(served.address).await;
    first.send(&raw("GET", "/healthz", &[], b"")).await;
    assert_eq!(first.reply().await.status(), 200);
    let reply = get(served.address, "/healthz").await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.json()["error"]["code"], "too_many_connections");
    first.send(&raw("GET", "/healthz", &[], b"")).await;
    assert_eq!(first.reply().await.status(), 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = Served::start().await;
    let padding = "a".repeat(512 << 10);
    let mut client = Connection::open(served.address).await;
    client
        .send(&raw("GET", "/healthz", &[("X-Padding", &padding)], b""))
        .await;
    let rest = client.rest().await;
    let status = String::from_utf8_lossy(&rest);
    assert!(
        rest.is_empty() || status.starts_with("HTTP/1.1 431"),
        "{status}"
    );
    assert_eq!(get(served.address, "/healthz").await.status(), 200);
}

#[tokio::test]
async fn running_answers_finish_when_the_service_ends() {
    let served = Served::start().await;
    let go = Arc::new(Notify::new());
    let token = served.ids("A")[0];
    let mut script = vec![Say::Token(0, token), Say::Wait(Arc::clone(&go))];
    script.extend(served.speak("B"));
    served.say(script);
    let mut idle = Connection::open(served.address).await;
    idle.send(&raw("GET", "/healthz", &[], b"")).await;
    idle.reply().await;
    let mut running = Connection::open(served.address).await;
    running.send(&chat(true)).await;
    running.head().await;
    running.chunk().await.unwrap();

    let ended = served.shut_down();

    assert_eq!(
        idle.rest().await,
        b"",
        "an idle connection is closed at once"
    );
    go.notify_one();
    let rest = String::from_utf8(running.rest().await).unwrap();
    assert!(rest.contains("[DONE]"), "{rest}");
    within(ended).await.unwrap();
}

#[tokio::test]
async fn answers_without_end_are_cut_after_their_grace() {
    let config = limits(|limits| limits.shutdown_grace = Duration::from_millis(50));
    let served = Served::with(config, |_| {}).await;
    let never = Arc::new(Notify::new());
    let token = served.ids("A")[0];
    served.say(vec![Say::Token(0, token), Say::Wait(never)]);
    let mut running = Connection::open(served.address).await;
    running.send(&chat(true)).await;
    running.head().await;
    running.chunk().await.unwrap();
    within(served.shut_down()).await.unwrap();
    running.rest().await;
}

//! Probes, models, metrics, keys, and what a service says that is not ready.

use coordinator::gateway::Phase;
use coordinator::http::HttpConfig;
use coordinator::people::{ApiKey, People};
use serde_json::{Value, json};

use crate::client::{ask, get, post_json, raw};
use crate::household::{CONTEXT, Served};

#[tokio::test]
async fn a_service_that_is_not_ready_says_how_far_it_is() {
    let served = Served::start().await;
    served.status.send_modify(|status| {
        status.phase = Phase::Loading;
        status.done_bytes = 5;
        status.total_bytes = 10;
        status.eta_s = Some(41.2);
        status.nodes = 3;
        status.missing_bytes = 0;
        status.detail = "nodes are loading".to_owned();
    });
    let chat = json!({"model": "hearth-test", "messages": [{"role": "user", "content": "a"}]});
    let completion = json!({"model": "hearth-test", "prompt": "a", "stream": true});
    let replies = [
        get(served.address, "/readyz").await,
        post_json(served.address, "/v1/chat/completions", &chat).await,
        post_json(served.address, "/v1/completions", &completion).await,
    ];
    for reply in replies {
        assert_eq!(reply.status(), 503);
        assert_eq!(reply.head.header("retry-after"), Some("42"));
        let body = reply.json();
        assert_eq!(body["error"]["code"], "not_ready");
        assert_eq!(body["phase"], "loading");
        assert_eq!(body["done_bytes"], 5);
        assert_eq!(body["total_bytes"], 10);
        assert_eq!(body["eta_s"], 41.2);
        assert_eq!(body["nodes"], 3);
        assert_eq!(body["missing_bytes"], 0);
    }
    served.set_phase(Phase::Draining);
    let reply = post_json(served.address, "/v1/chat/completions", &chat).await;
    assert_eq!(reply.json()["error"]["code"], "shutting_down");
    served.set_phase(Phase::Ready);
    let ready = get(served.address, "/readyz").await;
    assert_eq!(
        (ready.status(), ready.json()["phase"].clone()),
        (200, json!("ready"))
    );
}

#[tokio::test]
async fn the_model_is_listed() {
    let served = Served::start().await;
    let list = get(served.address, "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "hearth-test");
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    let one = get(served.address, "/v1/models/hearth-test").await.json();
    assert_eq!(one, list["data"][0]);
    let other = get(served.address, "/v1/models/gpt-4o").await;
    assert_eq!(other.status(), 404);
    assert_eq!(other.json()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn health_needs_nothing_and_metrics_count() {
    let served = Served::start().await;
    served.set_phase(Phase::WaitingForNodes);
    assert_eq!(get(served.address, "/healthz").await.status(), 200);
    served.set_phase(Phase::Ready);
    served.say(served.speak("A secret answer."));
    let chat = json!({"model": "hearth-test", "messages": [{"role": "user", "content": "a secret question"}]});
    assert_eq!(
        post_json(served.address, "/v1/chat/completions", &chat)
            .await
            .status(),
        200
    );
    get(served.address, "/nowhere/at/all").await;

    let reply = get(served.address, "/metrics").await;

    let text = String::from_utf8(reply.body).unwrap();
    for line in [
        "hearth_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}",
        "hearth_http_requests_total{route=\"other\",status=\"404\"}",
        "hearth_tokens_generated_total",
        "hearth_time_to_first_token_seconds_bucket",
        "hearth_inter_token_seconds_count",
        "hearth_ready",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("nowhere"));
}

#[tokio::test]
async fn a_key_is_asked_for_where_one_is_set() {
    let config = HttpConfig {
        people: People::with_key(ApiKey::new("k-123")),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    for (path, header, status) in [
        ("/v1/models", "Bearer k-123", 200),
        ("/v1/models", "Bearer k-124", 401),
        ("/v1/models", "", 401),
        ("/metrics", "", 401),
        ("/nowhere", "", 401),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
    ] {
        let request = raw("GET", path, &[("Authorization", header)], b"");
        let reply = ask(served.address, &request).await;
        assert_eq!(reply.status(), status, "{path} with {header:?}");
        if status == 401 {
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
            assert_eq!(reply.head.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused_everywhere() {
    let config = HttpConfig {
        allowed_hosts: vec!["hearth.home".to_owned()],
        allowed_origins: vec!["https://chat.home".to_owned()],
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let own = format!("127.0.0.1:{}", served.address.port());
    let page = format!("http://{own}");
    let cases: [(&[(&str, &str)], u16); 8] = [
        (&[("Host", &own)], 200),
        (&[("Host", "hearth.home")], 200),
        (&[("Host", "evil.example")], 403),
        (&[("Host", "")], 403),
        (&[("Host", &own), ("Origin", &page)], 200),
        (&[("Host", &own), ("Origin", "https://chat.home")], 200),
        (&[("Host", &own), ("Origin", "http://evil.example")], 403),
        (&[("Host", &own), ("Origin", "null")], 403),
    ];
    for path in ["/healthz", "/v1/models"] {
        for (headers, status) in cases {
            let reply = ask(served.address, &raw("GET", path, headers, b"")).await;
            assert_eq!(reply.status(), status, "{path} {headers:?}");
            if status == 403 {
                let error: Value = reply.json()["error"].clone();
                assert_eq!(error["type"], "permission_error");
            }
        }
    }
    let absolute = ask(
        served.address,
        &raw("GET", "http://evil.example/healthz", &[], b""),
    )
    .await;
    assert_eq!(absolute.status(), 403);
}

//! The owner's routes: what they hand on, whom they refuse, and that they refuse before they do anything.

use coordinator::http::HttpConfig;
use coordinator::people::{ApiKey, People};
use serde_json::{Value, json};

use crate::client::{Reply, ask, raw};
use crate::household::Served;

const MARK: (&str, &str) = ("X-Hearth", "1");
const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn read(served: &Served, path: &str) -> Reply {
    ask(served.address, &raw("GET", path, &[MARK], b"")).await
}

async fn act(served: &Served, path: &str, body: &Value) -> Reply {
    let body = body.to_string();
    let request = raw("POST", path, &[MARK, JSON], body.as_bytes());
    ask(served.address, &request).await
}

#[tokio::test]
async fn each_route_is_one_request_of_the_owner() {
    let served = Served::start().await;
    for (path, asked) in [
        ("/admin/status", json!({"do": "status"})),
        ("/admin/nodes", json!({"do": "nodes"})),
        ("/admin/models", json!({"do": "models"})),
        ("/admin/pending", json!({"do": "pending"})),
        ("/admin/plan", json!({"do": "plan"})),
        ("/admin/plan/next", json!({"do": "plan", "next": true})),
        ("/admin/keys", json!({"do": "key_list"})),
        ("/admin/usage", json!({"do": "usage"})),
        ("/admin/usage?days=30", json!({"do": "usage", "days": 30})),
    ] {
        let reply = read(&served, path).await;
        assert_eq!(reply.status(), 200, "{path}");
        assert_eq!(reply.json()["asked"], asked);
        assert_eq!(reply.head.header("cache-control"), Some("no-store"));
    }
    for (path, body, asked) in [
        ("/admin/invite", json!({}), json!({"do": "invite"})),
        (
            "/admin/invite",
            json!({"ttl_s": 60}),
            json!({"do": "invite", "ttl_s": 60}),
        ),
        (
            "/admin/approve",
            json!({"device": "acorn actor adapt add"}),
            json!({"do": "approve", "device": "acorn actor adapt add"}),
        ),
        (
            "/admin/deny",
            json!({"device": "1"}),
            json!({"do": "deny", "device": "1"}),
        ),
        (
            "/admin/keys",
            json!({"name": "ada", "tokens_per_day": 5000, "priority": "high"}),
            json!({"do": "key_create", "name": "ada", "tokens_per_day": 5000, "priority": "high"}),
        ),
        (
            "/admin/keys/revoke",
            json!({"key": "ada"}),
            json!({"do": "key_revoke", "key": "ada"}),
        ),
        (
            "/admin/kick",
            json!({"node": "den", "confirm": "den"}),
            json!({"do": "kick", "node": "den"}),
        ),
    ] {
        let reply = act(&served, path, &body).await;
        assert_eq!(reply.status(), 200, "{path}");
        assert_eq!(reply.json()["asked"], asked);
    }
}

#[tokio::test]
async fn what_the_household_refuses_is_told_in_its_words() {
    let served = Served::start().await;
    let reply = act(&served, "/admin/approve", &json!({"device": "nobody"})).await;
    assert_eq!(reply.status(), 409);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "refused");
    assert_eq!(error["message"], "no device waits to be let in");
}

#[tokio::test]
async fn broken_requests_name_the_field() {
    let served = Served::start().await;
    for (path, body, status, text) in [
        ("/admin/invite", json!({"ttl_s": 0}), 400, "ttl_s"),
        ("/admin/invite", json!({"ttl_s": 3601}), 400, "ttl_s"),
        ("/admin/invite", json!({"ttl_s": "60"}), 400, "ttl_s"),
        ("/admin/invite", json!([]), 400, "a JSON object"),
        ("/admin/approve", json!({}), 400, "device"),
        ("/admin/approve", json!({"device": 1}), 400, "device"),
        (
            "/admin/deny",
            json!({"device": "x".repeat(300)}),
            400,
            "256",
        ),
        ("/admin/kick", json!({"node": "den"}), 400, "confirm"),
        ("/admin/keys", json!({}), 400, "name"),
        (
            "/admin/keys",
            json!({"name": "ada", "tokens_per_day": 0}),
            400,
            "tokens_per_day",
        ),
        (
            "/admin/keys",
            json!({"name": "ada", "priority": 1}),
            400,
            "priority",
        ),
        ("/admin/keys/revoke", json!({}), 400, "key"),
        (
            "/admin/kick",
            json!({"node": "den", "confirm": "attic"}),
            400,
            "confirm",
        ),
        ("/admin/invite", json!({"x": "y".repeat(5000)}), 413, "4096"),
        ("/admin/stop", json!({}), 404, "nothing is served"),
    ] {
        let reply = act(&served, path, &body).await;
        assert_eq!(reply.status(), status, "{path}");
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains(text), "{path}: {message}");
    }
    // A body of the kind that a page may send to anybody without asking.
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let headers = [MARK, ("Content-Type", kind)];
        let request = raw("POST", "/admin/invite", &headers, b"{}");
        assert_eq!(ask(served.address, &request).await.status(), 415, "{kind}");
    }
    let days = read(&served, "/admin/usage?days=many").await;
    assert_eq!(
        (days.status(), days.json()["error"]["param"].clone()),
        (400, json!("days"))
    );
    let request = raw("GET", "/admin/invite", &[MARK], b"");
    assert_eq!(ask(served.address, &request).await.status(), 405);
}

#[tokio::test]
async fn nobody_else_reads_or_acts() {
    let config = HttpConfig {
        allowed_hosts: vec!["hearth.home".to_owned()],
        allowed_origins: vec!["https://chat.home".to_owned()],
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let port = served.address.port();
    let (host, page) = (
        format!("localhost:{port}"),
        format!("http://localhost:{port}"),
    );
    let cases: [(&[(&str, &str)], u16); 10] = [
        (&[("Host", &host), MARK], 200),
        (&[("Host", &host), MARK, ("Origin", &page)], 200),
        (&[("Host", &host)], 403),
        (&[("Host", &host), ("Origin", &page)], 403),
        (&[("Host", "hearth.home"), MARK], 403),
        (&[("Host", "evil.example"), MARK], 403),
        (
            &[("Host", &host), MARK, ("Origin", "https://chat.home")],
            403,
        ),
        (
            &[("Host", &host), MARK, ("Origin", "http://evil.example")],
            403,
        ),
        (
            &[("Host", &host), MARK, ("Sec-Fetch-Site", "cross-site")],
            403,
        ),
        (
            &[("Host", &host), MARK, ("X-Forwarded-For", "192.0.2.1")],
            403,
        ),
    ];
    for (headers, status) in cases {
        for (method, path, body) in [
            ("GET", "/admin/status", "".as_bytes()),
            ("GET", "/admin/unknown", b""),
            ("POST", "/admin/invite", b"{}"),
        ] {
            let mut headers = headers.to_vec();
            headers.push(JSON);
            let reply = ask(served.address, &raw(method, path, &headers, body)).await;
            let expected = match (status, path) {
                (200, "/admin/unknown") => 404,
                _ => status,
            };
            assert_eq!(reply.status(), expected, "{path} {headers:?}");
            let allows = |(name, _): &(String, String)| name.starts_with("access-control");
            assert!(!reply.head.headers.iter().any(allows));
            if status == 403 {
                assert_eq!(reply.json()["error"]["code"], "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_browser_that_asks_whether_another_page_may_is_told_nothing() {
    let served = Served::start().await;
    let headers = [
        ("Origin", "http://evil.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-hearth,content-type"),
    ];
    let reply = ask(
        served.address,
        &raw("OPTIONS", "/admin/invite", &headers, b""),
    )
    .await;
    assert_eq!(reply.status(), 403);
    assert_eq!(reply.head.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn where_a_key_guards_the_api_the_owner_brings_it_too() {
    let config = HttpConfig {
        people: People::with_key(ApiKey::new("k-123")),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    assert_eq!(read(&served, "/admin/status").await.status(), 401);
    let headers = [MARK, ("Authorization", "Bearer k-123")];
    let request = raw("GET", "/admin/status", &headers, b"");
    assert_eq!(ask(served.address, &request).await.status(), 200);
}

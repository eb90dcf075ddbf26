//! The owner's pages: files, headers, and what a browser asks again for.

use coordinator::http::HttpConfig;
use coordinator::people::{ApiKey, People};

use crate::client::{ask, get, raw};
use crate::household::Served;

const FILES: [(&str, &str); 4] = [
    ("/", "text/html; charset=utf-8"),
    ("/dashboard/app.js", "text/javascript; charset=utf-8"),
    ("/dashboard/style.css", "text/css; charset=utf-8"),
    ("/dashboard/icon.svg", "image/svg+xml"),
];

#[tokio::test]
async fn files_come_with_headers_that_let_a_page_do_nothing_else() {
    let served = Served::start().await;
    for (path, kind) in FILES {
        let reply = get(served.address, path).await;
        assert_eq!(reply.status(), 200, "{path}");
        let header = |name: &str| reply.head.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("content-type"), kind);
        let policy = header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(rule), "{rule} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-cache"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(header(name), value, "{path} {name}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_known_is_not_sent_again() {
    let served = Served::start().await;
    let first = get(served.address, "/").await;
    let tag = first.head.header("etag").unwrap().to_owned();
    for (known, status) in [(tag.as_str(), 304), ("\"another\"", 200)] {
        let request = raw("GET", "/", &[("If-None-Match", known)], b"");
        let reply = ask(served.address, &request).await;
        assert_eq!(reply.status(), status, "{known}");
        assert_eq!(reply.head.header("etag"), Some(tag.as_str()));
        assert_eq!(reply.body.is_empty(), status == 304);
    }
    let other = get(served.address, "/dashboard/app.js").await;
    assert_ne!(other.head.header("etag"), Some(tag.as_str()));
}

#[tokio::test]
async fn files_need_no_key_but_the_rules_for_hosts_and_methods_hold() {
    let config = HttpConfig {
        people: People::with_key(ApiKey::new("k-123")),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let cases = [
        ("GET", "/", "localhost", 200),
        ("GET", "/dashboard/app.js", "localhost", 200),
        ("GET", "/dashboard/app.js", "evil.example", 403),
        ("POST", "/", "localhost", 405),
        ("GET", "/dashboard/", "localhost", 401),
        ("GET", "/dashboard/../Cargo.toml", "localhost", 401),
        ("GET", "/dashboard/app.js/", "localhost", 401),
        ("GET", "/admin/status", "localhost", 401),
    ];
    for (method, path, host, status) in cases {
        let reply = ask(served.address, &raw(method, path, &[("Host", host)], b"")).await;
        assert_eq!(reply.status(), status, "{method} {path} {host}");
    }
}

//! Who counts as the owner over HTTP.
//!
//! Owns that one question. It comes after the Host, Origin and key rules that every request has to pass, and never
//! loosens them.
//!
//! The one idea: a request from this very machine, that no page of somebody else can have caused, is the owner's. A
//! browser sends requests for any page it shows; but only a page of the same origin may add a header of its own without
//! asking us first, and we never agree. A name that was bent to this machine (DNS rebinding) fails at the Host, which
//! has to be loopback itself here, whatever else is allowed; a program that passes strangers on fails by the headers in
//! which it says so.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, header};

use crate::http::error::ApiError;
use crate::http::guard::{Peer, authority, single};

/// The header that a page of another origin cannot send.
const MARK: &str = "x-hearth";
/// Where browsers say which page a request comes from.
const FETCH_SITE: &str = "sec-fetch-site";
/// Where programs that pass requests on say so.
const PASSED_ON: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];

/// Whether whoever sent this may read the household's facts and act for its owner.
///
/// # Errors
/// 403 with what to do.
pub(super) fn may_administer<B>(request: &Request<B>) -> Result<(), ApiError> {
    let headers = request.headers();
    // The Host rule has passed; a request without a host has not.
    let host = single(headers, header::HOST.as_str())?.and_then(authority);
    let host = host.ok_or_else(|| ApiError::forbidden("the header `Host` is missing"))?;
    unforced(headers, &host)?;
    if from_here(request, &host) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "the owner's page works on the machine of the coordinator alone, whatever key is brought: open http://localhost \
         with its port there, or reach it by `ssh -L`",
    ))
}

/// No foreign page can have caused it.
fn unforced(headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    if single(headers, MARK)? != Some("1") {
        return Err(ApiError::forbidden(
            "the header `X-Hearth: 1` is missing: it shows that no page of somebody else sent this",
        ));
    }
    if let Some(site) = single(headers, FETCH_SITE)?
        && !matches!(site, "same-origin" | "none")
    {
        return Err(foreign_page());
    }
    // Stricter than for chats: neither an allowed origin nor another name of this machine is the owner's page.
    match single(headers, header::ORIGIN.as_str())? {
        Some(origin) if !is_page_of(origin, host) => Err(foreign_page()),
        _ => Ok(()),
    }
}

fn foreign_page() -> ApiError {
    ApiError::forbidden(
        "another page than the household's own sent this; open the dashboard itself",
    )
}

fn is_page_of(origin: &str, host: &Authority) -> bool {
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_str()))
}

/// It comes from this machine, for this machine, and directly.
fn from_here<B>(request: &Request<B>, host: &Authority) -> bool {
    let peer = request.extensions().get::<Peer>();
    let passed_on = PASSED_ON
        .iter()
        .any(|name| request.headers().contains_key(*name));
    peer.is_some_and(|Peer(ip)| ip.is_loopback()) && is_loopback(host) && !passed_on
}

fn is_loopback(host: &Authority) -> bool {
    let name = host.host().trim_end_matches('.');
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn allowed(peer: Option<&str>, headers: Headers) -> bool {
        let mut request = Request::builder().uri("/admin/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if let Some(ip) = peer {
            let peer = Peer(ip.parse().unwrap());
            request.extensions_mut().insert(peer);
        }
        may_administer(&request).is_ok()
    }

    #[test]
    fn the_owner_is_whoever_asks_on_this_machine_by_its_own_page_or_a_tool() {
        let good: [Headers; 7] = [
            &[("host", "localhost:8080"), ("x-hearth", "1")],
            &[("host", "LOCALHOST."), ("x-hearth", "1")],
            &[("host", "127.0.0.1:8080"), ("x-hearth", "1")],
            &[("host", "[::1]:8080"), ("x-hearth", "1")],
            &[
                ("host", "localhost:8080"),
                ("x-hearth", "1"),
                ("origin", "http://localhost:8080"),
            ],
            &[
                ("host", "localhost:8080"),
                ("x-hearth", "1"),
                ("origin", "https://localhost:8080"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[
                ("host", "localhost"),
                ("x-hearth", "1"),
                ("sec-fetch-site", "none"),
            ],
        ];
        for headers in good {
            for peer in ["127.0.0.1", "::1", "127.3.2.1"] {
                assert!(allowed(Some(peer), headers), "{peer} {headers:?}");
            }
            for peer in [Some("192.168.1.7"), Some("2001:db8::1"), None] {
                assert!(!allowed(peer, headers), "{peer:?} {headers:?}");
            }
        }
    }

    #[test]
    fn a_foreign_page_a_bent_name_and_a_proxy_are_not_the_owner() {
        const HOST: (&str, &str) = ("host", "localhost:8080");
        const MARK: (&str, &str) = ("x-hearth", "1");
        let bad: [Headers; 17] = [
            &[HOST],
            &[HOST, ("x-hearth", "0")],
            &[HOST, MARK, MARK],
            &[MARK],
            &[("host", "hearth.home"), MARK],
            &[("host", "192.168.1.5:8080"), MARK],
            &[("host", "app.localhost:8080"), MARK],
            &[("host", "localhost.evil.example"), MARK],
            &[HOST, MARK, ("origin", "https://chat.home")],
            &[HOST, MARK, ("origin", "http://127.0.0.1:8080")],
            &[HOST, MARK, ("origin", "http://localhost:3000")],
            &[HOST, MARK, ("origin", "null")],
            &[HOST, MARK, ("sec-fetch-site", "cross-site")],
            &[HOST, MARK, ("sec-fetch-site", "same-site")],
            &[HOST, MARK, ("x-forwarded-for", "192.168.1.7")],
            &[HOST, MARK, ("forwarded", "for=192.168.1.7")],
            &[HOST, MARK, ("via", "1.1 proxy")],
        ];
        for headers in bad {
            assert!(!allowed(Some("127.0.0.1"), headers), "{headers:?}");
        }
    }
}

//! Who may speak to us at all: Host, Origin and key, before anything else is looked at.
//!
//! Whoever passes is the [`caller`] for as long as the request's route runs, so that no route can forget to ask.
//!
//! A browser on this machine can be made to call us by any page it shows. The Host rule stops names that were bent
//! to our address, the Origin rule stops pages that are not ours.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, header};

use crate::people::{Caller, People, Stranger};

use super::config::{HttpConfig, Keyless};
use super::error::ApiError;

/// The address that the client dialled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialled(pub(super) IpAddr);

/// The address that the client has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Paths that need no key, so that probes work everywhere. The dashboard's files need none either: a browser cannot
/// bring one when it opens a page, and they say nothing about the household. Nor does the list of paths.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", super::openapi::PATH];

tokio::task_local! {
    static CALLER: Option<Caller>;
}

/// Runs a route for whoever passed [`check`].
pub(super) async fn on_behalf<T>(caller: Option<Caller>, route: impl Future<Output = T>) -> T {
    CALLER.scope(caller, route).await
}

/// Whose request the route at work answers. A task that a route starts has to be told.
///
/// # Errors
/// 401 outside of a route, and in one that needs no key.
pub(super) fn caller() -> Result<Caller, ApiError> {
    let caller = CALLER.try_with(Clone::clone).ok().flatten();
    caller.ok_or_else(|| ApiError::unauthorized(Stranger::NoKey.to_string()))
}

/// Checks a request; says whose it is, but for paths that are open to everybody.
///
/// # Errors
/// 403 for a foreign Host or Origin, 401 without a key that works.
pub(super) fn check<B>(
    config: &HttpConfig,
    request: &Request<B>,
) -> Result<Option<Caller>, ApiError> {
    let dialled = request
        .extensions()
        .get::<Dialled>()
        .map(|dialled| dialled.0);
    let rule = HostRule { config, dialled };
    let host = single(request.headers(), header::HOST.as_str())?
        .and_then(authority)
        .filter(|host| rule.accepts(host))
        .ok_or_else(foreign_host)?;
    if let Some(target) = request.uri().authority()
        && !rule.accepts(target)
    {
        return Err(foreign_host());
    }
    if let Some(origin) = single(request.headers(), header::ORIGIN.as_str())?
        && !rule.accepts_origin(origin, &host)
    {
        return Err(ApiError::forbidden(
            "the page that sent this request has a foreign Origin; allow it in the configuration if it is yours",
        ));
    }
    if is_open(request.uri().path()) {
        return Ok(None);
    }
    if config.keyless == Keyless::Refused && !config.people.guarded() {
        return Err(ApiError::unauthorized(
            "no key works, and none but this machine's owner can make one, with `coordinator key create`",
        ));
    }
    recognise(&config.people, request.headers()).map(Some)
}

/// Who this is, by whichever header brings a key: OpenAI's clients send the first, Anthropic's the second, some both.
fn recognise(people: &People, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let plain = headers
        .get("x-api-key")
        .map(|key| key.as_bytes().trim_ascii());
    let first = people.recognise(bearer(headers));
    let known = match (first, plain) {
        (Err(_), Some(plain)) => people.recognise(Some(plain)),
        (first, _) => first,
    };
    known.map_err(|stranger| ApiError::unauthorized(stranger.to_string()))
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || super::dashboard::is_file(path)
}

fn foreign_host() -> ApiError {
    ApiError::forbidden(
        "the header `Host` names neither loopback nor this machine's address nor an allowed host; \
         call the address itself, or allow the name in the configuration",
    )
}

/// The one value of a header; several are as bad as a wrong one.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    match (first.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => Err(ApiError::forbidden(format!(
            "the header `{name}` must come once, in plain ASCII"
        ))),
    }
}

pub(super) fn authority(text: &str) -> Option<Authority> {
    let authority = text.parse::<Authority>().ok()?;
    // Without this `a@b` and `host:port` with an absurd port would pass.
    let rest = text.strip_prefix(authority.host())?;
    let fits = rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok());
    fits.then_some(authority)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| key.trim_ascii())
}

struct HostRule<'a> {
    config: &'a HttpConfig,
    dialled: Option<IpAddr>,
}

impl HostRule<'_> {
    fn accepts(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_end_matches('.');
        let allowed = |name: &String| {
            name.eq_ignore_ascii_case(host) || name.eq_ignore_ascii_case(authority.as_str())
        };
        if self.config.allowed_hosts.iter().any(allowed) {
            return true;
        }
        match host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || Some(ip) == self.dialled
            }
            Err(_) => {
                let host = host.to_ascii_lowercase();
                host == "localhost" || host.ends_with(".localhost")
            }
        }
    }

    /// A page of ours has our name and our port.
    fn accepts_origin(&self, origin: &str, host: &Authority) -> bool {
        if self
            .config
            .allowed_origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return true;
        }
        let (rest, default_port) = if let Some(rest) = origin.strip_prefix("http://") {
            (rest, 80)
        } else if let Some(rest) = origin.strip_prefix("https://") {
            (rest, 443)
        } else {
            return false;
        };
        authority(rest).is_some_and(|origin| {
            let port = origin.port_u16().unwrap_or(default_port);
            self.accepts(&origin) && port == host.port_u16().unwrap_or(default_port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::ApiKey;

    fn outcome(config: &HttpConfig, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        let dialled = Dialled("192.168.1.5".parse().unwrap());
        request.extensions_mut().insert(dialled);
        check(config, &request).is_ok()
    }

    #[test]
    fn hosts_are_ours_or_configured() {
        let config = HttpConfig {
            allowed_hosts: vec!["hearth.home".to_owned()],
            ..HttpConfig::default()
        };
        let good = [
            "localhost",
            "LOCALHOST:8080",
            "app.localhost",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "192.168.1.5:8080",
            "hearth.home:8080",
            "Hearth.Home",
        ];
        for host in good {
            assert!(outcome(&config, &[("host", host)]), "{host}");
        }
        let bad = [
            "evil.example",
            "localhost.evil.example",
            "192.168.1.6",
            "",
            "a@localhost",
            "localhost:99999",
            "localhost:",
            "127.0.0.1.evil.example",
            "[::2]",
            "0.0.0.0",
        ];
        for host in bad {
            assert!(!outcome(&config, &[("host", host)]), "{host}");
        }
        assert!(!outcome(&config, &[]));
        assert!(!outcome(
            &config,
            &[("host", "localhost"), ("host", "localhost")]
        ));
    }

    #[test]
    fn origins_are_ours_or_configured() {
        let config = HttpConfig {
            allowed_origins: vec!["https://chat.example".to_owned()],
            ..HttpConfig::default()
        };
        let host = ("host", "localhost:8080");
        for origin in [
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "https://chat.example",
        ] {
            assert!(outcome(&config, &[host, ("origin", origin)]), "{origin}");
        }
        let bad = [
            "null",
            "http://evil.example",
            "http://localhost:3000",
            "http://localhost",
            "file://",
            "",
            "https://chat.example.evil",
            "http://localhost:8080@evil.example",
        ];
        for origin in bad {
            assert!(!outcome(&config, &[host, ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn the_key_opens_and_stays_secret() {
        let config = HttpConfig {
            people: People::with_key(ApiKey::new("s3cret")),
            ..HttpConfig::default()
        };
        let host = ("host", "localhost");
        assert!(outcome(
            &config,
            &[host, ("authorization", "Bearer s3cret")]
        ));
        assert!(outcome(
            &config,
            &[host, ("authorization", "bearer  s3cret ")]
        ));
        for wrong in [
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer ",
            "s3cret",
            "Basic s3cret",
            "Bear",
        ] {
            assert!(
                !outcome(&config, &[host, ("authorization", wrong)]),
                "{wrong}"
            );
        }
        assert!(outcome(&config, &[host, ("x-api-key", "s3cret")]));
        assert!(!outcome(&config, &[host, ("x-api-key", "s3cre")]));
        let both = [
            host,
            ("x-api-key", "s3cret"),
            ("authorization", "Bearer other"),
        ];
        assert!(outcome(&config, &both));
        assert!(!outcome(&config, &[host]));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn without_any_key_only_this_machine_is_answered() {
        let host = ("host", "localhost");
        for (keyless, open) in [(Keyless::Answered, true), (Keyless::Refused, false)] {
            let config = HttpConfig {
                keyless,
                ..HttpConfig::default()
            };
            assert_eq!(outcome(&config, &[host]), open);
            let guessed = [host, ("authorization", "Bearer x")];
            assert_eq!(outcome(&config, &guessed), open);
        }
    }

    #[tokio::test]
    async fn the_caller_is_known_inside_a_route_alone() {
        assert!(caller().is_err());
        let people = People::default();
        let local = people.recognise(None).unwrap();
        let name = on_behalf(Some(local), async { caller().map(|c| c.name().to_owned()) });
        assert_eq!(name.await.unwrap(), "local");
        assert!(on_behalf(None, async { caller().is_err() }).await);
    }
}

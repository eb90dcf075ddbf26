//! Who may speak to us at all: Host, Origin and key, before anything else is looked at.
//!
//! A browser on this machine can be made to call us by any page it shows. The Host rule stops names that were bent
//! to our address, the Origin rule stops pages that are not ours.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, header};

use super::config::HttpConfig;
use super::error::ApiError;

/// The address that the client dialled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialled(pub(super) IpAddr);

/// Paths that need no key, so that probes work everywhere.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Checks a request.
///
/// # Errors
/// 403 for a foreign Host or Origin, 401 without the key.
pub(super) fn check<B>(config: &HttpConfig, request: &Request<B>) -> Result<(), ApiError> {
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
    match &config.api_key {
        Some(key) if !OPEN_PATHS.contains(&request.uri().path()) => {
            let offered = bearer(request.headers()).unwrap_or_default();
            if key.opens(offered) {
                Ok(())
            } else {
                Err(ApiError::unauthorized())
            }
        }
        _ => Ok(()),
    }
}

fn foreign_host() -> ApiError {
    ApiError::forbidden(
        "the header `Host` names neither loopback nor this machine's address nor an allowed host; \
         call the address itself, or allow the name in the configuration",
    )
}

/// The one value of a header; several are as bad as a wrong one.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
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

fn authority(text: &str) -> Option<Authority> {
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
    use crate::http::config::ApiKey;

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
            api_key: Some(ApiKey::new("s3cret")),
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
        assert!(!outcome(&config, &[host]));
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}

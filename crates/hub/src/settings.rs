//! Where the hub is, and with what right it is asked. Read once, from flags over the environment.

use std::fmt;

use reqwest::Url;

use crate::HubError;

/// The hub unless somebody names another.
const HUB: &str = "https://huggingface.co";
/// Characters of a token.
const TOKEN_CHARS_MAX: usize = 512;

/// The owner's right on the hub. `Debug` masks it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of printable characters.
    ///
    /// # Errors
    /// It is empty, long, or has characters that no token has.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        let sound = !text.is_empty()
            && text.len() <= TOKEN_CHARS_MAX
            && text.chars().all(|c| c.is_ascii_graphic());
        if !sound {
            return Err(HubError::Setting {
                what: "HF_TOKEN",
                got: format!("a text of {} characters", text.chars().count()),
                expected: "a token as the hub's settings page shows it, or no HF_TOKEN at all",
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// What the request says.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How the hub is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    endpoint: Url,
    token: Option<Token>,
}

impl Settings {
    /// The hub that `mirror` names, else the one that `HF_ENDPOINT` names, else huggingface.co; with `HF_TOKEN` if it is
    /// set.
    ///
    /// # Errors
    /// An address or a token of a wrong form; a token that would travel unencrypted.
    pub fn from_environment(mirror: Option<&str>) -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT");
        let (what, address) = match (mirror, endpoint.as_deref()) {
            (Some(mirror), _) => ("--mirror", mirror),
            (None, Some(endpoint)) => ("HF_ENDPOINT", endpoint),
            (None, None) => ("the hub", HUB),
        };
        let token = variable("HF_TOKEN").map(|text| Token::new(&text));
        Self::new(what, address, token.transpose()?)
    }

    /// A hub at `address`, which the setting `what` named.
    ///
    /// # Errors
    /// An address that is none, or a token that would travel unencrypted.
    pub fn new(what: &'static str, address: &str, token: Option<Token>) -> Result<Self, HubError> {
        let wrong = |expected| HubError::Setting {
            what,
            got: crate::error::shown(address),
            expected,
        };
        let endpoint = Url::parse(address.trim_end_matches('/'))
            .map_err(|_| wrong("an address such as https://hub.example"))?;
        let plain = endpoint.query().is_none()
            && endpoint.fragment().is_none()
            && endpoint.username().is_empty()
            && endpoint.password().is_none();
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() || !plain {
            return Err(wrong(
                "an address such as https://hub.example, without name, password or question mark",
            ));
        }
        if token.is_some() && endpoint.scheme() == "http" && !is_loopback(&endpoint) {
            return Err(wrong(
                "an https address, since HF_TOKEN would travel readable for everybody; or unset HF_TOKEN",
            ));
        }
        Ok(Self { endpoint, token })
    }

    /// The hub's address.
    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The token, if `url` is on the hub itself.
    pub(crate) fn token_for(&self, url: &Url) -> Option<&Token> {
        let same = url.origin() == self.endpoint.origin();
        self.token.as_ref().filter(|_| same)
    }

    /// Whether the hub is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.endpoint)
    }

    /// The hub's host, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        host_of(&self.endpoint)
    }
}

/// Host and port of an address, for messages: never a path or a query, which may hold a signature.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str, token: Option<&str>) -> Result<Settings, HubError> {
        let token = token.map(|text| Token::new(text).unwrap());
        Settings::new("--mirror", address, token)
    }

    #[test]
    fn the_token_stays_with_the_hub_and_out_of_texts() {
        let settings = settings("https://hub.example/", Some("hf_secret")).unwrap();
        let url = |text| Url::parse(text).unwrap();
        for own in ["https://hub.example/a/b", "https://hub.example:443/api"] {
            assert!(settings.token_for(&url(own)).is_some(), "{own}");
        }
        for other in [
            "https://cdn.hub.example/a",
            "https://hub.example.evil/a",
            "http://hub.example/a",
            "https://hub.example:8443/a",
        ] {
            assert!(settings.token_for(&url(other)).is_none(), "{other}");
        }
        assert!(!format!("{settings:?}").contains("secret"));
        let error = Token::new("hf_sec ret").unwrap_err().to_string();
        assert!(!error.contains("hf_sec"), "{error}");
    }

    #[test]
    fn odd_addresses_are_refused() {
        for bad in [
            "hub.example",
            "ftp://hub.example",
            "https://",
            "https://me:pw@hub.example",
            "https://hub.example?x=1",
            "file:///etc/passwd",
        ] {
            assert!(settings(bad, None).is_err(), "{bad}");
        }
        assert!(settings("http://hub.example", None).is_ok());
        assert!(settings("http://hub.example", Some("t")).is_err());
        assert!(settings("http://127.0.0.1:8000", Some("t")).is_ok());
        assert!(settings("http://[::1]:8000", Some("t")).is_ok());
    }
}

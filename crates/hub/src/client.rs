//! Questions to the hub: one GET at a time, redirects followed by hand.
//!
//! By hand, because each step decides anew whether the token goes along (to the hub itself, nowhere else), whether the
//! address is one that we speak to, and how many steps are enough.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};

use crate::error::shown;
use crate::settings::{Settings, host_of};
use crate::{HubError, HubRef};

/// Redirects from one question to its answer.
const REDIRECTS_MAX: usize = 5;
/// Bytes of a listing.
const LISTING_BYTES_MAX: usize = 32 << 20;
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(20);
/// Without a single byte.
const SILENCE: Duration = Duration::from_secs(60);

/// What may be tried again, and what never helps.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The network, or a hub that is busy.
    Again {
        /// Who was asked.
        host: String,
        /// What happened.
        what: String,
    },
    /// An answer that will be the same next time.
    Never(HubError),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Never(error)
    }
}

impl From<Trouble> for HubError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Again { host, what } => Self::Connection { host, what },
            Trouble::Never(error) => error,
        }
    }
}

/// Asks one hub.
pub(crate) struct Client {
    http: reqwest::Client,
    settings: Settings,
}

/// The content of a file from byte `start` on.
pub(crate) struct Body {
    response: Response,
    host: String,
    /// First byte that comes: the one that was asked for, or 0.
    pub(crate) start: u64,
}

impl Client {
    /// A client for the hub of `settings`; proxies are taken from the environment.
    pub(crate) fn new(settings: Settings) -> Result<Self, HubError> {
        let mut builder = reqwest::Client::builder();
        if settings.is_loopback() {
            // A hub on this machine is not behind the proxy that leads out of the house.
            builder = builder.no_proxy();
        }
        let http = builder
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| HubError::Connection {
                host: settings.host(),
                what: format!("no connection can be prepared: {}", chain(&error)),
            })?;
        Ok(Self { http, settings })
    }

    /// The hub's host, for messages.
    pub(crate) fn host(&self) -> String {
        self.settings.host()
    }

    /// The listing of a repository as JSON text.
    pub(crate) async fn listing(&self, model: &HubRef) -> Result<Vec<u8>, Trouble> {
        let path = model.path();
        let mut url = self.url(&["api", "models"], &path, &["revision", model.revision()]);
        url.set_query(Some("blobs=true"));
        let what = format!("{path} (revision {})", model.revision());
        let response = self.get(url, 0, &what).await?;
        let host = host_of(response.url());
        let response = self.whole(response, &what)?;
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/json") {
            return Err(HubError::Answer {
                host,
                what,
                got: format!("of type '{}'", shown(kind)),
                expected: "JSON; is this a hub, or does the network ask for a login?".to_owned(),
            }
            .into());
        }
        let mut body = Body {
            response,
            host,
            start: 0,
        };
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await? {
            if text.len().saturating_add(chunk.len()) > LISTING_BYTES_MAX {
                return Err(HubError::Answer {
                    host: body.host,
                    what,
                    got: "without end".to_owned(),
                    expected: format!("at most {LISTING_BYTES_MAX} bytes"),
                }
                .into());
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    /// The content of `file` in `repo` at `revision`, from byte `from` on if the hub can do that, else from 0. `None` if
    /// the hub has no byte `from`.
    pub(crate) async fn file(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        from: u64,
    ) -> Result<Option<Body>, Trouble> {
        let mut tail = vec!["resolve", revision];
        tail.extend(file.split('/'));
        let url = self.url(&[], repo, &tail);
        let response = self.get(url, from, file).await?;
        let host = host_of(response.url());
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                let start = range.and_then(range_start);
                if start != Some(from) {
                    let got = format!("the range {:?} of {file}", range);
                    let expected = format!("one that begins at byte {from}");
                    let what = file.to_owned();
                    return Err(HubError::Answer {
                        host,
                        what,
                        got: shown(&got),
                        expected,
                    }
                    .into());
                }
                Ok(Some(Body {
                    response,
                    host,
                    start: from,
                }))
            }
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(None),
            _ => {
                let response = self.whole(response, file)?;
                Ok(Some(Body {
                    response,
                    host,
                    start: 0,
                }))
            }
        }
    }

    fn url(&self, head: &[&str], repo: &str, tail: &[&str]) -> Url {
        let mut url = self.settings.endpoint().clone();
        // Only addresses without a path to extend fail here, and those are refused as a setting.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            segments.extend(head).extend(repo.split('/')).extend(tail);
        }
        url
    }

    /// Follows redirects to the answer.
    async fn get(&self, mut url: Url, from: u64, what: &str) -> Result<Response, Trouble> {
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.http.get(url.clone());
            if let Some(token) = self.settings.token_for(&url)
                && let Ok(mut value) = HeaderValue::from_str(&token.header())
            {
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let host = host_of(&url);
            let answer = request.send().await;
            let response = answer.map_err(|error| again(&host, error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.next_step(&url, &response, what)?;
        }
        Err(HubError::Answer {
            host: self.host(),
            what: what.to_owned(),
            got: format!("a redirect after {REDIRECTS_MAX} redirects"),
            expected: "an end".to_owned(),
        }
        .into())
    }

    /// Where a redirect leads, if we go there.
    fn next_step(&self, from: &Url, response: &Response, what: &str) -> Result<Url, HubError> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let refused = |got: String, expected: &str| HubError::Answer {
            host: host_of(from),
            what: what.to_owned(),
            got,
            expected: expected.to_owned(),
        };
        let to = location
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| refused("a redirect to nowhere".to_owned(), "an address"))?;
        let scheme = to.scheme();
        let downgrade = from.scheme() == "https" && scheme != "https";
        if downgrade || !matches!(scheme, "http" | "https") || !to.username().is_empty() {
            return Err(refused(
                format!("a redirect to {scheme}://{}", shown(&host_of(&to))),
                "an https address",
            ));
        }
        Ok(to)
    }

    /// The answer, if it is a whole content; else what its status means.
    fn whole(&self, response: Response, what: &str) -> Result<Response, Trouble> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let host = host_of(response.url());
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let what = format!("answers {} for {what}", status.as_u16());
            return Err(Trouble::Again { host, what });
        }
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "the model may be private or ask for consent: accept its terms on its page, and set HF_TOKEN"
            }
            StatusCode::NOT_FOUND => {
                "check the names of organisation, repository, revision and file"
            }
            _ => "is this the address of a hub?",
        };
        Err(HubError::Status {
            host,
            status: status.as_u16(),
            what: what.to_owned(),
            hint,
        }
        .into())
    }
}

impl Body {
    /// More of the content; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| again(&self.host, error))
    }

    /// Who sends it.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

fn again(host: &str, error: reqwest::Error) -> Trouble {
    Trouble::Again {
        host: host.to_owned(),
        what: chain(&error.without_url()),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    shown(&text)
}

/// The first byte of `bytes START-END/TOTAL`.
fn range_start(value: &HeaderValue) -> Option<u64> {
    let range = value.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

//! The owner's pages on `/`: a few static files inside this program.
//!
//! Owns the files' names, types and headers. Must never contain a fact about the household: whoever reaches the port may
//! read them, and what they show comes from routes that ask who wants to know. The one idea: the pages may load, run and
//! call nothing but what this very service answers, and no page may frame them.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use axum::routing::get;

/// What the pages may do: their own scripts, styles and requests, nothing inline, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Headers of every file. It is asked for anew each time, and answered with 304 while it is the same.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-cache"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Bytes of a tag: enough that two versions of a file never share one.
const TAG_HEX: usize = 32;

struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($path:expr, $name:literal, $kind:literal) => {
        File {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("../../dashboard/", $name)),
        }
    };
}

macro_rules! script {
    ($name:literal) => {
        file!(
            concat!("/dashboard/", $name),
            $name,
            "text/javascript; charset=utf-8"
        )
    };
}

const FILES: &[File] = &[
    file!("/", "index.html", "text/html; charset=utf-8"),
    file!(
        "/dashboard/style.css",
        "style.css",
        "text/css; charset=utf-8"
    ),
    file!("/dashboard/icon.svg", "icon.svg", "image/svg+xml"),
    script!("app.js"),
    script!("ask.js"),
    script!("page.js"),
    script!("house.js"),
    script!("plan.js"),
    script!("devices.js"),
    script!("chat.js"),
    script!("stream.js"),
    script!("prose.js"),
    script!("models.js"),
    script!("people.js"),
];

/// The files' tags, in their order.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |file: &File| {
        let hash = blake3::hash(file.bytes).to_hex();
        format!("\"{}\"", hash.chars().take(TAG_HEX).collect::<String>())
    };
    FILES.iter().map(tag).collect()
});

/// Whether a path is one of the dashboard's files.
pub(super) fn is_file(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// The files' routes.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let files = FILES.iter().zip(TAGS.iter());
    files.fold(Router::new(), |router, (file, tag)| {
        let handler =
            get(move |request: Request<Body>| async move { answer(file, tag, request.headers()) });
        router.route(file.path, handler)
    })
}

fn answer(file: &'static File, tag: &str, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if is_known(asked, tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(file.bytes);
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the client has the file with this tag.
fn is_known(asked: &HeaderMap, tag: &str) -> bool {
    let values = asked.get_all(header::IF_NONE_MATCH).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut tags = texts.flat_map(|text| text.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a household downloads for its first look.
    const BYTES_MAX: usize = 96 << 10;

    fn text(path: &str) -> &'static str {
        let file = FILES.iter().find(|file| file.path == path).unwrap();
        std::str::from_utf8(file.bytes).unwrap()
    }

    #[test]
    fn the_files_are_small() {
        let bytes: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn the_files_name_each_other_and_nothing_else() {
        let page = text("/");
        for file in FILES {
            let text = std::str::from_utf8(file.bytes).unwrap();
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !foreign.contains("http://") && !foreign.contains("https://"),
                "{}",
                file.path
            );
            for import in text
                .lines()
                .filter_map(|line| line.split(" from \"./").nth(1))
            {
                let name = import.split('"').next().unwrap();
                assert!(
                    is_file(&format!("/dashboard/{name}")),
                    "{}: {name}",
                    file.path
                );
            }
        }
        let named = page
            .split(['"', '\''])
            .filter(|part| part.starts_with("/dashboard/"));
        for name in named {
            assert!(is_file(name.split('#').next().unwrap()), "{name}");
        }
    }

    #[test]
    fn nothing_in_the_page_needs_an_exception_of_the_policy() {
        let page = text("/");
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for file in FILES.iter().filter(|file| file.path.ends_with(".js")) {
            let script = std::str::from_utf8(file.bytes).unwrap();
            for unsafe_way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ] {
                assert!(!script.contains(unsafe_way), "{}: {unsafe_way}", file.path);
            }
        }
    }

    #[test]
    fn tags_are_compared_as_http_says() {
        let cases = [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ];
        for (value, known) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            assert_eq!(is_known(&headers, "\"a\""), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), "\"a\""));
    }
}

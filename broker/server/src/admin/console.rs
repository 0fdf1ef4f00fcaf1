//! The console: the page for operators that a browser finds at `/`, and the files that it is made of.
//!
//! The files are part of the binary and hold no secret, so they need no token; what the page shows it asks of the API like any
//! other client, with the token that its user pastes. Invariants: every file has the content policy below, under which nothing is
//! loaded from elsewhere, no script or style is inline, and no text becomes markup. Deliberately not here: anything about this broker.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the browser may do with the page.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What goes with every file. Caches ask each time whether it is still the one they have: pages and broker are of one version.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY)),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

#[derive(Debug)]
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// A file of the folder `console`, under its path and with its content type.
macro_rules! file {
    ($name:literal, $content_type:expr) => {
        file!(concat!("/console/", $name), $name, $content_type)
    };
    ($path:expr, $name:literal, $content_type:expr) => {
        File {
            path: $path,
            content_type: $content_type,
            text: include_str!(concat!("../../console/", $name)),
        }
    };
}

static PAGE: File = file!("/", "index.html", HTML);

static FILES: [File; 24] = [
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("api.js", SCRIPT),
    file!("content.js", SCRIPT),
    file!("dialog.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("events.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("groups.js", SCRIPT),
    file!("history.js", SCRIPT),
    file!("json.js", SCRIPT),
    file!("letters.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("messages.js", SCRIPT),
    file!("metrics.js", SCRIPT),
    file!("overview.js", SCRIPT),
    file!("pages.js", SCRIPT),
    file!("plugins.js", SCRIPT),
    file!("policies.js", SCRIPT),
    file!("policy.js", SCRIPT),
    file!("poll.js", SCRIPT),
    file!("sessions.js", SCRIPT),
    file!("steps.js", SCRIPT),
    file!("tail.js", SCRIPT),
];

/// Whether a path is a file of the console, which anybody may read who may reach the listener at all.
pub(crate) fn is_file(path: &str) -> bool {
    path == PAGE.path || FILES.iter().any(|file| file.path == path)
}

/// The console for operators: a page that needs no token, and asks for one.
#[utoipa::path(get, operation_id = "console", path = "/", tag = "health", security(()), responses((status = 200, description = "the console", content_type = "text/html")))]
pub(crate) async fn page(headers: HeaderMap) -> Response {
    PAGE.answer(&headers)
}

/// What the page loads.
pub(crate) fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        router.route(file.path, get(async move |headers: HeaderMap| file.answer(&headers)))
    })
}

impl File {
    fn tag(&self) -> String {
        format!("\"{}\"", blake3::hash(self.text.as_bytes()).to_hex().split_at(16).0)
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = asked.get_all(header::IF_NONE_MATCH);
        // A proxy that compresses marks the tag as weak, so it is looked for inside.
        let is_known = known
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value == "*" || value.contains(&tag));
        let headers = (HEADERS, [(header::ETAG, tag)]);
        if is_known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.content_type)], self.text).into_response()
    }
}

//! Who may ask at all: the checks in front of every endpoint, in this order: `Host`, `Origin`, token, content type.
//!
//! A web page can make its visitor's browser reach a loopback listener. It cannot set `Host` or `Origin`, and
//! without asking first (a preflight, which is refused here) it can neither set `Authorization` nor send a body
//! of another type than those of HTML forms. Deliberately not here: rights; there is one operator.

use super::places::{Held, Seat};
use super::problem::{self, Problem};
use super::{AdminState, Shared, console, limits};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use waspmq_transport::origin::{host_allowed, origin_allowed};

/// The address a request came from. A request without one is nobody's and is not trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

/// Paths that loopback peers read without a token. Files of the console anybody does: a browser has no token before it has them.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Those that everybody does with `admin.open_probes`: a supervisor on another machine has no token to send.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The layer around everything: checks, bounds the time, writes problems.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (response, held) = match check(&shared.state, &request).and_then(|()| hold(&shared, &request)) {
        Err(problem) => (problem.into_response(), None),
        Ok(held) => match tokio::time::timeout(limits::REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => (response, held),
            Err(_) => {
                let detail = format!("not done within {} s", limits::REQUEST_TIMEOUT.as_secs());
                (Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response(), held)
            }
        },
    };
    let response = problem::finish(response, &path).await;
    let mut response = match held {
        Some(held) => held.until_written(response),
        None => response,
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The place of a request that was let in; those to the open paths need none.
fn hold(shared: &Shared, request: &Request) -> Result<Option<Held>, Problem> {
    let path = request.uri().path();
    if OPEN_PATHS.contains(&path) || console::is_file(path) {
        return Ok(None);
    }
    let place = Arc::clone(&shared.requests).try_acquire_owned().map_err(|_| {
        Problem::overloaded(format!("{} requests are being served already", limits::REQUESTS_MAX))
    })?;
    let held = Held::new(place, request.extensions().get::<Seat>().cloned());
    held.map(Some).ok_or_else(|| Problem::overloaded("the connection makes room for another one"))
}

fn check(state: &AdminState, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = one(headers, &header::HOST)?;
    if !host_allowed(host, &state.allowed_hosts) {
        let detail = "the Host header names neither this machine's loopback nor one of admin.allowed_hosts";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden_host", detail));
    }
    // A target that names a host itself goes before the header (RFC 9112, 3.2.2), so both have to be this broker's.
    let target = request.uri().authority().map(Authority::as_str);
    if target.is_some_and(|target| !host_allowed(Some(target), &state.allowed_hosts)) {
        let detail =
            "the request's target names neither this machine's loopback nor one of admin.allowed_hosts";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden_host", detail));
    }
    if !origin_allowed(one(headers, &header::ORIGIN)?, host, &state.allowed_origins) {
        let detail = "the Origin header names neither this host nor one of admin.allowed_origins";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden_origin", detail));
    }
    if !is_open(state, request) && !state.token.is_in(headers) {
        let detail =
            "send `Authorization: Bearer <token>` with the token of admin.token or <data-dir>/admin-token";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
    }
    check_content_type(request)
}

/// Whether the request needs no token.
fn is_open(state: &AdminState, request: &Request) -> bool {
    let path = request.uri().path();
    let peer = request.extensions().get::<Peer>().copied();
    console::is_file(path)
        || (OPEN_PATHS.contains(&path) && peer.is_some_and(Peer::is_loopback))
        || (state.open_probes && PROBES.contains(&path))
}

/// The value of a header that a request may have once. What is there twice, or is not text, may be read
/// differently by a proxy in front, so it is refused.
fn one<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.to_str().is_ok() => Ok(value.to_str().ok()),
        _ => Err(Problem::bad_request("bad_request", format!("the {name} header is not one text"))),
    }
}

/// What an HTML form or a script sends without a preflight is refused whatever the endpoint.
fn check_content_type(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    one(headers, &header::CONTENT_TYPE)?;
    if !has_body(headers) || matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let given = content_type(headers);
    let simple = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    if simple.contains(&given.as_str()) {
        return Err(unsupported(
            &given,
            "what is of its own type, such as application/json or application/wasm",
        ));
    }
    Ok(())
}

pub(crate) fn has_body(headers: &HeaderMap) -> bool {
    headers.get(header::TRANSFER_ENCODING).is_some()
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// The media type in lower case without its parameters, empty when there is none.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn unsupported(given: &str, wanted: &str) -> Problem {
    let given = if given.is_empty() { "no content type" } else { given };
    let detail = format!("the body has {given}; this endpoint takes {wanted}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}
